//! The server itself: whether it answers, what it is, what a gateway does with it, its clock.

use std::time::Duration;

use super::{Finding, Note, Ok, Problem, Wanted, Warning};
use crate::doctor::facts::{Facts, Library, Right, Role};

/// A round trip above this makes everything slow.
const SLOW: Duration = Duration::from_millis(20);
/// Metrics of lateness, and ages of events, are wrong by as much.
const CLOCK_MS: i64 = 1_000;

pub(super) fn reach(facts: &Facts) -> Finding {
    let times = &facts.round_trips;
    let (Some(&best), Some(&median)) = (times.first(), times.get(times.len() / 2)) else {
        return Finding::new("reach", Ok, "it answers");
    };
    let says = format!(
        "it answers within {:.2} ms (median of {}; at best {:.2} ms)",
        median.as_secs_f64() * 1e3,
        times.len(),
        best.as_secs_f64() * 1e3
    );
    if median <= SLOW {
        return Finding::new("reach", Ok, says);
    }
    let says = format!("{says}, and each event and each read of history waits for it");
    Finding::new("reach", Warning, says).remedy(
        "run gateways nearer to Redis, or see what keeps it busy: SLOWLOG GET, LATENCY DOCTOR",
    )
}

/// Product and version, such as `Valkey 8.0.1`.
fn product(facts: &Facts) -> (String, Option<(u64, u64)>) {
    let info = &facts.info;
    let field = |name: &str| info.get(name);
    let (name, version) = if let Some(version) = field("valkey_version") {
        ("Valkey", Some(version))
    } else if let Some(version) = field("dragonfly_version") {
        ("Dragonfly", Some(version))
    } else if field("executable").is_some_and(|path| path.contains("keydb")) {
        ("KeyDB", field("redis_version"))
    } else {
        ("Redis", field("redis_version"))
    };
    let Some(version) = version else {
        return (format!("{name} of an unknown version"), None);
    };
    let mut parts = version.trim_start_matches(['d', 'f', '-', 'v']).split('.');
    let mut part = || parts.next()?.parse::<u64>().ok();
    (format!("{name} {version}"), part().zip(part()))
}

pub(super) fn version(facts: &Facts) -> Finding {
    let (product, version) = product(facts);
    let is_redis = product.starts_with("Redis");
    match version {
        None => Finding::new("version", Note, format!("the server says nothing about itself ({product}): INFO is refused, or unusual"))
            .remedy("give the user +info"),
        _ if product.starts_with("KeyDB") || product.starts_with("Dragonfly") => Finding::new("version", Warning, format!("{product}: the gateway is not tested with it"))
            .remedy("try it with your load before you rely on it, or use Redis or Valkey"),
        Some(version) if is_redis && version < (6, 2) => Finding::new("version", Problem, format!("{product} is too old"))
            .remedy("use Redis 6.2 or later; 7 and later have functions"),
        Some((6, _)) if is_redis => Finding::new("version", Note, format!("{product} has no functions, and does not count what was added to a stream: where something else than the publish function writes and trims, resumes are refused more often"))
            .remedy("use Redis 7 or Valkey when you can"),
        Some(_) => Finding::new("version", Ok, product),
    }
}

/// What a gateway chooses here.
pub(super) fn ways(facts: &Facts, wanted: &Wanted) -> Finding {
    let publish = match facts.library {
        Some(Library::Refused) => "by a script (there are no functions, or they are refused)",
        _ => "by a function",
    };
    let channels = if wanted.is_cluster {
        "shard channels"
    } else {
        "channels"
    };
    let flags = facts.setting("notify-keyspace-events");
    let announced = flags.is_some_and(protocol::keys::announces_streams);
    let may_set = wanted.set_notifications && facts.right("+config|set") == Some(Right::Allowed);
    let plain = match (announced, flags) {
        (true, _) => "is announced by notifications",
        (false, Some(_)) if may_set => "is announced by notifications as soon as a gateway runs",
        (false, Some(_)) => "is found by polling",
        (false, None) => "is announced by notifications if they are on, else found by polling",
    };
    Finding::new(
        "ways",
        Ok,
        format!("events are published {publish}, live on {channels}; plain XADD {plain}"),
    )
}

pub(super) fn clock(facts: &Facts) -> Finding {
    let ahead = facts.clock_ahead_ms;
    let direction = if ahead < 0 { "behind" } else { "ahead of" };
    let says = format!(
        "its clock is {} ms {direction} that of this machine",
        ahead.abs()
    );
    if ahead.abs() <= CLOCK_MS {
        return Finding::new("clock", Ok, says);
    }
    Finding::new(
        "clock",
        Warning,
        format!("{says}: ids of events, ages and the metrics of lateness are wrong by as much"),
    )
    .remedy("keep the clocks of both machines with NTP (chrony, systemd-timesyncd)")
}

/// Whether it is what the URL takes it for.
pub(super) fn place(role: Role, facts: &Facts, wanted: &Wanted) -> Option<Finding> {
    let (mode, actual) = (facts.mode(), facts.info.get("role"));
    let problem =
        |says: &str, remedy: &str| Some(Finding::new("role", Problem, says).remedy(remedy));
    match (mode, actual) {
        (Some("cluster"), _) if !wanted.is_cluster => problem(
            "it belongs to a Redis Cluster, and redis.url is one of a single server",
            "write redis+cluster://HOST:PORT,HOST:PORT in redis.url",
        ),
        (Some("sentinel"), _) => problem(
            "it is a sentinel, and redis.url takes it for a server",
            "write redis+sentinel://HOST:PORT/NAME in redis.url",
        ),
        (Some("standalone"), _) if wanted.is_cluster => problem(
            "it belongs to no Redis Cluster, and redis.url is one of a cluster",
            "write redis://HOST:PORT in redis.url",
        ),
        (_, Some("slave")) if role == Role::Primary => problem(
            "it is a replica, and refuses what is published",
            "let redis.url lead to the primary, or to what knows it: redis+sentinel://HOST:PORT/NAME",
        ),
        _ => None,
    }
}

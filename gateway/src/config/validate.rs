//! The rules that types cannot express: ranges, shapes, and settings that do not go together.

use std::time::Duration;

use protocol::pattern::is_pattern;

use super::retention::{check_limit, read_line};
use super::values::format_duration;
use super::{AllowedOrigin, Config, ConfigError, Network};
use crate::auth::PublishKeys;
use crate::broker::{MAX_WAIT_REPLICAS, MAX_WAIT_TIMEOUT};

mod exposure;
mod protocols;
mod tokens;

/// Classes of rooms: each is a label in several families of metrics.
const MAX_CLASSES: usize = 32;
/// Patterns of rooms with a retention of their own: each is looked at for each event that is published.
const MAX_RETENTIONS: usize = 64;

/// Checks a whole configuration. What is risky but allowed comes back as warnings, one sentence
/// each.
///
/// # Errors
///
/// The first rule that is broken.
pub fn validate(config: &Config) -> Result<Vec<String>, ConfigError> {
    names(config)?;
    addresses(config)?;
    origins(config)?;
    proxies(config)?;
    protocols::check(config)?;
    classes(config)?;
    retention(config)?;
    link(config)?;
    crate::telemetry::filter(&config.log.level)
        .map_err(|error| ConfigError::Rule(format!("log.level: {error}")))?;
    sizes(config)?;
    times(config)?;
    tokens::check(&config.tokens)?;
    exposure::check(config)
}

/// Reads the files with keys, for a start and for `check-config`. [`validate`] does not: a node that runs goes on with the old
/// keys while a file cannot be used, and so must the commands beside it, such as `healthcheck`.
///
/// # Errors
/// The first one that cannot be used. It quotes nothing of it.
pub fn check_files(config: &Config) -> Result<(), ConfigError> {
    let files = &config.publish.key_files;
    PublishKeys::read(&[], files, config.least_key_bytes()).map_err(ConfigError::Rule)?;
    tokens::check_files(&config.tokens)
}

fn rule(holds: bool, sentence: impl FnOnce() -> String) -> Result<(), ConfigError> {
    if holds {
        Ok(())
    } else {
        Err(ConfigError::Rule(sentence()))
    }
}

fn names(config: &Config) -> Result<(), ConfigError> {
    let node = &config.node;
    let letters = |c: u8| c.is_ascii_alphanumeric() || b"._-".contains(&c);
    rule(
        (1..=128).contains(&node.len()) && node.bytes().all(letters),
        || format!("node `{node}` is not 1 to 128 ASCII letters, digits and . _ -"),
    )?;
    let prefix = &config.redis.prefix;
    // Braces would move a room's keys to different slots; the rest are marks of patterns.
    let plain = |c: u8| c.is_ascii_graphic() && !b"{}*?[]\\\"'".contains(&c);
    rule(
        (1..=64).contains(&prefix.len()) && prefix.bytes().all(plain),
        || {
            format!(
                "redis.prefix `{prefix}` is not 1 to 64 printable ASCII letters without {{ }} * ? [ ] \\ and quotes"
            )
        },
    )?;
    let publish = &config.publish;
    let least = config.least_key_bytes();
    PublishKeys::read(&publish.keys, &[], least).map_err(ConfigError::Rule)?;
    let path = &config.http.path_prefix;
    let segment = |part: &str| {
        !matches!(part, "" | "." | "..")
            && part
                .bytes()
                .all(|c| c.is_ascii_alphanumeric() || b"._~-".contains(&c))
    };
    let shape = path.is_empty()
        || path
            .strip_prefix('/')
            .is_some_and(|rest| rest.split('/').all(segment));
    rule(shape, || {
        format!(
            "http.path_prefix `{path}` is not a path such as /live: a slash first, none at the end, \
             and letters, digits and . _ ~ - between"
        )
    })
}

fn addresses(config: &Config) -> Result<(), ConfigError> {
    let port = config.listen.port();
    rule(
        config.admin.listen.is_some() || port <= u16::MAX - 1000,
        || {
            format!(
                "listen has port {port}, which leaves no room for the admin port (+ 1000): set admin.listen"
            )
        },
    )?;
    rule(port == 0 || config.admin_addr() != config.listen, || {
        format!(
            "listen and admin.listen are both {}: the admin listener needs an address of its own",
            config.listen
        )
    })
}

fn origins(config: &Config) -> Result<(), ConfigError> {
    for origin in &config.http.allowed_origins {
        AllowedOrigin::read(origin).map(drop).map_err(|reason| {
            ConfigError::Rule(format!("http.allowed_origins names `{origin}`, {reason}"))
        })?;
    }
    Ok(())
}

fn proxies(config: &Config) -> Result<(), ConfigError> {
    for proxy in &config.http.trusted_proxies {
        proxy.parse::<Network>().map(drop).map_err(|error| {
            ConfigError::Rule(format!(
                "http.trusted_proxies names `{proxy}`, which is {error}"
            ))
        })?;
    }
    Ok(())
}

fn classes(config: &Config) -> Result<(), ConfigError> {
    let classes = &config.metrics.room_classes;
    rule(classes.len() <= MAX_CLASSES, || {
        format!(
            "metrics.room_classes has {} classes, more than {MAX_CLASSES}: each is a label of metrics",
            classes.len()
        )
    })?;
    let letters = |name: &str| {
        (1..=64).contains(&name.len())
            && name
                .bytes()
                .all(|c| c.is_ascii_alphanumeric() || b"._-".contains(&c))
    };
    for class in classes {
        let sound = class
            .split_once('=')
            .is_some_and(|(name, pattern)| letters(name.trim()) && is_pattern(pattern.trim()));
        rule(sound, || {
            format!(
                "metrics.room_classes has `{class}`, which is not a name (letters, digits and . _ -) and a pattern of rooms such as chat=chat:*"
            )
        })?;
    }
    Ok(())
}

fn retention(config: &Config) -> Result<(), ConfigError> {
    let retention = &config.retention;
    for (key, value) in [
        ("retention.max_age", retention.max_age),
        ("retention.expire", retention.expire),
    ] {
        check_limit(key, value).map_err(ConfigError::Rule)?;
    }
    let rooms = &retention.rooms;
    rule(rooms.len() <= MAX_RETENTIONS, || {
        format!(
            "retention.rooms has {} patterns, more than {MAX_RETENTIONS}",
            rooms.len()
        )
    })?;
    for line in rooms {
        if let Err(reason) = read_line(line) {
            return Err(ConfigError::Rule(format!(
                "retention.rooms has `{line}`, {reason}"
            )));
        }
    }
    Ok(())
}

fn link(config: &Config) -> Result<(), ConfigError> {
    let url = config.redis.url.as_str();
    if url.is_empty() {
        return Ok(());
    }
    config.redis.servers().map(drop).map_err(|error| {
        let shown = super::print::hide_password(url);
        ConfigError::Rule(format!("redis.url `{shown}` cannot be used: {error}"))
    })
}

fn sizes(config: &Config) -> Result<(), ConfigError> {
    let (stream, http, forward) = (&config.stream, &config.http, &config.forward);
    let ranges = [
        ("shards", config.shards, 0, 1024),
        ("http.max_head_bytes", http.max_head_bytes, 8192, 1 << 20),
        ("http.backlog", http.backlog as usize, 1, i32::MAX as usize),
        ("redis.pool_size", config.redis.pool_size, 1, 1024),
        ("publish.max_bytes", config.publish.max_bytes, 1, 64 << 20),
        ("forward.max_requests", forward.max_requests, 1, 1 << 16),
        ("forward.cache_entries", forward.cache_entries, 1, 1 << 24),
        ("stream.log_entries", stream.log_entries, 1, 1 << 24),
        ("stream.max_lag_bytes", stream.max_lag_bytes, 1, usize::MAX),
        ("stream.history_page", stream.history_page, 1, 10_000),
        ("stream.send_buffer", stream.send_buffer, 4096, 1 << 30),
    ];
    for (key, value, least, most) in ranges {
        rule((least..=most).contains(&value), || {
            format!("{key} is {value}, not {least} to {most}")
        })?;
    }
    let replicas = config.publish.wait_replicas;
    rule(replicas <= MAX_WAIT_REPLICAS, || {
        format!("publish.wait_replicas is {replicas}, not 0 to {MAX_WAIT_REPLICAS}")
    })?;
    rule(stream.log_bytes >= config.publish.max_bytes, || {
        format!(
            "stream.log_bytes ({}) is less than publish.max_bytes ({}): a room log must hold the largest event",
            stream.log_bytes, config.publish.max_bytes
        )
    })?;
    rule(stream.log_memory >= stream.log_bytes, || {
        format!(
            "stream.log_memory ({}) is less than stream.log_bytes ({}): it must hold the log of one room",
            stream.log_memory, stream.log_bytes
        )
    })?;
    let (shards, largest) = (config.shard_count(), config.publish.max_bytes);
    rule(stream.log_memory / shards >= largest, || {
        format!(
            "stream.log_memory ({}) is too little for {shards} shards, each of which must hold the largest event \
             (publish.max_bytes, {largest}): raise it to {} at least, or set fewer shards",
            stream.log_memory,
            largest.saturating_mul(shards)
        )
    })
}

fn times(config: &Config) -> Result<(), ConfigError> {
    let (ms, s, hour, year) = (
        Duration::from_millis(1),
        Duration::from_secs(1),
        Duration::from_secs(3_600),
        Duration::from_secs(366 * 86_400),
    );
    let (redis, stream, drain) = (&config.redis, &config.stream, &config.drain);
    let ranges = [
        (
            "http.head_timeout",
            config.http.head_timeout,
            100 * ms,
            hour,
        ),
        (
            "http.body_timeout",
            config.http.body_timeout,
            100 * ms,
            hour,
        ),
        (
            "redis.connect_timeout",
            redis.connect_timeout,
            10 * ms,
            hour,
        ),
        (
            "redis.response_timeout",
            redis.response_timeout,
            10 * ms,
            hour,
        ),
        ("redis.poll_interval", redis.poll_interval, 10 * ms, hour),
        (
            "redis.verify_interval",
            redis.verify_interval,
            100 * ms,
            hour,
        ),
        ("redis.probe_interval", redis.probe_interval, 10 * ms, hour),
        ("forward.timeout", config.forward.timeout, 10 * ms, 60 * s),
        (
            "forward.cache",
            config.forward.cache,
            Duration::ZERO,
            24 * hour,
        ),
        (
            "publish.idempotency_window",
            config.publish.idempotency_window,
            s,
            year,
        ),
        (
            "publish.wait_timeout",
            config.publish.wait_timeout,
            ms,
            MAX_WAIT_TIMEOUT,
        ),
        ("stream.heartbeat", stream.heartbeat, s, 60 * s),
        ("stream.retry", stream.retry, Duration::ZERO, hour),
        (
            "stream.retry_jitter",
            stream.retry_jitter,
            Duration::ZERO,
            hour,
        ),
        ("stream.lag_timeout", stream.lag_timeout, 100 * ms, hour),
        ("drain.grace", drain.grace, Duration::ZERO, hour),
        ("stream.max_age", stream.max_age, Duration::ZERO, year),
    ];
    for (key, value, least, most) in ranges {
        rule((least..=most).contains(&value), || {
            let [value, least, most] = [value, least, most].map(format_duration);
            format!("{key} is {value}, not {least} to {most}")
        })?;
    }
    rule(drain.delay + drain.spread <= drain.grace, || {
        format!(
            "drain.delay ({}) and drain.spread ({}) do not fit into drain.grace ({})",
            format_duration(drain.delay),
            format_duration(drain.spread),
            format_duration(drain.grace)
        )
    })
}

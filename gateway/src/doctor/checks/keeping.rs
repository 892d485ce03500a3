//! Whether the server keeps what it was given: memory, disk, replicas.

use super::{Finding, Note, Ok, Problem, Warning, hidden, is_yes, mebibytes, set, silent_about};
use crate::doctor::facts::{Facts, Role, part};

/// Above this share of `maxmemory`, in percent, publishing is about to be refused.
const NEARLY_FULL: u64 = 90;
/// Seconds that a replica may be behind.
const LAG: u64 = 10;

pub(super) fn eviction(facts: &Facts) -> Finding {
    const NAME: &str = "maxmemory-policy";
    // INFO tells it too, where CONFIG is refused.
    let policy = facts
        .setting(NAME)
        .or_else(|| facts.info.get("maxmemory_policy"));
    let Some(policy) = policy else {
        return hidden("eviction", NAME);
    };
    let evicted = facts.info.number("evicted_keys").unwrap_or(0);
    let history = if evicted > 0 {
        format!(" ({evicted} keys were evicted since the server started)")
    } else {
        String::new()
    };
    if policy == "noeviction" {
        return Finding::new(
            "eviction",
            Ok,
            "noeviction: a full server refuses to publish, and nobody loses anything",
        );
    }
    let limit = facts.info.number("maxmemory").unwrap_or(0);
    let which = if policy.starts_with("volatile") {
        "rooms have an expiry, so it deletes them"
    } else {
        "it deletes rooms"
    };
    let (level, when) = if limit > 0 {
        (
            Problem,
            "when memory is full, also rooms in use, and their clients are reset",
        )
    } else {
        (Note, "once maxmemory is set, which it is not")
    };
    let says = format!("maxmemory-policy is {policy}: {which} {when}{history}");
    Finding::new("eviction", level, says).remedy(set(NAME, "noeviction"))
}

pub(super) fn memory(facts: &Facts) -> Finding {
    let Some(used) = facts.info.number("used_memory") else {
        return silent_about("memory", "how much memory is used");
    };
    let limit = facts.info.number("maxmemory").unwrap_or(0);
    if limit == 0 {
        let says = format!(
            "{} are used without a limit: when the machine has no more, the system ends the server",
            mebibytes(used)
        );
        return Finding::new("memory", Note, says).remedy(set(
            "maxmemory",
            "BYTES, about half of the machine's memory",
        ));
    }
    let percent = used.saturating_mul(100) / limit;
    let says = format!(
        "{} of {} are used ({percent} %)",
        mebibytes(used),
        mebibytes(limit)
    );
    if percent < NEARLY_FULL {
        return Finding::new("memory", Ok, says);
    }
    let level = if percent >= 100 { Problem } else { Warning };
    Finding::new(
        "memory",
        level,
        format!("{says}: a full server refuses to publish"),
    )
    .remedy("raise maxmemory, or lower retention.max_len or retention.expire")
}

pub(super) fn persistence(facts: &Facts) -> Finding {
    let info = &facts.info;
    if is_yes(info, "loading") {
        return Finding::new(
            "persistence",
            Problem,
            "it is loading its data, and serves nobody yet",
        )
        .remedy("wait");
    }
    for (name, what) in [
        (
            "aof_last_write_status",
            "the last write to the append-only file failed",
        ),
        (
            "rdb_last_bgsave_status",
            "the last snapshot failed, and the server may refuse to publish because of it",
        ),
    ] {
        if info.get(name) == Some("err") {
            return Finding::new("persistence", Problem, what)
                .remedy("look at the server's log: is its disk full, or read-only?");
        }
    }
    if is_yes(info, "aof_enabled") {
        let sync = facts.setting("appendfsync");
        let lost = match sync {
            Some("always") => "nothing",
            Some("no") => "what the system had not written, some 30 seconds",
            _ => "the last second",
        };
        let says = format!("append-only file: a crash loses {lost}");
        let level = if sync == Some("no") { Warning } else { Ok };
        let remedy = if level == Ok {
            String::new()
        } else {
            set("appendfsync", "everysec")
        };
        return Finding::new("persistence", level, says).remedy(remedy);
    }
    let remedy = set("appendonly", "yes");
    match facts.setting("save") {
        None if info.get("aof_enabled").is_none() => hidden("persistence", "appendonly and save"),
        Some("") => Finding::new("persistence", Warning, "nothing is on disk: a restart loses all events, and clients that come back are reset").remedy(remedy),
        _ => Finding::new("persistence", Warning, "snapshots only, at most: a crash goes back by minutes, and clients that are ahead of it are reset").remedy(remedy),
    }
}

pub(super) fn replication(role: Role, facts: &Facts) -> Finding {
    let info = &facts.info;
    let is_replica =
        info.get("role") == Some("slave") || (info.get("role").is_none() && role == Role::Replica);
    if is_replica {
        return replica(facts);
    }
    let Some(count) = info.number("connected_slaves") else {
        return silent_about("replication", "what follows this server");
    };
    if count == 0 {
        return Finding::new(
            "replication",
            Note,
            "it has no replica: while it is away, nothing is published and nothing arrives",
        )
        .remedy("add a replica, and sentinels or a cluster that promote it");
    }
    let lines = (0..count.min(64)).filter_map(|number| info.get(&format!("slave{number}")));
    let late = lines.filter(|line| {
        let lag = part(line, "lag").and_then(|lag| lag.parse::<u64>().ok());
        part(line, "state") != Some("online") || lag.is_none_or(|lag| lag > LAG)
    });
    let late = late.count();
    let plural = if count == 1 { "replica" } else { "replicas" };
    if late > 0 {
        return Finding::new("replication", Warning, format!("{late} of {count} {plural} is behind by more than {LAG} s, or not in step yet: a failover loses as much"))
            .remedy("look at the replica's log and its network");
    }
    let least = facts.setting("min-replicas-to-write");
    if least == Some("0") {
        return Finding::new("replication", Note, format!("{count} {plural}; a primary that was cut off goes on taking events, which its successor does not have"))
            .remedy(format!("{} and {}", set("min-replicas-to-write", "1"), set("min-replicas-max-lag", "10")));
    }
    Finding::new("replication", Ok, format!("{count} {plural} in step"))
}

fn replica(facts: &Facts) -> Finding {
    let info = &facts.info;
    if info.get("master_link_status") != Some("up") {
        return Finding::new("replication", Problem, "the link to its primary is down: promoted now, it would lack what was published since")
            .remedy("look at its log; it needs the primary's password in masterauth, and masteruser with ACLs");
    }
    let silent = info.number("master_last_io_seconds_ago").unwrap_or(0);
    if silent > LAG {
        return Finding::new(
            "replication",
            Warning,
            format!("it has not heard of its primary for {silent} s"),
        )
        .remedy("look at the network between them");
    }
    Finding::new("replication", Ok, "it follows its primary")
}

//! What the server does with its clients: how far they may be behind, how many they may be.

use super::{Facts, Finding, Note, Ok, Problem, Wanted, Warning, mebibytes, set};

/// Bytes: below them, an ordinary burst cuts gateways off.
const LEAST_HARD: u64 = 8 << 20;
/// The same over some time.
const LEAST_SOFT: u64 = 2 << 20;
/// Seconds after which an idle connection of a gateway may be closed.
const LEAST_TIMEOUT: u64 = 60;
/// Share of `maxclients`, in percent.
const NEARLY_FULL: u64 = 80;

const BUFFER: &str = "client-output-buffer-limit";
const DEFAULT: &str = "\"pubsub 32mb 8mb 60\"";

/// How far behind a gateway may be before it is cut off.
pub(super) fn subscribers(facts: &Facts) -> Option<Finding> {
    let words: Vec<&str> = facts.setting(BUFFER)?.split_whitespace().collect();
    let limits = words.chunks_exact(4).find(|limits| limits[0] == "pubsub")?;
    let number = |at: usize| limits[at].parse::<u64>().ok();
    let (hard, soft, seconds) = (number(1)?, number(2)?, number(3)?);
    if hard == 0 {
        let says = format!(
            "{BUFFER} has no limit for subscribers: a gateway that hangs fills the server's memory"
        );
        return Some(Finding::new("buffers", Warning, says).remedy(set(BUFFER, DEFAULT)));
    }
    let says = format!(
        "a gateway that is {} behind, or {} for {seconds} s, is cut off, comes back and reads what it missed",
        mebibytes(hard),
        mebibytes(soft)
    );
    if hard < LEAST_HARD || (soft > 0 && soft < LEAST_SOFT) {
        let says = format!("{says}: bursts will do that here");
        return Some(Finding::new("buffers", Warning, says).remedy(set(BUFFER, DEFAULT)));
    }
    Some(Finding::new("buffers", Ok, says))
}

/// Dead peers, and connections that have nothing to say.
pub(super) fn keepalive(facts: &Facts) -> Option<Finding> {
    let keepalive = facts.setting("tcp-keepalive")?;
    let timeout = facts
        .setting("timeout")
        .and_then(|text| text.parse::<u64>().ok());
    if keepalive == "0" {
        let says = "tcp-keepalive is 0: the server keeps connections of gateways that have vanished, and their buffers";
        return Some(Finding::new("keepalive", Warning, says).remedy(set("tcp-keepalive", "300")));
    }
    match timeout {
        Some(seconds @ 1..LEAST_TIMEOUT) => {
            let says = format!(
                "idle connections are closed after {seconds} s, so that gateways and publishers often connect anew"
            );
            Some(Finding::new("keepalive", Note, says).remedy(set("timeout", "0")))
        }
        _ => Some(Finding::new(
            "keepalive",
            Ok,
            format!("vanished clients are noticed after {keepalive} s"),
        )),
    }
}

pub(super) fn connections(facts: &Facts, wanted: &Wanted) -> Finding {
    let open = facts.info.number("connected_clients").unwrap_or(0);
    let most = facts
        .info
        .number("maxclients")
        .or_else(|| facts.setting("maxclients")?.parse().ok());
    let each = wanted.connections;
    let Some(most) = most.filter(|&most| most > 0) else {
        return Finding::new(
            "connections",
            Ok,
            format!("{open} connections; a gateway has {each}"),
        );
    };
    let says = format!("{open} of {most} connections are open; a gateway has {each}");
    if open.saturating_mul(100) < most.saturating_mul(NEARLY_FULL) {
        return Finding::new("connections", Ok, says);
    }
    let level = if open >= most { Problem } else { Warning };
    Finding::new("connections", level, says)
        .remedy("raise maxclients and the server's limit of open files (LimitNOFILE)")
}

//! The servers together: cluster, sentinels, clocks.

use super::{Finding, Note, Ok, Problem, Wanted, Warning, clause};
use crate::doctor::facts::{Deployment, Facts, Fields, Role};

const SLOTS: u64 = 16_384;
/// Clocks of servers that stand in for each other, in milliseconds.
const CLOCKS_MS: i64 = 1_000;

/// Checks of the whole.
pub(super) fn all(deployment: &Deployment, wanted: &Wanted) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some(trouble) = &deployment.trouble {
        let says = format!(
            "the primaries of {} are not known: {}",
            deployment.name,
            clause(trouble)
        );
        findings.push(
            Finding::new("servers", Problem, says)
                .remedy("see the lines above for those that were asked"),
        );
    }
    if wanted.is_cluster {
        findings.extend(cluster(deployment));
    }
    findings.extend(clocks(deployment));
    if !deployment.sentinels.is_empty() {
        findings.push(sentinels(deployment));
    }
    findings
}

fn answering(deployment: &Deployment) -> impl Iterator<Item = (Role, &Facts)> {
    let servers = deployment.servers.iter();
    servers.filter_map(|server| Some((server.role, server.facts.as_ref().ok()?)))
}

fn cluster(deployment: &Deployment) -> Vec<Finding> {
    // Where nobody answers, other findings say so.
    let mut findings = Vec::new();
    let views = answering(deployment).map(|(_, facts)| &facts.cluster);
    let views: Vec<&Fields> = views
        .filter(|view| view.get("cluster_state").is_some())
        .collect();
    let worst = |name: &str| views.iter().filter_map(|view| view.number(name)).min();
    let failed = views
        .iter()
        .filter(|view| view.get("cluster_state") != Some("ok"))
        .count();
    let assigned = worst("cluster_slots_ok").unwrap_or(0);
    if views.is_empty() {
        return findings;
    }
    if failed > 0 || assigned < SLOTS {
        let says = format!(
            "{failed} of {} nodes say that the cluster has failed, and {} slots are not served: rooms in them are away",
            views.len(),
            SLOTS.saturating_sub(assigned)
        );
        findings.push(Finding::new("cluster", Problem, says).remedy(
            "redis-cli --cluster check HOST:PORT, then start the missing nodes or --cluster fix",
        ));
    } else {
        findings.push(Finding::new(
            "cluster",
            Ok,
            format!(
                "all {SLOTS} slots are served, as all {} nodes say",
                views.len()
            ),
        ));
    }
    let bare = deployment.servers.iter().filter(|server| {
        let replicas = server
            .facts
            .as_ref()
            .map(|facts| facts.info.number("connected_slaves").unwrap_or(0));
        server.role == Role::Primary && replicas == Result::Ok(0)
    });
    let bare: Vec<String> = bare.map(|server| server.address.to_string()).collect();
    if !bare.is_empty() {
        let says = format!(
            "{} has no replica: with it, a part of the rooms is away",
            bare.join(", ")
        );
        findings.push(
            Finding::new("cluster", Warning, says)
                .remedy("redis-cli --cluster add-node … --cluster-slave"),
        );
    }
    let whole = answering(deployment)
        .any(|(_, facts)| facts.setting("cluster-require-full-coverage") == Some("yes"));
    if whole {
        let says = "cluster-require-full-coverage is yes: one part of the slots that is away stops all rooms";
        findings.push(Finding::new("coverage", Note, says).remedy(
            "CONFIG SET cluster-require-full-coverage no on each node (and CONFIG REWRITE)",
        ));
    }
    let says =
        "in a cluster, ephemeral events go by SPUBLISH; nobody hears a PUBLISH on a room's channel";
    findings.push(Finding::new("ephemeral", Note, says));
    findings
}

/// Ids are made of the clock: behind a clock that is ahead, they would go back.
fn clocks(deployment: &Deployment) -> Option<Finding> {
    let ahead: Vec<i64> = answering(deployment)
        .map(|(_, facts)| facts.clock_ahead_ms)
        .collect();
    let apart = ahead.iter().max()? - ahead.iter().min()?;
    if ahead.len() < 2 {
        return None;
    }
    let says = format!("the clocks of the servers are {apart} ms apart");
    Some(if apart <= CLOCKS_MS {
        Finding::new("clocks", Ok, says)
    } else {
        Finding::new("clocks", Warning, format!("{says}: after a failover to one that is behind, ids go back, and events may be missed or clients reset"))
            .remedy("keep the clocks of all servers with NTP (chrony, systemd-timesyncd)")
    })
}

/// One sentinel's view.
pub(in crate::doctor) fn sentinel(view: &Fields, quorum: &Result<String, String>) -> Finding {
    let name = view.get("name").unwrap_or("the primary");
    let flags = view.get("flags").unwrap_or_default();
    if let Err(refusal) = quorum {
        return if refusal.starts_with("NOPERM") {
            Finding::new(
                "quorum",
                Note,
                format!(
                    "it knows {name}; whether its quorum is reached cannot be seen ({refusal})"
                ),
            )
            .remedy("give the sentinel user +sentinel|ckquorum")
        } else {
            Finding::new("quorum", Problem, format!("nobody would be promoted in place of {name}: {}", clause(refusal)))
                .remedy("start the missing sentinels; three of them, with a quorum of 2, survive the loss of one")
        };
    }
    if flags.contains("down") {
        return Finding::new(
            "quorum",
            Problem,
            format!("it takes {name} for down ({flags})"),
        )
        .remedy("start the primary, or wait for the failover");
    }
    let (others, replicas) = (
        view.number("num-other-sentinels").unwrap_or(0),
        view.number("num-slaves").unwrap_or(0),
    );
    let says = format!(
        "it knows {name} with {replicas} replicas and {others} other sentinels, enough to promote one"
    );
    if replicas == 0 {
        let says = format!("it knows {name}, which has no replica to promote");
        return Finding::new("quorum", Warning, says).remedy("add a replica");
    }
    Finding::new("quorum", Ok, says)
}

fn sentinels(deployment: &Deployment) -> Finding {
    let known = deployment.sentinels.len();
    let answers = deployment
        .sentinels
        .iter()
        .filter(|sentinel| sentinel.facts.is_ok());
    let views: Vec<&Fields> = answers
        .filter_map(|sentinel| Some(&sentinel.facts.as_ref().ok()?.0))
        .collect();
    let mut named: Vec<(Option<&str>, Option<&str>)> = views
        .iter()
        .map(|view| (view.get("ip"), view.get("port")))
        .collect();
    named.sort_unstable();
    named.dedup();
    if named.len() > 1 {
        return Finding::new(
            "sentinels",
            Problem,
            "the sentinels name different primaries",
        )
        .remedy("wait for the failover to end; then SENTINEL RESET NAME on those that are behind");
    }
    let says = format!(
        "{} of the {known} sentinels in redis.url answer",
        views.len()
    );
    if known < 3 {
        return Finding::new("sentinels", Note, says).remedy(
            "write all of them in redis.url: any one that answers is enough to find the primary",
        );
    }
    let level = if views.len() < known { Warning } else { Ok };
    Finding::new("sentinels", level, says)
}

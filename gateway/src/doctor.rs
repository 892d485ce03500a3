//! `sse-gateway doctor`: looks at a deployment of Redis and says in plain words what is wrong with it.
//!
//! It changes nothing: each command is one that a server answers without an effect. Facts are
//! gathered first (`facts`, `gather`, `rights`), then judged by functions without input or output (`checks`).

use std::collections::HashSet;
use std::sync::Arc;

use futures_util::future::join_all;
use protocol::servers::{Address, Kind, Layout, Locator, Servers};

use crate::config::Config;

mod checks;
mod facts;
mod gather;
mod report;
mod rights;
#[cfg(test)]
mod tests;

use facts::{Deployment, Role, Server};
pub use report::{Finding, Level, Report};

/// What the checks compare with.
#[derive(Debug, Clone)]
struct Wanted {
    /// Before every key and channel.
    prefix: String,
    /// Whether the URL is one of a cluster.
    is_cluster: bool,
    /// Events that a room keeps; 0 for no limit.
    max_len: u64,
    /// Whether rooms expire.
    expires: bool,
    /// Whether gateways may set notification flags.
    set_notifications: bool,
    /// Connections of one gateway to a server.
    connections: u64,
}

/// Examines every server of the deployment that the configuration names.
pub async fn examine(config: &Config, servers: Servers) -> Report {
    let redis = &config.redis;
    let wanted = Wanted {
        prefix: redis.prefix.clone(),
        is_cluster: servers.is_cluster(),
        max_len: config.retention.max_len,
        expires: !config.retention.expire.is_zero(),
        set_notifications: redis.set_notifications,
        connections: redis.pool_size as u64 + 2,
    };
    let patience = redis.connect_timeout;
    let servers = Arc::new(servers);
    let mut locator = Locator::new(servers.clone(), patience);
    let (sentinels, layout) = match servers.kind() {
        Kind::Sentinel { master } => {
            let asked = servers.known().iter();
            let asked = asked.map(|address| gather::sentinel(&servers, address, master, patience));
            let (sentinels, layout) = tokio::join!(join_all(asked), locator.locate());
            (sentinels, layout)
        }
        Kind::Single | Kind::Cluster => (Vec::new(), locator.locate().await),
    };
    let (members, trouble) = match layout {
        Ok(layout) => (members(&layout), None),
        // Without a layout, what the nodes themselves say is all there is.
        Err(error) if servers.is_cluster() => {
            let known = servers.known().iter().cloned();
            let known = known.map(|address| (address, Role::Unknown)).collect();
            (known, Some(error.to_string()))
        }
        Err(error) => (Vec::new(), Some(error.to_string())),
    };
    let look = |(address, role)| gather::server(&servers, &wanted, address, role, redis);
    let mut found: Vec<Server> = join_all(members.into_iter().map(look)).await;
    // A primary knows replicas that nobody else has listed yet.
    let known: HashSet<Address> = found.iter().map(|server| server.address.clone()).collect();
    let replicas: HashSet<Address> = found.iter().flat_map(Server::replicas).collect();
    let replicas = replicas.difference(&known).cloned();
    let replicas = replicas.map(|address| look((address, Role::Replica)));
    found.extend(join_all(replicas).await);
    found.sort_by_key(|server| (server.role == Role::Replica, server.address.clone()));
    let deployment = Deployment {
        name: servers.to_string(),
        servers: found,
        sentinels,
        trouble,
    };
    let mut findings = checks::all(&deployment, &wanted);
    findings.extend(exposed(config));
    Report::new(findings, deployment.is_unreachable())
}

/// What the configuration opens to whom.
fn exposed(config: &Config) -> impl Iterator<Item = Finding> {
    let all = crate::config::exposure(config).into_iter();
    all.map(|exposure| {
        let level = if exposure.is_wide {
            Level::Warning
        } else {
            Level::Note
        };
        let says = format!("{}: {}", exposure.what, exposure.who);
        let finding = Finding::new("access", level, says);
        let finding = if exposure.is_wide {
            finding.remedy("where that is not meant, say less in [access]")
        } else {
            finding
        };
        Finding {
            server: "this configuration".to_owned(),
            ..finding
        }
    })
}

fn members(layout: &Layout) -> Vec<(Address, Role)> {
    let mut members = Vec::new();
    for primary in layout.primaries() {
        members.push((primary.address.clone(), Role::Primary));
        let replicas = primary.replicas.iter().cloned();
        members.extend(replicas.map(|replica| (replica, Role::Replica)));
    }
    members
}

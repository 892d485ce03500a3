//! The commands that put load on one system: a run, a storm, a soak.

mod trend;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use crate::cli::{Gateways, LoadArgs, PublishPath, Run, Share, Storm};
use crate::load::{Load, LoadError, Setup};
use crate::payload::Payloads;
use crate::plan::{Plan, Spread};
use crate::publisher::Work;
use crate::report::model::Report;
use crate::target::{self, Publish, Request, Target};

/// Connections that one worker process holds: its descriptors less what it needs itself.
const SPARE_DESCRIPTORS: u64 = 200;
/// Connections from one address. Linux looks through half of the 28,232 ports of the default range first, and
/// every connection past that half costs a walk over all of it.
const PER_SOURCE: u64 = 10_000;

/// Why nothing was measured.
#[derive(Debug, thiserror::Error)]
pub enum ScenarioError {
    /// The command line asks for what cannot be.
    #[error("{0}")]
    Usage(String),
    /// The run could not go on.
    #[error(transparent)]
    Load(#[from] LoadError),
}

/// `sse-loadtest run`, and `soak`.
///
/// # Errors
/// The command line is bad, or the run could not take place.
pub fn run(run: &Run, scenario: &str) -> Result<Report, ScenarioError> {
    let args = &run.load;
    // Hours of samples four times a second would be too many to look at.
    let tick = (args.duration.as_millis() as u64 / 600).clamp(250, 60_000);
    let mut load = Load::start(setup(args, tick)?)?;
    load.open()?;
    load.begin(args.rate, args.duration)?;
    load.go_on(args.duration)?;
    let mut report = label(load.finish()?, args, scenario);
    if scenario == "soak" {
        report.remarks.extend(trend::sentence(&report.samples));
    }
    Ok(report)
}

/// `sse-loadtest storm`.
///
/// # Errors
/// The command line is bad, or the run could not take place.
pub fn storm(storm: &Storm) -> Result<Report, ScenarioError> {
    let args = &storm.load;
    let mut load = Load::start(setup(args, 250)?)?;
    load.open()?;
    let part = args.duration / 3;
    load.begin(args.rate, args.duration)?;
    load.go_on(part)?;
    for &pid in &storm.kill {
        load.storm(Some(pid), Duration::ZERO)?;
        load.go_on(part)?;
    }
    if !storm.no_cut {
        load.storm(None, storm.spread_over)?;
        load.go_on(part)?;
    }
    Ok(label(load.finish()?, args, "storm"))
}

fn label(mut report: Report, args: &LoadArgs, scenario: &str) -> Report {
    report.scenario = scenario.to_owned();
    report.system = match args.url.as_slice() {
        [one] => one.clone(),
        [first, others @ ..] => format!("{first} and {} more", others.len()),
        [] => String::new(),
    };
    let spread = match args.spread {
        Spread::Even => "evenly".to_owned(),
        Spread::Zipf => "as 1, 1/2, 1/3, …".to_owned(),
        Spread::Hot(share) => format!("{:.0} % in one", share * 100.0),
    };
    let mut load = vec![
        ("streams".to_owned(), args.connections.to_string()),
        (
            "rooms".to_owned(),
            format!("{}, clients {spread}", args.rooms),
        ),
        ("rate".to_owned(), format!("{} events/s", args.rate)),
        (
            "published".to_owned(),
            match publish_path(args) {
                PublishPath::Function => "by the function in Redis".to_owned(),
                PublishPath::Xadd => "by XADD".to_owned(),
                PublishPath::Http => "over HTTP".to_owned(),
            },
        ),
        (
            "data".to_owned(),
            match &args.samples {
                Some(file) => format!("lines of {}", file.display()),
                None => format!("{} bytes", args.size),
            },
        ),
    ];
    if let Some(streams) = args.http2 {
        load.push((
            "HTTP/2".to_owned(),
            format!("{streams} streams on each connection"),
        ));
    }
    if let Some(file) = &args.tokens {
        load.push(("tokens".to_owned(), format!("lines of {}", file.display())));
    }
    if let Some(churn) = args.churn {
        load.push((
            "churn".to_owned(),
            format!("{churn} clients/s, away {:?}", args.away),
        ));
    }
    for (name, share) in [("stalled", args.stalled), ("slow", args.slow)] {
        if share.of(args.connections) > 0 {
            load.push((
                name.to_owned(),
                format!("{} clients", share.of(args.connections)),
            ));
        }
    }
    report.load = load;
    report
}

fn publish_path(args: &LoadArgs) -> PublishPath {
    let usual = if args.redis.is_some() {
        PublishPath::Function
    } else {
        PublishPath::Http
    };
    args.publish.unwrap_or(usual)
}

fn setup(args: &LoadArgs, tick_ms: u64) -> Result<Setup, ScenarioError> {
    let Gateways {
        addresses,
        prefix,
        tls,
    } = args.gateways().map_err(ScenarioError::Usage)?;
    let path = format!("{prefix}/rooms/{{room}}/events");
    let redis = || {
        args.redis.clone().ok_or_else(|| {
            ScenarioError::Usage("--publish function and xadd need --redis URL".to_owned())
        })
    };
    let publish = match publish_path(args) {
        PublishPath::Function => Publish::Function { redis: redis()? },
        PublishPath::Xadd => Publish::Xadd { redis: redis()? },
        PublishPath::Http => {
            let content = ("Content-Type".to_owned(), "text/plain".to_owned());
            let mut headers = BTreeMap::from([content]);
            if let Some(key) = &args.publish_key {
                headers.insert("Authorization".to_owned(), format!("Bearer {key}"));
            }
            Publish::Http {
                request: Request {
                    method: "POST".to_owned(),
                    path: path.clone(),
                    headers,
                    body: "{data}".to_owned(),
                },
                addresses: addresses.clone(),
                tls: tls.clone(),
            }
        }
    };
    let target = Target {
        addresses,
        subscribe: subscribe(args, path)?,
        publish: publish.clone(),
        tokens: args.tokens.clone(),
        tls,
    };
    let samples = match &args.samples {
        None => None,
        Some(file) => Some(std::fs::read_to_string(file).map_err(|error| {
            ScenarioError::Usage(format!("{} cannot be read: {error}", file.display()))
        })?),
    };
    if args.rooms == 0 {
        return Err(ScenarioError::Usage(
            "at least one room is needed".to_owned(),
        ));
    }
    if args.http2.is_some() && (args.stalled, args.slow) != (Share::Count(0), Share::Count(0)) {
        return Err(ScenarioError::Usage(
            "--stalled and --slow need a connection for each client: leave --http2 out".to_owned(),
        ));
    }
    let sockets = sockets_for(args.connections, args.http2);
    let room_prefix = args.room_prefix.clone().unwrap_or_else(random_prefix);
    let plan = Plan {
        worker: 0,
        workers: args.workers.unwrap_or_else(|| workers_for(sockets)).max(1),
        sources: match args.source.as_slice() {
            [] => sources_for(sockets, &target.addresses),
            given => given.to_vec(),
        },
        target,
        room_prefix,
        rooms: args.rooms,
        connections: args.connections,
        spread: args.spread,
        connect_rate: args.connect_rate,
        connect_window: args.connect_window,
        http2: args.http2,
        stalled: args.stalled.of(args.connections),
        slow: args.slow.of(args.connections),
        slow_rate: args.slow_rate as u64,
        churn: args.churn(),
        payload: args.size,
        samples,
        tick_ms,
    };
    Ok(Setup {
        work: Work {
            publish,
            rooms: (0..plan.rooms).map(|room| plan.room(room)).collect(),
            payloads: Payloads::new(plan.payload, plan.samples.as_deref()),
            connections: args.publish_connections,
            keep: args.keep,
        },
        plan,
        pids: args.pid.clone(),
        redis: args.redis.clone(),
        open_within: args.connect_timeout,
        patience: args.patience,
        quiet: args.output.quiet,
    })
}

/// The request of a client, with its token where there are some.
fn subscribe(args: &LoadArgs, path: String) -> Result<Request, ScenarioError> {
    let mut subscribe = Request {
        method: "GET".to_owned(),
        path,
        headers: args.header.iter().cloned().collect(),
        body: String::new(),
    };
    match &args.tokens {
        Some(file) => {
            let text = std::fs::read_to_string(file).map_err(|error| {
                ScenarioError::Usage(format!("{} cannot be read: {error}", file.display()))
            })?;
            if target::tokens(&text).is_empty() {
                return Err(ScenarioError::Usage(format!(
                    "there is no token in {}",
                    file.display()
                )));
            }
            if !subscribe.has_token() {
                let bearer = ("Authorization".to_owned(), "Bearer {token}".to_owned());
                subscribe.headers.extend([bearer]);
            }
        }
        None if subscribe.has_token() => {
            return Err(ScenarioError::Usage(
                "{token} in --header needs --tokens FILE".to_owned(),
            ));
        }
        None => {}
    }
    Ok(subscribe)
}

/// A room prefix that no other run has.
#[must_use]
pub fn random_prefix() -> String {
    let word: String = std::iter::repeat_with(fastrand::lowercase)
        .take(6)
        .collect();
    format!("load-{word}-")
}

/// Connections of so many clients, where so many share one.
#[must_use]
pub fn sockets_for(clients: u64, shared: Option<u32>) -> u64 {
    clients.div_ceil(u64::from(shared.unwrap_or(1).max(1)))
}

/// Worker processes for so many connections: each has a share of the descriptors that one process may have.
#[must_use]
pub fn workers_for(connections: u64) -> u64 {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let each = limit
        .maximum
        .unwrap_or(1 << 20)
        .saturating_sub(SPARE_DESCRIPTORS)
        .max(1);
    connections.div_ceil(each)
}

/// Addresses to connect from: several where one has too few ports, and the server is on this machine.
#[must_use]
pub fn sources_for(connections: u64, to: &[SocketAddr]) -> Vec<IpAddr> {
    let local = to.iter().all(|a| a.ip().is_loopback() && a.is_ipv4());
    if !local || connections.div_ceil(to.len().max(1) as u64) <= PER_SOURCE {
        return Vec::new();
    }
    // A port that was bound on an address serves one connection, wherever it goes.
    let sources = connections.div_ceil(PER_SOURCE).min(250) as u8;
    let source = |at| Ipv4Addr::new(127, 0, 0, 2 + at).into();
    (0..sources).map(source).collect()
}

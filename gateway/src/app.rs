//! Puts the parts together: the only place that names concrete types. Listeners come first, so
//! that a used port is known before anything runs. The Redis side runs beside the shards, on a thread of
//! its own; the first shard's thread accepts clients for all.

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use prometheus::Registry;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tracing::{debug, error, info, warn};

use crate::auth::{Auth, Forward, ForwardMetrics, Tokens};
use crate::config::Config;
use crate::drain::{DrainTimes, Left, Lifecycle, Phase, ReloadSignal, StopSignals, drain};
use crate::http;
use crate::http::admin::{Admin, Gate, Readiness};
use crate::http::encoding::ChunkedEncoder;
use crate::http::listener::{self, ListenError};
use crate::http::tls::{self, Tls, TlsError};
use crate::hub::Inlets;
use crate::live::Live;
use crate::metrics::{register_readiness, register_runtimes};
use crate::notify::{notify, reloading};
use crate::reload::Reload;
use crate::trace::Traces;

mod settings;
mod shards;

use settings::{
    admin_tls, broker, broker_name, disconnects_count, follow_disconnects, gate_rules, http_config,
    hub_config, protocols, publish_rules, raise_file_limit, register, set_rates, stream_limits,
    stream_rules,
};
use shards::{Acceptor, Handed, Parts};

/// Items that a broker may be ahead of a shard.
const INLET_CAPACITY: usize = 1024;
/// Accepted sockets that may wait for a shard.
const SOCKETS_CAPACITY: usize = 256;
/// One in so many of the open files that the process may have is for its own use, and for answers to whom it
/// does not let in.
const OWN_FILES: u64 = 32;
/// Connections of operators that may wait to be accepted.
const ADMIN_BACKLOG: u32 = 64;

/// Both addresses, taken.
#[derive(Debug)]
pub struct Listeners {
    /// For clients.
    pub clients: TcpListener,
    /// For operators.
    pub admin: TcpListener,
}

impl Listeners {
    /// Takes both.
    ///
    /// # Errors
    /// One of them is not to be had.
    pub fn bind(config: &Config) -> Result<Self, ListenError> {
        Ok(Self {
            clients: listener::bind(config.listen, config.http.backlog, "--listen")?,
            admin: listener::bind(config.admin_addr(), ADMIN_BACKLOG, "--admin-listen")?,
        })
    }
}

/// Looks whether the certificates and keys that listeners show can be used.
///
/// # Errors
/// The first that cannot.
pub fn check_certificates(config: &Config) -> Result<(), TlsError> {
    protocols(config)?;
    admin_tls(config).map(drop)
}

/// Runs a node until it is told to stop. Needs a runtime; calls `started` when it serves.
///
/// # Errors
/// It cannot start, or a part of it failed that it cannot do without.
pub async fn run(
    config: Config,
    listeners: Listeners,
    mut reload: Reload,
    traces: Traces,
    started: impl FnOnce(),
) -> anyhow::Result<()> {
    let mut signals = StopSignals::listen().context("signals cannot be listened for")?;
    let mut hangup = ReloadSignal::listen().context("signals cannot be listened for")?;
    let files = raise_file_limit();
    let addresses = (
        listeners.clients.local_addr()?,
        listeners.admin.local_addr()?,
    );
    let count = config.shard_count();
    let (inlets, outlets): (Inlets, Vec<_>) =
        (0..count).map(|_| mpsc::channel(INLET_CAPACITY)).unzip();
    let registry = Registry::new();
    let broker = broker(&config, inlets, &registry, &traces)?;
    let lifecycle = Lifecycle::default();
    let (node, metrics) =
        register(&registry, &config, &lifecycle).context("metrics cannot be registered")?;

    let (fault, mut faults) = mpsc::channel(1);
    let (mut shards, mut runtimes) = (Vec::with_capacity(count), Vec::with_capacity(count));
    let http = Arc::new(http_config(&config, files)?);
    let tokens = Tokens::start(config.tokens.config(), &Handle::current(), &registry)
        .map_err(anyhow::Error::msg)?;
    set_rates(&http.rates, &config);
    follow_disconnects(&*broker, &node, disconnects_count(&config));
    let forward = ForwardMetrics::register(&registry).context("metrics cannot be registered")?;
    let forward = Forward::new(Handle::current(), forward);
    let auth = Auth::new(config.policy())
        .heeding(node.disconnects().clone())
        .forwarding(forward)
        .with_tokens(tokens)
        .counting(&registry)
        .context("metrics cannot be registered")?;
    let auth = Arc::new(auth);
    for (id, inlet) in outlets.into_iter().enumerate() {
        let parts = Parts {
            id,
            hub: hub_config(&config, count),
            encoder: ChunkedEncoder::new(
                config.node.clone(),
                config.stream.retry,
                config.stream.retry_jitter,
            ),
            http: http.clone(),
            auth: auth.clone(),
            broker: broker.clone(),
            node: node.clone(),
            metrics: metrics.clone(),
            lifecycle: lifecycle.clone(),
            traces: traces.clone(),
            fault: fault.clone(),
        };
        let started = parts.start(inlet).await;
        let (sockets, runtime) = started.with_context(|| format!("shard {id} cannot start"))?;
        shards.push(sockets);
        runtimes.push(runtime);
    }
    let readiness = Readiness {
        broker,
        lifecycle: lifecycle.clone(),
        strict: config.drain.readiness_strict,
    };
    let admin_tls = admin_tls(&config)?;
    tls::register(&registry, http.protocols.tls.as_ref(), admin_tls.as_ref())
        .context("metrics cannot be registered")?;
    register_runtimes(&registry, runtimes)
        .and_then(|()| {
            let readiness = readiness.clone();
            register_readiness(&registry, move || readiness.is_ready())
        })
        .context("metrics cannot be registered")?;
    let admin = Admin {
        readiness,
        registry,
        log: reload.log().clone(),
        gate: Gate {
            loopback: addresses.1.ip().is_loopback(),
            rules: Live::new(gate_rules(&config)),
        },
    };
    let gate = admin.gate.rules.clone();
    listener::tune(&listeners.clients, config.stream.send_buffer)
        .context("the listening socket cannot be set up")?;
    let (accepting, accepted) = (shards[0].clone(), Acceptor::new(listeners.clients, shards));
    if accepting.send(Handed::Acceptor(accepted)).await.is_err() {
        anyhow::bail!("shard 0 has ended unasked: see the log");
    }
    let patience = config.http.head_timeout;
    let operators = listener::accept(listeners.admin, |accepted| {
        if let Ok(socket) = tokio::net::TcpStream::from_std(accepted.socket) {
            tokio::spawn(operator(admin.clone(), admin_tls.clone(), patience, socket));
        }
        std::future::ready(())
    });
    let stop = async {
        let name = signals.next().await;
        info!(signal = name, "The node stops.");
        notify("STOPPING=1");
        let times = DrainTimes {
            delay: config.drain.delay,
            spread: config.drain.spread,
            grace: config.drain.grace,
        };
        let left = || Left {
            streams: node.streams(),
            connections: metrics.connections() + node.parting(),
        };
        tokio::select! {
            left = drain(&lifecycle, &times, |spread| node.drain(spread), left) => left,
            name = signals.next() => {
                warn!(signal = name, "The node stops at once.");
                left().total()
            }
        }
    };
    if config.own_machine() {
        warn!(
            "Nothing says who may do what, so this is development mode: anyone on this machine may subscribe and publish, and nobody else. dev = true says that it is meant, and lets proxies through."
        );
    }
    info!(
        version = env!("CARGO_PKG_VERSION"),
        listen = %addresses.0,
        admin = %addresses.1,
        development = config.dev_mode(),
        node = config.node,
        shards = count,
        broker = broker_name(&config),
        phase = Phase::Running.label(),
        "The node serves."
    );
    started();
    notify("READY=1");
    let reloads = async {
        loop {
            hangup.next().await;
            notify(&reloading());
            reload.again(|config| {
                auth.apply(config.policy());
                if let Some(tokens) = auth.tokens()
                    && let Err(error) = tokens.apply(config.tokens.config(), &Handle::current())
                {
                    error!(error, "The keys for tokens were not changed.");
                }
                http.publish.set(publish_rules(config));
                http.limits.set(stream_limits(config, files));
                http.own_machine.set(config.own_machine());
                node.set_rules(stream_rules(config));
                http.allowed_origins.set(config.http.origins());
                node.disconnects().remember(disconnects_count(config));
                set_rates(&http.rates, config);
                gate.set(gate_rules(config));
            });
            notify("READY=1");
        }
    };
    tokio::select! {
        () = reloads => {}
        () = auth.watch_files() => {}
        left = stop => {
            lifecycle.enter(Phase::Stopped);
            let phase = Phase::Stopped.label();
            match left {
                0 => info!(phase, "The node has stopped."),
                left => warn!(phase, left, "The node has stopped; what was left was cut off."),
            }
        }
        result = operators => result.context("operators cannot be accepted")?,
        Some(shard) = faults.recv() => anyhow::bail!("shard {shard} has ended unasked: see the log"),
    }
    Ok(())
}

/// Serves one operator.
async fn operator(
    admin: Admin,
    tls: Option<Tls>,
    patience: Duration,
    socket: tokio::net::TcpStream,
) {
    let Some(tls) = tls else {
        return http::admin::serve(admin, socket, false).await;
    };
    match tokio::time::timeout(patience, tls.accept(socket)).await {
        Ok(Ok(stream)) => {
            let certified = tls::is_certified(&stream);
            http::admin::serve(admin, stream, certified).await;
        }
        Ok(Err(error)) => debug!(%error, "The TLS handshake of an operator failed."),
        Err(_) => {}
    }
}

//! Puts the parts together: the only place that names concrete types. Listeners come first, so
//! that a used port is known before anything runs. The Redis side runs beside the shards, on a thread of
//! its own; the first shard's thread accepts clients for all.

use std::io;
use std::net::TcpListener;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use prometheus::Registry;
use tokio::runtime::{Handle, RuntimeMetrics};
use tokio::sync::{mpsc, oneshot};
use tokio::task::LocalSet;
use tracing::{debug, error, info, warn};

use crate::auth::{Auth, Forward, ForwardMetrics, Tokens};
use crate::broker::memory::{MemoryBroker, MemoryConfig};
use crate::broker::redis::{RedisBroker, RedisConfig, RedisMetrics};
use crate::broker::{Broker, Wait};
use crate::config::Config;
use crate::drain::{DrainTimes, Left, Lifecycle, Phase, ReloadSignal, StopSignals, drain};
use crate::http::admin::{Admin, Gate, GateRules, Readiness};
use crate::http::encoding::ChunkedEncoder;
use crate::http::listener::{self, Accepted, ListenError};
use crate::http::metrics::HttpMetrics;
use crate::http::tls::{self, Tls, TlsError, TlsFiles};
use crate::http::{
    self, HttpConfig, Protocols, PublishRules, Rates, Site, StreamLimits, TrustedProxies,
};
use crate::hub::{
    HubConfig, Inlets, Node, RoomClasses, Shard, ShardId, StreamRules, Supply, Times,
};
use crate::metrics::{register_hub, register_process, register_readiness, register_runtimes};
use crate::notify::{notify, reloading};
use crate::reload::{Live, Reload};
use crate::trace::Traces;

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
        .with_tokens(tokens);
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
    let admin_tls = admin_tls(&config)?;
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
            connections: metrics.connections(),
        };
        tokio::select! {
            left = drain(&lifecycle, &times, |spread| node.drain(spread), left) => left,
            name = signals.next() => {
                warn!(signal = name, "The node stops at once.");
                left().total()
            }
        }
    };
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

/// What a shard's thread is handed.
enum Handed {
    /// A client.
    Client(Accepted),
    /// The task of accepting clients.
    Acceptor(Acceptor),
}

/// Accepts clients on the first shard's thread, which spares a node with one shard every hand-over, and hands
/// them out evenly.
struct Acceptor {
    listener: TcpListener,
    shards: Vec<mpsc::Sender<Handed>>,
}

impl Acceptor {
    fn new(listener: TcpListener, shards: Vec<mpsc::Sender<Handed>>) -> Self {
        Self { listener, shards }
    }

    /// Accepts until the node closes; then the listener is closed too.
    async fn accept(self, lifecycle: Lifecycle, serve: impl Fn(Accepted)) -> io::Result<()> {
        let Self { listener, shards } = self;
        let mut turn = 0;
        let accepting = listener::accept(listener, |client| {
            turn = (turn + 1) % shards.len();
            let other = if turn == 0 {
                serve(client);
                None
            } else {
                Some((shards[turn].clone(), client))
            };
            async move {
                if let Some((shard, client)) = other {
                    // A shard that has ended ends the process.
                    let _ = shard.send(Handed::Client(client)).await;
                }
            }
        });
        tokio::select! {
            result = accepting => result,
            () = lifecycle.reached(Phase::Closing) => Ok(()),
        }
    }
}

/// What one shard's thread is made of.
struct Parts {
    id: ShardId,
    hub: HubConfig,
    encoder: ChunkedEncoder,
    http: Arc<HttpConfig>,
    auth: Arc<Auth>,
    broker: Arc<dyn Broker>,
    node: Node,
    metrics: Arc<HttpMetrics>,
    lifecycle: Lifecycle,
    traces: Traces,
    fault: mpsc::Sender<ShardId>,
}

/// Reports the end of a shard's thread, a panic included.
struct Watch(ShardId, mpsc::Sender<ShardId>);

impl Drop for Watch {
    fn drop(&mut self) {
        // Full: another shard has reported already.
        let _ = self.1.try_send(self.0);
    }
}

impl Parts {
    /// Starts the thread; returns where it takes sockets once it does, and what its runtime counts.
    async fn start(
        self,
        inlet: mpsc::Receiver<Supply>,
    ) -> io::Result<(mpsc::Sender<Handed>, RuntimeMetrics)> {
        let (sockets, queue) = mpsc::channel(SOCKETS_CAPACITY);
        let (ready, is_ready) = oneshot::channel();
        std::thread::Builder::new()
            .name(format!("shard-{}", self.id))
            .spawn(move || {
                let _watch = Watch(self.id, self.fault.clone());
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build();
                match runtime {
                    Ok(runtime) => {
                        LocalSet::new().block_on(&runtime, self.work(inlet, queue, ready))
                    }
                    Err(error) => drop(ready.send(Err(error))),
                }
            })?;
        let runtime = is_ready
            .await
            .unwrap_or_else(|_| Err(io::Error::other("its thread ended at once")))?;
        Ok((sockets, runtime))
    }

    async fn work(
        self,
        inlet: mpsc::Receiver<Supply>,
        mut queue: mpsc::Receiver<Handed>,
        ready: oneshot::Sender<io::Result<RuntimeMetrics>>,
    ) {
        let Self {
            id,
            hub,
            encoder,
            http,
            auth,
            broker,
            node,
            metrics,
            lifecycle,
            traces,
            fault,
        } = self;
        let shard = match Shard::new(id, hub, broker.clone(), Rc::new(encoder), &node) {
            Ok(shard) => shard,
            Err(error) => return drop(ready.send(Err(error))),
        };
        let site = Rc::new(Site {
            config: http,
            auth,
            broker,
            node,
            shard: shard.handle(),
            metrics,
            lifecycle: lifecycle.clone(),
            traces,
        });
        // Nobody waits any more only when the process is ending.
        let _ = ready.send(Ok(Handle::current().metrics()));
        let serve = move |client| {
            tokio::task::spawn_local(http::serve(site.clone(), client));
        };
        let sockets = async {
            while let Some(handed) = queue.recv().await {
                match handed {
                    Handed::Client(client) => serve(client),
                    Handed::Acceptor(acceptor) => {
                        let accepting = acceptor.accept(lifecycle.clone(), serve.clone());
                        let fault = fault.clone();
                        tokio::task::spawn_local(async move {
                            if let Err(error) = accepting.await {
                                error!(%error, "Clients cannot be accepted.");
                                // Full: another fault has been reported already.
                                let _ = fault.try_send(id);
                            }
                        });
                    }
                }
            }
            // The listener is closed; streams and requests go on.
            std::future::pending::<()>().await;
        };
        tokio::select! {
            result = shard.run(inlet) => match result {
                Ok(()) => debug!(shard = id, "A shard has ended: the broker is gone."),
                Err(error) => error!(shard = id, %error, "A shard has failed."),
            },
            () = sockets => {}
        }
    }
}

/// For how long a token from before a disconnect may be shown that counts otherwise.
fn disconnects_count(config: &Config) -> Duration {
    config.tokens.max_age + config.tokens.leeway
}

/// Streams are closed, and tokens refused, by what the broker tells of, for as long as it may matter (`remember`).
fn follow_disconnects(broker: &dyn Broker, node: &Node, remember: Duration) {
    node.disconnects().remember(remember);
    let node = node.clone();
    broker.follow(Arc::new(move |orders| {
        let news = node.disconnect(orders);
        if news > 0 {
            info!(orders = news, "Streams of users or rooms are disconnected.");
        }
    }));
}

fn broker(
    config: &Config,
    inlets: Inlets,
    registry: &Registry,
    traces: &Traces,
) -> anyhow::Result<Arc<dyn Broker>> {
    let (retention, publish, redis) = (&config.retention, &config.publish, &config.redis);
    if redis.url.is_empty() {
        let memory = MemoryConfig {
            retention: retention.rules(),
            idempotency_window: publish.idempotency_window,
            ..MemoryConfig::default()
        };
        return Ok(MemoryBroker::start(memory, inlets, traces.clone()));
    }
    let redis = RedisConfig {
        servers: Arc::new(redis.servers().context("redis.url cannot be used")?),
        prefix: redis.prefix.clone(),
        node: config.node.clone(),
        pool_size: redis.pool_size,
        connect_timeout: redis.connect_timeout,
        response_timeout: redis.response_timeout,
        poll_interval: redis.poll_interval,
        verify_interval: redis.verify_interval,
        probe_interval: redis.probe_interval,
        set_notifications: redis.set_notifications,
        retention: retention.rules(),
        max_bytes: publish.max_bytes,
        idempotency_window: publish.idempotency_window,
        remember: disconnects_count(config),
    };
    let metrics = RedisMetrics::register(registry).context("metrics cannot be registered")?;
    let redis = RedisBroker::start(redis, inlets, metrics, traces.clone());
    Ok(redis.context("the Redis broker cannot start")?)
}

/// For the log: where events come from, without user and password.
fn broker_name(config: &Config) -> String {
    if config.redis.url.is_empty() {
        return "memory".to_owned();
    }
    let servers = config.redis.servers();
    servers.map_or_else(|error| error.to_string(), |servers| servers.to_string())
}

fn hub_config(config: &Config, shards: usize) -> HubConfig {
    let stream = &config.stream;
    let log_memory = stream.log_memory / shards;
    HubConfig {
        heartbeat: stream.heartbeat,
        // A log that takes all of its shard's memory is all that the shard has.
        log_bytes: stream.log_bytes.min(log_memory),
        log_entries: stream.log_entries,
        log_memory,
        max_lag_bytes: stream.max_lag_bytes as u64,
        lag_timeout: stream.lag_timeout,
        history_page: stream.history_page,
        unclean_close: config.http.unclean_close,
        max_rooms: config.limits.rooms,
        max_age: stream.max_age,
        access: config.log.access,
    }
}

/// `files` is the limit of open files.
fn http_config(config: &Config, files: Option<u64>) -> Result<HttpConfig, TlsError> {
    let http = &config.http;
    Ok(HttpConfig {
        node: config.node.clone(),
        path_prefix: http.path_prefix.clone(),
        allowed_origins: Live::new(http.origins()),
        head_timeout: http.head_timeout,
        body_timeout: http.body_timeout,
        max_head_bytes: http.max_head_bytes,
        rates: Rates::default(),
        limits: Live::new(stream_limits(config, files)),
        proxies: TrustedProxies::new(http.trusted_networks()),
        protocols: protocols(config)?,
        access: config.log.access,
        demo: config.demo(),
        publish: Live::new(publish_rules(config)),
    })
}

fn protocols(config: &Config) -> Result<Protocols, TlsError> {
    let (http, tls) = (&config.http, &config.tls);
    let files = tls_files("tls", &tls.cert_file, &tls.key_file, &tls.client_ca_file);
    Ok(Protocols {
        tls: files
            .map(|files| Tls::load(files, http.http2))
            .transpose()?,
        http2: http.http2.then_some(http.http2_streams),
        proxy_header: http.proxy_protocol,
    })
}

/// Operators speak HTTP/1 only.
fn admin_tls(config: &Config) -> Result<Option<Tls>, TlsError> {
    let admin = &config.admin;
    let files = tls_files(
        "admin",
        &admin.cert_file,
        &admin.key_file,
        &admin.client_ca_file,
    );
    files.map(|files| Tls::load(files, false)).transpose()
}

fn tls_files(section: &'static str, cert: &str, key: &str, client_ca: &str) -> Option<TlsFiles> {
    (!cert.is_empty()).then(|| TlsFiles {
        section,
        cert: cert.into(),
        key: key.into(),
        client_ca: (!client_ca.is_empty()).then(|| client_ca.into()),
    })
}

fn publish_rules(config: &Config) -> PublishRules {
    let publish = &config.publish;
    PublishRules {
        max_bytes: publish.max_bytes,
        wait: Wait {
            replicas: publish.wait_replicas,
            timeout: publish.wait_timeout,
        },
    }
}

fn set_rates(rates: &Rates, config: &Config) {
    let limits = &config.limits;
    rates.set(limits.opens_per_second, limits.publishes_per_second);
}

fn gate_rules(config: &Config) -> GateRules {
    let admin = &config.admin;
    let file = &admin.token_file;
    GateRules {
        token: admin.token.clone(),
        token_file: (!file.is_empty()).then(|| file.into()),
        metrics_open: admin.metrics_open,
    }
}

fn stream_rules(config: &Config) -> StreamRules {
    StreamRules {
        per_user: config.limits.streams_per_user,
        per_room: config.limits.streams_per_room,
        leeway: config.tokens.leeway,
    }
}

/// Without a setting, as many connections as so many open files are enough for.
fn stream_limits(config: &Config, files: Option<u64>) -> StreamLimits {
    StreamLimits {
        connections: match (config.limits.streams, files) {
            (0, Some(files)) => usize::try_from(files - files / OWN_FILES).unwrap_or(usize::MAX),
            (streams, _) => streams,
        },
        per_address: config.limits.streams_per_address,
    }
}

fn register(
    registry: &Registry,
    config: &Config,
    lifecycle: &Lifecycle,
) -> prometheus::Result<(Node, Arc<HttpMetrics>)> {
    let shards = config.shard_count();
    let classes = RoomClasses::new(config.metrics.classes());
    let node = Node::new(shards, Times::register(registry)?, &classes);
    node.set_rules(stream_rules(config));
    register_process(registry, shards, lifecycle.clone())?;
    register_hub(registry, node.clone())?;
    Ok((node, Arc::new(HttpMetrics::register(registry)?)))
}

/// Every stream is a descriptor, and common soft limits are 1,024: takes all that the hard limit
/// allows, and gives what there is then; `None` is no limit.
fn raise_file_limit() -> Option<u64> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    if limit.current != limit.maximum
        && let Err(error) = setrlimit(Resource::Nofile, raised)
    {
        warn!(%error, limit = limit.current, "The limit of open files, and so of streams, could not be raised.");
    }
    getrlimit(Resource::Nofile).current
}

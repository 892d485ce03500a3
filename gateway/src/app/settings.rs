//! What each part is made with, out of the configuration.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use prometheus::Registry;
use tracing::{info, warn};

use super::OWN_FILES;
use crate::broker::memory::{MemoryBroker, MemoryConfig};
use crate::broker::redis::{RedisBroker, RedisConfig, RedisMetrics};
use crate::broker::{Broker, Wait};
use crate::config::Config;
use crate::drain::Lifecycle;
use crate::http::admin::GateRules;
use crate::http::metrics::HttpMetrics;
use crate::http::tls::{Tls, TlsError, TlsFiles};
use crate::http::{HttpConfig, Protocols, PublishRules, Rates, StreamLimits, TrustedProxies};
use crate::hub::{HubConfig, Inlets, Node, RoomClasses, StreamRules, Times};
use crate::live::Live;
use crate::metrics::{register_hub, register_process};
use crate::trace::Traces;

/// For how long a token from before a disconnect may be shown that counts otherwise.
pub(super) fn disconnects_count(config: &Config) -> Duration {
    config.tokens.max_age + config.tokens.leeway
}

/// Streams are closed, and tokens refused, by what the broker tells of, for as long as it may matter (`remember`).
pub(super) fn follow_disconnects(broker: &dyn Broker, node: &Node, remember: Duration) {
    node.disconnects().remember(remember);
    let node = node.clone();
    broker.follow(Arc::new(move |orders| {
        let news = node.disconnect(orders);
        if news > 0 {
            info!(orders = news, "Streams of users or rooms are disconnected.");
        }
    }));
}

pub(super) fn broker(
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
pub(super) fn broker_name(config: &Config) -> String {
    if config.redis.url.is_empty() {
        return "memory".to_owned();
    }
    let servers = config.redis.servers();
    servers.map_or_else(|error| error.to_string(), |servers| servers.to_string())
}

pub(super) fn hub_config(config: &Config, shards: usize) -> HubConfig {
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
pub(super) fn http_config(config: &Config, files: Option<u64>) -> Result<HttpConfig, TlsError> {
    let http = &config.http;
    Ok(HttpConfig {
        node: config.node.clone(),
        path_prefix: http.path_prefix.clone(),
        allowed_origins: Live::new(http.origins()),
        head_timeout: http.head_timeout,
        body_timeout: http.body_timeout,
        answer_timeout: config.stream.lag_timeout,
        max_head_bytes: http.max_head_bytes,
        rates: Rates::default(),
        limits: Live::new(stream_limits(config, files)),
        proxies: TrustedProxies::new(http.trusted_networks()),
        protocols: protocols(config)?,
        access: config.log.access,
        demo: config.demo(),
        own_machine: Live::new(config.own_machine()),
        publish: Live::new(publish_rules(config)),
    })
}

pub(super) fn protocols(config: &Config) -> Result<Protocols, TlsError> {
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
pub(super) fn admin_tls(config: &Config) -> Result<Option<Tls>, TlsError> {
    let admin = &config.admin;
    let files = tls_files(
        "admin",
        &admin.cert_file,
        &admin.key_file,
        &admin.client_ca_file,
    );
    files.map(|files| Tls::load(files, false)).transpose()
}

pub(super) fn tls_files(
    section: &'static str,
    cert: &str,
    key: &str,
    client_ca: &str,
) -> Option<TlsFiles> {
    (!cert.is_empty()).then(|| TlsFiles {
        section,
        cert: cert.into(),
        key: key.into(),
        client_ca: (!client_ca.is_empty()).then(|| client_ca.into()),
    })
}

pub(super) fn publish_rules(config: &Config) -> PublishRules {
    let publish = &config.publish;
    PublishRules {
        max_bytes: publish.max_bytes,
        wait: Wait {
            replicas: publish.wait_replicas,
            timeout: publish.wait_timeout,
        },
    }
}

pub(super) fn set_rates(rates: &Rates, config: &Config) {
    let limits = &config.limits;
    rates.set(
        limits.opens_per_second,
        limits.publishes_per_second,
        limits.refusals_per_second,
    );
}

pub(super) fn gate_rules(config: &Config) -> GateRules {
    let admin = &config.admin;
    let file = &admin.token_file;
    GateRules {
        token: admin.token.clone(),
        token_file: (!file.is_empty()).then(|| file.into()),
        metrics_open: admin.metrics_open,
    }
}

pub(super) fn stream_rules(config: &Config) -> StreamRules {
    StreamRules {
        per_user: config.limits.streams_per_user,
        per_room: config.limits.streams_per_room,
        leeway: config.tokens.leeway,
    }
}

/// Without a setting, as many connections as so many open files are enough for.
pub(super) fn stream_limits(config: &Config, files: Option<u64>) -> StreamLimits {
    StreamLimits {
        connections: match (config.limits.streams, files) {
            (0, Some(files)) => usize::try_from(files - files / OWN_FILES).unwrap_or(usize::MAX),
            (streams, _) => streams,
        },
        per_address: config.limits.streams_per_address,
    }
}

pub(super) fn register(
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
pub(super) fn raise_file_limit() -> Option<u64> {
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

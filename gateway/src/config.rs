//! Configuration: one struct for each subsystem. What each setting means is written in
//! `config/defaults.toml`, which is compiled in and is the lowest layer; above it lie a file, the
//! environment and flags.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use protocol::servers::{Servers, ServersConfig, ServersError};
use serde::{Deserialize, Serialize};

mod access;
mod exposure;
mod load;
mod network;
mod origins;
mod print;
mod retention;
#[cfg(test)]
mod tests;
mod validate;
mod values;

pub use access::{Access, Forward, Tls, Tokens};
pub use exposure::{Exposure, exposure};
pub use load::{Loaded, defaults, load};
pub use network::Network;
pub use origins::AllowedOrigin;
pub use print::print;
pub use retention::set_retention;
pub use validate::{check_files, validate};
pub use values::{format_duration, parse_duration};

/// The commented defaults: the documentation of every setting.
pub const DEFAULTS: &str = include_str!("config/defaults.toml");

/// Why a configuration cannot be used. Each message is one sentence; the exit code is 64.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {file}: {reason}")]
    Unreadable {
        /// Its path.
        file: String,
        /// What the system says.
        reason: String,
    },
    /// The file is not TOML.
    #[error("{file} is not valid TOML: {reason}")]
    Syntax {
        /// Its path.
        file: String,
        /// Where and what.
        reason: String,
    },
    /// The file has a key that is none of ours.
    #[error("unknown key `{key}` in {file}{hint}")]
    UnknownKey {
        /// Its path.
        file: String,
        /// With its table, such as `redis.ulr`.
        key: String,
        /// A near key to try, or nothing.
        hint: String,
    },
    /// A value has the wrong type or shape.
    #[error("{0}")]
    Value(String),
    /// Values that do not go together, or are out of range.
    #[error("{0}")]
    Rule(String),
}

/// Everything that can be set.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Name of this node; never empty once loaded.
    pub node: String,
    /// Address for clients.
    #[serde(with = "values::address")]
    pub listen: SocketAddr,
    /// Worker threads; 0 is one for each core. See [`Config::shard_count`].
    pub shards: usize,
    /// Development mode; `None` decides by the rest. See [`Config::dev_mode`].
    #[serde(with = "values::switch")]
    pub dev: Option<bool>,
    /// The operators' listener.
    pub admin: Admin,
    /// The clients' listener.
    pub http: Http,
    /// Logs.
    pub log: Log,
    /// What metrics tell apart.
    pub metrics: Metrics,
    /// The link to Redis.
    pub redis: Redis,
    /// How permission is given, by room.
    pub access: Access,
    /// Which tokens count.
    pub tokens: Tokens,
    /// The backend that is asked for permission.
    pub forward: Forward,
    /// Encryption of the clients' listener.
    pub tls: Tls,
    /// What is published.
    pub publish: Publish,
    /// What is kept of a room.
    pub retention: Retention,
    /// Open streams.
    pub stream: Stream,
    /// How much a node takes on.
    pub limits: Limits,
    /// The orderly stop.
    pub drain: Drain,
}

/// `[admin]`: metrics and health. `Debug` hides the token.
#[derive(Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Admin {
    /// Its address; see [`Config::admin_addr`].
    #[serde(with = "values::optional_address")]
    pub listen: Option<SocketAddr>,
    /// What operators show; empty for none. A secret.
    pub token: String,
    /// Holds it instead; empty for none.
    pub token_file: String,
    /// Metrics are for anyone who can reach the address.
    pub metrics_open: bool,
    /// PEM certificate with its chain; empty for no TLS.
    pub cert_file: String,
    /// Its PEM key.
    pub key_file: String,
    /// Signs the certificates of operators; empty for none.
    pub client_ca_file: String,
}

/// `[http]`: the clients' listener.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Http {
    /// Empty, or begins with a slash and does not end with one.
    pub path_prefix: String,
    /// Other origins that may use the gateway, as browsers write them.
    #[serde(deserialize_with = "values::list")]
    pub allowed_origins: Vec<String>,
    /// Addresses and networks of proxies that name their clients. See [`Http::trusted_networks`].
    #[serde(deserialize_with = "values::list")]
    pub trusted_proxies: Vec<String>,
    /// Connections from trusted proxies begin with a PROXY header.
    pub proxy_protocol: bool,
    /// Time for a whole request head.
    #[serde(with = "values::duration")]
    pub head_timeout: Duration,
    /// Time for a whole request body.
    #[serde(with = "values::duration")]
    pub body_timeout: Duration,
    /// HTTP/2 is spoken.
    pub http2: bool,
    /// Requests and streams of one HTTP/2 connection at a time.
    pub http2_streams: u32,
    /// Size of a request head.
    pub max_head_bytes: usize,
    /// End streams without the final chunk.
    pub unclean_close: bool,
    /// Connections that may wait to be accepted.
    pub backlog: u32,
    /// The demo page; `None` serves it in development mode. See [`Config::demo`].
    #[serde(with = "values::switch")]
    pub demo: Option<bool>,
}

/// `[log]`: what is logged, and how.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Log {
    /// A level or a filter.
    pub level: String,
    /// How lines look.
    pub format: LogFormat,
    /// A line for each stream that opens or ends.
    pub access: bool,
}

/// `[metrics]`: what metrics tell apart.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Metrics {
    /// Classes of rooms, as `name=pattern`. See [`Metrics::classes`].
    #[serde(deserialize_with = "values::list")]
    pub room_classes: Vec<String>,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Text on a terminal, JSON otherwise.
    Auto,
    /// For people.
    Text,
    /// For programs: one object per line.
    Json,
}

/// `[redis]`: the link to Redis. `Debug` hides the password.
#[derive(Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Redis {
    /// Empty: no Redis, the memory broker. A secret, as it may hold a password.
    pub url: String,
    /// Holds the password of the URL's user; empty for none.
    pub password_file: String,
    /// Signs the certificates of the servers; empty for the system's.
    pub ca_file: String,
    /// Certificate that is shown to the servers; empty for none.
    pub cert_file: String,
    /// Its key.
    pub key_file: String,
    /// ACL user of the sentinels; empty for none.
    pub sentinel_user: String,
    /// Password of the sentinels; empty for none. A secret.
    pub sentinel_password: String,
    /// Holds the password of the sentinels; empty for none.
    pub sentinel_password_file: String,
    /// Before every key and channel.
    pub prefix: String,
    /// Connections for commands.
    pub pool_size: usize,
    /// Time for a connection to come up.
    #[serde(with = "values::duration")]
    pub connect_timeout: Duration,
    /// Time for the answer to a command.
    #[serde(with = "values::duration")]
    pub response_timeout: Duration,
    /// Pause between looks at the streams where there are no notifications.
    #[serde(with = "values::duration")]
    pub poll_interval: Duration,
    /// Time in which every active room is verified once.
    #[serde(with = "values::duration")]
    pub verify_interval: Duration,
    /// Pause between probe messages.
    #[serde(with = "values::duration")]
    pub probe_interval: Duration,
    /// May the gateway turn keyspace notifications on?
    pub set_notifications: bool,
}

/// `[publish]`: what is published, and with which keys over HTTP. `Debug` hides the keys.
#[derive(Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Publish {
    /// Keys that may publish, as `KEY`, `KEY pattern...` or `sha256:HEX pattern...`. Secrets.
    #[serde(deserialize_with = "values::key_list")]
    pub keys: Vec<String>,
    /// Files with such lines.
    #[serde(deserialize_with = "values::list")]
    pub key_files: Vec<String>,
    /// Largest data of an event.
    pub max_bytes: usize,
    /// How long a repeat is known as one.
    #[serde(with = "values::duration")]
    pub idempotency_window: Duration,
    /// Replicas that an event is answered after; 0 waits for none.
    pub wait_replicas: u64,
    /// Time after which it is answered all the same.
    #[serde(with = "values::duration")]
    pub wait_timeout: Duration,
}

/// `[retention]`: what is kept of a room. Zero is no limit.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Retention {
    /// Events, about.
    pub max_len: u64,
    /// Age of an event.
    #[serde(with = "values::duration")]
    pub max_age: Duration,
    /// Idle time of a room.
    #[serde(with = "values::duration")]
    pub expire: Duration,
    /// Patterns of rooms with limits of their own. See [`Retention::rules`].
    #[serde(deserialize_with = "values::list")]
    pub rooms: Vec<String>,
}

/// `[stream]`: open streams.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Stream {
    /// Silence after which a comment is sent.
    #[serde(with = "values::duration")]
    pub heartbeat: Duration,
    /// Least delay before a client comes back.
    #[serde(with = "values::duration")]
    pub retry: Duration,
    /// Drawn for each connection and added to `retry`.
    #[serde(with = "values::duration")]
    pub retry_jitter: Duration,
    /// Bytes of a room log.
    pub log_bytes: usize,
    /// Events of a room log.
    pub log_entries: usize,
    /// Bytes of all room logs of the node.
    pub log_memory: usize,
    /// Time without progress after which a subscriber is closed.
    #[serde(with = "values::duration")]
    pub lag_timeout: Duration,
    /// Bytes behind after which a subscriber is closed.
    pub max_lag_bytes: usize,
    /// Events per read of a stream.
    pub history_page: usize,
    /// `SO_SNDBUF` of a stream's socket.
    pub send_buffer: usize,
    /// Age at which a stream is closed, so that its client comes back elsewhere; zero for never.
    #[serde(with = "values::duration")]
    pub max_age: Duration,
}

/// `[limits]`: how much a node takes on.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Connections, streams and others; 0 is what the limit of open files allows.
    pub streams: usize,
    /// Streams of one client address; 0 for no limit.
    pub streams_per_address: usize,
    /// Streams of one user; 0 for no limit.
    pub streams_per_user: usize,
    /// Streams of one room; 0 for no limit.
    pub streams_per_room: usize,
    /// Streams that one client address opens in a second; 0 for no limit.
    pub opens_per_second: u32,
    /// Events that one publisher publishes over HTTP in a second; 0 for no limit.
    pub publishes_per_second: u32,
    /// Times that the same request of one client is refused in a second; 0 for no limit.
    pub refusals_per_second: u32,
    /// Rooms of each shard; 0 for no limit.
    pub rooms: usize,
}

/// `[drain]`: the orderly stop.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Drain {
    /// Unready for this long before anything closes.
    #[serde(with = "values::duration")]
    pub delay: Duration,
    /// Streams are closed over this time.
    #[serde(with = "values::duration")]
    pub spread: Duration,
    /// The limit over all of it.
    #[serde(with = "values::duration")]
    pub grace: Duration,
    /// Unready whenever Redis is away, not only before it was reached.
    pub readiness_strict: bool,
}

impl Config {
    /// Whether anyone may subscribe and publish. Which broker is used is another
    /// question: that depends on `redis.url` alone.
    #[must_use]
    pub fn dev_mode(&self) -> bool {
        self.dev.unwrap_or_else(|| {
            self.redis.url.is_empty()
                && self.listen.ip().is_loopback()
                && !self.publish.has_keys()
                && !self.says_who_may_subscribe()
        })
    }

    /// Whether development mode came by itself, and no proxy is named: then it is for this machine alone.
    #[must_use]
    pub fn own_machine(&self) -> bool {
        self.dev.is_none() && self.dev_mode() && self.http.trusted_proxies.is_empty()
    }

    /// Whether the demo page is served.
    #[must_use]
    pub fn demo(&self) -> bool {
        self.http.demo.unwrap_or_else(|| self.dev_mode())
    }

    /// Where metrics and health are served: as set, or this machine's own address of the same family as the clients', with port +
    /// 1000. Port 0 stays 0: any free port.
    #[must_use]
    pub fn admin_addr(&self) -> SocketAddr {
        self.admin.listen.unwrap_or_else(|| {
            let port = match self.listen.port() {
                0 => 0,
                // Validation refuses ports without room above them.
                port => port.saturating_add(1000),
            };
            let ip = match self.listen {
                SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
                SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
            };
            SocketAddr::new(ip, port)
        })
    }

    /// How many worker threads to start: at least one.
    #[must_use]
    pub fn shard_count(&self) -> usize {
        match self.shards {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            shards => shards,
        }
    }
}

impl Publish {
    /// Whether any key is named.
    #[must_use]
    pub fn has_keys(&self) -> bool {
        !(self.keys.is_empty() && self.key_files.is_empty())
    }
}

impl Redis {
    /// Where Redis is; for a URL that is not empty.
    ///
    /// # Errors
    /// It cannot be understood; the message holds no secret.
    pub fn servers(&self) -> Result<Servers, ServersError> {
        let text = |text: &String| (!text.is_empty()).then(|| text.clone());
        let file = |name: &String| text(name).map(PathBuf::from);
        Servers::new(&ServersConfig {
            url: self.url.clone(),
            password_file: file(&self.password_file),
            ca_file: file(&self.ca_file),
            cert_file: file(&self.cert_file),
            key_file: file(&self.key_file),
            sentinel_user: text(&self.sentinel_user),
            sentinel_password: text(&self.sentinel_password),
            sentinel_password_file: file(&self.sentinel_password_file),
        })
    }
}

impl Http {
    /// Whose pages may use the gateway. Validation has refused what is no origin.
    #[must_use]
    pub fn origins(&self) -> Vec<AllowedOrigin> {
        let lines = self.allowed_origins.iter();
        lines
            .filter_map(|line| AllowedOrigin::read(line).ok())
            .collect()
    }

    /// The proxies that name their clients. Validation has refused what is no network.
    #[must_use]
    pub fn trusted_networks(&self) -> Vec<Network> {
        let proxies = self.trusted_proxies.iter();
        proxies.filter_map(|proxy| proxy.parse().ok()).collect()
    }
}

impl Metrics {
    /// Names and patterns of the classes of rooms. Validation has refused what is none.
    pub fn classes(&self) -> impl Iterator<Item = (String, String)> + use<'_> {
        let pairs = self.room_classes.iter();
        pairs.filter_map(|class| {
            let (name, pattern) = class.split_once('=')?;
            Some((name.trim().to_owned(), pattern.trim().to_owned()))
        })
    }
}

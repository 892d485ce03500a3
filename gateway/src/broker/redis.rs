//! The Redis broker.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use futures_util::future::BoxFuture;
use protocol::RoomName;

use super::{Broker, BrokerError, BrokerStatus, NewEvent, Published, RoomInfo};
use crate::hub::{History, HistoryError, HistoryQuery, Inlets, ShardId, Upstream};

/// How to reach and use Redis.
#[derive(Debug, Clone)]
pub struct RedisConfig {
    /// `redis://user:password@host:port/db`, or `redis+unix:///path`.
    pub url: String,
    /// Goes before every key and channel.
    pub prefix: String,
    /// This node's name; unique among the nodes of one Redis.
    pub node: String,
    /// Connections for commands.
    pub pool_size: usize,
    /// To connect and log in.
    pub connect_timeout: Duration,
    /// For a batch of commands.
    pub response_timeout: Duration,
    /// Between looks at active rooms where keyspace notifications are refused.
    pub poll_interval: Duration,
    /// Between verifications of a room.
    pub verify_interval: Duration,
    /// Between probes.
    pub probe_interval: Duration,
    /// Whether to turn keyspace notifications on.
    pub set_notifications: bool,
    /// What a publish keeps.
    pub retention: Retention,
    /// The most bytes of an event's data.
    pub max_bytes: usize,
    /// How long an idempotency key is remembered.
    pub idempotency_window: Duration,
}

/// How much of a room is kept.
#[derive(Debug, Clone, Copy)]
pub struct Retention {
    /// Entries; 0 for no limit.
    pub max_len: u64,
    /// Age of an entry; zero for no limit.
    pub max_age: Duration,
    /// Idleness after which a room's key goes; zero for never.
    pub expire: Duration,
}

/// Counters of the broker.
#[derive(Debug, Default)]
pub struct RedisMetrics {
    /// Events that came whole on the channel, from the publish function.
    pub events_function: AtomicU64,
}

/// Redis behind [`Broker`].
#[derive(Debug)]
pub struct RedisBroker {
    metrics: Arc<RedisMetrics>,
}

impl RedisBroker {
    /// Starts the broker's thread.
    ///
    /// # Errors
    /// The URL is not one, or the thread cannot be started.
    pub fn start(config: RedisConfig, inlets: Inlets) -> anyhow::Result<Arc<Self>> {
        drop((config, inlets));
        Ok(Arc::new(Self { metrics: Arc::default() }))
    }

    /// Its counters.
    #[must_use]
    pub fn metrics(&self) -> &Arc<RedisMetrics> {
        &self.metrics
    }
}

impl Upstream for RedisBroker {
    fn subscribe(&self, _shard: ShardId, _room: &RoomName) {}

    fn unsubscribe(&self, _shard: ShardId, _room: &RoomName) {}

    fn history(&self, _room: RoomName, _query: HistoryQuery) -> BoxFuture<'static, Result<Arc<History>, HistoryError>> {
        Box::pin(async { Err(HistoryError::Away("not connected".into())) })
    }
}

impl Broker for RedisBroker {
    fn publish(&self, _room: RoomName, _event: NewEvent) -> BoxFuture<'static, Result<Published, BrokerError>> {
        Box::pin(async { Err(BrokerError::Away("not connected".into())) })
    }

    fn room_info(&self, _room: RoomName) -> BoxFuture<'static, Result<RoomInfo, BrokerError>> {
        Box::pin(async { Err(BrokerError::Away("not connected".into())) })
    }

    fn status(&self) -> BrokerStatus {
        BrokerStatus::default()
    }
}

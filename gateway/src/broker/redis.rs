//! The Redis broker: one thread beside the shards that holds the subscriptions, keeps every room
//! in order and carries the commands.
//!
//! `driver` is that thread's loop; `link` is a connection with subscriptions, one to each primary that
//! has rooms of this node, and `resp` its parser; `commands` carries everything else over small
//! pools; `topology` knows which server is the primary of what; `reads`, `publish` and `library`
//! say which commands. Order and continuity are decided in
//! [`super::sequencer`].

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use futures_util::future::BoxFuture;
use protocol::keys::slot;
use protocol::servers::Servers;
use protocol::{EventError, EventId, Keys, RoomName};
use redis::Value;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use self::commands::{Commands, To};
use self::flights::Flights;
use self::reads::{Info, ReadError};
use self::skips::Skips;
use self::status::Status;
use self::topology::Topology;
use super::{
    Broker, BrokerError, BrokerStatus, Follower, NewEvent, Published, RetentionRules, RoomInfo,
};
use crate::hub::{History, HistoryError, HistoryQuery, Inlets, ShardId, Upstream, Whom};
use crate::trace::Traces;

mod commands;
mod disconnects;
mod driver;
mod flights;
mod identity;
mod library;
mod link;
mod metrics;
mod publish;
mod reads;
mod resp;
mod rooms;
mod skips;
mod status;
mod topology;
mod upkeep;

use metrics::Purpose;
pub use metrics::RedisMetrics;

/// How to reach and use Redis.
#[derive(Debug, Clone)]
pub struct RedisConfig {
    /// Where Redis is, and how to log in.
    pub servers: Arc<Servers>,
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
    pub retention: RetentionRules,
    /// The most bytes of an event's data.
    pub max_bytes: usize,
    /// How long an idempotency key is remembered.
    pub idempotency_window: Duration,
    /// How long a disconnect matters.
    pub remember: Duration,
}

/// What the driver and the callers share.
#[derive(Debug)]
struct Shared {
    config: RedisConfig,
    keys: Keys,
    topology: Arc<Topology>,
    commands: Commands,
    metrics: Arc<RedisMetrics>,
    traces: Traces,
    skips: Skips,
    status: Status,
    /// A server has refused to have its notification flags set.
    refuses_flags: AtomicBool,
}

impl Shared {
    /// Channels are shard channels.
    fn is_sharded(&self) -> bool {
        self.config.servers.is_cluster()
    }

    /// What reaches subscribers of a room's channel.
    fn publish_command(&self) -> &'static str {
        if self.is_sharded() {
            "SPUBLISH"
        } else {
            "PUBLISH"
        }
    }

    /// The primary of a key.
    fn at(&self, key: &str) -> To {
        To::Slot(if self.is_sharded() {
            slot(key.as_bytes())
        } else {
            0
        })
    }

    /// Counts a stored entry that cannot be delivered, once however often it is read.
    fn skipped(&self, room: &RoomName, id: EventId, error: &EventError) {
        self.skips.entry(room, id, error, &self.metrics);
    }
}

/// Redis behind [`Broker`]. The thread ends when the last handle is dropped.
#[derive(Debug)]
pub struct RedisBroker {
    shared: Arc<Shared>,
    flights: Flights,
    requests: mpsc::UnboundedSender<Request>,
    runtime: Handle,
}

/// What shards ask of the driver.
#[derive(Debug)]
enum Request {
    Subscribe(ShardId, RoomName),
    Unsubscribe(ShardId, RoomName),
}

impl RedisBroker {
    /// Starts the broker's thread. Redis need not be there: the thread keeps trying.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start(
        config: RedisConfig,
        inlets: Inlets,
        metrics: RedisMetrics,
        traces: Traces,
    ) -> anyhow::Result<Arc<Self>> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let metrics = Arc::new(metrics);
        let (found, layouts) = mpsc::unbounded_channel();
        let topology = Arc::new(Topology::new(config.servers.clone(), found));
        let commands = Commands::new(
            config.clone(),
            topology.clone(),
            runtime.handle().clone(),
            metrics.clone(),
            traces.clone(),
        );
        let shared = Arc::new(Shared {
            keys: Keys::new(&config.prefix),
            topology,
            commands,
            metrics,
            traces,
            skips: Skips::default(),
            status: Status::default(),
            refuses_flags: AtomicBool::new(false),
            config,
        });
        let (requests, inbox) = mpsc::unbounded_channel();
        let for_thread = shared.clone();
        let handle = runtime.handle().clone();
        let run = async move {
            let (topology, patience) = (
                for_thread.topology.clone(),
                for_thread.config.connect_timeout,
            );
            tokio::spawn(topology.watch(patience));
            driver::Driver::new(for_thread, inlets)
                .run(inbox, layouts)
                .await;
        };
        std::thread::Builder::new()
            .name("redis".into())
            .spawn(move || runtime.block_on(run))?;
        Ok(Arc::new(Self {
            shared,
            flights: Flights::default(),
            requests,
            runtime: handle,
        }))
    }
}

impl Upstream for RedisBroker {
    fn subscribe(&self, shard: ShardId, room: &RoomName) {
        let _ = self.requests.send(Request::Subscribe(shard, room.clone()));
    }

    fn unsubscribe(&self, shard: ShardId, room: &RoomName) {
        let _ = self
            .requests
            .send(Request::Unsubscribe(shard, room.clone()));
    }

    fn history(
        &self,
        room: RoomName,
        query: HistoryQuery,
    ) -> BoxFuture<'static, Result<Arc<History>, HistoryError>> {
        let shared = self.shared.clone();
        let key = (room.clone(), query);
        let read = async move {
            match reads::history(&shared, &room, query).await {
                Ok(history) => Ok(Arc::new(history)),
                Err(ReadError::Away(reason)) => Err(HistoryError::Away(reason)),
                Err(ReadError::WrongType) => Err(HistoryError::WrongType),
            }
        };
        self.flights.share(key, read)
    }
}

impl Broker for RedisBroker {
    fn publish(
        &self,
        room: RoomName,
        event: NewEvent,
    ) -> BoxFuture<'static, Result<Published, BrokerError>> {
        let shared = self.shared.clone();
        Box::pin(async move { publish::publish(&shared, &room, &event).await })
    }

    fn disconnect(&self, whom: Whom) -> BoxFuture<'static, Result<EventId, BrokerError>> {
        let shared = self.shared.clone();
        Box::pin(async move { disconnects::disconnect(&shared, &whom).await })
    }

    fn follow(&self, follower: Follower) {
        let following = disconnects::follow(self.shared.clone(), follower);
        self.runtime.spawn(following);
    }

    fn room_info(&self, room: RoomName) -> BoxFuture<'static, Result<RoomInfo, BrokerError>> {
        let shared = self.shared.clone();
        Box::pin(async move { room_info(&shared, &room).await })
    }

    fn status(&self) -> BrokerStatus {
        self.shared.status.report()
    }
}

async fn room_info(shared: &Shared, room: &RoomName) -> Result<RoomInfo, BrokerError> {
    let key = shared.keys.room(room);
    let mut info = redis::cmd("XINFO");
    info.arg("STREAM").arg(&key);
    let mut subscribed = redis::cmd("PUBSUB");
    let numsub = if shared.is_sharded() {
        "SHARDNUMSUB"
    } else {
        "NUMSUB"
    };
    subscribed.arg(numsub).arg(&key);
    let mut answers = shared
        .commands
        .run(
            &shared.at(&key),
            Purpose::Info,
            vec![info, subscribed],
            true,
        )
        .await?
        .into_iter();
    let found = match answers.next().unwrap_or(Value::Nil) {
        Value::ServerError(error) if error.details() == Some("no such key") => None,
        value => Info::parse(&commands::check(value)?),
    };
    let nodes = match answers.next() {
        Some(Value::Array(pair)) => match pair.get(1) {
            Some(Value::Int(nodes)) => u64::try_from(*nodes).unwrap_or(0),
            _ => 0,
        },
        _ => 0,
    };
    Ok(RoomInfo {
        nodes,
        length: found.as_ref().map_or(0, |info| info.length),
        last_id: found.as_ref().map(|info| info.last_id),
        oldest_id: found.as_ref().and_then(|info| info.oldest),
        skipped: shared.skips.of(room),
        retention: shared.config.retention.of(room),
    })
}

//! Brokers: where events come from and go to. One trait, a file (or folder) each.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use protocol::{EventId, RoomName, TraceParent};

use crate::hub::{Disconnect, Upstream, Whom};

pub mod memory;
pub mod redis;
pub mod retention;
pub mod sequencer;

pub use retention::{Retention, RetentionChange, RetentionRules};

/// An event to publish; checked by the caller with `protocol::event::check`.
#[derive(Debug, Clone, Default)]
pub struct NewEvent {
    /// Empty for an unnamed event.
    pub name: Bytes,
    /// UTF-8.
    pub data: Bytes,
    /// A repeat within the broker's window returns the first id and stores nothing.
    pub idempotency_key: Option<String>,
    /// Deliver now, store nothing, give no id.
    pub ephemeral: bool,
    /// W3C trace context, kept with the event as an extension field.
    pub trace: Option<TraceParent>,
    /// Where the room is kept differently from what is configured; in force until the next publish.
    pub retention: RetentionChange,
    /// Whether to wait for replicas. Not for an ephemeral event.
    pub wait: Option<Wait>,
}

/// To answer a publish only once it has reached so many replicas, or the time is over.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Wait {
    /// At most [`MAX_WAIT_REPLICAS`].
    pub replicas: u64,
    /// 1 ms to [`MAX_WAIT_TIMEOUT`].
    pub timeout: Duration,
}

/// The most replicas that a publish may wait for.
pub const MAX_WAIT_REPLICAS: u64 = 16;
/// The longest that a publish may wait for them.
pub const MAX_WAIT_TIMEOUT: Duration = Duration::from_secs(10);

/// What became of a publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// `None` for an ephemeral event.
    pub id: Option<EventId>,
    /// The idempotency key was seen before; `id` is the first one's.
    pub repeat: bool,
    /// Where replicas were waited for: how many have the event, or one clause that says why nobody knows. It is
    /// stored in any case.
    pub replicas: Option<Result<u64, String>>,
}

/// Whose fault a failed publish or read is, and whether to retry.
#[derive(Debug, Clone, thiserror::Error)]
pub enum BrokerError {
    /// The broker does not answer: retry later, with the same idempotency key.
    #[error("the broker cannot serve now: {0}")]
    Away(String),
    /// The event or the room is at fault: do not retry.
    #[error("{0}")]
    Refused(String),
    /// The key holds something that is not a stream.
    #[error("the key of this room holds another type, not a stream: rename or delete it")]
    WrongType,
}

/// What the broker knows of one room.
#[derive(Debug, Clone, Default)]
pub struct RoomInfo {
    /// Nodes subscribed to the room's channel.
    pub nodes: u64,
    /// Entries kept.
    pub length: u64,
    /// Last generated id.
    pub last_id: Option<EventId>,
    /// Oldest kept id.
    pub oldest_id: Option<EventId>,
    /// Entries that this node skipped in this room, by reason (since it subscribed).
    pub skipped: Vec<(String, u64)>,
    /// What is kept of it.
    pub retention: Retention,
}

/// Whether the broker works, for readiness.
#[derive(Debug, Clone, Default)]
pub struct BrokerStatus {
    /// Events flow now.
    pub live: bool,
    /// Events flowed at least once since the start.
    pub was_live: bool,
    /// One sentence each: what is wrong or degraded now.
    pub reasons: Vec<String>,
    /// One sentence for each server: what it is, and what was chosen because of it.
    pub servers: Vec<String>,
}

/// Is told of disconnects. Must not block.
pub type Follower = Arc<dyn Fn(Vec<Disconnect>) + Send + Sync>;

/// A broker: everything the gateway needs behind one trait. Subscribing and history come with
/// [`Upstream`].
pub trait Broker: Upstream {
    /// Stores and delivers, or delivers only.
    fn publish(
        &self,
        room: RoomName,
        event: NewEvent,
    ) -> BoxFuture<'static, Result<Published, BrokerError>>;
    /// Has every node close the streams of a user or a room; gives the id of the order.
    fn disconnect(&self, whom: Whom) -> BoxFuture<'static, Result<EventId, BrokerError>>;
    /// Tells `follower` of every disconnect from now on, and of those before that may still matter; some more than once.
    fn follow(&self, follower: Follower);
    /// What is known of a room.
    fn room_info(&self, room: RoomName) -> BoxFuture<'static, Result<RoomInfo, BrokerError>>;
    /// For readiness; cheap, from memory.
    fn status(&self) -> BrokerStatus;
}

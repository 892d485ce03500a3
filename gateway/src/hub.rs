//! The rooms and subscribers of one node, and what they need from outside. Knows neither a broker
//! nor HTTP: a broker feeds it ordered [`Item`]s, HTTP hands it sockets.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use protocol::{Event, EventId, RoomName};
use tokio::sync::mpsc;

/// Which worker thread of this node, from 0.
pub type ShardId = usize;

/// One step of a room, in stream order. The broker has already proved continuity: a shard appends
/// what it gets.
#[derive(Debug, Clone)]
pub enum Item {
    /// A stored event (`id` is set) or an ephemeral one (`id` is `None`).
    Event(Event),
    /// A stored entry that cannot be delivered; positions move past it.
    Skipped(EventId),
}

/// Why continuity could not be proved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResetReason {
    /// The position is older than the oldest kept event.
    Trimmed,
    /// No such event, and no later one that names it as the previous one.
    Unknown,
    /// Later than the last event of the stream.
    Future,
    /// Not an event id.
    Malformed,
    /// The room's history was deleted, flushed or expired.
    Deleted,
    /// Ids went back: the stream continues from an older copy.
    Fork,
}

/// A `stream.reset` for everyone who is in a room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reset {
    /// Why.
    pub reason: ResetReason,
    /// Events after this id may be gone...
    pub after: EventId,
    /// ...up to and including this one; the subscriber goes on from here.
    pub resume: EventId,
}

/// What a broker sends to a shard. Per room, the order of arrival is the order of the room.
#[derive(Debug)]
pub enum Supply {
    /// The link to the broker came up (`true`) or went away (`false`). Sent to every shard.
    Live(bool),
    /// Answer to `subscribe`: live from here on, everything after `head` will follow.
    Joined {
        /// The room.
        room: RoomName,
        /// The stream's last generated id, `0-0` where there is no stream.
        head: EventId,
    },
    /// Next items of a room, ascending.
    Append {
        /// The room.
        room: RoomName,
        /// In order.
        items: Vec<Item>,
    },
    /// Continuity of the live room broke: drop the room log, tell everyone.
    Reset {
        /// The room.
        room: RoomName,
        /// What to tell.
        reset: Reset,
    },
}

/// What to read of a room's history.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HistoryQuery {
    /// The newest `limit` entries.
    Newest {
        /// How many entries at most.
        limit: usize,
    },
    /// The first `limit` entries after a position.
    After {
        /// Exclusive. `0-0`: from the oldest kept.
        after: EventId,
        /// How many entries at most.
        limit: usize,
    },
}

/// A part of a stream, and the facts needed to judge a position.
#[derive(Debug, Clone, Default)]
pub struct History {
    /// Ascending. `Event`s have ids.
    pub items: Vec<Item>,
    /// For `After`: whether the entry `after` itself is in the stream.
    pub anchor_found: bool,
    /// The stream's last generated id; `0-0` where there is no stream.
    pub last_id: EventId,
    /// The oldest kept entry's id; `None` for an empty stream.
    pub oldest: Option<EventId>,
    /// Whether nothing before `oldest` was ever stored (so `0-0` is a proved position).
    pub from_start: bool,
    /// `Newest`: entries older than `items` exist. `After`: entries newer than `items` exist.
    pub more: bool,
}

impl Item {
    /// The stream id, where there is one.
    #[must_use]
    pub fn id(&self) -> Option<EventId> {
        match self {
            Self::Event(event) => event.id,
            Self::Skipped(id) => Some(*id),
        }
    }

    /// The previous id that the entry names.
    #[must_use]
    pub fn prev(&self) -> Option<EventId> {
        match self {
            Self::Event(event) => event.prev,
            Self::Skipped(_) => None,
        }
    }
}

/// What a hub needs from outside. Calls never block; `subscribe` is answered by
/// [`Supply::Joined`] on the shard's channel, at once or whenever the broker can.
pub trait Upstream: Send + Sync + 'static {
    /// This shard has a first subscriber in `room`.
    fn subscribe(&self, shard: ShardId, room: &RoomName);
    /// This shard has no subscriber in `room` any more.
    fn unsubscribe(&self, shard: ShardId, room: &RoomName);
    /// Reads history. Equal queries that are under way at the same time share one read.
    fn history(&self, room: RoomName, query: HistoryQuery) -> BoxFuture<'static, Result<Arc<History>, HistoryError>>;
}

/// Why history could not be read.
#[derive(Debug, Clone, thiserror::Error)]
pub enum HistoryError {
    /// The broker does not answer now: try again later.
    #[error("the broker is away: {0}")]
    Away(String),
    /// The key holds something that is not a stream.
    #[error("the key of this room holds another type, not a stream: rename or delete it")]
    WrongType,
}

/// The broker's ends of the channels to the shards, one per shard. Bounded: a broker that finds
/// one full waits, and so stops reading from Redis.
pub type Inlets = Vec<mpsc::Sender<Supply>>;

//! The rooms and subscribers of one node, and what they need from outside. Knows neither a broker
//! nor HTTP: a broker feeds it ordered [`Item`]s, HTTP hands it sockets.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use opentelemetry::Context;
use protocol::{Event, EventId, ForkId, LastEventId, RoomName};
use tokio::sync::mpsc;

use crate::trace::FanOut;

mod access;
mod catchup;
mod classes;
mod disconnects;
mod heartbeat;
mod leaving;
mod log;
mod mark;
mod node;
mod opening;
mod owners;
mod places;
mod resume;
mod room;
mod shard;
mod state;
mod subscriber;
mod sweep;
#[cfg(test)]
mod tests;
mod times;
mod transport;

pub use classes::{ClassCounters, RoomClasses};
pub use disconnects::{Disconnect, Disconnects, MAX_USER_BYTES, Whom, WhomError};
pub use mark::Mark;
pub use node::{HubCounters, Node, StreamRules};
pub use places::{Addresses, Household, Place, Places, Users};
pub use shard::{Shard, ShardHandle};
pub use times::Times;
pub use transport::{Call, READS_AT_ONCE, Transport, Wire};

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

impl ResetReason {
    /// As clients, metrics and spans name it.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Trimmed => "trimmed",
            Self::Unknown => "unknown",
            Self::Future => "future",
            Self::Malformed => "malformed",
            Self::Deleted => "deleted",
            Self::Fork => "fork",
        }
    }
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
    /// What the subscriber comes back with: `resume`, and after a fork what it has of the lost branch.
    pub id: LastEventId,
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
        /// Of those that are traced.
        fan_out: Option<Arc<FanOut>>,
    },
    /// Continuity of the live room broke: drop the room log, tell everyone.
    Reset {
        /// The room.
        room: RoomName,
        /// What to tell.
        reset: Reset,
    },
    /// A joined room's part of the broker went away (`false`), or is there again and everything that was missed has
    /// been sent (`true`).
    RoomLive {
        /// The room.
        room: RoomName,
        /// Whether it is there.
        live: bool,
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

    /// The event, unless it cannot be delivered.
    #[must_use]
    pub fn event(&self) -> Option<&Event> {
        match self {
            Self::Event(event) => Some(event),
            Self::Skipped(_) => None,
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
    fn history(
        &self,
        room: RoomName,
        query: HistoryQuery,
    ) -> BoxFuture<'static, Result<Arc<History>, HistoryError>>;
}

/// Why history could not be read.
#[derive(Debug, Clone, thiserror::Error)]
pub enum HistoryError {
    /// The broker does not answer now: try again later.
    #[error("the broker cannot serve now: {0}")]
    Away(String),
    /// The key holds something that is not a stream.
    #[error("the key of this room holds another type, not a stream: rename or delete it")]
    WrongType,
}

/// The broker's ends of the channels to the shards, one per shard. Bounded: a broker that finds
/// one full waits, and so stops reading from Redis.
pub type Inlets = Vec<mpsc::Sender<Supply>>;

/// Where a subscriber wants to begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Position {
    /// With the next event.
    New,
    /// This many events back (fewer where fewer are kept).
    Recent(usize),
    /// With the oldest kept event; never resets.
    Earliest,
    /// After this id. `0-0` is before the first event.
    After(EventId),
    /// Where a failover put it.
    Fork(ForkId),
    /// The client presented something that is not an id.
    Malformed(String),
}

/// How event-stream bytes travel on the socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// Each event is a chunk (HTTP/1.1).
    Chunked,
    /// Bare bytes: they end with the connection (HTTP/1.0), or the transport frames them (HTTP/2).
    Identity,
}

/// Which limit keeps a new stream out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// Connections of the node.
    Streams,
    /// Rooms of the shard.
    Rooms,
    /// Streams of the client's address.
    Address,
    /// Streams of the user.
    User,
    /// Streams of the room.
    Room,
    /// Streams that the client opens in a second.
    Rate,
    /// Whoever decides on permission cannot be asked now.
    Permission,
}

impl Limit {
    /// In metrics and in the log.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Streams => "streams",
            Self::Rooms => "rooms",
            Self::Address => "address",
            Self::User => "user",
            Self::Room => "room",
            Self::Rate => "rate",
            Self::Permission => "permission",
        }
    }
}

/// A stream that the hub takes over: its request has been read.
#[derive(Debug)]
pub struct Subscription {
    /// What carries it.
    pub wire: Wire,
    /// The room.
    pub room: RoomName,
    /// Where to begin.
    pub position: Position,
    /// Of everything after `head`.
    pub framing: Framing,
    /// The response head and whatever goes before `stream.open`, already framed.
    pub head: Vec<u8>,
    /// Heartbeats are named events instead of comments.
    pub heartbeat_events: bool,
    /// Not let in: told so, and closed.
    pub refused: Option<Limit>,
    /// The span of the request, where it is recorded: ends when the stream is among the live ones of its room.
    pub trace: Option<Context>,
    /// Its place among the streams of its client's address, where those are counted.
    pub place: Option<Place<Household>>,
    /// The client behind the proxy at the other end, for the log.
    pub client: Option<std::net::IpAddr>,
    /// Whose it is, and until when.
    pub terms: Terms,
}

/// On what terms a stream is open.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Terms {
    /// The user it belongs to, where one is known.
    pub user: Option<Arc<str>>,
    /// When permission was given, in seconds since 1970. `None` where nobody in particular was given it: whoever may
    /// come at any time.
    pub issued: Option<u64>,
    /// When it has to end, in seconds since 1970.
    pub ends: Option<u64>,
}

/// An event that the gateway itself sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Control<'a> {
    /// First block of every stream. `id` is left out while the node is not live.
    Open {
        /// The room.
        room: &'a RoomName,
        /// Position to resume from.
        id: Option<LastEventId>,
        /// Whether the broker is there.
        live: bool,
    },
    /// The node is live again.
    Live {
        /// For a client that has no position yet.
        id: Option<EventId>,
    },
    /// Continuity cannot be proved.
    Reset {
        /// Why, what is gone and where it goes on.
        reset: Reset,
        /// What the client presented, for a single client.
        presented: Option<&'a str>,
    },
    /// Last block before an unclean end.
    Close {
        /// One word: `drain`, `age`, `expired`, `disconnected`, `limit`.
        reason: &'static str,
    },
    /// A heartbeat for those who asked to see it.
    Heartbeat,
    /// The comment line `:`.
    Comment,
}

/// Turns events into the bytes of a response. The hub stores the result and knows only ranges.
pub trait Encoder: 'static {
    /// Appends `event`, framed for HTTP/1.1, and returns the range of the bare bytes relative to
    /// where it began to append.
    fn event(&self, out: &mut Vec<u8>, event: &Event) -> std::ops::Range<usize>;
    /// The same for a control event.
    fn control(&self, out: &mut Vec<u8>, control: Control<'_>) -> std::ops::Range<usize>;
}

/// Limits of the hub; every shard has the same.
#[derive(Debug, Clone)]
pub struct HubConfig {
    /// Time between heartbeats; jittered downwards by a tenth.
    pub heartbeat: std::time::Duration,
    /// Bytes of one room log.
    pub log_bytes: usize,
    /// Events in one room log.
    pub log_entries: usize,
    /// Bytes of all room logs of this shard.
    pub log_memory: usize,
    /// A blocked subscriber that is further behind than this is closed.
    pub max_lag_bytes: u64,
    /// A subscriber that accepts no byte for this long is closed.
    pub lag_timeout: std::time::Duration,
    /// Events per page that a lagging subscriber reads.
    pub history_page: usize,
    /// Whether streams end without a final chunk.
    pub unclean_close: bool,
    /// Rooms of this shard; 0 for no limit.
    pub max_rooms: usize,
    /// A stream that is open for longer is closed, up to a quarter of it earlier; zero for never.
    pub max_age: std::time::Duration,
    /// Whether a line is logged for each stream that opens or ends.
    pub access: bool,
}

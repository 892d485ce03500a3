//! What the rest of the process sees of all shards: counts, and the order to drain.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use protocol::RoomName;
use tokio::sync::{mpsc, oneshot};

use super::classes::Classes;
use super::owners::unix_millis;
use super::state::Closed;
use super::subscriber::Source;
use super::{
    Addresses, ClassCounters, Disconnect, Disconnects, Limit, ResetReason, RoomClasses, ShardId,
    Times, Users,
};

/// A request to a shard from elsewhere.
#[derive(Debug)]
pub(super) enum Command {
    Subscribers(RoomName, oneshot::Sender<usize>),
    Drain(Duration),
    Disconnect(Arc<[Disconnect]>),
}

/// What streams have to keep to that change while the node runs.
#[derive(Debug, Clone, Copy, Default)]
pub struct StreamRules {
    /// Streams of one user on the node; 0 for no limit.
    pub per_user: usize,
    /// Streams of one room in a shard; 0 for no limit.
    pub per_room: usize,
    /// How far clocks may differ: a stream whose permission ends is closed up to this much later, and a disconnect closes
    /// those whose permission says that it is up to this much younger.
    pub leeway: Duration,
}

/// Those of now. Cloning shares them.
#[derive(Debug, Clone, Default)]
pub(super) struct Rules(Arc<RwLock<StreamRules>>);

impl Rules {
    pub(super) fn get(&self) -> StreamRules {
        *self.0.read()
    }
}

/// All shards of this process. Cloning shares them.
#[derive(Debug, Clone)]
pub struct Node {
    sides: Arc<Vec<Side>>,
    times: Times,
    addresses: Addresses,
    users: Users,
    disconnects: Disconnects,
    rules: Rules,
    class_names: Arc<[String]>,
}

#[derive(Debug)]
struct Side {
    commands: mpsc::UnboundedSender<Command>,
    receiver: Mutex<Option<mpsc::UnboundedReceiver<Command>>>,
    counters: Arc<Counters>,
    classes: Classes,
}

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// Written by one shard only, read by anyone: relaxed, because each number stands alone.
        #[derive(Debug, Default)]
        pub(super) struct Counters { $(pub(super) $name: AtomicU64),* }

        /// Sums over the shards of this process, since its start where not said otherwise.
        #[derive(Debug, Clone, Copy, Default)]
        pub struct HubCounters { $($(#[$doc])* pub $name: u64),* }

        impl HubCounters {
            fn add(&mut self, shard: &Counters) {
                $(self.$name += shard.$name.load(Ordering::Relaxed);)*
            }
        }
    };
}

counters! {
    /// Streams opened.
    streams_opened,
    /// Streams whose client went away.
    closed_client,
    /// Streams closed because they did not read.
    closed_lag,
    /// Streams closed because the node stops.
    closed_drain,
    /// Streams closed because of their age.
    closed_age,
    /// Streams closed because their permission ended.
    closed_expired,
    /// Streams closed because their user or room was disconnected.
    closed_disconnected,
    /// Streams that were not let in.
    closed_limit,
    /// Of those, because of the streams of the node...
    refused_streams,
    /// ...the rooms of a shard...
    refused_rooms,
    /// ...the streams of their client's address...
    refused_address,
    /// ...of their user...
    refused_user,
    /// ...of their room...
    refused_room,
    /// ...those that their client opens in a second...
    refused_rate,
    /// ...or because nobody could be asked for permission.
    refused_permission,
    /// Open now.
    streams_open,
    /// Not any more, but their last bytes have a moment still.
    streams_parting,
    /// Events appended to room logs.
    events_appended,
    /// Events times the streams that they were due to.
    deliveries,
    /// Writes that carried events.
    writes,
    /// Bytes written to sockets.
    bytes_written,
    /// Rooms on this node now.
    rooms,
    /// `stream.reset` sent, one per stream: the position is older than what is kept.
    resets_trimmed,
    /// There is no such event.
    resets_unknown,
    /// The position is later than the stream.
    resets_future,
    /// The position is no event id.
    resets_malformed,
    /// The room's history is gone.
    resets_deleted,
    /// The stream goes on from an older copy.
    resets_fork,
    /// Resumes answered by a room log.
    resumes_log,
    /// Resumes that needed the broker.
    resumes_broker,
    /// Resumes whose continuity could not be proved.
    resumes_reset,
    /// Subscribers that fell off a room log.
    lagging,
    /// Streams that take no bytes now while some are due.
    stalled,
    /// Bytes that those are behind the recent events of their rooms.
    stalled_bytes,
    /// Streams that were open when the draining began.
    drain_streams,
    /// Of those, open now.
    drain_left,
    /// Bytes of room logs now.
    log_bytes,
    /// Events that left a room log.
    log_evicted,
}

/// What one shard tells the rest of the process.
#[derive(Debug)]
pub(super) struct Reports {
    pub(super) counters: Arc<Counters>,
    pub(super) classes: Classes,
    pub(super) times: Times,
    pub(super) users: Users,
    pub(super) disconnects: Disconnects,
    pub(super) rules: Rules,
}

impl Counters {
    pub(super) fn set(counter: &AtomicU64, to: u64) {
        counter.store(to, Ordering::Relaxed);
    }

    pub(super) fn closed(&self, why: Closed) -> &AtomicU64 {
        match why {
            Closed::Client => &self.closed_client,
            Closed::Lag => &self.closed_lag,
            Closed::Drain => &self.closed_drain,
            Closed::Age => &self.closed_age,
            Closed::Expired => &self.closed_expired,
            Closed::Disconnected => &self.closed_disconnected,
            Closed::Limit(_) => &self.closed_limit,
        }
    }

    pub(super) fn refused(&self, limit: Limit) -> &AtomicU64 {
        match limit {
            Limit::Streams => &self.refused_streams,
            Limit::Rooms => &self.refused_rooms,
            Limit::Address => &self.refused_address,
            Limit::User => &self.refused_user,
            Limit::Room => &self.refused_room,
            Limit::Rate => &self.refused_rate,
            Limit::Permission => &self.refused_permission,
        }
    }

    pub(super) fn resumes(&self, source: Source) -> &AtomicU64 {
        match source {
            Source::Log => &self.resumes_log,
            Source::Broker => &self.resumes_broker,
            Source::Reset => &self.resumes_reset,
        }
    }

    pub(super) fn resets(&self, reason: ResetReason) -> &AtomicU64 {
        match reason {
            ResetReason::Trimmed => &self.resets_trimmed,
            ResetReason::Unknown => &self.resets_unknown,
            ResetReason::Future => &self.resets_future,
            ResetReason::Malformed => &self.resets_malformed,
            ResetReason::Deleted => &self.resets_deleted,
            ResetReason::Fork => &self.resets_fork,
        }
    }

    pub(super) fn bump(counter: &AtomicU64, by: u64) {
        counter.store(
            counter.load(Ordering::Relaxed).wrapping_add(by),
            Ordering::Relaxed,
        );
    }
}

impl Node {
    /// A node of `shards` shards; each is then made with `Shard::new`. Rooms are counted by their class too.
    #[must_use]
    pub fn new(shards: usize, times: Times, classes: &RoomClasses) -> Self {
        let side = |_| {
            let (commands, receiver) = mpsc::unbounded_channel();
            Side {
                commands,
                receiver: Mutex::new(Some(receiver)),
                counters: Arc::default(),
                classes: Classes::new(classes.clone()),
            }
        };
        Self {
            sides: Arc::new((0..shards).map(side).collect()),
            times,
            addresses: Addresses::default(),
            users: Users::default(),
            disconnects: Disconnects::default(),
            rules: Rules::default(),
            class_names: classes.names().clone(),
        }
    }

    /// The classes of rooms; none where none are configured.
    #[must_use]
    pub fn class_names(&self) -> &[String] {
        &self.class_names
    }

    /// Sums over all shards, for each class in the order of the names.
    #[must_use]
    pub fn class_counters(&self) -> Vec<ClassCounters> {
        let mut sums = vec![ClassCounters::default(); self.class_names.len()];
        for side in self.sides.iter() {
            for (sum, counts) in sums.iter_mut().zip(side.classes.counts()) {
                counts.add_to(sum);
            }
        }
        sums
    }

    /// The streams of this node by client address, where they are counted.
    #[must_use]
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// Other rules from now on, for streams that come.
    pub fn set_rules(&self, rules: StreamRules) {
        *self.rules.0.write() = rules;
    }

    /// Who was disconnected.
    #[must_use]
    pub fn disconnects(&self) -> &Disconnects {
        &self.disconnects
    }

    /// Closes the streams of these users and rooms, as far as their permission is from before, within a second. What is
    /// known already has no effect. Gives the number of those that have.
    pub fn disconnect(&self, orders: Vec<Disconnect>) -> usize {
        let news: Arc<[Disconnect]> = self.disconnects.note(orders, unix_millis()).into();
        if !news.is_empty() {
            for side in self.sides.iter() {
                // A shard that has ended has no streams.
                let _ = side.commands.send(Command::Disconnect(news.clone()));
            }
        }
        news.len()
    }

    /// Subscribers of a room on this node.
    pub async fn subscribers(&self, room: &RoomName) -> usize {
        let mut sum = 0;
        for side in self.sides.iter() {
            let (answer, count) = oneshot::channel();
            if side
                .commands
                .send(Command::Subscribers(room.clone(), answer))
                .is_ok()
            {
                sum += count.await.unwrap_or(0);
            }
        }
        sum
    }

    /// Streams open now.
    #[must_use]
    pub fn streams(&self) -> usize {
        let open = self.sides.iter().map(|side| &side.counters.streams_open);
        open.map(|open| open.load(Ordering::Relaxed) as usize).sum()
    }

    /// Streams that have been told why they end, and whose connection is about to.
    #[must_use]
    pub fn parting(&self) -> usize {
        let parting = self.sides.iter().map(|side| &side.counters.streams_parting);
        let parting = parting.map(|parting| parting.load(Ordering::Relaxed) as usize);
        parting.sum()
    }

    /// Sums over all shards.
    #[must_use]
    pub fn counters(&self) -> HubCounters {
        let mut sum = HubCounters::default();
        self.sides.iter().for_each(|side| sum.add(&side.counters));
        sum
    }

    /// Closes all open streams, spread evenly over `spread`, and each new one at once, all with a
    /// `retry:` that brings the client back elsewhere.
    pub fn drain(&self, spread: Duration) {
        for side in self.sides.iter() {
            // A shard that has ended has nothing left to drain.
            let _ = side.commands.send(Command::Drain(spread));
        }
    }

    /// The shard's own ends; `None` when the shard was made before.
    pub(super) fn side(
        &self,
        shard: ShardId,
    ) -> Option<(mpsc::UnboundedReceiver<Command>, Reports)> {
        let side = self.sides.get(shard)?;
        let receiver = side.receiver.lock().take()?;
        let reports = Reports {
            counters: side.counters.clone(),
            classes: side.classes.clone(),
            times: self.times.clone(),
            users: self.users.clone(),
            disconnects: self.disconnects.clone(),
            rules: self.rules.clone(),
        };
        Some((receiver, reports))
    }
}

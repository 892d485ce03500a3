//! What the rest of the process sees of all shards: counts, and the order to drain.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use protocol::RoomName;
use tokio::sync::{mpsc, oneshot};

use super::ShardId;

/// A request to a shard from elsewhere.
#[derive(Debug)]
pub(super) enum Command {
    Subscribers(RoomName, oneshot::Sender<usize>),
    Drain(Duration),
}

/// All shards of this process. Cloning shares them.
#[derive(Debug, Clone)]
pub struct Node {
    sides: Arc<Vec<Side>>,
}

#[derive(Debug)]
struct Side {
    commands: mpsc::UnboundedSender<Command>,
    receiver: Mutex<Option<mpsc::UnboundedReceiver<Command>>>,
    counters: Arc<Counters>,
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
    /// Streams closed, for whatever reason.
    streams_closed,
    /// Open now.
    streams_open,
    /// Events appended to room logs.
    events_appended,
    /// Writes that carried events.
    writes,
    /// Bytes written to sockets.
    bytes_written,
    /// Rooms on this node now.
    rooms,
    /// `stream.reset` sent, one per stream.
    resets,
    /// Resumes answered by a room log.
    resumes_log,
    /// Resumes that needed the broker.
    resumes_broker,
    /// Subscribers that fell off a room log.
    lagging,
    /// Streams closed because they did not read.
    lag_closed,
    /// Bytes of room logs now.
    log_bytes,
}

impl Counters {
    pub(super) fn bump(counter: &AtomicU64, by: u64) {
        counter.store(
            counter.load(Ordering::Relaxed).wrapping_add(by),
            Ordering::Relaxed,
        );
    }
}

impl Node {
    /// A node of `shards` shards; each is then made with `Shard::new`.
    #[must_use]
    pub fn new(shards: usize) -> Self {
        let side = |_| {
            let (commands, receiver) = mpsc::unbounded_channel();
            Side {
                commands,
                receiver: Mutex::new(Some(receiver)),
                counters: Arc::default(),
            }
        };
        Self {
            sides: Arc::new((0..shards).map(side).collect()),
        }
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
        self.counters().streams_open as usize
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
    ) -> Option<(mpsc::UnboundedReceiver<Command>, Arc<Counters>)> {
        let side = self.sides.get(shard)?;
        Some((side.receiver.lock().take()?, side.counters.clone()))
    }
}

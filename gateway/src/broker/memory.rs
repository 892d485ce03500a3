//! The broker of a single node: rooms in this process, with the guarantees of the Redis one.
//!
//! Invariant: whoever writes to rooms and to inlets holds the lock until both are done, so per room the order of
//! ids is the order of delivery. Where an inlet has no place, the work waits for the task, and everything after
//! it waits behind it; reads never do, so a full inlet slows publishers and nobody else.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use protocol::{Event, EventId, RoomName};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};
use tokio::time::MissedTickBehavior;

use super::{
    Broker, BrokerError, BrokerStatus, Follower, NewEvent, Published, Retention, RetentionRules,
    RoomInfo,
};
use crate::hub::{
    Disconnect, History, HistoryError, HistoryQuery, Inlets, Item, ShardId, Supply, Upstream, Whom,
};
use crate::trace::{FanOut, Traces};

mod rooms;

use rooms::{Now, Rooms};

/// Publishes that may wait for the task; more make their callers wait.
const WAITING_PUBLISHES: usize = 1024;
/// Publishes handled in one go.
const BATCH: usize = 256;
/// Pause between looks for what has expired.
const EXPIRY_TICK: Duration = Duration::from_secs(1);

/// Limits of the memory broker.
#[derive(Debug, Clone)]
pub struct MemoryConfig {
    /// What is kept of a room.
    pub retention: RetentionRules,
    /// How long a repeat of an idempotency key is known as one.
    pub idempotency_window: Duration,
    /// Bytes of all rooms and idempotency keys together: past it, the rooms that were published in
    /// longest ago lose their events first.
    pub max_bytes: usize,
}

impl Default for MemoryConfig {
    fn default() -> Self {
        let retention = Retention {
            max_len: protocol::publish::DEFAULT_MAX_LEN,
            max_age: Duration::ZERO,
            expire: Duration::from_secs(protocol::publish::DEFAULT_EXPIRE_SECONDS),
        };
        Self {
            retention: retention.into(),
            idempotency_window: Duration::from_secs(protocol::publish::DEFAULT_ONCE_SECONDS),
            max_bytes: 256 << 20,
        }
    }
}

/// A broker without anything outside the process. Its task ends when it is dropped.
#[derive(Debug)]
pub struct MemoryBroker {
    shared: Arc<Shared>,
    interest: mpsc::UnboundedSender<(Interest, Waits)>,
    publishes: mpsc::Sender<Publish>,
    disconnects: Mutex<Disconnects>,
}

/// Who hears of disconnects, and the last one's id.
#[derive(Default)]
struct Disconnects {
    followers: Vec<Follower>,
    last: EventId,
}

impl fmt::Debug for Disconnects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Disconnects({})", self.last)
    }
}

#[derive(Debug)]
struct Shared {
    turn: Mutex<Turn>,
    inlets: Inlets,
    traces: Traces,
}

/// What only one may touch at a time.
#[derive(Debug)]
struct Turn {
    rooms: Rooms,
    /// Pieces of work that the task has not done: nothing may overtake them.
    waiting: usize,
}

/// A piece of work that waits, until this is dropped: done, or given up by whoever wanted it.
#[derive(Debug)]
struct Waits(Arc<Shared>);

impl Drop for Waits {
    fn drop(&mut self) {
        self.0.turn.lock().waiting -= 1;
    }
}

/// A shard came to a room or left it. Unbounded: `Upstream` must not block, and the number is
/// bounded by the shards' own rooms.
#[derive(Debug)]
enum Interest {
    Subscribe(ShardId, RoomName),
    Unsubscribe(ShardId, RoomName),
}

#[derive(Debug)]
struct Publish {
    room: RoomName,
    event: NewEvent,
    answer: oneshot::Sender<Published>,
    waits: Waits,
}

impl MemoryBroker {
    /// Starts the broker's task on the current runtime; it is live at once.
    #[must_use]
    pub fn start(config: MemoryConfig, inlets: Inlets, traces: Traces) -> Arc<Self> {
        let shared = Arc::new(Shared {
            turn: Mutex::new(Turn {
                rooms: Rooms::new(config),
                // That it is live is the first that shards hear.
                waiting: 1,
            }),
            inlets,
            traces,
        });
        let (interest, interests) = mpsc::unbounded_channel();
        let (publishes, queue) = mpsc::channel(WAITING_PUBLISHES);
        let starting = Waits(shared.clone());
        tokio::spawn(run(starting, interests, queue));
        Arc::new(Self {
            shared,
            interest,
            publishes,
            disconnects: Mutex::default(),
        })
    }
}

/// Does what could not be done at once, and what time does.
async fn run(
    starting: Waits,
    mut interests: mpsc::UnboundedReceiver<(Interest, Waits)>,
    mut queue: mpsc::Receiver<Publish>,
) {
    let shared = starting.0.clone();
    for shard in 0..shared.inlets.len() {
        shared.supply(shard, Supply::Live(true)).await;
    }
    drop(starting);
    let mut tick = tokio::time::interval(EXPIRY_TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut batch = Vec::with_capacity(BATCH);
    loop {
        tokio::select! {
            // Interest first, so that a room is joined before what is published right after.
            biased;
            interest = interests.recv() => match interest {
                Some((interest, _waits)) => shared.interest(interest).await,
                None => return,
            },
            count = queue.recv_many(&mut batch, BATCH) => {
                if count == 0 {
                    return;
                }
                for publish in batch.drain(..) {
                    shared.publish(publish).await;
                }
            }
            _ = tick.tick() => shared.turn.lock().rooms.expire(Now::read()),
        }
    }
}

impl Shared {
    /// Publishes, if every shard that has the room takes the event now and nothing waits. Otherwise the event
    /// comes back, with its place among what waits.
    fn publish_now(
        self: &Arc<Self>,
        room: &RoomName,
        event: NewEvent,
    ) -> Result<Published, Box<(NewEvent, Waits)>> {
        let mut turn = self.turn.lock();
        let shards = turn.rooms.shards(room);
        let permits = match turn.waiting {
            0 => self.permits(&shards),
            _ => None,
        };
        let Some(permits) = permits else {
            turn.waiting += 1;
            return Err(Box::new((event, Waits(self.clone()))));
        };
        let (published, event) = turn.rooms.publish(room, event, Now::read());
        if let Some(event) = event {
            let fan_out = self.traces.fan_out(room, [&event]);
            for permit in permits {
                permit.send(append(room, &event, fan_out.clone()));
            }
        }
        Ok(published)
    }

    /// A place in the inlet of each shard, but for those that have ended; `None` where one is full.
    fn permits(&self, shards: &[ShardId]) -> Option<Vec<mpsc::Permit<'_, Supply>>> {
        let mut permits = Vec::with_capacity(shards.len());
        for inlet in shards.iter().filter_map(|&shard| self.inlets.get(shard)) {
            match inlet.try_reserve() {
                Ok(permit) => permits.push(permit),
                Err(TrySendError::Full(())) => return None,
                Err(TrySendError::Closed(())) => {}
            }
        }
        Some(permits)
    }

    /// Notes an interest, if the shard can be told now and nothing waits. Otherwise gives its place among what
    /// waits.
    fn interest_now(self: &Arc<Self>, interest: &Interest) -> Option<Waits> {
        let mut turn = self.turn.lock();
        let done = turn.waiting == 0
            && match interest {
                Interest::Subscribe(shard, room) => match self.permits(&[*shard]) {
                    Some(permits) => {
                        let head = turn.rooms.subscribe(*shard, room);
                        for permit in permits {
                            let room = room.clone();
                            permit.send(Supply::Joined { room, head });
                        }
                        true
                    }
                    None => false,
                },
                Interest::Unsubscribe(shard, room) => {
                    turn.rooms.unsubscribe(*shard, room);
                    true
                }
            };
        if done {
            return None;
        }
        turn.waiting += 1;
        Some(Waits(self.clone()))
    }

    async fn interest(&self, interest: Interest) {
        match interest {
            Interest::Subscribe(shard, room) => {
                let head = self.turn.lock().rooms.subscribe(shard, &room);
                self.supply(shard, Supply::Joined { room, head }).await;
            }
            Interest::Unsubscribe(shard, room) => {
                self.turn.lock().rooms.unsubscribe(shard, &room);
            }
        }
    }

    async fn publish(&self, publish: Publish) {
        let Publish {
            room,
            event,
            answer,
            waits,
        } = publish;
        let (published, event, shards) = {
            let rooms = &mut self.turn.lock().rooms;
            let shards = rooms.shards(&room);
            let (published, event) = rooms.publish(&room, event, Now::read());
            (published, event, shards)
        };
        if let Some(event) = event {
            let fan_out = self.traces.fan_out(&room, [&event]);
            for shard in shards {
                self.supply(shard, append(&room, &event, fan_out.clone()))
                    .await;
            }
        }
        drop(waits);
        // A publisher that has gone away has its event stored all the same.
        let _ = answer.send(published);
    }

    async fn supply(&self, shard: ShardId, supply: Supply) {
        if let Some(inlet) = self.inlets.get(shard) {
            // A shard that has ended needs nothing any more.
            let _ = inlet.send(supply).await;
        }
    }
}

fn append(room: &RoomName, event: &Event, fan_out: Option<Arc<FanOut>>) -> Supply {
    Supply::Append {
        room: room.clone(),
        items: vec![Item::Event(event.clone())],
        fan_out,
    }
}

impl MemoryBroker {
    fn interest(&self, interest: Interest) {
        if let Some(waits) = self.shared.interest_now(&interest) {
            // The task is gone only when the process is ending.
            let _ = self.interest.send((interest, waits));
        }
    }
}

impl Upstream for MemoryBroker {
    fn subscribe(&self, shard: ShardId, room: &RoomName) {
        self.interest(Interest::Subscribe(shard, room.clone()));
    }

    fn unsubscribe(&self, shard: ShardId, room: &RoomName) {
        self.interest(Interest::Unsubscribe(shard, room.clone()));
    }

    fn history(
        &self,
        room: RoomName,
        query: HistoryQuery,
    ) -> BoxFuture<'static, Result<Arc<History>, HistoryError>> {
        let history = self
            .shared
            .turn
            .lock()
            .rooms
            .history(&room, query, Now::read());
        async move { Ok(Arc::new(history)) }.boxed()
    }
}

impl Broker for MemoryBroker {
    fn publish(
        &self,
        room: RoomName,
        event: NewEvent,
    ) -> BoxFuture<'static, Result<Published, BrokerError>> {
        let waiting = match self.shared.publish_now(&room, event) {
            Ok(published) => return std::future::ready(Ok(published)).boxed(),
            Err(waiting) => waiting,
        };
        let publishes = self.publishes.clone();
        async move {
            let (event, waits) = *waiting;
            let gone = || BrokerError::Away("this node is stopping".to_owned());
            let (answer, published) = oneshot::channel();
            publishes
                .send(Publish {
                    room,
                    event,
                    answer,
                    waits,
                })
                .await
                .map_err(|_| gone())?;
            published.await.map_err(|_| gone())
        }
        .boxed()
    }

    fn disconnect(&self, whom: Whom) -> BoxFuture<'static, Result<EventId, BrokerError>> {
        let mut disconnects = self.disconnects.lock();
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let at_ms = u64::try_from(now.unwrap_or_default().as_millis()).unwrap_or(0);
        let last = disconnects.last;
        let id = EventId::new(at_ms, 0).max(EventId::new(last.ms, last.seq + 1));
        disconnects.last = id;
        for follower in &disconnects.followers {
            let whom = whom.clone();
            follower(vec![Disconnect { whom, at_ms: id.ms }]);
        }
        std::future::ready(Ok(id)).boxed()
    }

    fn follow(&self, follower: Follower) {
        self.disconnects.lock().followers.push(follower);
    }

    fn room_info(&self, room: RoomName) -> BoxFuture<'static, Result<RoomInfo, BrokerError>> {
        let info = self.shared.turn.lock().rooms.info(&room, Now::read());
        async move { Ok(info) }.boxed()
    }

    fn status(&self) -> BrokerStatus {
        BrokerStatus {
            servers: Vec::new(),
            live: true,
            was_live: true,
            reasons: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new(data: &'static str) -> NewEvent {
        NewEvent {
            data: data.into(),
            ..NewEvent::default()
        }
    }

    #[tokio::test]
    async fn a_subscribed_shard_gets_events_in_order_and_others_nothing() {
        let (inlets, mut outlets): (Inlets, Vec<_>) = (0..2).map(|_| mpsc::channel(64)).unzip();
        let broker = MemoryBroker::start(MemoryConfig::default(), inlets, Traces::default());
        let room = RoomName::parse("a").unwrap();
        assert!(matches!(outlets[0].recv().await, Some(Supply::Live(true))));
        assert!(matches!(outlets[1].recv().await, Some(Supply::Live(true))));
        let first = broker
            .publish(room.clone(), new("before"))
            .await
            .unwrap()
            .id;
        broker.subscribe(0, &room);
        let Some(Supply::Joined { head, .. }) = outlets[0].recv().await else {
            panic!("not joined")
        };
        assert_eq!(Some(head), first);
        let publishes: Vec<_> = (0..50)
            .map(|_| broker.publish(room.clone(), new("x")))
            .collect();
        let mut ids: Vec<_> = Vec::new();
        for published in futures_util::future::join_all(publishes).await {
            ids.push(published.unwrap().id);
        }
        let mut seen = vec![first];
        while seen.len() <= 50 {
            let Some(Supply::Append { items, .. }) = outlets[0].recv().await else {
                panic!("no events")
            };
            for item in items {
                assert_eq!(item.prev(), *seen.last().unwrap());
                seen.push(item.id());
            }
        }
        assert_eq!(seen[1..], ids);
        assert!(outlets[1].try_recv().is_err());
    }

    #[tokio::test]
    async fn a_full_inlet_holds_up_publishers_and_not_readers() {
        let (inlet, mut outlet) = mpsc::channel(1);
        let broker = MemoryBroker::start(MemoryConfig::default(), vec![inlet], Traces::default());
        let room = RoomName::parse("a").unwrap();
        broker.subscribe(0, &room);
        let publish = tokio::spawn(broker.publish(room.clone(), new("x")));
        let history = broker
            .history(room, HistoryQuery::Newest { limit: 1 })
            .await
            .unwrap();
        assert_eq!(history.last_id, protocol::EventId::ZERO);
        assert!(!publish.is_finished());
        assert!(matches!(outlet.recv().await, Some(Supply::Live(true))));
        assert!(matches!(outlet.recv().await, Some(Supply::Joined { .. })));
        assert!(matches!(outlet.recv().await, Some(Supply::Append { .. })));
        assert!(publish.await.unwrap().unwrap().id.is_some());
    }

    #[tokio::test]
    async fn a_publisher_that_gives_up_holds_up_nobody() {
        let (inlet, mut outlet) = mpsc::channel(1);
        let broker = MemoryBroker::start(MemoryConfig::default(), vec![inlet], Traces::default());
        let room = RoomName::parse("a").unwrap();
        assert!(matches!(outlet.recv().await, Some(Supply::Live(true))));
        broker.subscribe(0, &room);
        // The inlet is full: this one has to wait, and is given up before it has begun to.
        drop(broker.publish(room.clone(), new("x")));
        assert!(matches!(outlet.recv().await, Some(Supply::Joined { .. })));
        let second = broker.publish(room.clone(), new("y")).now_or_never();
        assert!(second.is_some_and(|published| published.is_ok()));
        assert!(matches!(outlet.recv().await, Some(Supply::Append { .. })));
    }
}

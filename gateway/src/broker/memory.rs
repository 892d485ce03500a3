//! The broker of a single node: rooms in this process, with the guarantees of the Redis one.
//!
//! Invariant: one task writes to rooms and to inlets, so per room the order of ids is the order of
//! delivery. Reads take the same lock for a moment and never wait for that task, so a full inlet
//! slows publishers and nobody else.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use protocol::RoomName;
use tokio::sync::{mpsc, oneshot};
use tokio::time::MissedTickBehavior;

use super::{Broker, BrokerError, BrokerStatus, NewEvent, Published, RoomInfo};
use crate::hub::{History, HistoryError, HistoryQuery, Inlets, Item, ShardId, Supply, Upstream};

mod rooms;

use rooms::{Now, Rooms};

/// Publishes that may wait for the task; more make their callers wait.
const WAITING_PUBLISHES: usize = 1024;
/// Publishes handled in one go.
const BATCH: usize = 256;
/// Pause between looks for what has expired.
const EXPIRY_TICK: Duration = Duration::from_secs(1);

/// Limits of the memory broker. Zero is no limit, as in the configuration.
#[derive(Debug, Clone)]
pub struct MemoryConfig {
    /// Events that a room keeps.
    pub max_len: u64,
    /// Age that an event may reach.
    pub max_age: Duration,
    /// Idle time after which a room's events are dropped.
    pub expire: Duration,
    /// How long a repeat of an idempotency key is known as one.
    pub idempotency_window: Duration,
    /// Bytes of all rooms and idempotency keys together: past it, the rooms that were published in
    /// longest ago lose their events first.
    pub max_bytes: usize,
}

impl Default for MemoryConfig {
    fn default() -> Self {
        Self {
            max_len: protocol::publish::DEFAULT_MAX_LEN,
            max_age: Duration::ZERO,
            expire: Duration::from_secs(protocol::publish::DEFAULT_EXPIRE_SECONDS),
            idempotency_window: Duration::from_secs(protocol::publish::DEFAULT_ONCE_SECONDS),
            max_bytes: 256 << 20,
        }
    }
}

/// A broker without anything outside the process. Its task ends when it is dropped.
#[derive(Debug)]
pub struct MemoryBroker {
    rooms: Arc<Mutex<Rooms>>,
    interest: mpsc::UnboundedSender<Interest>,
    publishes: mpsc::Sender<Publish>,
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
}

impl MemoryBroker {
    /// Starts the broker's task on the current runtime; it is live at once.
    #[must_use]
    pub fn start(config: MemoryConfig, inlets: Inlets) -> Arc<Self> {
        let rooms = Arc::new(Mutex::new(Rooms::new(config)));
        let (interest, interests) = mpsc::unbounded_channel();
        let (publishes, queue) = mpsc::channel(WAITING_PUBLISHES);
        let task = Task {
            rooms: rooms.clone(),
            inlets,
        };
        tokio::spawn(task.run(interests, queue));
        Arc::new(Self {
            rooms,
            interest,
            publishes,
        })
    }
}

struct Task {
    rooms: Arc<Mutex<Rooms>>,
    inlets: Inlets,
}

impl Task {
    async fn run(
        self,
        mut interests: mpsc::UnboundedReceiver<Interest>,
        mut queue: mpsc::Receiver<Publish>,
    ) {
        for shard in 0..self.inlets.len() {
            self.supply(shard, Supply::Live(true)).await;
        }
        let mut tick = tokio::time::interval(EXPIRY_TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            tokio::select! {
                // Interest first, so that a room is joined before what is published right after.
                biased;
                interest = interests.recv() => match interest {
                    Some(interest) => self.interest(interest).await,
                    None => return,
                },
                count = queue.recv_many(&mut batch, BATCH) => {
                    if count == 0 {
                        return;
                    }
                    self.publish(&mut batch).await;
                }
                _ = tick.tick() => self.rooms.lock().expire(Now::read()),
            }
        }
    }

    async fn interest(&self, interest: Interest) {
        match interest {
            Interest::Subscribe(shard, room) => {
                let head = self.rooms.lock().subscribe(shard, &room);
                self.supply(shard, Supply::Joined { room, head }).await;
            }
            Interest::Unsubscribe(shard, room) => self.rooms.lock().unsubscribe(shard, &room),
        }
    }

    async fn publish(&self, batch: &mut Vec<Publish>) {
        let mut deliveries: Vec<Delivery> = Vec::new();
        let mut answers = Vec::with_capacity(batch.len());
        {
            let mut rooms = self.rooms.lock();
            let now = Now::read();
            for Publish {
                room,
                event,
                answer,
            } in batch.drain(..)
            {
                let (published, event) = rooms.publish(&room, event, now);
                answers.push((answer, published));
                let Some(event) = event else { continue };
                let last = deliveries
                    .iter_mut()
                    .rev()
                    .find(|delivery| delivery.room == room);
                match last {
                    Some(delivery) => delivery.items.push(Item::Event(event)),
                    None => {
                        let shards = rooms.shards(&room);
                        if !shards.is_empty() {
                            deliveries.push(Delivery {
                                room,
                                shards,
                                items: vec![Item::Event(event)],
                            });
                        }
                    }
                }
            }
        }
        for Delivery {
            room,
            shards,
            items,
        } in deliveries
        {
            for shard in shards {
                let supply = Supply::Append {
                    room: room.clone(),
                    items: items.clone(),
                };
                self.supply(shard, supply).await;
            }
        }
        for (answer, published) in answers {
            // A publisher that has gone away has its event stored all the same.
            let _ = answer.send(published);
        }
    }

    async fn supply(&self, shard: ShardId, supply: Supply) {
        if let Some(inlet) = self.inlets.get(shard) {
            // A shard that has ended needs nothing any more.
            let _ = inlet.send(supply).await;
        }
    }
}

struct Delivery {
    room: RoomName,
    shards: Vec<ShardId>,
    items: Vec<Item>,
}

impl Upstream for MemoryBroker {
    fn subscribe(&self, shard: ShardId, room: &RoomName) {
        let _ = self.interest.send(Interest::Subscribe(shard, room.clone()));
    }

    fn unsubscribe(&self, shard: ShardId, room: &RoomName) {
        let _ = self
            .interest
            .send(Interest::Unsubscribe(shard, room.clone()));
    }

    fn history(
        &self,
        room: RoomName,
        query: HistoryQuery,
    ) -> BoxFuture<'static, Result<Arc<History>, HistoryError>> {
        let history = self.rooms.lock().history(&room, query, Now::read());
        async move { Ok(Arc::new(history)) }.boxed()
    }
}

impl Broker for MemoryBroker {
    fn publish(
        &self,
        room: RoomName,
        event: NewEvent,
    ) -> BoxFuture<'static, Result<Published, BrokerError>> {
        let publishes = self.publishes.clone();
        async move {
            let gone = || BrokerError::Away("this node is stopping".to_owned());
            let (answer, published) = oneshot::channel();
            publishes
                .send(Publish {
                    room,
                    event,
                    answer,
                })
                .await
                .map_err(|_| gone())?;
            published.await.map_err(|_| gone())
        }
        .boxed()
    }

    fn room_info(&self, room: RoomName) -> BoxFuture<'static, Result<RoomInfo, BrokerError>> {
        let info = self.rooms.lock().info(&room, Now::read());
        async move { Ok(info) }.boxed()
    }

    fn status(&self) -> BrokerStatus {
        BrokerStatus {
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
        let broker = MemoryBroker::start(MemoryConfig::default(), inlets);
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
        let broker = MemoryBroker::start(MemoryConfig::default(), vec![inlet]);
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
}

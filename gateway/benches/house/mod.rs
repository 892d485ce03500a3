//! What the benchmarks share: one shard with a room, fed through its inlet as a broker feeds it.

use std::io::Read as _;
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use gateway::http::encoding::ChunkedEncoder;
use gateway::hub::{
    Framing, History, HistoryError, HistoryQuery, HubConfig, Item, Node, Position, RoomClasses,
    Shard, ShardId, Subscription, Supply, Times, Upstream, Wire,
};
use protocol::{Event, EventId, RoomName};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc;
use tokio::task::{LocalSet, yield_now};

/// Bytes of data in each event.
pub const DATA: usize = 200;
/// Events in one message of the broker.
const BATCH: usize = 16;

/// A broker that the benchmark itself is.
struct Nowhere;

impl Upstream for Nowhere {
    fn subscribe(&self, _: ShardId, _: &RoomName) {}
    fn unsubscribe(&self, _: ShardId, _: &RoomName) {}
    fn history(
        &self,
        _: RoomName,
        _: HistoryQuery,
    ) -> BoxFuture<'static, Result<Arc<History>, HistoryError>> {
        Box::pin(async { Ok(Arc::new(History::default())) })
    }
}

/// The encoder that the gateway uses.
pub fn encoder() -> ChunkedEncoder {
    ChunkedEncoder::new("bench".into(), Duration::from_secs(2), Duration::ZERO)
}

/// An event as a chat has them.
pub fn event(number: u64) -> Event {
    Event {
        id: Some(EventId::new(1_700_000_000_000 + number, 0)),
        prev: Some(EventId::new(1_700_000_000_000 + number - 1, 0)),
        name: "chat".into(),
        data: vec![b'x'; DATA].into(),
        trace: None,
    }
}

/// A shard with one room.
pub struct House {
    runtime: Runtime,
    local: LocalSet,
    inlet: mpsc::Sender<Supply>,
    node: Node,
    room: RoomName,
    peers: Vec<UnixStream>,
    number: u64,
    /// For what the peers read.
    scratch: Vec<u8>,
}

impl House {
    /// With `subscribers` streams at the newest position, and a room log of this many events.
    pub fn new(subscribers: usize, log_entries: usize) -> anyhow::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let local = LocalSet::new();
        let node = Node::new(
            1,
            Times::register(&prometheus::Registry::new())?,
            &RoomClasses::default(),
        );
        let config = HubConfig {
            heartbeat: Duration::from_secs(3600),
            log_bytes: 1 << 20,
            log_entries,
            log_memory: 1 << 28,
            max_lag_bytes: u64::MAX,
            lag_timeout: Duration::from_secs(3600),
            history_page: 256,
            unclean_close: true,
            max_rooms: 0,
            max_age: Duration::ZERO,
            access: false,
        };
        let room = RoomName::parse("bench")?;
        let (inlet, outlet) = mpsc::channel(64);
        let guard = runtime.enter();
        let shard = Shard::new(0, config, Arc::new(Nowhere), Rc::new(encoder()), &node)?;
        let handle = shard.handle();
        drop(guard);
        local.spawn_local(shard.run(outlet));
        let mut peers = Vec::new();
        for _ in 0..subscribers {
            let (ours, theirs) = UnixStream::pair()?;
            ours.set_nonblocking(true)?;
            theirs.set_nonblocking(true)?;
            peers.push(theirs);
            handle.adopt(Subscription {
                wire: Wire::Socket(TcpStream::from(OwnedFd::from(ours))),
                room: room.clone(),
                position: Position::New,
                framing: Framing::Chunked,
                head: b"head".to_vec(),
                heartbeat_events: false,
                refused: None,
                trace: None,
                place: None,
                client: None,
                terms: Default::default(),
            });
        }
        let mut house = Self {
            runtime,
            local,
            inlet,
            node,
            room,
            peers,
            number: 1,
            scratch: vec![0; 1 << 18],
        };
        let (room, head) = (house.room.clone(), EventId::ZERO);
        house.supply(vec![Supply::Live(true), Supply::Joined { room, head }], 1)?;
        house.append(1)?;
        Ok(house)
    }

    /// `count` events, in batches, until they are in the log.
    pub fn append(&mut self, count: usize) -> anyhow::Result<Duration> {
        let mut batches = Vec::new();
        let mut left = count;
        while left > 0 {
            let items = (0..left.min(BATCH))
                .map(|_| self.item())
                .collect::<Vec<_>>();
            left -= items.len();
            let room = self.room.clone();
            batches.push(Supply::Append {
                room,
                items,
                fan_out: None,
            });
        }
        let took = self.supply(batches, 1)?;
        self.drain()?;
        Ok(took)
    }

    /// One event, until every subscriber has been written to.
    pub fn sweep(&mut self) -> anyhow::Result<Duration> {
        let items = vec![self.item()];
        let room = self.room.clone();
        let writes = self.peers.len() as u64;
        let took = self.supply(
            vec![Supply::Append {
                room,
                items,
                fan_out: None,
            }],
            writes,
        )?;
        self.drain()?;
        Ok(took)
    }

    fn item(&mut self) -> Item {
        self.number += 1;
        Item::Event(event(self.number))
    }

    fn supply(&mut self, supplies: Vec<Supply>, writes: u64) -> anyhow::Result<Duration> {
        let events: usize = supplies
            .iter()
            .map(|supply| match supply {
                Supply::Append { items, .. } => items.len(),
                _ => 0,
            })
            .sum();
        let before = self.node.counters();
        let begin = Instant::now();
        let (inlet, node) = (&self.inlet, &self.node);
        self.local.block_on(&self.runtime, async {
            for supply in supplies {
                inlet.send(supply).await?;
            }
            loop {
                let now = node.counters();
                let appended = now.events_appended - before.events_appended;
                if appended >= events as u64 && now.writes - before.writes >= writes {
                    return anyhow::Ok(());
                }
                yield_now().await;
            }
        })?;
        Ok(begin.elapsed())
    }

    fn drain(&mut self) -> anyhow::Result<()> {
        for peer in &mut self.peers {
            // Whatever there is: a peer that has nothing yet is no fault.
            let _ = peer.read(&mut self.scratch);
        }
        Ok(())
    }
}

//! A shard with real sockets and a made-up stream, under arbitrary interleavings of publishing,
//! joining, reading, stalling and answers that come late: every client gets every later stored
//! event exactly once, in order, and nobody is reset.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read as _};
use std::net::{TcpListener, TcpStream};
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use mio::{Events, Poll};
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_sdk::trace::SdkTracerProvider;
use proptest::prelude::*;
use protocol::{Event, EventId, RoomName, TraceParent};

use super::state::{Read, State};
use super::*;
use crate::trace::Traces;
use through::{Calling, Holding};

mod through;

mod forks;

mod permission;

struct Nowhere;

impl Upstream for Nowhere {
    fn subscribe(&self, _: ShardId, _: &RoomName) {}
    fn unsubscribe(&self, _: ShardId, _: &RoomName) {}
    fn history(
        &self,
        _: RoomName,
        _: HistoryQuery,
    ) -> BoxFuture<'static, Result<Arc<History>, HistoryError>> {
        Box::pin(async { Err(HistoryError::Away("the test answers by hand".into())) })
    }
}

/// Events as `[id]`, padded; control events as `!name`.
struct Marks;

impl Encoder for Marks {
    fn event(&self, out: &mut Vec<u8>, event: &Event) -> Range<usize> {
        let begin = out.len();
        out.extend_from_slice(b"#{");
        match event.id {
            Some(id) => out.extend_from_slice(format!("[{}]", id.ms).as_bytes()),
            None => out.extend_from_slice(b"~"),
        }
        out.extend_from_slice(&event.data);
        out.extend_from_slice(b"}#");
        1..out.len() - begin - 1
    }
    fn control(&self, out: &mut Vec<u8>, control: Control<'_>) -> Range<usize> {
        let begin = out.len();
        out.push(b'#');
        match control {
            Control::Reset { reset, .. } => {
                let mut text = format!("!reset:{:?}", reset.reason);
                if let LastEventId::Fork(_) = reset.id {
                    text.push_str(&format!(" at {}", reset.id));
                }
                out.extend_from_slice(format!("{text}!").as_bytes())
            }
            Control::Open { .. } => out.extend_from_slice(b"!open!"),
            _ => out.extend_from_slice(b"!"),
        }
        out.push(b'#');
        1..out.len() - begin - 1
    }
}

/// The stream as Redis would have it, and what is on its way to the shard.
struct World {
    state: State,
    poll: Poll,
    room: RoomName,
    stored: Vec<Item>,
    /// How many of `stored` the shard has been given.
    given: usize,
    reads: VecDeque<(Read, History)>,
    clients: Vec<Client>,
    pumps: Vec<Calling>,
}

/// What carries a stream.
#[derive(Debug, Clone, Copy)]
enum Way {
    Socket,
    Holding,
    Calling,
}

struct Client {
    socket: TcpStream,
    after: u64,
    received: Vec<u8>,
}

const EVENT_BYTES: usize = 6000;

impl World {
    fn new(log_memory: usize) -> Self {
        let poll = Poll::new().unwrap();
        let config = HubConfig {
            heartbeat: Duration::from_secs(1),
            log_bytes: 6 * EVENT_BYTES,
            log_entries: 6,
            log_memory,
            max_lag_bytes: u64::MAX,
            lag_timeout: Duration::from_secs(3600),
            history_page: 3,
            unclean_close: true,
            max_rooms: 0,
            max_age: Duration::ZERO,
            access: false,
        };
        let registry = poll.registry().try_clone().unwrap();
        let times = Times::register(&prometheus::Registry::new()).unwrap();
        let node = Node::new(1, times, &RoomClasses::default());
        let (_, reports) = node.side(0).unwrap();
        let mut state = State::new(
            0,
            config,
            Arc::new(Nowhere),
            Rc::new(Marks),
            registry,
            reports,
        );
        state.supply(Supply::Live(true));
        let room = RoomName::parse("r").unwrap();
        Self {
            state,
            poll,
            room,
            stored: Vec::new(),
            given: 0,
            reads: VecDeque::new(),
            clients: Vec::new(),
            pumps: Vec::new(),
        }
    }

    fn last(&self) -> EventId {
        self.stored.last().and_then(Item::id).unwrap_or_default()
    }

    fn publish(&mut self, stored: bool) {
        let id = EventId::new(self.last().ms + 2, 0);
        let mut event = Event {
            id: Some(id),
            prev: Some(self.last()),
            name: Default::default(),
            data: vec![b'x'; EVENT_BYTES].into(),
            trace: None,
        };
        if stored {
            self.stored.push(Item::Event(event));
        } else {
            event.id = None;
            let items = vec![Item::Event(event)];
            self.give(usize::MAX);
            self.state.supply(Supply::Append {
                room: self.room.clone(),
                items,
                fan_out: None,
            });
        }
    }

    fn give(&mut self, count: usize) {
        self.give_traced(count, None);
    }

    fn give_traced(&mut self, count: usize, fan_out: Option<Arc<FanOut>>) {
        let end = self.stored.len().min(self.given.saturating_add(count));
        let items = self.stored[self.given..end].to_vec();
        self.given = end;
        self.state.supply(Supply::Append {
            room: self.room.clone(),
            items,
            fan_out,
        });
    }

    fn join(&mut self, back: usize, framing: Framing) {
        self.join_by(back, framing, Way::Socket);
    }

    fn join_by(&mut self, back: usize, framing: Framing, way: Way) {
        let after = self
            .stored
            .len()
            .checked_sub(back)
            .and_then(|at| self.stored.get(at))
            .and_then(Item::id)
            .unwrap_or_default();
        self.join_at(Position::After(after), after, framing, way);
    }

    fn join_at(&mut self, position: Position, after: EventId, framing: Framing, way: Way) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        socket.set_nonblocking(true).unwrap();
        let (server, _) = listener.accept().unwrap();
        server.set_nonblocking(true).unwrap();
        socket2::SockRef::from(&server)
            .set_send_buffer_size(4096)
            .unwrap();
        socket2::SockRef::from(&socket)
            .set_recv_buffer_size(32 * 1024)
            .unwrap();
        self.clients.push(Client {
            socket,
            after: after.ms,
            received: Vec::new(),
        });
        let wire = match way {
            Way::Socket => Wire::Socket(server),
            Way::Holding => Wire::Other(Box::new(Holding::new(server))),
            Way::Calling => {
                let calling = Calling::new(server);
                self.pumps.push(calling.clone());
                Wire::Other(Box::new(calling))
            }
        };
        self.state.adopt(Subscription {
            wire,
            room: self.room.clone(),
            position,
            framing,
            head: b"head".to_vec(),
            heartbeat_events: false,
            refused: None,
            trace: None,
            place: None,
            client: None,
            terms: Default::default(),
        });
        if self.state.room_subscribers(&self.room) == 1 && self.clients.len() == 1 {
            let head = self
                .stored
                .get(self.given.wrapping_sub(1))
                .and_then(Item::id)
                .unwrap_or_default();
            self.state.supply(Supply::Joined {
                room: self.room.clone(),
                head,
            });
        }
        self.collect();
    }

    /// Reads are answered from the stream as it is when they are started...
    fn collect(&mut self) {
        for read in std::mem::take(&mut self.state.reads) {
            let (all, last_id) = (&self.stored, self.last());
            let history = match read.query {
                HistoryQuery::Newest { limit } => {
                    let from = all.len().saturating_sub(limit);
                    History {
                        items: all[from..].to_vec(),
                        more: from > 0,
                        ..History::default()
                    }
                }
                HistoryQuery::After { after, limit } => {
                    let from = all.partition_point(|item| item.id().unwrap() <= after);
                    let to = all.len().min(from + limit);
                    let anchor_found = all.iter().any(|item| item.id() == Some(after));
                    History {
                        items: all[from..to].to_vec(),
                        more: to < all.len(),
                        anchor_found,
                        ..History::default()
                    }
                }
            };
            let oldest = all.first().and_then(Item::id);
            self.reads.push_back((
                read,
                History {
                    last_id,
                    oldest,
                    from_start: true,
                    ..history
                },
            ));
        }
    }

    /// ...and arrive whenever.
    fn answer(&mut self) {
        if let Some((read, history)) = self.reads.pop_front() {
            self.state.history(&read, Ok(Arc::new(history)));
        }
        self.collect();
    }

    fn turn(&mut self) {
        let mut events = Events::with_capacity(64);
        self.poll.poll(&mut events, Some(Duration::ZERO)).unwrap();
        for event in &events {
            self.state.ready(
                event.token().0,
                event.is_readable() || event.is_read_closed(),
                event.is_writable(),
            );
        }
        self.pumps.iter().for_each(Calling::pump);
        self.state.answer_calls(2);
        self.state.sweep(2);
        self.state.heartbeats();
        self.collect();
    }

    fn read(&mut self, client: usize, bytes: usize) -> bool {
        let Some(client) = self.clients.get_mut(client) else {
            return false;
        };
        let mut buffer = vec![0; bytes];
        match client.socket.read(&mut buffer) {
            Ok(0) => panic!("a stream was closed"),
            Ok(read) => client.received.extend_from_slice(&buffer[..read]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
            Err(error) => panic!("{error}"),
        }
        true
    }

    /// Until everyone has as many events as are due, or a deadline that says that it never comes.
    fn settle(&mut self) {
        self.give(usize::MAX);
        let deadline = std::time::Instant::now() + Duration::from_secs(60);
        for round in 0u32.. {
            if std::time::Instant::now() > deadline {
                break;
            }
            self.turn();
            self.answer();
            if round % 4 == 0 {
                self.state.tick();
            }
            for client in 0..self.clients.len() {
                while self.read(client, 1 << 16) {}
            }
            let due = |client: &Client| {
                let all = self.stored.iter().filter_map(Item::id);
                all.filter(|id| id.ms > client.after).count()
            };
            let count =
                |client: &Client, byte| client.received.iter().filter(|&&b| b == byte).count();
            let whole = |client: &Client| count(client, b'{') == count(client, b'}');
            let has = |client: &Client| count(client, b'[');
            if self.reads.is_empty() && self.clients.iter().all(|c| has(c) >= due(c) && whole(c)) {
                return;
            }
            std::thread::yield_now();
        }
    }

    fn check(&self) {
        for (index, client) in self.clients.iter().enumerate() {
            let text = String::from_utf8_lossy(&client.received);
            assert!(!text.contains("!reset"), "client {index} was reset");
            let mut ids = Vec::new();
            for part in text.split('[').skip(1) {
                ids.push(part.split(']').next().unwrap().parse::<u64>().unwrap());
            }
            let all = self.stored.iter().filter_map(Item::id).map(|id| id.ms);
            let expected: Vec<_> = all.filter(|&ms| ms > client.after).collect();
            assert_eq!(ids, expected, "client {index}, after {}", client.after);
            let body = text.split_once("head").unwrap().1;
            let whole = body.matches(['{', '~']).count() >= ids.len()
                && body.matches('{').count() == body.matches('}').count();
            assert!(whole, "client {index} got an event in pieces");
        }
    }
}

#[derive(Debug, Clone)]
enum Step {
    Publish,
    Pass,
    Give(usize),
    Join(usize, Framing, Way),
    /// Many at once, at different old positions.
    Herd(usize),
    Turn,
    Answer,
    Read(usize, usize),
    Tick,
}

fn framing() -> impl Strategy<Value = Framing> {
    prop_oneof![Just(Framing::Chunked), Just(Framing::Identity)]
}

fn way() -> impl Strategy<Value = Way> {
    prop_oneof![
        2 => Just(Way::Socket),
        1 => Just(Way::Holding),
        1 => Just(Way::Calling),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => Just(Step::Publish),
        1 => Just(Step::Pass),
        4 => (1usize..4).prop_map(Step::Give),
        2 => (0usize..25, framing(), way()).prop_map(|(back, framing, way)| Step::Join(back, framing, way)),
        1 => (2usize..10).prop_map(Step::Herd),
        6 => Just(Step::Turn),
        3 => Just(Step::Answer),
        4 => (0usize..MANY, 1usize..40000).prop_map(|(client, bytes)| Step::Read(client, bytes)),
        1 => Just(Step::Tick),
    ]
}

const MANY: usize = 16;

/// Heartbeats that a stream gets in so many ticks of 50 ms, and the longest time between two of them. The room has an
/// event every `every` ticks.
fn heartbeats(ticks: usize, every: usize) -> (usize, usize) {
    let mut world = World::new(1 << 20);
    world.join(0, Framing::Chunked);
    let (mut found, mut last, mut longest) = (0, 0, 0);
    for tick in 1..=ticks {
        world.state.tick();
        if tick % every == 0 {
            world.publish(true);
            world.give(1);
        }
        world.turn();
        world.answer();
        while world.state.heartbeats() {}
        while world.read(0, 1 << 16) {}
        let received = String::from_utf8_lossy(&world.clients[0].received);
        let now = received.matches("#!#").count();
        if now > found {
            (found, last, longest) = (now, tick, longest.max(tick - last));
        }
    }
    (found, longest)
}

#[test]
fn a_silent_stream_has_a_heartbeat_in_time() {
    // 20 ticks are the configured second.
    let (found, longest) = heartbeats(200, usize::MAX);
    assert!(
        found >= 10 && longest <= 20,
        "{found}, {longest} ticks apart"
    );
}

#[test]
fn a_stream_with_events_needs_no_heartbeat() {
    assert_eq!(heartbeats(200, 1).0, 0);
    // Where a second can pass without an event, there are heartbeats.
    assert!(heartbeats(200, 30).0 >= 5);
}

#[test]
fn heartbeats_come_a_few_at_a_time() {
    let mut world = World::new(1 << 20);
    for _ in 0..40 {
        world.join(0, Framing::Chunked);
    }
    let mut turns = 0;
    for _ in 0..20 {
        world.state.tick();
    }
    while world.state.heartbeats() {
        turns += 1;
    }
    assert!(turns >= 9, "40 heartbeats in {turns} turns");
    for client in 0..40 {
        while world.read(client, 1 << 16) {}
        let received = String::from_utf8_lossy(&world.clients[client].received);
        assert!(received.contains("#!#"), "{received}");
    }
}

/// What the memory limit goes by is what the rooms' logs hold, whatever happened to them.
#[test]
fn a_room_that_was_reset_and_left_holds_no_memory() {
    let mut world = World::new(1 << 20);
    world.join(0, Framing::Chunked);
    let reset = Reset {
        reason: ResetReason::Deleted,
        after: EventId::ZERO,
        resume: EventId::new(9, 0),
        id: EventId::new(9, 0).into(),
    };
    let room = world.room.clone();
    world.state.supply(Supply::Reset { room, reset });
    let held: usize = world.state.rooms.iter().map(|(_, r)| r.log.memory()).sum();
    assert!(held > 0);
    assert_eq!(world.state.log_bytes, held);
    world.clients.clear();
    while world.state.room_subscribers(&world.room) > 0 {
        world.turn();
    }
    while !world.state.rooms.is_empty() {
        world.state.tick();
    }
    assert_eq!(world.state.log_bytes, 0);
}

/// There is an event before each pass over the room is at its end: each event's span ends all the same, with the pass
/// that carried it.
#[test]
fn a_room_that_is_never_done_keeps_no_spans() {
    let mut world = World::new(1 << 20);
    for _ in 0..5 {
        world.join(0, Framing::Chunked);
    }
    let traces = Traces::from(SdkTracerProvider::default().tracer("test"));
    let text = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let event = Event {
        trace: TraceParent::parse(text),
        ..Event::default()
    };
    for _ in 0..100 {
        world.publish(true);
        let fan_out = traces.fan_out(&world.room, [&event]);
        assert!(fan_out.is_some());
        // Five streams, of which a turn writes to two.
        world.give_traced(1, fan_out);
        world.turn();
        for client in 0..5 {
            while world.read(client, 1 << 16) {}
        }
        let kept = world.state.fan_outs.len();
        assert!((1..=6).contains(&kept), "{kept}");
    }
    let measured = world.state.times.fanout.get_sample_count();
    assert!(measured >= 30, "{measured} passes in 100 turns");
    for _ in 0..6 {
        world.turn();
    }
    assert!(world.state.fan_outs.is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, max_shrink_iters: 60, ..ProptestConfig::default() })]
    #[test]
    fn every_client_gets_everything_once_and_in_order(
        steps in proptest::collection::vec(step(), 1..150),
        // Room for one page, for some, for all.
        memory in prop_oneof![Just(1usize << 14), Just(1 << 17), Just(1 << 20)],
    ) {
        let mut world = World::new(memory);
        world.join(0, Framing::Chunked);
        for step in steps {
            match step {
                Step::Publish => world.publish(true),
                Step::Pass => world.publish(false),
                Step::Give(count) => world.give(count),
                Step::Join(back, framing, way) if world.clients.len() < MANY => {
                    world.join_by(back, framing, way);
                }
                Step::Join(..) => {}
                Step::Herd(count) => {
                    for number in 0..count.min(MANY - world.clients.len()) {
                        let framing = if number % 3 == 0 { Framing::Identity } else { Framing::Chunked };
                        world.join(world.stored.len().saturating_sub(number * 2), framing);
                    }
                }
                Step::Turn => world.turn(),
                Step::Answer => world.answer(),
                Step::Read(client, bytes) => drop(world.read(client, bytes)),
                Step::Tick => world.state.tick(),
            }
            world.collect();
        }
        world.settle();
        world.check();
    }
}

/// While the broker is away, clients that come and go leave nothing behind.
#[test]
fn those_who_went_while_they_waited_are_forgotten() {
    let mut world = World::new(1 << 20);
    world.state.supply(Supply::Live(false));
    for _ in 0..5 {
        world.join(0, Framing::Chunked);
        world.clients.clear();
        while world.state.room_subscribers(&world.room) > 0 {
            world.turn();
        }
    }
    world.join(0, Framing::Chunked);
    world.state.forget_gone();
    assert_eq!(world.state.dark.len(), 1);
}

//! Streams with a user and an end: how many a user and a room may have, when they end, and who is disconnected.

use super::super::leaving::PARTING_TICKS;
use super::super::node::StreamRules;
use super::*;

/// A world whose streams keep to `rules`.
fn world(rules: StreamRules) -> (World, Node) {
    let mut world = World::new(1 << 20);
    let times = Times::register(&prometheus::Registry::new()).unwrap();
    let node = Node::new(1, times, &RoomClasses::default());
    node.set_rules(rules);
    let (_, reports) = node.side(0).unwrap();
    world.state.rules = reports.rules;
    world.state.users = reports.users;
    world.state.disconnects = reports.disconnects;
    (world, node)
}

fn terms(user: &str, issued: u64) -> Terms {
    Terms {
        user: Some(user.into()),
        issued: Some(issued),
        ends: None,
    }
}

impl World {
    /// A stream on these terms, as its client sees it.
    fn come(&mut self, room: &str, terms: Terms) -> TcpStream {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let server = listener.accept().unwrap().0;
        server.set_nonblocking(true).unwrap();
        self.state.adopt(Subscription {
            wire: Wire::Socket(server),
            room: RoomName::parse(room).unwrap(),
            position: Position::New,
            framing: Framing::Chunked,
            head: b"head".to_vec(),
            heartbeat_events: false,
            refused: None,
            trace: None,
            place: None,
            client: None,
            terms,
        });
        client
    }

    fn open(&self) -> usize {
        self.state.subscribers.len()
    }

    /// Whether the client's stream has ended.
    fn ended(&mut self, mut client: &TcpStream) -> bool {
        for _ in 0..PARTING_TICKS {
            self.state.tick();
        }
        client
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        client.read_to_end(&mut Vec::new()).is_ok()
    }
}

fn order(whom: Whom, at_ms: u64) -> Disconnect {
    Disconnect { whom, at_ms }
}

#[test]
fn a_user_and_a_room_have_so_many_streams() {
    let (mut world, node) = world(StreamRules {
        per_user: 2,
        per_room: 3,
        ..StreamRules::default()
    });
    let first = world.come("a", terms("ann", 1));
    let _second = world.come("b", terms("ann", 1));
    let third = world.come("c", terms("ann", 1));
    assert!(world.ended(&third) && world.open() == 2);
    drop(first);
    while world.open() > 1 {
        world.turn();
    }
    let _again = world.come("a", terms("ann", 1));
    let _bob = world.come("a", terms("bob", 1));
    let _anyone = world.come("a", Terms::default());
    let full = world.come("a", Terms::default());
    assert!(world.ended(&full) && world.open() == 4);
    let counts = &world.state.counters;
    for count in [&counts.refused_user, &counts.refused_room] {
        assert_eq!(count.load(std::sync::atomic::Ordering::Relaxed), 1);
    }
    node.set_rules(StreamRules::default());
    let _more = world.come("a", terms("ann", 1));
    assert_eq!(world.open(), 5);
}

#[test]
fn permissions_that_end_together_end_within_the_leeway() {
    let (mut world, _) = world(StreamRules {
        leeway: Duration::from_secs(30),
        ..StreamRules::default()
    });
    let ends = crate::auth::unix_now() + 3600;
    let until = |ends| Terms {
        ends: Some(ends),
        ..Terms::default()
    };
    let clients: Vec<_> = (0..64).map(|_| world.come("a", until(ends))).collect();
    let drawn = world.state.ends.drawn();
    assert!(
        drawn
            .iter()
            .all(|at| (ends * 1000..=(ends + 30) * 1000).contains(at))
    );
    assert!(drawn[0] < drawn[63] - 1000, "{drawn:?}");
    // Long over, and more than there is.
    let over = world.come("a", until(1));
    let _never = world.come("a", until(u64::MAX));
    world.state.tick();
    assert!(world.ended(&over));
    assert_eq!(world.open(), 65);
    drop(clients);
}

#[test]
fn a_disconnect_ends_what_is_from_before_and_lets_nothing_slip_through() {
    let (mut world, node) = world(StreamRules::default());
    let ann = world.come("a", terms("ann", 100));
    let _later = world.come("a", terms("ann", 101));
    let _bob = world.come("a", terms("bob", 100));
    let anyone = world.come("b", Terms::default());
    let token = world.come("b", terms("bob", 100));
    let _fresh = world.come("b", terms("bob", 101));
    let orders = vec![
        order(Whom::read("user", "ann").unwrap(), 100_999),
        order(Whom::read("room", "b").unwrap(), 100_999),
        order(Whom::read("user", "nobody").unwrap(), 100_999),
        order(Whom::read("room", "none").unwrap(), 100_999),
    ];
    let news = node.disconnects().note(orders, 0);
    // On its way when the order came: the shard has not closed it, and does not let it in.
    let slow = world.come("a", terms("ann", 100));
    let other = world.come("b", terms("eve", 100));
    assert!(world.ended(&slow) && world.ended(&other) && world.open() == 6);
    world.state.disconnect(&news);
    assert!(world.ended(&ann) && world.ended(&anyone) && world.ended(&token));
    assert_eq!(world.open(), 3);
    let closed = &world.state.counters.closed_disconnected;
    assert_eq!(closed.load(std::sync::atomic::Ordering::Relaxed), 5);
    // Whoever may come at any time comes back, and so does a later permission.
    let _back = world.come("b", Terms::default());
    let _ann = world.come("a", terms("ann", 101));
    assert_eq!(world.open(), 5);
}

#[test]
fn a_permission_from_a_clock_that_is_ahead_does_not_outlast_a_disconnect() {
    let (mut world, node) = world(StreamRules {
        leeway: Duration::from_secs(30),
        ..StreamRules::default()
    });
    let (ann, bob) = (
        world.come("a", terms("ann", 130)),
        world.come("b", terms("bob", 130)),
    );
    let _later = world.come("a", terms("ann", 131));
    let orders = vec![
        order(Whom::read("user", "ann").unwrap(), 100_999),
        order(Whom::read("room", "b").unwrap(), 100_999),
    ];
    world.state.disconnect(&node.disconnects().note(orders, 0));
    assert!(world.ended(&ann) && world.ended(&bob));
    assert_eq!(world.open(), 1);
    // It may be a later one: it is let in.
    let _back = world.come("a", terms("ann", 130));
    assert_eq!(world.open(), 2);
}

#[test]
fn the_last_word_has_a_moment_before_the_stream_breaks_off() {
    let (mut world, node) = world(StreamRules::default());
    let mut ann = world.come("a", terms("ann", 100));
    let orders = vec![order(Whom::read("user", "ann").unwrap(), 100_999)];
    world.state.disconnect(&node.disconnects().note(orders, 0));
    assert_eq!(world.open(), 0);
    ann.set_nonblocking(true).unwrap();
    let mut text = Vec::new();
    for _ in 1..PARTING_TICKS {
        world.state.tick();
        let read = ann.read_to_end(&mut text);
        assert_eq!(read.unwrap_err().kind(), ErrorKind::WouldBlock);
    }
    assert_eq!(String::from_utf8_lossy(&text), "head#!#");
    world.state.tick();
    assert_eq!(ann.read(&mut [0]).unwrap(), 0);
}

#[test]
fn a_large_room_leaves_in_parts_within_half_a_second() {
    let (mut world, node) = world(StreamRules::default());
    let clients: Vec<_> = (0..600)
        .map(|_| world.come("a", Terms::default()))
        .collect();
    let orders = vec![order(Whom::read("room", "a").unwrap(), 1)];
    world.state.disconnect(&node.disconnects().note(orders, 0));
    assert!((1..600).contains(&world.open()));
    for _ in 0..10 {
        world.state.tick();
    }
    assert_eq!(world.open(), 0);
    drop(clients);
}

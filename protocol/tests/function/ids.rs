//! The ids that the function gives: they rise, and two servers do not give the same one.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use protocol::EventId;

use super::support::Server;
use super::{Publisher, Way, both, data};

/// Two servers as two primaries side by side, with classes of ids of their own. They draw them: the same one once in 65,535 times.
fn two_primaries(servers: &[Server; 2], way: Way) -> [Publisher; 2] {
    let mut publishers = servers.each_ref().map(|server| Publisher::new(server, way));
    for _ in 0..3 {
        let [first, second] = publishers.each_mut().map(Publisher::class);
        if first != second {
            break;
        }
        publishers[1].load();
    }
    publishers
}

fn milliseconds(ids: &[EventId]) -> HashSet<u64> {
    ids.iter().map(|id| id.ms).collect()
}

#[test]
fn two_servers_never_give_one_id() {
    // As two primaries side by side: the same room, the same milliseconds.
    let servers = [Server::start(), Server::start()];
    for way in [Way::Function, Way::Script] {
        let mut publishers = two_primaries(&servers, way);
        let mut ids = [Vec::new(), Vec::new()];
        let start = Instant::now();
        let mut are_beside = false;
        while !are_beside {
            assert!(start.elapsed() < Duration::from_secs(30));
            for number in 0..500 {
                for (publisher, ids) in publishers.iter_mut().zip(&mut ids) {
                    ids.push(publisher.publish(data(&number.to_string())).0);
                }
            }
            let [first, second] = ids.each_ref().map(|ids| milliseconds(ids));
            are_beside = first.intersection(&second).count() > 100;
        }
        let [first, second] = ids.each_ref().map(|ids| ids.iter().collect::<HashSet<_>>());
        // A script draws a number for each event.
        let twins = first.intersection(&second).count();
        let most = if matches!(way, Way::Script) { 3 } else { 0 };
        assert!(twins <= most, "{twins}, {way:?}");
    }
}

#[test]
fn two_servers_that_are_behind_their_stream_never_give_one_id() {
    let servers = [Server::start(), Server::start()];
    let mut publishers = two_primaries(&servers, Way::Function);
    for ahead in ["9999999999999-3", "10000000000000-3", "1790000000000000-0"] {
        let ids = publishers.each_mut().map(|publisher| {
            publisher.ask::<()>(&["DEL", "sse:room:r"]);
            let _: String = publisher.ask(&["XADD", "sse:room:r", ahead, "data", "plain"]);
            [(); 3].map(|()| publisher.publish(data("x")).0)
        });
        let [first, second] = ids.map(HashSet::from);
        assert!(first.is_disjoint(&second), "{first:?} and {second:?}");
    }
}

#[test]
fn a_library_that_is_loaded_again_has_another_class() {
    let server = Server::start();
    let mut publisher = Publisher::new(&server, Way::Function);
    let before = publisher.class();
    // It draws.
    let is_another = (0..3).any(|_| {
        publisher.load();
        publisher.class() != before
    });
    assert!(is_another);
}

#[test]
fn a_server_numbers_its_events_with_a_residue_class_of_its_own() {
    let server = Server::start();
    let mut publisher = Publisher::new(&server, Way::Function);
    let mut residues = HashSet::new();
    let mut last = EventId::ZERO;
    for number in 0..1_000 {
        let (id, prev, _) = publisher.publish(data(&number.to_string()));
        assert!(id > last, "{id} after {last}");
        assert_eq!(prev, last.to_string());
        residues.insert(id.seq % 65_536);
        // Redis's own numbers go on from there, and the next ones come back to the class.
        last = id;
        if number % 3 == 0 {
            let id: String = publisher.ask(&["XADD", "sse:room:r", "*", "data", "plain"]);
            last = EventId::parse(id.as_bytes()).unwrap();
        }
    }
    assert_eq!(residues.len(), 1, "{residues:?}");
    assert!(!residues.contains(&0), "the class of a plain XADD");
}

#[test]
fn ids_rise_where_the_clock_is_behind_the_stream() {
    both(|_, publisher| {
        for (ahead, same_ms) in [
            ("9999999999999-0", true),
            ("9999999999999-70000", true),
            ("9999999999999-9007199254740992", true),
            ("9999999999999-18446744073709551613", true),
            // More digits than a time of our days has.
            ("10000000000000-3", true),
            ("5-1", false),
        ] {
            publisher.ask::<()>(&["DEL", "sse:room:r"]);
            let _: String = publisher.ask(&["XADD", "sse:room:r", ahead, "data", "plain"]);
            let ahead = EventId::parse(ahead.as_bytes()).unwrap();
            let (first, prev, _) = publisher.publish(data("one"));
            assert_eq!(prev, ahead.to_string());
            assert!(first > ahead, "{first} after {ahead}");
            assert_eq!(first.ms == ahead.ms, same_ms, "{first} after {ahead}");
            if ahead.seq < 1 << 63 {
                let (second, ..) = publisher.publish(data("two"));
                assert!(second > first, "{second} after {first}");
            }
        }
    });
}

#[test]
fn ids_rise_where_the_newest_entries_were_deleted() {
    both(|_, publisher| {
        for last in ["9999999999999-5", "5-5"] {
            publisher.ask::<()>(&["DEL", "sse:room:r"]);
            let _: String = publisher.ask(&["XADD", "sse:room:r", "3-0", "data", "old"]);
            let _: String = publisher.ask(&["XADD", "sse:room:r", last, "data", "gone"]);
            let _: i64 = publisher.ask(&["XDEL", "sse:room:r", last]);
            let gone = EventId::parse(last.as_bytes()).unwrap();
            let (id, prev, _) = publisher.publish(data("one"));
            assert!(id > gone, "{id} after {gone}");
            assert_eq!(prev, "3-0");
        }
    });
}

#[test]
fn a_stream_at_the_greatest_id_takes_no_more_and_says_so() {
    both(|_, publisher| {
        let greatest = EventId::MAX.to_string();
        let _: String = publisher.ask(&["XADD", "sse:room:r", &greatest, "data", "last"]);
        let refused = publisher.call::<String>("sse:room:r", &data("more").to_args());
        let refused = refused.unwrap_err().to_string();
        assert!(
            refused.contains("exhausted the last possible ID"),
            "{refused}"
        );
    });
}

//! Two primaries for a moment: what a shard reads and what it hears come from one each.

use protocol::last_event_id::ANY_MARK;

use super::*;

/// A stream of these ids.
fn stream(ids: &[u64]) -> Vec<Item> {
    let mut prev = EventId::ZERO;
    let item = |&ms: &u64| {
        let id = EventId::new(ms, 0);
        Item::Event(Event {
            id: Some(id),
            prev: Some(std::mem::replace(&mut prev, id)),
            ..Event::default()
        })
    };
    ids.iter().map(item).collect()
}

impl World {
    /// A room with these ids, of which its log has those after the second one.
    fn with(ids: &[u64]) -> Self {
        let mut world = Self::new(1 << 20);
        world.stored = stream(&ids[..2]);
        world.given = 2;
        world.join(1, Framing::Identity);
        world.stored = stream(ids);
        world.give(usize::MAX);
        world
    }

    /// Time passes while another primary with these ids answers.
    fn asks(&mut self, ids: &[u64], ticks: usize) {
        self.stored = stream(ids);
        for _ in 0..ticks {
            self.state.tick();
            self.collect();
            while !self.reads.is_empty() {
                self.answer();
            }
            for _ in 0..4 {
                self.turn();
            }
        }
    }

    /// What the last client has got, in short.
    fn heard(&mut self) -> String {
        let last = self.clients.len() - 1;
        while self.read(last, 1 << 16) {}
        let bytes = std::mem::take(&mut self.clients[last].received);
        let text = String::from_utf8(bytes).unwrap();
        // What else the gateway sends, heartbeats too, is one mark.
        let text = text.replace("head", "").replace("!open!", "");
        text.replace("!reset:", "reset ").replace('!', "")
    }
}

#[test]
fn a_page_of_the_old_primary_does_not_lead_into_the_log_of_the_new_one() {
    let old = [2, 4, 8, 12, 14];
    let mut world = World::with(&[2, 4, 10]);
    world.stored = stream(&old);
    // It has 8, of the old one.
    world.join(3, Framing::Identity);
    world.asks(&old, 5);
    assert_eq!(world.heard(), "", "nothing is sure yet");
    world.asks(&[2, 4, 10], 2);
    assert_eq!(world.heard(), "reset Unknown");
    world.stored = stream(&[2, 4, 10, 13]);
    world.given = 3;
    world.give(1);
    world.turn();
    assert_eq!(world.heard(), "{[13]}");
}

#[test]
fn a_position_of_the_new_primary_waits_for_a_node_that_hears_the_old_one() {
    let new = [2, 4, 10, 12];
    let mut world = World::with(&[2, 4, 8, 14]);
    world.stored = stream(&new);
    // It has 10, of the new one.
    world.join(2, Framing::Identity);
    world.asks(&new, 5);
    assert_eq!(world.heard(), "", "14 does not follow");
    let (room, after) = (world.room.clone(), EventId::new(4, 0));
    let reset = Reset {
        reason: ResetReason::Fork,
        after,
        resume: after,
        id: after.into(),
    };
    world.state.supply(Supply::Reset { room, reset });
    world.given = 2;
    world.give(usize::MAX);
    world.asks(&new, 2);
    assert_eq!(world.heard(), "{[12]}");
}

/// Another node handed on more of the lost branch than this one.
#[test]
fn a_position_beyond_what_is_left_is_told_and_kept_from_a_repeat() {
    let mut world = World::with(&[2, 4, 8]);
    world.stored = stream(&[2, 4, 8, 12]);
    world.join(1, Framing::Identity);
    world.asks(&[2, 4], 5);
    assert_eq!(world.heard(), "", "the old primary may still be heard");
    // Its clock is behind: a lower id than the client has.
    let new = [2, 4, 9];
    world.stored = stream(&new);
    world.given = 2;
    world.give(usize::MAX);
    world.asks(&new, 2);
    assert_eq!(world.heard(), "reset Future at 9-0~12-0~00000000");
    world.stored = stream(&[2, 4, 9, 11]);
    world.given = 3;
    world.give(1);
    world.turn();
    assert_eq!(world.heard(), "{[11]}", "it follows the node");
}

/// The old primary answered while the log had only what both have; the new one goes on with lower ids.
#[test]
fn what_is_below_a_lost_position_is_not_left_out_in_silence() {
    let old = [2, 4, 8, 12];
    let mut world = World::with(&[2, 4]);
    world.stored = stream(&old);
    world.join(1, Framing::Identity);
    world.asks(&old, 2);
    let new = [2, 4, 9];
    world.stored = stream(&new);
    world.given = 2;
    world.give(usize::MAX);
    world.asks(&new, 2);
    assert_eq!(world.heard(), "", "perhaps the log comes to 12");
    let new = [2, 4, 9, 13];
    world.stored = stream(&new);
    world.given = 3;
    world.give(1);
    world.asks(&new, 3);
    assert_eq!(world.heard(), "reset Unknown", "through 13");
}

/// The same where nothing more comes.
#[test]
fn who_is_ahead_of_another_stream_is_told_in_time() {
    let old = [2, 4, 8, 12];
    let mut world = World::with(&[2, 4]);
    world.stored = stream(&old);
    world.join(1, Framing::Identity);
    world.asks(&old, 2);
    let new = [2, 4, 9];
    world.stored = stream(&new);
    world.given = 2;
    world.give(usize::MAX);
    world.asks(&new, 60);
    assert_eq!(world.heard(), "reset Future at 9-0~12-0~00000000");
}

/// A reset says where the new primary goes on, and what its client has of the old one: nodes that follow either give it what
/// comes after that, once.
#[test]
fn who_was_sent_back_by_a_failover_goes_on_wherever_it_comes_to() {
    let (old, resume) = ([2, 4, 8, 12], EventId::new(4, 0));
    let last = stream(&old).pop().unwrap();
    let fork = Position::Fork(ForkId {
        resume,
        seen: last.id().unwrap(),
        mark: last.mark().unwrap().get(),
    });
    for (ids, heard) in [
        // The old primary's.
        (vec![2, 4, 8, 12], ""),
        (vec![2, 4, 8, 12, 14], "{[14]}"),
        // The new one's, before it has anything else, and with what it has.
        (vec![2, 4], ""),
        (vec![2, 4, 9, 10], "{[9]}{[10]}"),
        // The same id, but not the same event.
        (vec![2, 4, 9, 12], "{[9]}{[12]}"),
        // Nothing that it has is there any more.
        (vec![20, 22], "reset Trimmed{[20]}{[22]}"),
    ] {
        let mut world = World::with(&ids);
        world.join_at(fork.clone(), resume, Framing::Identity, Way::Socket);
        world.asks(&ids, 3);
        assert_eq!(world.heard(), heard, "where there is {ids:?}");
    }
}

fn fork(resume: u64, seen: u64, mark: u32) -> Position {
    Position::Fork(ForkId {
        resume: EventId::new(resume, 0),
        seen: EventId::new(seen, 0),
        mark,
    })
}

impl World {
    fn join_after_fork(&mut self, resume: u64, seen: u64) {
        let after = EventId::new(resume, 0);
        let position = fork(resume, seen, ANY_MARK);
        self.join_at(position, after, Framing::Identity, Way::Socket);
    }

    /// The room goes on with these ids after 4.
    fn parts(&mut self, new: &[u64]) {
        let (room, resume) = (self.room.clone(), EventId::new(4, 0));
        let reset = Reset {
            reason: ResetReason::Fork,
            after: resume,
            resume,
            id: resume.into(),
        };
        self.state.supply(Supply::Reset { room, reset });
        self.stored = stream(new);
        self.given = 2;
        self.give(usize::MAX);
        self.asks(new, 3);
    }
}

/// A page that ends before what the client has does not say that the stream has it not.
#[test]
fn an_old_page_does_not_speak_of_what_came_after_it() {
    let old = [2, 4, 8, 12];
    let mut world = World::with(&old[..3]);
    world.join_after_fork(4, 8);
    world.asks(&old[..3], 2);
    assert_eq!((world.heard().as_str(), world.state.pages.len()), ("", 1));
    world.stored = stream(&old);
    world.given = 3;
    world.give(1);
    world.join_after_fork(4, 12);
    world.asks(&old, 2);
    assert_eq!(world.heard(), "");
}

/// Nor does one that begins further back, for somebody else.
#[test]
fn a_page_that_ends_on_the_way_says_nothing() {
    let old = [2, 4, 6, 8, 10, 12, 14, 16];
    let mut world = World::with(&old);
    world.join_after_fork(2, 99);
    world.join_after_fork(8, 14);
    world.asks(&old, 4);
    assert_eq!(world.heard(), "{[16]}");
    world.clients.pop();
    assert!(world.heard().starts_with("{[4]}{[6]}{[8]}"));
}

/// Who came by such an id is asked again when its node hears of the failover too: it is told, and gets what all others get.
#[test]
fn who_was_sent_back_goes_on_with_the_room_when_that_parts() {
    let old = [2, 4, 8, 12];
    let mut world = World::with(&old);
    world.join_after_fork(4, 12);
    world.asks(&old, 3);
    assert_eq!(world.heard(), "");
    world.parts(&[2, 4, 9, 10]);
    let told = "reset Fork at 4-0~12-0~00000000";
    assert_eq!(world.heard(), format!("{told}{{[9]}}{{[10]}}"));
}

/// It has 9, of the new primary, and comes to a node that does not know of that one yet.
#[test]
fn a_position_that_the_old_primary_does_not_know_counts_again_after_the_failover() {
    for (id, new, after) in [
        (
            9,
            vec![2, 4, 9, 10],
            "reset Fork at 9-0~16-0~00000000{[10]}",
        ),
        (
            15,
            vec![2, 4, 9, 10, 15, 17],
            "reset Fork at 15-0~16-0~00000000{[17]}",
        ),
        // It was of neither: it goes on with what follows what both have.
        (9, vec![2, 4, 10], "reset Fork at 4-0~16-0~00000000{[10]}"),
    ] {
        // The node may hear of 12 before the client comes, or later.
        for heard_first in [true, false] {
            let mut world = World::with(&[2, 4, 8]);
            let old = [2, 4, 8, 12];
            world.stored = stream(&old);
            world.give(usize::from(heard_first));
            let came = EventId::new(id, 0);
            world.join_at(Position::After(came), came, Framing::Identity, Way::Socket);
            world.asks(&old, 3);
            assert!(world.heard().starts_with("reset "));
            world.stored = stream(&[2, 4, 8, 12, 16]);
            world.give(usize::MAX);
            world.turn();
            assert_eq!(world.heard(), "{[16]}", "12 is not given again");
            world.parts(&new);
            assert_eq!(world.heard(), after, "{id} and {new:?}");
        }
    }
}

/// 5 is of both primaries, and the client has it; the node has not heard it yet.
#[test]
fn what_the_stream_has_beyond_the_log_is_not_given_to_who_may_have_it() {
    let new = [2, 4, 5];
    let mut world = World::with(&[2, 4]);
    world.stored = stream(&new);
    let came = EventId::new(12, 0);
    world.join_at(Position::After(came), came, Framing::Identity, Way::Socket);
    world.asks(&new, 3);
    assert_eq!(world.heard(), "reset Future at 5-0~12-0~00000000");
    let new = [2, 4, 5, 9];
    world.stored = stream(&new);
    world.given = 2;
    world.give(usize::MAX);
    world.asks(&new, 3);
    assert_eq!(world.heard(), "{[9]}");
}

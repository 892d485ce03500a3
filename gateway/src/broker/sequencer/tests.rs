//! Cases one by one; `model.rs` has what holds for all.

use protocol::{Event, EventId};

use super::*;

fn id(ms: u64) -> EventId {
    EventId::new(ms, 0)
}

fn item(ms: u64, prev: Option<u64>) -> Item {
    Item::Event(Event {
        id: Some(id(ms)),
        prev: prev.map(id),
        name: Default::default(),
        data: ms.to_string().into(),
        trace: None,
    })
}

fn ephemeral() -> Event {
    Event {
        id: None,
        prev: None,
        name: Default::default(),
        data: Default::default(),
        trace: None,
    }
}

fn message(ms: u64, prev: u64) -> Message {
    Message {
        item: item(ms, Some(prev)),
        prev: Some(id(prev)),
    }
}

fn joined_at(head: u64) -> Sequencer {
    let (mut room, mut out) = (Sequencer::default(), Vec::new());
    room.confirmed(&mut out);
    let history = History {
        last_id: id(head),
        ..History::default()
    };
    let tail = Tail {
        exists: head > 0,
        history,
        ..Tail::default()
    };
    room.read(Some(tail), &mut out);
    assert_eq!(room.head(), Some(id(head)));
    room
}

/// `items` after the position that was asked for.
fn tail(items: &[(u64, Option<u64>)], last: u64, oldest: Option<u64>) -> Tail {
    Tail {
        deleted: None,
        anchor: None,
        exists: true,
        added: None,
        length: items.len() as u64,
        history: History {
            items: items.iter().map(|&(ms, prev)| item(ms, prev)).collect(),
            last_id: id(last),
            oldest: oldest.map(id),
            ..History::default()
        },
    }
}

/// Outputs in a short form: reads as `r7`, appended ids as `7`, resets as `trimmed 7..9`.
fn short(out: &mut Vec<Output>) -> String {
    let words = out.drain(..).map(|output| match output {
        Output::Read(Read::Head) => "rhead".to_owned(),
        Output::Read(Read::After(after)) => format!("r{}", after.ms),
        Output::Read(Read::Around(last)) => format!("c{}", last.ms),
        Output::RetryLater => "later".to_owned(),
        Output::Joined(head) => format!("joined{}", head.ms),
        Output::Append(item) => item.id().map_or("e".to_owned(), |id| id.ms.to_string()),
        Output::Reset(reset) => {
            format!("{:?} {}..{}", reset.reason, reset.after.ms, reset.resume.ms)
        }
    });
    words.collect::<Vec<_>>().join(" ")
}

#[test]
fn a_message_that_names_the_head_needs_no_read() {
    let (mut room, mut out) = (joined_at(5), Vec::new());
    room.signal();
    room.message(message(6, 5), &mut out);
    room.message(message(8, 6), &mut out);
    // The entry 8 was deleted, so the next one names an earlier one.
    room.message(message(9, 6), &mut out);
    room.message(message(9, 6), &mut out);
    assert_eq!(short(&mut out), "6 8 9");
    assert!(!room.is_unsettled());
}

#[test]
fn a_hole_is_read_once_and_messages_wait() {
    let (mut room, mut out) = (joined_at(5), Vec::new());
    room.message(message(8, 7), &mut out);
    room.message(message(9, 8), &mut out);
    room.message(
        Message {
            item: Item::Event(ephemeral()),
            prev: None,
        },
        &mut out,
    );
    assert_eq!(short(&mut out), "r5");
    room.read(
        Some(tail(&[(7, Some(5)), (8, Some(7))], 8, Some(1))),
        &mut out,
    );
    assert_eq!(short(&mut out), "7 8 9 e");
}

#[test]
fn a_failed_read_is_asked_for_again() {
    let (mut room, mut out) = (joined_at(5), Vec::new());
    room.message(message(8, 7), &mut out);
    room.read(None, &mut out);
    assert_eq!(short(&mut out), "r5 later");
    room.retry(&mut out);
    room.read(Some(tail(&[(8, Some(5))], 8, Some(1))), &mut out);
    room.retry(&mut out);
    assert_eq!(short(&mut out), "r5 8");
}

#[test]
fn a_surplus_of_signals_is_read() {
    let (mut room, mut out) = (joined_at(5), Vec::new());
    room.signal();
    room.signal();
    room.message(message(6, 5), &mut out);
    assert!(room.is_unsettled());
    room.settle(&mut out);
    assert_eq!(short(&mut out), "6 r6");
    room.read(Some(tail(&[(7, None)], 7, Some(1))), &mut out);
    assert_eq!(short(&mut out), "7");
    assert!(room.take_plain() && !room.is_unsettled());
}

#[test]
fn a_position_is_judged_by_what_is_left() {
    for (tail, expected) in [
        (tail(&[(7, Some(5))], 7, Some(7)), "7"),
        (tail(&[(7, Some(3))], 7, Some(2)), "7"),
        (tail(&[(7, None)], 7, Some(4)), "7"),
        (tail(&[(7, None)], 7, Some(7)), "Trimmed 5..6 7"),
        (tail(&[(7, Some(6))], 7, Some(7)), "Trimmed 5..6 7"),
        (tail(&[], 9, None), "Trimmed 5..9"),
        (tail(&[], 5, None), ""),
        (Tail::default(), "Deleted 5..0"),
    ] {
        let (mut room, mut out) = (joined_at(5), Vec::new());
        room.confirmed(&mut out);
        out.clear();
        room.read(Some(tail.clone()), &mut out);
        assert_eq!(short(&mut out), expected, "{tail:?}");
    }
    let (mut room, mut out) = (joined_at(5), Vec::new());
    room.confirmed(&mut out);
    let mut anew = tail(&[(7, Some(0)), (8, Some(7))], 8, Some(7));
    anew.history.from_start = true;
    room.read(Some(anew), &mut out);
    assert_eq!(short(&mut out), "r5 Deleted 5..0 7 8");
}

#[test]
fn counting_proves_what_trimming_hides() {
    let (mut room, mut out) = (joined_at(5), Vec::new());
    room.counted = Some(40);
    room.confirmed(&mut out);
    let mut read = tail(&[(7, None), (8, None)], 8, Some(7));
    read.added = Some(42);
    room.read(Some(read), &mut out);
    assert_eq!(short(&mut out), "r5 7 8");
}

#[test]
fn a_fork_is_told_only_when_ids_go_back() {
    // A replica without 6 and 7 was promoted; the clock is right.
    let (mut room, mut out) = (joined_at(7), Vec::new());
    room.lost();
    room.confirmed(&mut out);
    room.read(Some(tail(&[], 5, Some(1))), &mut out);
    room.message(message(9, 5), &mut out);
    assert_eq!(short(&mut out), "r7 9");
    // The same, but the clock went back.
    let (mut room, mut out) = (joined_at(7), Vec::new());
    room.confirmed(&mut out);
    room.read(Some(tail(&[], 5, Some(1))), &mut out);
    room.message(message(4, 3), &mut out);
    room.message(message(6, 5), &mut out);
    assert_eq!(short(&mut out), "r7 Fork 5..5 r5");
    room.read(Some(tail(&[(6, Some(5))], 6, Some(1))), &mut out);
    assert_eq!(short(&mut out), "6");
    // And found by a read.
    let (mut room, mut out) = (joined_at(7), Vec::new());
    room.confirmed(&mut out);
    room.read(Some(tail(&[], 5, Some(1))), &mut out);
    room.confirmed(&mut out);
    let mut branch = tail(&[(6, Some(5)), (9, Some(6))], 9, Some(1));
    branch.history.anchor_found = true;
    room.read(Some(branch), &mut out);
    assert_eq!(short(&mut out), "r7 r5 Fork 5..5 6 9");
    // Who is told so brings back what it has of the lost branch.
    let (mut room, mut out) = (joined_at(5), Vec::new());
    let lost = message(7, 5);
    let mark = lost.item.mark().unwrap().get();
    room.message(lost, &mut out);
    room.confirmed(&mut out);
    room.read(Some(tail(&[], 5, Some(1))), &mut out);
    out.clear();
    room.message(message(6, 5), &mut out);
    let Some(Output::Reset(reset)) = out.first() else {
        panic!("{out:?}");
    };
    assert_eq!(reset.id.to_string(), format!("5-0~7-0~{mark:08x}"));
}

#[test]
fn held_messages_are_bounded() {
    let (mut room, mut out) = (joined_at(5), Vec::new());
    for ms in 10..10 + 2 * MAX_HELD as u64 {
        room.message(message(ms, ms - 1), &mut out);
    }
    assert_eq!(room.held.len(), MAX_HELD);
    assert_eq!(short(&mut out), "r5");
    room.read(Some(tail(&[(10, Some(5))], 10, Some(1))), &mut out);
    assert!(room.is_reading(), "what was dropped is read");
}

/// Two primaries took more beside each other than a room remembers.
#[test]
fn a_long_branch_is_followed_from_where_it_parted() {
    let (mut room, mut out) = (joined_at(50), Vec::new());
    for ms in (60..=400).step_by(10) {
        room.message(message(ms, ms - 10), &mut out);
    }
    room.lost();
    room.confirmed(&mut out);
    assert!(short(&mut out).ends_with(" 400 r400"));
    let branch = |ids: &[u64]| {
        let items: Vec<_> = ids.iter().map(|&ms| (ms, Some(ms - 10))).collect();
        Tail {
            deleted: Some(id(0)),
            ..tail(&items, 401, Some(10))
        }
    };
    room.read(Some(branch(&[401])), &mut out);
    assert_eq!(short(&mut out), "c80", "where the room's memory begins");
    let common = (80..=350).step_by(10);
    let ids: Vec<u64> = common.chain(351..=356).collect();
    room.read(Some(branch(&ids)), &mut out);
    assert_eq!(short(&mut out), "Fork 350..350 r350");
}

#[test]
fn two_primaries_that_give_one_id_to_two_events_are_told_apart() {
    let (mut room, mut out) = (joined_at(50), Vec::new());
    room.message(message(60, 50), &mut out);
    room.message(message(70, 60), &mut out);
    room.lost();
    room.confirmed(&mut out);
    assert_eq!(short(&mut out), "60 70 r70");
    let other = |items: &[(u64, Option<u64>)]| {
        let mut tail = tail(items, 80, Some(10));
        tail.deleted = Some(id(0));
        tail
    };
    let mut namesake = other(&[(80, Some(70))]);
    namesake.history.anchor_found = true;
    namesake.anchor = item(70, Some(65)).mark();
    room.read(Some(namesake), &mut out);
    assert_eq!(short(&mut out), "c50", "its 70 follows 65");
    let later = [(65, Some(50)), (70, Some(65)), (80, Some(70))];
    let around: Vec<_> = [(50, Some(40))].into_iter().chain(later).collect();
    room.read(Some(other(&around)), &mut out);
    assert_eq!(short(&mut out), "Fork 50..50 r50");
    room.read(Some(other(&later)), &mut out);
    assert_eq!(short(&mut out), "65 70 80");
}

#[test]
fn a_namesake_on_the_way_to_the_head_is_where_two_branches_part() {
    let (mut room, mut out) = (joined_at(50), Vec::new());
    for (ms, prev) in [(60, 50), (70, 60), (75, 70)] {
        room.message(message(ms, prev), &mut out);
    }
    room.lost();
    room.confirmed(&mut out);
    short(&mut out);
    let later = [
        (60, Some(50)),
        (65, Some(60)),
        (70, Some(65)),
        (80, Some(70)),
    ];
    let other = |items: &[(u64, Option<u64>)]| {
        let mut tail = tail(items, 80, Some(10));
        tail.deleted = Some(id(0));
        tail
    };
    room.read(Some(other(&later[3..])), &mut out);
    let around: Vec<_> = [(50, Some(40))].into_iter().chain(later).collect();
    room.read(Some(other(&around)), &mut out);
    room.read(Some(other(&later[1..])), &mut out);
    assert_eq!(short(&mut out), "c50 Fork 60..60 r60 65 70 80");
}

#[test]
fn a_mark_is_of_the_predecessor_and_the_ends_of_the_data() {
    let of = |prev, data: Vec<u8>| {
        let Item::Event(mut event) = item(1, Some(prev)) else {
            unreachable!()
        };
        event.data = String::from_utf8(data).unwrap().into();
        Item::Event(event).mark()
    };
    for length in [0, 1, 255, 256, 257, 400, 511, 512, 513, 5000] {
        let data = vec![b'a'; length];
        assert_eq!(of(1, data.clone()), of(1, data.clone()));
        assert_ne!(of(1, data.clone()), of(2, data.clone()));
        assert_ne!(of(1, data.clone()), of(1, vec![b'a'; length + 1]));
        for at in [0, length.saturating_sub(1)] {
            let mut other = data.clone();
            if let Some(byte) = other.get_mut(at) {
                *byte = b'b';
                assert_ne!(of(1, data.clone()), of(1, other), "{at} of {length}");
            }
        }
    }
    assert_eq!(Item::Skipped(id(1)).mark(), None);
}

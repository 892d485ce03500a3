//! Cases one by one, and a model of a stream, a lossy channel and reads that return at any time.

use std::collections::VecDeque;

use proptest::prelude::*;
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

// The model.

/// Entries per page.
const PAGE: usize = 3;

#[derive(Debug, Clone)]
enum Op {
    Publish { message: bool, signal: bool },
    Add { signal: bool },
    Ephemeral,
    Deliver(usize),
    Duplicate,
    Settle,
    Execute,
    Return { fails: bool },
    Retry,
    Verify,
    Lose,
    Connect,
    Delete { signal: bool },
    Trim(usize),
    Remove(usize),
}

#[derive(Debug, Clone)]
enum Wire {
    Message(Message),
    Signal,
    Replaced,
}

#[derive(Debug, Default)]
struct Stream {
    entries: Vec<(u64, Option<u64>)>,
    last: u64,
    added: u64,
}

#[derive(Default)]
struct World {
    room: Sequencer,
    stream: Option<Stream>,
    clock: u64,
    ephemerals: u64,
    connected: bool,
    wire: VecDeque<Wire>,
    wanted: Option<Read>,
    executed: Option<Tail>,
    late: bool,
    stored: Vec<u64>,
    joined: Option<u64>,
    got: Vec<u64>,
    heard: Vec<u64>,
    resets: Vec<Reset>,
    lost: Vec<u64>,
    /// Deleted with a stream of which the room had seen nothing: nobody can know.
    unknowable: Vec<u64>,
    /// How many were stored before the room joined.
    before: usize,
}

impl World {
    fn add(&mut self, named: bool) -> (u64, u64) {
        self.clock += 2;
        let stream = self.stream.get_or_insert_default();
        let prev = stream.entries.last().map_or(0, |&(ms, _)| ms);
        stream.entries.push((self.clock, named.then_some(prev)));
        stream.last = self.clock;
        stream.added += 1;
        self.stored.push(self.clock);
        (self.clock, prev)
    }

    fn send(&mut self, wire: Wire) {
        if self.connected {
            self.wire.push_back(wire);
        }
    }

    fn snapshot(&self, read: Read) -> Tail {
        let Some(stream) = &self.stream else {
            return Tail::default();
        };
        let mut history = History {
            last_id: id(stream.last),
            oldest: stream.entries.first().map(|&(ms, _)| id(ms)),
            from_start: stream.added == stream.entries.len() as u64,
            ..History::default()
        };
        if let Read::After(after) = read {
            let later: Vec<_> = stream
                .entries
                .iter()
                .filter(|(ms, _)| id(*ms) > after)
                .collect();
            history.anchor_found = stream.entries.iter().any(|(ms, _)| id(*ms) == after);
            history.more = later.len() > PAGE;
            history.items = later
                .iter()
                .take(PAGE)
                .map(|&&(ms, prev)| item(ms, prev))
                .collect();
        }
        Tail {
            exists: true,
            added: Some(stream.added),
            length: stream.entries.len() as u64,
            history,
        }
    }

    fn step(&mut self, op: &Op) {
        let mut out = Vec::new();
        match *op {
            Op::Publish {
                message: sent,
                signal,
            } => {
                let (ms, prev) = self.add(true);
                if signal {
                    self.send(Wire::Signal);
                }
                if sent {
                    self.send(Wire::Message(message(ms, prev)));
                }
            }
            Op::Add { signal } => {
                self.add(false);
                if signal {
                    self.send(Wire::Signal);
                }
            }
            Op::Ephemeral => {
                self.ephemerals += 1;
                let event = Event {
                    data: self.ephemerals.to_string().into(),
                    ..ephemeral()
                };
                self.send(Wire::Message(Message {
                    item: Item::Event(event),
                    prev: None,
                }));
            }
            Op::Deliver(count) => {
                for _ in 0..count {
                    match self.wire.pop_front() {
                        Some(Wire::Message(message)) => self.room.message(message, &mut out),
                        Some(Wire::Signal) => self.room.signal(),
                        Some(Wire::Replaced) => self.room.replaced(&mut out),
                        None => break,
                    }
                }
            }
            Op::Duplicate => {
                let stored =
                    |wire: &&Wire| matches!(wire, Wire::Message(m) if m.item.id().is_some());
                if let Some(wire) = self.wire.iter().find(stored).cloned() {
                    self.wire.push_back(wire);
                }
            }
            Op::Settle => self.room.settle(&mut out),
            Op::Execute => {
                if let (Some(read), None) = (self.wanted, &self.executed) {
                    self.executed = Some(self.snapshot(read));
                    if read == Read::Head {
                        self.before = self.stored.len();
                    }
                }
            }
            Op::Return { fails } => {
                if self.executed.is_some() && self.wanted.take().is_some() {
                    let tail = self.executed.take();
                    self.room.read(tail.filter(|_| !fails), &mut out);
                }
            }
            Op::Retry => {
                if std::mem::take(&mut self.late) {
                    self.room.retry(&mut out);
                }
            }
            Op::Verify => {
                if let Some(head) = self.room.head() {
                    let news = match &self.stream {
                        Some(stream) => stream.entries.iter().any(|(ms, _)| id(*ms) > head),
                        None => head != EventId::ZERO,
                    };
                    if news {
                        self.room.suspicious(head);
                    }
                }
            }
            Op::Lose => {
                self.connected = false;
                self.wire.clear();
                self.room.lost();
            }
            Op::Connect => {
                if !std::mem::replace(&mut self.connected, true) {
                    self.room.confirmed(&mut out);
                }
            }
            Op::Delete { signal } => {
                if let Some(stream) = self.stream.take() {
                    let lost = stream.entries.iter().map(|&(ms, _)| ms);
                    if self.room.head().unwrap_or_default() == EventId::ZERO {
                        self.unknowable.extend(lost.clone());
                    }
                    self.lost.extend(lost);
                    if signal {
                        self.send(Wire::Replaced);
                    }
                }
            }
            Op::Trim(keep) => {
                if let Some(stream) = &mut self.stream {
                    let drop = stream.entries.len().saturating_sub(keep);
                    self.lost
                        .extend(stream.entries.drain(..drop).map(|(ms, _)| ms));
                }
            }
            Op::Remove(at) => {
                if let Some(stream) = &mut self.stream
                    && at < stream.entries.len()
                {
                    stream.entries.remove(at);
                }
            }
        }
        self.observe(out);
    }

    fn observe(&mut self, out: Vec<Output>) {
        for output in out {
            match output {
                Output::Read(read) => {
                    assert!(self.wanted.replace(read).is_none(), "one read at a time");
                }
                Output::RetryLater => self.late = true,
                Output::Joined(head) => {
                    assert!(self.joined.replace(head.ms).is_none(), "joined once");
                }
                Output::Append(Item::Event(event)) => match event.id {
                    Some(id) => {
                        let floor = self.resets.last().map_or(EventId::ZERO, |r| r.resume);
                        assert!(id > floor, "{id} after a reset to {floor}");
                        assert!(self.got.last().is_none_or(|&last| id.ms > last), "order");
                        self.got.push(id.ms);
                    }
                    None => {
                        let number = std::str::from_utf8(&event.data).unwrap().parse().unwrap();
                        self.heard.push(number);
                    }
                },
                Output::Append(Item::Skipped(_)) => unreachable!(),
                Output::Reset(reset) => self.resets.push(reset),
            }
        }
    }

    /// Everything arrives and every read returns.
    fn come_to_rest(&mut self) {
        self.step(&Op::Connect);
        for _ in 0..80 {
            for op in [
                Op::Deliver(usize::MAX),
                Op::Settle,
                Op::Execute,
                Op::Return { fails: false },
                Op::Retry,
                Op::Verify,
            ] {
                self.step(&op);
            }
        }
        assert!(
            !self.room.is_reading() && !self.room.is_unsettled(),
            "at rest"
        );
    }
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => any::<(bool, bool)>().prop_map(|(message, signal)| Op::Publish { message, signal }),
        6 => Just(Op::Publish { message: true, signal: true }),
        3 => any::<bool>().prop_map(|signal| Op::Add { signal }),
        2 => Just(Op::Ephemeral),
        8 => (1usize..5).prop_map(Op::Deliver),
        1 => Just(Op::Duplicate),
        3 => Just(Op::Settle),
        4 => Just(Op::Execute),
        4 => any::<bool>().prop_map(|fails| Op::Return { fails }),
        2 => Just(Op::Retry),
        2 => Just(Op::Verify),
        1 => Just(Op::Lose),
        2 => Just(Op::Connect),
    ]
}

fn harsh() -> impl Strategy<Value = Vec<Op>> {
    prop_oneof![
        prop::collection::vec(deleting(), 0..80),
        prop::collection::vec(trimming(), 0..80),
    ]
}

fn delete() -> impl Strategy<Value = Op> {
    any::<bool>().prop_map(|signal| Op::Delete { signal })
}

fn deleting() -> impl Strategy<Value = Op> {
    prop_oneof![20 => op(), 2 => delete()]
}

fn trimming() -> impl Strategy<Value = Op> {
    prop_oneof![20 => op(), 2 => (1usize..6).prop_map(Op::Trim)]
}

fn removing() -> impl Strategy<Value = Op> {
    prop_oneof![
        20 => op(),
        1 => delete(),
        2 => (0usize..6).prop_map(Op::Trim),
        2 => (0usize..8).prop_map(Op::Remove),
    ]
}

fn play(ops: &[Op]) -> World {
    let mut world = World {
        clock: 2,
        ..World::default()
    };
    for op in ops {
        world.step(op);
    }
    world.come_to_rest();
    let joined = world.joined.expect("joined");
    let kept = world.stream.iter().flat_map(|stream| &stream.entries);
    for &(ms, _) in kept.filter(|(ms, _)| *ms > joined) {
        assert!(
            world.got.contains(&ms),
            "{ms} is in the stream and never came"
        );
    }
    assert!(
        world.heard.is_sorted_by(|a, b| a < b),
        "ephemerals in order"
    );
    world
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn nothing_is_missing_doubled_or_reset(ops in prop::collection::vec(op(), 0..80)) {
        let world = play(&ops);
        prop_assert!(world.resets.is_empty(), "{:?}", world.resets);
        let joined = world.joined.unwrap();
        let expected: Vec<u64> = world.stored.into_iter().filter(|&ms| ms > joined).collect();
        prop_assert_eq!(world.got, expected);
    }

    #[test]
    fn what_is_gone_is_told_and_nothing_else(ops in harsh()) {
        let world = play(&ops);
        for ms in &world.stored[world.before..] {
            let told = |reset: &Reset| {
                reset.after < id(*ms) && (reset.reason == ResetReason::Deleted || id(*ms) <= reset.resume)
            };
            let known = world.got.contains(ms) || world.resets.iter().any(told);
            prop_assert!(known || world.unknowable.contains(ms), "{} was lost in silence", ms);
        }
        let deleted = ops.iter().any(|op| matches!(op, Op::Delete { .. }));
        for reset in &world.resets {
            let missed = |ms: &&u64| id(**ms) > reset.after && id(**ms) <= reset.resume && !world.got.contains(ms);
            let right = match reset.reason {
                ResetReason::Trimmed => world.lost.iter().any(|ms| missed(&ms)),
                reason => reason == ResetReason::Deleted && deleted,
            };
            prop_assert!(right, "{reset:?} without a loss");
        }
    }

    #[test]
    fn removed_entries_do_not_stop_a_room(ops in prop::collection::vec(removing(), 0..80)) {
        play(&ops);
    }
}

/// The signal of a deletion comes late: the stream has begun anew, was read, and then lost the
/// entry that the next read begins at.
#[test]
fn a_late_deletion_repeats_nothing() {
    let publish = |message, signal| Op::Publish { message, signal };
    play(&[
        Op::Connect,
        publish(false, false),
        publish(true, true),
        publish(true, true),
        Op::Deliver(3),
        Op::Execute,
        Op::Delete { signal: true },
        Op::Settle,
        publish(false, false),
        publish(false, false),
        Op::Return { fails: false },
        publish(false, false),
        publish(false, false),
        Op::Execute,
        Op::Remove(2),
    ]);
}

/// What a page read after a trim leaves to be read is trimmed up to just where the page ended: nothing is missing.
#[test]
fn a_trim_that_ends_where_a_page_ended_resets_nothing() {
    let unheard = || Op::Publish {
        message: false,
        signal: false,
    };
    let world = play(&[
        Op::Connect,
        Op::Execute,
        Op::Publish {
            message: false,
            signal: true,
        },
        Op::Deliver(1),
        Op::Return { fails: false },
        Op::Settle,
        unheard(),
        unheard(),
        unheard(),
        Op::Add { signal: false },
        Op::Trim(4),
        Op::Execute,
        Op::Trim(1),
    ]);
    let reasons: Vec<_> = world.resets.iter().map(|reset| reset.reason).collect();
    assert_eq!(reasons, [ResetReason::Trimmed], "for the first one only");
    assert_eq!(world.got.len(), 4);
}

//! The sequencer against a model of Redis, with proptest's state machines: `model/reference.rs`
//! makes what happens, `model/redis.rs` is where it happens, and here a node lives through it.
//!
//! What holds once everything that is under way has arrived:
//! - what the stream has was handed on, in order and not twice;
//! - what was trimmed or deleted was handed on before, or a reset names it;
//! - a reset names something that is gone;
//! - a promoted replica that lacks events causes no reset while ids go on.
//!
//! Some losses leave no trace that a node could find. They are left out here, exactly, and counted
//! in [`Node::excuse`]:
//! - of a room at `0-0`, which has seen nothing yet and is emptied;
//! - of a stream that was replaced or went back unseen, where as many entries were added and trimmed
//!   as would have been without;
//! - of a primary whose clock is behind by more than its promotion took: what it stores below the
//!   place where the room began.

use std::collections::BTreeSet;

use proptest::prelude::*;
use proptest_state_machine::{ReferenceStateMachine, StateMachineTest, prop_state_machine};
use protocol::EventId;

use super::{Output, Read, Sequencer, Tail};
use crate::hub::{Item, Reset, ResetReason};

mod cases;
mod redis;
mod reference;

use redis::{Redis, Wire, id};
use reference::{Publisher, Reference, Transition};

/// A read that the server has executed.
#[derive(Clone)]
struct Executed {
    read: Read,
    /// The first entry that a clock which is behind made.
    low: Option<EventId>,
    tail: Tail,
    /// All that was ever added to the stream.
    added: Vec<u64>,
    /// How many events had been stored.
    stored: usize,
    gone: Vec<u64>,
}

/// A reset, and how many events had been stored when it was found out.
#[derive(Debug, Clone)]
struct Told {
    reset: Reset,
    stored: usize,
}

/// One node: the sequencer, its reads and what left it.
#[derive(Clone, Default)]
struct Node {
    room: Sequencer,
    wanted: Option<Read>,
    executed: Option<Executed>,
    retries: bool,
    verified: Option<EventId>,
    /// How many events had been stored when the room was joined.
    joined: Option<usize>,
    last: EventId,
    got: BTreeSet<u64>,
    told: Vec<Told>,
    /// Events that left when they were already gone: their message was on its way.
    late: usize,
    /// Ephemeral events that arrived, and that left.
    arrived: Vec<u64>,
    heard: Vec<u64>,
    /// Losses that nobody could know.
    excused: BTreeSet<u64>,
}

fn number(item: &Item) -> Option<u64> {
    let event = item.event()?;
    std::str::from_utf8(&event.data).ok()?.parse().ok()
}

impl Node {
    /// Where the room is, or is as soon as the read under way returns.
    fn position(&self) -> Option<EventId> {
        let read = self.executed.as_ref().map(|executed| &executed.tail);
        match (self.room.head(), read) {
            (Some(_), Some(tail)) if !tail.exists => Some(EventId::ZERO),
            (head, read) => head.or(read.map(|tail| tail.history.last_id)),
        }
    }

    fn step(&mut self, redis: &Redis, transition: &Transition) {
        let mut out = Vec::new();
        let mut stored = redis.stored.len();
        if self.position() == Some(EventId::ZERO) && redis.ids().is_empty() {
            self.excused.extend(&redis.data.gone);
        }
        match transition {
            Transition::Deliver(_) => {
                for wire in redis.arrived.iter().cloned() {
                    match wire {
                        Wire::Message(message) => {
                            if message.item.id().is_none() {
                                self.arrived.extend(number(&message.item));
                            }
                            self.room.message(message, &mut out);
                        }
                        Wire::Signal => self.room.signal(),
                        Wire::Replaced => self.room.replaced(&mut out),
                    }
                }
            }
            Transition::Settle => self.room.settle(&mut out),
            Transition::Execute => {
                if let (Some(read), None) = (self.wanted, &self.executed) {
                    self.executed = Some(Executed {
                        read,
                        low: redis
                            .ids()
                            .into_iter()
                            .find(|ms| redis.low.contains(ms))
                            .map(id),
                        tail: redis.tail(read),
                        added: redis.added(),
                        stored,
                        gone: redis.data.gone.clone(),
                    });
                }
            }
            Transition::Return { fails } => {
                if let Some(executed) = self.executed.take() {
                    self.wanted = None;
                    stored = executed.stored;
                    if *fails {
                        self.room.read(None, &mut out);
                    } else {
                        self.excuse(redis, &executed);
                        self.room.read(Some(executed.tail), &mut out);
                    }
                }
            }
            Transition::Retry if self.retries => {
                self.retries = false;
                self.room.retry(&mut out);
            }
            Transition::Verify => {
                self.verified = self.room.head().filter(|&head| redis.has_news(head));
            }
            Transition::Verified => {
                if let Some(head) = self.verified.take() {
                    self.room.suspicious(head);
                }
            }
            _ => {}
        }
        match (self.room.connected, redis.link.is_some()) {
            (false, true) => self.room.confirmed(&mut out),
            (true, false) => self.room.lost(),
            _ => {}
        }
        self.observe(redis, stored, out);
    }

    /// Losses without a trace, as the answer to a read shows them; see above.
    fn excuse(&mut self, redis: &Redis, executed: &Executed) {
        let tail = &executed.tail;
        let head = self.room.head().unwrap_or_default();
        let before = tail.added.and_then(|added| added.checked_sub(tail.length));
        let matches = before.is_some() && before == self.room.counted;
        let last = before.and_then(|before| executed.added.get(before.checked_sub(1)? as usize));
        if head == EventId::ZERO || (matches && last != Some(&head.ms)) {
            let unseen = executed.gone.iter().filter(|&&ms| id(ms) > head);
            self.excused.extend(unseen);
        }
        // What a primary whose clock is behind stored below where the room began.
        let began = self.room.known_from;
        if executed
            .low
            .is_some_and(|low| executed.read == Read::Head || low <= began)
        {
            self.excused.extend(&redis.stored[..executed.stored]);
        }
    }

    fn observe(&mut self, redis: &Redis, stored: usize, out: Vec<Output>) {
        for output in out {
            match output {
                Output::Read(read) => {
                    assert!(self.wanted.replace(read).is_none(), "one read at a time");
                }
                Output::RetryLater => self.retries = true,
                Output::Joined(head) => {
                    assert!(self.joined.replace(stored).is_none(), "joined once");
                    self.last = head;
                }
                Output::Append(item) => match item.id() {
                    Some(id) => {
                        assert!(id > self.last, "{id} comes after {}", self.last);
                        let fresh = self.got.insert(id.ms);
                        // A stream that came back comes again after the reset that told so.
                        assert!(fresh || redis.forked, "{id} comes twice");
                        self.late += usize::from(redis.data.gone.contains(&id.ms));
                        self.last = id;
                    }
                    None => self.heard.extend(number(&item)),
                },
                Output::Reset(reset) => {
                    self.last = reset.resume;
                    self.told.push(Told { reset, stored });
                }
            }
        }
    }

    /// Everything arrives and every read returns.
    fn come_to_rest(&mut self, mut redis: Redis) -> Redis {
        use Transition::*;
        let mut rest = vec![Connect];
        if redis.link.is_some() && !redis.is_linked() {
            rest.insert(0, Lose);
        }
        for _ in 0..80 {
            let fails = false;
            let round = [
                Deliver(usize::MAX),
                Settle,
                Execute,
                Return { fails },
                Retry,
            ];
            rest.extend(round);
            rest.extend([Verify, Verified]);
        }
        for transition in rest {
            redis = Reference::apply(redis, &transition);
            self.step(&redis, &transition);
        }
        let busy = self.room.is_reading() || self.room.is_unsettled();
        assert!(!busy, "it does not come to rest");
        redis
    }

    /// Whether it was stored after the room was joined.
    fn is_due(&self, redis: &Redis, ms: u64) -> bool {
        let joined = self.joined.expect("joined");
        redis.stored[joined..].contains(&ms)
    }

    fn was_told(&self, redis: &Redis, ms: u64) -> bool {
        self.told.iter().any(|told| told.names(redis, ms))
    }

    fn judge_kept(&self, redis: &Redis) {
        // An `XDEL` that a promoted replica has not seen is undone by it.
        for ms in redis
            .ids()
            .into_iter()
            .filter(|ms| !redis.removed.contains(ms))
        {
            // A primary with older data has what was told to be gone.
            let told = redis.forked && self.was_told(redis, ms);
            let known = told || self.got.contains(&ms) || self.excused.contains(&ms);
            assert!(
                known || !self.is_due(redis, ms),
                "{ms} is in the stream and never came"
            );
        }
    }

    fn judge_lost(&self, redis: &Redis) {
        for &ms in redis
            .data
            .gone
            .iter()
            .filter(|ms| !redis.removed.contains(ms))
        {
            let known =
                self.was_told(redis, ms) || self.got.contains(&ms) || self.excused.contains(&ms);
            assert!(known || !self.is_due(redis, ms), "{ms} was lost in silence");
        }
    }

    fn judge_resets(&self, redis: &Redis) {
        let in_vain = |reason| {
            let resets = self.told.iter().filter(|told| told.reset.reason == reason);
            let in_vain =
                resets.filter(|told| !redis.stored.iter().any(|&ms| self.is_gone(told, ms)));
            in_vain.count()
        };
        // Someone who has seen everything is told all the same that the stream is another one: once, and
        // again after an event of the old one that was still on its way.
        let (deleted, forks) = (in_vain(ResetReason::Deleted), in_vain(ResetReason::Fork));
        assert!(
            deleted <= redis.deletions + self.late,
            "{:?} without a loss",
            self.told
        );
        // A deletion that a promotion undoes leaves nothing in common.
        let unlike = redis.ids_back + if redis.reborn { redis.deletions } else { 0 };
        assert!(forks <= unlike, "{:?} without a loss", self.told);
        // A primary that was promoted cannot prove what another one trimmed; and after a loss that nobody
        // could know the counts are wrong.
        let unknown = self
            .excused
            .iter()
            .any(|ms| self.is_due(redis, *ms) && !self.got.contains(ms));
        let unprovable = redis.reborn || (redis.forked && redis.trimmed) || unknown;
        let trimmed = in_vain(ResetReason::Trimmed);
        assert!(trimmed == 0 || unprovable, "{:?} without a loss", self.told);
    }

    /// Whether the reset names an event that is gone and never came.
    fn is_gone(&self, told: &Told, ms: u64) -> bool {
        let Reset {
            reason,
            after,
            resume,
            ..
        } = told.reset;
        let named = id(ms) > after && (reason != ResetReason::Trimmed || id(ms) <= resume);
        named && !self.got.contains(&ms)
    }
}

impl Told {
    /// Whether the reset says that this one is gone.
    fn names(&self, redis: &Redis, ms: u64) -> bool {
        let before = redis.stored[..self.stored].contains(&ms);
        let reset = &self.reset;
        before
            && (reset.reason != ResetReason::Trimmed
                || (reset.after < id(ms) && id(ms) <= reset.resume))
    }
}

struct Model;

impl StateMachineTest for Model {
    type SystemUnderTest = Node;
    type Reference = Reference;

    fn init_test(_: &Redis) -> Node {
        Node::default()
    }

    fn apply(mut node: Node, redis: &Redis, transition: Transition) -> Node {
        node.step(redis, &transition);
        node
    }

    fn teardown(mut node: Node, redis: Redis) {
        let redis = node.come_to_rest(redis);
        // The verification looks above the head only.
        if redis.ids_back == 0 {
            node.judge_kept(&redis);
        }
        // An emptied stream shows what it had with its next event.
        let publish = Transition::Publish {
            by: Publisher::A,
            announced: true,
        };
        let redis = Reference::apply(redis, &publish);
        let redis = node.come_to_rest(redis);
        node.judge_kept(&redis);
        node.judge_lost(&redis);
        assert_eq!(node.heard, node.arrived, "ephemeral events");
        if redis.removed.is_empty() {
            node.judge_resets(&redis);
        }
    }
}

prop_state_machine! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// `PROPTEST_CASES=20000` looks further.
    #[test]
    fn nothing_is_lost_in_silence_doubled_or_reset_in_vain(sequential 1..80 => Model);
}

//! What happens to Redis, its publishers and the way to the node: the machine that makes the cases.

use proptest::prelude::*;
use proptest::strategy::Union;
use proptest_state_machine::ReferenceStateMachine;

use super::redis::{Redis, Wire, event, id};
use crate::broker::sequencer::Message;

/// What may happen in a case besides publishing, losing messages and losing the link.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Faults {
    pub(super) trim: bool,
    pub(super) delete: bool,
    pub(super) remove: bool,
    pub(super) fork: bool,
    pub(super) clock_back: bool,
}

/// One of the two that write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Publisher {
    A,
    B,
}

#[derive(Debug, Clone)]
pub(super) enum Transition {
    /// The publish function; `announced` with its message at once, else by [`Transition::Announce`].
    Publish {
        by: Publisher,
        announced: bool,
    },
    /// The oldest message that a publisher owes: messages of two publishers may change places.
    Announce(Publisher),
    /// A plain `XADD`.
    Add,
    Ephemeral,
    /// The first messages and signals on the way arrive.
    Deliver(usize),
    /// One message or signal on the way is lost.
    Drop(usize),
    /// One message comes twice.
    Repeat,
    /// Messages had a moment to arrive.
    Settle,
    /// The server executes the read under way...
    Execute,
    /// ...and some time later its answer arrives, or does not.
    Return {
        fails: bool,
    },
    Retry,
    /// The background verification looks at the stream...
    Verify,
    /// ...and some time later says what it found.
    Verified,
    Lose,
    Connect,
    Trim {
        keep: usize,
    },
    /// `XDEL`.
    Remove(usize),
    /// `DEL`, expiry or eviction; a flush has no signal.
    Delete {
        signal: bool,
    },
    /// A replica that lacks the last `writes` is promoted. Its clock is right, or behind. A link that
    /// is not `cut` hangs on the old primary, and hears nothing new.
    Fork {
        writes: usize,
        back: bool,
        cut: bool,
    },
    /// All data are copied aside...
    BackUp,
    /// ...and come back.
    Restore {
        back: bool,
    },
}

/// The machine that makes the cases.
pub(super) struct Reference;

impl ReferenceStateMachine for Reference {
    type State = Redis;
    type Transition = Transition;

    fn init_state() -> BoxedStrategy<Redis> {
        let none = Faults::default();
        let fork = Faults { fork: true, ..none };
        let kinds = [
            none,
            Faults { trim: true, ..none },
            Faults {
                delete: true,
                ..none
            },
            Faults {
                remove: true,
                trim: true,
                delete: true,
                ..none
            },
            Faults {
                trim: true,
                delete: true,
                ..none
            },
            fork,
            Faults { trim: true, ..fork },
            Faults {
                clock_back: true,
                ..fork
            },
            Faults {
                trim: true,
                delete: true,
                remove: true,
                fork: true,
                clock_back: false,
            },
        ];
        prop::sample::select(kinds.to_vec())
            .prop_map(Redis::new)
            .boxed()
    }

    fn transitions(redis: &Redis) -> BoxedStrategy<Transition> {
        use Transition::*;
        let by = || prop::sample::select(vec![Publisher::A, Publisher::B]);
        let mut kinds: Vec<(u32, BoxedStrategy<Transition>)> = vec![
            (
                8,
                by().prop_map(|by| Publish {
                    by,
                    announced: true,
                })
                .boxed(),
            ),
            (
                2,
                by().prop_map(|by| Publish {
                    by,
                    announced: false,
                })
                .boxed(),
            ),
            (3, Just(Add).boxed()),
            (1, Just(Ephemeral).boxed()),
            (3, Just(Settle).boxed()),
            (5, Just(Execute).boxed()),
            (
                5,
                prop::bool::weighted(0.2)
                    .prop_map(|fails| Return { fails })
                    .boxed(),
            ),
            (2, Just(Retry).boxed()),
            (2, Just(Verify).boxed()),
            (2, Just(Verified).boxed()),
        ];
        if redis.wire.is_empty() {
            kinds.push((1, Just(Deliver(1)).boxed()));
        } else {
            kinds.push((8, (1usize..6).prop_map(Deliver).boxed()));
            kinds.push((3, (0..redis.wire.len()).prop_map(Drop).boxed()));
            kinds.push((1, Just(Repeat).boxed()));
        }
        for (publisher, owed) in [Publisher::A, Publisher::B].into_iter().zip(&redis.owed) {
            if !owed.is_empty() {
                kinds.push((3, Just(Announce(publisher)).boxed()));
            }
        }
        kinds.push(match redis.link {
            Some(_) => (1, Just(Lose).boxed()),
            None => (6, Just(Connect).boxed()),
        });
        let faults = redis.faults;
        if faults.trim {
            kinds.push((3, (0usize..6).prop_map(|keep| Trim { keep }).boxed()));
        }
        if faults.delete {
            kinds.push((
                3,
                any::<bool>().prop_map(|signal| Delete { signal }).boxed(),
            ));
        }
        if faults.remove {
            kinds.push((2, (0usize..8).prop_map(Remove).boxed()));
        }
        if faults.fork {
            let back = move || any::<bool>().prop_map(move |back| back && faults.clock_back);
            let fork = (0usize..6, back(), any::<bool>());
            let fork = fork.prop_map(|(writes, back, cut)| Fork { writes, back, cut });
            kinds.push((3, fork.boxed()));
            kinds.push((1, Just(BackUp).boxed()));
            if redis.backup.is_some() {
                kinds.push((1, back().prop_map(|back| Restore { back }).boxed()));
            }
        }
        Union::new_weighted(kinds).boxed()
    }

    fn apply(mut redis: Redis, transition: &Transition) -> Redis {
        redis.arrived.clear();
        match *transition {
            Transition::Publish { by, announced } => {
                let (ms, prev) = redis.append(true);
                let message = Message {
                    item: event(Some(ms), Some(prev), ms),
                    prev: Some(id(prev)),
                };
                if announced {
                    redis.send(Wire::Message(message));
                } else {
                    redis.owed[by as usize].push_back(message);
                }
            }
            Transition::Announce(by) => {
                if let Some(message) = redis.owed[by as usize].pop_front() {
                    redis.send(Wire::Message(message));
                }
            }
            Transition::Add => drop(redis.append(false)),
            Transition::Ephemeral => {
                redis.ephemerals += 1;
                let item = event(None, None, redis.ephemerals);
                redis.send(Wire::Message(Message { item, prev: None }));
            }
            Transition::Deliver(count) => {
                let count = count.min(redis.wire.len());
                redis.arrived = redis.wire.drain(..count).collect();
            }
            Transition::Drop(at) => drop(redis.wire.remove(at)),
            Transition::Repeat => {
                let stored =
                    |wire: &&Wire| matches!(wire, Wire::Message(m) if m.item.id().is_some());
                let found = redis.wire.iter().find(stored).cloned();
                redis.wire.extend(found);
            }
            Transition::Lose => redis.hang_up(),
            Transition::Connect => {
                if redis.link.is_none() {
                    redis.link = Some(redis.primary);
                }
            }
            Transition::Trim { keep } => {
                let before = redis.data.clone();
                if let Some(stream) = &mut redis.data.stream {
                    let count = stream.entries.len().saturating_sub(keep);
                    let gone = stream.entries.drain(..count).map(|(ms, _)| ms);
                    redis.data.gone.extend(gone);
                    redis.trimmed |= count > 0;
                    redis.past.push(before);
                }
            }
            Transition::Remove(at) => {
                if let Some(stream) = &mut redis.data.stream
                    && at < stream.entries.len()
                {
                    let removed = stream.entries.remove(at).0;
                    stream.deleted = stream.deleted.max(removed);
                    redis.removed.insert(removed);
                }
            }
            Transition::Delete { signal } => {
                let before = redis.data.clone();
                if let Some(stream) = redis.data.stream.take() {
                    redis
                        .data
                        .gone
                        .extend(stream.entries.iter().map(|&(ms, _)| ms));
                    redis.deletions += 1;
                    redis.past.push(before);
                    if signal {
                        redis.send(Wire::Replaced);
                    }
                }
            }
            Transition::Fork { writes, back, cut } => {
                let kept = redis.past.len().saturating_sub(writes);
                let data = redis.past.get(kept).unwrap_or(&redis.data).clone();
                redis.is_beside |= redis
                    .backup
                    .as_ref()
                    .is_some_and(|(before, _)| *before > kept);
                redis.promote(data, back, cut);
            }
            Transition::BackUp => {
                redis.is_beside = false;
                redis.backup = Some((redis.past.len(), redis.data.clone()));
            }
            Transition::Restore { back } => {
                if let Some((_, data)) = redis.backup.clone() {
                    redis.is_beside = false;
                    redis.promote(data, back, true);
                }
            }
            Transition::Settle
            | Transition::Execute
            | Transition::Return { .. }
            | Transition::Retry
            | Transition::Verify
            | Transition::Verified => {}
        }
        redis
    }
}

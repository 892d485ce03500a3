//! Cases that were found once.

use super::{Model, Node};
use crate::broker::sequencer::model::redis::Redis;
use crate::broker::sequencer::model::reference::Transition::{self, *};
use crate::broker::sequencer::model::reference::{Faults, Publisher, Reference};
use crate::hub::ResetReason;
use proptest_state_machine::{ReferenceStateMachine, StateMachineTest};

const HEARD: Transition = Publish {
    by: Publisher::A,
    announced: true,
};
/// With a signal and no message.
const UNHEARD: Transition = Publish {
    by: Publisher::A,
    announced: false,
};

/// Gives the node before the last event.
fn play(transitions: &[Transition]) -> Node {
    let mut redis = Redis::new(Faults::default());
    let mut node = Node::default();
    for transition in transitions {
        redis = Reference::apply(redis, transition);
        node.step(&redis, transition);
    }
    redis = node.come_to_rest(redis);
    Model::teardown(node.clone(), redis);
    node
}

fn reasons(node: &Node) -> Vec<ResetReason> {
    node.told.iter().map(|told| told.reset.reason).collect()
}

/// The signal of a deletion comes late: the stream has begun anew, was read, and then lost the
/// entry that the next read begins at.
#[test]
fn a_late_deletion_repeats_nothing() {
    let fails = false;
    play(&[
        Connect,
        UNHEARD,
        Drop(0),
        HEARD,
        HEARD,
        Deliver(3),
        Execute,
        Delete { signal: true },
        Settle,
        UNHEARD,
        Drop(2),
        UNHEARD,
        Drop(2),
        Return { fails },
        UNHEARD,
        Drop(2),
        UNHEARD,
        Drop(2),
        Execute,
        Remove(2),
    ]);
}

/// What a page read after a trim leaves to be read is trimmed up to just where the page ended: nothing is missing.
#[test]
fn a_trim_that_ends_where_a_page_ended_resets_nothing() {
    let node = play(&[
        Connect,
        Execute,
        UNHEARD,
        Deliver(1),
        Return { fails: false },
        Settle,
        UNHEARD,
        Drop(0),
        UNHEARD,
        Drop(0),
        UNHEARD,
        Drop(0),
        Add,
        Drop(0),
        Trim { keep: 4 },
        Execute,
        Trim { keep: 1 },
    ]);
    assert_eq!(
        reasons(&node),
        [ResetReason::Trimmed],
        "for the first one only"
    );
    assert_eq!(node.got.len(), 4);
}

/// Messages of the old primary are held while the new one, which lacks them, is read.
#[test]
fn messages_of_an_old_primary_are_no_fork() {
    let cut = Fork {
        writes: 4,
        back: false,
        cut: false,
    };
    let node = play(&[
        Connect,
        HEARD,
        Lose,
        Execute,
        Connect,
        Return { fails: false },
        HEARD,
        Deliver(2),
        HEARD,
        HEARD,
        HEARD,
        Execute,
        cut,
    ]);
    assert_eq!(reasons(&node), []);
}

/// Two failovers, or a failover and a restored copy, and no event between them.
#[test]
fn going_back_twice_is_no_fork() {
    let back = |writes, cut| Fork {
        writes,
        back: false,
        cut,
    };
    let node = play(&[
        HEARD,
        BackUp,
        Connect,
        HEARD,
        HEARD,
        Execute,
        Return { fails: false },
        back(1, true),
        Connect,
        Execute,
        Return { fails: false },
        Restore { back: false },
    ]);
    assert_eq!(reasons(&node), []);
}

/// The first one to be promoted lacks an event, the second one has it.
#[test]
fn coming_back_to_the_own_branch_is_no_fork() {
    let node = play(&[
        HEARD,
        HEARD,
        Connect,
        Execute,
        Return { fails: false },
        BackUp,
        Lose,
        Fork {
            writes: 1,
            back: false,
            cut: true,
        },
        Connect,
        Execute,
        Return { fails: false },
        Restore { back: false },
    ]);
    assert_eq!(reasons(&node), []);
}

/// The stream was deleted and began anew, twice; the first entry of the last one names no other.
#[test]
fn a_first_entry_follows_nothing() {
    play(&[
        Connect,
        HEARD,
        Execute,
        Delete { signal: false },
        Lose,
        Connect,
        Return { fails: false },
        HEARD,
        Settle,
        Deliver(2),
        HEARD,
        Execute,
        HEARD,
        HEARD,
        Delete { signal: false },
        HEARD,
        Drop(5),
    ]);
}

/// A message of the old primary is held while a read that the new one answers is under way.
#[test]
fn what_was_held_goes_with_the_link() {
    let fails = false;
    let node = play(&[
        Connect,
        Lose,
        Connect,
        Execute,
        UNHEARD,
        HEARD,
        HEARD,
        Deliver(3),
        HEARD,
        Return { fails },
        Execute,
        Return { fails },
        HEARD,
        Execute,
        Fork {
            writes: 2,
            back: false,
            cut: false,
        },
        Return { fails },
        Deliver(4),
    ]);
    assert_eq!(reasons(&node), []);
}

/// While the streams are compared, the new primary, whose clock is behind, stores another event.
#[test]
fn what_comes_after_a_comparison_is_looked_at() {
    let fails = false;
    let fork = |writes, back| Fork {
        writes,
        back,
        cut: false,
    };
    let node = play(&[
        HEARD,
        HEARD,
        HEARD,
        Connect,
        UNHEARD,
        Execute,
        HEARD,
        HEARD,
        Deliver(3),
        Return { fails },
        fork(3, false),
        Settle,
        Execute,
        Return { fails },
        HEARD,
        fork(1, true),
        Execute,
        HEARD,
    ]);
    assert_eq!(reasons(&node), [ResetReason::Fork]);
}

/// The stream of a primary whose clock is behind is gone when it is compared, and begins again before it is read.
#[test]
fn what_begins_during_a_comparison_is_compared_again() {
    let fails = false;
    let node = play(&[
        BackUp,
        Connect,
        Execute,
        Return { fails },
        HEARD,
        HEARD,
        Deliver(4),
        Restore { back: true },
        HEARD,
        Connect,
        Execute,
        Return { fails },
        Delete { signal: false },
        Execute,
        HEARD,
        Return { fails },
    ]);
    assert_eq!(reasons(&node), [ResetReason::Fork]);
}

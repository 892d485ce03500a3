//! After a failover: what a new primary has in common with what the old one had.

use protocol::last_event_id::ANY_MARK;
use protocol::{EventId, ForkId, LastEventId};

use super::{Output, RECENT, Sequencer, Tail};
use crate::hub::{History, Mark, ResetReason};

/// Milliseconds for which a deployment may have two primaries: until Sentinel demotes the old one, and more.
const TWO_PRIMARIES: u64 = 30_000;

/// What is remembered of an item that was handed on.
#[derive(Debug, Clone, Copy)]
pub struct Handed {
    id: EventId,
    /// `None` where it was not seen, only its id.
    mark: Option<Mark>,
}

impl Handed {
    /// Whether they can be the same one: what has no mark is taken for it.
    fn is(self, id: EventId, mark: Option<Mark>) -> bool {
        let alike = || self.mark.is_none() || mark.is_none() || self.mark == mark;
        self.id == id && alike()
    }
}

impl Sequencer {
    pub(super) fn begin_at(&mut self, head: EventId) {
        self.head = Some(head);
        self.recent.clear();
        self.recent.push_back(Handed {
            id: head,
            mark: None,
        });
        self.known_from = head;
        self.parted = (0, EventId::ZERO);
        self.has_forgotten = false;
    }

    /// Whether it was handed on lately, and not before a fork that lost it: what follows such a one there does not follow
    /// the head.
    pub(super) fn is_on_branch(&self, id: EventId) -> bool {
        let (before, common) = self.parted;
        let mut recent = self.recent.iter().enumerate();
        recent.any(|(at, known)| known.id == id && (at >= before || id <= common))
    }

    /// Whether the entry with this id, which was handed on, is another one in the stream.
    pub(super) fn is_namesake(&self, id: EventId, mark: Option<Mark>) -> bool {
        let mut recent = self.recent.iter().rev();
        recent
            .find(|known| known.id == id)
            .is_some_and(|known| !known.is(id, mark))
    }

    /// The id of a reset by which everyone goes on after `resume`: what was handed on last is in it.
    pub(super) fn fork_id(&self, resume: EventId) -> LastEventId {
        let mut recent = self.recent.iter().rev();
        let head = self.head.filter(|&head| head > resume);
        let seen = head.and_then(|head| recent.find(|known| known.id == head));
        let fork = seen.map(|seen| ForkId {
            resume,
            seen: seen.id,
            mark: seen.mark.map_or(ANY_MARK, Mark::get),
        });
        fork.map_or(resume.into(), LastEventId::Fork)
    }

    pub(super) fn remember(&mut self, id: EventId, mark: Option<Mark>) {
        if self.recent.len() == RECENT
            && let Some(forgotten) = self.recent.pop_front()
        {
            self.known_from = self.known_from.max(forgotten.id);
            self.has_forgotten = true;
            self.parted.0 = self.parted.0.saturating_sub(1);
        }
        self.recent.push_back(Handed { id, mark });
    }

    /// The head is not in the stream, or another entry has its id there, and nobody deleted it: it was handed on by
    /// another primary, and what this one has below it may never have been.
    pub(super) fn is_other_branch(
        &self,
        asked: EventId,
        deleted: Option<EventId>,
        found: bool,
        history: &History,
    ) -> bool {
        // The stream that ended below the head is not there any more either: a second failover.
        let is_second = self.behind == Some(asked);
        let is_namesake = history.anchor_found && !found;
        (is_second || (self.head == Some(asked) && self.compared != self.head))
            && !found
            && !self.gone_at_issue
            && (is_namesake || deleted.is_some_and(|deleted| deleted < asked))
            && history.oldest.is_some_and(|oldest| oldest <= asked)
    }

    /// Looks for what the stream has in common with what was handed on: it goes on from there.
    pub(super) fn compare(&mut self, tail: &Tail, out: &mut Vec<Output>) {
        self.compares = false;
        if !tail.exists {
            // There is nothing to compare with, or it begins just now: the next read says which.
            return;
        }
        self.compared = self.head;
        let (began, head) = (self.known_from, self.head.unwrap_or_default());
        let items = tail.history.items.iter();
        let items = items.filter_map(|item| Some((item.id()?, item.mark())));
        let before = items
            .clone()
            .map(|(id, _)| id)
            .take_while(|&id| id <= began)
            .last();
        // Both branches begin alike: what comes after the first difference may have the same id by chance.
        let mut items = items.filter(|&(id, _)| id > began && id <= head).peekable();
        let mut common = before.filter(|&id| id == began);
        let is_known =
            |&(id, mark): &(EventId, _)| self.recent.iter().any(|known| known.is(id, mark));
        while let Some((id, _)) = items.next_if(is_known) {
            common = Some(id);
        }
        // Up to where the room began it was another node's affair. Only while there are two primaries can a
        // room begin at an event of the wrong one.
        let is_older = |id: EventId| !self.has_forgotten && id.ms + TWO_PRIMARIES < began.ms;
        if common.is_none() && before.is_some_and(is_older) {
            common = Some(began);
        }
        let has_parted = items.peek().is_some() || (common.is_none() && before.is_some());
        if !has_parted {
            // The next read begins where this one ended: what comes between them is of another branch.
            let last = tail.history.last_id;
            self.behind = (last < head).then_some(last);
            return;
        }
        let (after, resume) = match common {
            Some(common) => (common, common),
            None => (EventId::ZERO, began),
        };
        self.reset(ResetReason::Fork, after, resume, out);
        self.compared = self.head;
    }
}

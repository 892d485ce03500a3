//! After a failover: what a new primary has in common with what the old one had.

use protocol::EventId;

use super::{Output, RECENT, Sequencer, Tail};
use crate::hub::{History, Item, ResetReason};

/// Milliseconds for which a deployment may have two primaries: until Sentinel demotes the old one, and more.
const TWO_PRIMARIES: u64 = 30_000;

impl Sequencer {
    pub(super) fn begin_at(&mut self, head: EventId) {
        self.head = Some(head);
        self.recent.clear();
        self.recent.push_back(head);
        self.known_from = head;
        self.parted = (0, EventId::ZERO);
        self.has_forgotten = false;
    }

    /// Whether it was handed on lately, and not before a fork that lost it: what follows such a one there does not follow
    /// the head.
    pub(super) fn is_on_branch(&self, id: EventId) -> bool {
        let (before, common) = self.parted;
        let mut recent = self.recent.iter().enumerate();
        recent.any(|(at, &known)| known == id && (at >= before || id <= common))
    }

    pub(super) fn remember(&mut self, id: EventId) {
        if self.recent.len() == RECENT
            && let Some(forgotten) = self.recent.pop_front()
        {
            self.known_from = self.known_from.max(forgotten);
            self.has_forgotten = true;
            self.parted.0 = self.parted.0.saturating_sub(1);
        }
        self.recent.push_back(id);
    }

    /// The head is not in the stream, and nobody deleted it there: it was handed on by another
    /// primary, and what this one has below it may never have been.
    pub(super) fn is_other_branch(
        &self,
        asked: EventId,
        deleted: Option<EventId>,
        history: &History,
    ) -> bool {
        let found = history.anchor_found || history.last_id == asked;
        // The stream that ended below the head is not there any more either: a second failover.
        let is_second = self.behind == Some(asked);
        (is_second || (self.head == Some(asked) && self.compared != self.head))
            && !found
            && !self.gone_at_issue
            && deleted.is_some_and(|deleted| deleted < asked)
            && history.oldest.is_some_and(|oldest| oldest < asked)
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
        let ids = tail.history.items.iter().filter_map(Item::id);
        let before = ids.clone().take_while(|&id| id <= began).last();
        // Both branches begin alike: what comes after the first difference may have the same id by chance.
        let mut ids = ids.filter(|&id| id > began && id <= head).peekable();
        let mut common = before.filter(|&id| id == began);
        while let Some(id) = ids.next_if(|id| self.recent.contains(id)) {
            common = Some(id);
        }
        // Up to where the room began it was another node's affair. Only while there are two primaries can a
        // room begin at an event of the wrong one.
        let is_older = |id: EventId| !self.has_forgotten && id.ms + TWO_PRIMARIES < began.ms;
        if common.is_none() && before.is_some_and(is_older) {
            common = Some(began);
        }
        let has_parted = ids.peek().is_some() || (common.is_none() && before.is_some());
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

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
        self.has_forgotten = false;
    }

    pub(super) fn remember(&mut self, id: EventId) {
        if self.recent.len() == RECENT
            && let Some(forgotten) = self.recent.pop_front()
        {
            self.known_from = self.known_from.max(forgotten);
            self.has_forgotten = true;
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
        self.compared = self.head;
        let ids = tail.history.items.iter().filter_map(Item::id);
        // Up to where the room began it was another node's affair. Only while there are two primaries can a
        // room begin at an event of the wrong one.
        let began = self.known_from;
        let is_whole = tail
            .history
            .items
            .iter()
            .any(|item| item.id() == Some(began));
        let before_it_began = |id: EventId| {
            id <= began && !self.has_forgotten && (is_whole || id.ms + TWO_PRIMARIES < began.ms)
        };
        let known = |id: &EventId| self.recent.contains(id) || before_it_began(*id);
        // Both branches begin alike, with what is perhaps older than what is remembered; later entries may have the same
        // id by chance.
        let mut ids = ids.peekable();
        if self.has_forgotten {
            while ids.next_if(|id| !known(id)).is_some() {}
        }
        let mut common = None;
        while let Some(id) = ids.next_if(known) {
            common = Some(id);
        }
        let has_parted =
            ids.peek().is_some() || (common.is_none() && !tail.history.items.is_empty());
        if !has_parted {
            // The next read begins where this one ended: what comes between them is of another branch.
            let last = tail.history.last_id;
            let is_below = tail.exists && self.head.is_some_and(|head| last < head);
            self.behind = is_below.then_some(last);
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

//! Pages of history that a shard keeps for those who catch up: what they can answer, and how many there are.
//!
//! Invariant: pages are bounded by number and bytes. When one has to go, those who are still in it
//! keep the rest of the event that they are in the middle of, and ask again.

use std::rc::Rc;

use protocol::last_event_id::ANY_MARK;
use protocol::{EventId, ForkId};

use super::KEPT_TICKS;
use crate::hub::log::{Place, RoomLog};
use crate::hub::resume::{Verdict, judge};
use crate::hub::state::State;
use crate::hub::{History, Mark};

/// Pages that one shard keeps.
const PAGES_KEPT: usize = 64;
/// The part of the shard's log memory that pages may take.
const PAGES_SHARE: usize = 4;

/// One of a page's items.
struct Link {
    id: EventId,
    /// What it names as the one before.
    prev: Option<EventId>,
    mark: Option<Mark>,
}

/// A page of a room's history.
pub(in crate::hub) struct Page {
    pub(super) room: usize,
    pub(super) log: Rc<RoomLog>,
    links: Vec<Link>,
    /// What the read said besides the items.
    pub(super) facts: History,
    /// The stream ended below what the log had when the read began: a failover has lost the rest of it.
    pub(super) is_below: bool,
    /// When it came, or later, it was not of the stream that the room log is of, as far as could be seen.
    pub(super) is_astray: bool,
    pub(super) used: u32,
}

impl Page {
    /// Whether the page can answer for a position. What is said of positions after its last entry
    /// holds only for those who came before it was read (`fresh`): there may be more by now.
    pub(super) fn answers(
        &self,
        after: EventId,
        proved: bool,
        fork: Option<ForkId>,
        fresh: bool,
    ) -> bool {
        // It has to reach what the client has. One that cannot, though it begins where the client is, is taken for what it is.
        let (is_whole, is_its) = (!self.facts.more, after == self.log.floor());
        let reaches = |fork: ForkId| self.links.last().is_some_and(|last| last.id >= fork.seen);
        let settles = |fork| reaches(fork) || (fresh && (is_whole || is_its));
        if after < self.log.floor() || !fork.is_none_or(settles) {
            return false;
        }
        let known = if proved {
            after < self.log.head()
        } else {
            self.links.last().is_some_and(|last| after <= last.id) || after == self.facts.last_id
        };
        known || (fresh && !self.facts.more)
    }

    /// Whether what it says and the log are of one stream: one of them ends with what the other one has. A page with
    /// more after it may not reach so far.
    pub(super) fn agrees(&self, log: &RoomLog) -> bool {
        let (head, last) = (log.head(), self.facts.last_id);
        let has_head = head == last
            || (head == self.log.floor() && self.facts.anchor_found)
            || self
                .links
                .binary_search_by_key(&head, |link| link.id)
                .is_ok();
        has_head || (last != EventId::ZERO && matches!(log.locate(last), Place::At(_)))
    }

    /// The id after which a client goes on that a failover put where it is.
    pub(super) fn place(&self, fork: ForkId) -> EventId {
        let at = self.links.binary_search_by_key(&fork.seen, |link| link.id);
        let is_seen = |at: usize| {
            let mark = self.links[at].mark.map(Mark::get);
            fork.mark == ANY_MARK || mark == Some(fork.mark)
        };
        if at.is_ok_and(is_seen) {
            fork.seen
        } else {
            fork.resume
        }
    }

    pub(super) fn judge(&self, after: EventId) -> Verdict {
        let at = self.links.partition_point(|link| link.id <= after);
        let inside = at
            .checked_sub(1)
            .is_some_and(|at| self.links[at].id == after);
        let first = after == self.log.floor() && self.facts.anchor_found;
        let next = self.links.get(at).and_then(|link| link.prev);
        judge(after, inside || first, next, &self.facts)
    }
}

impl State {
    /// Keeps what was read of a room after a position, in place of older pages where there are too many.
    pub(super) fn keep_page(&mut self, room: usize, after: EventId, history: &History) {
        let mut log = RoomLog::new(after);
        let mut links = Vec::with_capacity(history.items.len());
        for item in &history.items {
            log.append(item, &*self.encoder);
            links.extend(item.id().map(|id| Link {
                id,
                prev: item.prev(),
                mark: item.mark(),
            }));
        }
        if !history.more {
            // Nothing else is there up to the last generated id, even if its entry was deleted.
            log.reach(history.last_id);
        }
        log.shrink();
        self.page_bytes += log.memory();
        let facts = History {
            items: Vec::new(),
            ..*history
        };
        let used = self.now();
        self.pages.push_back(Page {
            room,
            log: Rc::new(log),
            links,
            facts,
            is_below: history.last_id < self.rooms[room].reader.head,
            is_astray: false,
            used,
        });
        let most = self.config.log_memory / PAGES_SHARE;
        while self.pages.len() > 1 && (self.pages.len() > PAGES_KEPT || self.page_bytes > most) {
            self.drop_page(0);
        }
    }

    /// Drops a page; those who are still in it fall out.
    fn drop_page(&mut self, at: usize) {
        let Some(page) = self.pages.remove(at) else {
            return;
        };
        self.page_bytes -= page.log.memory();
        let Some(room) = self.rooms.get(page.room) else {
            return;
        };
        if Rc::strong_count(&page.log) > 1 {
            for &key in &room.members {
                self.subscribers[key as usize].leave_page(&page.log);
            }
        }
    }

    /// Drops all of a room.
    pub(super) fn drop_pages_of(&mut self, room: usize) {
        while let Some(at) = self.pages.iter().position(|page| page.room == room) {
            self.drop_page(at);
        }
    }

    /// Drops those that nobody has been in for a while.
    pub(super) fn drop_unused_pages(&mut self) {
        let now = self.now();
        let unused = |page: &Page| {
            Rc::strong_count(&page.log) == 1 && now.wrapping_sub(page.used) > u32::from(KEPT_TICKS)
        };
        while let Some(at) = self.pages.iter().position(unused) {
            self.drop_page(at);
        }
    }
}

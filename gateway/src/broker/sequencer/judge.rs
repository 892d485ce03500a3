//! Whether what was read goes on from the head, and if not, what became of the stream.

use protocol::EventId;

use super::{Output, Sequencer, Tail};
use crate::hub::{History, Item, ResetReason};

enum Verdict {
    Continuous,
    /// The stream ends below the head.
    Behind,
    /// Go on after this id.
    Reset(ResetReason, EventId),
}

impl Sequencer {
    /// Judges what was read after `asked` (the head, or an earlier id after a fork) and appends
    /// what is new. Says whether there is more to read.
    pub(super) fn judge(&mut self, asked: EventId, tail: Tail, out: &mut Vec<Output>) -> bool {
        let head = self.head.unwrap_or_default();
        let Tail {
            exists,
            added,
            length,
            deleted,
            anchor,
            history,
        } = tail;
        if !exists {
            if head != EventId::ZERO {
                self.reset(ResetReason::Deleted, head, EventId::ZERO, out);
            }
            self.counted = Some(0);
            return false;
        }
        let is_namesake = history.anchor_found && self.is_namesake(asked, anchor);
        let found = history.anchor_found || history.last_id == asked;
        let found = found && !is_namesake;
        if self.is_other_branch(asked, deleted, found, &history) {
            self.compares = true;
            return true;
        }
        match self.verdict((asked, found), head, (added, length), &history) {
            Verdict::Continuous => self.behind = None,
            Verdict::Behind => {
                self.behind = Some(history.last_id);
                self.counted = None;
                return false;
            }
            Verdict::Reset(reason, resume) => {
                let after = if reason == ResetReason::Fork {
                    resume
                } else {
                    head
                };
                self.reset(reason, after, resume, out);
                // The new stream may have entries below the old head, which were not asked for.
                if reason == ResetReason::Deleted
                    && resume == EventId::ZERO
                    && history.oldest.is_some_and(|oldest| oldest <= asked)
                {
                    self.again = true;
                    return false;
                }
            }
        }
        let more = history.more;
        if !found {
            // The count belonged to an entry that is not there any more, perhaps of another primary.
            self.counted = None;
        }
        // Where the page begins at the oldest entry, what is after it can be counted.
        let after_page = length.checked_sub(history.items.len() as u64);
        let after_page = after_page.filter(|_| history.oldest.is_some_and(|oldest| oldest > asked));
        for item in history.items {
            if let Some(id) = item.id().filter(|id| Some(*id) > self.head) {
                self.append(item, id, out);
            }
        }
        if !more {
            self.counted = added;
        } else if let (Some(added), Some(left)) = (added, after_page) {
            self.counted = added.checked_sub(left);
        }
        more
    }

    fn verdict(
        &self,
        (asked, found): (EventId, bool),
        head: EventId,
        (added, length): (Option<u64>, u64),
        history: &History,
    ) -> Verdict {
        let first = history.items.first();
        let named = first.and_then(Item::prev);
        let (last, oldest) = (history.last_id, history.oldest);
        if asked != EventId::ZERO && !found {
            let empty = oldest.is_none() && last == EventId::ZERO;
            let begins_later = history.from_start && oldest.is_some_and(|oldest| oldest > asked);
            if empty || begins_later {
                return Verdict::Reset(ResetReason::Deleted, EventId::ZERO);
            }
            if self.gone_at_issue {
                // The signal may be about an earlier stream than the one that was read last: what
                // has been handed on must not come again. A stream that ends below the head is
                // another one: its clock went back.
                let resume = match oldest {
                    Some(_) if last < head => EventId::ZERO,
                    Some(oldest) if oldest <= asked => head,
                    Some(_) => EventId::ZERO,
                    None => last,
                };
                return Verdict::Reset(ResetReason::Deleted, resume);
            }
        }
        if asked < head {
            // The stream was seen below the head. Entries up to the head are another branch, unless the
            // head is among them: then the stream is back on the branch that the head is on.
            let mut ids = history.items.iter().filter_map(Item::id);
            if ids.clone().any(|id| id < head) && !ids.any(|id| id == head) {
                return Verdict::Reset(ResetReason::Fork, asked);
            }
        }
        if last < head {
            return Verdict::Behind;
        }
        // From Redis 7 on the server counts; before, an unknown beginning is taken for one.
        let from_nothing = asked == EventId::ZERO && (history.from_start || added.is_none());
        let follows = match (first, named) {
            (Some(_), Some(prev)) => prev != EventId::ZERO && prev <= asked,
            (Some(_), None) => oldest.is_some_and(|oldest| oldest <= asked),
            (None, _) => false,
        };
        // As many are left as were added: nothing was trimmed between. Holds for one stream only,
        // so an entry that names another predecessor speaks against it.
        let all_later = oldest.is_some_and(|oldest| oldest > asked);
        let later = match history.more {
            _ if all_later => Some(length),
            false => Some(history.items.len() as u64),
            true => None,
        };
        let counted = later.is_some()
            && named.is_none_or(|prev| prev == EventId::ZERO)
            && matches!((self.counted, added), (Some(before), Some(now))
                if now.checked_sub(before) == later);
        if found || from_nothing || follows || counted {
            return Verdict::Continuous;
        }
        let before_first = || {
            first
                .and_then(Item::id)
                .map_or(last, |first| first.before())
        };
        let resume = named
            .filter(|&prev| prev > head)
            .unwrap_or_else(before_first);
        Verdict::Reset(ResetReason::Trimmed, resume)
    }
}

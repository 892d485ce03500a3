//! Resuming: from a wanted position to a cursor in the room log. The room log answers most; else
//! its newest history is read once for all who wait; else pages are read until the log is reached
//! (`catchup.rs`).
//!
//! Invariant: a position is taken on only if it is proved; otherwise the client is told by one
//! `stream.reset` and goes on from a place that is named there.

use std::sync::Arc;

use opentelemetry::KeyValue;
use opentelemetry::trace::TraceContextExt;
use protocol::last_event_id::ANY_MARK;
use protocol::{EventId, ForkId, LastEventId};

use super::log::{Place, RoomLog};
use super::node::Counters;
use super::state::{Purpose, Read, State, Witness};
use super::subscriber::{Handle, Source};
use super::{Control, History, HistoryError, HistoryQuery, Item, Position, Reset, ResetReason};

impl State {
    /// The broker has confirmed a room.
    pub(super) fn joined(&mut self, room_key: usize, head: EventId) {
        let room = &mut self.rooms[room_key];
        if room.joined {
            return;
        }
        room.joined = true;
        room.log = super::log::RoomLog::new(head);
        self.log_bytes += room.log.memory();
        self.resolve_waiting(room_key);
    }

    fn resolve_waiting(&mut self, room_key: usize) {
        for handle in std::mem::take(&mut self.rooms[room_key].waiting) {
            if !self.is_current(handle) {
                continue;
            }
            let key = handle.0 as usize;
            if let Some(catch_up) = &mut self.subscribers[key].catch_up {
                catch_up.waiting = false;
            }
            self.open_at_once(key);
            self.resolve(key);
            self.flush(key);
        }
    }

    pub(super) fn is_current(&self, (key, serial): Handle) -> bool {
        self.subscribers
            .get(key as usize)
            .is_some_and(|s| s.serial == serial)
    }

    /// Finds the place of a subscriber that is not in the log, or asks for what is needed.
    pub(super) fn resolve(&mut self, key: usize) {
        let subscriber = &mut self.subscribers[key];
        let handle = (key as u32, subscriber.serial);
        let room = &mut self.rooms[subscriber.room as usize];
        let Some(catch_up) = &mut subscriber.catch_up else {
            return;
        };
        if !room.joined {
            catch_up.waiting = true;
            room.waiting.push(handle);
            return;
        }
        let (log, backfilled) = (&room.log, catch_up.backfilled);
        let room_backfilled = room.backfilled;
        let (head, end, start, floor) = (log.head(), log.end(), log.start(), log.floor());
        match &catch_up.want {
            Position::New => self.enter(key, end, head),
            Position::Recent(count) => match log.recent(*count) {
                Some((offset, before)) => self.enter(key, offset, before),
                None if backfilled => self.enter(key, start, floor),
                None => self.backfill(key),
            },
            Position::Earliest if log.complete() => self.enter(key, start, floor),
            Position::Earliest if backfilled => {
                catch_up.want = Position::After(EventId::ZERO);
                catch_up.proved = true;
                self.send_open(key, None);
            }
            Position::Earliest => self.backfill(key),
            // Only the stream says which of its two ids counts: the flush that follows asks for a page.
            Position::Fork(_) => {}
            Position::Malformed(_) => self.reset_to(key, ResetReason::Malformed, None, end, head),
            Position::After(id) => {
                let id = *id;
                // Before the first event of which stream? The client may know of a deletion before this node does.
                let is_doubtful =
                    id == EventId::ZERO && catch_up.presented.is_some() && !catch_up.proved;
                match log.locate(id) {
                    Place::At(offset) if is_doubtful && offset < end => {}
                    Place::At(offset) => {
                        self.place(key, offset, end, EventId::ZERO);
                    }
                    Place::Before if log.complete() => {
                        self.reset_to(key, ResetReason::Trimmed, Some(id), start, floor)
                    }
                    // Once per room: what the log had no place for then, it has none for now.
                    Place::Before if !room_backfilled => self.backfill(key),
                    // The flush that follows asks for a page.
                    _ => {}
                }
            }
        }
    }

    /// A new client's place is known: it is opened there.
    fn enter(&mut self, key: usize, offset: u64, position: EventId) {
        let end = self.rooms[self.subscribers[key].room as usize].log.end();
        self.send_open(key, Some(position.into()));
        let is_live = self.is_live(&self.rooms[self.subscribers[key].room as usize]);
        let subscriber = &mut self.subscribers[key];
        if subscriber.dark && is_live {
            subscriber.dark = false;
            subscriber.push_control(
                Control::Live {
                    id: subscriber.adrift.then_some(position),
                },
                &*self.encoder,
            );
        }
        self.place(key, offset, end, EventId::ZERO);
    }

    /// A subscriber is among the live ones of its room.
    pub(super) fn place(&mut self, key: usize, offset: u64, end: u64, seen: EventId) {
        let subscriber = &mut self.subscribers[key];
        let catch_up = subscriber.catch_up.as_ref();
        let trace = catch_up.and_then(|catch_up| catch_up.trace.as_ref());
        if let Some(began) = catch_up.and_then(|catch_up| catch_up.began) {
            self.times.subscribed(began.elapsed());
        }
        if let Some((source, replayed)) = catch_up.and_then(|c| Some((c.source?, c.replayed))) {
            let log = &self.rooms[subscriber.room as usize].log;
            let rest = log.stored_after(log.seen_at(offset).0.max(seen));
            Counters::bump(self.counters.resumes(source), 1);
            self.sizes.resumed(replayed + rest);
            if let Some(trace) = trace {
                trace.span().set_attributes([
                    KeyValue::new("sse.resume.source", source.label()),
                    KeyValue::new("sse.resume.events", (replayed + rest) as i64),
                ]);
            }
        }
        if let Some(trace) = trace {
            trace.span().end();
        }
        subscriber.place(offset, end, seen);
        if seen != EventId::ZERO {
            let room = &mut self.rooms[subscriber.room as usize];
            let head = room.log.head();
            if seen > head {
                room.ahead = room.ahead.max(seen);
            }
            self.witnesses.push_back(Witness {
                handle: (key as u32, subscriber.serial),
                id: seen,
                is_lost: false,
                head,
                since: self.now,
            });
        }
    }

    pub(super) fn reset_to(
        &mut self,
        key: usize,
        reason: ResetReason,
        after: Option<EventId>,
        offset: u64,
        resume: EventId,
    ) {
        self.send_reset(key, reason, after, resume);
        let end = self.rooms[self.subscribers[key].room as usize].log.end();
        self.place(key, offset, end, EventId::ZERO);
    }

    pub(super) fn send_reset(
        &mut self,
        key: usize,
        reason: ResetReason,
        after: Option<EventId>,
        resume: EventId,
    ) {
        Counters::bump(self.counters.resets(reason), 1);
        let subscriber = &mut self.subscribers[key];
        let presented = subscriber.catch_up.as_mut().and_then(|catch_up| {
            catch_up.answered_by(Source::Reset);
            if let Some(trace) = &catch_up.trace {
                let reason = KeyValue::new("sse.reset.reason", reason.label());
                trace.span().set_attribute(reason);
            }
            catch_up.presented.take()
        });
        let reset = Reset {
            reason,
            after: after.unwrap_or_default(),
            resume,
            id: position(resume, after.filter(|_| reason != ResetReason::Trimmed)),
        };
        subscriber.push_control(
            Control::Reset {
                reset,
                presented: presented.as_deref(),
            },
            &*self.encoder,
        );
    }

    /// Tells one client what the room was told while that was elsewhere: it goes on after `resume`, and what it has up to
    /// `seen` is of a branch that is lost.
    pub(super) fn tell_fork(&mut self, key: usize, resume: EventId, seen: EventId) {
        Counters::bump(self.counters.resets(ResetReason::Fork), 1);
        let reset = Reset {
            reason: ResetReason::Fork,
            after: resume,
            resume,
            id: position(resume, Some(seen)),
        };
        let control = Control::Reset {
            reset,
            presented: None,
        };
        self.subscribers[key].push_control(control, &*self.encoder);
    }

    fn backfill(&mut self, key: usize) {
        let subscriber = &mut self.subscribers[key];
        let room = &mut self.rooms[subscriber.room as usize];
        if let Some(catch_up) = &mut subscriber.catch_up {
            catch_up.waiting = true;
            catch_up.answered_by(Source::Broker);
        }
        room.waiting.push((key as u32, subscriber.serial));
        if !room.backfilling {
            room.backfilling = true;
            let query = HistoryQuery::Newest {
                limit: self.config.log_entries,
            };
            let catch_up = subscriber.catch_up.as_ref();
            self.reads.push(Read {
                room: room.name.clone(),
                query,
                purpose: Purpose::Backfill,
                trace: catch_up.and_then(|catch_up| catch_up.trace.clone()),
            });
        }
    }

    /// A read has ended.
    pub(super) fn history(&mut self, read: &Read, result: Result<Arc<History>, HistoryError>) {
        match read.purpose {
            Purpose::Backfill => {
                let Some(&room_key) = self.by_name.get(&read.room) else {
                    return;
                };
                self.backfilled(room_key, result);
            }
            Purpose::Page(serial) => self.page(read, serial, result),
        }
    }

    fn backfilled(&mut self, room_key: usize, result: Result<Arc<History>, HistoryError>) {
        let room = &mut self.rooms[room_key];
        match result {
            // A read that is older than the log's beginning would leave a hole before it.
            Ok(history) if history.last_id < room.log.floor() => {}
            // One of them is of a primary that another one has replaced.
            Ok(history) if !is_of_one_stream(&history, &room.log) => {}
            Ok(history) => {
                let before = room.log.memory();
                let limits = (self.config.log_bytes, self.config.log_entries);
                room.log.prepend(
                    &history.items,
                    !history.more,
                    history.from_start,
                    limits,
                    &*self.encoder,
                );
                self.log_bytes = self.log_bytes + room.log.memory() - before;
            }
            Err(HistoryError::Away(_)) => {
                self.retries.push((room.name.clone(), Purpose::Backfill));
                return;
            }
            // Nothing to replay here, and nothing to judge a position by.
            Err(HistoryError::WrongType) => {}
        }
        room.backfilling = false;
        room.backfilled = true;
        for &(key, serial) in &room.waiting {
            let waiting = self
                .subscribers
                .get_mut(key as usize)
                .filter(|s| s.serial == serial);
            if let Some(catch_up) = waiting.and_then(|s| s.catch_up.as_mut()) {
                catch_up.backfilled = true;
            }
        }
        self.resolve_waiting(room_key);
        self.keep_to_memory();
    }

    /// Asks again for what could not be read.
    pub(super) fn retry(&mut self) {
        for (name, purpose) in std::mem::take(&mut self.retries) {
            let Some(&room_key) = self.by_name.get(&name) else {
                continue;
            };
            match purpose {
                Purpose::Backfill => {
                    let query = HistoryQuery::Newest {
                        limit: self.config.log_entries,
                    };
                    self.reads.push(Read {
                        room: self.rooms[room_key].name.clone(),
                        query,
                        purpose,
                        trace: None,
                    });
                }
                Purpose::Page(serial) => self.retry_page(room_key, serial),
            }
        }
    }
}

/// What a client is told that goes on after `resume` and has `seen`, perhaps of a primary that other nodes still follow.
fn position(resume: EventId, seen: Option<EventId>) -> LastEventId {
    let seen = seen.filter(|&seen| seen > resume);
    seen.map_or(resume.into(), |seen| {
        LastEventId::Fork(ForkId {
            resume,
            seen,
            mark: ANY_MARK,
        })
    })
}

/// Whether the newest history and a log are of one stream: one of them ends with what the other one has.
fn is_of_one_stream(history: &History, log: &RoomLog) -> bool {
    let (head, last) = (log.head(), history.last_id);
    let mut ids = history.items.iter().filter_map(Item::id);
    head == last || ids.any(|id| id == head) || matches!(log.locate(last), Place::At(_))
}

/// What a read says of a position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Proved,
    /// Events before the oldest kept one are gone: go on after this id.
    Trimmed(EventId),
    Lost(ResetReason),
}

/// Judges the position `after` by a read of what follows it. Proved is a position whose entry is
/// there (`present`), that is the stream's last generated id, or that the next entry names as its
/// previous one (`named`).
pub(super) fn judge(
    after: EventId,
    present: bool,
    prev: Option<EventId>,
    history: &History,
) -> Verdict {
    let named = prev == Some(after);
    let before_first = after == EventId::ZERO && history.from_start;
    if present || history.last_id == after || (named && after != EventId::ZERO) || before_first {
        return Verdict::Proved;
    }
    match history.oldest {
        _ if history.last_id == EventId::ZERO => Verdict::Lost(ResetReason::Unknown),
        _ if after > history.last_id => Verdict::Lost(ResetReason::Future),
        Some(oldest) if after < oldest => {
            let prev = prev.filter(|&prev| prev != EventId::ZERO && prev > after);
            Verdict::Trimmed(prev.unwrap_or_else(|| oldest.before()))
        }
        None => Verdict::Trimmed(history.last_id),
        Some(_) => Verdict::Lost(ResetReason::Unknown),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::Event;

    fn judge(after: EventId, history: &History) -> Verdict {
        let prev = history.items.first().and_then(Item::prev);
        super::judge(after, history.anchor_found, prev, history)
    }

    fn id(ms: u64) -> EventId {
        EventId::new(ms, 0)
    }

    fn history(ids: &[(u64, u64)], last: u64, oldest: Option<u64>) -> History {
        let item = |&(ms, prev): &(u64, u64)| {
            Item::Event(Event {
                id: Some(id(ms)),
                prev: Some(id(prev)),
                name: Default::default(),
                data: "x".into(),
                trace: None,
            })
        };
        History {
            items: ids.iter().map(item).collect(),
            last_id: id(last),
            oldest: oldest.map(id),
            ..History::default()
        }
    }

    #[test]
    fn a_position_is_proved_three_ways() {
        assert_eq!(
            judge(
                id(5),
                &History {
                    anchor_found: true,
                    ..history(&[(6, 5)], 6, Some(2))
                }
            ),
            Verdict::Proved
        );
        assert_eq!(judge(id(6), &history(&[], 6, Some(2))), Verdict::Proved);
        assert_eq!(
            judge(id(5), &history(&[(7, 5)], 7, Some(2))),
            Verdict::Proved
        );
        assert_eq!(
            judge(
                id(0),
                &History {
                    from_start: true,
                    ..history(&[(1, 0)], 1, Some(1))
                }
            ),
            Verdict::Proved
        );
        assert_eq!(judge(id(0), &History::default()), Verdict::Proved);
    }

    #[test]
    fn anything_else_is_told() {
        assert_eq!(
            judge(id(1), &history(&[(3, 2)], 9, Some(3))),
            Verdict::Trimmed(id(2))
        );
        assert_eq!(
            judge(id(0), &history(&[(3, 2)], 9, Some(3))),
            Verdict::Trimmed(id(2))
        );
        assert_eq!(
            judge(id(4), &history(&[], 9, None)),
            Verdict::Trimmed(id(9))
        );
        assert_eq!(
            judge(id(4), &history(&[(9, 8)], 9, Some(2))),
            Verdict::Lost(ResetReason::Unknown)
        );
        assert_eq!(
            judge(id(10), &history(&[], 9, Some(2))),
            Verdict::Lost(ResetReason::Future)
        );
        assert_eq!(
            judge(id(4), &History::default()),
            Verdict::Lost(ResetReason::Unknown)
        );
    }
}

//! Sweeping: one pass over a room's subscribers that writes `log[cursor..head]` to each socket.
//!
//! Invariant: no allocation, no wake-up and no copy per subscriber and event; one write carries
//! everything that is due.

use std::time::Instant;

use protocol::last_event_id::ANY_MARK;
use protocol::{EventId, ForkId};

use super::log::{Place, RoomLog};
use super::node::Counters;
use super::state::{State, Witness, Writing};
use super::subscriber::{CatchUp, Flush, Subscriber, Work};
use super::{Item, Position, Reset, ResetReason};

/// Rooms that the memory limit may shorten before other work gets its turn.
const EVICTIONS_AT_ONCE: usize = 8;
/// How long a log may take to come to a position that a subscriber has already: 2 s.
const AHEAD_TICKS: u32 = 40;

impl State {
    /// New items of a room, in order.
    pub(super) fn append(&mut self, room_key: usize, items: &[Item]) {
        let now = self.now();
        let Some(room) = self.rooms.get_mut(room_key).filter(|room| room.joined) else {
            return;
        };
        if !items.is_empty() {
            room.active = now;
            room.events += items.len() as u64;
        }
        let before = room.log.memory();
        for item in items {
            // A repeat would break the order of the log.
            if item.id().is_none_or(|id| id > room.log.head()) {
                room.log.append(item, &*self.encoder);
            }
        }
        self.log_bytes = self.log_bytes + room.log.memory() - before;
        if room.ahead != EventId::ZERO {
            self.check_ahead(room_key);
        }
        let Some(room) = self.rooms.get_mut(room_key) else {
            return;
        };
        let count = items.len() as u64;
        Counters::bump(&self.counters.events_appended, count);
        let streams = room.members.len() as u64;
        Counters::bump(&self.counters.deliveries, count * streams);
        self.classes.appended(room.class, count, streams);
        items
            .iter()
            .filter_map(Item::id)
            .for_each(|id| self.times.arrived(id));
        let full =
            room.log.bytes() > self.config.log_bytes || room.log.len() > self.config.log_entries;
        self.queue(room_key);
        if full {
            let (bytes, entries) = (
                self.config.log_bytes / 4 * 3,
                self.config.log_entries / 4 * 3,
            );
            self.shorten(room_key, bytes, entries);
        }
        self.keep_to_memory();
    }

    /// Shortens some rooms' logs where all of them together have become too large; what is left to do then is done
    /// at the next tick.
    pub(super) fn keep_to_memory(&mut self) {
        for _ in 0..EVICTIONS_AT_ONCE {
            if self.log_bytes + self.page_bytes <= self.config.log_memory {
                break;
            }
            self.shorten_any();
        }
    }

    /// Who had more of the stream than the log is not given again what it has. Where the log comes to another id instead, it
    /// was a stream that is lost: then what was left out was not theirs, and they are asked again.
    pub(super) fn check_ahead(&mut self, room_key: usize) {
        let Some(room) = self.rooms.get_mut(room_key) else {
            return;
        };
        let log = &room.log;
        let now = self.now;
        let mut ahead = EventId::ZERO;
        for witness in &self.witnesses {
            let &Witness {
                handle,
                id,
                head,
                since,
                ..
            } = witness;
            let Some(subscriber) = self.subscribers.get_mut(handle.0 as usize) else {
                continue;
            };
            let is_it = subscriber.serial == handle.1 && subscriber.room as usize == room_key;
            let is_it = is_it && !witness.is_lost;
            // Its floor is there until the log has reached it.
            if !is_it || subscriber.catch_up.is_some() || subscriber.floor() != id || id <= head {
                continue;
            }
            let is_late = log.head() > id || now.wrapping_sub(since) > AHEAD_TICKS;
            let is_other = !matches!(log.locate(id), Place::At(_)) && log.has_between(head, id);
            if is_other && is_late {
                subscriber.keep_rest(log, subscriber.offset);
                fall_behind(subscriber, id);
            } else if log.head() < id {
                ahead = ahead.max(id);
            }
        }
        room.ahead = ahead;
    }

    /// The same for those whom nothing more reaches.
    pub(super) fn tick_ahead(&mut self) {
        let rooms = self.rooms.iter();
        let keys: Vec<usize> = rooms
            .filter(|(_, room)| room.ahead != EventId::ZERO)
            .map(|(key, _)| key)
            .collect();
        for key in keys {
            self.check_ahead(key);
            self.queue(key);
        }
    }

    /// Continuity of the live room broke: everyone is told, the log begins anew.
    pub(super) fn reset_room(&mut self, room_key: usize, reset: Reset) {
        if !self.rooms.get(room_key).is_some_and(|room| room.joined) {
            return;
        }
        self.finish_pass(room_key);
        let end = self.rooms[room_key].log.end();
        self.fall_off(room_key, end);
        // Of a fork, what is common may reach further back than is known; from `resume` on nothing is.
        let common = match reset.reason {
            ResetReason::Fork => reset.resume,
            _ => reset.after,
        };
        self.prove_again(room_key, common, reset.reason == ResetReason::Fork);
        let room = &mut self.rooms[room_key];
        room.backfilled = false;
        let before = room.log.memory();
        room.log.restart(reset.resume);
        room.ahead = EventId::ZERO;
        room.log.append_control(
            super::Control::Reset {
                reset,
                presented: None,
            },
            &*self.encoder,
        );
        self.log_bytes = self.log_bytes + room.log.memory() - before;
        Counters::bump(
            self.counters.resets(reset.reason),
            room.members.len() as u64,
        );
        self.queue(room_key);
        self.forget_pages(room_key);
    }

    /// Whose position was proved by the stream itself beyond what the log had in common with it, or was lost to it, may have it
    /// from the stream that is there now: it is asked again, instead of being given again what it has.
    fn prove_again(&mut self, room_key: usize, common: EventId, is_fork: bool) {
        let log = &self.rooms[room_key].log;
        for witness in &self.witnesses {
            let &Witness {
                handle,
                id,
                is_lost,
                ..
            } = witness;
            let Some(subscriber) = self.subscribers.get_mut(handle.0 as usize) else {
                continue;
            };
            let is_it = subscriber.serial == handle.1 && subscriber.room as usize == room_key;
            if !is_it || subscriber.catch_up.is_some() || id <= common || (is_lost && !is_fork) {
                continue;
            }
            let given = subscriber.keep_rest(log, subscriber.offset);
            if !is_fork {
                fall_behind(subscriber, id.max(given));
                continue;
            }
            // What it was given since is of the branch that is lost: then that is its position, unless it came with one of the
            // new branch.
            let seen = if is_lost { id } else { id.max(given) };
            let fork = ForkId {
                resume: common,
                seen,
                mark: ANY_MARK,
            };
            fall_to(subscriber, Position::Fork(fork));
            if let Some(catch_up) = &mut subscriber.catch_up {
                catch_up.lost_branch = Some(if is_lost { given } else { seen });
            }
        }
        // Once is enough: at the next failover it may have moved on.
        self.witnesses.retain(|&Witness { handle, .. }| {
            let subscriber = self.subscribers.get(handle.0 as usize);
            let subscriber = subscriber.filter(|s| s.serial == handle.1);
            let catch_up = subscriber.and_then(|s| s.catch_up.as_ref());
            catch_up.is_none_or(|catch_up| catch_up.lost_branch.is_none())
        });
    }

    pub(super) fn queue(&mut self, room_key: usize) {
        let room = &mut self.rooms[room_key];
        if room.queued.is_some() {
            // The pass under way ends first: members at its end must not starve.
            room.again.get_or_insert_with(Instant::now);
        } else {
            room.due = room.members.len();
            room.queued = Some(Instant::now());
            self.dirty.push_back(room_key);
        }
    }

    /// Does at most about `budget` writes of the sweeps that are due. `true` when more are due.
    pub(super) fn sweep(&mut self, budget: usize) -> bool {
        let began = (!self.dirty.is_empty()).then(Instant::now);
        let mut left = budget;
        while let Some(&room_key) = self.dirty.front() {
            self.dirty.pop_front();
            left = self.sweep_room(room_key, left);
            let Some(room) = self.rooms.get_mut(room_key) else {
                continue;
            };
            if room.due == 0 {
                let events = room.events - std::mem::replace(&mut room.swept, room.events);
                self.sizes.pass(events, room.members.len());
                if let Some(queued) = room.queued {
                    self.times.fanout.observe(queued.elapsed().as_secs_f64());
                }
                room.queued = room.again.take();
                room.due = room.queued.map_or(0, |_| room.members.len());
                if !self.fan_outs.is_empty() {
                    self.fanned_out(room_key);
                }
            }
            if self.rooms[room_key].queued.is_some() {
                // To the back: other rooms must not wait for a large one.
                self.dirty.push_back(room_key);
            }
            if left == 0 {
                break;
            }
        }
        if let Some(began) = began {
            self.times.turn.observe(began.elapsed().as_secs_f64());
        }
        // A budget of its own: neither a busy room nor a herd that catches up holds the other.
        let served = self.flush_served(budget);
        served || !self.dirty.is_empty()
    }

    /// A pass has ended: everyone in the room who takes something now has got the traced events that came before it.
    fn fanned_out(&mut self, room_key: usize) {
        let written = |writing: &Writing| writing.room == room_key && !writing.next;
        if self.fan_outs.iter().any(written) {
            self.report(room_key, written);
        }
        for writing in &mut self.fan_outs {
            writing.next &= writing.room != room_key;
        }
    }

    fn report(&mut self, room_key: usize, written: impl Fn(&Writing) -> bool) {
        let room = &self.rooms[room_key];
        let behind = room.members.iter().filter(|&&key| {
            let subscriber = &self.subscribers[key as usize];
            subscriber.blocked || subscriber.catch_up.is_some()
        });
        let (streams, behind) = (room.members.len() as u64, behind.count() as u64);
        let done = self.fan_outs.extract_if(.., |writing| written(writing));
        done.for_each(|writing| writing.fan_out.written(streams, behind));
    }

    fn sweep_room(&mut self, room_key: usize, mut budget: usize) -> usize {
        let mut work = Work::default();
        // From the end down: a subscriber that leaves is replaced by one that had its turn.
        while budget > 0 {
            let Some(room) = self.rooms.get_mut(room_key) else {
                break;
            };
            room.due = room.due.min(room.members.len());
            let Some(at) = room.due.checked_sub(1) else {
                break;
            };
            room.due = at;
            let key = room.members[at] as usize;
            let subscriber = &mut self.subscribers[key];
            if subscriber.blocked {
                continue;
            }
            budget -= 1;
            let flushed = subscriber.flush(&room.log, &mut work);
            if flushed != Flush::Done {
                self.after_flush(key, flushed);
            }
        }
        self.account(work);
        budget
    }

    fn finish_pass(&mut self, room_key: usize) {
        self.rooms[room_key].due = self.rooms[room_key].members.len();
        self.sweep_room(room_key, usize::MAX);
    }

    /// Cuts a room log, after everyone who can take the bytes has got them.
    fn shorten(&mut self, room_key: usize, bytes: usize, entries: usize) {
        self.finish_pass(room_key);
        let cut = self.rooms[room_key].log.cut(bytes, entries);
        self.fall_off(room_key, cut);
        let log = &mut self.rooms[room_key].log;
        let (before, events) = (log.memory(), log.len());
        log.evict(cut);
        self.log_bytes = self.log_bytes + log.memory() - before;
        Counters::bump(&self.counters.log_evicted, (events - log.len()) as u64);
    }

    /// The memory limit: the next room around the table loses its log's older half.
    fn shorten_any(&mut self) {
        let rooms = self.rooms.capacity().max(1);
        for _ in 0..64.min(rooms) {
            self.hand = (self.hand + 1) % rooms;
            let Some(room) = self.rooms.get_mut(self.hand) else {
                continue;
            };
            let (bytes, entries) = (room.log.bytes() / 2, room.log.len() / 2);
            // A log may hold memory of events that it has no more.
            if room.log.memory() > 0 {
                self.shorten(self.hand, bytes, entries);
                let log = &mut self.rooms[self.hand].log;
                let before = log.memory();
                log.shrink();
                self.log_bytes = self.log_bytes + log.memory() - before;
                return;
            }
        }
    }

    /// Subscribers whose cursor is before `cut` keep the rest of the event that they are in the
    /// middle of, and get what follows from the broker.
    fn fall_off(&mut self, room_key: usize, cut: u64) {
        let room = &self.rooms[room_key];
        let mut fallen = 0;
        for &key in &room.members {
            let subscriber = &mut self.subscribers[key as usize];
            if subscriber.catch_up.is_none() && subscriber.offset < cut {
                leave_log(subscriber, &room.log);
                fallen += 1;
            }
        }
        Counters::bump(&self.counters.lagging, fallen);
    }
}

fn leave_log(subscriber: &mut Subscriber, log: &RoomLog) {
    let id = subscriber.keep_rest(log, subscriber.offset);
    fall_behind(subscriber, id.max(subscriber.floor()));
}

fn fall_behind(subscriber: &mut Subscriber, after: EventId) {
    fall_to(subscriber, Position::After(after));
}

fn fall_to(subscriber: &mut Subscriber, want: Position) {
    subscriber.catch_up = Some(Box::new(CatchUp {
        presented: None,
        backfilled: true,
        began: None,
        source: None,
        ..CatchUp::new(want)
    }));
}

//! Streams that the node ends in order: all of them when it stops, old ones where an age is set, those whose permission
//! has ended (`owners.rs`) or was taken back (`disconnects.rs`), and those that are not let in. Each is told so, with a `retry:` that brings its client back.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::{Duration, Instant};

use super::log::RoomLog;
use super::node::Counters;
use super::state::{Closed, State, ticks};
use super::subscriber::{Handle, Parting, Subscriber, Work};
use super::{Control, Encoder, HubConfig, Limit, Terms};

/// The part of a stream's age that is drawn by lot, so that streams that came together do not go together: one
/// in so many.
const AGE_JITTER: u32 = 4;

/// Ages of streams that have gone are not worth a look below this number.
pub(super) const FEW: usize = 1024;

/// How long the last bytes of a stream have, before it breaks off: 100 to 150 ms.
pub(super) const PARTING_TICKS: u32 = 3;

/// Lines that are kept for it; the oldest of more break off at once.
const MOST_PARTING: usize = 4096;

/// Who leaves when.
#[derive(Debug, Default)]
pub(super) struct Leaving {
    drain: Option<Drain>,
    /// Ends of life in ticks, the earliest on top; empty where there is no greatest age.
    ages: BinaryHeap<Reverse<(u32, Handle)>>,
    /// Lines of streams that have been told why they end, and since when.
    parting: VecDeque<(u32, Parting)>,
}

#[derive(Debug)]
struct Drain {
    /// Not counted in ticks, which come late on a busy node: all has to be done within the time.
    began: Instant,
    spread: Duration,
    order: Vec<Handle>,
    total: usize,
}

impl Leaving {
    /// Keeps the ages of those who are here, once most are of others.
    pub(super) fn forget(&mut self, streams: usize, is_here: impl Fn(&Handle) -> bool) {
        if self.ages.len() > 2 * streams + FEW {
            self.ages.retain(|Reverse((_, handle))| is_here(handle));
        }
    }
}

impl State {
    /// Why a newcomer to a room is not let in.
    pub(super) fn refusal(&self, room: &protocol::RoomName, terms: &Terms) -> Option<Closed> {
        let (rooms, most) = (self.config.max_rooms, self.rules.get().per_room);
        let known = self.by_name.get(room).map(|&key| &self.rooms[key]);
        if self.leaving.drain.is_some() {
            Some(Closed::Drain)
        } else if self.disconnects.refuse(room, terms) {
            // Its permission was taken back while it was on its way here.
            Some(Closed::Disconnected)
        } else if rooms > 0 && self.rooms.len() >= rooms && known.is_none() {
            Some(Closed::Limit(Limit::Rooms))
        } else if most > 0 && known.is_some_and(|room| room.members.len() >= most) {
            Some(Closed::Limit(Limit::Room))
        } else {
            None
        }
    }

    /// Ends a stream before it began.
    pub(super) fn refuse(&mut self, mut subscriber: Subscriber, why: Closed) {
        Counters::bump(self.counters.closed(why), 1);
        if let Closed::Limit(limit) = why {
            Counters::bump(self.counters.refused(limit), 1);
        }
        farewell(&mut subscriber, why, &*self.encoder, &self.config);
        // What the socket does not take at once is lost: the client comes back all the same.
        let log = RoomLog::new(Default::default());
        subscriber.offset = log.end();
        subscriber.flush(&log, &mut Work::default());
        self.part(subscriber, why);
    }

    /// Lets go of the line of a stream that has ended. A browser that sees an answer break off can drop what came right before it
    /// (Chromium, seen: 17 of 2,920 without a pause, none of 1,059 after 100 ms), and with it the `retry:`.
    pub(super) fn part(&mut self, subscriber: Subscriber, why: Closed) {
        let is_told = !matches!(why, Closed::Client | Closed::Lag);
        let mut line = subscriber.leave(is_told && !self.config.unclean_close);
        if !is_told || !line.breaks_off() {
            return;
        }
        let lines = &mut self.leaving.parting;
        if lines.len() == MOST_PARTING {
            lines.pop_front();
        }
        lines.push_back((self.now, line));
        Counters::set(&self.counters.streams_parting, lines.len() as u64);
    }

    /// One tick: lines whose last bytes have had their time.
    pub(super) fn finish_parted(&mut self) {
        let now = self.now();
        let lines = &mut self.leaving.parting;
        let is_over = |(since, _): &(u32, Parting)| now.wrapping_sub(*since) >= PARTING_TICKS;
        while lines.front().is_some_and(is_over) {
            lines.pop_front();
        }
        Counters::set(&self.counters.streams_parting, lines.len() as u64);
    }

    /// Notes when a new stream has to end.
    pub(super) fn note_age(&mut self, handle: Handle) {
        let age = ticks(self.config.max_age);
        if age > 0 {
            let due = self
                .now()
                .wrapping_add(age - fastrand::u32(..=age / AGE_JITTER));
            self.leaving.ages.push(Reverse((due, handle)));
        }
    }

    /// One tick: streams that are too old.
    pub(super) fn retire(&mut self) {
        while let Some(&Reverse((due, handle))) = self.leaving.ages.peek() {
            if due > self.now() {
                break;
            }
            self.leaving.ages.pop();
            self.dismiss(handle, Closed::Age);
        }
    }

    /// Begins to close everything, spread evenly.
    pub(super) fn begin_drain(&mut self, spread: Duration) {
        let order: Vec<Handle> = self
            .subscribers
            .iter()
            .map(|(key, s)| (key as u32, s.serial))
            .collect();
        Counters::set(&self.counters.drain_streams, order.len() as u64);
        Counters::set(&self.counters.drain_left, order.len() as u64);
        self.leaving.drain = Some(Drain {
            began: Instant::now(),
            spread,
            total: order.len(),
            order,
        });
    }

    /// One tick: those whose turn it is to leave.
    pub(super) fn drain_some(&mut self) {
        let Some(drain) = &mut self.leaving.drain else {
            return;
        };
        let left = drain.spread.saturating_sub(drain.began.elapsed());
        let part = left.as_secs_f64() / drain.spread.as_secs_f64().max(f64::MIN_POSITIVE);
        let keep = (drain.total as f64 * part).ceil() as usize;
        let leaving = drain.order.split_off(keep.min(drain.order.len()));
        for handle in leaving {
            self.dismiss(handle, Closed::Drain);
        }
        // Nobody was let in since, so they are the same that were there, without those who went by themselves.
        Counters::set(&self.counters.drain_left, self.subscribers.len() as u64);
    }

    /// Tells a stream why it ends, and ends it.
    pub(super) fn dismiss(&mut self, handle: Handle, why: Closed) {
        let key = handle.0 as usize;
        if !self.is_current(handle) {
            return;
        }
        let subscriber = &mut self.subscribers[key];
        // A blocked one comes back with its last id all the same.
        if subscriber.is_clear() {
            farewell(subscriber, why, &*self.encoder, &self.config);
            self.flush(key);
        }
        self.close(key, why);
    }
}

/// The last that a stream is told.
fn farewell(subscriber: &mut Subscriber, why: Closed, encoder: &dyn Encoder, config: &HubConfig) {
    let reason = why.label();
    subscriber.push_control(Control::Close { reason }, encoder);
    if !config.unclean_close && !subscriber.identity() {
        subscriber.push_raw(LAST_CHUNK);
    }
}

/// The end of a body in chunks (RFC 9112, section 7.1).
const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

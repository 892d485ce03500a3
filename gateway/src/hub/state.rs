//! The rooms and subscribers of one shard, and what happens to them: a socket becomes ready, a broker's message arrives,
//! time passes. How a subscriber comes is in `opening.rs`. Nothing here waits.

use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use mio::Registry;
use opentelemetry::Context;
use protocol::RoomName;
use slab::Slab;

use super::catchup::Page;
use super::classes::Classes;
use super::disconnects::{Disconnects, Dismissed};
use super::heartbeat::Heartbeats;
use super::leaving::Leaving;
use super::node::{Counters, Reports, Rules};
use super::owners::{Ends, Owners};
use super::room::Room;
use super::subscriber::{Flush, Handle, Subscriber, Work};
use super::times::Sizes;
use super::transport::Calls;
use super::{
    Encoder, HistoryQuery, Household, HubConfig, Limit, Place, ShardId, Supply, Times, Upstream,
    Users,
};
use crate::trace::FanOut;

/// Timers per shard: everything that takes time is counted in ticks.
pub(super) const TICK: Duration = Duration::from_millis(50);
/// How long a node may lag behind a deletion or a failover that others know of: 30 s.
const WITNESS_TICKS: u32 = 600;
/// Between looks for streams that have gone in lists of those that wait.
const FORGET_TICKS: u32 = 200;
/// How long an empty room stays subscribed, so that a reload finds its log.
const LINGER_TICKS: u32 = 200;

/// A subscriber of whose position the stream said something, not the log.
#[derive(Debug)]
pub(super) struct Witness {
    pub(super) handle: Handle,
    pub(super) id: protocol::EventId,
    /// Not there: it was told so.
    pub(super) is_lost: bool,
    /// What the log ended with then.
    pub(super) head: protocol::EventId,
    pub(super) since: u32,
}

/// A read of history that the shard's driver has to start.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) room: RoomName,
    pub(super) query: HistoryQuery,
    pub(super) purpose: Purpose,
    /// On whose behalf, where that is recorded.
    pub(super) trace: Option<Context>,
}

/// Whom a read is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// The room log: the newest history goes in front of it.
    Backfill,
    /// A room's subscribers that are not in its log; the number tells reads apart.
    Page(u32),
}

/// Why a stream is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Closed {
    Client,
    Lag,
    Drain,
    Age,
    Expired,
    Disconnected,
    Limit(Limit),
}

impl Closed {
    /// In metrics and in the log.
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Lag => "lag",
            Self::Drain => "drain",
            Self::Age => "age",
            Self::Expired => "expired",
            Self::Disconnected => "disconnected",
            Self::Limit(_) => "limit",
        }
    }
}

/// Traced events of a room that are being written.
pub(super) struct Writing {
    pub(super) room: usize,
    /// They came in the midst of a pass: the one after it carries them to everyone.
    pub(super) next: bool,
    pub(super) fan_out: Arc<FanOut>,
}

pub(super) struct State {
    pub(super) shard: ShardId,
    pub(super) config: HubConfig,
    pub(super) encoder: Rc<dyn Encoder>,
    pub(super) upstream: Arc<dyn Upstream>,
    pub(super) counters: Arc<Counters>,
    pub(super) classes: Classes,
    pub(super) times: Times,
    pub(super) sizes: Sizes,
    pub(super) registry: Registry,
    /// Of transports without a socket in the registry.
    pub(super) calls: Rc<Calls>,
    pub(super) rooms: Slab<Room>,
    pub(super) by_name: HashMap<RoomName, usize>,
    pub(super) subscribers: Slab<Subscriber>,
    /// Rooms with a sweep to do.
    pub(super) dirty: VecDeque<usize>,
    /// Where the memory limit goes on.
    pub(super) hand: usize,
    pub(super) log_bytes: usize,
    /// Reads for the driver to start.
    pub(super) reads: Vec<Read>,
    /// Rooms that wait for their turn to read a page, and how many pages are being read.
    pub(super) page_queue: VecDeque<usize>,
    pub(super) pages_reading: usize,
    pub(super) page_serial: u32,
    /// Rooms with newcomers that wait for the next tick.
    pub(super) gathering: Vec<usize>,
    /// The pages at hand, the newest last, and their memory.
    pub(super) pages: VecDeque<Page>,
    pub(super) page_bytes: usize,
    /// Subscribers that were put into a page.
    pub(super) to_flush: VecDeque<Handle>,
    /// Reads that failed because the broker was away.
    pub(super) retries: Vec<(RoomName, Purpose)>,
    pub(super) live: bool,
    pub(super) beats: Heartbeats,
    pub(super) now: u32,
    pub(super) serial: u32,
    blocked: Vec<Handle>,
    pub(super) dark: Vec<Handle>,
    pub(super) joining: VecDeque<(RoomName, u32)>,
    lingering: VecDeque<(usize, u32, u32)>,
    pub(super) leaving: Leaving,
    /// Traced events that are being written.
    pub(super) fan_outs: Vec<Writing>,
    /// Of the streams that are counted by address. Empty where none are.
    pub(super) places: HashMap<u32, Place<Household>>,
    /// Of the streams that belong to a user.
    pub(super) owners: Owners,
    pub(super) users: Users,
    pub(super) ends: Ends,
    pub(super) disconnects: Disconnects,
    pub(super) dismissed: Dismissed,
    pub(super) rules: Rules,
    /// Who resumed lately at a position of which the stream said something.
    pub(super) witnesses: VecDeque<Witness>,
}

impl State {
    pub(super) fn new(
        shard: ShardId,
        config: HubConfig,
        upstream: Arc<dyn Upstream>,
        encoder: Rc<dyn Encoder>,
        registry: Registry,
        reports: Reports,
    ) -> Self {
        let Reports {
            counters,
            classes,
            times,
            users,
            disconnects,
            rules,
        } = reports;
        Self {
            beats: Heartbeats::new(&*encoder),
            shard,
            config,
            encoder,
            upstream,
            counters,
            classes,
            sizes: times.sizes(),
            times,
            registry,
            calls: Rc::default(),
            rooms: Slab::new(),
            by_name: HashMap::new(),
            subscribers: Slab::new(),
            dirty: VecDeque::new(),
            hand: 0,
            log_bytes: 0,
            reads: Vec::new(),
            page_queue: VecDeque::new(),
            pages_reading: 0,
            page_serial: 0,
            gathering: Vec::new(),
            pages: VecDeque::new(),
            page_bytes: 0,
            to_flush: VecDeque::new(),
            retries: Vec::new(),
            live: false,
            now: 0,
            serial: 0,
            blocked: Vec::new(),
            dark: Vec::new(),
            joining: VecDeque::new(),
            lingering: VecDeque::new(),
            leaving: Leaving::default(),
            fan_outs: Vec::new(),
            places: HashMap::new(),
            owners: Owners::default(),
            users,
            ends: Ends::default(),
            disconnects,
            dismissed: Dismissed::default(),
            rules,
            witnesses: VecDeque::new(),
        }
    }

    /// A message of the broker.
    pub(super) fn supply(&mut self, supply: Supply) {
        match supply {
            Supply::Live(live) => {
                self.live = live;
                if live {
                    self.tell_live();
                    self.retry();
                }
            }
            Supply::Joined { room, head } => {
                if let Some(&key) = self.by_name.get(&room) {
                    self.joined(key, head);
                }
            }
            Supply::Append {
                room,
                items,
                fan_out,
            } => {
                if let Some(&key) = self.by_name.get(&room) {
                    self.append(key, &items);
                    self.begin_fan_out(key, fan_out);
                }
            }
            Supply::Reset { room, reset } => {
                if let Some(&key) = self.by_name.get(&room) {
                    self.reset_room(key, reset);
                }
            }
            // Those who wait for it are told at the next tick: many rooms come back at a time.
            Supply::RoomLive { room, live } => {
                if let Some(&key) = self.by_name.get(&room) {
                    self.rooms[key].away = !live;
                }
            }
        }
    }

    fn begin_fan_out(&mut self, room_key: usize, fan_out: Option<Arc<FanOut>>) {
        let room = &self.rooms[room_key];
        // Without a pass nobody is written to, and nothing would end it.
        let fan_out = fan_out.filter(|_| room.queued.is_some());
        self.fan_outs.extend(fan_out.map(|fan_out| Writing {
            room: room_key,
            next: room.again.is_some(),
            fan_out,
        }));
    }

    /// Readiness of a stream's socket.
    pub(super) fn ready(&mut self, key: usize, readable: bool, writable: bool) {
        let Some(subscriber) = self.subscribers.get_mut(key) else {
            return;
        };
        if readable && !subscriber.drain_input() {
            self.close(key, Closed::Client);
            return;
        }
        if writable && subscriber.blocked {
            subscriber.blocked = false;
            subscriber.stalled_since = self.now;
            self.flush(key);
        }
    }

    /// Transports that called for attention, at most `budget` of them. `true` when more have.
    pub(super) fn answer_calls(&mut self, budget: usize) -> bool {
        for handle in self.calls.take(budget) {
            if self.is_current(handle) {
                self.ready(handle.0 as usize, true, true);
            }
        }
        !self.calls.is_empty()
    }

    /// Writes what is due to one subscriber, and acts on how it ended.
    pub(super) fn flush(&mut self, key: usize) {
        let Some(subscriber) = self.subscribers.get_mut(key) else {
            return;
        };
        let mut work = Work::default();
        let flushed = subscriber.flush(&self.rooms[subscriber.room as usize].log, &mut work);
        self.account(work);
        self.after_flush(key, flushed);
    }

    pub(super) fn after_flush(&mut self, key: usize, flushed: Flush) {
        match flushed {
            Flush::Done => {}
            Flush::Gone => self.close(key, Closed::Client),
            Flush::CatchingUp => self.catch_up(key),
            Flush::Blocked => {
                let subscriber = &mut self.subscribers[key];
                if !subscriber.listed {
                    subscriber.listed = true;
                    subscriber.stalled_since = self.now;
                    self.blocked.push((key as u32, subscriber.serial));
                }
            }
        }
    }

    pub(super) fn account(&self, work: Work) {
        Counters::bump(&self.counters.writes, work.writes);
        Counters::bump(&self.counters.bytes_written, work.bytes);
    }

    pub(super) fn close(&mut self, key: usize, why: Closed) {
        let Some(mut subscriber) = self.subscribers.try_remove(key) else {
            return;
        };
        if why == Closed::Age {
            subscriber.part();
        }
        if !self.places.is_empty() {
            self.places.remove(&(key as u32));
        }
        self.owners.remove(key);
        Counters::bump(self.counters.closed(why), 1);
        self.count_open();
        self.note_closed(&subscriber, why);
        let room_key = subscriber.room as usize;
        let room = &mut self.rooms[room_key];
        self.classes.closed(room.class);
        let index = subscriber.index as usize;
        room.members.swap_remove(index);
        if let Some(&moved) = room.members.get(index) {
            self.subscribers[moved as usize].index = index as u32;
        }
        if room.members.is_empty() {
            room.vacancy = room.vacancy.wrapping_add(1);
            self.lingering.push_back((room_key, room.vacancy, self.now));
        }
        self.part(subscriber, why);
    }

    pub(super) fn now(&self) -> u32 {
        self.now
    }

    /// One tick: stalled clients, empty rooms, draining.
    pub(super) fn tick(&mut self) {
        self.now = self.now.wrapping_add(1);
        self.tick_pages();
        self.reap_stalled();
        self.leave_empty_rooms();
        self.open_impatient();
        if self.live && !self.dark.is_empty() {
            self.tell_live();
        }
        if self.now.is_multiple_of(10) {
            self.tick_ahead();
            self.retry();
        }
        if self.now.is_multiple_of(FORGET_TICKS) {
            self.forget_gone();
        }
        self.retire();
        self.expire();
        self.dismiss_some();
        self.drain_some();
        self.finish_parted();
        self.forget_witnesses();
        self.keep_to_memory();
        self.sizes.flush();
        self.counters
            .log_bytes
            .store(self.log_bytes as u64, std::sync::atomic::Ordering::Relaxed);
    }

    fn forget_witnesses(&mut self) {
        let now = self.now;
        let is_old = |witness: &Witness| now.wrapping_sub(witness.since) > WITNESS_TICKS;
        while self.witnesses.front().is_some_and(is_old) {
            self.witnesses.pop_front();
        }
    }

    fn reap_stalled(&mut self) {
        let patience = ticks(self.config.lag_timeout);
        let mut listed = std::mem::take(&mut self.blocked);
        let mut bytes = 0;
        listed.retain(|&(key, serial)| {
            let Some(subscriber) = self
                .subscribers
                .get_mut(key as usize)
                .filter(|s| s.serial == serial)
            else {
                return false;
            };
            if !subscriber.blocked {
                subscriber.listed = false;
                return false;
            }
            let behind = self.rooms[subscriber.room as usize]
                .log
                .end()
                .saturating_sub(subscriber.offset);
            let stalled = self.now.wrapping_sub(subscriber.stalled_since) > patience;
            if stalled || behind > self.config.max_lag_bytes {
                self.close(key as usize, Closed::Lag);
                return false;
            }
            bytes += behind;
            true
        });
        self.blocked.append(&mut listed);
        Counters::set(&self.counters.stalled, self.blocked.len() as u64);
        Counters::set(&self.counters.stalled_bytes, bytes);
    }

    fn leave_empty_rooms(&mut self) {
        while let Some(&(room_key, vacancy, since)) = self.lingering.front() {
            if self.now.wrapping_sub(since) < LINGER_TICKS {
                break;
            }
            self.lingering.pop_front();
            let Some(room) = self
                .rooms
                .get(room_key)
                .filter(|room| room.vacancy == vacancy && room.members.is_empty())
            else {
                continue;
            };
            self.upstream.unsubscribe(self.shard, &room.name);
            let room = self.rooms.remove(room_key);
            self.forget_pages(room_key);
            self.log_bytes -= room.log.memory();
            self.by_name.remove(&room.name);
            self.dirty.retain(|&dirty| dirty != room_key);
            self.fan_outs.retain(|writing| writing.room != room_key);
            self.counters.rooms.store(
                self.rooms.len() as u64,
                std::sync::atomic::Ordering::Relaxed,
            );
        }
    }

    pub(super) fn room_subscribers(&self, name: &RoomName) -> usize {
        self.by_name
            .get(name)
            .map_or(0, |&key| self.rooms[key].members.len())
    }
}

pub(super) fn ticks(time: Duration) -> u32 {
    (time.as_millis() / TICK.as_millis()) as u32
}

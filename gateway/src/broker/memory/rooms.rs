//! What the memory broker keeps. Plain data: time is an argument, nothing here waits.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use protocol::{Event, EventId, RoomName};

use super::MemoryConfig;
use crate::broker::{NewEvent, Published, Retention, RoomInfo};
use crate::hub::{History, HistoryQuery, Item, ShardId};

/// What an event or a key costs beside its text, about.
const OVERHEAD: usize = 128;

/// A moment by both clocks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Now {
    /// Milliseconds since 1970; may go back, and ids do not follow.
    pub(super) wall_ms: u64,
    /// Never goes back; what expires, expires by this.
    pub(super) uptime: Duration,
}

impl Now {
    pub(super) fn read() -> Self {
        static START: LazyLock<Instant> = LazyLock::new(Instant::now);
        let wall = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Self {
            wall_ms: u64::try_from(wall.as_millis()).unwrap_or(u64::MAX),
            uptime: START.elapsed(),
        }
    }
}

/// Identifies a publish for as long as a repeat of it is known.
type OnceKey = (RoomName, Arc<str>);

#[derive(Debug)]
pub(super) struct Rooms {
    config: MemoryConfig,
    rooms: HashMap<RoomName, Room>,
    /// Rooms that hold events, by their last publish.
    recency: BTreeMap<u64, RoomName>,
    /// The same rooms, as far as they expire: by when, and by their last publish.
    expiries: BTreeMap<(Duration, u64), RoomName>,
    publishes: u64,
    once: HashMap<OnceKey, EventId>,
    once_order: VecDeque<(Duration, OnceKey)>,
    once_bytes: usize,
    event_bytes: usize,
    /// No forgotten room had a later id, so that a room that comes again never repeats one.
    floor: EventId,
}

#[derive(Debug, Default)]
struct Room {
    events: VecDeque<Event>,
    last: EventId,
    shards: Vec<ShardId>,
    /// The key in `recency`, 0 while there are no events.
    recency: u64,
    /// When it expires, by uptime.
    expiry: Option<Duration>,
    /// What the last publish said, or was said for it.
    retention: Retention,
    /// Events were dropped from the front.
    trimmed: bool,
}

impl Rooms {
    pub(super) fn new(config: MemoryConfig) -> Self {
        Self {
            config,
            rooms: HashMap::new(),
            recency: BTreeMap::new(),
            expiries: BTreeMap::new(),
            publishes: 0,
            once: HashMap::new(),
            once_order: VecDeque::new(),
            once_bytes: 0,
            event_bytes: 0,
            floor: EventId::ZERO,
        }
    }

    /// The room's last id: everything later will be supplied to the shard.
    pub(super) fn subscribe(&mut self, shard: ShardId, name: &RoomName) -> EventId {
        let room = self.rooms.entry(name.clone()).or_default();
        if !room.shards.contains(&shard) {
            room.shards.push(shard);
        }
        room.last
    }

    pub(super) fn unsubscribe(&mut self, shard: ShardId, name: &RoomName) {
        if let Some(room) = self.rooms.get_mut(name) {
            room.shards.retain(|other| *other != shard);
            self.forget_if_idle(name);
        }
    }

    pub(super) fn shards(&self, name: &RoomName) -> Vec<ShardId> {
        self.rooms
            .get(name)
            .map(|room| room.shards.clone())
            .unwrap_or_default()
    }

    /// What to answer, and what to deliver; nothing for a repeat.
    pub(super) fn publish(
        &mut self,
        name: &RoomName,
        new: NewEvent,
        now: Now,
    ) -> (Published, Option<Event>) {
        // Copies: a slice would keep alive the whole buffer that the request was read into, which
        // no limit here counts.
        let mut event = Event {
            id: None,
            prev: None,
            name: Bytes::copy_from_slice(&new.name),
            data: Bytes::copy_from_slice(&new.data),
            trace: new.trace,
        };
        let published = |id, repeat| Published {
            id,
            repeat,
            // There are none, so there is nobody to wait for.
            replicas: new.wait.map(|_| Ok(0)),
        };
        if new.ephemeral {
            return (published(None, false), Some(event));
        }
        self.expire_once(now);
        let once = new
            .idempotency_key
            .map(|key| (name.clone(), Arc::from(key)));
        if let Some(id) = once.as_ref().and_then(|once| self.once.get(once)) {
            return (published(Some(*id), true), None);
        }
        let retention = new.retention.over(self.config.retention.of(name));
        let room = self.rooms.entry(name.clone()).or_default();
        let id = next_id(
            if room.last == EventId::ZERO {
                self.floor
            } else {
                room.last
            },
            now.wall_ms,
        );
        event.id = Some(id);
        event.prev = Some(room.last);
        room.last = id;
        room.retention = retention;
        room.events.push_back(event.clone());
        self.event_bytes += cost(&event);
        self.publishes += 1;
        if room.recency != 0 {
            self.recency.remove(&room.recency);
        }
        if let Some(expiry) = room.expiry {
            self.expiries.remove(&(expiry, room.recency));
        }
        room.recency = self.publishes;
        self.recency.insert(self.publishes, name.clone());
        room.expiry = Some(retention.expire)
            .filter(|expire| !expire.is_zero())
            .map(|expire| now.uptime + expire);
        if let Some(expiry) = room.expiry {
            let key = (expiry, room.recency);
            self.expiries.insert(key, name.clone());
        }
        if let Some(once) = once {
            self.once_bytes += once_cost(&once);
            self.once_order
                .push_back((now.uptime + self.config.idempotency_window, once.clone()));
            self.once.insert(once, id);
        }
        self.trim(name, now);
        self.shrink();
        (published(Some(id), false), Some(event))
    }

    pub(super) fn history(&mut self, name: &RoomName, query: HistoryQuery, now: Now) -> History {
        self.trim(name, now);
        let Some(room) = self.rooms.get(name) else {
            return History {
                from_start: true,
                ..History::default()
            };
        };
        let events = &room.events;
        let (from, to, anchor_found) = match query {
            HistoryQuery::Newest { limit } => {
                (events.len().saturating_sub(limit), events.len(), false)
            }
            HistoryQuery::After { after, limit } => {
                let from = events.partition_point(|event| event.id <= Some(after));
                let anchor = from
                    .checked_sub(1)
                    .and_then(|at| events.get(at))
                    .and_then(|event| event.id);
                (
                    from,
                    from.saturating_add(limit).min(events.len()),
                    anchor == Some(after),
                )
            }
        };
        History {
            items: events.range(from..to).cloned().map(Item::Event).collect(),
            anchor_found,
            last_id: room.last,
            oldest: events.front().and_then(|event| event.id),
            from_start: !room.trimmed,
            more: match query {
                HistoryQuery::Newest { .. } => from > 0,
                HistoryQuery::After { .. } => to < events.len(),
            },
        }
    }

    pub(super) fn info(&mut self, name: &RoomName, now: Now) -> RoomInfo {
        self.trim(name, now);
        let configured = self.config.retention.of(name);
        let Some(room) = self.rooms.get(name) else {
            return RoomInfo {
                retention: configured,
                ..RoomInfo::default()
            };
        };
        RoomInfo {
            nodes: u64::from(!room.shards.is_empty()),
            length: room.events.len() as u64,
            last_id: Some(room.last).filter(|last| *last != EventId::ZERO),
            oldest_id: room.events.front().and_then(|event| event.id),
            skipped: Vec::new(),
            retention: match room.events.is_empty() {
                true => configured,
                false => room.retention,
            },
        }
    }

    /// Drops what nobody may see any more.
    pub(super) fn expire(&mut self, now: Now) {
        self.expire_once(now);
        while let Some(entry) = self.expiries.first_entry() {
            if entry.key().0 > now.uptime {
                return;
            }
            let name = entry.remove();
            while self.drop_oldest(&name) {}
        }
    }

    fn expire_once(&mut self, now: Now) {
        while self
            .once_order
            .front()
            .is_some_and(|(until, _)| *until <= now.uptime)
        {
            self.drop_once();
        }
    }

    fn drop_once(&mut self) {
        if let Some((_, once)) = self.once_order.pop_front() {
            self.once_bytes -= once_cost(&once);
            self.once.remove(&once);
        }
    }

    /// Holds one room to its length and age.
    fn trim(&mut self, name: &RoomName, now: Now) {
        while let Some(room) = self.rooms.get(name) {
            let Retention {
                max_len, max_age, ..
            } = room.retention;
            let oldest_ms =
                u64::try_from(max_age.as_millis()).map_or(0, |age| now.wall_ms.saturating_sub(age));
            let over = max_len != 0 && room.events.len() as u64 > max_len;
            let first = room.events.front().and_then(|event| event.id);
            let old = !max_age.is_zero() && first.is_some_and(|id| id.ms < oldest_ms);
            if !((over || old) && self.drop_oldest(name)) {
                return;
            }
        }
    }

    /// Holds everything together to its limit. Keys may take a quarter of it.
    fn shrink(&mut self) {
        while self.once_bytes > self.config.max_bytes / 4 {
            self.drop_once();
        }
        while self.event_bytes + self.once_bytes > self.config.max_bytes {
            let Some((_, name)) = self.recency.first_key_value() else {
                return;
            };
            let name = name.clone();
            if !self.drop_oldest(&name) {
                return;
            }
        }
    }

    /// Whether there was an event to drop.
    fn drop_oldest(&mut self, name: &RoomName) -> bool {
        let Some(room) = self.rooms.get_mut(name) else {
            return false;
        };
        let Some(event) = room.events.pop_front() else {
            return false;
        };
        self.event_bytes -= cost(&event);
        room.trimmed = true;
        if room.events.is_empty() {
            self.recency.remove(&room.recency);
            if let Some(expiry) = room.expiry.take() {
                self.expiries.remove(&(expiry, room.recency));
            }
            room.recency = 0;
            self.forget_if_idle(name);
        }
        true
    }

    /// A room without events and subscribers is not kept: anyone can name a room.
    fn forget_if_idle(&mut self, name: &RoomName) {
        if let Some(room) = self.rooms.get(name)
            && room.events.is_empty()
            && room.shards.is_empty()
        {
            self.floor = self.floor.max(room.last);
            self.rooms.remove(name);
        }
    }
}

/// The clock's id, or the one after `last` where the clock is not ahead of it.
fn next_id(last: EventId, now_ms: u64) -> EventId {
    match last.seq.checked_add(1) {
        _ if now_ms > last.ms => EventId::new(now_ms, 0),
        Some(seq) => EventId::new(last.ms, seq),
        None => EventId::new(last.ms + 1, 0),
    }
}

fn cost(event: &Event) -> usize {
    event.name.len() + event.data.len() + OVERHEAD
}

fn once_cost((room, key): &OnceKey) -> usize {
    room.as_str().len() + key.len() + OVERHEAD
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::RetentionChange;

    fn at(ms: u64) -> Now {
        Now {
            wall_ms: ms,
            uptime: Duration::from_millis(ms),
        }
    }

    fn room(name: &str) -> RoomName {
        RoomName::parse(name).unwrap()
    }

    fn event(data: &str) -> NewEvent {
        NewEvent {
            data: Bytes::copy_from_slice(data.as_bytes()),
            ..NewEvent::default()
        }
    }

    fn limits() -> MemoryConfig {
        let retention = Retention {
            max_len: 3,
            expire: Duration::from_secs(10),
            ..Retention::default()
        };
        MemoryConfig {
            retention: retention.into(),
            ..MemoryConfig::default()
        }
    }

    fn after(rooms: &mut Rooms, name: &str, id: EventId, now: Now) -> History {
        rooms.history(
            &room(name),
            HistoryQuery::After {
                after: id,
                limit: 100,
            },
            now,
        )
    }

    #[test]
    fn ids_rise_though_the_clock_goes_back() {
        let mut rooms = Rooms::new(limits());
        let ids: Vec<_> = [5, 5, 3, 6]
            .map(|ms| {
                rooms
                    .publish(&room("a"), event("x"), at(ms))
                    .0
                    .id
                    .unwrap()
                    .to_string()
            })
            .to_vec();
        assert_eq!(ids, ["5-0", "5-1", "5-2", "6-0"]);
    }

    #[test]
    fn names_the_previous_event_and_keeps_the_newest() {
        let mut rooms = Rooms::new(limits());
        for ms in 1..=5 {
            rooms.publish(&room("a"), event("x"), at(ms));
        }
        let history = after(&mut rooms, "a", EventId::ZERO, at(5));
        let prevs: Vec<_> = history
            .items
            .iter()
            .map(|item| item.prev().unwrap().ms)
            .collect();
        assert_eq!(prevs, [2, 3, 4]);
        assert_eq!(
            (history.oldest, history.last_id),
            (Some(EventId::new(3, 0)), EventId::new(5, 0))
        );
        assert!(!history.from_start && !history.anchor_found);
        assert!(after(&mut rooms, "a", EventId::new(3, 0), at(5)).anchor_found);
        let newest = rooms.history(&room("a"), HistoryQuery::Newest { limit: 2 }, at(5));
        assert_eq!((newest.items.len(), newest.more), (2, true));
    }

    #[test]
    fn a_repeat_gets_the_first_id_until_the_window_is_over() {
        let mut rooms = Rooms::new(MemoryConfig {
            idempotency_window: Duration::from_millis(10),
            ..limits()
        });
        let keyed = || NewEvent {
            idempotency_key: Some("k".to_owned()),
            ..event("x")
        };
        let (first, _) = rooms.publish(&room("a"), keyed(), at(1));
        let (again, delivery) = rooms.publish(&room("a"), keyed(), at(10));
        assert_eq!((again.id, again.repeat, delivery), (first.id, true, None));
        assert!(
            !rooms.publish(&room("b"), keyed(), at(10)).0.repeat,
            "keys belong to a room"
        );
        assert!(!rooms.publish(&room("a"), keyed(), at(11)).0.repeat);
    }

    #[test]
    fn an_idle_room_expires_and_never_repeats_an_id() {
        let mut rooms = Rooms::new(limits());
        rooms.publish(&room("a"), event("x"), at(7));
        rooms.expire(at(10_007));
        assert_eq!(rooms.info(&room("a"), at(10_007)).length, 0);
        assert!(rooms.rooms.is_empty() && rooms.recency.is_empty() && rooms.event_bytes == 0);
        assert_eq!(
            rooms.publish(&room("a"), event("x"), at(2)).0.id,
            Some(EventId::new(7, 1))
        );
    }

    #[test]
    fn a_watched_room_keeps_its_last_id_when_it_expires() {
        let mut rooms = Rooms::new(limits());
        rooms.subscribe(0, &room("a"));
        rooms.publish(&room("a"), event("x"), at(7));
        rooms.expire(at(10_007));
        let history = after(&mut rooms, "a", EventId::new(7, 0), at(10_007));
        assert_eq!(
            (history.last_id, history.oldest),
            (EventId::new(7, 0), None)
        );
        rooms.unsubscribe(0, &room("a"));
        assert!(rooms.rooms.is_empty());
    }

    #[test]
    fn events_past_their_age_are_gone() {
        let retention = Retention {
            max_age: Duration::from_millis(5),
            ..Retention::default()
        };
        let mut rooms = Rooms::new(MemoryConfig {
            retention: retention.into(),
            ..limits()
        });
        rooms.publish(&room("a"), event("x"), at(10));
        rooms.publish(&room("a"), event("y"), at(14));
        assert_eq!(rooms.info(&room("a"), at(15)).length, 2);
        assert_eq!(
            rooms.info(&room("a"), at(16)).oldest_id,
            Some(EventId::new(14, 0))
        );
    }

    #[test]
    fn a_publish_says_what_is_kept_until_the_next_one() {
        let mut rooms = Rooms::new(limits());
        let said = |retention| NewEvent {
            retention,
            ..event("x")
        };
        let longer = RetentionChange {
            max_len: Some(5),
            expire: Some(Duration::ZERO),
            ..RetentionChange::default()
        };
        for ms in 1..=6 {
            rooms.publish(&room("a"), said(longer), at(ms));
        }
        let shorter = RetentionChange {
            max_len: Some(1),
            expire: Some(Duration::from_millis(7)),
            ..RetentionChange::default()
        };
        rooms.publish(&room("b"), event("x"), at(6));
        rooms.publish(&room("b"), said(shorter), at(6));
        assert_eq!(rooms.info(&room("a"), at(6)).length, 5);
        let info = rooms.info(&room("b"), at(6));
        assert_eq!((info.length, info.retention.max_len), (1, 1));
        // The one that was published in last goes first, and the other one never.
        rooms.expire(at(13));
        assert_eq!(rooms.info(&room("b"), at(13)).length, 0);
        rooms.expire(at(100_000));
        assert_eq!(rooms.info(&room("a"), at(100_000)).length, 5);
        rooms.publish(&room("a"), event("x"), at(100_000));
        assert_eq!(rooms.info(&room("a"), at(100_000)).length, 3);
        rooms.expire(at(110_000));
        assert!(rooms.rooms.is_empty() && rooms.expiries.is_empty() && rooms.recency.is_empty());
    }

    #[test]
    fn memory_is_bounded_over_all_rooms_and_keys() {
        let limit = 8 * (OVERHEAD + 100);
        let mut rooms = Rooms::new(MemoryConfig {
            max_bytes: limit,
            ..limits()
        });
        for ms in 1..100 {
            let keyed = NewEvent {
                idempotency_key: Some(format!("{ms}")),
                ..event(&"x".repeat(100))
            };
            rooms.publish(&room(&format!("r{}", ms % 17)), keyed, at(ms));
            assert!(rooms.event_bytes + rooms.once_bytes <= limit);
        }
        assert!(rooms.rooms.len() < 9 && rooms.once.len() == rooms.once_order.len());
        assert_eq!(
            rooms.info(&room("r14"), at(100)).length,
            1,
            "the newest stays"
        );
    }
}

//! A subscriber comes: its head leaves, it enters its room, and is told where it is.

use mio::{Interest, Token};
use protocol::{LastEventId, RoomName};

use super::node::Counters;
use super::room::Room;
use super::state::{Closed, State};
use super::subscriber::{CatchUp, Handle, Subscriber};
use super::transport::{Call, Line};
use super::{Control, Position, Subscription};

/// How long a new stream may wait for the broker before it is opened without a position.
const OPEN_PATIENCE_TICKS: u32 = 20;

impl State {
    /// Takes over a socket. Its head leaves at once, `stream.open` as soon as there is something
    /// true to say.
    pub(super) fn adopt(&mut self, subscription: Subscription) {
        let mut line = Line::from(subscription.wire);
        let key = self.subscribers.vacant_key();
        let both = Interest::READABLE | Interest::WRITABLE;
        // Fails only when the kernel is out of memory for watches: the client comes back.
        if let Some(socket) = line.socket()
            && let Err(error) = self.registry.register(socket, Token(key), both)
        {
            tracing::error!(%error, "a stream could not be registered and was closed");
            return;
        }
        self.serial = self.serial.wrapping_add(1);
        let handle = (key as u32, self.serial);
        line.begin(|| Call::new(self.calls.clone(), handle));
        let mut subscriber = Subscriber::new(line, handle, subscription.framing, subscription.head);
        subscriber.heartbeat_events = subscription.heartbeat_events;
        Counters::bump(&self.counters.streams_opened, 1);
        let (room, terms) = (&subscription.room, &subscription.terms);
        let refused = subscription.refused.map(Closed::Limit);
        let refused = refused.or_else(|| self.refusal(room, terms));
        let owner = match refused.map_or_else(|| self.own(terms), Err) {
            Ok(owner) => owner,
            Err(why) => {
                // Before its client hears of it, and perhaps comes back at once.
                drop(subscription.place);
                self.note_refused(&subscriber, &subscription.room, subscription.client, why);
                self.refuse(subscriber, why);
                return;
            }
        };
        if let Some(place) = subscription.place {
            self.places.insert(handle.0, place);
        }
        self.note_age(handle);
        self.note_terms(handle, owner, subscription.terms.ends);
        let room_key = self.enter_room(&subscription.room);
        let room = &mut self.rooms[room_key];
        subscriber.room = room_key as u32;
        subscriber.index = room.members.len() as u32;
        subscriber.offset = room.log.end();
        room.members.push(key as u32);
        let mut catch_up = CatchUp::new(subscription.position);
        catch_up.trace = subscription.trace;
        subscriber.adrift = catch_up.presented.is_none();
        subscriber.catch_up = Some(Box::new(catch_up));
        self.subscribers.insert(subscriber);
        self.count_open();
        self.classes.opened(self.rooms[room_key].class);
        self.note_opened(key, subscription.client);
        self.open_at_once(key);
        self.resolve(key);
        self.flush(key);
    }

    fn enter_room(&mut self, name: &RoomName) -> usize {
        if let Some(&key) = self.by_name.get(name) {
            self.rooms[key].vacancy = self.rooms[key].vacancy.wrapping_add(1);
            return key;
        }
        let key = self
            .rooms
            .insert(Room::new(name.clone(), self.classes.of(name)));
        self.by_name.insert(name.clone(), key);
        self.joining.push_back((name.clone(), self.now()));
        self.upstream.subscribe(self.shard, name);
        Counters::bump(&self.counters.rooms, 1);
        key
    }

    pub(super) fn count_open(&self) {
        let open = self.subscribers.len() as u64;
        self.counters
            .streams_open
            .store(open, std::sync::atomic::Ordering::Relaxed);
    }

    /// Whether events of a room flow.
    pub(super) fn is_live(&self, room: &Room) -> bool {
        self.live && !room.away && (room.joined || !room.late)
    }

    /// A client that resumes is told its own position back before anything else; a new one, while
    /// the broker is away, that there is none. Until the broker has confirmed the room, nobody knows whether it is.
    pub(super) fn open_at_once(&mut self, key: usize) {
        let subscriber = &self.subscribers[key];
        let room = &self.rooms[subscriber.room as usize];
        let Some(catch_up) = &subscriber.catch_up else {
            return;
        };
        let id = match catch_up.want {
            _ if !self.is_live(room) => None,
            _ if !room.joined => return,
            Position::After(id) => Some(id.into()),
            Position::Fork(fork) => Some(LastEventId::Fork(fork)),
            Position::Malformed(_) => None,
            _ => return,
        };
        self.send_open(key, id);
    }

    /// Adds `stream.open` to the outbox, once.
    pub(super) fn send_open(&mut self, key: usize, id: Option<LastEventId>) {
        let subscriber = &mut self.subscribers[key];
        if subscriber.opened {
            return;
        }
        subscriber.opened = true;
        let room_key = subscriber.room as usize;
        let live = self.is_live(&self.rooms[room_key]);
        let id = id.filter(|_| live);
        let subscriber = &mut self.subscribers[key];
        if !live {
            subscriber.dark = true;
            self.dark.push((key as u32, subscriber.serial));
        }
        let room = &self.rooms[room_key].name;
        subscriber.push_control(Control::Open { room, id, live }, &*self.encoder);
    }

    /// Tells those who were opened without a live room. One that is behind is told at a later tick:
    /// the id must not run ahead of what it has.
    pub(super) fn tell_live(&mut self) {
        let waiting = std::mem::take(&mut self.dark);
        for (key, serial) in waiting {
            let Some(subscriber) = self
                .subscribers
                .get(key as usize)
                .filter(|s| s.serial == serial && s.dark)
            else {
                continue;
            };
            let room = &self.rooms[subscriber.room as usize];
            let settled = self.is_live(room)
                && subscriber.is_clear()
                && subscriber.catch_up.is_none()
                && subscriber.offset == room.log.end();
            if !settled {
                self.dark.push((key, serial));
                continue;
            }
            let id = subscriber.adrift.then(|| room.log.head());
            let subscriber = &mut self.subscribers[key as usize];
            subscriber.dark = false;
            subscriber.push_control(Control::Live { id }, &*self.encoder);
            self.flush(key as usize);
        }
    }

    pub(super) fn open_impatient(&mut self) {
        while let Some((name, since)) = self.joining.front() {
            let since = *since;
            let room_key = self.by_name.get(name).copied();
            let room = room_key.and_then(|key| self.rooms.get_mut(key));
            let mut waiting = Vec::new();
            if let Some(room) = room.filter(|room| !room.joined) {
                if self.now.wrapping_sub(since) < OPEN_PATIENCE_TICKS {
                    break;
                }
                room.late = true;
                waiting.clone_from(&room.waiting);
            }
            self.joining.pop_front();
            for (key, serial) in waiting {
                if self
                    .subscribers
                    .get(key as usize)
                    .is_some_and(|s| s.serial == serial)
                {
                    self.send_open(key as usize, None);
                    self.flush(key as usize);
                }
            }
        }
    }

    /// Those who have gone are taken off the lists of those who wait: while the broker is away, what they wait for may
    /// be long in coming, and clients come and go.
    pub(super) fn forget_gone(&mut self) {
        let subscribers = &self.subscribers;
        let is_here = |&(key, serial): &Handle| {
            let subscriber = subscribers.get(key as usize);
            subscriber.is_some_and(|subscriber| subscriber.serial == serial)
        };
        self.dark.retain(is_here);
        for (_, room) in &mut self.rooms {
            room.waiting.retain(is_here);
            room.reader.forget(is_here);
        }
        self.leaving.forget(subscribers.len(), is_here);
        self.ends.forget(subscribers.len(), is_here);
    }
}

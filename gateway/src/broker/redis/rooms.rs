//! The rooms that this node is subscribed to.

use std::collections::HashMap;

use protocol::keys::slot;
use protocol::{EventId, Keys, RoomName};
use slab::Slab;

use crate::broker::sequencer::Sequencer;
use crate::hub::{Item, Reset, ShardId};

/// A server, whichever of them there are: never used again.
pub(super) type ServerId = u64;

/// A room, and which one it was: places are used again.
pub(super) type Handle = (usize, u64);

/// What waits to be sent to the shards of a room.
#[derive(Debug)]
pub(super) enum Out {
    Joined(EventId),
    Items(Vec<Item>),
    Reset(Reset),
    Live(bool),
}

/// A room with at least one shard, or one whose channels are being given up.
#[derive(Debug)]
pub(super) struct Room {
    pub(super) name: RoomName,
    pub(super) channel: Box<[u8]>,
    pub(super) keyspace: Box<[u8]>,
    pub(super) serial: u64,
    /// Hash slot, of use in a cluster.
    pub(super) slot: u16,
    /// The server whose link carries its channels.
    pub(super) server: Option<ServerId>,
    /// The server has given its channels up, or refused them: it is not there any more.
    pub(super) is_homeless: bool,
    /// Its server was lost after it had joined, and what was missed has not been read yet.
    pub(super) is_away: bool,
    pub(super) shards: Vec<ShardId>,
    pub(super) sequencer: Sequencer,
    pub(super) out: Vec<Out>,
    /// Listed as one with something to send, or with signals to settle.
    pub(super) is_dirty: bool,
    pub(super) is_unsettled: bool,
    /// `UNSUBSCRIBE` was sent and is not confirmed. A shard that comes back waits for that, or
    /// the confirmation of an earlier `SUBSCRIBE` would pass for the new one's.
    pub(super) is_leaving: bool,
    pub(super) has_wrong_type: bool,
    /// A message did not follow the last one, and what is between is being read.
    pub(super) has_hole: bool,
}

/// Which room a channel belongs to, and as what.
#[derive(Debug, Clone, Copy)]
pub(super) enum Channel {
    Events(usize),
    Keyspace(usize),
}

/// Rooms by name and by channel.
#[derive(Debug, Default)]
pub(super) struct Rooms {
    places: Slab<Room>,
    by_name: HashMap<RoomName, usize>,
    by_channel: HashMap<Box<[u8]>, Channel>,
    serial: u64,
}

impl Rooms {
    pub(super) fn find(&self, name: &RoomName) -> Option<usize> {
        self.by_name.get(name).copied()
    }

    pub(super) fn channel(&self, channel: &[u8]) -> Option<Channel> {
        self.by_channel.get(channel).copied()
    }

    pub(super) fn get(&mut self, index: usize) -> Option<&mut Room> {
        self.places.get_mut(index)
    }

    pub(super) fn peek(&self, index: usize) -> Option<&Room> {
        self.places.get(index)
    }

    /// The room, unless it went and its slot was used again.
    pub(super) fn current(&mut self, handle: Handle) -> Option<&mut Room> {
        self.places
            .get_mut(handle.0)
            .filter(|room| room.serial == handle.1)
    }

    pub(super) fn insert(&mut self, name: &RoomName, keys: &Keys, database: i64) -> usize {
        let channel: Box<[u8]> = keys.room(name).into_bytes().into();
        let keyspace: Box<[u8]> = keys.keyspace(database, name).into_bytes().into();
        self.serial += 1;
        let index = self.places.insert(Room {
            name: name.clone(),
            channel: channel.clone(),
            keyspace: keyspace.clone(),
            serial: self.serial,
            slot: slot(&channel),
            server: None,
            is_homeless: false,
            is_away: false,
            shards: Vec::new(),
            sequencer: Sequencer::default(),
            out: Vec::new(),
            is_dirty: false,
            is_unsettled: false,
            is_leaving: false,
            has_wrong_type: false,
            has_hole: false,
        });
        self.by_name.insert(name.clone(), index);
        self.by_channel.insert(channel, Channel::Events(index));
        self.by_channel.insert(keyspace, Channel::Keyspace(index));
        index
    }

    pub(super) fn remove(&mut self, index: usize) {
        if let Some(room) = self.places.try_remove(index) {
            self.by_name.remove(&room.name);
            self.by_channel.remove(&room.channel);
            self.by_channel.remove(&room.keyspace);
        }
    }

    /// Forgets everything about the room but who wants it; reads under way are not for it any more.
    pub(super) fn restart(&mut self, index: usize) {
        self.serial += 1;
        if let Some(room) = self.places.get_mut(index) {
            room.serial = self.serial;
            room.sequencer = Sequencer::default();
            room.is_away = false;
            room.has_wrong_type = false;
            room.out.clear();
        }
    }

    pub(super) fn indexes(&self) -> Vec<usize> {
        self.places.iter().map(|(index, _)| index).collect()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (usize, &Room)> {
        self.places.iter()
    }
}

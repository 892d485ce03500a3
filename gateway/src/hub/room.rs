//! One room of a shard: its log, who is in it, and who waits for its history.

use std::time::Instant;

use protocol::{EventId, RoomName};

use super::catchup::Reader;
use super::log::RoomLog;
use super::subscriber::Handle;

#[derive(Debug)]
pub(super) struct Room {
    pub(super) name: RoomName,
    /// Its place among the classes of rooms.
    pub(super) class: usize,
    pub(super) log: RoomLog,
    /// The highest position that a subscriber had of the stream and the log had not reached yet.
    pub(super) ahead: EventId,
    /// Keys of the subscribers; each knows its index here.
    pub(super) members: Vec<u32>,
    /// Members below this index are still due in the pass under way.
    pub(super) due: usize,
    /// In the queue of rooms to sweep, since then.
    pub(super) queued: Option<Instant>,
    /// More came during the pass under way, since then: another one follows.
    pub(super) again: Option<Instant>,
    /// The broker has confirmed; the log has a meaning.
    pub(super) joined: bool,
    /// The broker has said that this room's part of it is away.
    pub(super) away: bool,
    /// The broker has not confirmed in time.
    pub(super) late: bool,
    /// Subscribers that wait for the broker's confirmation or for the backfill.
    pub(super) waiting: Vec<Handle>,
    /// A read of the newest history is under way.
    pub(super) backfilling: bool,
    /// The newest history was read once.
    pub(super) backfilled: bool,
    pub(super) reader: Reader,
    /// Events so far.
    pub(super) events: u64,
    /// Of those, how many the passes so far have carried.
    pub(super) swept: u64,
    /// The tick of the last event.
    pub(super) active: u32,
    /// Counts the changes between empty and not empty, so that a linger note can be stale.
    pub(super) vacancy: u32,
}

impl Room {
    pub(super) fn new(name: RoomName, class: usize) -> Self {
        Self {
            name,
            class,
            log: RoomLog::new(EventId::ZERO),
            ahead: EventId::ZERO,
            members: Vec::new(),
            due: 0,
            queued: None,
            again: None,
            joined: false,
            away: false,
            late: false,
            waiting: Vec::new(),
            backfilling: false,
            backfilled: false,
            reader: Reader::default(),
            events: 0,
            swept: 0,
            active: 0,
            vacancy: 0,
        }
    }
}

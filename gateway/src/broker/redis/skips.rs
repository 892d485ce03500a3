//! What was skipped in which room, and why.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use parking_lot::Mutex;
use protocol::{EventError, EventId, RoomName};

use super::RedisMetrics;
use super::reads::reason;

/// Rooms that are remembered at most.
const MAX_ROOMS: usize = 4096;
/// Ids that are remembered per room, so that an entry counts once however often it is read.
const MAX_IDS: usize = 2048;

#[derive(Debug, Default)]
struct RoomSkips {
    reasons: BTreeMap<&'static str, u64>,
    ids: BTreeSet<EventId>,
}

/// Skipped entries and messages by room.
#[derive(Debug, Default)]
pub(super) struct Skips(Mutex<HashMap<RoomName, RoomSkips>>);

impl Skips {
    /// Counts a stored entry, once; logs the first of each kind.
    pub(super) fn entry(
        &self,
        room: &RoomName,
        id: EventId,
        error: &EventError,
        metrics: &RedisMetrics,
    ) {
        let word = reason(error);
        let first = self.count(room, word, |skips| {
            if skips.ids.len() >= MAX_IDS {
                skips.ids.pop_first();
            }
            // Below what is remembered it was counted before.
            let forgotten = skips.ids.len() + 1 >= MAX_IDS && skips.ids.first() > Some(&id);
            !forgotten && skips.ids.insert(id)
        });
        if first.is_some() {
            metrics.skipped.inc();
        }
        if first == Some(true) {
            tracing::warn!(%room, %id, reason = word, "an entry of this room cannot be delivered and is skipped: {error}");
        }
    }

    /// Counts a message on the channel that cannot be delivered.
    pub(super) fn message(&self, room: &RoomName, why: &str, metrics: &RedisMetrics) {
        metrics.malformed.inc();
        if self.count(room, "malformed_message", |_| true) == Some(true) {
            tracing::warn!(%room, "a message on this room's channel cannot be delivered and is skipped: {why}");
        }
    }

    /// `None`: not counted; otherwise whether it is the first of its kind.
    fn count(
        &self,
        room: &RoomName,
        word: &'static str,
        is_new: impl FnOnce(&mut RoomSkips) -> bool,
    ) -> Option<bool> {
        let mut rooms = self.0.lock();
        if rooms.len() >= MAX_ROOMS && !rooms.contains_key(room) {
            return None;
        }
        let skips = rooms.entry(room.clone()).or_default();
        if !is_new(skips) {
            return None;
        }
        let count = skips.reasons.entry(word).or_default();
        *count += 1;
        Some(*count == 1)
    }

    /// What was skipped in a room.
    pub(super) fn of(&self, room: &RoomName) -> Vec<(String, u64)> {
        let rooms = self.0.lock();
        let Some(skips) = rooms.get(room) else {
            return Vec::new();
        };
        let named = |(&word, &count): (&&str, &u64)| (word.to_owned(), count);
        skips.reasons.iter().map(named).collect()
    }

    /// Nobody is in the room any more.
    pub(super) fn forget(&self, room: &RoomName) {
        self.0.lock().remove(room);
    }
}

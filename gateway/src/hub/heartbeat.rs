//! Heartbeats: a byte for every stream that would stay silent too long, a few at a time between other work.

use super::state::{State, TICK};
use super::{Control, Encoder};

/// Heartbeats written before events get their turn: what an event waits for them at most.
const BUDGET: usize = 4;

/// Where the round through all subscribers is. Each tick's turn takes the keys that leave the same remainder when
/// divided by the number of turns, so that a round is spread evenly.
#[derive(Debug)]
pub(super) struct Heartbeats {
    /// The tick whose turn is under way.
    turn: u32,
    /// The key to look at next.
    key: usize,
    /// A comment as a chunk, and bare.
    comment: [Vec<u8>; 2],
}

impl Heartbeats {
    pub(super) fn new(encoder: &dyn Encoder) -> Self {
        let mut chunk = Vec::new();
        let inner = encoder.control(&mut chunk, Control::Comment);
        let bare = chunk[inner].to_vec();
        Self {
            turn: 0,
            key: 0,
            comment: [chunk, bare],
        }
    }
}

impl State {
    /// Writes some of the heartbeats that are due by now; `true` when more are due. A stream has its turn once in nine
    /// tenths of the configured time. A stream that was given an event in the last tenth needs no heartbeat: the next turn
    /// comes in time for it.
    pub(super) fn heartbeats(&mut self) -> bool {
        let heartbeat = self.config.heartbeat;
        let turns = ((heartbeat * 9 / 10).as_millis() / TICK.as_millis()).max(1) as usize;
        let recent = (heartbeat / 10).as_millis() / TICK.as_millis();
        let mut left = BUDGET;
        while self.beats.turn != self.now() {
            if self.beats.key >= self.subscribers.capacity() {
                self.beats.turn = self.beats.turn.wrapping_add(1);
                self.beats.key = self.beats.turn as usize % turns;
                continue;
            }
            let key = self.beats.key;
            self.beats.key += turns;
            if self.heartbeat(key, recent as u32) {
                left -= 1;
                if left == 0 {
                    return true;
                }
            }
        }
        false
    }

    fn heartbeat(&mut self, key: usize, recent: u32) -> bool {
        let now = self.now();
        let Some(subscriber) = self.subscribers.get_mut(key).filter(|s| s.is_clear()) else {
            return false;
        };
        if subscriber.heartbeat_events {
            if !subscriber.opened {
                return false;
            }
            // A page that asked for these may look for nothing else.
            subscriber.push_control(Control::Heartbeat, &*self.encoder);
        } else {
            let room = &self.rooms[subscriber.room as usize];
            let given = subscriber.catch_up.is_none() && subscriber.offset == room.log.end();
            if given && now.wrapping_sub(room.active) < recent {
                return false;
            }
            subscriber.push_raw(&self.beats.comment[usize::from(subscriber.identity())]);
        }
        self.flush(key);
        true
    }
}

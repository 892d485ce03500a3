//! Looks at the streams of rooms, in case something was missed: at all of them at a slow rate, and
//! more often at those that Redis does not announce.
//!
//! Invariant: verification asks for [`RATE`] rooms a second at most, however many there are; beyond
//! `RATE` times `redis.verify_interval` rooms a pass takes longer instead.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use super::{Cause, Done, Driver};
use crate::broker::redis::RedisConfig;
use crate::broker::redis::upkeep::{self, Suspect};

/// Rooms that a node verifies in a second at most.
const RATE: u32 = 4_000;

/// Why rooms are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    /// All of them in turn.
    Verification,
    /// Redis does not announce what is added to them: notifications are off, or their slots are
    /// on their way from one server to another.
    Polling,
}

/// One pass over rooms.
#[derive(Debug)]
struct Pass {
    /// When the next one begins; `None` for never.
    next: Option<Instant>,
    /// Rooms that wait for their turn; `None` while no pass is under way.
    waiting: Option<VecDeque<usize>>,
    /// When the next batch leaves; `None` while one is under way.
    batch: Option<Instant>,
}

/// Both passes.
#[derive(Debug)]
pub(super) struct Passes {
    verification: Pass,
    polling: Pass,
}

impl Passes {
    pub(super) fn new(now: Instant, config: &RedisConfig) -> Self {
        let pass = |next| Pass {
            next,
            waiting: None,
            batch: None,
        };
        Self {
            verification: pass(Some(now + config.verify_interval)),
            polling: pass(None),
        }
    }

    pub(super) fn next_timer(&self) -> impl Iterator<Item = Instant> + use<> {
        let timers = [&self.verification, &self.polling].map(|pass| match pass.waiting {
            Some(_) => pass.batch,
            None => pass.next,
        });
        timers.into_iter().flatten()
    }

    pub(super) fn verify_now(&mut self) {
        self.verification.next = Some(Instant::now());
    }

    fn of(&mut self, reason: Reason) -> &mut Pass {
        match reason {
            Reason::Verification => &mut self.verification,
            Reason::Polling => &mut self.polling,
        }
    }
}

impl Driver {
    /// Begins to poll where something is not announced.
    pub(super) fn poll_if_needed(&mut self) {
        let is_needed = |server: &super::Server| server.is_polling || !server.moving.is_empty();
        if !self.servers.iter().any(is_needed) {
            self.passes.polling.next = None;
        } else if self.passes.polling.next.is_none() {
            let config = &self.shared.config;
            let pause = config.poll_interval.min(config.verify_interval);
            self.passes.polling.next = Some(Instant::now() + pause);
        }
    }

    pub(super) fn passes_due(&mut self, now: Instant) {
        for reason in [Reason::Verification, Reason::Polling] {
            let pass = self.passes.of(reason);
            if pass.waiting.is_some() {
                if pass.batch.take_if(|at| *at <= now).is_some() {
                    self.look_at_next(reason);
                }
            } else if pass.next.take_if(|at| *at <= now).is_some() {
                self.begin(reason, now);
            }
        }
    }

    fn begin(&mut self, reason: Reason, now: Instant) {
        let config = &self.shared.config;
        let (verify, poll) = (
            config.verify_interval,
            config.poll_interval.min(config.verify_interval),
        );
        let indexes = match reason {
            Reason::Verification => {
                self.passes.verification.next = Some(now + verify);
                self.rooms.indexes()
            }
            Reason::Polling => {
                self.passes.polling.next = Some(now + poll);
                let rooms = self.rooms.iter().filter(|(_, room)| {
                    let server = self
                        .servers
                        .iter()
                        .find(|server| Some(server.id) == room.server);
                    server.is_some_and(|server| {
                        server.is_polling || server.moving.contains(&room.slot)
                    })
                });
                rooms.map(|(index, _)| index).collect()
            }
        };
        self.passes.of(reason).waiting = Some(indexes.into());
        self.look_at_next(reason);
    }

    fn look_at_next(&mut self, reason: Reason) {
        let mut batch = Vec::new();
        let waiting = &mut self.passes.of(reason).waiting;
        let mut waiting_here = waiting.take().unwrap_or_default();
        while let Some(index) = waiting_here.pop_front() {
            let Some(room) = self.rooms.get(index) else {
                continue;
            };
            let head = room.sequencer.head().filter(|_| room.sequencer.is_live());
            if let Some(head) = head {
                let handle = (index, room.serial);
                batch.push(Suspect {
                    handle,
                    room: room.name.clone(),
                    head,
                });
            }
            if batch.len() == upkeep::BATCH {
                break;
            }
        }
        if batch.is_empty() {
            return;
        }
        self.passes.of(reason).waiting = Some(waiting_here);
        let shared = self.shared.clone();
        self.spawn(async move {
            let began = Instant::now();
            // What cannot be asked now is asked in the next pass.
            let found = upkeep::verify(&shared, batch).await.unwrap_or_default();
            if reason == Reason::Verification {
                let pause = Duration::from_secs(1) * upkeep::BATCH as u32 / RATE;
                tokio::time::sleep_until(began + pause).await;
            }
            Done::Verified(reason, found)
        });
    }

    pub(super) fn verified(&mut self, reason: Reason, suspects: Vec<Suspect>) {
        for suspect in suspects {
            self.sequence(suspect.handle, Cause::Stream, |room, _| {
                room.suspicious(suspect.head)
            });
        }
        if self.passes.of(reason).waiting.is_some() {
            self.look_at_next(reason);
        }
    }
}

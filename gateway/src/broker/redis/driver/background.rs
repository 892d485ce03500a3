//! What the loop starts in the background, and what it makes of the outcome.

use std::collections::VecDeque;

use tokio::time::Instant;

use super::{Cause, Done, Driver, RETRY};
use crate::broker::BrokerError;
use crate::broker::redis::library::{self, Notifications};
use crate::broker::redis::upkeep::{self, Probed, Suspect};

impl Driver {
    pub(super) async fn probe(&mut self, now: Instant) {
        let config = &self.shared.config;
        let patience = config.probe_interval * 3 + config.response_timeout;
        if self.link.is_some() && now - self.probe_seen > patience {
            self.link_down("its probes do not come back").await;
        }
        if std::mem::replace(&mut self.is_probing, true) {
            return;
        }
        self.probe_sent = Instant::now();
        let (shared, nonce) = (self.shared.clone(), self.nonce.clone());
        self.spawn(async move { Done::Probed(upkeep::probe(&shared, &nonce).await) });
    }

    pub(super) fn look_at_notifications(&self) {
        let shared = self.shared.clone();
        self.spawn(async move { Done::Notifications(library::notifications(&shared).await) });
    }

    pub(super) fn notifications(&mut self, result: Result<Notifications, BrokerError>) {
        self.ready.flags |= result.is_ok();
        match result {
            Ok(Notifications::Off(reason)) => {
                // Flags that cannot be looked at may be set all the same.
                self.is_polling = !self.signals_seen;
                let trouble = self.is_polling.then_some(reason);
                if let Some(reason) = self.shared.status.notifications(trouble) {
                    tracing::warn!(
                        reason,
                        "plain XADD is not announced by Redis: active rooms are polled"
                    );
                }
                if self.is_polling {
                    let soon = Instant::now() + self.shared.config.poll_interval;
                    self.timers.verify = self.timers.verify.min(soon);
                }
            }
            Ok(found) => {
                self.is_polling = false;
                self.shared.status.notifications(None);
                if found == Notifications::TurnedOn {
                    self.timers.verify = Instant::now();
                }
            }
            Err(_) => self.timers.flags = Instant::now() + RETRY,
        }
    }

    pub(super) fn begin_verification(&mut self, now: Instant) {
        let config = &self.shared.config;
        let pause = if self.is_polling {
            config.poll_interval.min(config.verify_interval)
        } else {
            config.verify_interval
        };
        self.timers.verify = now + pause;
        if self.link.is_some() && self.verifying.is_none() {
            self.verifying = Some(self.rooms.indexes().into());
            self.verify_next();
        }
    }

    pub(super) fn verify_next(&mut self) {
        let mut batch = Vec::new();
        while let Some(index) = self.verifying.as_mut().and_then(VecDeque::pop_front) {
            let Some(room) = self.rooms.get(index) else {
                continue;
            };
            if let Some(head) = room
                .sequencer
                .head()
                .filter(|_| !room.sequencer.is_reading())
            {
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
            self.verifying = None;
            return;
        }
        let shared = self.shared.clone();
        self.spawn(async move {
            // What cannot be asked now is asked in the next pass.
            Done::Verified(upkeep::verify(&shared, batch).await.unwrap_or_default())
        });
    }

    pub(super) fn verified(&mut self, suspects: Vec<Suspect>) {
        for suspect in suspects {
            self.sequence(suspect.handle, Cause::Stream, |room, _| {
                room.suspicious(suspect.head)
            });
        }
        self.verify_next();
    }

    pub(super) fn probed(&mut self, probed: Probed) {
        self.is_probing = false;
        self.ready.library |= probed.commands.is_none();
        let status = &self.shared.status;
        if let Some(reason) = status.commands(probed.commands) {
            tracing::warn!(reason, "commands to Redis fail");
        }
        if let Some(reason) = status.library(probed.library) {
            tracing::warn!(
                reason,
                "the publish function could not be loaded into Redis"
            );
        }
    }
}

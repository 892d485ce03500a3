//! What the loop starts in the background, and what it makes of the outcome.

use tokio::time::Instant;

use super::retries::RETRY;
use super::{Done, Driver};
use crate::broker::BrokerError;
use crate::broker::redis::commands::To;
use crate::broker::redis::library::{self, Notifications};
use crate::broker::redis::rooms::ServerId;
use crate::broker::redis::status::Trouble;
use crate::broker::redis::upkeep::{self, Probed};

impl Driver {
    pub(super) async fn servers_due(&mut self, now: Instant) {
        let ids: Vec<ServerId> = self.servers.iter().map(|server| server.id).collect();
        for id in ids {
            let config = &self.shared.config;
            let (probe, verify) = (config.probe_interval, config.verify_interval);
            let Some(server) = self.server(id) else {
                continue;
            };
            let connect = server.connect.take_if(|at| *at <= now).is_some();
            let linked = server.link.is_some();
            let is_probe = linked && server.probe <= now;
            let is_flags = linked && server.flags <= now;
            if is_probe {
                server.probe = now + probe;
            }
            if is_flags {
                server.flags = now + verify;
            }
            if connect {
                self.connect(id);
            }
            if is_probe {
                self.probe(id, now).await;
            }
            if is_flags {
                self.look_at_notifications(id);
            }
        }
    }

    async fn probe(&mut self, id: ServerId, now: Instant) {
        let config = &self.shared.config;
        let patience = config.probe_interval * 3 + config.response_timeout;
        let Some(server) = self.server(id) else {
            return;
        };
        let Some(channel) = server.probe_channel.clone() else {
            // Nothing leads here any more.
            server.probe_seen = now;
            return;
        };
        if now - server.probe_seen > patience {
            self.link_down(id, "its probes do not come back").await;
            return;
        }
        if std::mem::replace(&mut server.is_probing, true) {
            return;
        }
        server.probe_sent = Instant::now();
        let address = server.address.clone();
        let (shared, nonce) = (self.shared.clone(), self.nonce.clone());
        self.spawn(async move {
            Done::Probed(id, upkeep::probe(&shared, &address, &channel, &nonce).await)
        });
    }

    pub(super) async fn probed(&mut self, id: ServerId, probed: Probed) {
        let shared = self.shared.clone();
        let Some(server) = self.server(id) else {
            return;
        };
        server.is_probing = false;
        server.ready.library |= probed.commands.is_none();
        server.moving = probed.moving;
        let fails = probed.commands.is_some();
        if std::mem::replace(&mut server.commands_fail, fails) && !fails {
            server.retries.answered(Instant::now());
        }
        let (status, label, address) = (&shared.status, &server.label, &server.address);
        if let Some(reason) = status.note(Trouble::Commands, label, probed.commands) {
            tracing::warn!(reason, %address, "commands to Redis fail");
        }
        if let Some(reason) = status.note(Trouble::Library, label, probed.library) {
            tracing::warn!(
                reason,
                %address,
                "the publish function could not be loaded into Redis"
            );
        }
        if probed.is_replica && server.link.is_some() {
            // A name may lead to another server by now: commands look it up again, too.
            let replica = server.address.clone();
            shared.commands.keep(|address| *address != replica);
            self.link_down(id, "it is a replica now").await;
        }
        self.poll_if_needed();
    }

    pub(super) fn look_at_notifications(&mut self, id: ServerId) {
        let shared = self.shared.clone();
        let Some(server) = self.server(id) else {
            return;
        };
        let to = To::Server(server.address.clone());
        self.spawn(
            async move { Done::Notifications(id, library::notifications(&shared, &to).await) },
        );
    }

    pub(super) fn notifications(
        &mut self,
        id: ServerId,
        result: Result<Notifications, BrokerError>,
    ) {
        let shared = self.shared.clone();
        let Some(server) = self.server(id) else {
            return;
        };
        server.ready.flags |= result.is_ok();
        let status = &shared.status;
        match result {
            Ok(Notifications::Off(reason)) => {
                // Flags that cannot be looked at may be set all the same.
                server.is_polling = !server.signals_seen;
                let trouble = server.is_polling.then_some(reason);
                if let Some(reason) = status.note(Trouble::Notifications, &server.label, trouble) {
                    tracing::warn!(
                        reason,
                        address = %server.address,
                        "plain XADD is not announced by Redis: active rooms are polled"
                    );
                }
                self.poll_if_needed();
            }
            Ok(found) => {
                server.is_polling = false;
                status.note(Trouble::Notifications, &server.label, None);
                if found == Notifications::TurnedOn {
                    self.passes.verify_now();
                }
            }
            Err(_) => server.flags = Instant::now() + RETRY.0,
        }
    }
}

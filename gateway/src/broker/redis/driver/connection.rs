//! Links come and go, and what they bring is sorted.

use std::collections::HashSet;

use protocol::servers::redirection;
use tokio::time::Instant;

use super::servers::Ready;
use super::{BACKOFF, Cause, Done, Driver};
use crate::broker::redis::identity;
use crate::broker::redis::link::Link;
use crate::broker::redis::resp::{Kind, Push};
use crate::broker::redis::rooms::{Channel, Out, ServerId};
use crate::broker::redis::status::Trouble;
use crate::hub::Supply;

impl Driver {
    pub(super) fn connect(&mut self, id: ServerId) {
        let shared = self.shared.clone();
        let Some(server) = self.server(id) else {
            return;
        };
        if std::mem::replace(&mut server.is_connecting, true) {
            return;
        }
        let address = server.address.clone();
        server
            .up
            .get_or_insert_with(|| shared.metrics.server_up(&address));
        self.spawn(async move {
            let config = &shared.config;
            let link = Link::connect(
                &config.servers,
                &address,
                &config.node,
                config.connect_timeout,
            );
            Done::Linked(id, link.await)
        });
    }

    pub(super) fn link_up(&mut self, id: ServerId, mut link: Link) {
        let rooms = self.rooms.iter().map(|(_, room)| room);
        let here = rooms.filter(|room| room.server == Some(id));
        let now = Instant::now();
        let Some(server) = self.servers.iter_mut().find(|server| server.id == id) else {
            return;
        };
        server.is_connecting = false;
        server.connect = None;
        server.probe_seen = now;
        server.ready = Ready::default();
        server.signals_seen = false;
        if let Some(channel) = &server.probe_channel {
            link.subscribe(channel.as_bytes());
        }
        link.join(here);
        server.link = Some(link);
        server.probe = now + self.shared.config.probe_interval;
        server.flags = now + self.shared.config.verify_interval;
        self.look_at_notifications(id);
        self.identify(id);
    }

    fn identify(&mut self, id: ServerId) {
        let shared = self.shared.clone();
        let Some(server) = self.server(id) else {
            return;
        };
        let address = server.address.clone();
        self.spawn(async move { Done::Identified(id, identity::ask(&shared, &address).await) });
    }

    pub(super) fn identified(&mut self, id: ServerId, what: Option<String>) {
        let Some(what) = what else {
            return;
        };
        let shared = self.shared.clone();
        if let Some(server) = self.server(id) {
            let address = server.address.to_string();
            if shared.status.server(&address, &what) {
                tracing::info!(server = address, "this is {what}");
            }
        }
    }

    pub(super) async fn link_down(&mut self, id: ServerId, reason: &str) {
        let shared = self.shared.clone();
        let Some(server) = self.server(id) else {
            return;
        };
        let was_up = server.link.take().is_some();
        let was_ready = std::mem::take(&mut server.ready).probe && was_up;
        if let Some(up) = &server.up {
            up.set(0);
        }
        server.is_connecting = false;
        let pause = server.backoff.mul_f64(0.5 + fastrand::f64() / 2.0);
        server.backoff = (server.backoff * 2).min(BACKOFF.1);
        server.connect = Some(Instant::now() + pause);
        server.moving.clear();
        let trouble = Some(reason.to_owned());
        shared.status.note(Trouble::Link, &server.label, trouble);
        let address = &server.address;
        if was_ready {
            tracing::warn!(
                reason,
                %address,
                "the subscription connection to Redis was lost; streams stay open"
            );
            shared.metrics.reconnects.inc();
        } else {
            tracing::debug!(reason, %address, "no subscription connection to Redis");
        }
        shared.topology.doubt();
        for index in self.rooms.indexes() {
            let Some(room) = self.rooms.get(index).filter(|room| room.server == Some(id)) else {
                continue;
            };
            room.sequencer.lost();
            room.is_leaving = false;
            if room.sequencer.head().is_some() && !std::mem::replace(&mut room.is_away, true) {
                room.out.push(Out::Live(false));
                if !std::mem::replace(&mut room.is_dirty, true) {
                    self.dirty.push(index);
                }
            }
            if room.shards.is_empty() {
                self.rooms.remove(index);
            }
        }
        if !self.servers.iter().any(super::Server::is_ready) {
            self.set_live(false).await;
            // This one may be gone for good: with the next one the node can be ready all the same.
            let untried = |server: &&mut super::Server| {
                server.link.is_none() && !server.is_connecting && server.connect.is_none()
            };
            if let Some(other) = self.servers.iter_mut().find(untried) {
                other.connect = Some(Instant::now());
            }
        }
    }

    /// The node is live while any server is: in a cluster, rooms of the others go on.
    pub(super) async fn live_when_ready(&mut self) {
        let mut is_any = false;
        for server in self.servers.iter_mut().filter(|server| server.is_ready()) {
            is_any = true;
            if let Some(up) = &server.up {
                up.set(1);
            }
            if server.backoff != BACKOFF.0 {
                server.backoff = BACKOFF.0;
                self.shared.status.note(Trouble::Link, &server.label, None);
            }
        }
        if is_any {
            self.set_live(true).await;
        }
    }

    pub(super) async fn set_live(&mut self, live: bool) {
        if self.live == live {
            return;
        }
        self.live = live;
        self.shared.status.live(live);
        self.shared.metrics.up.set(i64::from(live));
        if live {
            tracing::info!("events flow from Redis");
        }
        for shard in 0..self.inlets.len() {
            self.send(shard, Supply::Live(live)).await;
        }
    }

    pub(super) async fn pushes(&mut self, id: ServerId) {
        let mut moved = HashSet::new();
        if self.is_replaced(Some(id)) {
            self.link_down(id, "another server has taken its place")
                .await;
            return;
        }
        let failed = loop {
            let Some(link) = self.server(id).and_then(|server| server.link.as_mut()) else {
                return;
            };
            match link.next() {
                Ok(Some(push)) if push.kind == Kind::Error => match self.refused(id, &push) {
                    Ok(slot) => {
                        moved.insert(slot);
                    }
                    Err(text) => break Some(text),
                },
                Ok(Some(push)) => self.push(id, &push),
                Ok(None) => break None,
                Err(error) => break Some(error.to_string()),
            }
        };
        if !moved.is_empty() {
            for index in self.rooms.indexes() {
                if let Some(room) = self.rooms.get(index)
                    && room.server == Some(id)
                    && moved.contains(&room.slot)
                {
                    room.sequencer.lost();
                    room.is_homeless = true;
                    self.has_homeless = true;
                }
            }
            self.shared.topology.doubt();
        }
        if let Some(reason) = failed {
            self.link_down(id, &reason).await;
        }
    }

    /// A slot that is served elsewhere, or what else the server says.
    fn refused(&mut self, id: ServerId, push: &Push) -> Result<u16, String> {
        let payload = push.payload();
        let text = String::from_utf8_lossy(&payload).into_owned();
        let shared = self.shared.clone();
        if let Some(detail) = text.strip_prefix("MOVED ")
            && let Some(server) = self.server(id)
            && let Some((slot, there)) = redirection(&server.address, detail)
        {
            shared.topology.moved(slot, &there);
            return Ok(slot);
        }
        tracing::error!(error = text, "Redis refused a subscription");
        Err(text)
    }

    fn push(&mut self, id: ServerId, push: &Push) {
        match self.rooms.channel(push.channel()) {
            Some(channel) => {
                let (Channel::Events(index) | Channel::Keyspace(index)) = channel;
                // From a server that the room has left, it says nothing.
                if self
                    .rooms
                    .peek(index)
                    .is_none_or(|room| room.server != Some(id))
                {
                    return;
                }
                match (push.kind, channel) {
                    (Kind::Message, Channel::Events(index)) => self.message(index, push),
                    (Kind::Message, Channel::Keyspace(index)) => {
                        if let Some(server) = self.server(id) {
                            server.signals_seen = true;
                        }
                        self.signal(index, &push.payload());
                    }
                    (Kind::Subscribed, Channel::Events(index)) => self.joined(index),
                    (Kind::Unsubscribed, Channel::Events(index)) => self.left(index),
                    _ => {}
                }
            }
            None => self.own(id, push),
        }
    }

    fn joined(&mut self, index: usize) {
        if let Some(room) = self.rooms.get(index).filter(|room| !room.is_leaving) {
            room.is_homeless = false;
            let handle = (index, room.serial);
            self.sequence(handle, Cause::Stream, |room, out| room.confirmed(out));
        }
    }

    /// What comes on this node's own channel.
    fn own(&mut self, id: ServerId, push: &Push) {
        let is_own = push.payload() == self.nonce;
        let shared = self.shared.clone();
        let Some(server) = self.server(id) else {
            return;
        };
        let channel = server.probe_channel.as_ref().map(String::as_bytes);
        if channel != Some(push.channel()) {
            return;
        }
        match push.kind {
            Kind::Message if is_own => {
                server.probe_seen = Instant::now();
                server.ready.probe = true;
                let took = server.probe_seen - server.probe_sent;
                shared.metrics.probe.observe(took.as_secs_f64());
            }
            Kind::Subscribed => server.probe = Instant::now(),
            _ => {}
        }
    }
}

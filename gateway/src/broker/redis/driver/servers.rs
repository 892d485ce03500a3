//! The servers that have rooms of this node, and which room is at which of them.

use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use prometheus::IntGauge;
use protocol::keys::slot;
use protocol::servers::{Address, Layout};
use tokio::time::Instant;

use super::retries::Retries;
use super::{BACKOFF, Driver};
use crate::broker::redis::commands::To;
use crate::broker::redis::library;
use crate::broker::redis::link::Link;
use crate::broker::redis::rooms::ServerId;
use crate::broker::redis::status::Trouble;
use crate::broker::redis::topology::Found;

/// Names that are tried for a probe channel of a server: enough to find one even for a server with
/// a single slot.
const PROBE_NAMES: u32 = 1 << 18;

/// What has to have happened before events are said to flow.
#[derive(Debug, Default)]
pub(super) struct Ready {
    pub(super) probe: bool,
    pub(super) library: bool,
    pub(super) flags: bool,
}

/// A primary, and the link to it.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) id: ServerId,
    pub(super) address: Address,
    /// In messages; empty where there is only one.
    pub(super) label: String,
    pub(super) link: Option<Link>,
    /// Whether events flow; there is none before the first attempt to connect.
    pub(super) up: Option<IntGauge>,
    pub(super) is_connecting: bool,
    /// When the next attempt is due.
    pub(super) connect: Option<Instant>,
    pub(super) backoff: std::time::Duration,
    /// Where this node hears itself; `None` where no slot leads here.
    pub(super) probe_channel: Option<String>,
    pub(super) probe: Instant,
    pub(super) flags: Instant,
    /// When a probe came back, or the link was made.
    pub(super) probe_seen: Instant,
    /// When the last one left.
    pub(super) probe_sent: Instant,
    pub(super) is_probing: bool,
    /// Since the link was made: a probe came back, the function and the flags were looked at.
    pub(super) ready: Ready,
    pub(super) signals_seen: bool,
    pub(super) is_polling: bool,
    /// Slots on their way to another server.
    pub(super) moving: Vec<u16>,
    /// The last probe could not be sent, or was refused.
    pub(super) commands_fail: bool,
    /// Rooms that could not be read.
    pub(super) retries: Retries,
}

impl Server {
    pub(super) fn next_timer(&self) -> impl Iterator<Item = Instant> + use<> {
        let linked = self.link.is_some();
        let timers = [
            self.connect,
            linked.then_some(self.probe),
            linked.then_some(self.flags),
            self.retries.next_timer(),
        ];
        timers.into_iter().flatten()
    }

    pub(super) fn is_ready(&self) -> bool {
        let ready = &self.ready;
        self.link.is_some() && ready.probe && ready.library && ready.flags
    }
}

/// Waits until a link brought or took bytes. Loses nothing when it is dropped.
pub(super) async fn progress(
    servers: &mut [Server],
    turn: usize,
) -> (ServerId, std::io::Result<()>) {
    std::future::poll_fn(|context| {
        let count = servers.len();
        for at in 0..count {
            let server = &mut servers[(turn + at) % count];
            let Some(link) = &mut server.link else {
                continue;
            };
            if let Poll::Ready(result) = pin!(link.progress()).poll(context) {
                return Poll::Ready((server.id, result));
            }
        }
        Poll::Pending
    })
    .await
}

impl Driver {
    pub(super) fn server(&mut self, id: ServerId) -> Option<&mut Server> {
        self.servers.iter_mut().find(|server| server.id == id)
    }

    /// Whether another server is known to have taken its place, and rooms have not been put there yet. What it says is
    /// not heard any more: histories are read at the other one already, and the two must not be mixed.
    pub(super) fn is_replaced(&self, id: Option<ServerId>) -> bool {
        let server = self.servers.iter().find(|server| Some(server.id) == id);
        let layout = self.shared.topology.layout();
        let (Some(server), Some(layout)) = (server, layout) else {
            return false;
        };
        let mut primaries = layout.primaries().iter();
        !primaries.any(|primary| primary.address == server.address)
    }

    pub(super) async fn layout(&mut self, found: Found) {
        match found {
            Ok(layout) => {
                self.shared.status.note(Trouble::Servers, "", None);
                for id in self.arrange(&layout) {
                    self.link_down(id, "another server has taken its place")
                        .await;
                    let place = self.servers.iter().position(|server| server.id == id);
                    if let Some(gone) = place.map(|place| self.servers.remove(place)) {
                        self.shared.status.forget(&gone.address.to_string());
                        self.shared.metrics.forget_server(&gone.address);
                    }
                }
                self.live_when_ready().await;
            }
            Err(error) => {
                let why = Some(error.to_string());
                if let Some(reason) = self.shared.status.note(Trouble::Servers, "", why) {
                    tracing::warn!(
                        reason,
                        "the servers of Redis cannot be found; streams stay open"
                    );
                }
            }
        }
    }

    /// Puts every room where its slot is served now. Gives servers that serve nothing any more.
    pub(super) fn arrange(&mut self, layout: &Arc<Layout>) -> Vec<ServerId> {
        let is_same = self
            .arranged
            .as_ref()
            .is_some_and(|arranged| **arranged == **layout);
        if is_same && !std::mem::take(&mut self.has_homeless) {
            return Vec::new();
        }
        self.has_homeless = false;
        self.arranged = Some(layout.clone());
        let is_primary = |address: &Address| {
            let mut primaries = layout.primaries().iter();
            primaries.any(|primary| primary.address == *address)
        };
        for primary in layout.primaries() {
            if !self
                .servers
                .iter()
                .any(|server| server.address == primary.address)
            {
                self.add_server(&primary.address);
            }
        }
        self.find_probe_channels(layout);
        let mut moved = Vec::new();
        for index in self.rooms.indexes() {
            let Some(room) = self.rooms.get(index) else {
                continue;
            };
            let address = layout.primary_of(room.slot);
            let server = self
                .servers
                .iter()
                .find(|server| Some(&server.address) == address);
            let there = server.map(|server| server.id);
            if room.server == there && !room.is_homeless {
                continue;
            }
            if room.server != there
                && let Some(before) = room.server
                && let Some(server) = self.servers.iter_mut().find(|server| server.id == before)
                && let Some(link) = &mut server.link
            {
                link.leave(std::iter::once(&*room));
            }
            room.sequencer.lost();
            room.server = there;
            room.is_homeless = false;
            room.is_leaving = false;
            if room.shards.is_empty() {
                self.rooms.remove(index);
            } else {
                moved.push(index);
            }
        }
        self.ask_for(&moved);
        self.shared.commands.keep(is_primary);
        let is_tried = |server: &Server| {
            let tries = server.link.is_some() || server.is_connecting || server.connect.is_some();
            tries && is_primary(&server.address)
        };
        // One link at least, so that the node can become ready; others come with their first room.
        if !self.servers.iter().any(is_tried)
            && let Some(server) = self
                .servers
                .iter_mut()
                .find(|server| is_primary(&server.address))
        {
            server.connect = Some(Instant::now());
        }
        let gone = self
            .servers
            .iter()
            .filter(|server| !is_primary(&server.address));
        gone.map(|server| server.id).collect()
    }

    fn add_server(&mut self, address: &Address) {
        self.last_server += 1;
        let now = Instant::now();
        let config = &self.shared.config;
        let is_one = matches!(config.servers.kind(), protocol::servers::Kind::Single);
        self.servers.push(Server {
            id: self.last_server,
            address: address.clone(),
            label: if is_one {
                String::new()
            } else {
                address.to_string()
            },
            link: None,
            up: None,
            is_connecting: false,
            connect: None,
            backoff: BACKOFF.0,
            probe_channel: None,
            probe: now + config.probe_interval,
            flags: now + config.verify_interval,
            probe_seen: now,
            probe_sent: now,
            is_probing: false,
            ready: Ready::default(),
            signals_seen: false,
            is_polling: false,
            moving: Vec::new(),
            commands_fail: false,
            retries: Retries::default(),
        });
        if !is_one {
            // Publishers may come to a server before the first subscriber does.
            let (shared, to) = (self.shared.clone(), To::Server(address.clone()));
            tokio::spawn(async move {
                let loaded = library::load(&shared, &to).await;
                let announced = library::notifications(&shared, &to).await;
                if let Some(error) = loaded.err().or(announced.err()) {
                    tracing::debug!(%error, ?to, "a server could not be prepared");
                }
            });
        }
    }

    /// In a cluster a channel belongs to a slot: each server needs one that leads to it.
    fn find_probe_channels(&mut self, layout: &Layout) {
        let (keys, node) = (&self.shared.keys, &self.shared.config.node);
        let is_sharded = self.shared.is_sharded();
        for server in &mut self.servers {
            let leads_here = |channel: &String| {
                layout.primary_of(slot(channel.as_bytes())) == Some(&server.address)
            };
            if !is_sharded {
                server.probe_channel = Some(keys.probe(node));
            } else if !server.probe_channel.as_ref().is_some_and(leads_here) {
                let serves = layout
                    .primaries()
                    .iter()
                    .any(|primary| primary.address == server.address);
                let mut names = (0..PROBE_NAMES).map(|number| keys.shard_probe(node, number));
                let channel = if serves { names.find(leads_here) } else { None };
                if let (Some(link), Some(channel)) = (&mut server.link, &channel) {
                    link.subscribe(channel.as_bytes());
                }
                server.probe_channel = channel;
                server.probe_seen = Instant::now();
            }
        }
    }
}

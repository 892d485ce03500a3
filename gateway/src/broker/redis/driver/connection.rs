//! The link comes and goes, and what it brings is sorted.

use tokio::time::Instant;

use super::{BACKOFF, Cause, Done, Driver, Ready};
use crate::broker::redis::link::Link;
use crate::broker::redis::resp::{Kind, Push};
use crate::broker::redis::rooms::Channel;
use crate::hub::Supply;

impl Driver {
    pub(super) fn connect(&mut self) {
        let shared = self.shared.clone();
        self.spawn(async move {
            let config = &shared.config;
            Done::Linked(Link::connect(&shared.info, &config.node, config.connect_timeout).await)
        });
    }

    pub(super) fn link_up(&mut self, mut link: Link) {
        self.probe_seen = Instant::now();
        self.ready = Ready::default();
        self.signals_seen = false;
        link.subscribe([&self.probe_channel[..]]);
        link.subscribe(self.rooms.iter().flat_map(|(_, room)| room.channels()));
        self.link = Some(link);
        self.look_at_notifications();
    }

    pub(super) async fn link_down(&mut self, reason: &str) {
        self.link = None;
        self.shared.status.link(Some(reason.to_owned()));
        if self.live {
            tracing::warn!(
                reason,
                "the subscription connection to Redis was lost; streams stay open"
            );
            self.shared.metrics.reconnects.inc();
        } else {
            tracing::debug!(reason, "no subscription connection to Redis");
        }
        for index in self.rooms.indexes() {
            let Some(room) = self.rooms.get(index) else {
                continue;
            };
            room.sequencer.lost();
            room.is_leaving = false;
            if room.shards.is_empty() {
                self.rooms.remove(index);
            }
        }
        let pause = self.backoff.mul_f64(0.5 + fastrand::f64() / 2.0);
        self.backoff = (self.backoff * 2).min(BACKOFF.1);
        self.timers.connect = Some(Instant::now() + pause);
        self.set_live(false).await;
    }

    pub(super) async fn live_when_ready(&mut self) {
        let ready = self.ready.probe && self.ready.library && self.ready.flags;
        if ready && self.link.is_some() {
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
            self.backoff = BACKOFF.0;
            self.shared.status.link(None);
            tracing::info!("events flow from Redis");
        }
        for shard in 0..self.inlets.len() {
            self.send(shard, Supply::Live(live)).await;
        }
    }

    pub(super) fn pushes(&mut self) {
        while let Some(link) = &mut self.link {
            match link.next() {
                Ok(Some(push)) => self.push(&push),
                Ok(None) => return,
                Err(error) => {
                    let failed = Err(error.to_string());
                    self.link = None;
                    let _ = self.done.send(Done::Linked(failed));
                }
            }
        }
    }

    pub(super) fn is_own_probe(&self, push: &Push) -> bool {
        push.channel() == self.probe_channel && push.payload() == self.nonce
    }

    pub(super) fn push(&mut self, push: &Push) {
        let channel = self.rooms.channel(push.channel());
        match (push.kind, channel) {
            (Kind::Message, Some(Channel::Events(index))) => self.message(index, push),
            (Kind::Message, Some(Channel::Keyspace(index))) => self.signal(index, &push.payload()),
            (Kind::Subscribed, Some(Channel::Events(index))) => {
                if let Some(room) = self.rooms.get(index).filter(|room| !room.is_leaving) {
                    let handle = (index, room.serial);
                    self.sequence(handle, Cause::Stream, |room, out| room.confirmed(out));
                }
            }
            (Kind::Unsubscribed, Some(Channel::Events(index))) => self.left(index),
            (Kind::Message, None) if self.is_own_probe(push) => {
                self.probe_seen = Instant::now();
                self.ready.probe = true;
                let took = self.probe_seen - self.probe_sent;
                self.shared.metrics.probe.observe(took.as_secs_f64());
            }
            (Kind::Subscribed, None) if push.channel() == self.probe_channel => {
                self.timers.probe = Instant::now();
            }
            (Kind::Error, _) => {
                let text = String::from_utf8_lossy(&push.payload()).into_owned();
                tracing::error!(error = text, "Redis refused a subscription");
                self.link = None;
                let _ = self.done.send(Done::Linked(Err(text)));
            }
            _ => {}
        }
    }
}

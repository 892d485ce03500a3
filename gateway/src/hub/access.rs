//! A line in the log for each stream that opens and each that ends, where `log.access` asks for it.

use std::net::IpAddr;
use std::time::Instant;

use protocol::otlp;
use protocol::{RoomName, TraceParent};
use tracing::info;

use super::state::{Closed, State};
use super::subscriber::Subscriber;

/// What the last line of a stream tells. Costs memory only where it is asked for.
#[derive(Debug)]
pub(super) struct Access {
    began: Instant,
    client: Option<String>,
    /// Events that the room had had by then.
    events: u64,
    pub(super) bytes: u64,
    trace: Option<TraceParent>,
}

impl State {
    /// Notes a stream that was let in; `client` is who is behind a proxy.
    pub(super) fn note_opened(&mut self, key: usize, client: Option<IpAddr>) {
        if !self.config.access {
            return;
        }
        let subscriber = &mut self.subscribers[key];
        let room = &self.rooms[subscriber.room as usize];
        let trace = subscriber.catch_up.as_ref().and_then(|c| c.trace.clone());
        let trace = trace.as_ref().and_then(otlp::traceparent);
        let _trace = trace.map(|trace| otlp::remote(trace).attach());
        let client = shown(subscriber, client);
        subscriber.access = Some(Box::new(Access {
            began: Instant::now(),
            client: client.clone(),
            events: room.events,
            bytes: 0,
            trace,
        }));
        info!(
            target: "access",
            room = %room.name,
            client,
            from = subscriber.catch_up.as_ref().and_then(|c| c.presented.as_deref()),
            "A stream opened."
        );
    }

    /// Notes one that was not.
    pub(super) fn note_refused(
        &self,
        subscriber: &Subscriber,
        room: &RoomName,
        client: Option<IpAddr>,
        why: Closed,
    ) {
        if !self.config.access {
            return;
        }
        let limit = match why {
            Closed::Limit(limit) => Some(limit.label()),
            _ => None,
        };
        info!(
            target: "access",
            room = %room,
            client = shown(subscriber, client),
            reason = why.label(),
            limit,
            "A stream was not let in."
        );
    }

    /// Notes one that ended.
    pub(super) fn note_closed(&self, subscriber: &Subscriber, why: Closed) {
        let Some(access) = &subscriber.access else {
            return;
        };
        let _trace = access.trace.map(|trace| otlp::remote(trace).attach());
        let room = &self.rooms[subscriber.room as usize];
        let last = match &subscriber.catch_up {
            Some(catch_up) => catch_up.after().unwrap_or_default(),
            None => room.log.seen_at(subscriber.offset).0,
        };
        info!(
            target: "access",
            room = %room.name,
            client = access.client.as_deref(),
            reason = why.label(),
            seconds = access.began.elapsed().as_secs_f64(),
            events = room.events - access.events,
            bytes = access.bytes,
            last = %last,
            "A stream ended."
        );
    }
}

/// Who is behind the proxy at the other end, or the other end itself.
fn shown(subscriber: &Subscriber, client: Option<IpAddr>) -> Option<String> {
    let address = client.map(|client| client.to_string());
    address.or_else(|| Some(subscriber.peer()?.to_string()))
}

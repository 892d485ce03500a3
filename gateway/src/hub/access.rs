//! A line in the log for each stream that opens and each that ends, where `log.access` asks for it.

use std::net::SocketAddr;
use std::time::Instant;

use protocol::TraceParent;
use protocol::otlp;
use tracing::info;

use super::state::{Closed, State};
use super::subscriber::Subscriber;

/// What the last line of a stream tells. Costs memory only where it is asked for.
#[derive(Debug)]
pub(super) struct Access {
    began: Instant,
    client: Option<SocketAddr>,
    /// Events that the room had had by then.
    events: u64,
    pub(super) bytes: u64,
    trace: Option<TraceParent>,
}

impl State {
    /// Notes a stream that was let in.
    pub(super) fn note_opened(&mut self, key: usize) {
        if !self.config.access {
            return;
        }
        let subscriber = &mut self.subscribers[key];
        let room = &self.rooms[subscriber.room as usize];
        let client = subscriber.peer();
        let trace = subscriber.catch_up.as_ref().and_then(|c| c.trace.clone());
        let trace = trace.as_ref().and_then(otlp::traceparent);
        let _trace = trace.map(|trace| otlp::remote(trace).attach());
        subscriber.access = Some(Box::new(Access {
            began: Instant::now(),
            client,
            events: room.events,
            bytes: 0,
            trace,
        }));
        info!(
            target: "access",
            room = %room.name,
            client = client.map(display),
            from = subscriber.catch_up.as_ref().and_then(|c| c.presented.as_deref()),
            "A stream opened."
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
            client = access.client.map(display),
            reason = why.label(),
            seconds = access.began.elapsed().as_secs_f64(),
            events = room.events - access.events,
            bytes = access.bytes,
            last = %last,
            "A stream ended."
        );
    }
}

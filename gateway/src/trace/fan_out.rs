//! The span of an event on a node: from its receipt to the last write of it, in whichever shard.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use opentelemetry::KeyValue;
use opentelemetry::trace::{Span, SpanKind, Tracer};
use opentelemetry_sdk::trace::SdkTracer;
use protocol::otlp;
use protocol::{Event, EventId, RoomName, TraceParent};

use super::Traces;

/// Recorded events on their way to the shards that have their room. Their spans end when the last shard lets go of
/// this.
#[derive(Debug)]
pub struct FanOut {
    tracer: SdkTracer,
    began: SystemTime,
    room: RoomName,
    events: Vec<(TraceParent, Option<EventId>, usize)>,
    shards: AtomicU64,
    streams: AtomicU64,
    behind: AtomicU64,
}

impl Traces {
    /// What of `events` is to be recorded, which goes to the shards with them. `None` for nothing.
    pub fn fan_out<'a>(
        &self,
        room: &RoomName,
        events: impl IntoIterator<Item = &'a Event>,
    ) -> Option<Arc<FanOut>> {
        let tracer = self.0.as_ref()?;
        let recorded = |event: &Event| {
            let trace = event.trace.filter(TraceParent::is_sampled)?;
            Some((trace, event.id, event.data.len()))
        };
        let events: Vec<_> = events.into_iter().filter_map(recorded).collect();
        if events.is_empty() {
            return None;
        }
        Some(Arc::new(FanOut {
            tracer: tracer.clone(),
            began: SystemTime::now(),
            room: room.clone(),
            events,
            shards: AtomicU64::new(0),
            streams: AtomicU64::new(0),
            behind: AtomicU64::new(0),
        }))
    }
}

impl FanOut {
    /// A shard has written to all of `streams` that take something now; to `behind` of them it writes later.
    pub fn written(&self, streams: u64, behind: u64) {
        self.shards.fetch_add(1, Ordering::Relaxed);
        self.streams.fetch_add(streams, Ordering::Relaxed);
        self.behind.fetch_add(behind, Ordering::Relaxed);
    }
}

impl Drop for FanOut {
    fn drop(&mut self) {
        let count = |name, count: &mut AtomicU64| {
            KeyValue::new(name, i64::try_from(*count.get_mut()).unwrap_or(i64::MAX))
        };
        let counts = [
            count("sse.shards", &mut self.shards),
            count("sse.streams", &mut self.streams),
            count("sse.streams.behind", &mut self.behind),
        ];
        for (parent, id, bytes) in self.events.drain(..) {
            let builder = self
                .tracer
                .span_builder(format!("deliver {}", self.room))
                .with_kind(SpanKind::Consumer)
                .with_start_time(self.began);
            let mut span = self
                .tracer
                .build_with_context(builder, &otlp::remote(parent));
            span.set_attributes(counts.clone());
            span.set_attributes([
                KeyValue::new("messaging.system", "sse-gateway"),
                KeyValue::new("messaging.operation.type", "process"),
                KeyValue::new("messaging.destination.name", self.room.to_string()),
                KeyValue::new(
                    "messaging.message.body.size",
                    i64::try_from(bytes).unwrap_or(i64::MAX),
                ),
            ]);
            if let Some(id) = id {
                span.set_attribute(KeyValue::new("messaging.message.id", id.to_string()));
            }
        }
    }
}

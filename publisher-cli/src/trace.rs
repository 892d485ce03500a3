//! Traces: a span for each event, from being read to being published, where the environment names a collector
//! (`protocol::otlp`). Without one, an event carries the trace that `TRACEPARENT` names.

use opentelemetry::trace::{Span, SpanKind, Status, TraceContextExt, Tracer};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::trace::SdkTracer;
use protocol::otlp::{self, Otlp, Service};
use protocol::{RoomName, TraceParent};

/// Names the trace that a program was started in, as in the HTTP header.
const VARIABLE: &str = "TRACEPARENT";

/// Begins to export, where that is asked for. Needs a runtime. What is wrong with it is no reason not to publish.
pub fn export() -> Option<Otlp> {
    let instance = std::process::id().to_string();
    let service = Service {
        name: "sse-publish",
        version: env!("CARGO_PKG_VERSION"),
        instance: &instance,
    };
    Otlp::start(service).unwrap_or_else(|error| {
        eprintln!("sse-publish: there are no traces: {error}");
        None
    })
}

/// Sends the last spans.
pub async fn finish(otlp: Otlp) {
    // It waits for what this runtime does.
    let done = tokio::task::spawn_blocking(move || otlp.shutdown()).await;
    if let Ok(Err(error)) = done {
        eprintln!("sse-publish: the last spans were lost: {error}");
    }
}

/// Which trace events belong to.
#[derive(Debug)]
pub struct Traces {
    tracer: Option<SdkTracer>,
    parent: Option<TraceParent>,
}

impl Traces {
    /// Under what the environment names, if it names something.
    pub fn new(otlp: Option<&Otlp>) -> Self {
        let parent = std::env::var(VARIABLE).ok();
        Self {
            tracer: otlp.map(|otlp| otlp.tracer("sse-publish")),
            parent: parent.and_then(|text| TraceParent::parse(text.as_bytes())),
        }
    }

    /// For an event of this room.
    pub fn event(&self, room: &RoomName) -> Trace {
        let parent = self.parent;
        let recorded = self.tracer.as_ref().and_then(|tracer| {
            let parent = parent.map_or_else(Context::new, otlp::remote);
            let builder = tracer
                .span_builder(format!("publish {room}"))
                .with_kind(SpanKind::Producer);
            let span = tracer.build_with_context(builder, &parent);
            span.is_recording().then(|| parent.with_span(span))
        });
        match recorded {
            Some(span) => {
                let room = KeyValue::new("messaging.destination.name", room.to_string());
                span.span().set_attributes([
                    KeyValue::new("messaging.system", "sse-gateway"),
                    KeyValue::new("messaging.operation.type", "send"),
                    room,
                ]);
                Trace::Recorded(span)
            }
            None => parent.map_or(Trace::None, Trace::Given),
        }
    }
}

/// The trace of one event. Its span ends when it is dropped.
#[derive(Debug, Clone)]
pub enum Trace {
    /// It has none.
    None,
    /// Somebody else's span.
    Given(TraceParent),
    /// A span of its own.
    Recorded(Context),
}

impl Trace {
    /// What goes with the event.
    pub fn parent(&self) -> Option<TraceParent> {
        match self {
            Self::None => None,
            Self::Given(parent) => Some(*parent),
            Self::Recorded(span) => otlp::traceparent(span),
        }
    }

    /// It is published; an ephemeral event has no id.
    pub fn published(&self, id: Option<&str>) {
        if let (Self::Recorded(span), Some(id)) = (self, id) {
            let id = KeyValue::new("messaging.message.id", id.to_owned());
            span.span().set_attribute(id);
        }
    }

    /// It is not.
    pub fn failed(&self, sentence: &str) {
        if let Self::Recorded(span) = self {
            span.span().set_status(Status::error(sentence.to_owned()));
        }
    }
}

//! Spans: what happened to one event or one request, for a collector (`protocol::otlp`).
//!
//! A trace follows an event: the request or the program that published it, the call of Redis, and on each node one
//! span for its receipt and fan-out. A span never stands for a delivery.
//!
//! Invariant: where nothing is recorded nothing is made: no allocation, no clock.

use http::{Method, StatusCode};
use opentelemetry::trace::{Span, SpanKind, Status, TraceContextExt, Tracer};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::trace::SdkTracer;
use protocol::TraceParent;
use protocol::otlp::{self, Otlp, Service};
use tracing::warn;

mod fan_out;

pub use fan_out::FanOut;

/// Begins to export spans, where the environment asks for it. What is wrong with that is no reason not to serve: it
/// is logged. Needs a runtime.
#[must_use]
pub fn export(node: &str) -> Option<Otlp> {
    let service = Service {
        name: "sse-gateway",
        version: env!("CARGO_PKG_VERSION"),
        instance: node,
    };
    match Otlp::start(service) {
        Ok(otlp) => otlp,
        Err(error) => {
            warn!(%error, "There are no traces.");
            None
        }
    }
}

/// Sends the last spans, for two seconds at most.
pub async fn finish(otlp: Otlp) {
    // It waits for what this runtime does.
    let done = tokio::task::spawn_blocking(move || otlp.shutdown()).await;
    if let Ok(Err(error)) = done {
        warn!(error, "The last spans were lost.");
    }
}

/// Makes spans, where there is somebody to make them for. Cloning shares it.
#[derive(Debug, Clone, Default)]
pub struct Traces(Option<SdkTracer>);

impl Traces {
    /// Spans for this export, or none.
    #[must_use]
    pub fn new(otlp: Option<&Otlp>) -> Self {
        Self(otlp.map(|otlp| otlp.tracer("sse-gateway")))
    }

    /// A request came in. `None` unless it is recorded.
    #[must_use]
    pub fn request(
        &self,
        method: &Method,
        parent: impl FnOnce() -> Option<TraceParent>,
    ) -> Option<Context> {
        let parent = || parent().map_or_else(Context::new, otlp::remote);
        let method = known(method);
        let context = self.start(method.unwrap_or("HTTP"), SpanKind::Server, parent)?;
        let method = KeyValue::new("http.request.method", method.unwrap_or("_OTHER"));
        note_in(&context, [method]);
        Some(context)
    }

    /// Something is asked of another server, on behalf of the work at hand. `None` unless that is recorded.
    #[must_use]
    pub fn call(&self, name: &'static str) -> Option<Context> {
        self.0.as_ref()?;
        is_recorded().then_some(())?;
        self.start(name, SpanKind::Client, Context::current)
    }

    fn start(
        &self,
        name: &'static str,
        kind: SpanKind,
        parent: impl FnOnce() -> Context,
    ) -> Option<Context> {
        let tracer = self.0.as_ref()?;
        let parent = parent();
        let builder = tracer.span_builder(name).with_kind(kind);
        let span = tracer.build_with_context(builder, &parent);
        span.is_recording().then(|| parent.with_span(span))
    }
}

#[cfg(test)]
impl From<SdkTracer> for Traces {
    fn from(tracer: SdkTracer) -> Self {
        Self(Some(tracer))
    }
}

/// Whether the work at hand is recorded.
#[must_use]
pub fn is_recorded() -> bool {
    Context::map_current(|context| context.has_active_span() && context.span().is_recording())
}

/// Names the span of the work at hand, for an event that it publishes.
#[must_use]
pub fn parent() -> Option<TraceParent> {
    Context::map_current(|context| {
        context
            .has_active_span()
            .then(|| otlp::traceparent(context))
            .flatten()
    })
}

/// Adds to the span of the work at hand, where that is recorded.
pub fn note<const N: usize>(attributes: impl FnOnce() -> [KeyValue; N]) {
    if is_recorded() {
        Context::map_current(|context| note_in(context, attributes()));
    }
}

/// Adds to a span.
pub fn note_in<const N: usize>(context: &Context, attributes: [KeyValue; N]) {
    context.span().set_attributes(attributes);
}

/// A method of HTTP. Anything else is what a client made up, and may be as long as a head.
fn known(method: &Method) -> Option<&'static str> {
    let names = [
        "GET", "HEAD", "POST", "OPTIONS", "PUT", "DELETE", "PATCH", "CONNECT", "TRACE",
    ];
    names.into_iter().find(|name| *name == method.as_str())
}

/// A request has been answered, or its stream begins.
pub fn answered(context: &Context, method: &Method, route: &'static str, status: StatusCode) {
    let span = context.span();
    let method = known(method).unwrap_or("HTTP");
    span.update_name(format!("{method} {route}"));
    span.set_attributes([
        KeyValue::new("http.route", route),
        KeyValue::new("http.response.status_code", i64::from(status.as_u16())),
    ]);
    if status.is_server_error() {
        span.set_status(Status::error(""));
    }
}

/// A call has ended; `failure` says why it gave nothing.
pub fn called(context: &Context, failure: Option<&str>) {
    let span = context.span();
    if let Some(failure) = failure {
        span.set_status(Status::error(failure.to_owned()));
    }
    span.end();
}

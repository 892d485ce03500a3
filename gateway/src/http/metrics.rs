//! Counts of the HTTP side, in the registry that is passed in.

use std::time::Duration;

use http::StatusCode;
use prometheus::{
    Histogram, IntCounter, IntCounterVec, Registry, register_histogram_vec_with_registry,
    register_int_counter_vec_with_registry, register_int_counter_with_registry,
};

use crate::auth::Action;

/// What kind of request it was: a bounded label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// Event stream.
    Stream,
    /// Stored events as JSON.
    History,
    /// Publish.
    Publish,
    /// What is known of a room.
    Room,
    /// Files of the demo page.
    Demo,
    /// Preflights.
    Options,
    /// No such path, or refused before it was looked at.
    Other,
}

impl Route {
    /// The path as spans have it: without names.
    #[must_use]
    pub fn template(self) -> &'static str {
        match self {
            Self::Stream | Self::History | Self::Publish => "/rooms/{room}/events",
            Self::Room => "/rooms/{room}",
            Self::Demo => "/",
            Self::Options | Self::Other => "*",
        }
    }
}

/// All of them, with their labels, in the order of [`Route`].
const ROUTES: [(Route, &str); 7] = [
    (Route::Stream, "stream"),
    (Route::History, "history"),
    (Route::Publish, "publish"),
    (Route::Room, "room"),
    (Route::Demo, "demo"),
    (Route::Options, "options"),
    (Route::Other, "other"),
];
/// Status classes, in the order of their first digit.
const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];
/// What became of events that were to be published.
const OUTCOMES: [&str; 5] = ["stored", "repeated", "ephemeral", "refused", "failed"];
/// Why connections were closed before their first request, in the order of [`Dropped`].
const DROPPED: [&str; 2] = ["proxy_header", "tls"];
/// Bounds of the buckets of answers, in seconds.
const BUCKETS: &[f64] = &[
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0,
];

/// Why a connection was closed before its first request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dropped {
    /// A trusted proxy sent no PROXY header, or none that can be read.
    ProxyHeader,
    /// The TLS handshake failed.
    Tls,
}

/// Counts of the HTTP side. What is looked up by label is looked up once, here.
#[derive(Debug)]
pub struct HttpMetrics {
    routes: Vec<RouteMetrics>,
    published: [IntCounter; OUTCOMES.len()],
    refused: IntCounterVec,
    accepted: IntCounter,
    ended: IntCounter,
    dropped: [IntCounter; DROPPED.len()],
}

#[derive(Debug)]
struct RouteMetrics {
    requests: [IntCounter; CLASSES.len()],
    seconds: Histogram,
}

impl HttpMetrics {
    /// Registers them.
    ///
    /// # Errors
    /// The names are taken.
    pub fn register(registry: &Registry) -> prometheus::Result<Self> {
        let requests = register_int_counter_vec_with_registry!(
            "sse_gateway_http_requests_total",
            "Requests by kind and status class.",
            &["route", "status"],
            registry
        )?;
        let seconds = register_histogram_vec_with_registry!(
            "sse_gateway_http_request_seconds",
            "Time from a request's head to its answer, by kind; streams are not among them.",
            &["route"],
            BUCKETS.to_vec(),
            registry
        )?;
        let published = register_int_counter_vec_with_registry!(
            "sse_gateway_http_published_total",
            "Events published over HTTP, by what became of them: stored, repeated (the same idempotency key again), ephemeral, refused (the publisher's fault), or failed.",
            &["outcome"],
            registry
        )?;
        let refused = register_int_counter_vec_with_registry!(
            "sse_gateway_http_refused_total",
            "Requests without permission, by what they wanted and by what was wrong with what they showed.",
            &["action", "reason"],
            registry
        )?;
        // There from the beginning, so that a first refusal is a rise.
        for action in [Action::Subscribe, Action::Publish] {
            refused.with_label_values(&[action.label(), "missing"]);
        }
        let accepted = register_int_counter_with_registry!(
            "sse_gateway_http_connections_accepted_total",
            "Connections accepted.",
            registry
        )?;
        let ended = register_int_counter_with_registry!(
            "sse_gateway_http_connections_ended_total",
            "Connections that ended or became a stream.",
            registry
        )?;
        let dropped = register_int_counter_vec_with_registry!(
            "sse_gateway_http_connections_dropped_total",
            "Connections that were closed before their first request, by reason: proxy_header (of a trusted proxy that sent none, or none that can be read) or tls (a handshake that failed).",
            &["reason"],
            registry
        )?;
        let route = |(_, label): &(Route, &str)| RouteMetrics {
            requests: CLASSES.map(|class| requests.with_label_values(&[*label, class])),
            seconds: seconds.with_label_values(&[label]),
        };
        Ok(Self {
            routes: ROUTES.iter().map(route).collect(),
            published: OUTCOMES.map(|outcome| published.with_label_values(&[outcome])),
            refused,
            accepted,
            ended,
            dropped: DROPPED.map(|reason| dropped.with_label_values(&[reason])),
        })
    }

    /// A stream was opened.
    pub fn stream_opened(&self) {
        self.routes[Route::Stream as usize].requests[1].inc();
    }

    /// A request was answered, this long after it came.
    pub fn answered(&self, route: Route, status: StatusCode, after: Duration) {
        let class = usize::from(status.as_u16() / 100).clamp(1, CLASSES.len()) - 1;
        let route = &self.routes[route as usize];
        route.requests[class].inc();
        route.seconds.observe(after.as_secs_f64());
    }

    /// An event was to be published, and this is the answer's status.
    pub fn published(&self, status: StatusCode) {
        let outcome = match status {
            StatusCode::CREATED => 0,
            StatusCode::OK => 1,
            StatusCode::ACCEPTED => 2,
            status if status.is_client_error() => 3,
            _ => 4,
        };
        self.published[outcome].inc();
    }

    /// A request had no permission. `reason` is one of a few words.
    pub fn refused(&self, action: Action, reason: &'static str) {
        self.refused
            .with_label_values(&[action.label(), reason])
            .inc();
    }

    /// Counts a connection until the result is dropped.
    pub fn connection(&self) -> impl Drop + use<> {
        self.accepted.inc();
        Ended(self.ended.clone())
    }

    /// A connection was closed before its first request.
    pub(super) fn dropped(&self, reason: Dropped) {
        self.dropped[reason as usize].inc();
    }

    /// Connections that speak HTTP now; streams are not among them.
    #[must_use]
    pub fn connections(&self) -> usize {
        usize::try_from(self.accepted.get().saturating_sub(self.ended.get())).unwrap_or(0)
    }
}

struct Ended(IntCounter);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_in_order() {
        for (at, (route, _)) in ROUTES.iter().enumerate() {
            assert_eq!(*route as usize, at);
        }
        let registry = Registry::new();
        let metrics = HttpMetrics::register(&registry).unwrap();
        metrics.answered(
            Route::Publish,
            StatusCode::TOO_MANY_REQUESTS,
            Duration::ZERO,
        );
        let text = prometheus::TextEncoder::new()
            .encode_to_string(&registry.gather())
            .unwrap();
        let line = "sse_gateway_http_requests_total{route=\"publish\",status=\"4xx\"} 1";
        assert!(text.contains(line), "{text}");
    }

    #[test]
    fn a_status_says_what_became_of_an_event() {
        let registry = Registry::new();
        let metrics = HttpMetrics::register(&registry).unwrap();
        for (times, status) in [(1, 201), (2, 200), (3, 202), (4, 413), (5, 503)] {
            for _ in 0..times {
                metrics.published(StatusCode::from_u16(status).unwrap());
            }
        }
        let counts = metrics.published.each_ref().map(IntCounter::get);
        assert_eq!(counts, [1, 2, 3, 4, 5]);
    }
}

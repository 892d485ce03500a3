//! Counts of the HTTP side, in the registry that is passed in.

use http::StatusCode;
use prometheus::{IntCounter, IntCounterVec, Opts, Registry};

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
    fn label(self) -> &'static str {
        match self {
            Self::Stream => "stream",
            Self::History => "history",
            Self::Publish => "publish",
            Self::Room => "room",
            Self::Demo => "demo",
            Self::Options => "options",
            Self::Other => "other",
        }
    }
}

/// Counts of the HTTP side.
#[derive(Debug)]
pub struct HttpMetrics {
    requests: IntCounterVec,
    /// Streams that were opened, looked up once: a herd opens thousands of them.
    streams: IntCounter,
    accepted: IntCounter,
    ended: IntCounter,
}

impl HttpMetrics {
    /// Registers them.
    ///
    /// # Errors
    /// The names are taken.
    pub fn register(registry: &Registry) -> prometheus::Result<Self> {
        let requests = IntCounterVec::new(
            Opts::new(
                "sse_gateway_http_requests_total",
                "Requests by kind and status class.",
            ),
            &["route", "status"],
        )?;
        let accepted = IntCounter::new(
            "sse_gateway_http_connections_accepted_total",
            "Connections accepted.",
        )?;
        let ended = IntCounter::new(
            "sse_gateway_http_connections_ended_total",
            "Connections that ended or became a stream.",
        )?;
        registry.register(Box::new(requests.clone()))?;
        registry.register(Box::new(accepted.clone()))?;
        registry.register(Box::new(ended.clone()))?;
        Ok(Self {
            streams: requests.with_label_values(&[Route::Stream.label(), "2xx"]),
            requests,
            accepted,
            ended,
        })
    }

    /// A stream was opened.
    pub fn stream_opened(&self) {
        self.streams.inc();
    }

    /// A request was answered.
    pub fn answered(&self, route: Route, status: StatusCode) {
        let class = match status.as_u16() / 100 {
            1 => "1xx",
            2 => "2xx",
            3 => "3xx",
            4 => "4xx",
            _ => "5xx",
        };
        self.requests
            .with_label_values(&[route.label(), class])
            .inc();
    }

    /// Counts a connection until the result is dropped.
    pub fn connection(&self) -> impl Drop + use<> {
        self.accepted.inc();
        Ended(self.ended.clone())
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

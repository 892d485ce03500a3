//! Counts of the HTTP side and of the hub, in the registry that is passed in.

use http::StatusCode;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};

use crate::hub::{HubCounters, Node};

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
            requests,
            accepted,
            ended,
        })
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

/// One of the hub's counts.
type Count = fn(&HubCounters) -> u64;

/// Reads the hub's counts when they are asked for.
struct HubMetrics {
    node: Node,
    counters: Vec<(IntCounter, Count)>,
    gauges: Vec<(IntGauge, Count)>,
}

/// Registers the hub's counts.
///
/// # Errors
/// The names are taken.
pub fn register_hub(registry: &Registry, node: Node) -> prometheus::Result<()> {
    let counters: [(&str, &str, Count); 10] = [
        ("streams_opened_total", "Event streams opened.", |c| {
            c.streams_opened
        }),
        (
            "streams_closed_total",
            "Event streams closed, for whatever reason.",
            |c| c.streams_closed,
        ),
        (
            "events_total",
            "Events that reached a room of this node.",
            |c| c.events_appended,
        ),
        (
            "writes_total",
            "Writes that carried events to streams.",
            |c| c.writes,
        ),
        ("written_bytes_total", "Bytes written to streams.", |c| {
            c.bytes_written
        }),
        (
            "resets_total",
            "stream.reset events sent, one for each stream.",
            |c| c.resets,
        ),
        (
            "resumes_log_total",
            "Resumes answered by the recent events of this node.",
            |c| c.resumes_log,
        ),
        (
            "resumes_broker_total",
            "Resumes that needed a read from the broker.",
            |c| c.resumes_broker,
        ),
        (
            "lagging_total",
            "Streams that fell behind the recent events of their room.",
            |c| c.lagging,
        ),
        (
            "lag_closed_total",
            "Streams closed because they did not read.",
            |c| c.lag_closed,
        ),
    ];
    let gauges: [(&str, &str, Count); 3] = [
        ("streams_open", "Event streams open now.", |c| {
            c.streams_open
        }),
        ("rooms", "Rooms with a subscriber on this node.", |c| {
            c.rooms
        }),
        (
            "room_log_bytes",
            "Bytes of recent events that this node keeps.",
            |c| c.log_bytes,
        ),
    ];
    let mut hub = HubMetrics {
        node,
        counters: Vec::new(),
        gauges: Vec::new(),
    };
    for (name, help, read) in counters {
        hub.counters
            .push((IntCounter::new(format!("sse_gateway_{name}"), help)?, read));
    }
    for (name, help, read) in gauges {
        hub.gauges
            .push((IntGauge::new(format!("sse_gateway_{name}"), help)?, read));
    }
    registry.register(Box::new(hub))
}

impl Collector for HubMetrics {
    fn desc(&self) -> Vec<&Desc> {
        let counters = self.counters.iter().flat_map(|(metric, _)| metric.desc());
        counters
            .chain(self.gauges.iter().flat_map(|(metric, _)| metric.desc()))
            .collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let now = self.node.counters();
        let mut families = Vec::with_capacity(self.counters.len() + self.gauges.len());
        for (metric, read) in &self.counters {
            // Brought up to the hub's own count: scrapes come one at a time, from one thread.
            let behind = read(&now).saturating_sub(metric.get());
            metric.inc_by(behind);
            families.extend(metric.collect());
        }
        for (metric, read) in &self.gauges {
            metric.set(i64::try_from(read(&now)).unwrap_or(i64::MAX));
            families.extend(metric.collect());
        }
        families
    }
}

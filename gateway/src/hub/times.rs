//! How long the hub's work takes, measured per room and turn, never per stream and event.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus::local::LocalHistogram;
use prometheus::{Histogram, Registry, register_histogram_with_registry};
use protocol::EventId;

/// Bounds of the buckets of short work, in seconds.
const SHORT: &[f64] = &[
    0.000_01, 0.000_025, 0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025,
    0.05, 0.1, 0.25, 0.5, 1.0,
];
/// The same, of what crosses machines or waits for one.
const LONG: &[f64] = &[
    0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
    10.0, 30.0,
];

/// The same, of numbers of events.
const COUNTS: &[f64] = &[
    0.0, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0, 10000.0,
];

/// Histograms that all shards share. Cloning shares them.
#[derive(Debug, Clone)]
pub struct Times {
    subscribe: Histogram,
    lag: Histogram,
    pub(super) fanout: Histogram,
    pub(super) turn: Histogram,
    resume: Histogram,
    pass: Histogram,
}

impl Times {
    /// Registers them.
    ///
    /// # Errors
    /// The names are taken.
    pub fn register(registry: &Registry) -> prometheus::Result<Self> {
        Ok(Self {
            subscribe: register_histogram_with_registry!(
                "sse_gateway_subscribe_seconds",
                "Time from a stream's request to its place among the live streams of its room, what it had missed included.",
                LONG.to_vec(),
                registry
            )?,
            lag: register_histogram_with_registry!(
                "sse_gateway_event_lag_seconds",
                "Time from an event's id, which Redis's clock gives, to its arrival in a shard of this node.",
                LONG.to_vec(),
                registry
            )?,
            fanout: register_histogram_with_registry!(
                "sse_gateway_fanout_seconds",
                "Time from events' arrival in a room to the last write of them to its streams.",
                SHORT.to_vec(),
                registry
            )?,
            turn: register_histogram_with_registry!(
                "sse_gateway_sweep_turn_seconds",
                "Time of one turn of writing, for which everything else in a shard waits.",
                SHORT.to_vec(),
                registry
            )?,
            resume: register_histogram_with_registry!(
                "sse_gateway_resume_events",
                "Stored events that a stream had missed when it resumed, and was given.",
                COUNTS.to_vec(),
                registry
            )?,
            pass: register_histogram_with_registry!(
                "sse_gateway_pass_events",
                "Events that one pass over a room's streams carries, in one write for each stream that has had those before.",
                COUNTS.to_vec(),
                registry
            )?,
        })
    }

    /// A shard's own share of what is measured too often for shared numbers.
    pub(super) fn sizes(&self) -> Sizes {
        Sizes {
            resume: self.resume.local(),
            pass: self.pass.local(),
        }
    }

    pub(super) fn subscribed(&self, after: Duration) {
        self.subscribe.observe(after.as_secs_f64());
    }

    /// An event has arrived. Clocks may differ: what seems to come from the future has no lag.
    pub(super) fn arrived(&self, id: EventId) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let lag = now
            .unwrap_or_default()
            .saturating_sub(Duration::from_millis(id.ms));
        self.lag.observe(lag.as_secs_f64());
    }
}

/// Numbers of events, as one shard collects them until its next tick.
#[derive(Debug)]
pub(super) struct Sizes {
    resume: LocalHistogram,
    pass: LocalHistogram,
}

impl Sizes {
    /// A stream has resumed, and was given so many events.
    pub(super) fn resumed(&self, events: usize) {
        self.resume.observe(events as f64);
    }

    /// A pass over so many streams has ended, which carried so many events.
    pub(super) fn pass(&self, events: u64, streams: usize) {
        // Not what only a control event caused, nor what nobody was there for.
        if events > 0 && streams > 0 {
            self.pass.observe(events as f64);
        }
    }

    /// Shows what was collected.
    pub(super) fn flush(&self) {
        self.resume.flush();
        self.pass.flush();
    }
}

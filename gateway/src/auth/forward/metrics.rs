//! Counts of what the backend is asked, in the registry that is passed in.

use std::time::Duration;

use prometheus::{
    Histogram, IntCounter, Registry, register_histogram_with_registry,
    register_int_counter_vec_with_registry, register_int_counter_with_registry,
};

/// What became of a request to the backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// 2xx.
    Allowed,
    /// 401 or 403.
    Refused,
    /// An answer that says neither.
    Unusable,
    /// None in time.
    Timeout,
    /// No connection, or it broke.
    Failed,
}

/// All of them, with the question that was not sent, in the order of [`Outcome`].
const OUTCOMES: [&str; 6] = [
    "allowed", "refused", "unusable", "timeout", "failed", "unasked",
];

/// Where the answer to a question was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cached {
    /// It was kept.
    Hit,
    /// In a request that was under way for somebody else.
    Shared,
    /// Nowhere.
    Miss,
}

const CACHED: [&str; 3] = ["hit", "shared", "miss"];

/// Bounds of the buckets of answers, in seconds.
const BUCKETS: &[f64] = &[
    0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

/// What is counted.
#[derive(Debug)]
pub struct ForwardMetrics {
    requests: [IntCounter; OUTCOMES.len()],
    seconds: Histogram,
    lookups: [IntCounter; CACHED.len()],
    sent: IntCounter,
    ended: IntCounter,
}

impl ForwardMetrics {
    /// Registers them.
    ///
    /// # Errors
    /// The names are taken.
    pub fn register(registry: &Registry) -> prometheus::Result<Self> {
        let requests = register_int_counter_vec_with_registry!(
            "sse_gateway_forward_requests_total",
            "Questions to the backend that decides on permission, by what became of them: allowed, refused, unusable (another answer), timeout, failed (no answer), or unasked (too many are waiting, or it is down).",
            &["outcome"],
            registry
        )?;
        let lookups = register_int_counter_vec_with_registry!(
            "sse_gateway_forward_lookups_total",
            "Requests of clients that the backend decides on, by where the answer was found: hit (kept), shared (in a request under way for another client), or miss (it is asked).",
            &["result"],
            registry
        )?;
        Ok(Self {
            requests: OUTCOMES.map(|outcome| requests.with_label_values(&[outcome])),
            lookups: CACHED.map(|result| lookups.with_label_values(&[result])),
            seconds: register_histogram_with_registry!(
                "sse_gateway_forward_seconds",
                "From a request to the backend to its answer, waiting for its turn not included.",
                BUCKETS.to_vec(),
                registry
            )?,
            sent: register_int_counter_with_registry!(
                "sse_gateway_forward_sent_total",
                "Requests sent to the backend.",
                registry
            )?,
            ended: register_int_counter_with_registry!(
                "sse_gateway_forward_ended_total",
                "Requests to the backend that have ended. Those under way are sent less ended.",
                registry
            )?,
        })
    }

    /// A client's request needs an answer.
    pub(super) fn looked_up(&self, result: Cached) {
        self.lookups[result as usize].inc();
    }

    /// A question was given up before it was sent.
    pub(super) fn unasked(&self) {
        self.requests[OUTCOMES.len() - 1].inc();
    }

    /// Counts a request as under way until the result is dropped.
    pub(super) fn sent(&self) -> impl Drop + use<> {
        self.sent.inc();
        Ended(self.ended.clone())
    }

    /// A request has ended, after so long.
    pub(super) fn answered(&self, outcome: Outcome, after: Duration) {
        self.requests[outcome as usize].inc();
        self.seconds.observe(after.as_secs_f64());
    }
}

struct Ended(IntCounter);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.inc();
    }
}

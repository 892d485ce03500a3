//! Counts and times of the Redis side, in the registry that is passed in.

use std::time::Duration;

use prometheus::{
    Histogram, IntCounter, IntGauge, IntGaugeVec, Registry, register_histogram_vec_with_registry,
    register_histogram_with_registry, register_int_counter_vec_with_registry,
    register_int_counter_with_registry, register_int_gauge_vec_with_registry,
    register_int_gauge_with_registry,
};
use protocol::servers::Address;

/// Bounds of the buckets of commands, in seconds.
const BUCKETS: &[f64] = &[
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0,
];

/// What commands are sent for: a bounded label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// An event of an HTTP publisher.
    Publish,
    /// History, for streams, for pages and for what was missed.
    Read,
    /// Whether anything in active rooms was missed.
    Verify,
    /// The probe message.
    Probe,
    /// The publish function, notifications, trimming.
    Upkeep,
    /// What is known of a room.
    Info,
}

impl Purpose {
    /// In spans, where it says more than the commands do.
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Publish => "redis publish",
            Self::Read => "redis read",
            Self::Verify => "redis verify",
            Self::Probe => "redis probe",
            Self::Upkeep => "redis upkeep",
            Self::Info => "redis info",
        }
    }
}

/// All of them, with their labels, in the order of [`Purpose`].
const PURPOSES: [(Purpose, &str); 6] = [
    (Purpose::Publish, "publish"),
    (Purpose::Read, "read"),
    (Purpose::Verify, "verify"),
    (Purpose::Probe, "probe"),
    (Purpose::Upkeep, "upkeep"),
    (Purpose::Info, "info"),
];

#[derive(Debug)]
struct CommandMetrics {
    sent: IntCounter,
    failed: IntCounter,
    seconds: Histogram,
}

/// Counts and times of the Redis side.
#[derive(Debug)]
pub struct RedisMetrics {
    /// Stored events that came whole on a channel.
    pub(super) events_function: IntCounter,
    /// Stored events that were read from a stream.
    pub(super) events_stream: IntCounter,
    /// Events that are not stored.
    pub(super) events_ephemeral: IntCounter,
    pub(super) malformed: IntCounter,
    pub(super) skipped: IntCounter,
    pub(super) holes: IntCounter,
    pub(super) holes_repaired: IntCounter,
    pub(super) range_reads: IntCounter,
    pub(super) reconnects: IntCounter,
    pub(super) resets: IntCounter,
    pub(super) up: IntGauge,
    server_up: IntGaugeVec,
    pub(super) probe: Histogram,
    commands: Vec<CommandMetrics>,
}

impl RedisMetrics {
    /// Registers them.
    ///
    /// # Errors
    /// The names are taken.
    pub fn register(registry: &Registry) -> prometheus::Result<Self> {
        let counter = |name: &str, help: &str| {
            let name = format!("sse_gateway_redis_{name}_total");
            register_int_counter_with_registry!(name, help, registry)
        };
        let events = register_int_counter_vec_with_registry!(
            "sse_gateway_redis_events_total",
            "Events by the way they came: whole on a channel from the publish function, read from a stream, or ephemeral.",
            &["path"],
            registry
        )?;
        let sent = register_int_counter_vec_with_registry!(
            "sse_gateway_redis_commands_total",
            "Commands sent, by what for.",
            &["purpose"],
            registry
        )?;
        let failed = register_int_counter_vec_with_registry!(
            "sse_gateway_redis_command_failures_total",
            "Requests to Redis that got no answer, by what for.",
            &["purpose"],
            registry
        )?;
        let seconds = register_histogram_vec_with_registry!(
            "sse_gateway_redis_command_seconds",
            "Time from a request to Redis to its answer, waiting for a connection included, by what for.",
            &["purpose"],
            BUCKETS.to_vec(),
            registry
        )?;
        let command = |(_, label): &(Purpose, &str)| CommandMetrics {
            sent: sent.with_label_values(&[label]),
            failed: failed.with_label_values(&[label]),
            seconds: seconds.with_label_values(&[label]),
        };
        Ok(Self {
            events_function: events.with_label_values(&["function"]),
            events_stream: events.with_label_values(&["stream"]),
            events_ephemeral: events.with_label_values(&["ephemeral"]),
            malformed: counter(
                "malformed",
                "Channel messages that could not be understood.",
            )?,
            skipped: counter("skipped", "Stored entries that cannot be delivered.")?,
            holes: counter(
                "holes",
                "Messages that did not follow the last one of their room; what was between is read from the stream.",
            )?,
            holes_repaired: counter(
                "holes_repaired",
                "Holes whose events were read from the stream, so that no subscriber missed any.",
            )?,
            range_reads: counter("range_reads", "Range reads of streams, whatever for.")?,
            reconnects: counter("reconnects", "Times the subscriptions had to be made anew.")?,
            resets: counter("resets", "Rooms whose continuity broke.")?,
            up: register_int_gauge_with_registry!(
                "sse_gateway_redis_up",
                "1 while events flow from Redis, 0 otherwise.",
                registry
            )?,
            server_up: register_int_gauge_vec_with_registry!(
                "sse_gateway_redis_server_up",
                "1 while events flow from this server, 0 while they do not.",
                &["server"],
                registry
            )?,
            probe: register_histogram_with_registry!(
                "sse_gateway_redis_probe_seconds",
                "Time for a message to go through Redis and come back to this node.",
                BUCKETS.to_vec(),
                registry
            )?,
            commands: PURPOSES.iter().map(command).collect(),
        })
    }

    /// Of a server that the node has begun to connect to, until it is forgotten.
    pub(super) fn server_up(&self, address: &Address) -> IntGauge {
        self.server_up.with_label_values(&[&address.to_string()])
    }

    /// The server is not one of ours any more.
    pub(super) fn forget_server(&self, address: &Address) {
        // It has no gauge where the node never had a room of it.
        let _ = self.server_up.remove_label_values(&[&address.to_string()]);
    }

    /// So many commands were sent.
    pub(super) fn sent(&self, purpose: Purpose, commands: usize) {
        self.commands[purpose as usize].sent.inc_by(commands as u64);
    }

    /// A request ended, with an answer or without.
    pub(super) fn ended(&self, purpose: Purpose, answered: bool, after: Duration) {
        let command = &self.commands[purpose as usize];
        if !answered {
            command.failed.inc();
        }
        command.seconds.observe(after.as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_in_order() {
        for (at, (purpose, _)) in PURPOSES.iter().enumerate() {
            assert_eq!(*purpose as usize, at);
        }
    }
}

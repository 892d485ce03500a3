//! Counts that other parts keep as plain numbers, read when they are asked for.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntCounter, IntGauge, Registry};

use crate::broker::redis::RedisMetrics;
use crate::hub::{HubCounters, Node};

/// Finds a number in what was read.
type Count<T> = fn(&T) -> u64;

/// Reads a source and shows parts of what it read.
struct Readings<T> {
    read: Box<dyn Fn() -> T + Send + Sync>,
    counters: Vec<(IntCounter, Count<T>)>,
    gauges: Vec<(IntGauge, Count<T>)>,
}

/// What a number means, and where it is.
type Part<T> = (&'static str, &'static str, Count<T>);

impl<T: 'static> Readings<T> {
    fn register(
        registry: &Registry,
        read: impl Fn() -> T + Send + Sync + 'static,
        counters: &[Part<T>],
        gauges: &[Part<T>],
    ) -> prometheus::Result<()> {
        let mut readings = Self {
            read: Box::new(read),
            counters: Vec::new(),
            gauges: Vec::new(),
        };
        for (name, help, part) in counters {
            let counter = IntCounter::new(format!("sse_gateway_{name}_total"), *help)?;
            readings.counters.push((counter, *part));
        }
        for (name, help, part) in gauges {
            let gauge = IntGauge::new(format!("sse_gateway_{name}"), *help)?;
            readings.gauges.push((gauge, *part));
        }
        registry.register(Box::new(readings))
    }
}

impl<T> Collector for Readings<T> {
    fn desc(&self) -> Vec<&Desc> {
        let counters = self.counters.iter().flat_map(|(metric, _)| metric.desc());
        counters
            .chain(self.gauges.iter().flat_map(|(metric, _)| metric.desc()))
            .collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let now = (self.read)();
        let mut families = Vec::with_capacity(self.counters.len() + self.gauges.len());
        for (metric, part) in &self.counters {
            // Brought up to the source's own count: scrapes come one at a time, from one thread.
            metric.inc_by(part(&now).saturating_sub(metric.get()));
            families.extend(metric.collect());
        }
        for (metric, part) in &self.gauges {
            metric.set(i64::try_from(part(&now)).unwrap_or(i64::MAX));
            families.extend(metric.collect());
        }
        families
    }
}

impl<T> fmt::Debug for Readings<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Readings")
            .field("counters", &self.counters.len())
            .finish_non_exhaustive()
    }
}

/// Registers the hub's counts.
///
/// # Errors
/// The names are taken.
pub fn register_hub(registry: &Registry, node: Node) -> prometheus::Result<()> {
    let counters: &[Part<HubCounters>] = &[
        ("streams_opened", "Event streams opened.", |c| {
            c.streams_opened
        }),
        (
            "streams_closed",
            "Event streams closed, for whatever reason.",
            |c| c.streams_closed,
        ),
        ("events", "Events that reached a room of this node.", |c| {
            c.events_appended
        }),
        ("writes", "Writes that carried events to streams.", |c| {
            c.writes
        }),
        ("written_bytes", "Bytes written to streams.", |c| {
            c.bytes_written
        }),
        (
            "resets",
            "stream.reset events sent, one for each stream.",
            |c| c.resets,
        ),
        (
            "resumes_log",
            "Resumes answered by the recent events of this node.",
            |c| c.resumes_log,
        ),
        (
            "resumes_broker",
            "Resumes that needed a read from the broker.",
            |c| c.resumes_broker,
        ),
        (
            "lagging",
            "Streams that fell behind the recent events of their room.",
            |c| c.lagging,
        ),
        (
            "lag_closed",
            "Streams closed because they did not read.",
            |c| c.lag_closed,
        ),
    ];
    let gauges: &[Part<HubCounters>] = &[
        ("streams_open", "Event streams open now.", |c| {
            c.streams_open
        }),
        (
            "rooms",
            "Rooms with a subscriber, counted once for each shard.",
            |c| c.rooms,
        ),
        (
            "room_log_bytes",
            "Bytes of recent events that this node keeps.",
            |c| c.log_bytes,
        ),
    ];
    Readings::register(registry, move || node.counters(), counters, gauges)
}

/// Registers the Redis broker's counts.
///
/// # Errors
/// The names are taken.
pub fn register_redis(registry: &Registry, metrics: Arc<RedisMetrics>) -> prometheus::Result<()> {
    fn get(counter: &AtomicU64) -> u64 {
        counter.load(Ordering::Relaxed)
    }
    let counters: &[Part<Arc<RedisMetrics>>] = &[
        (
            "redis_events_function",
            "Stored events that came whole on a channel.",
            |m| get(&m.events_function),
        ),
        (
            "redis_events_stream",
            "Stored events that were read from a stream.",
            |m| get(&m.events_stream),
        ),
        (
            "redis_events_ephemeral",
            "Events that are not stored.",
            |m| get(&m.events_ephemeral),
        ),
        (
            "redis_malformed",
            "Channel messages that could not be understood.",
            |m| get(&m.malformed),
        ),
        (
            "redis_skipped",
            "Stored entries that cannot be delivered.",
            |m| get(&m.skipped),
        ),
        (
            "redis_holes",
            "Messages that did not follow the last one of their room.",
            |m| get(&m.holes),
        ),
        (
            "redis_range_reads",
            "Range reads of streams, whatever for.",
            |m| get(&m.range_reads),
        ),
        (
            "redis_reconnects",
            "Times the subscriptions had to be made anew.",
            |m| get(&m.reconnects),
        ),
        ("redis_commands", "Commands sent.", |m| get(&m.commands)),
        (
            "redis_command_failures",
            "Batches of commands that got no answer.",
            |m| get(&m.command_failures),
        ),
        ("redis_resets", "Rooms whose continuity broke.", |m| {
            get(&m.resets)
        }),
    ];
    Readings::register(registry, move || metrics.clone(), counters, &[])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_the_source_as_it_is_now() {
        let registry = Registry::new();
        let metrics = Arc::new(RedisMetrics::default());
        register_redis(&registry, metrics.clone()).unwrap();
        let holes = || {
            let families = registry.gather();
            let family = families
                .iter()
                .find(|family| family.name() == "sse_gateway_redis_holes_total");
            family.unwrap().get_metric()[0].get_counter().get_value()
        };
        assert_eq!(holes(), 0.0);
        metrics.holes.store(3, Ordering::Relaxed);
        assert_eq!((holes(), holes()), (3.0, 3.0));
    }
}

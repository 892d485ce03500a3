//! Counts that other parts keep as plain numbers, read when they are asked for.

use std::fmt;

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntCounter, IntGauge, Opts, Registry};

use tokio::runtime::RuntimeMetrics;

use crate::drain::{Lifecycle, Phase};
use crate::hub::{ClassCounters, HubCounters, Node};

mod labelled;
mod memory;

use labelled::{Family, Labelled};
use memory::{Memory, MemoryGroup};

/// A number: what it is called and means, and where it is in what was read.
struct Part<T> {
    name: &'static str,
    label: Option<(&'static str, &'static str)>,
    help: &'static str,
    read: fn(&T) -> u64,
}

/// A number that stands alone.
const fn part<T>(name: &'static str, help: &'static str, read: fn(&T) -> u64) -> Part<T> {
    Part {
        name,
        label: None,
        help,
        read,
    }
}

/// One of several with the same name.
const fn part_of<T>(
    name: &'static str,
    label: (&'static str, &'static str),
    help: &'static str,
    read: fn(&T) -> u64,
) -> Part<T> {
    Part {
        name,
        label: Some(label),
        help,
        read,
    }
}

const CLOSED: &str = "Event streams that ended, by why: the client went (client), it did not read (lag), the node stops (drain), its age (age), or it was not let in (limit).";
const REFUSED: &str = "Event streams that were not let in, by the limit: the node's streams (streams), a shard's rooms (rooms), or the streams of the client's address (address).";
const RESETS: &str =
    "stream.reset events sent, one for each stream, by why continuity could not be proved.";
const RESUMES: &str = "Streams that resumed a position, by what answered: the recent events of this node (log), a read of the stream (broker), or that it cannot be proved (reset).";

const HUB_COUNTERS: &[Part<HubCounters>] = &[
    part("streams_opened_total", "Event streams opened.", |c| {
        c.streams_opened
    }),
    part_of("streams_closed_total", ("reason", "client"), CLOSED, |c| {
        c.closed_client
    }),
    part_of("streams_closed_total", ("reason", "lag"), CLOSED, |c| {
        c.closed_lag
    }),
    part_of("streams_closed_total", ("reason", "drain"), CLOSED, |c| {
        c.closed_drain
    }),
    part_of("streams_closed_total", ("reason", "age"), CLOSED, |c| {
        c.closed_age
    }),
    part_of("streams_closed_total", ("reason", "limit"), CLOSED, |c| {
        c.closed_limit
    }),
    part_of(
        "streams_refused_total",
        ("limit", "streams"),
        REFUSED,
        |c| c.refused_streams,
    ),
    part_of("streams_refused_total", ("limit", "rooms"), REFUSED, |c| {
        c.refused_rooms
    }),
    part_of(
        "streams_refused_total",
        ("limit", "address"),
        REFUSED,
        |c| c.refused_address,
    ),
    part(
        "events_total",
        "Events that reached a room, counted once for each shard that has the room.",
        |c| c.events_appended,
    ),
    part(
        "deliveries_total",
        "Events times the streams that they were due to.",
        |c| c.deliveries,
    ),
    part(
        "writes_total",
        "Writes to streams. Fewer than deliveries: one write carries all that is due.",
        |c| c.writes,
    ),
    part("written_bytes_total", "Bytes written to streams.", |c| {
        c.bytes_written
    }),
    part_of("resets_total", ("reason", "trimmed"), RESETS, |c| {
        c.resets_trimmed
    }),
    part_of("resets_total", ("reason", "unknown"), RESETS, |c| {
        c.resets_unknown
    }),
    part_of("resets_total", ("reason", "future"), RESETS, |c| {
        c.resets_future
    }),
    part_of("resets_total", ("reason", "malformed"), RESETS, |c| {
        c.resets_malformed
    }),
    part_of("resets_total", ("reason", "deleted"), RESETS, |c| {
        c.resets_deleted
    }),
    part_of("resets_total", ("reason", "fork"), RESETS, |c| {
        c.resets_fork
    }),
    part_of("resumes_total", ("source", "log"), RESUMES, |c| {
        c.resumes_log
    }),
    part_of("resumes_total", ("source", "broker"), RESUMES, |c| {
        c.resumes_broker
    }),
    part_of("resumes_total", ("source", "reset"), RESUMES, |c| {
        c.resumes_reset
    }),
    part(
        "lagged_total",
        "Times a stream fell behind the recent events of its room and went on from the broker.",
        |c| c.lagging,
    ),
    part(
        "room_log_evicted_total",
        "Events that left the recent events of a room.",
        |c| c.log_evicted,
    ),
];

const HUB_GAUGES: &[Part<HubCounters>] = &[
    part("streams_open", "Event streams open now.", |c| {
        c.streams_open
    }),
    part(
        "rooms",
        "Rooms with a subscriber, counted once for each shard.",
        |c| c.rooms,
    ),
    part(
        "room_log_bytes",
        "Bytes of recent events that this node keeps.",
        |c| c.log_bytes,
    ),
    part(
        "streams_stalled",
        "Event streams that take no bytes now while some are due.",
        |c| c.stalled,
    ),
    part(
        "stalled_bytes",
        "Bytes that stalled streams are behind, all together.",
        |c| c.stalled_bytes,
    ),
    part(
        "drain_streams",
        "Event streams that were open when the node began to close them; 0 before.",
        |c| c.drain_streams,
    ),
    part(
        "drain_streams_left",
        "Of those, how many are still open.",
        |c| c.drain_left,
    ),
];

const PHASES: &str = "1 for the phase in which the node is: running, unready (told to stop, still serving), draining (streams are closed), closing (the last answers end), stopped.";

const PHASE_GAUGES: &[Part<Phase>] = &[
    part_of("phase", ("phase", "running"), PHASES, |phase| {
        u64::from(*phase == Phase::Running)
    }),
    part_of("phase", ("phase", "unready"), PHASES, |phase| {
        u64::from(*phase == Phase::Unready)
    }),
    part_of("phase", ("phase", "draining"), PHASES, |phase| {
        u64::from(*phase == Phase::Draining)
    }),
    part_of("phase", ("phase", "closing"), PHASES, |phase| {
        u64::from(*phase == Phase::Closing)
    }),
    part_of("phase", ("phase", "stopped"), PHASES, |phase| {
        u64::from(*phase == Phase::Stopped)
    }),
];

const CLASS_COUNTERS: &[Family<ClassCounters>] = &[
    Family {
        name: "class_events_total",
        help: "Events that reached a room, counted once for each shard that has the room, by class of rooms.",
        read: |c| c.events as f64,
    },
    Family {
        name: "class_deliveries_total",
        help: "Events times the streams that they were due to, by class of rooms.",
        read: |c| c.deliveries as f64,
    },
];

const CLASS_GAUGES: &[Family<ClassCounters>] = &[Family {
    name: "class_streams_open",
    help: "Event streams open now, by class of rooms.",
    read: |c| c.streams_open as f64,
}];

const SHARD_COUNTERS: &[Family<RuntimeMetrics>] = &[
    Family {
        name: "shard_busy_seconds_total",
        help: "Time that a shard's thread was at work, by shard.",
        read: |runtime| runtime.worker_total_busy_duration(0).as_secs_f64(),
    },
    Family {
        name: "shard_parks_total",
        help: "Times a shard's thread had nothing to do and slept, by shard.",
        read: |runtime| runtime.worker_park_count(0) as f64,
    },
];

const READY: &[Part<bool>] = &[part(
    "ready",
    "1 while /readyz says that the node is ready, 0 otherwise.",
    |ready| u64::from(*ready),
)];

const MEMORY: &[Part<Memory>] = &[
    part(
        "memory_limit_bytes",
        "Memory that the control group of the process may take. Not there where it has no limit.",
        |memory| memory.limit,
    ),
    part(
        "memory_used_bytes",
        "Memory that the control group of the process takes: buffers of sockets included, file pages that can be dropped not.",
        |memory| memory.used,
    ),
];

/// Reads a source and shows parts of what it read.
struct Readings<T: 'static> {
    read: Box<dyn Fn() -> Option<T> + Send + Sync>,
    counters: Vec<(IntCounter, &'static Part<T>)>,
    gauges: Vec<(IntGauge, &'static Part<T>)>,
}

impl<T> Readings<T> {
    fn register(
        registry: &Registry,
        read: impl Fn() -> Option<T> + Send + Sync + 'static,
        counters: &'static [Part<T>],
        gauges: &'static [Part<T>],
    ) -> prometheus::Result<()> {
        let options = |part: &Part<T>| {
            let options = Opts::new(format!("sse_gateway_{}", part.name), part.help);
            match part.label {
                Some((name, value)) => options.const_label(name, value),
                None => options,
            }
        };
        let counters = counters
            .iter()
            .map(|part| Ok((IntCounter::with_opts(options(part))?, part)));
        let gauges = gauges
            .iter()
            .map(|part| Ok((IntGauge::with_opts(options(part))?, part)));
        registry.register(Box::new(Self {
            read: Box::new(read),
            counters: counters.collect::<prometheus::Result<_>>()?,
            gauges: gauges.collect::<prometheus::Result<_>>()?,
        }))
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
        let Some(now) = (self.read)() else {
            return Vec::new();
        };
        let mut families = Vec::with_capacity(self.counters.len() + self.gauges.len());
        for (metric, part) in &self.counters {
            // Brought up to the source's own count: scrapes come one at a time, from one thread.
            metric.inc_by((part.read)(&now).saturating_sub(metric.get()));
            families.extend(metric.collect());
        }
        for (metric, part) in &self.gauges {
            metric.set(i64::try_from((part.read)(&now)).unwrap_or(i64::MAX));
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
    let classes = node.class_names().to_vec();
    if !classes.is_empty() {
        let node = node.clone();
        let read = move || node.class_counters();
        let label = ("class", classes);
        Labelled::register(registry, label, read, CLASS_COUNTERS, CLASS_GAUGES)?;
    }
    let read = move || Some(node.counters());
    Readings::register(registry, read, HUB_COUNTERS, HUB_GAUGES)
}

/// Registers what the process is, and where it is on its way to the end.
///
/// # Errors
/// The names are taken.
pub fn register_process(
    registry: &Registry,
    shards: usize,
    lifecycle: Lifecycle,
) -> prometheus::Result<()> {
    let build = IntGauge::with_opts(
        Opts::new("sse_gateway_build_info", "1, with the version as a label.")
            .const_label("version", env!("CARGO_PKG_VERSION")),
    )?;
    build.set(1);
    registry.register(Box::new(build))?;
    let count = IntGauge::new("sse_gateway_shards", "Threads that hold streams.")?;
    count.set(i64::try_from(shards).unwrap_or(i64::MAX));
    registry.register(Box::new(count))?;
    #[cfg(target_os = "linux")]
    registry.register(Box::new(
        prometheus::process_collector::ProcessCollector::for_self(),
    ))?;
    if let Some(group) = MemoryGroup::of_this_process() {
        Readings::register(registry, move || group.read(), &[], MEMORY)?;
    }
    let read = move || Some(lifecycle.phase());
    Readings::register(registry, read, &[], PHASE_GAUGES)
}

/// Registers whether the node is ready.
///
/// # Errors
/// The name is taken.
pub fn register_readiness(
    registry: &Registry,
    is_ready: impl Fn() -> bool + Send + Sync + 'static,
) -> prometheus::Result<()> {
    let read = move || Some(is_ready());
    Readings::register(registry, read, &[], READY)
}

/// Registers how busy the shards' threads are, by what their runtimes count.
///
/// # Errors
/// The names are taken.
pub fn register_runtimes(
    registry: &Registry,
    shards: Vec<RuntimeMetrics>,
) -> prometheus::Result<()> {
    let numbers = (0..shards.len()).map(|shard| shard.to_string()).collect();
    let read = move || shards.clone();
    Labelled::register(registry, ("shard", numbers), read, SHARD_COUNTERS, &[])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_the_source_as_it_is_now() {
        let (registry, lifecycle) = (Registry::new(), Lifecycle::default());
        register_process(&registry, 2, lifecycle.clone()).unwrap();
        let phase = || {
            let text = prometheus::TextEncoder::new()
                .encode_to_string(&registry.gather())
                .unwrap();
            let now = text
                .lines()
                .filter(|line| line.starts_with("sse_gateway_phase{") && line.ends_with(" 1"));
            now.map(str::to_owned).collect::<Vec<_>>()
        };
        for now in Phase::ALL {
            lifecycle.enter(now);
            let line = format!("sse_gateway_phase{{phase=\"{}\"}} 1", now.label());
            assert_eq!(phase(), [line]);
        }
    }
}

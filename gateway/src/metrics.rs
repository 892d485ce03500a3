//! Counts that other parts keep as plain numbers, read when they are asked for.

use std::fmt;

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntCounter, IntGauge, Opts, Registry};

use tokio::runtime::RuntimeMetrics;

use crate::drain::{Lifecycle, Phase};

mod hub;
mod labelled;
mod memory;

pub use hub::register_hub;

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

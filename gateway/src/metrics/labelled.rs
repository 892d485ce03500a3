//! Families with one label, whose values are known from the beginning.

use std::fmt;

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{CounterVec, GaugeVec, Opts, Registry};

/// One family: what it is called and means, and where its number is in what was read.
pub(super) struct Family<T> {
    pub(super) name: &'static str,
    pub(super) help: &'static str,
    pub(super) read: fn(&T) -> f64,
}

/// Reads a source for each value of the label.
pub(super) struct Labelled<T: 'static> {
    read: Box<dyn Fn() -> Vec<T> + Send + Sync>,
    values: Vec<String>,
    counters: Vec<(CounterVec, &'static Family<T>)>,
    gauges: Vec<(GaugeVec, &'static Family<T>)>,
}

impl<T> Labelled<T> {
    /// Registers the families; `read` gives what they show, in the order of the label's `values`.
    pub(super) fn register(
        registry: &Registry,
        (label, values): (&str, Vec<String>),
        read: impl Fn() -> Vec<T> + Send + Sync + 'static,
        counters: &'static [Family<T>],
        gauges: &'static [Family<T>],
    ) -> prometheus::Result<()> {
        let options =
            |family: &Family<T>| Opts::new(format!("sse_gateway_{}", family.name), family.help);
        let counters = counters
            .iter()
            .map(|family| Ok((CounterVec::new(options(family), &[label])?, family)));
        let gauges = gauges
            .iter()
            .map(|family| Ok((GaugeVec::new(options(family), &[label])?, family)));
        registry.register(Box::new(Self {
            read: Box::new(read),
            values,
            counters: counters.collect::<prometheus::Result<_>>()?,
            gauges: gauges.collect::<prometheus::Result<_>>()?,
        }))
    }
}

impl<T> Collector for Labelled<T> {
    fn desc(&self) -> Vec<&Desc> {
        let counters = self.counters.iter().flat_map(|(metric, _)| metric.desc());
        counters
            .chain(self.gauges.iter().flat_map(|(metric, _)| metric.desc()))
            .collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        for (value, now) in self.values.iter().zip((self.read)()) {
            for (metric, family) in &self.counters {
                let metric = metric.with_label_values(&[value]);
                // Brought up to the source's own count: scrapes come one at a time, from one thread.
                metric.inc_by(((family.read)(&now) - metric.get()).max(0.0));
            }
            for (metric, family) in &self.gauges {
                metric.with_label_values(&[value]).set((family.read)(&now));
            }
        }
        let counters = self
            .counters
            .iter()
            .flat_map(|(metric, _)| metric.collect());
        counters
            .chain(self.gauges.iter().flat_map(|(metric, _)| metric.collect()))
            .collect()
    }
}

impl<T> fmt::Debug for Labelled<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Labelled")
            .field("values", &self.values)
            .finish_non_exhaustive()
    }
}

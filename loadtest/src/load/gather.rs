//! Puts together what workers tell, by phase of the run and over time.

use std::time::Duration;

use crate::clock;
use crate::control::{Judgement, Tick};
use crate::cost::{self, Usage};
use crate::histogram::Times;
use crate::report::model::{Checking, Delivering, Sample, ToolCost};

/// A core's share above which the tool counts as saturated.
const SATURATED: f64 = 0.92;
const FAULTS_NAMED: usize = 20;

/// One worker as the coordinator knows it.
#[derive(Debug, Clone, Default)]
struct Seen {
    open: u64,
    /// The mark that it answered last.
    mark: u64,
    /// When its first measured mark came, and its CPU time then.
    began: Option<(u64, u64)>,
    /// The same at the latest mark.
    now: (u64, u64),
}

/// The time in which events were published, up to the end of publishing.
#[derive(Debug, Clone, Default)]
pub(super) struct Window {
    deliveries: u64,
    bytes: u64,
    seconds: f64,
    pub(super) tool: ToolCost,
}

/// All that the workers told.
pub(super) struct Gather {
    workers: Vec<Seen>,
    pids: Vec<u32>,
    pub(super) opened: u64,
    pub(super) failed: u64,
    pub(super) closed: u64,
    pub(super) connect: Times,
    pub(super) resume: Times,
    pub(super) reconnect: Times,
    latency: Times,
    measured: (u64, u64, u64),
    mark: u64,
    measuring: bool,
    returned_from: u64,
    judgement: Judgement,
    began: u64,
    phase: (u64, u64),
    tick: u64,
    sum: Sum,
    samples: Vec<Sample>,
    tool_cpu: u64,
}

/// What came since the last sample.
#[derive(Default)]
struct Sum {
    since: u64,
    deliveries: u64,
    accepted: u64,
    cpu: f64,
    latency: Times,
}

impl Gather {
    pub(super) fn new(workers: usize, pids: &[u32], tick_ms: u64) -> Self {
        let now = clock::now();
        let usage = Usage::sum(pids);
        Self {
            workers: vec![Seen::default(); workers],
            pids: pids.to_vec(),
            opened: 0,
            failed: 0,
            closed: 0,
            connect: Times::default(),
            resume: Times::default(),
            reconnect: Times::default(),
            latency: Times::default(),
            measured: (0, 0, 0),
            mark: 0,
            measuring: false,
            returned_from: 0,
            judgement: Judgement::default(),
            began: now,
            phase: (now, 1),
            tick: tick_ms * 1_000_000,
            sum: Sum {
                since: now,
                cpu: usage.user + usage.system,
                ..Sum::default()
            },
            samples: Vec::new(),
            tool_cpu: 0,
        }
    }

    pub(super) fn add(&mut self, worker: usize, tick: &Tick) {
        let seen = &mut self.workers[worker];
        seen.open = tick.open;
        self.opened += tick.opened;
        self.failed += tick.failed;
        self.closed += tick.closed;
        self.connect.add(&tick.connect);
        self.reconnect.add(&tick.connect);
        self.resume.add(&tick.resume);
        self.sum.deliveries += tick.deliveries;
        self.sum.latency.add(&tick.latency);
        if seen.began.is_some() {
            self.latency.add(&tick.latency);
            if self.measuring || seen.mark != self.mark {
                self.measured.0 += tick.deliveries;
                self.measured.1 += tick.bytes;
                self.measured.2 += tick.reads;
            }
        }
        if let Some(mark) = tick.mark {
            seen.mark = mark;
            seen.now = (tick.at, tick.cpu);
            if self.measuring && seen.began.is_none() {
                seen.began = Some(seen.now);
            }
        }
    }

    /// The next mark; deliveries after a mark that does not measure are not part of the window.
    pub(super) fn begin_mark(&mut self, measuring: bool) -> u64 {
        self.mark += 1;
        if measuring && !self.measuring {
            self.tool_cpu = clock::cpu();
        }
        self.measuring = measuring;
        self.mark
    }

    pub(super) fn has_all_marks(&self) -> bool {
        self.workers.iter().all(|seen| seen.mark == self.mark)
    }

    pub(super) fn begin_phase(&mut self, time: Duration) {
        self.phase = (clock::now(), time.as_secs().max(1));
    }

    pub(super) fn begin_return(&mut self) {
        self.returned_from = self.opened;
        self.resume = Times::default();
        self.reconnect = Times::default();
    }

    pub(super) fn returned(&self) -> u64 {
        self.opened - self.returned_from
    }

    pub(super) fn open(&self) -> u64 {
        self.workers.iter().map(|seen| seen.open).sum()
    }

    /// Seconds into the phase of publishing, or streams that are open.
    pub(super) fn position(&self) -> u64 {
        if self.measuring {
            let seconds = clock::seconds(self.phase.0, clock::now());
            (seconds as u64).min(self.phase.1)
        } else {
            self.open()
        }
    }

    pub(super) fn latest(&self) -> Sample {
        self.samples.last().cloned().unwrap_or_default()
    }

    pub(super) fn sample_if_due(&mut self, accepted: u64) {
        let now = clock::now();
        if now < self.sum.since + self.tick {
            return;
        }
        let usage = Usage::sum(&self.pids);
        let cpu = usage.user + usage.system;
        let seconds = clock::seconds(self.sum.since, now);
        self.samples.push(Sample {
            at: clock::seconds(self.began, now),
            open: self.open(),
            deliveries: self.sum.deliveries as f64 / seconds,
            published: (accepted - self.sum.accepted) as f64 / seconds,
            latency: self.sum.latency.quantiles(),
            rss: usage.rss,
            // A process that is gone takes its CPU time along.
            cpu: ((cpu - self.sum.cpu) / seconds).max(0.0),
            descriptors: usage.descriptors,
            slab: cost::slab(),
        });
        self.sum = Sum {
            since: now,
            accepted,
            cpu,
            ..Sum::default()
        };
    }

    /// The measured time, up to the last mark.
    pub(super) fn window(&self) -> Window {
        let (mut seconds, mut busiest, mut cpu) = (0.0, 0.0, 0.0);
        for seen in &self.workers {
            let Some((at, used)) = seen.began else {
                continue;
            };
            let wall = clock::seconds(at, seen.now.0);
            let own = clock::seconds(used, seen.now.1);
            seconds = f64::max(seconds, wall);
            cpu += own;
            if wall > 0.0 {
                busiest = f64::max(busiest, own / wall);
            }
        }
        cpu += clock::seconds(self.tool_cpu, clock::cpu());
        let (deliveries, bytes, reads) = self.measured;
        Window {
            deliveries,
            bytes,
            seconds,
            tool: ToolCost {
                workers: self.workers.len() as u64,
                busiest,
                cpu,
                deliveries_per_read: deliveries as f64 / (reads as f64).max(1.0),
                saturated: busiest > SATURATED || cpu > SATURATED * seconds * own_cores(),
            },
        }
    }

    pub(super) fn delivering(&self, window: &Window) -> Delivering {
        let judgement = &self.judgement;
        let seconds = window.seconds.max(1e-9);
        Delivering {
            expected: judgement.received + judgement.checking.lost + judgement.checking.told,
            received: judgement.received,
            per_second: window.deliveries as f64 / seconds,
            bytes_per_second: window.bytes as f64 / seconds,
            latency: self.latency.quantiles(),
        }
    }

    pub(super) fn judge(&mut self, judgement: Judgement) {
        self.judgement.received += judgement.received;
        let (sum, more) = (&mut self.judgement.checking, judgement.checking);
        sum.lost += more.lost;
        sum.told += more.told;
        sum.repeated += more.repeated;
        sum.reordered += more.reordered;
        sum.garbled += more.garbled;
        sum.ended += more.ended;
        sum.resets += more.resets;
        sum.closed += more.closed;
        sum.first.extend(more.first);
        sum.first.truncate(FAULTS_NAMED);
    }

    pub(super) fn checking(&self) -> Checking {
        self.judgement.checking.clone()
    }

    pub(super) fn into_samples(self) -> Vec<Sample> {
        self.samples
    }
}

/// Cores that this process may run on.
fn own_cores() -> f64 {
    std::thread::available_parallelism().map_or(1.0, |cores| cores.get() as f64)
}

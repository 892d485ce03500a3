//! A run's coordinator: worker processes, a publisher, and what they tell, put together.

mod finish;
mod gather;
mod storm;
mod workers;

use std::fmt::Write as _;
use std::time::Duration;

use crate::clock;
use crate::control::{Order, Word};
use crate::cost::{self, RedisUsage, Usage};
use crate::plan::Plan;
use crate::progress::Progress;
use crate::publisher::{Published, Publisher, Redis, WireError, Work};
use crate::report::model::{KernelMemory, ProcessCost, Report};
use crate::report::units;
use gather::Gather;
use workers::Workers;

/// How long streams rest before their memory is read.
const AT_REST: Duration = Duration::from_millis(500);

/// Why a run cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A worker process cannot be started.
    #[error("a worker process cannot be started: {0}")]
    Spawn(#[source] std::io::Error),
    /// A worker ended before its time.
    #[error("worker {0} ended before its time: {1}")]
    Worker(usize, String),
    /// Streams do not open.
    #[error(
        "only {opened} of {wanted} streams were open after {seconds} s ({failed} attempts failed): is the server up at {addresses}, and does it allow that many?"
    )]
    NotOpen {
        /// Streams that are open.
        opened: u64,
        /// Streams that were asked for.
        wanted: u64,
        /// How long it was waited.
        seconds: u64,
        /// Attempts that failed.
        failed: u64,
        /// Where to.
        addresses: String,
    },
    /// Nothing can be published.
    #[error(transparent)]
    Publish(#[from] WireError),
    /// A process that is to be killed is not there.
    #[error("process {0} cannot be killed: {1}")]
    Kill(u32, rustix::io::Errno),
}

/// What a run is about.
#[derive(Debug, Clone)]
pub struct Setup {
    /// What the clients do; each worker's copy gets its number.
    pub plan: Plan,
    /// What is published.
    pub work: Work,
    /// The server's processes.
    pub pids: Vec<u32>,
    /// The Redis server whose commands are counted.
    pub redis: Option<String>,
    /// How long to wait until all streams are open.
    pub open_within: Duration,
    /// How long clients may take to get everything after the last event.
    pub patience: Duration,
    /// Whether to show nothing on the way.
    pub quiet: bool,
}

/// A run under way.
pub struct Load {
    setup: Setup,
    workers: Workers,
    gather: Gather,
    publisher: Publisher,
    progress: Progress,
    redis: Option<Redis>,
    before: Before,
    report: Report,
    rate: f64,
}

/// What was used when events began to flow.
#[derive(Default)]
struct Before {
    processes: Vec<Usage>,
    redis: RedisUsage,
}

impl Load {
    /// Starts the workers and connects the publisher.
    ///
    /// # Errors
    /// A worker cannot be started, or nothing can be published.
    pub fn start(setup: Setup) -> Result<Self, LoadError> {
        let publisher = Publisher::connect(&setup.work)?;
        let redis = setup.redis.as_deref().map(Redis::connect).transpose()?;
        let workers = Workers::spawn(&setup.plan)?;
        let mut report = Report {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            began: crate::report::unix_now(),
            command: crate::report::command(),
            ..Report::default()
        };
        report.processes = setup
            .pids
            .iter()
            .map(|&pid| {
                let usage = Usage::of(pid).unwrap_or_default();
                ProcessCost {
                    pid,
                    name: usage.name,
                    rss_before: usage.rss,
                    ..ProcessCost::default()
                }
            })
            .collect();
        report.kernel = Some(KernelMemory {
            slab_before: cost::slab(),
            ..KernelMemory::default()
        });
        Ok(Self {
            gather: Gather::new(setup.plan.workers as usize, &setup.pids, setup.plan.tick_ms),
            progress: Progress::new(setup.quiet),
            workers,
            publisher,
            redis,
            before: Before::default(),
            report,
            rate: 0.0,
            setup,
        })
    }

    /// Opens all streams.
    ///
    /// # Errors
    /// They are not open in time.
    pub fn open(&mut self) -> Result<(), LoadError> {
        let wanted = self.setup.plan.connections;
        let began = clock::now();
        let cpu = self.usages();
        self.progress.phase("connecting", wanted);
        self.workers.tell_all(&Order::Open)?;
        let deadline = began + self.setup.open_within.as_nanos() as u64;
        let last = self.await_full(deadline)?;
        // What came until now belongs to the connecting.
        self.mark(false)?;
        let used = self.usages();
        // Memory is that of streams at rest.
        self.pass(AT_REST)?;
        let connecting = &mut self.report.connecting;
        connecting.wanted = wanted;
        connecting.opened = self.gather.opened;
        connecting.failed = self.gather.failed;
        connecting.per_second = wanted as f64 / clock::seconds(began, last).max(1e-9);
        connecting.time = self.gather.connect.quantiles();
        let rest = self.usages();
        let processes = self.report.processes.iter_mut();
        for (process, ((before, used), rest)) in processes.zip(cpu.iter().zip(&used).zip(&rest)) {
            process.cpu_connecting = used.user + used.system - before.user - before.system;
            process.rss_connected = rest.rss;
            process.descriptors = rest.descriptors;
        }
        if let Some(kernel) = &mut self.report.kernel {
            kernel.slab_connected = cost::slab();
            kernel.tcp_connected = cost::tcp_buffers();
        }
        Ok(())
    }

    /// Waits for all streams to be open: when the last one opened.
    fn await_full(&mut self, deadline: u64) -> Result<u64, LoadError> {
        self.workers.tell_all(&Order::AwaitFull)?;
        let (mut missing, mut last) = (self.workers.len(), 0);
        while missing > 0 {
            match self.next_word(deadline)? {
                Some(Word::Full { at, .. }) => {
                    missing -= 1;
                    last = last.max(at);
                }
                Some(_) => {}
                None => {
                    let opened = self.gather.open();
                    let addresses = &self.setup.plan.target.addresses;
                    let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
                    return Err(LoadError::NotOpen {
                        opened,
                        wanted: self.setup.plan.connections,
                        seconds: self.setup.open_within.as_secs(),
                        failed: self.gather.failed,
                        addresses: addresses.join(", "),
                    });
                }
            }
        }
        Ok(last)
    }

    /// Takes the next word that is not a tick; `None` when the time is over.
    fn next_word(&mut self, deadline: u64) -> Result<Option<Word>, LoadError> {
        loop {
            let now = clock::now();
            if now >= deadline {
                return Ok(None);
            }
            self.gather.sample_if_due(self.publisher.accepted());
            self.show();
            let wait = (deadline - now).min(100_000_000);
            match self.workers.word(Duration::from_nanos(wait))? {
                None => {}
                Some((worker, Word::Tick(tick))) => self.gather.add(worker, &tick),
                Some((worker, Word::Failed(why))) => return Err(LoadError::Worker(worker, why)),
                Some((_, word)) => return Ok(Some(word)),
            }
        }
    }

    fn show(&self) {
        let latest = self.gather.latest();
        let mut message = format!("{} streams", units::count(latest.open));
        if latest.latency.count > 0 {
            let deliveries = units::with_unit(latest.deliveries, "1/s");
            let p99 = units::with_unit(latest.latency.p99 as f64, "µs");
            // Writing into a string cannot fail.
            let _ = write!(message, ", {deliveries} delivered, p99 {p99}");
        }
        self.progress.step(self.gather.position(), message);
    }

    /// Lets `time` pass.
    fn pass(&mut self, time: Duration) -> Result<(), LoadError> {
        let deadline = clock::now() + time.as_nanos() as u64;
        while self.next_word(deadline)?.is_some() {}
        Ok(())
    }

    /// Has every worker say what came until now: ticks before and after are told apart by it.
    fn mark(&mut self, measure: bool) -> Result<(), LoadError> {
        let mark = self.gather.begin_mark(measure);
        self.workers.tell_all(&Order::Mark(mark))?;
        let deadline = clock::now() + 10_000_000_000;
        while !self.gather.has_all_marks() {
            if self.next_tick(deadline)?.is_none() {
                return Err(LoadError::Worker(0, "it does not answer".to_owned()));
            }
        }
        Ok(())
    }

    fn next_tick(&mut self, deadline: u64) -> Result<Option<()>, LoadError> {
        let left = deadline.saturating_sub(clock::now());
        if left == 0 {
            return Ok(None);
        }
        match self.workers.word(Duration::from_nanos(left))? {
            Some((worker, Word::Tick(tick))) => self.gather.add(worker, &tick),
            Some((worker, Word::Failed(why))) => return Err(LoadError::Worker(worker, why)),
            Some(_) | None => {}
        }
        Ok(Some(()))
    }

    fn usages(&self) -> Vec<Usage> {
        usages(&self.setup.pids)
    }

    /// Begins to publish and to measure.
    ///
    /// # Errors
    /// A worker is gone.
    pub fn begin(&mut self, rate: f64, time: Duration) -> Result<(), LoadError> {
        self.rate = rate;
        self.mark(true)?;
        self.before.processes = self.usages();
        if let Some(redis) = &mut self.redis {
            self.before.redis = RedisUsage::read(redis)?;
        }
        self.gather.begin_phase(time);
        self.progress.phase("publishing", time.as_secs().max(1));
        self.publisher.start(rate);
        Ok(())
    }

    /// Goes on publishing for a while.
    ///
    /// # Errors
    /// A worker is gone.
    pub fn go_on(&mut self, time: Duration) -> Result<(), LoadError> {
        self.report.duration += time.as_secs_f64();
        self.pass(time)
    }

    /// Waits until every client has what was published so far: when the last one had; `None` when the patience
    /// was over.
    fn catch_up(&mut self, patience: Duration) -> Result<Option<u64>, LoadError> {
        let Published { heads, unsure } = self.publisher.published();
        self.workers.tell_all(&Order::CatchUp { heads, unsure })?;
        let deadline = clock::now() + patience.as_nanos() as u64;
        let (mut missing, mut last) = (self.workers.len(), 0);
        while missing > 0 {
            match self.next_word(deadline)? {
                Some(Word::CaughtUp { at }) => {
                    missing -= 1;
                    last = last.max(at);
                }
                Some(_) => {}
                None => return Ok(None),
            }
        }
        Ok(Some(last))
    }
}

fn usages(pids: &[u32]) -> Vec<Usage> {
    let usage = |&pid: &u32| Usage::of(pid).unwrap_or_default();
    pids.iter().map(usage).collect()
}

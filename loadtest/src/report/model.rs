//! What a run found, as data: the text, JSON and HTML reports are views of it.
//!
//! Times are in microseconds, memory in bytes, CPU in seconds, unless a name says otherwise.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Quantiles of a histogram of times, in microseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Quantiles {
    /// How many values were recorded; all others are 0 where none was.
    pub count: u64,
    /// The mean.
    pub mean: f64,
    /// The 50th percentile.
    pub p50: u64,
    /// The 90th percentile.
    pub p90: u64,
    /// The 99th percentile.
    pub p99: u64,
    /// The 99.9th percentile.
    pub p999: u64,
    /// The 99.99th percentile.
    pub p9999: u64,
    /// The greatest value.
    pub max: u64,
}

/// The machine that a run took place on.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Machine {
    /// The processor's model name.
    pub cpu: String,
    /// Logical processors.
    pub cpus: usize,
    /// Main memory.
    pub memory: u64,
    /// The kernel's release.
    pub kernel: String,
}

/// How streams came to be open.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Connecting {
    /// Streams that were asked for.
    pub wanted: u64,
    /// Streams that opened.
    pub opened: u64,
    /// Attempts that failed and were made again.
    pub failed: u64,
    /// Streams opened per second while the clients were connecting.
    pub per_second: f64,
    /// From the start of the connection to the head of the answer.
    pub time: Quantiles,
}

/// What was published.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Publishing {
    /// Events per second that were asked for.
    pub rate: f64,
    /// Events that were due in the time of the run.
    pub offered: u64,
    /// Events that the server or Redis confirmed.
    pub accepted: u64,
    /// Events that were refused, or whose answer never came.
    pub failed: u64,
    /// Events that were due and never sent, because earlier ones were not confirmed in time.
    pub unsent: u64,
    /// From the moment that an event was due to the moment that it was sent.
    pub lateness: Quantiles,
    /// From sending an event to its confirmation.
    pub confirm: Quantiles,
}

impl Publishing {
    /// Whether events were due, and not one was accepted.
    #[must_use]
    pub fn is_in_vain(&self) -> bool {
        self.offered > 0 && self.accepted == 0
    }

    /// Whether some of the events that were due were not accepted.
    #[must_use]
    pub fn is_in_part(&self) -> bool {
        self.accepted < self.offered
    }
}

/// What arrived.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Delivering {
    /// Deliveries that must have happened: accepted events times the clients that were to see them.
    pub expected: u64,
    /// Deliveries that happened, each counted once.
    pub received: u64,
    /// Deliveries per second while events were published.
    pub per_second: f64,
    /// Bytes of bodies per second while events were published.
    pub bytes_per_second: f64,
    /// From the moment that an event was due to its arrival at a client. Events that a client got as
    /// history after a reconnect are not in it.
    pub latency: Quantiles,
}

/// What kind of fault a client saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FaultKind {
    /// An event never came.
    Lost,
    /// An event never came, and a `stream.reset` said so.
    Told,
    /// An event came again.
    Repeated,
    /// An event came after a later one.
    Reordered,
    /// Bytes that are no event stream, or an event whose content is not what was published.
    Garbled,
    /// An answer that ends an `EventSource` for good.
    Ended,
}

/// One fault, as the first ones of a run are named.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// What happened.
    pub kind: FaultKind,
    /// The client's number.
    pub client: u64,
    /// The room's name.
    pub room: String,
    /// What happened, in words: which events of the room, or what bytes.
    pub what: String,
}

/// Whether what arrived is what was published.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Checking {
    /// Deliveries that never came, and nobody told the client.
    pub lost: u64,
    /// Deliveries that never came, and a `stream.reset` said so.
    pub told: u64,
    /// Deliveries that came more than once.
    pub repeated: u64,
    /// Deliveries that came after a later event.
    pub reordered: u64,
    /// Events or bytes that nobody published.
    pub garbled: u64,
    /// Clients that an answer ended for good.
    pub ended: u64,
    /// `stream.reset` events.
    pub resets: u64,
    /// Streams that the server or the network closed.
    pub closed: u64,
    /// The first faults, at most 20.
    pub first: Vec<Fault>,
}

impl Checking {
    /// Whether every client saw just what it should.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.lost + self.told + self.repeated + self.reordered + self.garbled + self.ended == 0
    }
}

/// What it took to bring clients back.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Resuming {
    /// What happened: `all streams cut`, `process 4711 killed`.
    pub cause: String,
    /// Streams that were cut.
    pub cut: u64,
    /// Streams that were opened again with a `Last-Event-ID`.
    pub returned: u64,
    /// Seconds over which the clients came back, as was asked for.
    pub spread: f64,
    /// Seconds from the cut to the last stream's opening.
    pub last_connect: f64,
    /// Seconds from the last stream's opening until every client had every event that was
    /// published before that.
    pub caught_up: f64,
    /// From the start of a connection until its client had every event that was published before.
    pub time: Quantiles,
    /// Connect times of the returning clients.
    pub connect: Quantiles,
    /// Rooms that were in use.
    pub rooms: u64,
    /// Redis commands between the cut and the end, by name, where Redis was named.
    pub redis: BTreeMap<String, u64>,
}

/// What a process of the server cost.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct ProcessCost {
    /// The process id.
    pub pid: u32,
    /// Its command's name.
    pub name: String,
    /// CPU in user mode from the first event to the last delivery.
    pub cpu_user: f64,
    /// CPU in the kernel from the first event to the last delivery.
    pub cpu_system: f64,
    /// CPU while the clients connected.
    pub cpu_connecting: f64,
    /// Resident memory before the first client.
    pub rss_before: u64,
    /// Resident memory with all clients connected, before the first event.
    pub rss_connected: u64,
    /// Resident memory after the last event, the clients still connected.
    pub rss_after: u64,
    /// The greatest resident memory of the process.
    pub rss_peak: u64,
    /// Open descriptors with all clients connected.
    pub descriptors: u64,
}

/// What the kernel holds for sockets; both ends of a connection on one machine.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct KernelMemory {
    /// Slab memory before the first client (`Slab` in `/proc/meminfo`).
    pub slab_before: u64,
    /// Slab memory with all clients connected.
    pub slab_connected: u64,
    /// Socket buffers with all clients connected (`mem` in `/proc/net/sockstat`).
    pub tcp_connected: u64,
}

/// What Redis did while events were published.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct RedisCost {
    /// CPU of the Redis process.
    pub cpu: f64,
    /// Calls by command.
    pub commands: BTreeMap<String, u64>,
}

/// What the load tool itself used while events were published.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct ToolCost {
    /// Worker processes.
    pub workers: u64,
    /// The busiest worker's share of one core, 0 to 1.
    pub busiest: f64,
    /// CPU of all workers and the publisher.
    pub cpu: f64,
    /// Deliveries per read of a socket: above 1, events came coalesced.
    pub deliveries_per_read: f64,
    /// Whether the tool had no time left, so that latencies are its own as well as the server's.
    pub saturated: bool,
}

/// One interval of a run, for plots.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Sample {
    /// Seconds since the run began, at the end of the interval.
    pub at: f64,
    /// Streams that are open.
    pub open: u64,
    /// Deliveries per second in the interval.
    pub deliveries: f64,
    /// Events published per second in the interval.
    pub published: f64,
    /// Latencies of the interval.
    pub latency: Quantiles,
    /// Resident memory of the server's processes.
    pub rss: u64,
    /// CPU of the server's processes, in cores.
    pub cpu: f64,
    /// Open descriptors of the server's processes.
    pub descriptors: u64,
    /// Slab memory of the kernel.
    pub slab: u64,
}

/// The report of a run, a storm or a soak.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Report {
    /// `run`, `storm` or `soak`.
    pub scenario: String,
    /// The name of what was measured: `gateway`, `nchan`, or the address.
    pub system: String,
    /// The version of this tool.
    pub version: String,
    /// The command line.
    pub command: String,
    /// Seconds since 1970 when the run began.
    pub began: u64,
    /// The machine.
    pub machine: Machine,
    /// The load, as (what, how much) in the order in which people want to read it.
    pub load: Vec<(String, String)>,
    /// Seconds for which events were published.
    pub duration: f64,
    /// Connecting.
    pub connecting: Connecting,
    /// Publishing.
    pub publishing: Publishing,
    /// Deliveries.
    pub delivering: Delivering,
    /// Faults.
    pub checking: Checking,
    /// What came of each cut, in a storm.
    pub resuming: Vec<Resuming>,
    /// The server's processes, where they were named.
    pub processes: Vec<ProcessCost>,
    /// The kernel's memory, where the server is on this machine.
    pub kernel: Option<KernelMemory>,
    /// Redis, where it was named.
    pub redis: Option<RedisCost>,
    /// The tool itself.
    pub tool: ToolCost,
    /// What the reader must know before trusting a figure, one sentence each.
    pub remarks: Vec<String>,
    /// The course of the run.
    pub samples: Vec<Sample>,
}

/// Which direction of a figure is the good one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Better {
    /// Less is better.
    Lower,
    /// More is better.
    Higher,
}

/// One system's values of one figure.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Values {
    /// The system: `gateway`, `floor`, `plain`, a peer's name.
    pub system: String,
    /// One value a round, in the order of the rounds.
    pub rounds: Vec<f64>,
}

impl Values {
    /// The median of the rounds; not a number where there are none.
    #[must_use]
    pub fn median(&self) -> f64 {
        median(&self.rounds)
    }
}

/// The median; not a number where there are no values.
#[must_use]
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[n / 2],
        n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}

/// One figure of a comparison.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Figure {
    /// The load that it was measured under, a word: `fanout`, `rooms`.
    pub load: String,
    /// What was measured: `CPU per delivery`.
    pub name: String,
    /// Its unit: `µs`, `1/s`, `B`.
    pub unit: String,
    /// Which direction is good.
    pub better: Better,
    /// The systems' values.
    pub values: Vec<Values>,
}

/// What is asked of a ratio between two systems, and what was found.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Ratio {
    /// What is compared: `CPU per delivery, to floor`.
    pub name: String,
    /// The median of the rounds' ratios.
    pub value: f64,
    /// The ratio in each round.
    pub rounds: Vec<f64>,
    /// The bound that a release has to keep, in the direction of `better`.
    pub must: Option<f64>,
    /// The bound that is aimed at.
    pub aim: Option<f64>,
    /// Which direction is good.
    pub better: Better,
}

impl Ratio {
    /// Whether the bound that has to be kept is kept; true where there is none.
    #[must_use]
    pub fn is_kept(&self) -> bool {
        self.must.is_none_or(|must| match self.better {
            Better::Lower => self.value <= must,
            Better::Higher => self.value >= must,
        })
    }
}

/// The report of a comparison.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Comparison {
    /// The version of this tool.
    pub version: String,
    /// The command line.
    pub command: String,
    /// Seconds since 1970 when it began.
    pub began: u64,
    /// The machine.
    pub machine: Machine,
    /// How often each system was measured.
    pub rounds: u64,
    /// The loads, as (word, what it is).
    pub loads: Vec<(String, String)>,
    /// The systems, as (name, what it is).
    pub systems: Vec<(String, String)>,
    /// The figures.
    pub figures: Vec<Figure>,
    /// The ratios.
    pub ratios: Vec<Ratio>,
    /// What the reader must know before trusting a figure, one sentence each.
    pub remarks: Vec<String>,
    /// Every run that went into the figures.
    pub runs: Vec<Report>,
}

//! What a run's coordinator and its worker processes say to each other: one JSON object a line, on the
//! worker's standard input and output.

use serde::{Deserialize, Serialize};

use crate::histogram::Sparse;
use crate::plan::Plan;
use crate::report::model::Checking;

/// To a worker. The first is always the plan.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Order {
    /// What to do.
    Plan(Box<Plan>),
    /// Open all streams.
    Open,
    /// Say at once what came until now; answered by a tick with this mark.
    Mark(u64),
    /// Clients that come back from now on are to catch up with at least these, the last number of each room
    /// as far as it was published; how long each takes is in the ticks.
    Goals(Vec<u64>),
    /// Close all streams and open them again.
    Cut {
        /// Milliseconds over which the clients come back, each at a moment of its own.
        spread_ms: u64,
    },
    /// Say once all streams are open; answered by [`Word::Full`].
    AwaitFull,
    /// Say once every client has every event up to these; answered by [`Word::CaughtUp`].
    CatchUp {
        /// The last number of each room.
        heads: Vec<u64>,
        /// Events of which nobody knows whether they were published: (room, number).
        unsure: Vec<(u32, u64)>,
    },
    /// Judge what came against the numbers of the last [`Order::CatchUp`], and end; answered by
    /// [`Word::Done`].
    Finish,
}

/// From a worker.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Word {
    /// All streams are open.
    Full {
        /// When the last one opened.
        at: u64,
        /// Streams that opened since the last [`Order::Goals`], or since the beginning.
        returned: u64,
    },
    /// Every client has everything.
    CaughtUp {
        /// When the last event that was waited for came, or when the order came where none was missing.
        at: u64,
    },
    /// What came since the last tick.
    Tick(Box<Tick>),
    /// The judgement.
    Done(Box<Judgement>),
    /// The worker cannot go on.
    Failed(String),
}

/// What came since the last tick.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Tick {
    /// When it ended, on [`crate::clock::now`].
    pub at: u64,
    /// The mark that asked for it.
    pub mark: Option<u64>,
    /// Streams that are open.
    pub open: u64,
    /// Streams that opened.
    pub opened: u64,
    /// Streams that the other side closed.
    pub closed: u64,
    /// Attempts to connect that failed.
    pub failed: u64,
    /// Events that came.
    pub deliveries: u64,
    /// Bytes that came.
    pub bytes: u64,
    /// Reads that brought them.
    pub reads: u64,
    /// Publish to delivery.
    pub latency: Sparse,
    /// Connection to head.
    pub connect: Sparse,
    /// Connection to having everything, of clients that came back.
    pub resume: Sparse,
    /// CPU time of the process so far, in nanoseconds.
    pub cpu: u64,
}

/// What a worker's clients saw, all in all.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Judgement {
    /// Deliveries, each counted once.
    pub received: u64,
    /// What went wrong.
    pub checking: Checking,
}

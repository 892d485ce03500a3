//! What a worker counts.

use crate::control::{Judgement, Tick};
use crate::histogram::Times;
use crate::report::model::{Fault, FaultKind};

/// Faults that are named; the others are only counted.
const NAMED: usize = 20;

/// Counts since the last tick, and what the judgement needs.
#[derive(Debug, Default)]
pub struct Tally {
    pub(super) tick: Tick,
    pub(super) latency: Times,
    pub(super) connect: Times,
    pub(super) resume: Times,
    pub(super) judgement: Judgement,
}

impl Tally {
    /// The counts since the last tick.
    pub(super) fn take_tick(&mut self, open: u64, mark: Option<u64>) -> Tick {
        let mut tick = std::mem::take(&mut self.tick);
        tick.at = crate::clock::now();
        tick.cpu = crate::clock::cpu();
        tick.mark = mark;
        tick.open = open;
        tick.latency = self.latency.take();
        tick.connect = self.connect.take();
        tick.resume = self.resume.take();
        tick
    }

    /// Counts `deliveries` that went wrong, and names them if there is room.
    pub(super) fn fault(&mut self, kind: FaultKind, deliveries: u64, name: impl FnOnce() -> Fault) {
        let checking = &mut self.judgement.checking;
        let count = match kind {
            FaultKind::Lost => &mut checking.lost,
            FaultKind::Told => &mut checking.told,
            FaultKind::Repeated => &mut checking.repeated,
            FaultKind::Reordered => &mut checking.reordered,
            FaultKind::Garbled => &mut checking.garbled,
            FaultKind::Ended => &mut checking.ended,
        };
        *count += deliveries;
        if checking.first.len() < NAMED {
            checking.first.push(name());
        }
    }
}

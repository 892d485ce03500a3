//! Publishes events at a rate, and keeps count of what was confirmed.
//!
//! Events are due at even intervals from the start. An event that cannot be sent at its moment, because earlier
//! ones are not confirmed, waits and keeps its moment: that is what latencies are measured from, so that a server
//! that holds up its publisher does not look fast (coordinated omission).

mod link;
mod wire;

use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::clock;
use crate::histogram::Times;
use crate::payload::Payloads;
use crate::report::model::Publishing;
use crate::target::Publish;
use link::Link;
pub use wire::{Redis, WireError};

/// Niceness of the thread that publishes.
const PRIORITY: i32 = -10;

/// What is published, and how.
#[derive(Debug, Clone)]
pub struct Work {
    /// How.
    pub publish: Publish,
    /// The rooms' names; events go to each in turn.
    pub rooms: Vec<String>,
    /// What the events carry.
    pub payloads: Payloads,
    /// Connections to publish on. A room's events all go over the same one, in order.
    pub connections: usize,
    /// Events to keep in a room's stream; the function's default where there is none.
    pub keep: Option<u64>,
}

/// What was published.
#[derive(Debug, Clone, Default)]
pub struct Published {
    /// The last number of each room.
    pub heads: Vec<u64>,
    /// Events of which nobody knows whether they were published: (room, number).
    pub unsure: Vec<(u32, u64)>,
}

/// A publisher with its connections.
pub struct Publisher {
    links: Vec<Arc<Link>>,
    readers: Vec<JoinHandle<()>>,
    rooms: u32,
    pacer: Option<Pacer>,
    offered: u64,
    late: Times,
    next_room: u64,
}

struct Pacer {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<(u64, Times)>,
}

impl Publisher {
    /// Connects.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses.
    pub fn connect(work: &Work) -> Result<Self, WireError> {
        let connections = work.connections.clamp(1, work.rooms.len().max(1));
        wire::prepare(&work.publish)?;
        let mut links = Vec::new();
        for at in 0..connections {
            links.push(Arc::new(Link::connect(work, at)?));
        }
        let readers = links
            .iter()
            .map(|link| {
                let link = link.clone();
                std::thread::spawn(move || link.read_confirmations())
            })
            .collect();
        Ok(Self {
            links,
            readers,
            rooms: work.rooms.len() as u32,
            pacer: None,
            offered: 0,
            late: Times::default(),
            next_room: 0,
        })
    }

    /// Begins to publish `rate` events a second.
    pub fn start(&mut self, rate: f64) {
        self.pause();
        if rate <= 0.0 {
            return;
        }
        let stop = Arc::new(AtomicBool::new(false));
        let (links, rooms, flag) = (self.links.clone(), u64::from(self.rooms), stop.clone());
        let first = self.next_room;
        let thread = std::thread::spawn(move || pace(&links, rooms, first, rate, &flag));
        self.pacer = Some(Pacer { stop, thread });
    }

    /// Stops publishing: what is due and not sent yet never is; waits for what was sent to be confirmed, five
    /// seconds at most.
    pub fn pause(&mut self) {
        let Some(pacer) = self.pacer.take() else {
            return;
        };
        pacer.stop.store(true, Ordering::Relaxed);
        if let Ok((offered, mut late)) = pacer.thread.join() {
            self.offered += offered;
            self.next_room += offered;
            self.late.add(&late.take());
        }
        let deadline = clock::now() + 5_000_000_000;
        for link in &self.links {
            link.settle(deadline);
        }
    }

    /// What was published so far.
    #[must_use]
    pub fn published(&self) -> Published {
        let mut published = Published {
            heads: vec![0; self.rooms as usize],
            unsure: Vec::new(),
        };
        for link in &self.links {
            link.add_to(&mut published);
        }
        published
    }

    /// Events confirmed so far.
    #[must_use]
    pub fn accepted(&self) -> u64 {
        self.links.iter().map(|link| link.accepted()).sum()
    }

    /// Ends, and tells what happened.
    #[must_use]
    pub fn finish(mut self, rate: f64) -> Publishing {
        self.pause();
        let mut confirm = Times::default();
        let mut sum = Publishing {
            rate,
            offered: self.offered,
            ..Publishing::default()
        };
        for link in &self.links {
            link.close(&mut sum, &mut confirm, &mut self.late);
        }
        for reader in self.readers.drain(..) {
            // A reader that panicked has nothing to add.
            let _ = reader.join();
        }
        sum.lateness = self.late.quantiles();
        sum.confirm = confirm.quantiles();
        sum
    }
}

/// Hands out events at their moments until told to stop: how many, and how late they were handed out.
fn pace(links: &[Arc<Link>], rooms: u64, first: u64, rate: f64, stop: &AtomicBool) -> (u64, Times) {
    // Sleep as exactly as the system can; the default is 50 µs late. Without it, it is only less exact.
    let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
    // And wake before the clients of this machine, where that is allowed: their work must not make events late.
    let _ = rustix::process::setpriority_process(None, PRIORITY);
    let (began, mut late) = (clock::now(), Times::default());
    let mut count = 0u64;
    while !stop.load(Ordering::Relaxed) {
        let due = began + (count as f64 * 1e9 / rate) as u64;
        let now = clock::now();
        if due > now {
            // In steps, so that a stop is heard.
            std::thread::sleep(Duration::from_nanos((due - now).min(50_000_000)));
            continue;
        }
        let room = (first + count) % rooms;
        links[room as usize % links.len()].publish(room as u32, due, &mut late);
        count += 1;
    }
    (count, late)
}

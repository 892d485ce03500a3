//! The loop of the broker's thread: the only place that changes rooms.
//!
//! Invariant: everything that one buffer of the link brought is sent to the shards before the next
//! one is read. A shard that does not keep up so stops the reading, and nothing piles up here.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use protocol::RoomName;
use protocol::servers::Layout;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::library::Notifications;
use super::link::Link;
use super::reads::ReadError;
use super::rooms::{Handle, Rooms, ServerId};
use super::topology::Found;
use super::upkeep::{self, Probed, Suspect};
use super::{Request, Shared};
use crate::broker::BrokerError;
use crate::broker::sequencer::{Output, Read, Tail};
use crate::hub::Inlets;

mod background;
mod connection;
mod retries;
mod rooms;
mod servers;
mod verification;

use servers::Server;
use verification::Passes;

/// How long the rest of a signal's buffer may take.
const SETTLE: Duration = Duration::from_millis(1);
/// Between trims of rooms that nobody else trims.
const TRIM: Duration = Duration::from_secs(60);
/// Reads under way at most; each may bring a page.
const READS: usize = 64;
/// Requests of shards that are answered in one go.
const REQUESTS: usize = 1024;
/// First and last pause before the link is made again.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(400));

/// What something that ran beside the loop came back with.
enum Done {
    Linked(ServerId, Result<Link, String>),
    Read(Handle, Result<Tail, ReadError>),
    Verified(verification::Reason, Vec<Suspect>),
    Notifications(ServerId, Result<Notifications, BrokerError>),
    Probed(ServerId, Probed),
    Identified(ServerId, Option<String>),
}

/// When what is due.
struct Timers {
    settle: Option<Instant>,
    trim: Instant,
}

enum Woke {
    Link(ServerId, std::io::Result<()>),
    Layout(Found),
    Request(Option<Request>),
    Done(Done),
    Timer,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Cause {
    Channel,
    Stream,
}

pub(super) struct Driver {
    shared: Arc<Shared>,
    inlets: Inlets,
    rooms: Rooms,
    servers: Vec<Server>,
    last_server: ServerId,
    /// What rooms were arranged by, and whether one has lost its place since.
    arranged: Option<Arc<Layout>>,
    has_homeless: bool,
    /// Which link is looked at first: each in turn, so that none starves the others.
    turn: usize,
    live: bool,
    /// Of this process; another node of the same name uses another.
    nonce: String,
    passes: Passes,
    dirty: Vec<usize>,
    unsettled: Vec<usize>,
    reads: VecDeque<(Handle, Read)>,
    reading: usize,
    plain: Vec<RoomName>,
    outputs: Vec<Output>,
    timers: Timers,
    done: mpsc::UnboundedSender<Done>,
    results: Option<mpsc::UnboundedReceiver<Done>>,
}

impl Driver {
    pub(super) fn new(shared: Arc<Shared>, inlets: Inlets) -> Self {
        let (done, results) = mpsc::unbounded_channel();
        let now = Instant::now();
        let mut driver = Self {
            inlets,
            rooms: Rooms::default(),
            servers: Vec::new(),
            last_server: 0,
            arranged: None,
            has_homeless: false,
            turn: 0,
            live: false,
            nonce: format!("{:016x}", fastrand::u64(..)),
            passes: Passes::new(now, &shared.config),
            dirty: Vec::new(),
            unsettled: Vec::new(),
            reads: VecDeque::new(),
            reading: 0,
            plain: Vec::new(),
            outputs: Vec::new(),
            timers: Timers {
                settle: None,
                trim: now + TRIM,
            },
            done,
            results: Some(results),
            shared,
        };
        if let Some(layout) = driver.shared.topology.layout() {
            driver.arrange(&layout);
        }
        driver
    }

    /// Runs until nobody can ask for anything any more.
    pub(super) async fn run(
        mut self,
        mut inbox: mpsc::UnboundedReceiver<Request>,
        mut layouts: mpsc::UnboundedReceiver<Found>,
    ) {
        let Some(mut results) = self.results.take() else {
            return;
        };
        loop {
            let due = self.next_timer();
            self.turn = self.turn.wrapping_add(1);
            let progress = servers::progress(&mut self.servers, self.turn);
            // In this order: what has arrived is looked at before a timer takes it for missing.
            let woke = tokio::select! {
                biased;
                (server, result) = progress => Woke::Link(server, result),
                Some(done) = results.recv() => Woke::Done(done),
                Some(found) = layouts.recv() => Woke::Layout(found),
                request = inbox.recv() => Woke::Request(request),
                () = tokio::time::sleep_until(due) => Woke::Timer,
            };
            match woke {
                Woke::Link(server, Ok(())) => {
                    self.pushes(server).await;
                    self.live_when_ready().await;
                }
                Woke::Link(server, Err(error)) => {
                    self.link_down(server, &error.to_string()).await;
                }
                Woke::Layout(mut found) => {
                    // Only the last one counts.
                    while let Ok(later) = layouts.try_recv() {
                        if later.is_ok() || found.is_err() {
                            found = later;
                        }
                    }
                    self.layout(found).await;
                }
                Woke::Request(Some(first)) => self.requests(first, &mut inbox).await,
                Woke::Request(None) => return,
                Woke::Done(done) => {
                    self.done(done).await;
                    for _ in 0..READS {
                        let Ok(done) = results.try_recv() else { break };
                        self.done(done).await;
                    }
                    self.live_when_ready().await;
                }
                Woke::Timer => self.tick().await,
            }
            self.start_reads();
            self.flush().await;
        }
    }

    fn next_timer(&self) -> Instant {
        let servers = self.servers.iter().flat_map(Server::next_timer);
        servers
            .chain(self.timers.settle)
            .chain(self.passes.next_timer())
            .fold(self.timers.trim, Instant::min)
    }

    fn spawn(&self, work: impl Future<Output = Done> + Send + 'static) {
        let done = self.done.clone();
        tokio::spawn(async move {
            let _ = done.send(work.await);
        });
    }

    async fn tick(&mut self) {
        let now = Instant::now();
        let due = |timer: &mut Option<Instant>| timer.take_if(|at| *at <= now).is_some();
        self.servers_due(now).await;
        if due(&mut self.timers.settle) {
            self.settle();
        }
        let servers = self.servers.iter_mut();
        let failed: Vec<Handle> = servers.flat_map(|one| one.retries.due(now)).collect();
        for handle in failed {
            self.sequence(handle, Cause::Stream, |room, out| room.retry(out));
        }
        self.passes_due(now);
        if self.timers.trim <= now {
            self.timers.trim = now + TRIM;
            let (shared, rooms) = (self.shared.clone(), std::mem::take(&mut self.plain));
            tokio::spawn(async move { upkeep::trim(&shared, rooms).await });
        }
    }

    async fn done(&mut self, done: Done) {
        match done {
            Done::Linked(server, Ok(link)) => self.link_up(server, link),
            Done::Linked(server, Err(reason)) => self.link_down(server, &reason).await,
            Done::Read(handle, result) => self.read(handle, result),
            Done::Verified(reason, suspects) => self.verified(reason, suspects),
            Done::Notifications(server, result) => self.notifications(server, result),
            Done::Probed(server, probed) => self.probed(server, probed).await,
            Done::Identified(server, what) => self.identified(server, what),
        }
    }
}

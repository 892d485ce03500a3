//! The loop of the broker's thread: the only place that changes rooms.
//!
//! Invariant: everything that one buffer of the link brought is sent to the shards before the next
//! one is read. A shard that does not keep up so stops the reading, and nothing piles up here.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use protocol::RoomName;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::library::Notifications;
use super::link::Link;
use super::reads::ReadError;
use super::rooms::{Handle, Rooms};
use super::upkeep::{self, Probed, Suspect};
use super::{Request, Shared};
use crate::broker::BrokerError;
use crate::broker::sequencer::{Output, Read, Tail};
use crate::hub::Inlets;

mod background;
mod connection;
mod rooms;

/// How long the rest of a signal's buffer may take.
const SETTLE: Duration = Duration::from_millis(1);
/// Between attempts to read what could not be read.
const RETRY: Duration = Duration::from_millis(100);
/// Between trims of rooms that nobody else trims.
const TRIM: Duration = Duration::from_secs(60);
/// Reads under way at most; each may bring a page.
const READS: usize = 64;
/// Requests of shards that are answered in one go.
const REQUESTS: usize = 1024;
/// First and last pause before the link is made again.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// What something that ran beside the loop came back with.
enum Done {
    Linked(Result<Link, String>),
    Read(Handle, Result<Tail, ReadError>),
    Verified(Vec<Suspect>),
    Notifications(Result<Notifications, BrokerError>),
    Probed(Probed),
}

/// What has to have happened before events are said to flow.
#[derive(Debug, Default)]
struct Ready {
    probe: bool,
    library: bool,
    flags: bool,
}

/// When what is due.
struct Timers {
    connect: Option<Instant>,
    settle: Option<Instant>,
    retry: Option<Instant>,
    probe: Instant,
    verify: Instant,
    flags: Instant,
    trim: Instant,
}

enum Woke {
    Link(std::io::Result<()>),
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
    link: Option<Link>,
    backoff: Duration,
    live: bool,
    /// Of this process; another node of the same name uses another.
    nonce: String,
    probe_channel: Vec<u8>,
    /// When a probe came back, or the link was made.
    probe_seen: Instant,
    /// When the last one left.
    probe_sent: Instant,
    is_probing: bool,
    /// Since the link was made: a probe came back, the function and the flags were looked at.
    ready: Ready,
    /// Rooms that wait for their verification; `None` while no pass is under way.
    verifying: Option<VecDeque<usize>>,
    is_polling: bool,
    signals_seen: bool,
    dirty: Vec<usize>,
    unsettled: Vec<usize>,
    reads: VecDeque<(Handle, Read)>,
    reading: usize,
    retry: Vec<Handle>,
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
        let config = &shared.config;
        Self {
            inlets,
            rooms: Rooms::default(),
            link: None,
            backoff: BACKOFF.0,
            live: false,
            nonce: format!("{:016x}", fastrand::u64(..)),
            probe_channel: shared.keys.probe(&config.node).into_bytes(),
            probe_seen: now,
            probe_sent: now,
            is_probing: false,
            ready: Ready::default(),
            verifying: None,
            is_polling: false,
            signals_seen: false,
            dirty: Vec::new(),
            unsettled: Vec::new(),
            reads: VecDeque::new(),
            reading: 0,
            retry: Vec::new(),
            plain: Vec::new(),
            outputs: Vec::new(),
            timers: Timers {
                connect: Some(now),
                settle: None,
                retry: None,
                probe: now + config.probe_interval,
                verify: now + config.verify_interval,
                flags: now + config.verify_interval,
                trim: now + TRIM,
            },
            done,
            results: Some(results),
            shared,
        }
    }

    /// Runs until nobody can ask for anything any more.
    pub(super) async fn run(mut self, mut inbox: mpsc::UnboundedReceiver<Request>) {
        let Some(mut results) = self.results.take() else {
            return;
        };
        loop {
            let due = self.next_timer();
            let link = &mut self.link;
            let progress = async {
                match link {
                    Some(link) => link.progress().await,
                    None => std::future::pending().await,
                }
            };
            // In this order: what has arrived is looked at before a timer takes it for missing.
            let woke = tokio::select! {
                biased;
                result = progress => Woke::Link(result),
                Some(done) = results.recv() => Woke::Done(done),
                request = inbox.recv() => Woke::Request(request),
                () = tokio::time::sleep_until(due) => Woke::Timer,
            };
            match woke {
                Woke::Link(Ok(())) => {
                    self.pushes();
                    self.live_when_ready().await;
                }
                Woke::Link(Err(error)) => self.link_down(&error.to_string()).await,
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
        let timers = &self.timers;
        let fixed = timers
            .probe
            .min(timers.verify)
            .min(timers.flags)
            .min(timers.trim);
        [timers.connect, timers.settle, timers.retry]
            .into_iter()
            .flatten()
            .fold(fixed, Instant::min)
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
        if due(&mut self.timers.connect) {
            self.connect();
        }
        if due(&mut self.timers.settle) {
            self.settle();
        }
        if due(&mut self.timers.retry) {
            for handle in std::mem::take(&mut self.retry) {
                self.sequence(handle, Cause::Stream, |room, out| room.retry(out));
            }
        }
        if self.timers.probe <= now {
            self.timers.probe = now + self.shared.config.probe_interval;
            self.probe(now).await;
        }
        if self.timers.flags <= now {
            self.timers.flags = now + self.shared.config.verify_interval;
            self.look_at_notifications();
        }
        if self.timers.verify <= now {
            self.begin_verification(now);
        }
        if self.timers.trim <= now {
            self.timers.trim = now + TRIM;
            let (shared, rooms) = (self.shared.clone(), std::mem::take(&mut self.plain));
            tokio::spawn(async move {
                // What fails is done at the next turn.
                let _ = upkeep::trim(&shared, rooms).await;
            });
        }
    }

    async fn done(&mut self, done: Done) {
        match done {
            Done::Linked(Ok(link)) => self.link_up(link),
            Done::Linked(Err(reason)) => self.link_down(&reason).await,
            Done::Read(handle, result) => self.read(handle, result),
            Done::Verified(suspects) => self.verified(suspects),
            Done::Notifications(result) => self.notifications(result),
            Done::Probed(probed) => self.probed(probed),
        }
    }
}

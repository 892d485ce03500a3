//! A worker process: some thousand clients on one thread. It takes orders on standard input and answers on
//! standard output.

pub mod check;
mod client;
mod connections;
mod http2;
mod line;
pub mod response;
mod socket;
mod tally;

use std::collections::HashSet;
use std::io::{self, BufRead, Write};
use std::path::PathBuf;
use std::sync::mpsc::{self, Receiver, TryRecvError};
use std::time::Duration;

use mio::{Events, Poll, Token, Waker};

use crate::clock;
use crate::control::{Order, Word};
use crate::payload::Payloads;
use crate::plan::Plan;
use crate::target;
use crate::tls::{Connector, TlsError};
use client::{Client, Pace, Reading, State};
use connections::Connections;
use http2::{SHARED, Shared};
use line::Line;
use socket::Sources;
use tally::Tally;

const WAKER: Token = Token(usize::MAX);
/// One read takes at most this much: many events, where they come coalesced.
const BUFFER: usize = 256 * 1024;
/// How often slow clients read.
const SLOW_TICK: u64 = 100_000_000;

/// Why a worker ends before its time.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// Nobody gives orders.
    #[error("a worker is started by sse-loadtest itself: use sse-loadtest run")]
    NoPlan,
    /// The system refuses something.
    #[error("a worker cannot go on: {0}")]
    System(#[from] io::Error),
    /// The server cannot be spoken to.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// There are no tokens.
    #[error("the tokens cannot be read from {0}: {1}")]
    Tokens(PathBuf, #[source] io::Error),
}

/// Runs a worker until it is told to finish or its coordinator is gone.
///
/// # Errors
/// There is no plan, or the system refuses something.
pub fn run() -> Result<(), WorkerError> {
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line)?;
    let Ok(Order::Plan(plan)) = serde_json::from_str(&line) else {
        return Err(WorkerError::NoPlan);
    };
    let poll = Poll::new()?;
    let waker = Waker::new(poll.registry(), WAKER)?;
    let (sender, orders) = mpsc::channel();
    std::thread::spawn(move || {
        for line in io::stdin().lock().lines() {
            let order = line.ok().and_then(|line| serde_json::from_str(&line).ok());
            let Some(order) = order else { break };
            if sender.send(order).is_err() || waker.wake().is_err() {
                break;
            }
        }
        // The sender goes, and the loop notices at its next turn.
        drop(sender);
        let _ = waker.wake();
    });
    let mut worker = match Worker::new(*plan, poll) {
        Ok(worker) => worker,
        Err(error) => {
            say(&Word::Failed(error.to_string()));
            return Err(error);
        }
    };
    let done = worker.turn_until_done(&orders);
    worker.reset_on_close();
    match done {
        Ok(()) => Ok(()),
        Err(error) => {
            say(&Word::Failed(error.to_string()));
            Err(error.into())
        }
    }
}

fn say(word: &Word) {
    if let Ok(line) = serde_json::to_string(word) {
        let mut out = io::stdout().lock();
        // Without a reader there is nobody left to tell.
        let _ = writeln!(out, "{line}");
        let _ = out.flush();
    }
}

/// What all clients are to have in the end.
#[derive(Debug, Default)]
struct Heads {
    last: Vec<u64>,
    unsure: HashSet<(u32, u64)>,
}

impl Heads {
    fn last(&self, room: u32) -> u64 {
        self.last.get(room as usize).copied().unwrap_or(0)
    }

    fn lacks(&self, client: &Client) -> bool {
        let last = self.last(client.room);
        client.is_judged()
            && !client.check.is_told()
            && !client.check.has_all(last)
            && client.check.lost(last).any(|(first, last)| {
                (first..=last).any(|number| !self.unsure.contains(&(client.room, number)))
            })
    }
}

struct Worker {
    plan: Plan,
    poll: Poll,
    clients: Vec<Client>,
    connections: Connections,
    /// Where clients share connections.
    shared: Option<Shared>,
    sources: Sources,
    tally: Tally,
    payloads: Payloads,
    tokens: Vec<String>,
    tls: Option<Connector>,
    buffer: Vec<u8>,
    /// The greatest number that any client saw, by room.
    seen: Vec<u64>,
    goals: Vec<u64>,
    heads: Heads,
    /// Clients that the order to catch up waits for; `None` without an order.
    behind: Option<u64>,
    awaits_full: bool,
    next_tick: u64,
    next_slow: u64,
    next_churn: Option<u64>,
}

impl Worker {
    fn new(plan: Plan, poll: Poll) -> Result<Self, WorkerError> {
        let tokens = match &plan.target.tokens {
            None => Vec::new(),
            Some(file) => std::fs::read_to_string(file)
                .map(|text| target::tokens(&text))
                .map_err(|error| WorkerError::Tokens(file.clone(), error))?,
        };
        let tls = plan.target.tls.as_ref();
        let tls = tls
            .map(|tls| tls.connector(plan.http2.is_some()))
            .transpose()?;
        let pace = |number: u64| match number {
            n if n < plan.stalled => Pace::Stalled,
            n if n < plan.stalled + plan.slow => Pace::Slow,
            _ => Pace::Prompt,
        };
        let clients: Vec<_> = plan
            .clients()
            .into_iter()
            .map(|(number, room)| Client::new(number, room, pace(number)))
            .collect();
        Ok(Self {
            poll,
            connections: Connections::new(&plan),
            shared: Shared::new(&plan, clients.len()),
            sources: Sources::new(plan.sources.clone(), plan.worker, plan.workers),
            clients,
            tally: Tally::default(),
            payloads: Payloads::new(plan.payload, plan.samples.as_deref()),
            buffer: vec![0; BUFFER],
            seen: vec![0; plan.rooms as usize],
            goals: Vec::new(),
            heads: Heads::default(),
            behind: None,
            awaits_full: false,
            next_tick: clock::now() + plan.tick_ms * 1_000_000,
            next_slow: u64::MAX,
            next_churn: None,
            tokens,
            tls,
            plan,
        })
    }

    fn turn_until_done(&mut self, orders: &Receiver<Order>) -> io::Result<()> {
        let mut events = Events::with_capacity(1_024);
        let mut answered = true;
        loop {
            let wait = match answered {
                true => self.next_timer().saturating_sub(clock::now()),
                false => 0,
            };
            match self
                .poll
                .poll(&mut events, Some(Duration::from_nanos(wait)))
            {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
                _ => {}
            }
            for event in &events {
                let closed = event.is_read_closed() || event.is_error();
                match event.token() {
                    WAKER => {}
                    Token(at) => match at.checked_sub(SHARED) {
                        Some(key) => self.shared_ready(key, event.is_writable() || closed)?,
                        None => self.ready(at, event.is_writable(), closed)?,
                    },
                }
            }
            loop {
                match orders.try_recv() {
                    Ok(Order::Finish) => {
                        self.finish();
                        return Ok(());
                    }
                    Ok(order) => self.obey(order),
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => return Ok(()),
                }
            }
            self.timers(clock::now())?;
            answered = self.answer_calls()?;
        }
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::Plan(_) | Order::Finish => {}
            Order::Open => {
                let all = 0..self.clients.len() as u32;
                self.connections.queue.extend(all);
                if self.plan.slow > 0 {
                    self.next_slow = clock::now() + SLOW_TICK;
                }
            }
            Order::Mark(mark) => {
                self.tick(Some(mark));
                self.begin_churn();
            }
            Order::Goals(goals) => {
                self.goals = goals;
                self.connections.returned = 0;
            }
            Order::Cut { spread_ms } => {
                let now = clock::now();
                for at in 0..self.clients.len() as u32 {
                    self.cut(at, now + fastrand::u64(0..=spread_ms) * 1_000_000);
                }
            }
            Order::AwaitFull => {
                self.awaits_full = true;
                self.tell_if_full();
            }
            Order::CatchUp { heads, unsure } => {
                self.heads = Heads {
                    last: heads,
                    unsure: unsure.into_iter().collect(),
                };
                let mut behind = 0;
                for client in &mut self.clients {
                    client.behind = self.heads.lacks(client);
                    behind += u64::from(client.behind);
                }
                self.behind = Some(behind);
                self.tell_if_caught_up(clock::now());
            }
        }
    }

    /// The first mark comes when the streams of all workers are open: before it, those that leave would be waited for.
    fn begin_churn(&mut self) {
        let churn = self.plan.churn.filter(|churn| churn.per_second > 0.0);
        if let (None, Some(churn)) = (self.next_churn, churn) {
            let pause = 1e9 / churn.per_second * self.plan.workers as f64;
            self.next_churn = Some(clock::now() + pause as u64);
        }
    }

    fn finish(&mut self) {
        self.tick(None);
        for client in &self.clients {
            if client.is_judged() {
                let room = client.room;
                let unsure = |number| self.heads.unsure.contains(&(room, number));
                let last = self.heads.last(room);
                client.judge(last, unsure, &self.plan.room_prefix, &mut self.tally);
            }
        }
        let judgement = std::mem::take(&mut self.tally.judgement);
        say(&Word::Done(Box::new(judgement)));
        self.reset_on_close();
    }

    /// Ports that wait out their time would be missing in the next run.
    fn reset_on_close(&self) {
        let lines = self
            .clients
            .iter()
            .filter_map(|client| client.line.as_ref());
        lines.for_each(Line::reset_on_close);
        if let Some(shared) = &self.shared {
            shared.reset_on_close();
        }
    }

    fn tick(&mut self, mark: Option<u64>) {
        let tick = self.tally.take_tick(self.connections.open, mark);
        say(&Word::Tick(Box::new(tick)));
    }

    fn next_timer(&self) -> u64 {
        self.next_tick
            .min(self.next_slow)
            .min(self.next_churn.unwrap_or(u64::MAX))
            .min(self.connections.next_timer())
    }

    fn timers(&mut self, now: u64) -> io::Result<()> {
        if now >= self.next_tick {
            self.next_tick = now + self.plan.tick_ms * 1_000_000;
            self.tick(None);
        }
        if now >= self.next_slow {
            self.next_slow = now + SLOW_TICK;
            let budget = (self.plan.slow_rate / 10).max(1) as usize;
            for at in 0..self.clients.len() {
                if self.clients[at].pace == Pace::Slow && self.clients[at].state == State::Open {
                    self.read(at, budget, false)?;
                }
            }
        }
        if let (Some(due), Some(churn)) = (self.next_churn, self.plan.churn)
            && now >= due
        {
            let pause = 1e9 / churn.per_second * self.plan.workers as f64;
            self.next_churn = Some(due + pause as u64);
            let at = fastrand::u32(0..self.clients.len().max(1) as u32);
            if self.clients[at as usize].state == State::Open {
                self.leave(at, now + churn.away_ms * 1_000_000);
            }
        }
        self.connect_some()
    }

    /// Reads what there is, at most `budget` bytes for one that reads slowly. `closed` says that the end
    /// follows the bytes.
    fn read(&mut self, at: usize, budget: usize, closed: bool) -> io::Result<()> {
        let mut left = budget;
        loop {
            let client = &mut self.clients[at];
            let Some(line) = &mut client.line else {
                return Ok(());
            };
            let drained = line.is_drained_by_short_reads();
            let room = left.min(self.buffer.len());
            let got = match io::Read::read(line, &mut self.buffer[..room]) {
                Ok(0) => {
                    self.closed(at);
                    return Ok(());
                }
                Ok(got) => got,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => {
                    self.closed(at);
                    return Ok(());
                }
            };
            let now = clock::now();
            self.tally.tick.reads += 1;
            self.tally.tick.bytes += got as u64;
            let mut reading = Reading {
                now,
                payloads: &self.payloads,
                tally: &mut self.tally,
                seen: &mut self.seen,
                prefix: &self.plan.room_prefix,
            };
            let change = client.read(&self.buffer[..got], &mut reading);
            self.apply(at, change, now)?;
            left -= got;
            // A read that did not fill its buffer emptied the socket; what comes next is told anew.
            let stalled =
                self.clients[at].pace == Pace::Stalled && self.clients[at].state == State::Open;
            if (got < room && !closed && drained) || left == 0 || stalled {
                return Ok(());
            }
        }
    }

    fn note_progress(&mut self, at: usize, now: u64) {
        if self.clients[at].behind && !self.heads.lacks(&self.clients[at]) {
            self.clients[at].behind = false;
            self.behind = self.behind.map(|behind| behind - 1);
            self.tell_if_caught_up(now);
        }
    }

    fn tell_if_caught_up(&mut self, now: u64) {
        if self.behind == Some(0) {
            self.behind = None;
            say(&Word::CaughtUp { at: now });
        }
    }

    fn tell_if_full(&mut self) {
        let here = self.connections.open + self.connections.ended;
        if self.awaits_full && here == self.clients.len() as u64 {
            self.awaits_full = false;
            say(&Word::Full {
                at: self.connections.last_open,
                returned: self.connections.returned,
            });
        }
    }
}

//! Opening and closing the streams of a worker: when, how many at once, and what follows.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::io::{self, Write};
use std::net::SocketAddr;

use mio::{Interest, Token};

use super::Worker;
use super::client::{Change, Pace, State};
use super::line::Line;
use super::response::ResponseError;
use crate::clock;
use crate::plan::Plan;
use crate::report::model::FaultKind;
use crate::target::With;

/// Which clients are to connect, and when.
#[derive(Debug)]
pub(super) struct Connections {
    /// Clients that connect as soon as they may.
    pub(super) queue: VecDeque<u32>,
    /// Clients that come back: (when, client).
    away: BinaryHeap<Reverse<(u64, u32)>>,
    under_way: u64,
    window: u64,
    /// Nanoseconds between two connections.
    pause: u64,
    next: u64,
    pub(super) open: u64,
    pub(super) ended: u64,
    pub(super) returned: u64,
    pub(super) last_open: u64,
}

impl Connections {
    pub(super) fn new(plan: &Plan) -> Self {
        let pause = if plan.connect_rate > 0.0 {
            1e9 * plan.workers as f64 / plan.connect_rate
        } else {
            0.0
        };
        Self {
            queue: VecDeque::new(),
            away: BinaryHeap::new(),
            under_way: 0,
            window: plan.connect_window.max(1),
            pause: pause as u64,
            next: clock::now(),
            open: 0,
            ended: 0,
            returned: 0,
            last_open: 0,
        }
    }

    /// When something is to be done.
    pub(super) fn next_timer(&self) -> u64 {
        let back = self.away.peek().map_or(u64::MAX, |Reverse((at, _))| *at);
        let next = if self.queue.is_empty() || self.under_way >= self.window {
            u64::MAX
        } else {
            self.next
        };
        back.min(next)
    }

    fn take(&mut self, now: u64) -> Option<u32> {
        while let Some(Reverse((at, client))) = self.away.peek().copied() {
            if at > now {
                break;
            }
            self.away.pop();
            self.queue.push_back(client);
        }
        if self.under_way >= self.window || self.next > now {
            return None;
        }
        let client = self.queue.pop_front()?;
        // A pace that was missed for long is not made up for in one burst.
        self.next = (self.next + self.pause).max(now.saturating_sub(100_000_000));
        self.under_way += 1;
        Some(client)
    }
}

/// The token of a client, among those of all.
pub(super) fn token_of(tokens: &[String], number: u64) -> &str {
    match tokens.len() as u64 {
        0 => "",
        count => &tokens[(number % count) as usize],
    }
}

impl Worker {
    /// Begins the connections that are due.
    pub(super) fn connect_some(&mut self) -> io::Result<()> {
        let now = clock::now();
        while let Some(at) = self.connections.take(now) {
            self.connect(at)?;
        }
        Ok(())
    }

    fn connect(&mut self, at: u32) -> io::Result<()> {
        let client = &mut self.clients[at as usize];
        let addresses = &self.plan.target.addresses;
        let even = (client.number % addresses.len() as u64) as usize;
        let to = match client.turns {
            0 => addresses[even],
            // A balancer would spread those who come back: all clients of one node must not meet on the next.
            _ => addresses[fastrand::usize(0..addresses.len())],
        };
        client.turns += 1;
        client.connect_began = clock::now();
        client.state = State::Connecting;
        let begun = match &self.shared {
            Some(_) => self.join(at),
            None => self.dial(at, to),
        };
        match begun {
            Ok(()) => Ok(()),
            // More descriptors will not come by waiting.
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::MFILE.raw_os_error()) => {
                Err(io::Error::other(format!(
                    "{error}; raise the limit (ulimit -n), or use more workers (--workers)"
                )))
            }
            Err(_) => {
                self.closed(at as usize);
                Ok(())
            }
        }
    }

    /// Begins a connection of a client's own.
    fn dial(&mut self, at: u32, to: SocketAddr) -> io::Result<()> {
        let mut socket = self.sources.connect(to)?;
        let interest = Interest::READABLE | Interest::WRITABLE;
        let token = Token(at as usize);
        let registry = self.poll.registry();
        registry.register(&mut socket, token, interest)?;
        let line = Line::new(socket, self.tls.as_ref())?;
        self.clients[at as usize].line = Some(line);
        Ok(())
    }

    /// A socket became readable or writable.
    pub(super) fn ready(&mut self, at: usize, writable: bool, closed: bool) -> io::Result<()> {
        let asks = self.clients[at].state == State::Connecting;
        if writable && !(if asks { self.ask(at) } else { self.flush(at) }) {
            self.closed(at);
            return Ok(());
        }
        match self.clients[at].state {
            State::Asked | State::Open => self.read(at, usize::MAX, closed),
            State::Away | State::Connecting | State::Ended => Ok(()),
        }
    }

    /// Sends what a handshake still has to send; whether that went well.
    fn flush(&mut self, at: usize) -> bool {
        let line = self.clients[at].line.as_mut();
        line.is_none_or(|line| line.flush().is_ok())
    }

    /// Sends the request; whether that went well.
    fn ask(&mut self, at: usize) -> bool {
        let client = &mut self.clients[at];
        let mut headers = String::from("Accept: text/event-stream\r\n");
        let id = client.last_event_id();
        if !id.is_empty() {
            headers.push_str(&format!("Last-Event-ID: {id}\r\n"));
        }
        let Some(line) = &mut client.line else {
            return false;
        };
        let (Ok(None), Ok(host)) = (line.socket().take_error(), line.socket().peer_addr()) else {
            return false;
        };
        let room = format!("{}{}", self.plan.room_prefix, client.room);
        let with = With {
            room: &room,
            token: token_of(&self.tokens, client.number),
            ..With::default()
        };
        let mut request = self.plan.target.subscribe.render(host, with);
        // After the request line and `Host`, whatever else the template has.
        let lines: Vec<usize> = memchr::memmem::find_iter(&request, b"\r\n").collect();
        if let Some(second) = lines.get(1) {
            request.splice(second + 2..second + 2, headers.bytes());
        }
        client.state = State::Asked;
        // A fresh socket's buffer takes a request whole.
        line.write_all(&request).is_ok()
    }

    /// What bytes changed about a client.
    pub(super) fn apply(
        &mut self,
        at: usize,
        change: Result<Change, ResponseError>,
        now: u64,
    ) -> io::Result<()> {
        let prefix = &self.plan.room_prefix;
        let change = match change {
            Ok(change) => change,
            Err(error) => {
                let client = &self.clients[at];
                self.tally.fault(FaultKind::Garbled, 1, || {
                    client.fault(FaultKind::Garbled, prefix, error.to_string())
                });
                {
                    self.closed(at);
                    return Ok(());
                }
            }
        };
        if let Some(status) = change.ended {
            let client = &mut self.clients[at];
            let what = match status {
                200 => "an answer of 200 that is no event stream ended it".to_owned(),
                _ => format!("status {status} ended it"),
            };
            self.tally.fault(FaultKind::Ended, 1, || {
                client.fault(FaultKind::Ended, prefix, what)
            });
            let carrier = client.leave();
            client.state = State::Ended;
            if let (Some(key), Some(shared)) = (carrier, &mut self.shared) {
                shared.release(key, at as u32);
            }
            self.connections.under_way -= 1;
            self.connections.ended += 1;
            if std::mem::take(&mut client.behind) {
                self.behind = self.behind.map(|behind| behind - 1);
                self.tell_if_caught_up(now);
            }
            self.tell_if_full();
            return Ok(());
        }
        if change.opened {
            self.opened(at, now)?;
        }
        self.note_progress(at, now);
        if change.complete {
            self.closed(at);
            return Ok(());
        }
        Ok(())
    }

    fn opened(&mut self, at: usize, now: u64) -> io::Result<()> {
        let client = &mut self.clients[at];
        client.state = State::Open;
        client.refused = 0;
        self.tally.connect.record_ns(now - client.connect_began);
        self.tally.tick.opened += 1;
        self.connections.under_way -= 1;
        self.connections.open += 1;
        self.connections.returned += 1;
        self.connections.last_open = now;
        let room = client.room as usize;
        if client.turns > 1 && client.pace == Pace::Prompt {
            let goal = self.goals.get(room).copied().unwrap_or(0);
            client.goal = goal.max(self.seen[room]);
            client.settle(now, &mut self.tally);
        }
        if client.pace != Pace::Prompt
            && let Some(line) = &mut client.line
        {
            self.poll.registry().deregister(line.socket())?;
        }
        self.tell_if_full();
        Ok(())
    }

    /// The other side closed a stream, or refused it: the client comes back as a browser does.
    pub(super) fn closed(&mut self, at: usize) {
        let now = clock::now();
        let client = &mut self.clients[at];
        let others = self.plan.target.addresses.len() as u32 - 1;
        let mut back = now + client.retry_ms() * 1_000_000;
        if client.state == State::Connecting && client.refused < others {
            // A balancer passes over a server that refuses connections.
            client.refused += 1;
            back = now;
        } else {
            client.refused = 0;
        }
        if client.state == State::Open {
            self.tally.tick.closed += 1;
            self.tally.judgement.checking.closed += 1;
        } else {
            self.tally.tick.failed += 1;
        }
        self.leave(at as u32, back);
    }

    /// Closes a stream at once, and lets its client come back.
    pub(super) fn cut(&mut self, at: u32, back: u64) {
        let client = &self.clients[at as usize];
        let carrier = client.carrier;
        if let Some(line) = &client.line {
            line.reset_on_close();
        }
        if client.line.is_some() || carrier.is_some() {
            self.leave(at, back);
        }
        if let (Some(key), Some(shared)) = (carrier, &mut self.shared) {
            shared.cut_if_empty(key);
        }
    }

    /// Ends a connection; its client comes back at `back`.
    pub(super) fn leave(&mut self, at: u32, back: u64) {
        let client = &mut self.clients[at as usize];
        match client.state {
            State::Open => self.connections.open -= 1,
            State::Connecting | State::Asked => self.connections.under_way -= 1,
            State::Away | State::Ended => return,
        }
        let carrier = client.leave();
        if let (Some(key), Some(shared)) = (carrier, &mut self.shared) {
            shared.release(key, at);
        }
        self.connections.away.push(Reverse((back, at)));
    }
}

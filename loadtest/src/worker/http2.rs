//! Clients that share connections, as the tabs of a browser do: HTTP/2 (RFC 9113), by the crate h2.
//!
//! h2 is made for a runtime, and there is none here: each connection and each stream is polled when its socket becomes
//! ready or when h2 wakes it. A waker only notes who is to be polled; the loop of the worker does it.

mod calls;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use h2::client::{Builder, Connection, ResponseFuture, SendRequest};
use http::{Request, header};
use mio::{Interest, Token};
use slab::Slab;

use calls::{Calls, Io, waker};

use super::client::State;
use super::connections::token_of;
use super::line::Line;
use super::response::Part;
use super::{Reading, Worker};
use crate::clock;
use crate::plan::Plan;
use crate::target::With;

/// Tokens from here on are connections; those below are clients.
pub(super) const SHARED: usize = 1 << 40;
/// Rounds of calls in one turn: reading, taking what was read, and telling the server that it was taken are three.
const ROUNDS: usize = 8;
/// What a browser lets a server send ahead on a stream, and on all streams of a connection (Chromium's windows).
const STREAM_WINDOW: u32 = 6 * 1024 * 1024;
const CONNECTION_WINDOW: u32 = 15 * 1024 * 1024;

/// A stream of a connection.
#[derive(Debug)]
pub(super) enum Stream {
    /// The request is sent.
    Asked(ResponseFuture),
    /// The answer's head is there.
    Open(h2::RecvStream),
}

/// The connections of a worker whose clients share some.
pub(super) struct Shared {
    /// Clients of each connection.
    each: u32,
    /// The connection that the clients of each group go to.
    groups: Vec<Option<usize>>,
    connections: Slab<Carrier>,
    calls: Arc<Calls>,
    /// By client.
    wakers: Vec<Waker>,
}

/// One connection.
struct Carrier {
    line: Rc<RefCell<Line>>,
    address: SocketAddr,
    group: usize,
    /// Clients that have a stream here, or wait for one.
    clients: u32,
    /// Clients whose requests are not sent yet.
    waiting: VecDeque<u32>,
    stage: Stage,
    waker: Waker,
}

enum Stage {
    Connecting,
    Greeting(Pin<Box<dyn Future<Output = Result<Greeted, h2::Error>>>>),
    Open(Box<Greeted>),
}

type Greeted = (SendRequest<Bytes>, Connection<Io, Bytes>);

impl Shared {
    /// `None` where each client has a connection of its own.
    pub(super) fn new(plan: &Plan, clients: usize) -> Option<Self> {
        let each = plan.http2?.max(1);
        let calls = Arc::new(Calls::default());
        Some(Self {
            each,
            groups: vec![None; clients.div_ceil(each as usize)],
            connections: Slab::new(),
            wakers: (0..clients).map(|at| waker(at, &calls)).collect(),
            calls,
        })
    }

    pub(super) fn reset_on_close(&self) {
        for (_, carrier) in &self.connections {
            carrier.line.borrow().reset_on_close();
        }
    }

    /// One client less on a connection.
    pub(super) fn release(&mut self, key: usize, at: u32) {
        if let Some(carrier) = self.connections.get_mut(key) {
            carrier.clients -= 1;
            carrier.waiting.retain(|&waiting| waiting != at);
        }
    }

    /// Closes a connection that no client is on.
    pub(super) fn cut_if_empty(&mut self, key: usize) {
        let carrier = self.connections.get(key);
        if let Some(carrier) = carrier.filter(|carrier| carrier.clients == 0) {
            carrier.line.borrow().reset_on_close();
            self.remove(key);
        }
    }

    /// The clients of its group go to another connection from now on.
    fn retire(&mut self, key: usize) {
        if let Some(carrier) = self.connections.get(key)
            && self.groups[carrier.group] == Some(key)
        {
            self.groups[carrier.group] = None;
        }
    }

    fn remove(&mut self, key: usize) {
        self.retire(key);
        self.connections.try_remove(key);
    }
}

impl Worker {
    /// Gives a client a stream on its group's connection, which is made where there is none.
    pub(super) fn join(&mut self, at: u32) -> io::Result<()> {
        let Some(shared) = &mut self.shared else {
            return Ok(());
        };
        let group = (at / shared.each) as usize;
        let key = match shared.groups[group] {
            Some(key) => key,
            None => {
                let addresses = &self.plan.target.addresses;
                let client = &self.clients[at as usize];
                let to = match client.turns {
                    0 | 1 => addresses[group % addresses.len()],
                    _ => addresses[fastrand::usize(0..addresses.len())],
                };
                let socket = self.sources.connect(to)?;
                let line = Rc::new(RefCell::new(Line::new(socket, self.tls.as_ref())?));
                let entry = shared.connections.vacant_entry();
                let (key, token) = (entry.key(), SHARED + entry.key());
                let interest = Interest::READABLE | Interest::WRITABLE;
                let registry = self.poll.registry();
                registry.register(line.borrow_mut().socket(), Token(token), interest)?;
                entry.insert(Carrier {
                    line,
                    address: to,
                    group,
                    clients: 0,
                    waiting: VecDeque::new(),
                    stage: Stage::Connecting,
                    waker: waker(token, &shared.calls),
                });
                shared.groups[group] = Some(key);
                key
            }
        };
        let carrier = &mut shared.connections[key];
        carrier.clients += 1;
        carrier.waiting.push_back(at);
        carrier.waker.wake_by_ref();
        self.clients[at as usize].carrier = Some(key);
        Ok(())
    }

    /// The socket of a shared connection became readable or writable.
    pub(super) fn shared_ready(&mut self, key: usize, writable: bool) -> io::Result<()> {
        let carrier = self.shared.as_mut().map(|shared| &mut shared.connections);
        let Some(carrier) = carrier.and_then(|all| all.get_mut(key)) else {
            return Ok(());
        };
        if writable {
            let mut line = carrier.line.borrow_mut();
            let error = line.socket().take_error();
            let sent = line.flush();
            drop(line);
            if !matches!(error, Ok(None)) || sent.is_err() {
                return self.lost(key);
            }
            if matches!(carrier.stage, Stage::Connecting) {
                let greeting = greet(carrier.line.clone(), self.plan.http2.unwrap_or(1));
                carrier.stage = Stage::Greeting(greeting);
            }
        }
        self.drive(key)
    }

    /// Polls those that h2 has called for, as far as a turn of the worker goes: whether all are answered.
    pub(super) fn answer_calls(&mut self) -> io::Result<bool> {
        for _ in 0..ROUNDS {
            let Some(shared) = &self.shared else {
                return Ok(true);
            };
            let calls = std::mem::take(&mut *shared.calls.lock());
            if calls.is_empty() {
                return Ok(true);
            }
            for token in calls {
                match token.checked_sub(SHARED) {
                    Some(key) => self.drive(key)?,
                    None => self.pull(token)?,
                }
            }
        }
        Ok(false)
    }

    /// Sends the requests that wait for a connection, and moves what it has to send and to take.
    fn drive(&mut self, key: usize) -> io::Result<()> {
        loop {
            let Some(shared) = &mut self.shared else {
                return Ok(());
            };
            let Some(carrier) = shared.connections.get_mut(key) else {
                return Ok(());
            };
            let context = &mut Context::from_waker(&carrier.waker);
            match &mut carrier.stage {
                Stage::Connecting => return Ok(()),
                Stage::Greeting(greeting) => match greeting.as_mut().poll(context) {
                    Poll::Pending => return Ok(()),
                    Poll::Ready(Ok(greeted)) => carrier.stage = Stage::Open(Box::new(greeted)),
                    Poll::Ready(Err(_)) => return self.lost(key),
                },
                Stage::Open(greeted) => {
                    let (sender, connection) = &mut **greeted;
                    if let Some(at) = carrier.waiting.pop_front() {
                        let (sender, address) = (sender.clone(), carrier.address);
                        if !self.ask_on(at as usize, address, sender) {
                            // The server takes no more requests here: the next one goes elsewhere.
                            if let Some(shared) = &mut self.shared {
                                shared.retire(key);
                            }
                            self.closed(at as usize);
                        }
                        continue;
                    }
                    return match Pin::new(connection).poll(context) {
                        Poll::Pending => Ok(()),
                        Poll::Ready(_) => self.lost(key),
                    };
                }
            }
        }
    }

    /// Sends a client's request; whether the connection took it.
    fn ask_on(&mut self, at: usize, host: SocketAddr, mut sender: SendRequest<Bytes>) -> bool {
        let client = &mut self.clients[at];
        let target = &self.plan.target;
        let room = format!("{}{}", self.plan.room_prefix, client.room);
        let with = With {
            room: &room,
            token: token_of(&self.tokens, client.number),
            ..With::default()
        };
        let scheme = match target.tls {
            Some(_) => "https",
            None => "http",
        };
        let mut request = Request::builder()
            .method(target.subscribe.method.as_str())
            .uri(format!("{scheme}://{host}{}", target.subscribe.path(with)))
            .header(header::ACCEPT, "text/event-stream");
        for (name, value) in target.subscribe.headers(with) {
            request = request.header(name, value);
        }
        let id = client.last_event_id();
        if !id.is_empty() {
            request = request.header("last-event-id", id);
        }
        let Ok(request) = request.body(()) else {
            return false;
        };
        client.state = State::Asked;
        // A subscription has no body.
        let Ok((response, _)) = sender.send_request(request, true) else {
            return false;
        };
        client.stream = Some(Stream::Asked(response));
        if let Some(shared) = &self.shared {
            shared.wakers[at].wake_by_ref();
        }
        true
    }

    /// Takes what came on a client's stream.
    fn pull(&mut self, at: usize) -> io::Result<()> {
        while let Some(shared) = &self.shared {
            let context = &mut Context::from_waker(&shared.wakers[at]);
            let client = &mut self.clients[at];
            let (part, bytes);
            match &mut client.stream {
                None => return Ok(()),
                Some(Stream::Asked(response)) => match Pin::new(response).poll(context) {
                    Poll::Pending => return Ok(()),
                    Poll::Ready(Err(_)) => {
                        self.closed(at);
                        return Ok(());
                    }
                    Poll::Ready(Ok(response)) => {
                        let kind = response.headers().get(header::CONTENT_TYPE);
                        let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
                        let kind = kind.split(';').next().unwrap_or_default().trim();
                        part = Part::Head {
                            status: response.status().as_u16(),
                            event_stream: kind.eq_ignore_ascii_case("text/event-stream"),
                        };
                        client.stream = Some(Stream::Open(response.into_body()));
                    }
                },
                Some(Stream::Open(body)) => match body.poll_data(context) {
                    Poll::Pending => return Ok(()),
                    Poll::Ready(None) => part = Part::End,
                    Poll::Ready(Some(Ok(data))) => {
                        // Taken is taken: the window stays open, as a browser keeps it.
                        let _ = body.flow_control().release_capacity(data.len());
                        self.tally.tick.reads += 1;
                        self.tally.tick.bytes += data.len() as u64;
                        bytes = data;
                        part = Part::Body(&bytes);
                    }
                    Poll::Ready(Some(Err(_))) => {
                        self.closed(at);
                        return Ok(());
                    }
                },
            }
            let now = clock::now();
            let mut reading = Reading {
                now,
                payloads: &self.payloads,
                tally: &mut self.tally,
                seen: &mut self.seen,
                prefix: &self.plan.room_prefix,
            };
            let change = self.clients[at].part(part, &mut reading);
            self.apply(at, Ok(change), now)?;
        }
        Ok(())
    }

    /// A connection is gone, and its streams with it: what came before is taken.
    fn lost(&mut self, key: usize) -> io::Result<()> {
        let Some(shared) = &mut self.shared else {
            return Ok(());
        };
        shared.retire(key);
        let Some(group) = shared.connections.get(key).map(|carrier| carrier.group) else {
            return Ok(());
        };
        let first = group * shared.each as usize;
        let last = (first + shared.each as usize).min(self.clients.len());
        for at in first..last {
            if self.clients[at].carrier == Some(key) {
                self.pull(at)?;
            }
            if self.clients[at].carrier == Some(key) {
                self.closed(at);
            }
        }
        if let Some(shared) = &mut self.shared {
            shared.remove(key);
        }
        Ok(())
    }
}

fn greet(
    line: Rc<RefCell<Line>>,
    streams: u32,
) -> Pin<Box<dyn Future<Output = Result<Greeted, h2::Error>>>> {
    let mut builder = Builder::new();
    builder
        .enable_push(false)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .initial_max_send_streams(streams as usize)
        .max_concurrent_reset_streams(streams as usize);
    Box::pin(async move { builder.handshake(Io(line)).await })
}

//! How the bytes of a stream leave the node: over a socket that the shard watches, or through what lies between the two
//! ends, such as TLS or HTTP/2, of which the hub knows no more than [`Transport`].
//!
//! Invariant: a stream over a bare socket costs no virtual call and no memory here.

use std::cell::RefCell;
use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::rc::Rc;

use bytes::Bytes;
use mio::net::TcpStream;
use tokio::sync::Notify;

use super::subscriber::{Handle, Work};

/// Bytes that a client sends on an open stream are dropped, as many as so many reads bring: one that floods its event
/// stream is not an event-stream client.
pub const READS_AT_ONCE: usize = 16;

/// What carries a stream's bytes where that is no bare socket. It is called by one shard, on its thread, and never
/// waits.
pub trait Transport {
    /// Comes first. `call` is for a transport without a socket to watch: it says when there is something to do.
    fn begin(&mut self, call: Call);

    /// The socket to watch, where it has one to itself.
    fn socket(&mut self) -> Option<&mut TcpStream>;

    /// Takes some of the bytes, at least one.
    ///
    /// # Errors
    /// `WouldBlock` when it takes none now; anything else when the client is gone.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize>;

    /// Lets go of all that it has taken.
    ///
    /// # Errors
    /// `WouldBlock` when it has to keep some of it: the stream waits, as if the bytes had not been taken.
    fn flush(&mut self) -> io::Result<()>;

    /// Drops what the client has sent. `false` when the client is gone.
    fn drain_input(&mut self) -> bool;

    /// The other end of the connection; `None` once it is gone.
    fn peer(&self) -> Option<SocketAddr>;

    /// Comes before the end, where the client is to come back over another connection, and so perhaps to another node. What
    /// else there is on this one goes on until its own end.
    fn part(&mut self) {}

    /// The stream ends, after these bytes if they can be taken; `clean` with the mark of a complete answer, where the
    /// transport has one. Dropped without this, it ends at once, without the mark.
    fn finish(&mut self, rest: &[u8], clean: bool);
}

/// What a stream is handed over with.
pub enum Wire {
    /// A socket: non-blocking, registered nowhere.
    Socket(std::net::TcpStream),
    /// Anything else.
    Other(Box<dyn Transport>),
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(socket) => socket.fmt(f),
            Self::Other(_) => f.write_str("Other"),
        }
    }
}

/// Calls of transports for their shard's attention.
#[derive(Debug, Default)]
pub(super) struct Calls {
    waiting: RefCell<Vec<Handle>>,
    /// What was written last: see [`Call::share`].
    last: RefCell<Bytes>,
    pub(super) work: Rc<Notify>,
}

impl Calls {
    /// The oldest calls, at most so many.
    pub(super) fn take(&self, most: usize) -> Vec<Handle> {
        let mut waiting = self.waiting.borrow_mut();
        if waiting.len() <= most {
            return std::mem::take(&mut waiting);
        }
        waiting.drain(..most).collect()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.borrow().is_empty()
    }
}

/// Calls the shard to one stream.
#[derive(Debug)]
pub struct Call {
    calls: Rc<Calls>,
    handle: Handle,
}

impl Call {
    pub(super) fn new(calls: Rc<Calls>, handle: Handle) -> Self {
        Self { calls, handle }
    }

    /// The transport takes bytes again, or its client is gone.
    pub fn ready(&self) {
        self.calls.waiting.borrow_mut().push(self.handle);
        self.calls.work.notify_one();
    }

    /// The bytes for keeps. Streams of one room are written the same bytes one after the other, and share one copy of
    /// them.
    #[must_use]
    pub fn share(&self, bytes: &[u8]) -> Bytes {
        let mut last = self.calls.last.borrow_mut();
        if *last != *bytes {
            *last = Bytes::copy_from_slice(bytes);
        }
        last.clone()
    }
}

/// The same as [`Wire`], once it is the shard's.
pub(super) enum Line {
    Socket(TcpStream),
    Other(Box<dyn Transport>),
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(socket) => socket.fmt(f),
            Self::Other(_) => f.write_str("Other"),
        }
    }
}

/// How much of what was to be written has been taken.
pub(super) struct Sent {
    pub(super) bytes: usize,
    /// It takes no more now, or has not let go of what it has taken.
    pub(super) blocked: bool,
}

impl From<Wire> for Line {
    fn from(wire: Wire) -> Self {
        match wire {
            Wire::Socket(socket) => Self::Socket(TcpStream::from_std(socket)),
            Wire::Other(transport) => Self::Other(transport),
        }
    }
}

impl Line {
    pub(super) fn begin(&mut self, call: impl FnOnce() -> Call) {
        if let Self::Other(transport) = self {
            transport.begin(call());
        }
    }

    pub(super) fn socket(&mut self) -> Option<&mut TcpStream> {
        match self {
            Self::Socket(socket) => Some(socket),
            Self::Other(transport) => transport.socket(),
        }
    }

    pub(super) fn peer(&self) -> Option<SocketAddr> {
        match self {
            Self::Socket(socket) => socket.peer_addr().ok(),
            Self::Other(transport) => transport.peer(),
        }
    }

    /// Lets go of what was taken before. `Ok(false)` when some of it has to wait.
    pub(super) fn flush(&mut self) -> Result<bool, ()> {
        match self {
            Self::Socket(_) => Ok(true),
            Self::Other(transport) => flush(&mut **transport),
        }
    }

    /// Writes as much as is taken. Errs when the client is gone.
    pub(super) fn send(&mut self, bytes: &[u8], work: &mut Work) -> Result<Sent, ()> {
        match self {
            Self::Socket(socket) => {
                let sent = send(socket, bytes, work)?;
                Ok(Sent {
                    bytes: sent,
                    blocked: sent < bytes.len(),
                })
            }
            Self::Other(transport) => send_through(&mut **transport, bytes, work),
        }
    }

    /// Reads and drops what the client sends. `false` when the client is gone.
    pub(super) fn drain_input(&mut self) -> bool {
        let socket = match self {
            Self::Socket(socket) => socket,
            Self::Other(transport) => return transport.drain_input(),
        };
        let mut scratch = [0; 2048];
        for _ in 0..READS_AT_ONCE {
            match socket.read(&mut scratch) {
                Ok(0) => return false,
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return true,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
        false
    }

    pub(super) fn part(&mut self) {
        if let Self::Other(transport) = self {
            transport.part();
        }
    }

    pub(super) fn finish(&mut self, rest: &[u8], clean: bool) {
        if let Self::Other(transport) = self {
            transport.finish(rest, clean);
        }
    }
}

/// One write. `Ok(0)` when the socket takes nothing now.
fn send(socket: &mut TcpStream, bytes: &[u8], work: &mut Work) -> Result<usize, ()> {
    if bytes.is_empty() {
        return Ok(0);
    }
    loop {
        return match socket.write(bytes) {
            Ok(0) => Err(()),
            Ok(sent) => {
                work.writes += 1;
                work.bytes += sent as u64;
                Ok(sent)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(0),
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(_) => Err(()),
        };
    }
}

fn flush(transport: &mut dyn Transport) -> Result<bool, ()> {
    match transport.flush() {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(false),
        Err(_) => Err(()),
    }
}

fn send_through(transport: &mut dyn Transport, bytes: &[u8], work: &mut Work) -> Result<Sent, ()> {
    let mut sent = 0;
    while sent < bytes.len() {
        match transport.write(&bytes[sent..]) {
            Ok(taken) => {
                work.writes += 1;
                work.bytes += taken as u64;
                sent += taken;
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                return Ok(Sent {
                    bytes: sent,
                    blocked: true,
                });
            }
            Err(_) => return Err(()),
        }
        if !flush(transport)? {
            return Ok(Sent {
                bytes: sent,
                blocked: true,
            });
        }
    }
    Ok(Sent {
        bytes: sent,
        blocked: false,
    })
}

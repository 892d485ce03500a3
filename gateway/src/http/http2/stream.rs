//! An open stream of an HTTP/2 connection: a few slices on their way from the shard to hyper.
//!
//! Invariant: the shard is called once for each time that it was told to wait. No task runs and nothing is allocated
//! for a delivery but what hyper needs.

use std::cell::{Cell, RefCell};
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;

use super::Traffic;
use crate::hub::{Call, Transport};

/// Bytes that wait for hyper to take them, and in how many slices.
const MOST_BYTES: usize = 16 * 1024;
const MOST_SLICES: usize = 16;

/// What the streams of one connection ask of it: that the client come back over another one (RFC 9113, section 6.8).
#[derive(Debug, Default)]
pub(super) struct Parting {
    asked: Cell<bool>,
    /// That of the connection.
    task: RefCell<Option<Waker>>,
}

impl Parting {
    fn ask(&self) {
        self.asked.set(true);
        if let Some(task) = self.task.take() {
            task.wake();
        }
    }

    /// Ready once a stream has asked; the task is woken then.
    pub(super) fn poll(&self, cx: &Context<'_>) -> Poll<()> {
        if self.asked.get() {
            return Poll::Ready(());
        }
        let mut task = self.task.borrow_mut();
        match &mut *task {
            Some(task) => task.clone_from(cx.waker()),
            None => *task = Some(cx.waker().clone()),
        }
        Poll::Pending
    }
}

/// How a stream ends.
#[derive(Debug, Default)]
enum End {
    #[default]
    Open,
    /// After what is waiting, as a complete answer.
    Clean,
    /// With a reset, once the last slice is on its way.
    Last(Arc<AtomicBool>),
    /// With a reset.
    Cut,
}

/// When a stream is to be reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum When {
    /// Nobody waits for more.
    Now,
    /// Its last bytes have just been written.
    Soon,
    /// Its last bytes wait for the client.
    Later,
}

/// The last slice of a stream that ends with a reset, or of an answer. A reset takes the place of all that hyper has not written yet, so
/// the task waits until hyper lets go of it.
pub(super) struct Last {
    slice: Bytes,
    written: Arc<AtomicBool>,
    task: Waker,
}

impl Last {
    /// The slice, and what becomes true when hyper has let go of it; `task` is woken then.
    pub(super) fn mark(slice: Bytes, task: Waker) -> (Bytes, Arc<AtomicBool>) {
        let written = Arc::new(AtomicBool::new(false));
        let last = Self {
            slice,
            written: written.clone(),
            task,
        };
        (Bytes::from_owner(last), written)
    }
}

impl AsRef<[u8]> for Last {
    fn as_ref(&self) -> &[u8] {
        &self.slice
    }
}

impl Drop for Last {
    fn drop(&mut self) {
        // One thread has both ends: the order of other reads and writes does not matter.
        self.written.store(true, Ordering::Relaxed);
        self.task.wake_by_ref();
    }
}

/// What the two ends share.
#[derive(Debug)]
pub(super) struct Pipe(RefCell<Slices>);

#[derive(Debug)]
struct Slices {
    /// The oldest; empty where there is none.
    next: Bytes,
    /// Those after it, in order.
    more: Vec<Bytes>,
    bytes: usize,
    end: End,
    /// The shard waits until everything is taken.
    wanted: bool,
    /// hyper takes nothing any more: the client is gone.
    gone: bool,
    /// Slices that hyper has taken since they were counted last.
    taken: u32,
    call: Option<Call>,
    /// Woken when there is something to take, or to end.
    task: Waker,
    traffic: Rc<Traffic>,
}

impl Pipe {
    /// `task` is that of the request.
    pub(super) fn new(task: Waker, traffic: Rc<Traffic>) -> Rc<Self> {
        Rc::new(Self(RefCell::new(Slices {
            next: Bytes::new(),
            more: Vec::new(),
            bytes: 0,
            end: End::Open,
            wanted: false,
            gone: false,
            taken: 0,
            call: None,
            task,
            traffic,
        })))
    }

    /// Of its connection.
    pub(super) fn traffic(&self) -> Rc<Traffic> {
        self.0.borrow().traffic.clone()
    }

    /// Whether the task has to end, with a reset, and when.
    pub(super) fn ends(&self) -> Option<When> {
        match &self.0.borrow().end {
            End::Cut => Some(When::Now),
            End::Last(written) if written.load(Ordering::Relaxed) => Some(When::Soon),
            End::Last(_) | End::Clean => Some(When::Later),
            End::Open => None,
        }
    }

    /// How many slices hyper has taken since the last time.
    pub(super) fn count_taken(&self) -> usize {
        std::mem::take(&mut self.0.borrow_mut().taken) as usize
    }

    fn end(&self, end: End) {
        let mut slices = self.0.borrow_mut();
        if matches!(slices.end, End::Open) {
            slices.end = end;
            slices.task.wake_by_ref();
        }
    }
}

impl Slices {
    fn push(&mut self, slice: Bytes) {
        self.bytes += slice.len();
        if self.next.is_empty() {
            self.next = slice;
            self.task.wake_by_ref();
        } else {
            self.more.push(slice);
        }
    }

    fn take(&mut self) -> Bytes {
        let slice = std::mem::take(&mut self.next);
        self.bytes -= slice.len();
        if !self.more.is_empty() {
            self.next = self.more.remove(0);
            if self.more.is_empty() {
                self.more = Vec::new();
            }
        }
        slice
    }

    /// Has the stream end with its last slice, if there is one that is not stuck.
    fn mark_last(&mut self) -> End {
        let last = self.more.last_mut().unwrap_or(&mut self.next);
        if last.is_empty() || self.wanted {
            return End::Cut;
        }
        let (marked, written) = Last::mark(std::mem::take(last), self.task.clone());
        *last = marked;
        End::Last(written)
    }
}

/// hyper's end.
#[derive(Debug)]
pub(super) struct StreamBody(Rc<Pipe>);

impl StreamBody {
    pub(super) fn new(pipe: Rc<Pipe>) -> Self {
        Self(pipe)
    }

    /// The next slice. `None` at a clean end.
    pub(super) fn next(&mut self) -> Poll<Option<Bytes>> {
        let mut slices = self.0.0.borrow_mut();
        if slices.next.is_empty() {
            return match slices.end {
                End::Clean => Poll::Ready(None),
                _ => Poll::Pending,
            };
        }
        let slice = slices.take();
        slices.taken += 1;
        if slices.next.is_empty()
            && std::mem::take(&mut slices.wanted)
            && let Some(call) = &slices.call
        {
            call.ready();
        }
        Poll::Ready(Some(slice))
    }
}

impl Drop for StreamBody {
    fn drop(&mut self) {
        let mut slices = self.0.0.borrow_mut();
        slices.gone = true;
        slices.next = Bytes::new();
        slices.more = Vec::new();
        if matches!(slices.end, End::Open)
            && let Some(call) = &slices.call
        {
            call.ready();
        }
    }
}

/// The shard's end.
#[derive(Debug)]
pub(super) struct StreamLine(Rc<Pipe>);

impl StreamLine {
    pub(super) fn new(pipe: Rc<Pipe>) -> Self {
        Self(pipe)
    }
}

impl Transport for StreamLine {
    fn begin(&mut self, call: Call) {
        self.0.0.borrow_mut().call = Some(call);
    }

    fn socket(&mut self) -> Option<&mut mio::net::TcpStream> {
        None
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let slices = &mut *self.0.0.borrow_mut();
        let Some(call) = slices.call.as_ref().filter(|_| !slices.gone) else {
            return Err(ErrorKind::BrokenPipe.into());
        };
        if slices.bytes >= MOST_BYTES || slices.more.len() >= MOST_SLICES {
            slices.wanted = true;
            return Err(ErrorKind::WouldBlock.into());
        }
        let taken = bytes.len().min(MOST_BYTES - slices.bytes);
        let slice = call.share(&bytes[..taken]);
        slices.push(slice);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn drain_input(&mut self) -> bool {
        !self.0.0.borrow().gone
    }

    fn peer(&self) -> Option<SocketAddr> {
        self.0.0.borrow().traffic.peer.socket
    }

    fn part(&mut self) {
        self.0.0.borrow().traffic.parting.ask();
    }

    fn finish(&mut self, rest: &[u8], clean: bool) {
        let whole = rest.is_empty() || matches!(self.write(rest), Ok(taken) if taken == rest.len());
        let end = if clean && whole {
            End::Clean
        } else {
            self.0.0.borrow_mut().mark_last()
        };
        self.0.end(end);
    }
}

impl Drop for StreamLine {
    fn drop(&mut self) {
        self.0.end(End::Cut);
    }
}

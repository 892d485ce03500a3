//! A client's socket while hyper speaks on it.
//!
//! Most connections carry one request that is there when they are looked at, and become a stream at once. Such a
//! socket never needs the runtime's watch, which costs two system calls: it is put under watch only when there is
//! something to wait for. One that speaks TLS or HTTP/2 is watched from its beginning.

use std::cell::Cell;
use std::future::Future;
use std::io::{self, Read as _, Write as _};
use std::net::TcpStream as Bare;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead as _, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep};
use tokio_rustls::server::TlsStream;

use super::http2::PREFACE;
use super::http2::calm::Calm;
use super::tls::TlsLine;
use crate::hub::Wire;

/// The most bytes of a first read: a request of a browser with its cookies.
const FIRST_READ: usize = 4096;

/// Bytes that TLS takes before the socket does: what it holds is not seen to go.
const SECURED_BUFFER: usize = 16 * 1024;

/// The most bytes of a read whose frames are counted.
const COUNTED_READ: usize = 8 * 1024;

/// Reads of a turn, of some 8 KB each, where turns are counted: see [`Seen::begin_turn`].
const READS: u32 = 2;

/// What a socket that could not go on waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Needs {
    /// Nothing.
    #[default]
    Nothing,
    /// Bytes, and nobody watches for them.
    Watch,
    /// Room in the kernel's buffer.
    Write,
}

/// What a socket needs, as its owner sees it from outside of hyper.
#[derive(Debug, Clone, Default)]
pub(super) struct Seen(Rc<State>);

#[derive(Debug, Default)]
struct State {
    needs: Cell<Needs>,
    may_watch: Cell<bool>,
    /// Reads that this turn has left; `None` where nobody counts.
    reads: Cell<Option<u32>>,
    /// Bytes taken so far.
    written: Cell<u64>,
}

impl Seen {
    pub(super) fn get(&self) -> Needs {
        self.0.needs.get()
    }

    /// Has the socket watched as soon as there is something to wait for.
    pub(super) fn allow_watch(&self) {
        self.0.may_watch.set(true);
    }

    /// From here on the socket gives what a few reads bring, and then waits for the thread's other work: frames of HTTP/2
    /// that ask for next to nothing come in any number, and each costs its time.
    pub(super) fn begin_turn(&self) {
        self.0.reads.set(Some(READS));
    }

    /// A read has brought something.
    fn count_read(&self) {
        self.0
            .reads
            .set(self.0.reads.get().map(|left| left.saturating_sub(1)));
    }

    fn count_written(&self, bytes: usize) {
        let written = &self.0.written;
        written.set(written.get().wrapping_add(bytes as u64));
    }

    /// Allows the socket to be watched, if it needs that. `true` asks for another poll, which does it.
    pub(super) fn watch(&self) -> bool {
        let wanted = self.0.needs.get() == Needs::Watch;
        if wanted {
            self.0.needs.set(Needs::Nothing);
            self.0.may_watch.set(true);
        }
        wanted
    }
}

/// How long a connection is kept whose client takes nothing of what is written to it. Costs nothing where the client
/// reads.
#[derive(Debug)]
pub(super) struct Patience {
    limit: Duration,
    /// Since the client took something last.
    timer: Option<Pin<Box<Sleep>>>,
    written: u64,
}

impl Patience {
    pub(super) fn new(limit: Duration) -> Self {
        Self {
            limit,
            timer: None,
            written: 0,
        }
    }

    /// Whether the socket has waited for so long, and not a byte was taken. Otherwise the task is woken to ask again.
    pub(super) fn is_over(&mut self, seen: &Seen, cx: &mut Context<'_>) -> bool {
        if seen.get() != Needs::Write {
            self.timer = None;
            return false;
        }
        let limit = self.limit;
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(limit)));
        let written = seen.0.written.get();
        if std::mem::replace(&mut self.written, written) != written {
            timer.as_mut().reset(Instant::now() + limit);
        }
        timer.as_mut().poll(cx).is_ready()
    }
}

#[derive(Debug)]
enum Inner {
    Bare(Bare),
    Watched(TokioIo<TcpStream>),
    Secured(Box<TokioIo<TlsStream<TcpStream>>>),
    /// It failed on the way under watch.
    Gone,
}

/// The socket.
#[derive(Debug)]
pub(super) struct Socket {
    inner: Inner,
    /// Bytes that were read first.
    first: Vec<u8>,
    taken: usize,
    seen: Seen,
    /// Where the client's frames are counted.
    calm: Option<Box<Calm>>,
}

/// What a first look at a socket found.
pub(super) enum First {
    /// The beginning of a request.
    Bytes(Socket),
    /// Nothing yet.
    Nothing(Bare),
    /// The client is gone.
    Closed,
}

impl Socket {
    /// Takes what is there. The socket does not block.
    ///
    /// # Errors
    /// The connection broke.
    pub(super) fn read_first(mut socket: Bare) -> io::Result<First> {
        let mut buffer = [0; FIRST_READ];
        match socket.read(&mut buffer) {
            Ok(0) => Ok(First::Closed),
            Ok(got) => Ok(First::Bytes(Self {
                inner: Inner::Bare(socket),
                first: buffer[..got].to_vec(),
                taken: 0,
                seen: Seen::default(),
                calm: None,
            })),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(First::Nothing(socket)),
            Err(error) => Err(error),
        }
    }

    /// A socket that is watched already, and has something to read.
    ///
    /// # Errors
    /// The connection broke.
    pub(super) fn watched(socket: TcpStream) -> io::Result<Self> {
        let mut buffer = [0; FIRST_READ];
        let first = match socket.try_read(&mut buffer) {
            Ok(got) => buffer[..got].to_vec(),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Vec::new(),
            Err(error) => return Err(error),
        };
        Ok(Self {
            inner: Inner::Watched(TokioIo::new(socket)),
            first,
            taken: 0,
            seen: Seen::default(),
            calm: None,
        })
    }

    /// One that speaks TLS.
    pub(super) fn secured(mut stream: TlsStream<TcpStream>) -> Self {
        stream.get_mut().1.set_buffer_limit(Some(SECURED_BUFFER));
        Self {
            inner: Inner::Secured(Box::new(TokioIo::new(stream))),
            first: Vec::new(),
            taken: 0,
            seen: Seen::default(),
            calm: None,
        }
    }

    /// Whether the client begins with HTTP/2: `None` while it may still do so. Before hyper has the socket.
    pub(super) fn is_http2(&self) -> Option<bool> {
        if self.first.starts_with(PREFACE) {
            Some(true)
        } else if PREFACE.starts_with(&self.first) {
            None
        } else {
            Some(false)
        }
    }

    /// Waits for more of the first bytes. Before hyper has the socket.
    ///
    /// # Errors
    /// The connection broke, or has ended.
    pub(super) async fn read_more(&mut self) -> io::Result<()> {
        self.watch()?;
        let Inner::Watched(io) = &self.inner else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        let mut buffer = [0; FIRST_READ];
        io.inner().readable().await?;
        match io.inner().try_read(&mut buffer) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(got) => {
                self.first.extend_from_slice(&buffer[..got]);
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Counts the frames of a client of HTTP/2 that ask for nothing: with too many of them reading fails. Before hyper has the
    /// socket.
    pub(super) fn count_frames(&mut self) {
        self.calm = Some(Box::new(Calm::new(std::time::Instant::now())));
    }

    /// Looks at what the client has sent next.
    fn look(&mut self, bytes: &[u8]) -> io::Result<()> {
        let written = self.seen.0.written.get();
        let Some(calm) = &mut self.calm else {
            return Ok(());
        };
        calm.look(bytes, written, std::time::Instant::now())
            .map_err(|_| io::Error::other("the client sends too many frames that ask for nothing"))
    }

    /// What it needs, to be asked while hyper has it.
    pub(super) fn needs(&self) -> Seen {
        self.seen.clone()
    }

    /// What carries a stream from here on, watched by nobody.
    ///
    /// # Errors
    /// The runtime does not let it go.
    pub(super) fn into_wire(self) -> io::Result<Wire> {
        match self.inner {
            Inner::Bare(socket) => Ok(Wire::Socket(socket)),
            Inner::Watched(io) => Ok(Wire::Socket(io.into_inner().into_std()?)),
            Inner::Secured(io) => Ok(Wire::Other(Box::new(TlsLine::new(io.into_inner())?))),
            Inner::Gone => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// Reads by way of a buffer of its own, in which the frames are looked at.
    fn read_counted(
        &mut self,
        cx: &mut Context<'_>,
        mut buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let mut bytes = [0; COUNTED_READ];
        let most = bytes.len().min(buf.remaining());
        let mut read = ReadBuf::new(bytes.get_mut(..most).unwrap_or_default());
        ready!(match &mut self.inner {
            Inner::Secured(io) => Pin::new(io.inner_mut()).poll_read(cx, &mut read),
            _ => Pin::new(self.watch()?.get_mut().inner_mut()).poll_read(cx, &mut read),
        })?;
        self.seen.count_read();
        self.look(read.filled())?;
        buf.put_slice(read.filled());
        Poll::Ready(Ok(()))
    }

    /// The socket under the runtime's watch.
    fn watch(&mut self) -> io::Result<Pin<&mut TokioIo<TcpStream>>> {
        if let Inner::Bare(_) = self.inner
            && let Inner::Bare(socket) = std::mem::replace(&mut self.inner, Inner::Gone)
        {
            self.inner = Inner::Watched(TokioIo::new(TcpStream::from_std(socket)?));
        }
        match &mut self.inner {
            Inner::Watched(io) => Ok(Pin::new(io)),
            _ => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    fn note(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(bytes)) = &written {
            self.seen.count_written(*bytes);
        }
        self.note_wait(written)
    }

    fn note_wait<T>(&self, done: Poll<T>) -> Poll<T> {
        let needs = &self.seen.0.needs;
        if done.is_pending() {
            needs.set(Needs::Write);
        } else if needs.get() == Needs::Write {
            // A read that waits for the watch goes on waiting, whatever is written meanwhile.
            needs.set(Needs::Nothing);
        }
        done
    }
}

impl Read for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.taken < this.first.len() {
            if this.taken == 0 && this.calm.is_some() {
                let first = std::mem::take(&mut this.first);
                this.look(&first)?;
                this.first = first;
            }
            let rest = &this.first[this.taken..];
            let now = rest.len().min(buf.remaining());
            buf.put_slice(&rest[..now]);
            this.taken += now;
            if this.taken == this.first.len() {
                this.first = Vec::new();
                this.taken = 0;
            }
            return Poll::Ready(Ok(()));
        }
        if this.seen.0.reads.get() == Some(0) {
            // Woken once the runtime has looked at all its sockets: a wake-up at once would let it do so after many turns only.
            let _ = std::pin::pin!(tokio::task::yield_now()).poll(cx);
            return Poll::Pending;
        }
        if this.calm.is_some() {
            return this.read_counted(cx, buf);
        }
        let read = match &mut this.inner {
            Inner::Secured(io) => Pin::new(&mut **io).poll_read(cx, buf),
            Inner::Bare(_) if !this.seen.0.may_watch.get() => {
                // Nothing is read here: what is not there yet is waited for, and what is there is found then.
                this.seen.0.needs.set(Needs::Watch);
                return Poll::Pending;
            }
            _ => this.watch()?.poll_read(cx, buf),
        };
        if read.is_ready() {
            this.seen.count_read();
        }
        read
    }
}

impl Write for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if let Inner::Bare(socket) = &mut this.inner {
            match socket.write(buf) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => return this.note(Poll::Ready(written)),
            }
        }
        let written = match &mut this.inner {
            Inner::Secured(io) => Pin::new(&mut **io).poll_write(cx, buf),
            _ => this.watch()?.poll_write(cx, buf),
        };
        this.note(written)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if let Inner::Bare(socket) = &mut this.inner {
            match socket.write_vectored(bufs) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => return this.note(Poll::Ready(written)),
            }
        }
        let written = match &mut this.inner {
            Inner::Secured(io) => Pin::new(&mut **io).poll_write_vectored(cx, bufs),
            _ => this.watch()?.poll_write_vectored(cx, bufs),
        };
        this.note(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.inner {
            Inner::Secured(io) => {
                let flushed = Pin::new(&mut **io).poll_flush(cx);
                self.note_wait(flushed)
            }
            // A TCP socket has nothing to flush.
            _ => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.inner {
            Inner::Bare(socket) => Poll::Ready(socket.shutdown(std::net::Shutdown::Write)),
            Inner::Watched(io) => Pin::new(io).poll_shutdown(cx),
            Inner::Secured(io) => {
                let shut = Pin::new(&mut **io).poll_shutdown(cx);
                self.note_wait(shut)
            }
            Inner::Gone => Poll::Ready(Ok(())),
        }
    }
}

//! A client's socket while hyper speaks on it.
//!
//! Most connections carry one request that is there when they are looked at, and become a stream at once. Such a
//! socket never needs the runtime's watch, which costs two system calls: it is put under watch only when there is
//! something to wait for.

use std::cell::Cell;
use std::io::{self, Read as _, Write as _};
use std::net::TcpStream as Bare;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// The most bytes of a first read: a request of a browser with its cookies.
const FIRST_READ: usize = 4096;

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
pub(super) struct Seen {
    needs: Rc<Cell<Needs>>,
    may_watch: Rc<Cell<bool>>,
}

impl Seen {
    pub(super) fn get(&self) -> Needs {
        self.needs.get()
    }

    /// Allows the socket to be watched, if it needs that. `true` asks for another poll, which does it.
    pub(super) fn watch(&self) -> bool {
        let wanted = self.needs.get() == Needs::Watch;
        if wanted {
            self.needs.set(Needs::Nothing);
            self.may_watch.set(true);
        }
        wanted
    }
}

#[derive(Debug)]
enum Inner {
    Bare(Bare),
    Watched(TokioIo<TcpStream>),
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
            })),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(First::Nothing(socket)),
            Err(error) => Err(error),
        }
    }

    /// A socket that is watched already.
    pub(super) fn watched(socket: TcpStream) -> Self {
        Self {
            inner: Inner::Watched(TokioIo::new(socket)),
            first: Vec::new(),
            taken: 0,
            seen: Seen::default(),
        }
    }

    /// What it needs, to be asked while hyper has it.
    pub(super) fn needs(&self) -> Seen {
        self.seen.clone()
    }

    /// The bare socket, watched by nobody.
    ///
    /// # Errors
    /// The runtime does not let it go.
    pub(super) fn into_std(self) -> io::Result<Bare> {
        match self.inner {
            Inner::Bare(socket) => Ok(socket),
            Inner::Watched(io) => io.into_inner().into_std(),
            Inner::Gone => Err(io::ErrorKind::NotConnected.into()),
        }
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
            Inner::Bare(_) | Inner::Gone => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    fn note(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        self.seen.needs.set(if written.is_pending() {
            Needs::Write
        } else {
            Needs::Nothing
        });
        written
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
        if let Inner::Bare(_) = this.inner
            && !this.seen.may_watch.get()
        {
            // Nothing is read here: what is not there yet is waited for, and what is there is found then.
            this.seen.needs.set(Needs::Watch);
            return Poll::Pending;
        }
        this.watch()?.poll_read(cx, buf)
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
                written => return Poll::Ready(written),
            }
        }
        let written = this.watch()?.poll_write(cx, buf);
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
                written => return Poll::Ready(written),
            }
        }
        let written = this.watch()?.poll_write_vectored(cx, bufs);
        this.note(written)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // A TCP socket has nothing to flush.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.inner {
            Inner::Bare(socket) => Poll::Ready(socket.shutdown(std::net::Shutdown::Write)),
            Inner::Watched(io) => Pin::new(io).poll_shutdown(cx),
            Inner::Gone => Poll::Ready(Ok(())),
        }
    }
}

//! What h2 needs in place of a runtime: connections that never block, and wakers.

use std::cell::RefCell;
use std::io::{self, ErrorKind, Read, Write};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::worker::line::Line;

/// Who is to be polled. h2 forgets a waker with its call, so that nobody is here twice for long.
#[derive(Debug, Default)]
pub(super) struct Calls(Mutex<Vec<usize>>);

impl Calls {
    pub(super) fn lock(&self) -> MutexGuard<'_, Vec<usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Calls for a connection or a client.
struct Bell {
    token: usize,
    calls: Arc<Calls>,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.calls.lock().push(self.token);
    }
}

/// A connection for h2: what would block is pending, and the worker's epoll says when it is not.
pub(super) struct Io(pub(super) Rc<RefCell<Line>>);

impl AsyncRead for Io {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = pending(self.0.borrow_mut().read(buffer.initialize_unfilled()));
        read.map_ok(|got| buffer.advance(got))
    }
}

impl AsyncWrite for Io {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        pending(self.0.borrow_mut().write(bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        pending(self.0.borrow_mut().flush())
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

fn pending<T>(done: io::Result<T>) -> Poll<io::Result<T>> {
    match done {
        Err(error) if error.kind() == ErrorKind::WouldBlock => Poll::Pending,
        done => Poll::Ready(done),
    }
}

/// Calls for a connection or a client by its token.
pub(super) fn waker(token: usize, calls: &Arc<Calls>) -> Waker {
    Waker::from(Arc::new(Bell {
        token,
        calls: calls.clone(),
    }))
}

//! One client connection, for as long as it speaks HTTP.
//!
//! Invariant: a socket has one owner. hyper owns it until a stream request has been understood;
//! then the request's future never ends, this loop takes the socket out of hyper and the hub owns
//! it. Between the two nothing is in flight: hyper has written all that it had to write.

use std::cell::{Cell, RefCell};
use std::future::{Future, pending, poll_fn};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use http::Request;
use hyper::body::Incoming;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tracing::{debug, trace};

use super::stream::Opening;
use super::{Outcome, Site, answer};
use crate::drain::Phase;
use crate::hub::Subscription;

/// Where a stream request waits for this loop to see it.
type Slot = Rc<RefCell<Option<Opening>>>;

/// Serves requests until the client goes, or asks for a stream.
pub async fn serve(site: Rc<Site>, socket: TcpStream) {
    let _open = site.metrics.connection();
    let slot = Slot::default();
    let service = service_fn(|request: Request<Incoming>| {
        let (site, slot) = (site.clone(), slot.clone());
        async move {
            match answer(&site, request).await {
                Outcome::Answer(response) => Ok::<_, std::convert::Infallible>(response),
                Outcome::Stream(opening) => {
                    slot.replace(Some(opening));
                    pending().await
                }
            }
        }
    });
    let blocked = Rc::new(Cell::new(false));
    let io = Watched {
        io: TokioIo::new(socket),
        blocked: blocked.clone(),
    };
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(site.config.head_timeout)
        .max_header_size(site.config.max_head_bytes)
        .max_buf_size(site.config.max_head_bytes.max(MIN_BUFFER))
        .title_case_headers(true)
        .serve_connection(io, service);
    let mut closing = std::pin::pin!(site.lifecycle.reached(Phase::Closing));
    let mut told = false;
    let opening = poll_fn(|cx| {
        if !told && closing.as_mut().poll(cx).is_ready() {
            told = true;
            Pin::new(&mut connection).graceful_shutdown();
        }
        let ended = Pin::new(&mut connection).poll(cx);
        // An earlier answer may still be on its way to a slow client; hyper goes on writing it.
        if !blocked.get()
            && let Some(opening) = slot.take()
        {
            return Poll::Ready(Some(opening));
        }
        if let Err(error) = ready!(ended) {
            trace!(%error, "A connection ended.");
        }
        Poll::Ready(None)
    })
    .await;
    if let Some(opening) = opening {
        hand_over(&site, connection.into_parts().io.io.into_inner(), opening);
    }
}

/// hyper's own minimum.
const MIN_BUFFER: usize = 8192;

/// Surplus bytes that the client sent after its request are not looked at: nothing can be asked on
/// a connection whose answer does not end.
fn hand_over(site: &Site, socket: TcpStream, opening: Opening) {
    let socket = match socket.into_std() {
        Ok(socket) => socket,
        Err(error) => return debug!(%error, "A socket could not be handed to its shard."),
    };
    let Opening {
        room,
        position,
        framing,
        heartbeat_events,
        head,
    } = opening;
    site.shard.adopt(Subscription {
        socket,
        room,
        position,
        framing,
        head,
        heartbeat_events,
    });
}

/// A socket that remembers whether its last write found the kernel's buffer full.
struct Watched {
    io: TokioIo<TcpStream>,
    blocked: Rc<Cell<bool>>,
}

impl Watched {
    fn note<T>(&self, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        self.blocked.set(written.is_pending());
        written
    }
}

impl Read for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl Write for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(cx, buf);
        self.note(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.note(written)
    }
}

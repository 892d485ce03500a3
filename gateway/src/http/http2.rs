//! A connection that speaks HTTP/2 (RFC 9113), over TLS or with prior knowledge.
//!
//! hyper keeps the connection. An event stream is the body of an answer: the shard writes to it as it writes to a
//! socket, and hyper takes the bytes when the client's windows have room for them (`http2/stream.rs`).
//!
//! Invariant: a stream costs its request's task and what it has not taken yet, a few slices at most. Its end by the
//! shard, where that is not to look complete, is the end of its task: a reset (`CANCEL`).

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, header};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::TokioTimer;
use tokio::time::{Instant, sleep};
use tracing::trace;

use super::body::Answer;
use super::connection::adopt;
use super::peer::Peer;
use super::socket::{Patience, Socket};
use super::{Outcome, Site, answer};
use crate::drain::Phase;
use crate::hub::Wire;

mod answer;
pub(super) mod calm;
mod stream;
mod task;
mod turns;

use answer::AnswerBody;
use stream::{Parting, Pipe, StreamBody, StreamLine};
use task::{Became, Tasks};
use turns::Turns;

/// What a client with prior knowledge sends first (RFC 9113, section 3.4).
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Bytes of one stream that wait for the client's windows.
const SEND_BUFFER: usize = 16 * 1024;
/// Bytes that a client may send ahead: of a request's body, and of all bodies of the connection.
const WINDOWS: (u32, u32) = (64 * 1024, 256 * 1024);
/// Silence after which the client is asked whether it is there, as TCP's own keepalive asks, and how long it may take
/// to answer.
const PING: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(20));
/// A connection without a request for this long is closed.
const IDLE: Duration = Duration::from_secs(60);
/// Time for a stream's last bytes where the client gives no window for them, and for a client that was told to go and has
/// nothing under way.
const LAST_WITHIN: Duration = Duration::from_secs(2);
/// Requests that a client took back before they were looked at, and those that were refused for its faults: one that
/// has more of them is cut off (CVE-2023-44487).
const RESETS: (usize, usize) = (20, 128);
/// The same for a trusted proxy, whose connection carries the requests of many clients: one that takes its own back, or
/// errs, must not end those of the others. How many a connection has at a time stays limited.
const RESETS_OF_PROXIES: (usize, Option<usize>) = (4096, None);

/// What goes on on one connection.
#[derive(Debug)]
struct Traffic {
    peer: Peer,
    answer_timeout: Duration,
    /// Requests and streams under way.
    open: Cell<usize>,
    /// Requests so far.
    requests: Cell<u64>,
    /// The task of the request that has its turn...
    task: RefCell<Option<Waker>>,
    /// ...and what it has just become.
    fresh: RefCell<Option<Became>>,
    parting: Parting,
    turns: Turns,
}

/// Serves requests and streams until the client goes, or the node stops. `most` of them at a time.
pub(super) async fn speak(site: Rc<Site>, mut socket: Socket, peer: Peer, most: u32) {
    // Behind a PROXY header, the connection is the client's own.
    let resets = match peer.address {
        Some(address) if site.config.proxies.trusts(address) => RESETS_OF_PROXIES,
        _ => {
            socket.count_frames();
            (RESETS.0, Some(RESETS.1))
        }
    };
    let traffic = Rc::new(Traffic {
        peer,
        answer_timeout: site.config.answer_timeout,
        open: Cell::default(),
        requests: Cell::default(),
        task: RefCell::default(),
        fresh: RefCell::default(),
        parting: Parting::default(),
        turns: Turns::default(),
    });
    let service = {
        let (site, traffic) = (site.clone(), traffic.clone());
        service_fn(move |request: Request<Incoming>| {
            let (site, traffic) = (site.clone(), traffic.clone());
            traffic.requests.set(traffic.requests.get() + 1);
            // Boxed: what a stream keeps of its request is as large as this is.
            Box::pin(async move { Ok::<_, Infallible>(respond(&site, &traffic, request).await) })
        })
    };
    // Before the connection, so it goes after it.
    let _end = End(&traffic.turns);
    let head_timeout = site.config.head_timeout;
    let needs = socket.needs();
    needs.allow_watch();
    let mut patience = Patience::new(site.config.answer_timeout);
    let connection = http2::Builder::new(Tasks(traffic.clone()))
        .timer(TokioTimer::new())
        .max_concurrent_streams(most)
        .max_header_list_size(u32::try_from(site.config.max_head_bytes).unwrap_or(u32::MAX))
        .max_send_buf_size(SEND_BUFFER)
        .initial_stream_window_size(WINDOWS.0)
        .initial_connection_window_size(WINDOWS.1)
        .keep_alive_interval(PING.0)
        .keep_alive_timeout(PING.1)
        .max_pending_accept_reset_streams(resets.0)
        .max_local_error_reset_streams(resets.1)
        .serve_connection(socket, service);
    let mut connection = std::pin::pin!(connection);
    // From then on a client that comes back has to come to another node, so not on this connection. The same is meant when
    // one of its streams has reached its greatest age.
    let mut draining = std::pin::pin!(site.lifecycle.reached(Phase::Draining));
    let mut quiet = std::pin::pin!(sleep(head_timeout));
    let (mut told, mut requests) = (false, 0);
    poll_fn(|cx| {
        needs.begin_turn();
        loop {
            if let Poll::Ready(ended) = connection.as_mut().poll(cx) {
                if let Err(error) = ended {
                    trace!(%error, "A connection ended.");
                }
                return Poll::Ready(());
            }
            traffic.turns.begin(cx);
            if patience.is_over(&needs, cx) {
                trace!("A connection was closed: its client reads nothing.");
                return Poll::Ready(());
            }
            if !told
                && (draining.as_mut().poll(cx).is_ready() || traffic.parting.poll(cx).is_ready())
            {
                told = true;
                connection.as_mut().graceful_shutdown();
                quiet.as_mut().reset(Instant::now() + LAST_WITHIN);
                continue;
            }
            if quiet.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            let was = std::mem::replace(&mut requests, traffic.requests.get());
            // One that was told to go is not waited for, once nothing is under way.
            let mut pause = if told { LAST_WITHIN } else { IDLE };
            if traffic.open.get() == 0 && was == requests {
                if told {
                    return Poll::Ready(());
                }
                told = true;
                connection.as_mut().graceful_shutdown();
                pause = head_timeout;
            }
            quiet.as_mut().reset(Instant::now() + pause);
        }
    })
    .await;
}

/// Nobody waits for a turn once the connection has ended.
struct End<'a>(&'a Turns);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.end();
    }
}

async fn respond(
    site: &Rc<Site>,
    traffic: &Rc<Traffic>,
    request: Request<Incoming>,
) -> Response<Content> {
    let head = *request.method() == Method::HEAD;
    match answer(site, &traffic.peer, request).await {
        // Over HTTP/1 hyper leaves the body out by itself.
        Outcome::Answer(mut response) if head => {
            if let Some(length) = response.body().size_hint().exact() {
                let length = HeaderValue::from(length);
                response
                    .headers_mut()
                    .insert(header::CONTENT_LENGTH, length);
            }
            response.map(|_| Content::answer(Answer::Whole(Bytes::new())))
        }
        Outcome::Answer(response) => response.map(|answer| {
            let body = Box::new(AnswerBody::new(answer));
            let taken = Became::Answer(body.taken());
            traffic.fresh.replace(Some(taken));
            Content::Answer(body)
        }),
        Outcome::Stream(mut opening) => {
            let headers = std::mem::take(&mut opening.headers);
            let task = traffic.task.take();
            let pipe = Pipe::new(
                task.unwrap_or_else(|| Waker::noop().clone()),
                traffic.clone(),
            );
            traffic.fresh.replace(Some(Became::Stream(pipe.clone())));
            let line = StreamLine::new(pipe.clone());
            adopt(site, &traffic.peer, Wire::Other(Box::new(line)), opening);
            let mut response = Response::new(Content::Stream(StreamBody::new(pipe)));
            *response.headers_mut() = headers;
            response
        }
    }
}

/// What follows a head. Boxed where it is large: a stream's task has room for either.
enum Content {
    Answer(Box<AnswerBody>),
    Stream(StreamBody),
}

impl Content {
    fn answer(answer: Answer) -> Self {
        Self::Answer(Box::new(AnswerBody::new(answer)))
    }
}

impl Body for Content {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match &mut *self {
            Self::Answer(answer) => answer.next(cx),
            Self::Stream(stream) => stream.next(),
        }
        .map(|slice| slice.map(|slice| Ok(Frame::data(slice))))
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Answer(answer) => answer.is_end_stream(),
            Self::Stream(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Answer(answer) => answer.size_hint(),
            Self::Stream(_) => SizeHint::default(),
        }
    }
}

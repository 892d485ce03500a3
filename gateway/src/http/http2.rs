//! A connection that speaks HTTP/2 (RFC 9113), over TLS or with prior knowledge.
//!
//! hyper keeps the connection. An event stream is the body of an answer: the shard writes to it as it writes to a
//! socket, and hyper takes the bytes when the client's windows have room for them (`http2/stream.rs`).
//!
//! Invariant: a stream costs its request's task and what it has not taken yet, a few slices at most. Its end by the
//! shard, where that is not to look complete, is the end of its task: a reset (`CANCEL`).

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, header};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::rt::Executor;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::TokioTimer;
use tokio::time::{Instant, Sleep, sleep};
use tracing::trace;

use super::body::Answer;
use super::connection::adopt;
use super::peer::Peer;
use super::socket::{Patience, Socket};
use super::{Outcome, Site, answer};
use crate::drain::Phase;
use crate::hub::Wire;

mod answer;
mod stream;

use answer::{AnswerBody, Taken};
use stream::{Parting, Pipe, StreamBody, StreamLine, When};

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
/// Time between a stream's last bytes and its reset: browsers drop what they have not read when a reset comes (seen in
/// Chromium), and with it the time to come back after.
const RESET_AFTER: Duration = Duration::from_millis(100);
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
#[derive(Debug, Default)]
struct Traffic {
    /// Requests and streams under way.
    open: Cell<usize>,
    /// Requests so far.
    requests: Cell<u64>,
    /// The task of the request that has its turn...
    task: RefCell<Option<Waker>>,
    /// ...and what it has just become.
    fresh: RefCell<Option<Became>>,
    parting: Rc<Parting>,
}

/// What a request has become.
#[derive(Debug)]
enum Became {
    Stream(Rc<Pipe>),
    Answer(Rc<Taken>),
}

/// Serves requests and streams until the client goes, or the node stops. `most` of them at a time.
pub(super) async fn speak(site: Rc<Site>, socket: Socket, peer: Peer, most: u32) {
    let traffic = Rc::new(Traffic::default());
    // Behind a PROXY header, the connection is the client's own.
    let resets = match peer.address {
        Some(address) if site.config.proxies.trusts(address) => RESETS_OF_PROXIES,
        _ => (RESETS.0, Some(RESETS.1)),
    };
    let peer = Rc::new(peer);
    let service = {
        let (site, traffic) = (site.clone(), traffic.clone());
        service_fn(move |request: Request<Incoming>| {
            let (site, traffic, peer) = (site.clone(), traffic.clone(), peer.clone());
            traffic.requests.set(traffic.requests.get() + 1);
            // Boxed: what a stream keeps of its request is as large as this is.
            Box::pin(
                async move { Ok::<_, Infallible>(respond(&site, &traffic, &peer, request).await) },
            )
        })
    };
    let head_timeout = site.config.head_timeout;
    let needs = socket.needs();
    needs.allow_watch();
    let mut patience = Patience::new(site.config.answer_timeout);
    let connection = http2::Builder::new(Tasks {
        traffic: traffic.clone(),
        answer_timeout: site.config.answer_timeout,
    })
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

async fn respond(
    site: &Rc<Site>,
    traffic: &Traffic,
    peer: &Rc<Peer>,
    request: Request<Incoming>,
) -> Response<Content> {
    let head = *request.method() == Method::HEAD;
    match answer(site, peer, request).await {
        // Over HTTP/1 hyper leaves the body out by itself.
        Outcome::Answer(mut response) if head => {
            if let Some(length) = response.body().size_hint().exact() {
                let length = HeaderValue::from(length);
                response
                    .headers_mut()
                    .insert(header::CONTENT_LENGTH, length);
            }
            response.map(|_| Content::Answer(AnswerBody::new(Answer::Whole(Bytes::new()))))
        }
        Outcome::Answer(response) => response.map(|answer| {
            let body = AnswerBody::new(answer);
            let taken = Became::Answer(body.taken());
            traffic.fresh.replace(Some(taken));
            Content::Answer(body)
        }),
        Outcome::Stream(mut opening) => {
            let headers = std::mem::take(&mut opening.headers);
            let task = traffic.task.take();
            let task = task.unwrap_or_else(|| Waker::noop().clone());
            let pipe = Pipe::new(task, peer.clone(), traffic.parting.clone());
            traffic.fresh.replace(Some(Became::Stream(pipe.clone())));
            let line = StreamLine::new(pipe.clone());
            adopt(site, peer, Wire::Other(Box::new(line)), opening);
            let mut response = Response::new(Content::Stream(StreamBody::new(pipe)));
            *response.headers_mut() = headers;
            response
        }
    }
}

/// What follows a head.
enum Content {
    Answer(AnswerBody),
    Stream(StreamBody),
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

/// Runs the tasks of requests on the shard's thread.
#[derive(Clone)]
struct Tasks {
    traffic: Rc<Traffic>,
    answer_timeout: Duration,
}

impl<F: Future<Output = ()> + 'static> Executor<F> for Tasks {
    fn execute(&self, future: F) {
        let traffic = self.traffic.clone();
        traffic.open.set(traffic.open.get() + 1);
        tokio::task::spawn_local(Task {
            future: Box::pin(future),
            became: None,
            pause: None,
            taken: 0,
            answer_timeout: self.answer_timeout,
            traffic,
        });
    }
}

/// One request, or what it has become.
struct Task<F> {
    future: Pin<Box<F>>,
    became: Option<Became>,
    /// Until the reset, if nothing changes.
    pause: Option<Pause>,
    /// Slices of the answer that were taken before the pause began.
    taken: u64,
    answer_timeout: Duration,
    traffic: Rc<Traffic>,
}

/// Of a stream, why it waits; of an answer, nothing.
type Pause = (Option<When>, Pin<Box<Sleep>>);

impl<F: Future<Output = ()>> Future for Task<F> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        if this.became.is_none() {
            this.traffic.task.replace(Some(cx.waker().clone()));
        }
        let polled = this.future.as_mut().poll(cx);
        if this.became.is_none() {
            this.became = this.traffic.fresh.take();
        }
        if polled.is_ready() {
            return polled;
        }
        // Without the future there is no stream: hyper resets it.
        let (why, time) = match &this.became {
            None => return Poll::Pending,
            Some(Became::Stream(pipe)) => match pipe.ends() {
                None => return Poll::Pending,
                Some(When::Now) => return Poll::Ready(()),
                Some(When::Soon) => (Some(When::Soon), RESET_AFTER),
                Some(When::Later) => (Some(When::Later), LAST_WITHIN),
            },
            Some(Became::Answer(taken)) => {
                if std::mem::replace(&mut this.taken, taken.get()) != taken.get() {
                    this.pause = None;
                }
                (None, this.answer_timeout)
            }
        };
        if this.pause.as_ref().is_some_and(|(was, _)| *was != why) {
            this.pause = None;
        }
        let (_, pause) = this
            .pause
            .get_or_insert_with(|| (why, Box::pin(sleep(time))));
        pause.as_mut().poll(cx)
    }
}

impl<F> Drop for Task<F> {
    fn drop(&mut self) {
        self.traffic.open.set(self.traffic.open.get() - 1);
    }
}

//! One client connection, for as long as it speaks HTTP.
//!
//! Invariant: a socket has one owner. hyper owns it until a stream request has been understood;
//! then the request's future never ends, this loop takes the socket out of hyper and the hub owns
//! it. Between the two nothing is in flight: hyper has written all that it had to write.

use std::cell::RefCell;
use std::future::{Future, pending, poll_fn};
use std::io;
use std::net::TcpStream;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Poll, ready};

use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioTimer;
use tokio::time::{Instant, timeout, timeout_at};
use tracing::{debug, trace};

use super::listener::Accepted;
use super::peer::Peer;
use super::socket::{First, Needs, Patience, Socket};
use super::stream::Opening;
use super::tls::{self, Tls};
use super::{Outcome, Site, answer, http2, metrics, proxy_protocol};
use crate::drain::Phase;
use crate::hub::{Limit, Subscription, Wire};

/// Where a stream request waits for this loop to see it.
type Slot = Rc<RefCell<Option<Opening>>>;

/// Looks at a new connection, a turn of the thread's other work apart, before it is put under watch.
const LOOKS: u32 = 2;

/// What clients may speak besides HTTP/1.
#[derive(Debug, Clone, Default)]
pub struct Protocols {
    /// TLS, and nothing without it.
    pub tls: Option<Tls>,
    /// HTTP/2, with so many requests and streams of a connection at a time.
    pub http2: Option<u32>,
    /// Trusted proxies begin with a PROXY header.
    pub proxy_header: bool,
}

/// Serves requests until the client goes, or asks for a stream.
pub async fn serve(site: Rc<Site>, client: Accepted) {
    let _open = site.metrics.connection();
    let Protocols {
        tls, proxy_header, ..
    } = &site.config.protocols;
    let peer = Peer::of(client.peer);
    if tls.is_some() || *proxy_header {
        return Box::pin(serve_wrapped(site, client.socket, peer)).await;
    }
    serve_plain(site, client.socket, peer).await;
}

/// The same, with what may come before a request: a PROXY header, and TLS.
async fn serve_wrapped(site: Rc<Site>, socket: TcpStream, mut peer: Peer) {
    let began = Instant::now();
    let closing = site.lifecycle.reached(Phase::Closing);
    let work = async {
        let Protocols {
            tls, proxy_header, ..
        } = &site.config.protocols;
        let mut socket = socket;
        if *proxy_header
            && peer
                .address
                .is_some_and(|address| site.config.proxies.trusts(address))
        {
            let named;
            (socket, named) = proxy_protocol::read(socket).await.map_err(Dropped::from)?;
            peer.address = named.or(peer.address);
        }
        let Some(tls) = tls else {
            return Ok::<_, Dropped>((Ok(socket), peer));
        };
        let socket = tokio::net::TcpStream::from_std(socket).map_err(Dropped::Broken)?;
        socket.readable().await.map_err(Dropped::Broken)?;
        let stream = tls.accept(socket).await.map_err(Dropped::Handshake)?;
        peer.certified = tls::is_certified(&stream);
        Ok((Err(stream), peer))
    };
    let (carrier, peer) = tokio::select! {
        result = timeout_at(began + site.config.head_timeout, work) => match result {
            Ok(Ok(ready)) => ready,
            Ok(Err(dropped)) => {
                if let Some(reason) = dropped.counted() {
                    site.metrics.dropped(reason);
                }
                return debug!(reason = %dropped, "A connection was closed before its first request.");
            }
            Err(_) => return,
        },
        () = closing => return,
    };
    match (carrier, site.config.protocols.http2) {
        (Ok(socket), _) => serve_plain(site, socket, peer).await,
        (Err(stream), Some(most)) if tls::is_http2(&stream) => {
            http2::speak(site, Socket::secured(stream), peer, most).await;
        }
        (Err(stream), _) => speak(site, Socket::secured(stream), peer).await,
    }
}

/// Why a connection never came to a request.
#[derive(Debug, thiserror::Error)]
enum Dropped {
    #[error("{0}")]
    Broken(io::Error),
    #[error("{0}")]
    Header(proxy_protocol::HeaderError),
    #[error("the TLS handshake failed: {0}")]
    Handshake(io::Error),
}

impl From<proxy_protocol::HeaderError> for Dropped {
    fn from(error: proxy_protocol::HeaderError) -> Self {
        match error {
            proxy_protocol::HeaderError::Broken(error) => Self::Broken(error),
            error => Self::Header(error),
        }
    }
}

impl Dropped {
    /// In metrics. A client that went away is nobody's fault.
    fn counted(&self) -> Option<metrics::Dropped> {
        match self {
            Self::Broken(_) => None,
            Self::Header(_) => Some(metrics::Dropped::ProxyHeader),
            Self::Handshake(error) if error.kind() == io::ErrorKind::InvalidData => {
                Some(metrics::Dropped::Tls)
            }
            Self::Handshake(_) => None,
        }
    }
}

async fn serve_plain(site: Rc<Site>, socket: TcpStream, peer: Peer) {
    // hyper and its buffers come with the first byte: most requests are then read, answered and
    // gone in one turn, and a herd of connections never holds all those buffers at a time. A head
    // that comes in parts has its own time from then on.
    let mut found = Socket::read_first(socket);
    for _ in 0..LOOKS {
        found = match found {
            // The request is on its way: a turn of the others is cheaper than the runtime's watch.
            Ok(First::Nothing(socket)) => {
                tokio::task::yield_now().await;
                Socket::read_first(socket)
            }
            found => found,
        };
    }
    let socket = match found {
        Ok(First::Bytes(socket)) => Ok(socket),
        Ok(First::Nothing(socket)) => {
            let Ok(socket) = tokio::net::TcpStream::from_std(socket) else {
                return debug!("A connection could not be watched.");
            };
            let closing = site.lifecycle.reached(Phase::Closing);
            tokio::select! {
                first = timeout(site.config.head_timeout, socket.readable()) => {
                    if !matches!(first, Ok(Ok(()))) {
                        return;
                    }
                }
                () = closing => return,
            }
            Socket::watched(socket)
        }
        Ok(First::Closed) => return,
        Err(error) => Err(error),
    };
    let mut socket = match socket {
        Ok(socket) => socket,
        Err(error) => return debug!(%error, "A connection could not be read."),
    };
    if let Some(most) = site.config.protocols.http2 {
        let mut is_http2 = socket.is_http2();
        if is_http2.is_none() {
            is_http2 = Box::pin(preface(&site, &mut socket)).await;
        }
        match is_http2 {
            Some(false) => {}
            Some(true) => return Box::pin(http2::speak(site, socket, peer, most)).await,
            None => return,
        }
    }
    Box::pin(speak(site, socket, peer)).await;
}

/// Reads on until it is clear what the client speaks. `None` when it does not say in time.
async fn preface(site: &Site, socket: &mut Socket) -> Option<bool> {
    let reading = async {
        loop {
            if let Some(is_http2) = socket.is_http2() {
                break Some(is_http2);
            }
            socket.read_more().await.ok()?;
        }
    };
    tokio::select! {
        found = timeout(site.config.head_timeout, reading) => found.ok().flatten(),
        () = site.lifecycle.reached(Phase::Closing) => None,
    }
}

async fn speak(site: Rc<Site>, socket: Socket, peer: Peer) {
    let slot = Slot::default();
    let peer = Rc::new(peer);
    let service = service_fn(|request: Request<Incoming>| {
        let (site, slot, peer) = (site.clone(), slot.clone(), peer.clone());
        async move {
            match answer(&site, &peer, request).await {
                Outcome::Answer(response) => Ok::<_, std::convert::Infallible>(response),
                Outcome::Stream(opening) => {
                    slot.replace(Some(opening));
                    pending().await
                }
            }
        }
    });
    let needs = socket.needs();
    let mut patience = Patience::new(site.config.answer_timeout);
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(site.config.head_timeout)
        .max_header_size(site.config.max_head_bytes)
        .max_buf_size(site.config.max_head_bytes.max(MIN_BUFFER))
        .title_case_headers(true)
        .serve_connection(socket, service);
    let mut closing = std::pin::pin!(site.lifecycle.reached(Phase::Closing));
    let mut told = false;
    let opening = poll_fn(|cx| {
        loop {
            let ended = Pin::new(&mut connection).poll(cx);
            // hyper flushes an answer before it reads the next request, except where it had to skip an
            // unread body in between. Until then it keeps the socket, and goes on writing.
            if needs.get() != Needs::Write
                && let Some(opening) = slot.take()
            {
                return Poll::Ready(Some(opening));
            }
            if ended.is_pending() && needs.watch() {
                continue;
            }
            if ended.is_pending() && patience.is_over(&needs, cx) {
                trace!("A connection was closed: its client reads nothing.");
                return Poll::Ready(None);
            }
            // Asked last: most connections are streams by now, and never wait for the node's end.
            if ended.is_pending() && !told && closing.as_mut().poll(cx).is_ready() {
                told = true;
                Pin::new(&mut connection).graceful_shutdown();
                continue;
            }
            if let Err(error) = ready!(ended) {
                trace!(%error, "A connection ended.");
            }
            return Poll::Ready(None);
        }
    })
    .await;
    if let Some(opening) = opening {
        // Surplus bytes that the client sent after its request are not looked at: nothing can be asked on a
        // connection whose answer does not end.
        match connection.into_parts().io.into_wire() {
            Ok(wire) => adopt(&site, &peer, wire, opening),
            Err(error) => debug!(%error, "A socket could not be handed to its shard."),
        }
    }
}

/// hyper's own minimum.
const MIN_BUFFER: usize = 8192;

/// Gives a stream to the shard, with what carries it.
pub(super) fn adopt(site: &Site, peer: &Peer, wire: Wire, opening: Opening) {
    let Opening {
        room,
        position,
        framing,
        heartbeat_events,
        headers: _,
        head,
        trace,
        mut refused,
        per_address,
        client,
        terms,
    } = opening;
    // The log has the address and port of the other end, unless that is a proxy.
    let behind = client.filter(|client| {
        site.config.access && peer.socket.is_none_or(|socket| socket.ip() != *client)
    });
    let mut place = None;
    // Without an address there is no limit.
    if let Some(client) = client
        && per_address > 0
        && refused.is_none()
    {
        place = site.node.addresses().take(client, per_address);
        refused = place.is_none().then_some(Limit::Address);
    }
    site.shard.adopt(Subscription {
        wire,
        room,
        position,
        framing,
        head,
        heartbeat_events,
        refused,
        trace,
        place,
        client: behind,
        terms,
    });
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::sync::mpsc;
    use tokio::task::{LocalSet, spawn_local};

    use super::*;
    use crate::auth::{Auth, Policy};
    use crate::broker::memory::{MemoryBroker, MemoryConfig};
    use crate::http::encoding::ChunkedEncoder;
    use crate::http::metrics::HttpMetrics;
    use crate::http::{HttpConfig, PublishRules, StreamLimits, TrustedProxies};
    use crate::hub::{HubConfig, Node, RoomClasses, Shard, Times};
    use crate::live::Live;

    /// A shard, a broker and the HTTP side in this thread.
    fn site() -> Rc<Site> {
        let stream = crate::config::defaults().stream;
        let (inlet, outlet) = mpsc::channel(8);
        let broker = MemoryBroker::start(MemoryConfig::default(), vec![inlet], Default::default());
        let times = Times::register(&prometheus::Registry::new()).unwrap();
        let node = Node::new(1, times, &RoomClasses::default());
        let hub = HubConfig {
            heartbeat: stream.heartbeat,
            log_bytes: stream.log_bytes,
            log_entries: stream.log_entries,
            log_memory: stream.log_memory,
            max_lag_bytes: stream.max_lag_bytes as u64,
            lag_timeout: stream.lag_timeout,
            history_page: stream.history_page,
            unclean_close: true,
            max_rooms: 0,
            max_age: Duration::ZERO,
            access: false,
        };
        let encoder = ChunkedEncoder::new("n1".into(), Duration::ZERO, Duration::ZERO);
        let shard = Shard::new(0, hub, broker.clone(), Rc::new(encoder), &node).unwrap();
        let handle = shard.handle();
        spawn_local(shard.run(outlet));
        Rc::new(Site {
            config: Arc::new(HttpConfig {
                node: "n1".into(),
                path_prefix: String::new(),
                allowed_origins: Live::new(Vec::new()),
                head_timeout: Duration::from_secs(60),
                body_timeout: Duration::from_secs(60),
                answer_timeout: Duration::from_secs(60),
                max_head_bytes: 16384,
                rates: Default::default(),
                limits: Live::new(StreamLimits::default()),
                proxies: TrustedProxies::default(),
                access: false,
                protocols: Protocols::default(),
                demo: false,
                own_machine: Live::new(false),
                publish: Live::new(PublishRules {
                    max_bytes: 1 << 20,
                    ..PublishRules::default()
                }),
            }),
            auth: Arc::new(Auth::new(Policy {
                development: true,
                ..Policy::default()
            })),
            broker,
            node,
            shard: handle,
            metrics: Arc::new(HttpMetrics::register(&prometheus::Registry::new()).unwrap()),
            lifecycle: Default::default(),
            traces: Default::default(),
        })
    }

    async fn connect(site: &Rc<Site>) -> TcpStream {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        let (accepted, peer) = listener.accept().await.unwrap();
        let accepted = Accepted {
            socket: accepted.into_std().unwrap(),
            peer: Some(peer),
        };
        spawn_local(serve(site.clone(), accepted));
        client
    }

    async fn read_until(client: &mut TcpStream, end: &str) -> String {
        let mut text = Vec::new();
        while !text.ends_with(end.as_bytes()) {
            let more = client.read_buf(&mut text);
            let read = tokio::time::timeout(Duration::from_secs(20), more).await;
            assert_ne!(
                read.expect("more bytes").unwrap(),
                0,
                "{}",
                String::from_utf8_lossy(&text)
            );
        }
        String::from_utf8(text).unwrap()
    }

    #[tokio::test]
    async fn a_stream_follows_earlier_requests_on_its_connection() {
        let work = async {
            let site = site();
            let mut client = connect(&site).await;
            client
                .write_all(b"GET /rooms/a HTTP/1.1\r\nHost: a\r\n\r\n")
                .await
                .unwrap();
            assert!(
                read_until(&mut client, "}")
                    .await
                    .contains("\"subscribers\":0")
            );
            // A subscriber's body is not the next request; what follows it is nobody's.
            let request = b"POST /rooms/a/events HTTP/1.1\r\nHost: a\r\nAccept: text/event-stream\r\nContent-Length: 4\r\n\r\n";
            client
                .write_all(
                    &[
                        request,
                        &b"bodyGET /rooms/b HTTP/1.1\r\nHost: a\r\n\r\n"[..],
                    ]
                    .concat(),
                )
                .await
                .unwrap();
            let text = read_until(&mut client, "\n\n\r\n").await;
            assert!(
                text.contains("Transfer-Encoding: chunked\r\n")
                    && text.contains("event: stream.open\n"),
                "{text}"
            );
            assert_eq!(site.metrics.connections(), 0, "the stream is the hub's");
            let mut other = connect(&site).await;
            other
                .write_all(
                    b"POST /rooms/a/events HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi",
                )
                .await
                .unwrap();
            assert!(
                read_until(&mut other, "}")
                    .await
                    .starts_with("HTTP/1.1 201 ")
            );
            assert!(
                read_until(&mut client, "\n\n\r\n")
                    .await
                    .ends_with("\ndata: hi\n\n\r\n")
            );
        };
        LocalSet::new().run_until(work).await;
    }

    /// The answer before the stream is larger than the kernel takes at once: not a byte of it may
    /// be lost when the socket changes hands.
    #[tokio::test]
    async fn a_slow_reader_of_an_earlier_answer_loses_nothing() {
        let work = async {
            let site = site();
            let mut client = connect(&site).await;
            let event = vec![b'x'; 1 << 20];
            for _ in 0..16 {
                let head = format!(
                    "POST /rooms/a/events HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n",
                    event.len()
                );
                client.write_all(head.as_bytes()).await.unwrap();
                client.write_all(&event).await.unwrap();
                read_until(&mut client, "}").await;
            }
            let history = "GET /rooms/a/events?limit=1 HTTP/1.1\r\nHost: a\r\nAccept: application/json\r\n\r\n";
            let requests = history.repeat(16) + "GET /rooms/a/events HTTP/1.1\r\nHost: a\r\n\r\n";
            client.write_all(requests.as_bytes()).await.unwrap();
            let text = read_until(&mut client, "\n\n\r\n").await;
            let (history, stream) = text.rsplit_once("HTTP/1.1 200 OK\r\n").unwrap();
            assert!(history.len() > 16 << 20 && history.ends_with('}'));
            assert!(stream.contains("event: stream.open\n"));
        };
        LocalSet::new().run_until(work).await;
    }
}

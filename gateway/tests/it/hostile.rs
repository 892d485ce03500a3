//! Clients that mean harm: while each attack stands, a bystander in another room is given what is published there as if
//! nothing were, and afterwards the node holds no more than before.

mod bodies;
mod heads;
mod http2;
mod pipelines;
mod readers;
mod smuggling;
mod tls;
mod windows;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use crate::support::{Client, DEADLINE, Gateway, Setup, http};

/// The bystander's room.
const ROOM: &str = "bystander";
/// No event of the bystander's may take longer than this from the request that publishes it to its arrival: less than any of the
/// time-outs by which an attacker could be got rid of, more than two busy cores need.
const PATIENCE: Duration = Duration::from_secs(5);
/// Events that the bystander has to be given while an attack stands.
const EVENTS: usize = 20;
/// Growth of memory that is no leak: the allocator's own, and pages of code that were run for the first time.
/// Attacks hold at least four times as much while they stand.
const SLACK: f64 = 8.0 * 1024.0 * 1024.0;

/// A gateway with a bystander and a publisher that go on all the time.
struct Scene {
    gateway: Gateway,
    delivered: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    going_on: Option<JoinHandle<Duration>>,
}

impl Scene {
    async fn begin(setup: Setup) -> Self {
        let gateway = setup.start().await;
        let bystander = Client::of(&[gateway.address], ROOM).open().await;
        let (delivered, stop) = (Arc::<AtomicUsize>::default(), Arc::<AtomicBool>::default());
        let going_on = {
            let (delivered, stop, address) = (delivered.clone(), stop.clone(), gateway.address);
            tokio::spawn(go_on(bystander, address, delivered, stop))
        };
        let scene = Self {
            gateway,
            delivered,
            stop,
            going_on: Some(going_on),
        };
        scene.unharmed().await;
        scene
    }

    fn address(&self) -> SocketAddr {
        self.gateway.address
    }

    /// The bystander is given more events, from now on.
    async fn unharmed(&self) {
        let before = self.delivered.load(Ordering::Relaxed);
        eventually!(
            self.delivered.load(Ordering::Relaxed) >= before + EVENTS
                || self.going_on.as_ref().is_none_or(JoinHandle::is_finished),
            "the bystander is given no more events"
        );
        assert!(!self.going_on.as_ref().unwrap().is_finished());
    }

    /// Connections that are neither ended nor streams.
    async fn connections(&self) -> f64 {
        let metrics = self.gateway.admin("/metrics").await.unwrap().text();
        let of = |name: &str| -> f64 {
            let prefix = format!("sse_gateway_http_connections_{name}_total ");
            let mut lines = metrics
                .lines()
                .filter_map(|line| line.strip_prefix(&*prefix));
            lines.next().unwrap().parse().unwrap()
        };
        of("accepted") - of("ended")
    }

    /// Resident memory, in bytes.
    async fn memory(&self) -> f64 {
        let found = self.gateway.metric("process_resident_memory_bytes").await;
        found.unwrap()
    }

    /// Open files.
    async fn files(&self) -> f64 {
        let found = self.gateway.metric("process_open_fds").await;
        found.unwrap()
    }

    /// Waits until the attackers' connections and streams are gone. The publisher has one connection at most.
    async fn over(&self) {
        let streams = "sse_gateway_streams_open";
        eventually!(
            self.connections().await <= 1.0
                && sum(
                    &self.gateway.admin("/metrics").await.unwrap().text(),
                    streams
                ) == 1.0,
            "{} connections are left",
            self.connections().await
        );
        self.unharmed().await;
    }

    /// The end: what was published has arrived, each event in time.
    async fn end(mut self) {
        self.over().await;
        self.stop.store(true, Ordering::Relaxed);
        let slowest = self.going_on.take().unwrap().await.unwrap();
        assert!(
            slowest < PATIENCE,
            "an event took {slowest:?} to the bystander"
        );
    }
}

/// The sum of a metric's series.
fn sum(metrics: &str, name: &str) -> f64 {
    let series = metrics.lines().filter(|line| {
        let rest = line.strip_prefix(name);
        rest.is_some_and(|rest| rest.starts_with([' ', '{', ',', '}']))
    });
    let numbers = series.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok());
    numbers.sum()
}

/// Publishes, waits for the event at the bystander, and so on. Gives the longest time that an event took.
async fn go_on(
    bystander: Client,
    address: SocketAddr,
    delivered: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
) -> Duration {
    let mut slowest = Duration::ZERO;
    let mut count = 0;
    while !stop.load(Ordering::Relaxed) {
        let began = Instant::now();
        let target = format!("/rooms/{ROOM}/events");
        let answer = http::request(address, "POST", &target, &[], b"hi").await;
        assert_eq!(answer.status, 201, "{}", answer.text());
        count += 1;
        bystander.wait_events(count).await;
        slowest = slowest.max(began.elapsed());
        delivered.fetch_add(1, Ordering::Relaxed);
    }
    bystander.assert_never_reset();
    assert_eq!(bystander.seen().connections, 1);
    slowest
}

/// An attacker's connection.
async fn connect(address: SocketAddr) -> TcpStream {
    let connecting = tokio::time::timeout(DEADLINE, TcpStream::connect(address));
    connecting.await.expect("it is let in").unwrap()
}

async fn connect_many(address: SocketAddr, count: usize, first: &[u8]) -> Vec<TcpStream> {
    let mut sockets = Vec::with_capacity(count);
    for _ in 0..count {
        let mut socket = connect(address).await;
        socket.write_all(first).await.unwrap();
        sockets.push(socket);
    }
    sockets
}

/// Everything that comes until the other end closes; a reset is an end.
async fn rest(socket: &mut TcpStream) -> Vec<u8> {
    let mut answer = Vec::new();
    let reading = tokio::time::timeout(DEADLINE, socket.read_to_end(&mut answer));
    let _ = reading.await.expect("the gateway closes it");
    answer
}

/// Sends bytes and half of a close, and reads to the end.
async fn say(address: SocketAddr, bytes: &[u8]) -> String {
    let mut socket = connect(address).await;
    // It may be refused before all of it is sent.
    let _ = socket.write_all(bytes).await;
    String::from_utf8_lossy(&rest(&mut socket).await).into_owned()
}

/// The statuses of the answers in what came.
fn statuses(text: &str) -> Vec<u16> {
    let answers = text.split("HTTP/1.1 ").skip(1);
    answers
        .map(|answer| answer.get(..3).and_then(|s| s.parse().ok()).unwrap())
        .collect()
}

/// Sends a byte on each connection, again and again, until the gateway has closed all of them.
async fn drip(mut sockets: Vec<TcpStream>, scene: &Scene) {
    let deadline = Instant::now() + DEADLINE;
    while !sockets.is_empty() {
        assert!(
            Instant::now() < deadline,
            "{} connections are still open",
            sockets.len()
        );
        let mut open = Vec::with_capacity(sockets.len());
        for mut socket in sockets {
            let mut byte = [0; 1];
            let is_open = match socket.try_read(&mut byte) {
                Ok(0) => false,
                // An answer, before the end.
                Ok(_) => true,
                Err(error) => error.kind() == std::io::ErrorKind::WouldBlock,
            };
            if is_open && socket.write_all(b"a").await.is_ok() {
                open.push(socket);
            }
        }
        sockets = open;
        scene.unharmed().await;
    }
}

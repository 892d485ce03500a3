//! A TCP proxy between a gateway and Redis, which does to the link what networks do: cut, stall, delay, end one half, pass a
//! byte at a time. It understands the server's replies well enough to lose whole pub/sub messages, as a network cannot but a
//! server under memory pressure can. What servers and sentinels say to each other is told apart by its first bytes, and left
//! alone unless it is named.

mod resp;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::port;

/// Bytes that are read at a time.
const CHUNK: usize = 16 * 1024;

type Filter = Box<dyn FnMut(&str, &[u8]) -> bool + Send>;

#[derive(Default)]
struct Shared {
    filter: Mutex<Option<Filter>>,
    dropped: AtomicUsize,
}

/// Where bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    ToServer,
    ToClient,
}

/// What connections are told. Those that were accepted before the moment in question have a lower number.
#[derive(Debug, Clone, Copy, Default)]
struct Orders {
    accepted: u64,
    cut_before: u64,
    frozen_before: u64,
    half_closed_before: u64,
    stalled: [bool; 2],
    replication_stalled: bool,
    refused: bool,
    trickle: bool,
    delay: Duration,
}

/// The proxy; ended by `Drop`.
pub struct Proxy {
    pub address: SocketAddr,
    shared: Arc<Shared>,
    orders: watch::Sender<Orders>,
    task: JoinHandle<()>,
}

impl Proxy {
    pub async fn to(upstream: SocketAddr) -> Self {
        let address = port::free();
        let listener = TcpListener::bind(address).await.unwrap();
        let shared = Arc::new(Shared::default());
        let orders = watch::Sender::new(Orders::default());
        let task = tokio::spawn(accept(
            listener,
            upstream,
            Arc::clone(&shared),
            orders.clone(),
        ));
        Self {
            address,
            shared,
            orders,
            task,
        }
    }

    /// From now on loses each pub/sub message for which this is true (channel, payload).
    pub fn lose(&self, filter: impl FnMut(&str, &[u8]) -> bool + Send + 'static) {
        *self.shared.filter.lock().unwrap() = Some(Box::new(filter));
    }

    pub fn lose_nothing(&self) {
        *self.shared.filter.lock().unwrap() = None;
    }

    /// Messages lost so far.
    pub fn lost(&self) -> usize {
        self.shared.dropped.load(Ordering::SeqCst)
    }

    /// Cuts all connections; new ones are accepted.
    pub fn cut(&self) {
        self.orders
            .send_modify(|orders| orders.cut_before = orders.accepted);
    }

    /// All connections fall silent in both directions without an end; new ones work.
    pub fn freeze(&self) {
        self.orders
            .send_modify(|orders| orders.frozen_before = orders.accepted);
    }

    /// The server's half of all connections ends; what the client says is still taken. New ones work.
    pub fn half_close(&self) {
        self.orders
            .send_modify(|orders| orders.half_closed_before = orders.accepted);
    }

    /// Holds back what goes this way, on new connections too, until [`Proxy::open`].
    pub fn stall(&self, direction: Direction) {
        self.orders
            .send_modify(|orders| orders.stalled[direction as usize] = true);
    }

    /// Holds back what replicas are sent, until [`Proxy::open`].
    pub fn stall_replication(&self) {
        self.orders
            .send_modify(|orders| orders.replication_stalled = true);
    }

    /// Ends new connections at once, until [`Proxy::open`].
    pub fn refuse(&self) {
        self.orders.send_modify(|orders| orders.refused = true);
    }

    /// Passes single bytes, each in a packet of its own, until [`Proxy::open`].
    pub fn trickle(&self) {
        self.orders.send_modify(|orders| orders.trickle = true);
    }

    /// Passes everything this much later, until [`Proxy::open`].
    pub fn delay(&self, delay: Duration) {
        self.orders.send_modify(|orders| orders.delay = delay);
    }

    /// Ends every lasting fault; connections that are cut, frozen or half closed stay so.
    pub fn open(&self) {
        self.lose_nothing();
        self.orders.send_modify(|orders| {
            orders.stalled = [false; 2];
            orders.replication_stalled = false;
            orders.refused = false;
            orders.trickle = false;
            orders.delay = Duration::ZERO;
        });
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.orders.send_modify(|orders| {
            orders.refused = true;
            orders.cut_before = u64::MAX;
        });
        self.task.abort();
    }
}

async fn accept(
    listener: TcpListener,
    upstream: SocketAddr,
    shared: Arc<Shared>,
    orders: watch::Sender<Orders>,
) {
    loop {
        let (client, _) = listener.accept().await.unwrap();
        let mut number = 0;
        orders.send_modify(|orders| {
            number = orders.accepted;
            orders.accepted += 1;
        });
        if orders.borrow().refused {
            continue;
        }
        let link = Link {
            number,
            shared: Arc::clone(&shared),
            orders: orders.subscribe(),
            replication: Arc::default(),
            sentinel: Arc::default(),
        };
        tokio::spawn(link.serve(client, upstream));
    }
}

/// One connection.
#[derive(Clone)]
struct Link {
    number: u64,
    shared: Arc<Shared>,
    orders: watch::Receiver<Orders>,
    /// Known after its first commands.
    replication: Arc<AtomicBool>,
    sentinel: Arc<AtomicBool>,
}

impl Link {
    async fn serve(mut self, client: TcpStream, upstream: SocketAddr) {
        let Ok(server) = TcpStream::connect(upstream).await else {
            return;
        };
        let _ = (client.set_nodelay(true), server.set_nodelay(true));
        let (from_client, to_client) = client.into_split();
        let (from_server, to_server) = server.into_split();
        tokio::select! {
            () = self.clone().ask(from_client, to_server) => {}
            () = self.clone().answer(from_server, to_client) => {}
            () = self.cut() => {}
        }
    }

    fn between_servers(&self) -> bool {
        self.replication.load(Ordering::SeqCst) || self.sentinel.load(Ordering::SeqCst)
    }

    async fn cut(&mut self) {
        let number = self.number;
        loop {
            let due = self.orders.wait_for(|orders| number < orders.cut_before);
            let Ok(last) = due.await.map(|orders| orders.cut_before == u64::MAX) else {
                return;
            };
            if last || !self.between_servers() || self.orders.changed().await.is_err() {
                return;
            }
        }
    }

    /// What the client says.
    async fn ask(mut self, mut from: OwnedReadHalf, mut to: OwnedWriteHalf) {
        let mut seen = 0;
        let mut pending = Vec::with_capacity(CHUNK);
        while matches!(from.read_buf(&mut pending).await, Ok(1..)) {
            if seen < 4096 {
                seen += pending.len();
                let says = |word: &[u8]| {
                    let mut windows = pending.windows(word.len());
                    windows.any(|window| window.eq_ignore_ascii_case(word))
                };
                if says(b"REPLCONF") || says(b"PSYNC") {
                    self.replication.store(true, Ordering::SeqCst);
                }
                if says(b"sentinel-") {
                    self.sentinel.store(true, Ordering::SeqCst);
                }
            }
            if self
                .pass(Direction::ToServer, &pending, &mut to)
                .await
                .is_err()
            {
                return;
            }
            pending.clear();
        }
    }

    /// What the server says.
    async fn answer(mut self, mut from: OwnedReadHalf, mut to: OwnedWriteHalf) {
        let number = self.number;
        let mut pending = Vec::new();
        loop {
            // Otherwise a read takes what room there happens to be, 64 bytes at first.
            pending.reserve(CHUNK);
            let mut orders = self.orders.clone();
            let half_closed = async move {
                let due = orders.wait_for(|orders| number < orders.half_closed_before);
                let _ = due.await;
            };
            tokio::select! {
                read = from.read_buf(&mut pending) => if !matches!(read, Ok(1..)) {
                    return;
                },
                () = half_closed, if !self.between_servers() => {
                    let _ = to.shutdown().await;
                    let _ = tokio::io::copy(&mut from, &mut tokio::io::sink()).await;
                    return;
                }
            }
            let pass = if self.between_servers() {
                // A snapshot of the data is not made of replies.
                std::mem::take(&mut pending)
            } else {
                self.without_lost(&mut pending)
            };
            if self
                .pass(Direction::ToClient, &pass, &mut to)
                .await
                .is_err()
            {
                return;
            }
        }
    }

    /// Takes the whole values, without those that are to be lost.
    fn without_lost(&self, pending: &mut Vec<u8>) -> Vec<u8> {
        let mut at = 0;
        let mut pass = Vec::new();
        while let Some(length) = resp::value_length(&pending[at..]) {
            let value = &pending[at..at + length];
            if self.loses(value) {
                self.shared.dropped.fetch_add(1, Ordering::SeqCst);
            } else {
                pass.extend_from_slice(value);
            }
            at += length;
        }
        pending.drain(..at);
        pass
    }

    fn loses(&self, value: &[u8]) -> bool {
        let mut filter = self.shared.filter.lock().unwrap();
        let Some(filter) = filter.as_mut() else {
            return false;
        };
        resp::pushed(value)
            .is_some_and(|(channel, payload)| filter(&String::from_utf8_lossy(channel), payload))
    }

    async fn pass(
        &mut self,
        direction: Direction,
        bytes: &[u8],
        to: &mut OwnedWriteHalf,
    ) -> std::io::Result<()> {
        let (number, replication) = (self.number, self.replication.load(Ordering::SeqCst));
        let orders = if self.between_servers() {
            let open = |orders: &Orders| !(replication && orders.replication_stalled);
            let _ = self.orders.wait_for(open).await;
            Orders::default()
        } else {
            let open = |orders: &Orders| {
                !orders.stalled[direction as usize] && number >= orders.frozen_before
            };
            self.orders
                .wait_for(open)
                .await
                .map_or_else(|_| Orders::default(), |orders| *orders)
        };
        // The fault itself, not a wait of a test.
        tokio::time::sleep(orders.delay).await;
        if !orders.trickle {
            return to.write_all(bytes).await;
        }
        for byte in bytes {
            to.write_all(std::slice::from_ref(byte)).await?;
            tokio::task::yield_now().await;
        }
        Ok(())
    }
}

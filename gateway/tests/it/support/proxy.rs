//! A TCP proxy between a gateway and Redis. It understands the server's replies well enough to
//! lose whole pub/sub messages, as a network cannot but a server under memory pressure can.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::port;

type Filter = Box<dyn FnMut(&str, &[u8]) -> bool + Send>;

#[derive(Default)]
struct Shared {
    filter: Mutex<Option<Filter>>,
    dropped: AtomicUsize,
}

/// What existing connections are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    Cut,
    Freeze,
}

/// The proxy; ended by `Drop`.
pub struct Proxy {
    pub address: SocketAddr,
    shared: Arc<Shared>,
    orders: watch::Sender<Order>,
    task: JoinHandle<()>,
}

impl Proxy {
    pub async fn to(upstream: SocketAddr) -> Self {
        let address = port::free();
        let listener = TcpListener::bind(address).await.unwrap();
        let shared = Arc::new(Shared::default());
        let (orders, watcher) = watch::channel(Order::Cut);
        let task = tokio::spawn(accept(listener, upstream, Arc::clone(&shared), watcher));
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
        self.orders.send_replace(Order::Cut);
    }

    /// All connections fall silent in both directions without an end; new ones work.
    pub fn freeze(&self) {
        self.orders.send_replace(Order::Freeze);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.cut();
        self.task.abort();
    }
}

async fn accept(
    listener: TcpListener,
    upstream: SocketAddr,
    shared: Arc<Shared>,
    watcher: watch::Receiver<Order>,
) {
    loop {
        let (client, _) = listener.accept().await.unwrap();
        let shared = Arc::clone(&shared);
        let mut watcher = watcher.clone();
        watcher.mark_unchanged();
        tokio::spawn(async move {
            let Ok(server) = TcpStream::connect(upstream).await else {
                return;
            };
            let (mut from_client, mut to_client) = client.into_split();
            let (mut from_server, mut to_server) = server.into_split();
            tokio::select! {
                _ = tokio::io::copy(&mut from_client, &mut to_server) => return,
                () = filter(&mut from_server, &mut to_client, &shared) => return,
                _ = watcher.changed() => {}
            }
            // The sockets live on until they are cut.
            let _ = watcher.wait_for(|order| *order == Order::Cut).await;
        });
    }
}

async fn filter(from: &mut OwnedReadHalf, to: &mut OwnedWriteHalf, shared: &Shared) {
    let mut pending = Vec::new();
    while matches!(from.read_buf(&mut pending).await, Ok(1..)) {
        let mut at = 0;
        let mut pass = Vec::new();
        while let Some(length) = value_length(&pending[at..]) {
            let value = &pending[at..at + length];
            if loses(value, shared) {
                shared.dropped.fetch_add(1, Ordering::SeqCst);
            } else {
                pass.extend_from_slice(value);
            }
            at += length;
        }
        pending.drain(..at);
        if to.write_all(&pass).await.is_err() {
            return;
        }
    }
}

fn loses(value: &[u8], shared: &Shared) -> bool {
    if !matches!(value.first(), Some(b'*' | b'>')) {
        return false;
    }
    let mut words = Vec::new();
    let mut at = line_length(value).unwrap();
    while at < value.len() && value[at] == b'$' {
        let (head, body) = (
            line_length(&value[at..]).unwrap(),
            value_length(&value[at..]).unwrap(),
        );
        words.push(&value[at + head..(at + body - 2).max(at + head)]);
        at += body;
    }
    let (channel, payload) = match words[..] {
        [b"message" | b"smessage", channel, payload] | [b"pmessage", _, channel, payload] => {
            (channel, payload)
        }
        _ => return false,
    };
    let mut filter = shared.filter.lock().unwrap();
    filter
        .as_mut()
        .is_some_and(|filter| filter(&String::from_utf8_lossy(channel), payload))
}

/// Bytes of the first line with its CRLF.
fn line_length(bytes: &[u8]) -> Option<usize> {
    bytes.windows(2).position(|w| w == b"\r\n").map(|at| at + 2)
}

/// Bytes of the first whole value (RESP2 and RESP3), `None` while it is not all there.
fn value_length(bytes: &[u8]) -> Option<usize> {
    let line = line_length(bytes)?;
    let number: i64 = std::str::from_utf8(&bytes[1..line - 2])
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(0);
    let count = usize::try_from(number).unwrap_or(0);
    let children = match bytes[0] {
        b'$' | b'!' | b'=' if number >= 0 => {
            let end = line + count + 2;
            return (bytes.len() >= end).then_some(end);
        }
        b'*' | b'>' | b'~' => count,
        b'%' => 2 * count,
        b'|' => 2 * count + 1,
        _ => 0,
    };
    let mut end = line;
    for _ in 0..children {
        end += value_length(bytes.get(end..)?)?;
    }
    Some(end)
}

mod tests {
    use super::value_length;

    #[test]
    fn values_have_the_length_that_they_have() {
        for whole in [
            "+OK\r\n",
            "$-1\r\n",
            "$2\r\na\n\r\n",
            "*2\r\n:1\r\n*1\r\n$1\r\na\r\n",
            "%1\r\n+a\r\n>0\r\n",
            "*-1\r\n",
        ] {
            let bytes = whole.as_bytes();
            assert_eq!(value_length(bytes), Some(bytes.len()), "{whole:?}");
            assert_eq!(
                value_length(&[bytes, b"+x"].concat()),
                Some(bytes.len()),
                "{whole:?} and more"
            );
            for cut in 0..bytes.len() {
                assert_eq!(value_length(&bytes[..cut]), None, "{whole:?} up to {cut}");
            }
        }
    }
}

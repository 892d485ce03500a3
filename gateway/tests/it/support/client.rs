//! An `EventSource` as browsers have it, over a raw socket: it remembers the last event id, comes
//! back after `retry:` (shortened) to the next of its addresses, and stops for good at any answer
//! but 200.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

use super::http::Response;
use super::parse::{Block, Dechunker, Parser};

/// One dispatched event.
#[derive(Debug, Clone)]
pub struct Message {
    /// The block's own id.
    pub id: Option<String>,
    pub event: String,
    pub data: String,
    /// Which connection brought it, from 1; shown when ids are missing.
    pub connection: usize,
    /// When it was read.
    pub at: Instant,
}

impl Message {
    pub fn is_control(&self) -> bool {
        self.event.starts_with("stream.")
    }
}

/// What a client has seen so far.
#[derive(Debug, Default)]
pub struct Seen {
    pub messages: Vec<Message>,
    pub comments: usize,
    /// Answers with status 200.
    pub connections: usize,
    pub connected: bool,
    /// Bodies that ended with a final chunk.
    pub clean_ends: usize,
    pub unclean_ends: usize,
    /// Why it stopped for good.
    pub refused: Option<String>,
    pub last_event_id: String,
    pub retry_ms: Option<u64>,
    /// The head of the newest answer.
    pub head: Option<Response>,
    /// With `keep_bytes`: the body of the newest connection, without chunk heads...
    pub body: Vec<u8>,
    /// ...and chunk by chunk.
    pub chunks: Vec<Vec<u8>>,
}

type CutWhen = Arc<dyn Fn(&Message) -> bool + Send + Sync>;
type Observer = Arc<dyn Fn(&Message) + Send + Sync>;

/// How a client asks.
#[derive(Clone)]
pub struct Options {
    addresses: Vec<SocketAddr>,
    target: String,
    headers: Vec<(String, String)>,
    version: &'static str,
    last_event_id: String,
    keep_bytes: bool,
    comes_back: bool,
    receive_buffer: Option<u32>,
    from: Option<IpAddr>,
    cut_when: Option<CutWhen>,
    observer: Option<Observer>,
}

/// The longest a client waits before it comes back, whatever `retry:` says.
const MAX_RETRY: Duration = Duration::from_millis(40);

impl Options {
    pub fn query(mut self, query: &str) -> Self {
        self.target = format!("{}?{query}", self.target);
        self
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// As if it had seen this id already: sent from the first connection on.
    pub fn last_event_id(mut self, id: &str) -> Self {
        id.clone_into(&mut self.last_event_id);
        self
    }

    pub fn http10(mut self) -> Self {
        self.version = "HTTP/1.0";
        self
    }

    pub fn keep_bytes(mut self) -> Self {
        self.keep_bytes = true;
        self
    }

    /// One connection only.
    pub fn once(mut self) -> Self {
        self.comes_back = false;
        self
    }

    /// A small kernel buffer, so that a stall is felt soon.
    pub fn receive_buffer(mut self, bytes: u32) -> Self {
        self.receive_buffer = Some(bytes);
        self
    }

    /// From this address of the machine.
    pub fn from(mut self, address: &str) -> Self {
        self.from = Some(address.parse().unwrap());
        self
    }

    /// Drops the connection right after a message for which this is true; what else had arrived
    /// is lost, as on a cut line.
    pub fn cut_when(mut self, test: impl Fn(&Message) -> bool + Send + Sync + 'static) -> Self {
        self.cut_when = Some(Arc::new(test));
        self
    }

    /// Shows every message, and keeps the gateway's own only: for clients that see more than a test wants to hold.
    pub fn observe(mut self, observer: impl Fn(&Message) + Send + Sync + 'static) -> Self {
        self.observer = Some(Arc::new(observer));
        self
    }

    /// Starts without waiting for anything.
    pub fn start(self) -> Client {
        let seen = Arc::new(Mutex::new(Seen {
            last_event_id: self.last_event_id.clone(),
            ..Seen::default()
        }));
        let cut = Arc::new(Notify::new());
        let (stall, stalled) = watch::channel(false);
        let run = Run {
            options: self,
            seen: Arc::clone(&seen),
            cut: Arc::clone(&cut),
            stalled,
        };
        Client {
            seen,
            cut,
            stall,
            task: tokio::spawn(run.forever()),
        }
    }

    /// Starts and waits for `stream.open`.
    pub async fn open(self) -> Client {
        let client = self.start();
        client.wait_open().await;
        client
    }
}

/// A running client; ended by `Drop`.
pub struct Client {
    seen: Arc<Mutex<Seen>>,
    cut: Arc<Notify>,
    stall: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Client {
    /// A client of `/rooms/{room}/events`.
    pub fn of(addresses: &[SocketAddr], room: &str) -> Options {
        Self::of_target(addresses, &format!("/rooms/{room}/events"))
    }

    pub fn of_target(addresses: &[SocketAddr], target: &str) -> Options {
        Options {
            addresses: addresses.to_vec(),
            target: target.to_owned(),
            headers: vec![("Accept".into(), "text/event-stream".into())],
            version: "HTTP/1.1",
            last_event_id: String::new(),
            keep_bytes: false,
            comes_back: true,
            receive_buffer: None,
            from: None,
            cut_when: None,
            observer: None,
        }
    }

    pub fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap()
    }

    pub async fn wait_open(&self) {
        eventually!(
            !self.control("stream.open").is_empty(),
            "no stream.open: {:?}",
            self.seen()
        );
    }

    /// Waits until the last stored event that arrived is this one.
    pub async fn wait_id(&self, id: &str) {
        eventually!(
            self.ids().last().is_some_and(|last| last == id),
            "{id} never came last: {}",
            self.summary()
        );
    }

    /// Waits for this many events that are not the gateway's own.
    pub async fn wait_events(&self, count: usize) {
        eventually!(
            self.events().len() >= count,
            "fewer than {count} events: {}",
            self.summary()
        );
    }

    pub async fn wait_control(&self, name: &str) -> serde_json::Value {
        eventually!(
            !self.control(name).is_empty(),
            "no {name}: {}",
            self.summary()
        );
        self.control(name).remove(0)
    }

    /// Everything that is not the gateway's own.
    pub fn events(&self) -> Vec<Message> {
        self.seen()
            .messages
            .iter()
            .filter(|message| !message.is_control())
            .cloned()
            .collect()
    }

    /// Ids of stored events, in the order of arrival, over all connections.
    pub fn ids(&self) -> Vec<String> {
        self.seen()
            .messages
            .iter()
            .filter(|m| !m.is_control())
            .filter_map(|m| m.id.clone())
            .collect()
    }

    pub fn data(&self) -> Vec<String> {
        self.events()
            .into_iter()
            .map(|message| message.data)
            .collect()
    }

    /// Data of the control events of this name.
    pub fn control(&self, name: &str) -> Vec<serde_json::Value> {
        let seen = self.seen();
        let named = seen.messages.iter().filter(|message| message.event == name);
        named
            .map(|m| {
                serde_json::from_str(&m.data)
                    .unwrap_or_else(|e| panic!("{name}: {e}: {:?}", m.data))
            })
            .collect()
    }

    /// The id that the first control event of this name carried.
    pub fn control_id(&self, name: &str) -> Option<String> {
        self.seen()
            .messages
            .iter()
            .find(|message| message.event == name)
            .and_then(|message| message.id.clone())
    }

    pub fn resets(&self) -> Vec<serde_json::Value> {
        self.control("stream.reset")
    }

    /// Fails with what arrived around the first difference.
    #[track_caller]
    pub fn assert_ids(&self, what: &str, want: &[String]) {
        let got = self.ids();
        if let Some(at) = (0..got.len().max(want.len())).find(|&at| got.get(at) != want.get(at)) {
            let seen = self.seen();
            let last = at.checked_sub(1).map(|before| &got[before]);
            let near = seen
                .messages
                .iter()
                .position(|message| message.id.as_ref() == last);
            let from = near.unwrap_or_default().saturating_sub(3);
            eprintln!(
                "{what}: around the first difference, where {:?} was expected:",
                want.get(at)
            );
            for Message {
                id,
                event,
                data,
                connection,
                ..
            } in seen.messages[from..].iter().take(9)
            {
                eprintln!("  connection {connection}: {id:?} {event} {data}");
            }
        }
        super::assert_same_ids(what, &got, want);
    }

    #[track_caller]
    pub fn assert_never_reset(&self) {
        assert_eq!(
            self.resets(),
            Vec::<serde_json::Value>::new(),
            "a reset where nothing is gone"
        );
    }

    /// Drops the connection; it comes back as after any loss.
    pub fn cut(&self) {
        self.cut.notify_one();
    }

    /// Stops reading (`true`) or goes on.
    pub fn stall(&self, stalled: bool) {
        self.stall.send_replace(stalled);
    }

    /// For messages of failed tests: the last few things only.
    pub fn summary(&self) -> String {
        let seen = self.seen();
        let tail: Vec<_> = seen.messages.iter().rev().take(6).rev().collect();
        format!(
            "{} messages on {} connections (connected: {}, refused: {:?}, last id {:?}), at the end {tail:?}",
            seen.messages.len(),
            seen.connections,
            seen.connected,
            seen.refused,
            seen.last_event_id
        )
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Run {
    options: Options,
    seen: Arc<Mutex<Seen>>,
    cut: Arc<Notify>,
    stalled: watch::Receiver<bool>,
}

impl Run {
    async fn forever(mut self) {
        for turn in 0.. {
            let address = self.options.addresses[turn % self.options.addresses.len()];
            let cut = Arc::clone(&self.cut);
            let end = tokio::select! {
                end = self.connection(address) => end,
                () = cut.notified() => Ok(()),
            };
            let retry = {
                let mut seen = self.seen.lock().unwrap();
                seen.connected = false;
                if let Err(refused) = end {
                    seen.refused = Some(refused);
                    return;
                }
                seen.retry_ms
                    .map_or(MAX_RETRY, Duration::from_millis)
                    .min(MAX_RETRY)
            };
            if !self.options.comes_back {
                return;
            }
            tokio::time::sleep(retry).await;
        }
    }

    /// `Err`: the client must not come back.
    async fn connection(&mut self, address: SocketAddr) -> Result<(), String> {
        let Ok(mut socket) = self.connect(address).await else {
            return Ok(());
        };
        let mut pending = Vec::new();
        let head = loop {
            if let Some(end) = pending.windows(4).position(|w| w == b"\r\n\r\n") {
                break String::from_utf8(pending.drain(..end + 4).collect()).unwrap();
            }
            if !self.read(&mut socket, &mut pending).await {
                return Ok(());
            }
        };
        let head = Response::parse_head(&head);
        let media_type = head.header("content-type").unwrap_or_default().to_owned();
        if head.status != 200 || !media_type.starts_with("text/event-stream") {
            return Err(format!("{} {media_type}", head.status));
        }
        let chunked = head.header("transfer-encoding").is_some();
        {
            let mut seen = self.seen.lock().unwrap();
            seen.connections += 1;
            seen.connected = true;
            seen.head = Some(head);
            seen.body.clear();
            seen.chunks.clear();
        }
        let mut dechunker = Dechunker::default();
        let mut parser = Parser::default();
        loop {
            if !pending.is_empty() {
                let bytes = if chunked {
                    dechunker.feed(&pending);
                    if self.options.keep_bytes {
                        self.seen
                            .lock()
                            .unwrap()
                            .chunks
                            .extend(dechunker.chunks.iter().cloned());
                    }
                    dechunker.take()
                } else {
                    pending.clone()
                };
                pending.clear();
                if self.take(&bytes, &mut parser) {
                    return Ok(());
                }
            }
            if dechunker.done {
                self.seen.lock().unwrap().clean_ends += 1;
                return Ok(());
            }
            if !self.read(&mut socket, &mut pending).await {
                self.seen.lock().unwrap().unclean_ends += 1;
                return Ok(());
            }
        }
    }

    async fn connect(&self, address: SocketAddr) -> std::io::Result<TcpStream> {
        let socket = TcpSocket::new_v4()?;
        if let Some(bytes) = self.options.receive_buffer {
            socket.set_recv_buffer_size(bytes)?;
        }
        if let Some(from) = self.options.from {
            socket.bind(SocketAddr::new(from, 0))?;
        }
        let mut socket = socket.connect(address).await?;
        let Options {
            target,
            version,
            headers,
            ..
        } = &self.options;
        let mut request = format!("GET {target} {version}\r\nHost: {address}\r\n");
        for (name, value) in headers {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        let last_event_id = self.seen.lock().unwrap().last_event_id.clone();
        if !last_event_id.is_empty() {
            request.push_str(&format!("Last-Event-ID: {last_event_id}\r\n"));
        }
        request.push_str("\r\n");
        socket.write_all(request.as_bytes()).await?;
        Ok(socket)
    }

    /// `false`: the connection is at its end.
    async fn read(&mut self, socket: &mut TcpStream, pending: &mut Vec<u8>) -> bool {
        let _ = self.stalled.wait_for(|stalled| !stalled).await;
        tokio::select! {
            biased;
            // A stall that begins while nothing arrives must hold what arrives later.
            _ = self.stalled.wait_for(|stalled| *stalled) => true,
            read = socket.read_buf(pending) => matches!(read, Ok(1..)),
        }
    }

    /// `true`: the connection is to be cut now.
    fn take(&self, bytes: &[u8], parser: &mut Parser) -> bool {
        let blocks = parser.feed(bytes);
        let mut seen = self.seen.lock().unwrap();
        seen.comments += std::mem::take(&mut parser.comments);
        if self.options.keep_bytes {
            seen.body.extend_from_slice(bytes);
        }
        for Block {
            id,
            event,
            data,
            retry_ms,
        } in blocks
        {
            if let Some(id) = &id {
                seen.last_event_id.clone_from(id);
            }
            seen.retry_ms = retry_ms.or(seen.retry_ms);
            let Some(data) = data else { continue };
            let message = Message {
                id,
                event,
                data,
                connection: seen.connections,
                at: Instant::now(),
            };
            if let Some(observer) = &self.options.observer {
                observer(&message);
                if !message.is_control() {
                    continue;
                }
            }
            let cut = self
                .options
                .cut_when
                .as_ref()
                .is_some_and(|test| test(&message));
            seen.messages.push(message);
            if cut {
                return true;
            }
        }
        false
    }
}

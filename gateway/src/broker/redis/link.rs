//! The connection that carries subscriptions and nothing else.

use std::io;
use std::time::Duration;

use bytes::BytesMut;
use redis::{ConnectionAddr, ConnectionInfo};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::{TcpStream, UnixStream};

use super::resp::{self, Kind, Push, RespError};

/// Channels that one `SUBSCRIBE` names at most.
const BATCH: usize = 512;
/// Read at once at most.
const READ_BYTES: usize = 64 * 1024;

trait Socket: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Socket for T {}

/// A connection in subscribed mode.
pub(super) struct Link {
    reader: ReadHalf<Box<dyn Socket>>,
    writer: WriteHalf<Box<dyn Socket>>,
    input: BytesMut,
    output: BytesMut,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link").finish_non_exhaustive()
    }
}

impl Link {
    /// Connects and logs in; an error is one clause.
    ///
    /// # Errors
    /// The server cannot be reached, does not answer in time, or refuses.
    pub(super) async fn connect(
        info: &ConnectionInfo,
        name: &str,
        patience: Duration,
    ) -> Result<Self, String> {
        match tokio::time::timeout(patience, Self::open(info, name)).await {
            Ok(result) => result,
            Err(_) => Err("it does not answer in time".into()),
        }
    }

    async fn open(info: &ConnectionInfo, name: &str) -> Result<Self, String> {
        let socket = dial(info.addr()).await.map_err(|error| error.to_string())?;
        let (reader, writer) = tokio::io::split(socket);
        let mut link = Self {
            reader,
            writer,
            input: BytesMut::with_capacity(READ_BYTES),
            output: BytesMut::new(),
        };
        let settings = info.redis_settings();
        if let Some(password) = settings.password() {
            match settings.username() {
                Some(user) => {
                    link.command(&[b"AUTH", user.as_bytes(), password.as_bytes()]);
                }
                None => link.command(&[b"AUTH", password.as_bytes()]),
            }
            link.expect_answer().await?;
        }
        link.command(&[b"CLIENT", b"SETNAME", client_name(name).as_bytes()]);
        // A refused name is no reason to stop.
        let _ = link.expect_answer().await;
        // Says whether the server serves at all: it may be loading its data.
        link.command(&[b"PING"]);
        link.expect_answer().await?;
        Ok(link)
    }

    fn command(&mut self, words: &[&[u8]]) {
        resp::command(&mut self.output, words);
    }

    async fn expect_answer(&mut self) -> Result<(), String> {
        loop {
            match self.next().map_err(|error| error.to_string())? {
                Some(push) if push.kind == Kind::Error => {
                    let text = String::from_utf8_lossy(&push.payload()).into_owned();
                    return Err(text);
                }
                Some(_) => return Ok(()),
                None => self.progress().await.map_err(|error| error.to_string())?,
            }
        }
    }

    /// Asks for channels; each is confirmed by a push of its own.
    pub(super) fn subscribe<'a>(&mut self, channels: impl IntoIterator<Item = &'a [u8]>) {
        self.in_batches(b"SUBSCRIBE", channels);
    }

    /// Gives channels up.
    pub(super) fn unsubscribe<'a>(&mut self, channels: impl IntoIterator<Item = &'a [u8]>) {
        self.in_batches(b"UNSUBSCRIBE", channels);
    }

    fn in_batches<'a>(&mut self, word: &'a [u8], channels: impl IntoIterator<Item = &'a [u8]>) {
        let mut words = vec![word];
        for channel in channels {
            words.push(channel);
            if words.len() > BATCH {
                self.command(&words);
                words.truncate(1);
            }
        }
        if words.len() > 1 {
            self.command(&words);
        }
    }

    /// The next push that has arrived completely.
    ///
    /// # Errors
    /// The peer is not a Redis server.
    pub(super) fn next(&mut self) -> Result<Option<Push>, RespError> {
        resp::next(&mut self.input)
    }

    /// Waits until bytes came or went. Loses nothing when it is dropped.
    ///
    /// # Errors
    /// The connection is gone.
    pub(super) async fn progress(&mut self) -> io::Result<()> {
        self.input.reserve(READ_BYTES);
        tokio::select! {
            read = self.reader.read_buf(&mut self.input) => match read? {
                0 => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it closed the connection")),
                _ => Ok(()),
            },
            written = self.writer.write_buf(&mut self.output), if !self.output.is_empty() => {
                written.map(|_| ())
            }
        }
    }
}

async fn dial(address: &ConnectionAddr) -> io::Result<Box<dyn Socket>> {
    match address {
        ConnectionAddr::Tcp(host, port) => {
            let socket = TcpStream::connect((host.as_str(), *port)).await?;
            socket.set_nodelay(true)?;
            let keepalive = socket2::TcpKeepalive::new()
                .with_time(Duration::from_secs(15))
                .with_interval(Duration::from_secs(5));
            socket2::SockRef::from(&socket).set_tcp_keepalive(&keepalive)?;
            Ok(Box::new(socket))
        }
        ConnectionAddr::Unix(path) => Ok(Box::new(UnixStream::connect(path).await?)),
        _ => Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "only redis:// and redis+unix:// addresses are supported",
        )),
    }
}

/// `CLIENT SETNAME` refuses spaces and control characters.
fn client_name(node: &str) -> String {
    let clean = |c: char| if c.is_ascii_graphic() { c } else { '-' };
    format!(
        "sse-gateway:{}",
        node.chars().map(clean).collect::<String>()
    )
}

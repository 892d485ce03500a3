//! The connection that carries subscriptions and nothing else.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use protocol::servers::{Address, Servers};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;

use super::resp::{self, Kind, Push, RespError};
use super::rooms::Room;

/// Channels that one `SUBSCRIBE` names at most.
const BATCH: usize = 512;
/// Read at once at most.
const READ_BYTES: usize = 64 * 1024;

trait Socket: AsyncRead + AsyncWrite + Send + Sync + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Sync + Unpin> Socket for T {}

/// A connection in subscribed mode.
pub(super) struct Link {
    reader: ReadHalf<Box<dyn Socket>>,
    writer: WriteHalf<Box<dyn Socket>>,
    input: BytesMut,
    output: BytesMut,
    /// What was written may still be in the hands of TLS.
    is_flushed: bool,
    /// Rooms have shard channels.
    is_sharded: bool,
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
        servers: &Servers,
        address: &Address,
        name: &str,
        patience: Duration,
    ) -> Result<Self, String> {
        match tokio::time::timeout(patience, Self::open(servers, address, name)).await {
            Ok(result) => result,
            Err(_) => Err("it does not answer in time".into()),
        }
    }

    async fn open(servers: &Servers, address: &Address, name: &str) -> Result<Self, String> {
        // Read now: both may have been replaced since the last connection.
        let (user, password) = servers.login().map_err(|error| error.to_string())?;
        let tls = servers.tls().map_err(|error| error.to_string())?;
        let tls = tls.map(|config| TlsConnector::from(Arc::new(config)));
        let socket = dial(address, tls)
            .await
            .map_err(|error| error.to_string())?;
        let (reader, writer) = tokio::io::split(socket);
        let mut link = Self {
            reader,
            writer,
            input: BytesMut::with_capacity(READ_BYTES),
            output: BytesMut::new(),
            is_flushed: true,
            is_sharded: servers.is_cluster(),
        };
        if let Some(password) = password {
            match user {
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
        self.is_flushed = false;
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

    /// Asks for one channel that is not a room's.
    pub(super) fn subscribe(&mut self, channel: &[u8]) {
        let word: &[u8] = if self.is_sharded {
            b"SSUBSCRIBE"
        } else {
            b"SUBSCRIBE"
        };
        self.command(&[word, channel]);
    }

    /// Asks for the channels of rooms; each is confirmed by a push of its own.
    pub(super) fn join<'a>(&mut self, rooms: impl Iterator<Item = &'a Room>) {
        self.in_batches([b"SUBSCRIBE", b"SSUBSCRIBE"], rooms);
    }

    /// Gives the channels of rooms up.
    pub(super) fn leave<'a>(&mut self, rooms: impl Iterator<Item = &'a Room>) {
        self.in_batches([b"UNSUBSCRIBE", b"SUNSUBSCRIBE"], rooms);
    }

    /// The channel of a room goes last, so that its confirmation stands for both. Shard channels
    /// go one by one: a command must not name two of different slots.
    fn in_batches<'a>(
        &mut self,
        [word, shard_word]: [&'a [u8]; 2],
        rooms: impl Iterator<Item = &'a Room>,
    ) {
        let (mut words, mut sharded) = (vec![word], Vec::new());
        for room in rooms {
            words.push(&room.keyspace);
            if self.is_sharded {
                sharded.push(&room.channel[..]);
            } else {
                words.push(&room.channel);
            }
            if words.len() > BATCH {
                self.batch(&mut words, shard_word, &mut sharded);
            }
        }
        if words.len() > 1 {
            self.batch(&mut words, shard_word, &mut sharded);
        }
    }

    fn batch<'a>(
        &mut self,
        words: &mut Vec<&'a [u8]>,
        shard_word: &[u8],
        sharded: &mut Vec<&'a [u8]>,
    ) {
        self.command(words);
        words.truncate(1);
        for channel in sharded.drain(..) {
            self.command(&[shard_word, channel]);
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
        let Self {
            reader,
            writer,
            input,
            output,
            is_flushed,
            ..
        } = self;
        input.reserve(READ_BYTES);
        let is_due = !output.is_empty() || !*is_flushed;
        let write = async {
            if output.is_empty() {
                writer.flush().await?;
                *is_flushed = true;
                Ok(())
            } else {
                writer.write_buf(output).await.map(|_| ())
            }
        };
        tokio::select! {
            read = reader.read_buf(input) => match read? {
                0 => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it closed the connection")),
                _ => Ok(()),
            },
            written = write, if is_due => written,
        }
    }
}

async fn dial(address: &Address, tls: Option<TlsConnector>) -> io::Result<Box<dyn Socket>> {
    let (host, port) = match address {
        Address::Tcp(host, port) => (host, *port),
        Address::Unix(path) => return Ok(Box::new(UnixStream::connect(path).await?)),
    };
    let socket = TcpStream::connect((host.as_str(), port)).await?;
    socket.set_nodelay(true)?;
    let keepalive = socket2::TcpKeepalive::new()
        .with_time(Duration::from_secs(15))
        .with_interval(Duration::from_secs(5));
    socket2::SockRef::from(&socket).set_tcp_keepalive(&keepalive)?;
    let Some(tls) = tls else {
        return Ok(Box::new(socket));
    };
    let name = ServerName::try_from(host.clone()).map_err(io::Error::other)?;
    Ok(Box::new(tls.connect(name, socket).await?))
}

/// `CLIENT SETNAME` refuses spaces and control characters.
fn client_name(node: &str) -> String {
    let clean = |c: char| if c.is_ascii_graphic() { c } else { '-' };
    format!(
        "sse-gateway:{}",
        node.chars().map(clean).collect::<String>()
    )
}

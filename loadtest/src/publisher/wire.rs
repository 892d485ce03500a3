//! The bytes of publishing: HTTP requests, or Redis commands in a pipeline.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use protocol::publish::{FUNCTION_NAME, PublishArgs, VERSION_FUNCTION_NAME, library};
use redis::{Cmd, Parser, Value};
use url::Url;

use crate::report::without_password;
use crate::target::{Publish, With};
use crate::tls::{Duplex, Tls, TlsError};
use crate::worker::response::{Part, Response};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Seconds of idleness after which Redis forgets the rooms of a run.
const EXPIRE: u64 = 3_600;

/// Why nothing can be published.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The address does not answer.
    #[error("cannot connect to {0} to publish: {1}")]
    Connect(String, #[source] io::Error),
    /// Not a URL that this tool can use.
    #[error("{0} is not a URL like redis://user:password@127.0.0.1:6379/0: {1}")]
    Url(String, &'static str),
    /// The server cannot be spoken to.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Redis refuses.
    #[error("Redis refuses {0}: {1}")]
    Refused(&'static str, String),
}

/// The half that sends.
pub(super) struct Wire {
    stream: Stream,
    address: SocketAddr,
    window: usize,
}

/// What bytes are written to.
enum Stream {
    Plain(TcpStream),
    Http(Arc<Duplex>),
}

/// The half that reads what became of it.
pub(super) enum Answers {
    Http(Arc<Duplex>),
    Redis(TcpStream, Parser),
}

/// Where Redis is, and who we are there.
struct Server {
    address: SocketAddr,
    login: Option<(String, String)>,
    database: i64,
}

impl Server {
    fn parse(text: &str) -> Result<Self, WireError> {
        let bad = |why| WireError::Url(without_password(text), why);
        let url = Url::parse(text).map_err(|_| bad("it cannot be read"))?;
        if url.scheme() != "redis" {
            return Err(bad("only redis:// is supported here"));
        }
        let host = url.host_str().ok_or_else(|| bad("it names no host"))?;
        let port = url.port().unwrap_or(6379);
        let address = (host.trim_matches(['[', ']']), port)
            .to_socket_addrs()
            .ok()
            .and_then(|mut found| found.next())
            .ok_or_else(|| bad("its host has no address"))?;
        let user = match url.username() {
            "" => "default",
            user => user,
        };
        let login = url.password().map(|p| (user.to_owned(), p.to_owned()));
        let database = match url.path().trim_matches('/') {
            "" => 0,
            number => number
                .parse()
                .map_err(|_| bad("its path is not a database's number"))?,
        };
        Ok(Self {
            address,
            login,
            database,
        })
    }
}

/// A connection for commands one by one.
pub struct Redis {
    stream: TcpStream,
    parser: Parser,
}

impl Redis {
    /// Connects, and logs in where the URL says so.
    ///
    /// # Errors
    /// The URL is bad, or the server away or unwilling.
    pub fn connect(url: &str) -> Result<Self, WireError> {
        let server = Server::parse(url)?;
        let stream = open(server.address)?;
        let mut redis = Self {
            stream,
            parser: Parser::new(),
        };
        if let Some((user, password)) = &server.login {
            redis.ask("AUTH", redis::cmd("AUTH").arg(user).arg(password))?;
        }
        if server.database != 0 {
            redis.ask("SELECT", redis::cmd("SELECT").arg(server.database))?;
        }
        Ok(redis)
    }

    /// Sends a command and waits for its answer.
    ///
    /// # Errors
    /// The server is away, or answers with an error.
    pub fn ask(&mut self, name: &'static str, command: &Cmd) -> Result<Value, WireError> {
        let refused = |why: String| WireError::Refused(name, why);
        self.stream
            .write_all(&command.get_packed_command())
            .map_err(|error| refused(error.to_string()))?;
        match self.parser.parse_value(&mut self.stream) {
            Ok(Value::ServerError(error)) => Err(refused(format!("{error:?}"))),
            Ok(value) => Ok(value),
            Err(error) => Err(refused(error.to_string())),
        }
    }
}

fn open(address: SocketAddr) -> Result<TcpStream, WireError> {
    let stream = TcpStream::connect_timeout(&address, CONNECT_TIMEOUT)
        .map_err(|error| WireError::Connect(address.to_string(), error))?;
    // Latency matters more than packets; where it cannot be set, figures are only worse.
    let _ = stream.set_nodelay(true);
    Ok(stream)
}

/// Connects for HTTP/1.1, over TLS where that is asked for.
fn connect(address: SocketAddr, tls: Option<&Tls>) -> Result<Duplex, WireError> {
    let failed = |error| WireError::Connect(address.to_string(), error);
    let session = tls.map(Tls::session).transpose()?;
    Duplex::new(open(address)?, session).map_err(failed)
}

/// Puts in place what publishing needs.
pub(super) fn prepare(publish: &Publish) -> Result<(), WireError> {
    let Publish::Function { redis } = publish else {
        return Ok(());
    };
    let mut server = Redis::connect(redis)?;
    let mut version = redis::cmd("FCALL_RO");
    version.arg(VERSION_FUNCTION_NAME).arg(0);
    if server.ask("FCALL_RO", &version).is_ok() {
        return Ok(());
    }
    let mut load = redis::cmd("FUNCTION");
    load.arg("LOAD").arg("REPLACE").arg(library());
    server.ask("FUNCTION LOAD", &load).map(|_| ())
}

impl Wire {
    pub(super) fn connect(publish: &Publish, at: usize) -> Result<(Self, Answers), WireError> {
        match publish {
            Publish::Http { addresses, tls, .. } => {
                let address = addresses[at % addresses.len()];
                let stream = Arc::new(connect(address, tls.as_ref())?);
                let wire = Self {
                    stream: Stream::Http(stream.clone()),
                    address,
                    window: 1,
                };
                Ok((wire, Answers::Http(stream)))
            }
            Publish::Function { redis } | Publish::Xadd { redis } => {
                let failed = |error| WireError::Connect(without_password(redis), error);
                let Redis { stream, parser } = Redis::connect(redis)?;
                let address = stream.peer_addr().map_err(failed)?;
                let reader = stream.try_clone().map_err(failed)?;
                let wire = Self {
                    stream: Stream::Plain(stream),
                    address,
                    window: 4_096,
                };
                Ok((wire, Answers::Redis(reader, parser)))
            }
        }
    }

    /// Events that may be under way at once: an HTTP connection takes one request after the other.
    pub(super) fn window(&self) -> usize {
        self.window
    }

    /// Sends an event; whether the connection took it.
    pub(super) fn send(
        &mut self,
        publish: &Publish,
        room: &str,
        data: &str,
        keep: Option<u64>,
    ) -> bool {
        let bytes = match publish {
            Publish::Http { request, .. } => {
                let with = With {
                    room,
                    data,
                    ..With::default()
                };
                request.render(self.address, with)
            }
            Publish::Function { .. } => {
                let args = PublishArgs {
                    data: data.as_bytes(),
                    max_len: keep,
                    expire_seconds: Some(EXPIRE),
                    ..PublishArgs::default()
                };
                let mut command = redis::cmd("FCALL");
                command.arg(FUNCTION_NAME).arg(1).arg(key(room));
                command.arg(args.to_args()).get_packed_command()
            }
            Publish::Xadd { .. } => {
                let mut command = redis::cmd("XADD");
                command.arg(key(room)).arg("MAXLEN").arg("~");
                command.arg(keep.unwrap_or(protocol::publish::DEFAULT_MAX_LEN));
                command.arg("*").arg("data").arg(data).get_packed_command()
            }
        };
        let written = match &mut self.stream {
            Stream::Plain(stream) => stream.write_all(&bytes),
            Stream::Http(stream) => (&**stream).write_all(&bytes),
        };
        written.is_ok()
    }

    /// Ends the connection, so that the half that reads notices.
    pub(super) fn shut(&self) {
        // It may be closed already.
        let _ = match &self.stream {
            Stream::Plain(stream) => stream,
            Stream::Http(stream) => stream.socket(),
        }
        .shutdown(Shutdown::Both);
    }
}

/// The stream's key, with the prefix that everything has unless it is told otherwise.
fn key(room: &str) -> String {
    format!("sse:room:{room}")
}

impl Answers {
    /// Waits for the next answer: whether the event was accepted.
    pub(super) fn next(&mut self) -> io::Result<bool> {
        match self {
            Self::Redis(stream, parser) => match parser.parse_value(stream) {
                Ok(value) => Ok(!matches!(value, Value::ServerError(_))),
                Err(error) => Err(io::Error::other(error)),
            },
            Self::Http(stream) => {
                let (mut response, mut buffer) = (Response::default(), [0; 4_096]);
                let (mut status, mut complete) = (0, false);
                while !complete {
                    let got = (&**stream).read(&mut buffer)?;
                    if got == 0 {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                    response
                        .feed(&buffer[..got], |part| match part {
                            Part::Head { status: of, .. } => status = of,
                            Part::Body(_) => {}
                            Part::End => complete = true,
                        })
                        .map_err(io::Error::other)?;
                }
                Ok((200..300).contains(&status))
            }
        }
    }
}

//! Servers to compare with: `sse-loadtest serve`.

mod floor;
mod grip;
mod plain;
mod relay;
mod request;
mod subscriber;

use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener};

use clap::{Args, Subcommand};
use socket2::{Domain, Socket, Type};

/// Connections that wait to be accepted.
const BACKLOG: i32 = 4_096;

/// Which server.
#[derive(Debug, Clone, Args)]
pub struct Serve {
    #[command(subcommand)]
    kind: Kind,
}

#[derive(Debug, Clone, Subcommand)]
enum Kind {
    /// One thread, one epoll, one write per delivery: what one core can do. With Redis, a bare relay.
    Floor {
        /// Where to listen
        #[arg(long, default_value = "127.0.0.1:0")]
        listen: SocketAddr,
        /// Redis, whose messages are written to the rooms' streams
        #[arg(long, value_name = "URL")]
        redis: Option<String>,
    },
    /// A response body per connection over a broadcast channel per room.
    Plain {
        /// Where to listen
        #[arg(long, default_value = "127.0.0.1:0")]
        listen: SocketAddr,
    },
    /// Reads and drops the messages of rooms.
    Subscriber {
        /// Redis
        #[arg(long, value_name = "URL")]
        redis: String,
        /// Rooms, from 0
        #[arg(long)]
        rooms: u32,
        /// What their names begin with
        #[arg(long, default_value = "load-")]
        prefix: String,
    },
    /// The origin that Pushpin asks.
    GripOrigin {
        /// Where to listen
        #[arg(long, default_value = "127.0.0.1:0")]
        listen: SocketAddr,
    },
}

/// Why a server ends.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address cannot be had.
    #[error("cannot listen on {0}: {1}")]
    Listen(SocketAddr, #[source] io::Error),
    /// The system refuses something.
    #[error("the server cannot go on: {0}")]
    System(#[from] io::Error),
    /// Redis is away or refuses.
    #[error("Redis: {0}")]
    Redis(String),
}

/// Serves until it is killed.
///
/// # Errors
/// The address cannot be had, or Redis is away.
pub fn run(serve: Serve) -> Result<(), ServeError> {
    match serve.kind {
        Kind::Floor { listen, redis } => {
            let relay = redis.as_deref().map(relay::Relay::connect).transpose()?;
            floor::serve(bind(listen)?, relay)
        }
        Kind::Plain { listen } => plain::serve(bind(listen)?),
        Kind::Subscriber {
            redis,
            rooms,
            prefix,
        } => subscriber::serve(&redis, rooms, &prefix),
        Kind::GripOrigin { listen } => grip::serve(bind(listen)?),
    }
}

/// Listens, and says where.
fn bind(address: SocketAddr) -> Result<TcpListener, ServeError> {
    let listen = || {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        Ok(TcpListener::from(socket))
    };
    let listener = listen().map_err(|error| ServeError::Listen(address, error))?;
    say(&format!("listening on {}", listener.local_addr()?))?;
    Ok(listener)
}

/// A line for whoever started the server.
fn say(line: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

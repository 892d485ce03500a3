//! Listening sockets, and what every accepted socket is set to.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tracing::{info, warn};

/// Pause after an accept that failed for want of descriptors or memory.
const BACK_OFF: Duration = Duration::from_millis(100);
/// Sockets accepted before other work of the thread gets its turn.
const TURN: u32 = 64;
/// Unsent bytes in the kernel above which a socket is not writable.
const NOTSENT_LOWAT: u32 = 16 * 1024;
/// Silence after which the kernel asks whether the peer is there, and how often it asks again.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(15));
/// Sent data that stays unacknowledged this long ends the connection.
const USER_TIMEOUT: Duration = Duration::from_secs(60);
/// Seconds that the kernel waits for a connection's first bytes, rounded up to its next retransmission.
#[cfg(target_os = "linux")]
const DEFER_ACCEPT: i32 = 1;

/// An address that cannot be listened on; one sentence.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Another process, perhaps another gateway, is there.
    #[error("{0} is in use by another process: stop it, or choose another address with {1}")]
    InUse(SocketAddr, &'static str),
    /// Anything else.
    #[error("cannot listen on {0} ({1}): {2}")]
    Other(SocketAddr, &'static str, io::Error),
}

/// A connection, just accepted.
#[derive(Debug)]
pub struct Accepted {
    /// Non-blocking, with no runtime's watch on it.
    pub socket: TcpStream,
    /// The other end, as the kernel told it with the connection.
    pub peer: Option<SocketAddr>,
}

/// Takes an address. `flag` is what sets it, for the message.
///
/// # Errors
/// The address is in use, or not ours.
pub fn bind(
    address: SocketAddr,
    backlog: u32,
    flag: &'static str,
) -> Result<TcpListener, ListenError> {
    let listen = || {
        let socket = Socket::new(
            Domain::for_address(address),
            Type::STREAM,
            Some(Protocol::TCP),
        )?;
        // For a quick restart. Never SO_REUSEPORT: a second process would bind without a word.
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(i32::try_from(backlog).unwrap_or(i32::MAX))?;
        Ok(TcpListener::from(socket))
    };
    listen().map_err(|error: io::Error| match error.kind() {
        io::ErrorKind::AddrInUse => ListenError::InUse(address, flag),
        _ => ListenError::Other(address, flag, error),
    })
}

/// Accepts until dropped and hands each connection to `take`.
///
/// # Errors
/// The listener does not fit into the runtime.
pub async fn accept<F, R>(listener: TcpListener, mut take: F) -> io::Result<()>
where
    F: FnMut(Accepted) -> R,
    R: Future<Output = ()>,
{
    let listener = watch(listener)?;
    let (mut starved, mut in_a_row) = (false, 0);
    loop {
        let mut ready = listener.readable().await?;
        let Ok(accepted) = ready.try_io(|listener| accept_one(listener.get_ref())) else {
            in_a_row = 0;
            continue;
        };
        match accepted {
            Ok(connection) => {
                if std::mem::take(&mut starved) {
                    info!("New connections are accepted again.");
                }
                take(connection).await;
                in_a_row += 1;
                if in_a_row % TURN == 0 {
                    tokio::task::yield_now().await;
                }
            }
            // The client went before it was accepted.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                if !std::mem::replace(&mut starved, true) {
                    warn!(%error, "No new connection can be accepted now: raise the limit of open files (ulimit -n).");
                }
                tokio::time::sleep(BACK_OFF).await;
            }
        }
    }
}

/// Lets the runtime watch the listener. tokio's own listener would put every accepted socket under watch too, for
/// two system calls each.
fn watch(listener: TcpListener) -> io::Result<AsyncFd<TcpListener>> {
    // SAFETY: `register_with_interest` asks that `as_raw_fd` returns the same descriptor every time, open for
    // as long as the `AsyncFd` owns the value. A `TcpListener` owns its descriptor, returns just that one, and
    // closes it only when it is dropped, which the `AsyncFd` does after deregistering it.
    #[allow(unsafe_code)]
    let watched = unsafe { AsyncFd::register_with_interest(listener, Interest::READABLE) };
    watched.map_err(|error| io::Error::other(error.to_string()))
}

/// One system call instead of four: the address of the other end comes with the socket.
#[cfg(target_os = "linux")]
fn accept_one(listener: &TcpListener) -> io::Result<Accepted> {
    use rustix::net::{SocketFlags, acceptfrom_with};
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let (socket, peer) = acceptfrom_with(listener, flags)?;
    Ok(Accepted {
        socket: socket.into(),
        peer: peer.and_then(|peer| peer.try_into().ok()),
    })
}

#[cfg(not(target_os = "linux"))]
fn accept_one(listener: &TcpListener) -> io::Result<Accepted> {
    let (socket, peer) = listener.accept()?;
    socket.set_nonblocking(true)?;
    Ok(Accepted {
        socket,
        peer: Some(peer),
    })
}

/// Has the kernel keep a connection to itself until its first bytes are there: the request is then found by the
/// first look at the socket, without a wake-up in between. A client that says nothing is accepted some seconds later
/// all the same. A kernel that does not know the option does without (tcp(7), `TCP_DEFER_ACCEPT`).
#[cfg(target_os = "linux")]
fn defer_accept(listener: &TcpListener) {
    use std::os::fd::AsRawFd;
    let seconds: libc::c_int = DEFER_ACCEPT;
    let length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: setsockopt(2) reads `length` bytes at the pointer before it returns, and writes nothing. The pointer is
    // that of a living `c_int`, `length` is its size, and the borrowed listener keeps the descriptor open.
    #[allow(unsafe_code)]
    let result = unsafe {
        libc::setsockopt(
            listener.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_DEFER_ACCEPT,
            (&raw const seconds).cast(),
            length,
        )
    };
    if result != 0 {
        tracing::debug!(error = %io::Error::last_os_error(), "Connections are accepted before their request is there.");
    }
}

/// Sets a listener up for streams: no delay, little kernel memory, and an end for peers that have vanished.
/// Accepted sockets inherit all of it from their listener, so that it costs nothing per connection.
///
/// # Errors
/// The system knows one of the options not.
pub fn tune(listener: &TcpListener, send_buffer: usize) -> io::Result<()> {
    let socket = SockRef::from(listener);
    let (idle, interval) = KEEPALIVE;
    let keepalive = TcpKeepalive::new().with_time(idle).with_interval(interval);
    socket.set_tcp_nodelay(true)?;
    socket.set_send_buffer_size(send_buffer)?;
    socket.set_tcp_keepalive(&keepalive)?;
    #[cfg(target_os = "linux")]
    {
        socket.set_tcp_notsent_lowat(NOTSENT_LOWAT)?;
        socket.set_tcp_user_timeout(Some(USER_TIMEOUT))?;
        defer_accept(listener);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_used_port_is_one_sentence() {
        let first = bind("127.0.0.1:0".parse().unwrap(), 16, "--listen").unwrap();
        let error = bind(first.local_addr().unwrap(), 16, "--listen").unwrap_err();
        assert!(matches!(error, ListenError::InUse(..)), "{error}");
        assert!(!error.to_string().contains('\n') && error.to_string().contains("--listen"));
    }

    /// What the kernel does on its own is still ours to rely on.
    #[cfg(target_os = "linux")]
    #[test]
    fn accepted_sockets_have_the_options_of_their_listener() {
        use std::io::Write as _;

        let listener = bind("127.0.0.1:0".parse().unwrap(), 16, "--listen").unwrap();
        tune(&listener, 64 * 1024).unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        // Until then the connection is the kernel's.
        client.write_all(b"GET").unwrap();
        let Accepted { socket, peer } = loop {
            match accept_one(&listener) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => std::thread::yield_now(),
                accepted => break accepted.unwrap(),
            }
        };
        assert_eq!(peer, client.local_addr().ok());
        assert_eq!(
            socket.peek(&mut [0; 8]).unwrap(),
            3,
            "the first look finds the request"
        );
        let socket = SockRef::from(&socket);
        assert!(socket.tcp_nodelay().unwrap() && socket.keepalive().unwrap());
        // The kernel doubles what is asked for, for its own needs.
        assert_eq!(socket.send_buffer_size().unwrap(), 128 * 1024);
        assert_eq!(socket.tcp_notsent_lowat().unwrap(), NOTSENT_LOWAT);
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(USER_TIMEOUT));
        assert_eq!(socket.tcp_keepalive_time().unwrap(), KEEPALIVE.0);
        assert!(socket.nonblocking().unwrap());
    }
}

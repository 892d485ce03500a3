//! Listening sockets, and what every accepted socket is set to.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::TcpStream;
use tracing::{debug, info, warn};

/// Pause after an accept that failed for want of descriptors or memory.
const BACK_OFF: Duration = Duration::from_millis(100);
/// Unsent bytes in the kernel above which a socket is not writable.
const NOTSENT_LOWAT: u32 = 16 * 1024;
/// Silence after which the kernel asks whether the peer is there, and how often it asks again.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(15));
/// Sent data that stays unacknowledged this long ends the connection.
const USER_TIMEOUT: Duration = Duration::from_secs(60);

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

/// Accepts until dropped and hands each socket to `take`.
///
/// # Errors
/// The listener does not fit into the runtime.
pub async fn accept<F, R>(listener: TcpListener, mut take: F) -> io::Result<()>
where
    F: FnMut(TcpStream) -> R,
    R: Future<Output = ()>,
{
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let mut starved = false;
    loop {
        match listener.accept().await {
            Ok((socket, _)) => {
                if std::mem::take(&mut starved) {
                    info!("New connections are accepted again.");
                }
                take(socket).await;
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

/// Sets an accepted socket up for streams: no delay, little kernel memory, and an end for peers
/// that have vanished.
pub fn tune(socket: &TcpStream, send_buffer: usize) {
    let socket = SockRef::from(socket);
    let (idle, interval) = KEEPALIVE;
    let keepalive = TcpKeepalive::new().with_time(idle).with_interval(interval);
    let set = || {
        socket.set_tcp_nodelay(true)?;
        socket.set_send_buffer_size(send_buffer)?;
        socket.set_tcp_keepalive(&keepalive)?;
        #[cfg(target_os = "linux")]
        {
            socket.set_tcp_notsent_lowat(NOTSENT_LOWAT)?;
            socket.set_tcp_user_timeout(Some(USER_TIMEOUT))?;
        }
        io::Result::Ok(())
    };
    // A peer that is gone already; the next read tells.
    if let Err(error) = set() {
        debug!(%error, "A socket could not be set up.");
    }
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
}

//! Sockets of clients: begun without waiting, from the addresses of the plan.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use mio::net::TcpStream;
use socket2::{Domain, Protocol, SockRef, Socket, Type};

/// Begins a connection.
///
/// # Errors
/// The system has no descriptor, address or memory for it.
pub fn connect(to: SocketAddr, from: Option<IpAddr>) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    if let Some(from) = from {
        socket.bind(&SocketAddr::new(from, 0).into())?;
    }
    match socket.connect(&to.into()) {
        Ok(()) => {}
        // `EINPROGRESS`: the socket becomes writable when it is through.
        Err(error)
            if error.raw_os_error() == Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => {}
        Err(error) => return Err(error),
    }
    Ok(TcpStream::from_std(socket.into()))
}

/// Makes the closing of a socket a reset, which leaves nothing behind in the kernel.
pub fn reset_on_close(socket: &TcpStream) {
    // A socket that is gone already needs none.
    let _ = SockRef::from(socket).set_linger(Some(Duration::ZERO));
}

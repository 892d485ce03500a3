//! Sockets of clients: begun without waiting, from the addresses of the plan.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use mio::net::TcpStream;
use socket2::{Domain, Protocol, SockRef, Socket, Type};

/// Ports that may be taken where the system does not say (its default).
const PORTS: (u16, u16) = (32_768, 60_999);
/// Where the system says it.
const PORTS_FILE: &str = "/proc/sys/net/ipv4/ip_local_port_range";

/// Addresses and ports to connect from, in turn. The kernel would find a port too, but by looking through those that
/// are taken: with ten thousand of them, that costs more than everything else.
#[derive(Debug)]
pub struct Sources {
    addresses: Vec<IpAddr>,
    first: u16,
    count: u64,
    next: u64,
}

impl Sources {
    /// The `worker`th part of so many processes that share `addresses` begins at a port of its own.
    #[must_use]
    pub fn new(addresses: Vec<IpAddr>, worker: u64, workers: u64) -> Self {
        let range = std::fs::read_to_string(PORTS_FILE).unwrap_or_default();
        let mut bounds = range
            .split_whitespace()
            .filter_map(|word| word.parse().ok());
        let (first, last) = match (bounds.next(), bounds.next()) {
            (Some(first), Some(last)) if first <= last => (first, last),
            _ => PORTS,
        };
        let count = u64::from(last - first) + 1;
        let part = count * worker / workers.max(1);
        Self {
            next: part * addresses.len() as u64,
            addresses,
            first,
            count,
        }
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.addresses.len() as u64 * self.count
    }

    /// The next one; `None` leaves it to the kernel.
    pub fn next(&mut self) -> Option<SocketAddr> {
        let addresses = self.addresses.len() as u64;
        if addresses == 0 {
            return None;
        }
        let address = self.addresses[(self.next % addresses) as usize];
        let port = self.first + (self.next / addresses % self.count) as u16;
        self.next += 1;
        Some(SocketAddr::new(address, port))
    }

    /// Begins a connection from the next address and port that is free.
    ///
    /// # Errors
    /// The system has no descriptor or memory for it, or everything is taken.
    pub fn connect(&mut self, to: SocketAddr) -> io::Result<TcpStream> {
        let mut tries = self.len();
        loop {
            let begun = connect(to, self.next());
            tries = tries.saturating_sub(1);
            match begun {
                Err(error) if is_taken(&error) && tries > 0 => {}
                begun => return begun,
            }
        }
    }
}

fn is_taken(error: &io::Error) -> bool {
    use io::ErrorKind::{AddrInUse, AddrNotAvailable};
    matches!(error.kind(), AddrInUse | AddrNotAvailable)
}

/// Begins a connection.
///
/// # Errors
/// The system has no descriptor, address or memory for it.
fn connect(to: SocketAddr, from: Option<SocketAddr>) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    if let Some(from) = from {
        socket.bind(&from.into())?;
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

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_address_and_port_has_its_turn_once() {
        let addresses: Vec<IpAddr> =
            vec!["127.0.0.2".parse().unwrap(), "127.0.0.3".parse().unwrap()];
        let mut sources = Sources::new(addresses.clone(), 1, 2);
        let all = sources.len();
        let seen: HashSet<_> = (0..all).filter_map(|_| sources.next()).collect();
        assert_eq!(seen.len() as u64, all);
        // Another process begins elsewhere.
        assert!(
            Sources::new(addresses.clone(), 0, 2).next() != Sources::new(addresses, 1, 2).next()
        );
        assert_eq!(Sources::new(Vec::new(), 0, 1).next(), None);
    }
}

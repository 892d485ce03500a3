//! The other end of a connection.

use std::net::{IpAddr, SocketAddr};

use http::HeaderMap;

use super::TrustedProxies;

/// What is known of the other end before any request.
#[derive(Debug, Clone, Default)]
pub struct Peer {
    /// Its address, where there is one: as the kernel says it, or a trusted proxy in a PROXY header.
    pub address: Option<IpAddr>,
    /// The other end of the socket, which may be a proxy's.
    pub socket: Option<SocketAddr>,
    /// It has shown a certificate that lets it publish.
    pub certified: bool,
}

impl Peer {
    /// Of a connection that was just accepted.
    #[must_use]
    pub fn of(socket: Option<SocketAddr>) -> Self {
        Self {
            address: socket.map(|socket| socket.ip()),
            socket,
            certified: false,
        }
    }

    /// Who asks: behind a trusted proxy the one whom it names.
    #[must_use]
    pub fn client(&self, proxies: &TrustedProxies, headers: &HeaderMap) -> Option<IpAddr> {
        let address = self.address?;
        Some(proxies.client(address, headers).unwrap_or(address))
    }
}

//! The other end of a connection.

use std::net::IpAddr;

use http::HeaderMap;

use super::TrustedProxies;

/// What is known of the other end before any request.
#[derive(Debug, Clone, Default)]
pub struct Peer {
    /// Its address, where there is one.
    pub address: Option<IpAddr>,
    /// It has shown a certificate that lets it publish.
    pub certified: bool,
}

impl Peer {
    /// Who asks: behind a trusted proxy the one whom it names.
    #[must_use]
    pub fn client(&self, proxies: &TrustedProxies, headers: &HeaderMap) -> Option<IpAddr> {
        let address = self.address?;
        Some(proxies.client(address, headers).unwrap_or(address))
    }
}

//! Whose word is taken for the address of a client: that of the configured proxies, and of nobody else.
//!
//! Each proxy adds whom it was asked by on the right, so the right-most address that is no proxy's is the client's. What
//! is to the left of it may be anything that the client wrote.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::{HeaderMap, header};

use tracing::warn;

use crate::config::Network;

const X_FORWARDED_FOR: &str = "x-forwarded-for";

/// The networks of trusted proxies. Cloning shares what was told of them.
#[derive(Debug, Clone, Default)]
pub struct TrustedProxies {
    networks: Vec<Network>,
    /// It was logged that a proxy contradicts itself.
    told: Arc<AtomicBool>,
}

impl TrustedProxies {
    /// Trusts these.
    #[must_use]
    pub fn new(networks: Vec<Network>) -> Self {
        Self {
            networks,
            ..Self::default()
        }
    }

    /// Whether it is one of theirs.
    pub(super) fn trusts(&self, address: IpAddr) -> bool {
        self.networks
            .iter()
            .any(|network| network.contains(address))
    }

    /// The client's address by a request's headers, `X-Forwarded-For` and `Forwarded`. `None` where nobody is trusted, and
    /// where the headers do not say. Where there are both and they differ, neither counts: a proxy that writes the one and
    /// passes the other on has let the client write it.
    fn named(&self, headers: &HeaderMap) -> Option<IpAddr> {
        if self.networks.is_empty() {
            return None;
        }
        let has = |name: &str| headers.contains_key(name);
        match (has(X_FORWARDED_FOR), has(header::FORWARDED.as_str())) {
            (false, false) => None,
            (true, false) => self.x_forwarded_for(headers),
            (false, true) => self.forwarded(headers),
            (true, true) => {
                let named = self.x_forwarded_for(headers);
                let same = named == self.forwarded(headers);
                if !same && !self.told.swap(true, Ordering::Relaxed) {
                    warn!(
                        "A trusted proxy sends X-Forwarded-For and Forwarded, and they name different clients: neither counts. \
                         Have the proxy drop the one that it does not write."
                    );
                }
                named.filter(|_| same)
            }
        }
    }

    fn x_forwarded_for(&self, headers: &HeaderMap) -> Option<IpAddr> {
        let lines = headers.get_all(X_FORWARDED_FOR).iter().rev();
        let nodes = lines.flat_map(|line| match line.to_str() {
            Ok(line) => line.rsplit(',').map(str::trim).map(Some).collect(),
            Err(_) => vec![None],
        });
        let nodes = nodes.filter(|node| *node != Some(""));
        self.right_most(nodes.map(|node| node.and_then(address)))
    }

    fn forwarded(&self, headers: &HeaderMap) -> Option<IpAddr> {
        let lines = headers.get_all(header::FORWARDED).iter().rev();
        let nodes = lines.flat_map(|line| match line.to_str().ok().and_then(forwarded_for) {
            Some(nodes) => nodes.into_iter().rev().map(Some).collect(),
            None => vec![None],
        });
        self.right_most(nodes.map(|node| address(&node?)))
    }

    /// From the right: the first that is no proxy's; the left-most where all are. An address that cannot be read ends
    /// the search, for what is to the left of it may be invented.
    fn right_most(&self, nodes: impl Iterator<Item = Option<IpAddr>>) -> Option<IpAddr> {
        let mut found = None;
        for node in nodes {
            let address = node?;
            found = Some(address);
            if !self.trusts(address) {
                break;
            }
        }
        found
    }

    /// Whom the peer speaks for: the client that its request names, if it is a trusted proxy.
    #[must_use]
    pub fn client(&self, peer: IpAddr, headers: &HeaderMap) -> Option<IpAddr> {
        if !self.trusts(peer) {
            return None;
        }
        self.named(headers)
    }
}

/// An address, perhaps with a port: `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]:80`. `None` for
/// `unknown`, for `_hidden` and for what is no address.
fn address(node: &str) -> Option<IpAddr> {
    let bare = match node.strip_prefix('[') {
        Some(rest) => {
            let (address, port) = rest.split_once(']')?;
            (is_port(port) && address.contains(':')).then_some(address)?
        }
        // One colon is a port's, more are those of IPv6.
        None => match node.find(':') {
            Some(colon) if node.rfind(':') == Some(colon) => {
                let (address, port) = node.split_at(colon);
                is_port(port).then_some(address)?
            }
            _ => node,
        },
    };
    let address: IpAddr = bare.parse().ok()?;
    Some(address.to_canonical())
}

/// Nothing, or a colon and a port, which may be obfuscated (RFC 7239, section 6).
fn is_port(text: &str) -> bool {
    match text.strip_prefix(':') {
        None => text.is_empty(),
        Some(port) => match port.strip_prefix('_') {
            Some(hidden) => !hidden.is_empty(),
            None => (1..=5).contains(&port.len()) && port.bytes().all(|b| b.is_ascii_digit()),
        },
    }
}

/// The `for=` of each element of a `Forwarded` line (RFC 7239, section 4), in order; `None` where the line cannot be
/// read, or an element does not say.
fn forwarded_for(line: &str) -> Option<Vec<String>> {
    let mut found = Vec::new();
    for element in split_outside_quotes(line, ',')? {
        if element.trim().is_empty() {
            continue;
        }
        let mut node = None;
        for pair in split_outside_quotes(element, ';')? {
            if pair.trim().is_empty() {
                continue;
            }
            let (name, value) = pair.trim().split_once('=')?;
            if name.eq_ignore_ascii_case("for") && node.replace(unquoted(value)?).is_some() {
                return None;
            }
        }
        found.push(node?);
    }
    Some(found)
}

/// `None` where a quote is not closed.
fn split_outside_quotes(text: &str, separator: char) -> Option<Vec<&str>> {
    let (mut parts, mut from, mut quoted, mut escaped) = (Vec::new(), 0, false, false);
    for (at, letter) in text.char_indices() {
        match letter {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            _ if letter == separator && !quoted => {
                parts.push(&text[from..at]);
                from = at + letter.len_utf8();
            }
            _ => {}
        }
    }
    parts.push(&text[from..]);
    (!quoted).then_some(parts)
}

/// A token, or what a quoted string stands for.
fn unquoted(value: &str) -> Option<String> {
    let Some(rest) = value.strip_prefix('"') else {
        return (!value.is_empty() && !value.contains('"')).then(|| value.to_owned());
    };
    let inner = rest.strip_suffix('"')?;
    let (mut text, mut letters) = (String::new(), inner.chars());
    while let Some(letter) = letters.next() {
        match letter {
            '\\' => text.push(letters.next()?),
            '"' => return None,
            _ => text.push(letter),
        }
    }
    Some(text)
}

#[cfg(test)]
mod tests;

//! Networks of addresses, as `10.0.0.0/8`, `2001:db8::/32`, or one address.

use std::net::IpAddr;
use std::str::FromStr;

/// Some addresses that begin with the same bits. IPv4 addresses are the same whether they are written as themselves or
/// in IPv6 (`::ffff:192.0.2.1`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    first: u128,
    mask: u128,
}

/// Bits of an IPv6 address before the IPv4 address in it.
const MAPPED: u32 = 96;

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

impl Network {
    /// Whether the address is one of them.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        bits(address) & self.mask == self.first
    }
}

/// Not an address and not a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an address or a network such as 10.0.0.0/8 or 2001:db8::/32")]
pub struct NotANetwork;

impl FromStr for Network {
    type Err = NotANetwork;

    fn from_str(text: &str) -> Result<Self, NotANetwork> {
        let (address, length) = match text.split_once('/') {
            Some((address, length)) if length.bytes().all(|b| b.is_ascii_digit()) => (
                address,
                Some(length.parse::<u32>().map_err(|_| NotANetwork)?),
            ),
            Some(_) => return Err(NotANetwork),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| NotANetwork)?;
        let before = if address.is_ipv4() { MAPPED } else { 0 };
        let length = length.unwrap_or(u128::BITS - before);
        let free = (u128::BITS - before).checked_sub(length);
        let mask = u128::MAX.checked_shl(free.ok_or(NotANetwork)?).unwrap_or(0);
        Ok(Self {
            first: bits(address) & mask,
            mask,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_contain_what_begins_like_them() {
        for (network, inside, outside) in [
            ("10.0.0.0/8", "10.255.0.1", "11.0.0.0"),
            ("10.1.2.3/8", "10.255.0.1", "11.0.0.0"),
            ("192.0.2.1", "192.0.2.1", "192.0.2.2"),
            ("192.0.2.1/32", "::ffff:192.0.2.1", "192.0.2.0"),
            ("::ffff:10.0.0.0/104", "10.9.9.9", "9.9.9.9"),
            ("2001:db8::/32", "2001:db8:ffff::1", "2001:db9::"),
            ("fd00::/8", "fdff::1", "fc00::1"),
            ("::1", "::1", "::2"),
            ("0.0.0.0/0", "203.0.113.1", "2001:db8::1"),
        ] {
            let network: Network = network.parse().unwrap();
            assert!(network.contains(inside.parse().unwrap()), "{inside}");
            assert!(!network.contains(outside.parse().unwrap()), "{outside}");
        }
        let all: Network = "::/0".parse().unwrap();
        assert!(all.contains("203.0.113.1".parse().unwrap()));
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "",
            "proxy",
            "10.0.0.0/33",
            "10.0.0.0/4294967295",
            "::/129",
            "10.0.0/8",
            "10.0.0.0/",
            "10.0.0.0/+8",
            "::1/64/3",
        ] {
            assert_eq!(text.parse::<Network>(), Err(NotANetwork), "{text}");
        }
    }
}

//! How many streams each client address has, over all shards of the node.
//!
//! Invariant: a stream that is counted holds one [`Place`], and gives it back by dropping it, however it ends.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use parking_lot::Mutex;

/// The bits of an IPv6 address that tell one client from another: a household or a server has a /64.
const CLIENT_PREFIX: u128 = !0 << 64;

/// Streams by client address. Cloning shares it.
#[derive(Debug, Clone, Default)]
pub struct Addresses(Arc<Mutex<HashMap<u128, usize>>>);

/// One stream's place among those of its client's address.
#[derive(Debug)]
pub struct Place {
    addresses: Addresses,
    key: u128,
}

impl Addresses {
    /// A place for one more stream of this address; `None` where it has `most` of them already.
    #[must_use]
    pub fn take(&self, address: IpAddr, most: usize) -> Option<Place> {
        let key = key(address);
        let mut streams = self.0.lock();
        let count = streams.entry(key).or_default();
        // One that has none of them yet is let in, so no entry is left behind here.
        if *count >= most.max(1) {
            return None;
        }
        *count += 1;
        Some(Place {
            addresses: self.clone(),
            key,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Entry::Occupied(mut count) = self.addresses.0.lock().entry(self.key) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

/// IPv4 as itself, whichever way it came; IPv6 by its network. The two never meet: a network ends in zeros.
fn key(address: IpAddr) -> u128 {
    match address.to_canonical() {
        IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
        IpAddr::V6(address) => Ipv6Addr::to_bits(address) & CLIENT_PREFIX,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_place_is_given_back_once_and_leaves_nothing() {
        let addresses = Addresses::default();
        let one = addresses.take(address("192.0.2.1"), 2).unwrap();
        let two = addresses.take(address("192.0.2.1"), 2).unwrap();
        assert!(addresses.take(address("192.0.2.1"), 2).is_none());
        let other = addresses.take(address("192.0.2.2"), 2).unwrap();
        drop(one);
        let three = addresses.take(address("192.0.2.1"), 2).unwrap();
        assert!(addresses.take(address("192.0.2.1"), 2).is_none());
        drop((two, three, other));
        assert!(addresses.0.lock().is_empty());
    }

    #[test]
    fn addresses_are_told_apart_as_clients_are() {
        let same = |a, b| key(address(a)) == key(address(b));
        assert!(same("::ffff:192.0.2.1", "192.0.2.1"));
        assert!(same("2001:db8:1:2::1", "2001:db8:1:2:ffff::9"));
        assert!(!same("2001:db8:1:2::1", "2001:db8:1:3::1"));
        assert!(!same("192.0.2.1", "192.0.2.2"));
        assert!(!same("::1", "0.0.0.0"));
    }
}

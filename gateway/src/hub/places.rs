//! How many streams each client address and each user has, over all shards of the node.
//!
//! Invariant: a stream that is counted holds one [`Place`], and gives it back by dropping it, however it ends.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;

/// The bits of an IPv6 address that tell one client from another: a household or a server has a /64.
const CLIENT_PREFIX: u128 = !0 << 64;

/// Streams by whose they are. Cloning shares it.
#[derive(Debug)]
pub struct Places<K: Eq + Hash>(Arc<Mutex<HashMap<K, u32>>>);

/// One stream's place among those of its holder.
#[derive(Debug)]
pub struct Place<K: Eq + Hash> {
    /// `None` where nobody counts.
    places: Option<Places<K>>,
    holder: K,
}

/// Streams by client address.
pub type Addresses = Places<Household>;
/// Streams by user.
pub type Users = Places<Arc<str>>;

impl<K: Eq + Hash + Clone> Places<K> {
    /// A place for one more stream; `None` where its holder has `most` of them already. 0 is no limit, and then nothing is
    /// counted.
    #[must_use]
    pub fn take(&self, holder: impl Into<K>, most: usize) -> Option<Place<K>> {
        let holder = holder.into();
        if most == 0 {
            return Some(Place {
                places: None,
                holder,
            });
        }
        let mut streams = self.0.lock();
        // What is known already is shared: a name is held once, however many streams its user has.
        let known = streams.get_key_value(&holder).map(|(key, _)| key.clone());
        let holder = known.unwrap_or(holder);
        let count = streams.entry(holder.clone()).or_default();
        // One that has none of them yet is let in, so no entry is left behind here.
        if *count as usize >= most {
            return None;
        }
        *count = count.saturating_add(1);
        Some(Place {
            places: Some(self.clone()),
            holder,
        })
    }
}

impl<K: Eq + Hash> Place<K> {
    /// Whose it is.
    #[must_use]
    pub fn holder(&self) -> &K {
        &self.holder
    }
}

impl<K: Eq + Hash> Clone for Places<K> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<K: Eq + Hash> Default for Places<K> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<K: Eq + Hash> Drop for Place<K> {
    fn drop(&mut self) {
        let Some(places) = &self.places else { return };
        let mut streams = places.0.lock();
        if let Some(count) = streams.get_mut(&self.holder) {
            *count -= 1;
            if *count == 0 {
                streams.remove(&self.holder);
            }
        }
    }
}

/// Addresses that are taken for one client: IPv4 each for itself, whichever way it came; IPv6 by its network. The two
/// never meet: a network ends in zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Household([u8; 16]);

impl Household {
    /// The address, or the network with zeros behind it: IPv6, or IPv4 as a mapped one.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl From<IpAddr> for Household {
    fn from(address: IpAddr) -> Self {
        let bits = match address.to_canonical() {
            IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
            IpAddr::V6(address) => address.to_bits() & CLIENT_PREFIX,
        };
        Self(bits.to_be_bytes())
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
    fn a_name_that_is_counted_is_held_once_and_without_a_limit_nothing_is() {
        let users = Users::default();
        let free = users.take("ann", 0).unwrap();
        assert!(&**free.holder() == "ann" && users.0.lock().is_empty());
        let places: Vec<_> = (0..100).map(|_| users.take("ann", 100).unwrap()).collect();
        assert!(
            places
                .iter()
                .all(|place| Arc::ptr_eq(place.holder(), places[0].holder()))
        );
        assert!(users.take("ann", 100).is_none() && users.take("bob", 1).is_some());
        drop((places, free));
        assert!(users.0.lock().is_empty());
    }

    #[test]
    fn addresses_are_told_apart_as_clients_are() {
        let same = |a, b| Household::from(address(a)) == Household::from(address(b));
        assert!(same("::ffff:192.0.2.1", "192.0.2.1"));
        assert!(same("2001:db8:1:2::1", "2001:db8:1:2:ffff::9"));
        assert!(!same("2001:db8:1:2::1", "2001:db8:1:3::1"));
        assert!(!same("192.0.2.1", "192.0.2.2"));
        assert!(!same("::1", "0.0.0.0"));
    }
}

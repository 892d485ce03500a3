//! Questions that are under way, and for whom: no client address has so many that others cannot ask.

use std::collections::HashMap;
use std::net::IpAddr;

use tokio::sync::watch;

use super::Tell;
use super::question::Digest;
use crate::hub::Household;

/// An address may have one in so many of the places that are free: alone a quarter of all, and less beside others, so that
/// there are always some for whoever has none yet (Choudhury and Hahne, "Dynamic queue length thresholds for shared-memory
/// packet switches", 1998).
const SHARE: usize = 3;

/// Questions that wait for their turn or for their answer. What differs in its client's address is another question.
#[derive(Default)]
pub(super) struct Flights {
    under_way: HashMap<Digest, Flight>,
    of_client: HashMap<Household, usize>,
}

struct Flight {
    tell: Tell,
    client: Option<Household>,
}

impl Flights {
    /// Who asks the same joins it.
    pub(super) fn tell(&self, key: &Digest) -> Option<&Tell> {
        self.under_way.get(key).map(|flight| &flight.tell)
    }

    /// Begins one, of `most`; `None` where there is no place for this client now.
    pub(super) fn begin(
        &mut self,
        key: Digest,
        client: Option<IpAddr>,
        most: usize,
    ) -> Option<Tell> {
        let client = client.map(Household::from);
        let free = most.saturating_sub(self.under_way.len());
        let held = client.and_then(|client| self.of_client.get(&client));
        if held.map_or(0, |held| held * SHARE) >= free {
            return None;
        }
        let (tell, _) = watch::channel(None);
        let flight = Flight {
            tell: tell.clone(),
            client,
        };
        self.under_way.insert(key, flight);
        if let Some(client) = client {
            *self.of_client.entry(client).or_default() += 1;
        }
        Some(tell)
    }

    /// Ends it, however often that is said.
    pub(super) fn end(&mut self, key: &Digest) {
        let ended = self.under_way.remove(key).and_then(|flight| flight.client);
        let Some(client) = ended else { return };
        if let Some(held) = self.of_client.get_mut(&client) {
            *held -= 1;
            if *held == 0 {
                self.of_client.remove(&client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_leaves_places_to_others_and_ends_leave_nothing() {
        let mut flights = Flights::default();
        let mut keys = Vec::new();
        let mut fill = |flights: &mut Flights, client: Option<&str>| {
            let client = client.map(|client| client.parse().unwrap());
            (0..1000)
                .take_while(|_| {
                    let mut key = Digest::default();
                    key[..8].copy_from_slice(&keys.len().to_be_bytes());
                    let begun = flights.begin(key, client, 100).is_some();
                    keys.extend(begun.then_some(key));
                    begun
                })
                .count()
        };
        assert_eq!(fill(&mut flights, Some("192.0.2.1")), 25);
        assert_eq!(fill(&mut flights, Some("192.0.2.1")), 0);
        assert_eq!(fill(&mut flights, Some("2001:db8::1")), 19);
        assert_eq!(fill(&mut flights, Some("2001:db8::2")), 0);
        assert_eq!(fill(&mut flights, Some("192.0.2.2")), 14);
        // Without addresses nobody can be told apart.
        assert_eq!(fill(&mut flights, None), 42);
        assert_eq!(fill(&mut flights, Some("192.0.2.3")), 0);
        for key in &keys {
            flights.end(key);
            flights.end(key);
        }
        assert!(flights.under_way.is_empty() && flights.of_client.is_empty());
    }
}

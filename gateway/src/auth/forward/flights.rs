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

    /// Ends the one that tells its answer there, however often that is said. One that began since for the same key goes on.
    pub(super) fn end(&mut self, key: &Digest, tell: &Tell) {
        let is_it = |flight: &Flight| flight.tell.same_channel(tell);
        if !self.under_way.get(key).is_some_and(is_it) {
            return;
        }
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
        let mut begun = Vec::new();
        let mut fill = |flights: &mut Flights, client: Option<&str>| {
            let client = client.map(|client| client.parse().unwrap());
            (0..1000)
                .take_while(|_| {
                    let mut key = Digest::default();
                    key[..8].copy_from_slice(&begun.len().to_be_bytes());
                    let tell = flights.begin(key, client, 100);
                    let is_begun = tell.is_some();
                    begun.extend(tell.map(|tell| (key, tell)));
                    is_begun
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
        for (key, tell) in &begun {
            flights.end(key, tell);
            flights.end(key, tell);
        }
        assert!(flights.under_way.is_empty() && flights.of_client.is_empty());
    }

    #[test]
    fn the_end_of_one_leaves_the_next_for_the_same_key() {
        let mut flights = Flights::default();
        let key = Digest::default();
        let client = Some("192.0.2.1".parse().unwrap());
        let first = flights.begin(key, client, 100).unwrap();
        flights.end(&key, &first);
        let second = flights.begin(key, client, 100).unwrap();
        // The task of the first one ends after the second has begun.
        flights.end(&key, &first);
        let under_way = flights.tell(&key).unwrap();
        assert!(under_way.same_channel(&second));
        flights.end(&key, &second);
        assert!(flights.under_way.is_empty() && flights.of_client.is_empty());
    }
}

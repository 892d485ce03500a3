//! A request that is refused again and again, as by a script that does not look at the answer.
//!
//! Invariant: who waits is a client that was just refused the very same: room, action, and all that it showed. Nobody else does,
//! not even others behind its address, so that thousands of browsers that come back at once are never held up by it.

use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use http::header;
use quick_cache::sync::Cache;

use super::{HELD, Rate};
use crate::auth::Asked;

/// What a decision depends on beside room, action and address.
const SHOWN: [header::HeaderName; 3] = [header::AUTHORIZATION, header::COOKIE, header::ORIGIN];

/// Requests by a hash of all that was asked, as there are secrets in it.
#[derive(Debug)]
pub(super) struct Refusals {
    rate: Rate<u64>,
    /// Bounded: what is forgotten is decided on once more.
    held: Cache<u64, Instant>,
    /// In milliseconds since `began`: until when any is held. Before it nothing has to be hashed.
    latest: AtomicU64,
    began: Instant,
    hasher: RandomState,
}

impl Default for Refusals {
    fn default() -> Self {
        Self {
            rate: Rate::default(),
            held: Cache::new(HELD),
            latest: AtomicU64::new(0),
            began: Instant::now(),
            hasher: RandomState::new(),
        }
    }
}

impl Refusals {
    /// In a second; 0 for no limit.
    pub(super) fn set(&self, per_second: u32) {
        self.rate.set(per_second);
    }

    /// Before a decision.
    ///
    /// # Errors
    /// The same was refused too often: how long to wait.
    pub(super) fn check(&self, asked: &Asked<'_>) -> Result<(), Duration> {
        let now = Instant::now();
        if self.millis(now) > self.latest.load(Ordering::Relaxed) {
            return Ok(());
        }
        let until = self.hash(asked).and_then(|hash| self.held.get(&hash));
        let wait = until.and_then(|until| until.checked_duration_since(now));
        wait.map_or(Ok(()), Err)
    }

    /// It was refused.
    pub(super) fn count(&self, asked: &Asked<'_>) {
        let Some(hash) = self.hash(asked) else {
            return;
        };
        if let Err(wait) = self.rate.check(|| hash) {
            let until = Instant::now() + wait;
            self.held.insert(hash, until);
            self.latest.fetch_max(self.millis(until), Ordering::Relaxed);
        }
    }

    fn millis(&self, at: Instant) -> u64 {
        let since = at.saturating_duration_since(self.began).as_millis();
        u64::try_from(since).unwrap_or(u64::MAX)
    }

    /// `None` where there is no address: all such clients would be one.
    fn hash(&self, asked: &Asked<'_>) -> Option<u64> {
        let mut hasher = self.hasher.build_hasher();
        let room = asked.room.as_str();
        let of = (
            asked.client?,
            asked.action,
            asked.certified,
            room,
            asked.query,
        );
        of.hash(&mut hasher);
        for name in SHOWN {
            for value in asked.headers.get_all(&name) {
                name.as_str().hash(&mut hasher);
                value.as_bytes().hash(&mut hasher);
            }
        }
        Some(hasher.finish())
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue};
    use protocol::RoomName;

    use super::*;
    use crate::auth::Action;

    #[test]
    fn only_the_same_request_of_the_same_client_waits() {
        let room = |name| RoomName::parse(name).unwrap();
        let (here, elsewhere) = (room("a"), room("b"));
        let shows = |name: header::HeaderName, value| {
            let pair = (name, HeaderValue::from_static(value));
            [pair].into_iter().collect::<HeaderMap>()
        };
        let bad = shows(header::COOKIE, "sse_token=bad");
        let asked = Asked {
            action: Action::Subscribe,
            room: &here,
            headers: &bad,
            query: "",
            client: Some([192, 0, 2, 1].into()),
            certified: false,
        };
        let refusals = Refusals::default();
        for _ in 0..1000 {
            refusals.count(&asked);
        }
        assert!(refusals.check(&asked).is_ok(), "no limit");
        refusals.set(1);
        for _ in 0..10 {
            refusals.count(&asked);
            assert!(refusals.check(&asked).is_ok());
        }
        // A second may have passed meanwhile.
        let wait = loop {
            refusals.count(&asked);
            if let Err(wait) = refusals.check(&asked) {
                break wait;
            }
        };
        assert!(wait <= Duration::from_secs(1), "{wait:?}");
        let fresh = shows(header::COOKIE, "sse_token=fresh");
        let header = shows(header::AUTHORIZATION, "sse_token=bad");
        let nothing = HeaderMap::new();
        for other in [
            Asked {
                headers: &fresh,
                ..asked
            },
            Asked {
                headers: &header,
                ..asked
            },
            Asked {
                headers: &nothing,
                ..asked
            },
            Asked {
                room: &elsewhere,
                ..asked
            },
            Asked {
                action: Action::Publish,
                ..asked
            },
            Asked {
                query: "token=good",
                ..asked
            },
            Asked {
                certified: true,
                ..asked
            },
            Asked {
                client: Some([192, 0, 2, 2].into()),
                ..asked
            },
            Asked {
                client: None,
                ..asked
            },
        ] {
            assert!(refusals.check(&other).is_ok(), "{other:?}");
        }
        // Without an address nobody waits.
        for _ in 0..100 {
            refusals.count(&Asked {
                client: None,
                ..asked
            });
        }
        assert!(
            refusals
                .check(&Asked {
                    client: None,
                    ..asked
                })
                .is_ok()
        );
    }
}

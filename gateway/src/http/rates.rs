//! How often a client may open streams, and a publisher publish: by the generic cell rate algorithm, with ten times a second's
//! worth at once.

use std::hash::{BuildHasher, Hash, RandomState};
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use governor::clock::{Clock, DefaultClock};
use governor::middleware::NoOpMiddleware;
use governor::state::keyed::DashMapStateStore;
use governor::{Quota, RateLimiter};
use http::{HeaderMap, header};
use quick_cache::sync::Cache;

use crate::auth::{Asked, By, Grant, bearer};
use crate::hub::Household;
use crate::live::Live;

mod refusals;

use refusals::Refusals;

/// Seconds' worth that may come at once.
const BURST: u32 = 10;
/// Between looks for those who have their whole burst again: with those who have not, all that memory holds.
const LOOK: u32 = 4096;

/// The most addresses, and the most requests, that are remembered as refused too often.
const HELD: usize = 1 << 12;

/// The rates of a node. Cloning shares them.
#[derive(Debug, Clone, Default)]
pub struct Rates {
    opens: Arc<Rate<Household>>,
    publishes: Arc<Rate<Publisher>>,
    /// Who was refused too often, and when it may ask again.
    held: Arc<Held>,
    refusals: Arc<Refusals>,
    hasher: RandomState,
}

/// Bounded: who is forgotten has one more try.
#[derive(Debug)]
struct Held(Cache<Household, Instant>);

impl Default for Held {
    fn default() -> Self {
        Self(Cache::new(HELD))
    }
}

/// Who publishes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Publisher {
    /// Whoever has this key; a hash, as it is a secret.
    Key(u64),
    User(Arc<str>),
    Address(Household),
    /// There is no address: all of them together.
    Anyone,
}

impl Rates {
    /// In a second; 0 for no limit. Who was counted is counted anew where the number changes.
    pub fn set(&self, opens: u32, publishes: u32, refusals: u32) {
        self.opens.set(opens);
        self.publishes.set(publishes);
        self.refusals.set(refusals);
    }

    /// Before any decision.
    ///
    /// # Errors
    /// The very same was refused too often: how long to wait.
    pub(super) fn ask(&self, asked: &Asked<'_>) -> Result<(), Duration> {
        self.refusals.check(asked)
    }

    /// What was asked was refused.
    pub(super) fn refuse(&self, asked: &Asked<'_>) {
        self.refusals.count(asked);
    }

    /// A client opens a stream, or reads what is stored.
    ///
    /// # Errors
    /// How long to wait.
    pub(super) fn open(&self, client: Option<IpAddr>) -> Result<(), Duration> {
        match client {
            Some(client) => self.opens.check(|| client.into()),
            // Without an address there is no limit.
            None => Ok(()),
        }
    }

    /// A client was refused what it wanted to publish. That counts like a stream that it opens, as it costs as much to decide.
    pub(super) fn refused(&self, client: Option<IpAddr>) {
        if let (Some(client), Err(wait)) = (client, self.open(client)) {
            self.held.0.insert(client.into(), Instant::now() + wait);
        }
    }

    /// Before a decision on whether a client may publish.
    ///
    /// # Errors
    /// It was refused too often: how long to wait.
    pub(super) fn after_refusals(&self, client: Option<IpAddr>) -> Result<(), Duration> {
        let until = client.and_then(|client| self.held.0.get(&Household::from(client)));
        let wait = until.and_then(|until| until.checked_duration_since(Instant::now()));
        wait.map_or(Ok(()), Err)
    }

    /// Somebody who may publish does. Whoever has shown a certificate (`certified`) may write what it likes where others show a
    /// key, and counts by its address.
    ///
    /// # Errors
    /// How long to wait.
    pub(super) fn publish(
        &self,
        grant: &Grant,
        headers: &HeaderMap,
        certified: bool,
        client: Option<IpAddr>,
    ) -> Result<(), Duration> {
        self.publishes.check(|| {
            let key = headers.get(header::AUTHORIZATION).and_then(bearer);
            match (&grant.terms.user, key, client) {
                (Some(user), _, _) => Publisher::User(user.clone()),
                (None, Some(key), _) if grant.by == By::Key && !certified => {
                    Publisher::Key(self.hasher.hash_one(key))
                }
                (None, _, Some(client)) => Publisher::Address(client.into()),
                (None, _, None) => Publisher::Anyone,
            }
        })
    }
}

type Limiter<K, C> = RateLimiter<K, DashMapStateStore<K>, C, NoOpMiddleware<<C as Clock>::Instant>>;

/// One rate, for many.
#[derive(Debug)]
struct Rate<K: Hash + Eq + Clone, C: Clock = DefaultClock> {
    now: Live<Option<Counted<K, C>>>,
    clock: C,
}

#[derive(Debug)]
struct Counted<K: Hash + Eq + Clone, C: Clock> {
    per_second: u32,
    limiter: Limiter<K, C>,
    checks: AtomicU32,
}

impl<K: Hash + Eq + Clone> Default for Rate<K> {
    fn default() -> Self {
        Self::new(DefaultClock::default())
    }
}

impl<K: Hash + Eq + Clone, C: Clock + Clone> Rate<K, C> {
    fn new(clock: C) -> Self {
        Self {
            now: Live::new(None),
            clock,
        }
    }

    fn set(&self, per_second: u32) {
        let before = self.now.get();
        if before.as_ref().as_ref().map_or(0, |now| now.per_second) == per_second {
            return;
        }
        self.now.set(NonZeroU32::new(per_second).map(|rate| {
            let burst = rate.saturating_mul(NonZeroU32::MIN.saturating_add(BURST - 1));
            let quota = Quota::per_second(rate).allow_burst(burst);
            Counted {
                per_second,
                limiter: RateLimiter::dashmap_with_clock(quota, self.clock.clone()),
                checks: AtomicU32::new(0),
            }
        }));
    }

    fn check(&self, who: impl FnOnce() -> K) -> Result<(), Duration> {
        let now = self.now.get();
        let Some(counted) = now.as_ref() else {
            return Ok(());
        };
        if counted.checks.fetch_add(1, Ordering::Relaxed) % LOOK == LOOK - 1 {
            counted.limiter.retain_recent();
            counted.limiter.shrink_to_fit();
        }
        let checked = counted.limiter.check_key(&who());
        checked.map_err(|until| until.wait_time_from(self.clock.now()))
    }
}

#[cfg(test)]
mod tests {
    use governor::clock::FakeRelativeClock;

    use super::*;
    use crate::hub::Terms;

    #[test]
    fn ten_seconds_worth_at_once_and_then_so_many_in_a_second() {
        let clock = FakeRelativeClock::default();
        let rate = Rate::new(clock.clone());
        assert!((0..1000).all(|_| rate.check(|| 1).is_ok()), "no limit");
        rate.set(2);
        assert!((0..20).all(|_| rate.check(|| 1).is_ok()));
        let wait = rate.check(|| 1).unwrap_err();
        assert_eq!(wait, Duration::from_millis(500));
        assert!(rate.check(|| 2).is_ok());
        clock.advance(wait);
        assert!(rate.check(|| 1).is_ok() && rate.check(|| 1).is_err());
        rate.set(2);
        assert!(rate.check(|| 1).is_err(), "a reload without a change");
        rate.set(0);
        assert!(rate.check(|| 1).is_ok());
    }

    #[test]
    fn memory_holds_those_who_came_lately() {
        let clock = FakeRelativeClock::default();
        let rate = Rate::new(clock.clone());
        rate.set(1);
        for who in 0..10 * LOOK {
            rate.check(|| who).unwrap();
            clock.advance(Duration::from_millis(100));
        }
        let now = rate.now.get();
        let held = now.as_ref().as_ref().unwrap().limiter.len();
        assert!(held <= LOOK as usize + 10, "{held}");
    }

    #[test]
    fn a_publisher_is_a_user_a_key_or_an_address() {
        let rates = Rates::default();
        rates.set(0, 1, 0);
        let headers = |key: &'static str| {
            [(header::AUTHORIZATION, http::HeaderValue::from_static(key))]
                .into_iter()
                .collect::<HeaderMap>()
        };
        let [one, two] = ["192.0.2.1", "192.0.2.2"].map(|text| text.parse::<IpAddr>().ok());
        let spend = |grant: &Grant, headers: &HeaderMap, client| {
            (0..100)
                .take_while(|_| rates.publish(grant, headers, false, client).is_ok())
                .count()
        };
        let (key, open) = (Grant::open(By::Key), Grant::open(By::Open));
        let mut token = Grant::open(By::Token);
        token.terms = Terms {
            user: Some("ann".into()),
            ..Terms::default()
        };
        assert_eq!(spend(&key, &headers("Bearer a"), one), 10);
        // From elsewhere it is the same key, and another key is another one.
        assert_eq!(spend(&key, &headers("Bearer a"), two), 0);
        // However it is written.
        assert_eq!(spend(&key, &headers("bEaReR   a "), one), 0);
        assert_eq!(spend(&key, &headers("Bearer b"), one), 10);
        let certified = |key| rates.publish(&Grant::open(By::Key), &headers(key), true, two);
        let keys = ["1", "2", "3", "4", "5", "6", "7", "8", "9", "10"];
        assert!(keys.iter().all(|key| certified(key).is_ok()));
        assert!(certified("11").is_err(), "whatever it writes there");
        assert_eq!(spend(&token, &headers("Bearer t1"), one), 10);
        assert_eq!(spend(&token, &headers("Bearer t2"), two), 0);
        assert_eq!(spend(&open, &headers("Bearer a"), one), 10);
        assert_eq!(spend(&open, &HeaderMap::new(), one), 0);
        assert_eq!(spend(&open, &HeaderMap::new(), None), 10);
    }
}

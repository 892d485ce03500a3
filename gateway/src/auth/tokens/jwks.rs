//! A JSON Web Key Set of another server's: fetched again and again, and when a token names a key that is not in it.
//!
//! While it cannot be fetched, the last set counts. Who shows a token of an unknown key meanwhile is not refused: the key
//! may be a new one. Nor is it refused at once when the set was fetched without that key: caches in between may serve an old set
//! for a while.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, header};
use http_body_util::Empty;
use parking_lot::Mutex;
use protocol::token::{Key, KeySource, read_set};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

use super::metrics::TokenMetrics;
use super::unix_now;
use crate::fetch::Fetch;

/// For an answer.
pub(super) const TIMEOUT: Duration = Duration::from_secs(5);
/// Of an answer.
pub(super) const MAX_BYTES: usize = 256 << 10;
/// An unknown key has the set fetched if that was not done for another one in this time.
const ON_DEMAND: Duration = Duration::from_secs(10);
/// After a failure it is tried again as soon as this.
const RETRY: Duration = Duration::from_secs(10);
/// A key that no set has had for so long since its first token is not on its way.
const GRACE: Duration = Duration::from_secs(60);
/// Ids of unknown keys that are remembered; others are taken for new ones.
const MAX_ABSENT: usize = 256;

/// A set to fetch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JwksConfig {
    /// Where.
    pub url: String,
    /// How often.
    pub refresh: Duration,
}

/// What is known of the fetching.
#[derive(Debug)]
pub(super) struct Jwks {
    demand: Mutex<Demand>,
    wake: Notify,
    done: watch::Sender<Done>,
}

#[derive(Debug, Default)]
struct Demand {
    under_way: bool,
    last: Option<Instant>,
    /// Unknown keys, and since when.
    absent: HashMap<String, Instant>,
}

/// Fetches so far, and whether the last one succeeded.
#[derive(Debug, Clone, Copy, Default)]
struct Done {
    count: u64,
    well: bool,
}

/// What came of looking for a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Looked {
    /// The set was fetched: look again.
    Again,
    /// It was fetched a moment ago, and has not had it for a while.
    NotThere,
    /// Nobody knows now.
    Away,
}

impl Demand {
    fn is_absent(&self, id: &str) -> bool {
        let since = self.absent.get(id);
        since.is_some_and(|since| since.elapsed() >= GRACE)
    }
}

impl Default for Jwks {
    fn default() -> Self {
        // The first fetch is on its way as soon as this is made.
        let demand = Demand {
            under_way: true,
            ..Demand::default()
        };
        Self {
            demand: Mutex::new(demand),
            wake: Notify::new(),
            done: watch::Sender::new(Done::default()),
        }
    }
}

impl Jwks {
    /// Waits for the fetch that is under way, or asks for one, at most once in [`ON_DEMAND`]. All who come meanwhile wait
    /// for the same.
    pub(super) async fn look_for(&self, id: &str) -> Looked {
        let mut done = self.done.subscribe();
        let before = {
            let mut demand = self.demand.lock();
            let due = demand.last.is_none_or(|last| last.elapsed() >= ON_DEMAND);
            match (demand.under_way, due) {
                (true, _) => {}
                (false, true) => {
                    demand.under_way = true;
                    demand.last = Some(Instant::now());
                    self.wake.notify_one();
                }
                (false, false) if demand.is_absent(id) => return Looked::NotThere,
                (false, false) => return Looked::Away,
            }
            // Under the lock, under which it is counted too: the next one ends after this.
            self.done.borrow().count
        };
        let next = done.wait_for(|done| done.count > before);
        match timeout(TIMEOUT + Duration::from_secs(1), next).await {
            Ok(Ok(done)) if done.well => Looked::Again,
            _ => Looked::Away,
        }
    }

    /// Notes a key that a fetch did not bring, and says whether that has been so for a while: then its tokens are refused.
    pub(super) fn is_not_there(&self, id: String) -> bool {
        let mut demand = self.demand.lock();
        let is_absent = demand.is_absent(&id);
        if demand.absent.len() >= MAX_ABSENT {
            demand.absent.retain(|_, since| since.elapsed() < GRACE);
        }
        if demand.absent.len() < MAX_ABSENT {
            demand.absent.entry(id).or_insert_with(Instant::now);
        }
        is_absent
    }

    /// These are known now: once they are not any more, that is news again.
    fn are_there(&self, keys: &[Key]) {
        let is_there = |id: &str| keys.iter().any(|key| key.id.as_deref() == Some(id));
        let absent = &mut self.demand.lock().absent;
        // Without an id, it was a key of an algorithm that was missing.
        absent.retain(|id, _| !id.is_empty() && !is_there(id));
    }

    /// Fetches for ever, and gives each set that differs from the last one.
    pub(super) async fn run(
        self: Arc<Self>,
        fetch: Fetch,
        config: JwksConfig,
        metrics: TokenMetrics,
        give: impl Fn(Vec<Key>),
    ) {
        let (mut last, mut failing) = (None, false);
        loop {
            let got = get(&fetch, &config.url).await;
            let got = got.and_then(|body| {
                if last.as_ref() == Some(&body) {
                    return Ok(None);
                }
                let complain =
                    |error: &str| warn!(error, "A key of tokens.jwks_url is left out: it");
                let keys = read_set(&body, KeySource::Url, complain);
                let keys = keys.map_err(|error| format!("the answer {error}"))?;
                last = Some(body);
                Ok(Some(keys))
            });
            let well = got.is_ok();
            match got {
                Ok(keys) => {
                    metrics.fetched.inc();
                    metrics
                        .updated
                        .set(unix_now().try_into().unwrap_or(i64::MAX));
                    if let Some(keys) = keys {
                        info!(keys = keys.len(), "The keys of tokens.jwks_url are there.");
                        self.are_there(&keys);
                        give(keys);
                    } else if failing {
                        info!("The keys of tokens.jwks_url can be fetched again.");
                    }
                }
                Err(error) => {
                    metrics.not_fetched.inc();
                    if !failing {
                        warn!(
                            error,
                            had_before = last.is_some(),
                            "The keys of tokens.jwks_url cannot be fetched; those from before count, and it is tried again."
                        );
                    }
                }
            }
            failing = !well;
            {
                let mut demand = self.demand.lock();
                demand.under_way = false;
                self.done.send_modify(|done| {
                    *done = Done {
                        count: done.count + 1,
                        well,
                    };
                });
            }
            let pause = if well {
                config.refresh
            } else {
                config.refresh.min(RETRY)
            };
            tokio::select! {
                () = sleep(pause) => {}
                () = self.wake.notified() => {}
            }
            self.demand.lock().under_way = true;
        }
    }
}

async fn get(fetch: &Fetch, url: &str) -> Result<Bytes, String> {
    let request = Request::get(url)
        .header(header::ACCEPT, "application/jwk-set+json, application/json")
        .header(
            header::USER_AGENT,
            concat!("sse-gateway/", env!("CARGO_PKG_VERSION")),
        )
        .body(Empty::new())
        .map_err(|error| error.to_string())?;
    let answer = fetch
        .send(request)
        .await
        .map_err(|error| error.to_string())?;
    if answer.status() != http::StatusCode::OK {
        return Err(format!("the answer is {}", answer.status()));
    }
    Ok(answer.into_body())
}

#[cfg(test)]
mod tests {
    use protocol::token::Algorithm;

    use super::*;

    /// A set that was fetched a moment ago.
    fn fetched() -> Jwks {
        let jwks = Jwks::default();
        *jwks.demand.lock() = Demand {
            last: Some(Instant::now()),
            ..Demand::default()
        };
        jwks
    }

    #[tokio::test(start_paused = true)]
    async fn an_unknown_key_has_a_minute_to_come() {
        let jwks = fetched();
        assert_eq!(jwks.look_for("new").await, Looked::Away);
        assert!(!jwks.is_not_there("new".into()));
        tokio::time::advance(GRACE - Duration::from_millis(1)).await;
        jwks.demand.lock().last = Some(Instant::now());
        assert_eq!(jwks.look_for("new").await, Looked::Away);
        assert!(!jwks.is_not_there("new".into()));
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(jwks.look_for("new").await, Looked::NotThere);
        assert!(jwks.is_not_there("new".into()));
        // It has come, and a cache takes it back.
        let key = Key::new(Some("new"), Algorithm::HS256, &[b'x'; 32]).unwrap();
        jwks.are_there(&[key]);
        assert_eq!(jwks.look_for("new").await, Looked::Away);
        assert!(!jwks.is_not_there("new".into()));
    }

    #[tokio::test(start_paused = true)]
    async fn unknown_keys_are_bounded() {
        let jwks = fetched();
        for n in 0..2 * MAX_ABSENT {
            assert!(!jwks.is_not_there(n.to_string()));
        }
        assert_eq!(jwks.demand.lock().absent.len(), MAX_ABSENT);
        tokio::time::advance(GRACE).await;
        assert!(jwks.is_not_there("0".into()));
        assert!(!jwks.is_not_there("new".into()));
        assert!(jwks.demand.lock().absent.contains_key("new"));
    }
}

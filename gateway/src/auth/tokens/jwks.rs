//! A JSON Web Key Set of another server's: fetched again and again, and when a token names a key that is not in it.
//!
//! While it cannot be fetched, the last set counts. Who shows a token of an unknown key meanwhile is not refused: the key
//! may be a new one.

use std::collections::HashSet;
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
/// Ids of keys that are not in the set, until it is next fetched on demand.
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
    absent: HashSet<String>,
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
    /// It was fetched a moment ago, and does not have it.
    NotThere,
    /// Nobody knows now.
    Away,
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
                    demand.absent.clear();
                    self.wake.notify_one();
                }
                (false, false) if demand.absent.contains(id) => return Looked::NotThere,
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

    /// A key that a fetch did not bring: who shows its token next is refused at once.
    pub(super) fn is_not_there(&self, id: String) {
        let mut demand = self.demand.lock();
        if demand.absent.len() < MAX_ABSENT {
            demand.absent.insert(id);
        }
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

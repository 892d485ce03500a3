//! Permission by the user's backend: it is asked by a `GET` for each client, room and action, and its answer is kept for a
//! while.
//!
//! What is sent: see [`question`]. What is understood: see [`answer`].
//!
//! Invariant: a reconnect storm reaches the backend as `forward.max_requests` requests at a time, and as one for clients that
//! send the same; no client address takes the places of all others. Whatever happens to the backend, no client is refused for it: only its own 401 or 403 does that.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::Uri;
use parking_lot::Mutex;
use quick_cache::sync::Cache;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;
use tracing::warn;

use super::{Asked, Verdict, unix_now};
use crate::fetch::{Fetch, FetchError};
use crate::hub::Terms;
use crate::live::Live;

mod answer;
mod breaker;
mod flights;
mod metrics;
mod question;

use answer::Decision;
use breaker::Breaker;
use flights::Flights;
pub use metrics::ForwardMetrics;
use metrics::{Cached, Outcome};
use question::{Digest, Question};

/// Questions that may wait for each request that may be under way. At 10 ms a request, so many have their turn within the
/// default `forward.timeout`.
const WAITING_PER_REQUEST: usize = 256;
/// The most bytes of an answer's body, which is read and ignored.
const MAX_BODY: usize = 1 << 20;
/// Told where the backend gave no answer that can be used.
const AWAY: &str = "the backend that decides on permission does not answer now";
/// Told where it has too much to answer already.
const FULL: &str = "too many requests for permission are waiting for the backend that decides";

/// `[forward]`, for a URL that is not empty. `Debug` hides the URL, whose query may hold a secret.
#[derive(Clone, PartialEq, Eq)]
pub struct ForwardConfig {
    /// Where to ask.
    pub url: Uri,
    /// For a question to wait for its turn, and again for the answer.
    pub timeout: Duration,
    /// Requests under way at a time.
    pub max_requests: usize,
    /// How long an answer counts that does not say.
    pub cache: Duration,
    /// Answers that are kept; each takes some 200 bytes and the user's name.
    pub cache_entries: usize,
}

impl fmt::Debug for ForwardConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ForwardConfig")
            .field("host", &self.url.host())
            .field("timeout", &self.timeout)
            .field("max_requests", &self.max_requests)
            .finish_non_exhaustive()
    }
}

/// Asks the backend. Requests run on the runtime that it was made with, so that a client that goes away takes nobody's
/// answer with it.
#[derive(Debug)]
pub struct Forward {
    runtime: Handle,
    metrics: Arc<ForwardMetrics>,
    backend: Live<Option<Arc<Backend>>>,
}

impl Forward {
    /// One that has nobody to ask yet.
    #[must_use]
    pub fn new(runtime: Handle, metrics: ForwardMetrics) -> Self {
        Self {
            runtime,
            metrics: Arc::new(metrics),
            backend: Live::new(None),
        }
    }

    /// Asks by these settings from now on. Others than before forget every answer.
    pub(super) fn apply(&self, config: Option<&ForwardConfig>) {
        let now = self.backend.get();
        if now.as_ref().as_ref().map(|backend| &backend.config) == config {
            return;
        }
        let backend = config.map(|config| Backend::new(config.clone(), self.metrics.clone()));
        self.backend.set(backend.map(Arc::new));
    }

    /// Decides on a request whose room has the rule `forward`. An answer that was kept counts only on terms that `hold`; where
    /// they do not, the backend is asked again.
    pub(super) async fn decide(&self, asked: &Asked<'_>, hold: Hold<'_>) -> Verdict {
        let backend = self.backend.get();
        let Some(backend) = backend.as_ref() else {
            return Verdict::Away("the backend that decides on permission is not configured");
        };
        let question = match Question::of(asked) {
            Ok(question) => question,
            Err(refusal) => return Verdict::Refused(refusal),
        };
        if let Some(decision) = backend.known(&question.key, hold) {
            self.metrics.looked_up(Cached::Hit);
            return decision.verdict(asked);
        }
        // Rare, and large: other requests do not carry it.
        match Box::pin(self.answer(backend, question, asked.client, hold)).await {
            Ok(decision) => decision.verdict(asked),
            Err(reason) => Verdict::Away(reason),
        }
    }

    /// Joins a request that is under way for the same question, or begins one.
    async fn answer(
        &self,
        backend: &Arc<Backend>,
        question: Question,
        client: Option<IpAddr>,
        hold: Hold<'_>,
    ) -> Result<Decision, &'static str> {
        let mut answer = {
            let mut flights = backend.flights.lock();
            // One that has landed since the first look has left its answer.
            if let Some(decision) = backend.known(&question.key, hold) {
                self.metrics.looked_up(Cached::Hit);
                return Ok(decision);
            }
            match flights.tell(&question.key) {
                Some(tell) => {
                    self.metrics.looked_up(Cached::Shared);
                    tell.subscribe()
                }
                None => {
                    self.metrics.looked_up(Cached::Miss);
                    if backend.breaker.is_open() {
                        self.metrics.unasked();
                        return Err(AWAY);
                    }
                    let most = backend.most_flights();
                    let Some(tell) = flights.begin(question.key, client, most) else {
                        self.metrics.unasked();
                        return Err(FULL);
                    };
                    let answer = tell.subscribe();
                    self.runtime.spawn(backend.clone().fly(question, tell));
                    answer
                }
            }
        };
        let answer = answer.wait_for(Option::is_some).await;
        // Without an answer, the flight has failed in a way that nobody thought of.
        answer.map_or(Err(AWAY), |answer| answer.clone().unwrap_or(Err(AWAY)))
    }
}

/// Whether somebody may still be let in on these terms: not after a disconnect.
pub(super) type Hold<'a> = &'a (dyn Fn(&Terms) -> bool + Sync);

/// Where the answer to a question is told to all who wait for it.
type Tell = watch::Sender<Option<Result<Decision, &'static str>>>;

/// The backend, as one configuration names it.
struct Backend {
    config: ForwardConfig,
    fetch: Fetch,
    metrics: Arc<ForwardMetrics>,
    decisions: Cache<Digest, Decision>,
    flights: Mutex<Flights>,
    turns: Semaphore,
    breaker: Breaker,
}

impl fmt::Debug for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Backend").field(&self.config).finish()
    }
}

impl Backend {
    fn new(config: ForwardConfig, metrics: Arc<ForwardMetrics>) -> Self {
        let fetch = Fetch::new(config.timeout, MAX_BODY).unwrap_or_else(|error| {
            warn!(%error, "There are no system certificates: forward.url can be asked without TLS only.");
            Fetch::without_roots(config.timeout, MAX_BODY)
        });
        Self {
            fetch,
            metrics,
            decisions: Cache::new(config.cache_entries),
            flights: Mutex::default(),
            turns: Semaphore::new(config.max_requests),
            breaker: Breaker::default(),
            config,
        }
    }

    /// What was decided on this, while it counts.
    fn known(&self, key: &Digest, hold: Hold<'_>) -> Option<Decision> {
        let decision = self.decisions.get(key)?;
        (decision.counts(Instant::now()) && decision.terms().is_none_or(hold)).then_some(decision)
    }

    fn most_flights(&self) -> usize {
        self.config
            .max_requests
            .saturating_mul(1 + WAITING_PER_REQUEST)
    }

    /// The life of one question: waits for its turn, asks, keeps the answer and tells it.
    async fn fly(self: Arc<Self>, question: Question, tell: Tell) {
        let landing = Landing(&self, question.key, &tell);
        let answer = self.ask(&question, &tell).await;
        if let Some(Ok(decision)) = &answer
            && decision.counts(Instant::now())
        {
            self.decisions.insert(question.key, decision.clone());
        }
        // Before it is told, so that whoever asks from here on finds the answer kept, or asks anew.
        drop(landing);
        tell.send_replace(answer);
    }

    /// `None` where nobody waits for the answer any more.
    async fn ask(
        &self,
        question: &Question,
        tell: &Tell,
    ) -> Option<Result<Decision, &'static str>> {
        let Ok(Ok(_turn)) = timeout(self.config.timeout, self.turns.acquire()).await else {
            self.metrics.unasked();
            return Some(Err(FULL));
        };
        if self.breaker.is_open() {
            self.metrics.unasked();
            return Some(Err(AWAY));
        }
        {
            let mut flights = self.flights.lock();
            if tell.is_closed() {
                flights.end(&question.key, tell);
                return None;
            }
        }
        let (issued, began) = (unix_now(), Instant::now());
        let sent = self.metrics.sent();
        let answer = self.fetch.send(question.request(&self.config.url)).await;
        drop(sent);
        let (outcome, decision) = match answer {
            Ok(answer) => match Decision::read(&answer, issued, self.config.cache) {
                Ok(decision) => (decision.outcome(), Ok(decision)),
                Err(reason) => (Outcome::Unusable, Err(reason)),
            },
            Err(error @ FetchError::Timeout(_)) => (Outcome::Timeout, Err(error.to_string())),
            Err(error) => (Outcome::Failed, Err(error.to_string())),
        };
        self.metrics.answered(outcome, began.elapsed());
        Some(match decision {
            Ok(decision) => {
                self.breaker.worked();
                Ok(decision)
            }
            Err(reason) => {
                let answers = outcome == Outcome::Unusable;
                self.breaker.failed(answers, &reason);
                Err(AWAY)
            }
        })
    }
}

/// Takes a question out of those under way, however its task ends.
struct Landing<'a>(&'a Backend, Digest, &'a Tell);

impl Drop for Landing<'_> {
    fn drop(&mut self) {
        self.0.flights.lock().end(&self.1, self.2);
    }
}

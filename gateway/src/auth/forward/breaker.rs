//! A backend that is down is not asked for every client: after some failures in a row nobody asks for a moment.

use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tracing::{info, warn};

/// So many requests in a row that got no answer at all, and for a moment nobody asks.
const FAILURES: u32 = 8;
/// That moment.
const PAUSE: Duration = Duration::from_secs(1);
/// Failures are logged this often at most.
const LOG_INTERVAL: Duration = Duration::from_secs(30);

/// Counts failures, and logs them.
#[derive(Debug, Default)]
pub(super) struct Breaker(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Without an answer, in a row.
    failures: u32,
    /// Nobody asks before.
    paused_until: Option<Instant>,
    logged: Option<Instant>,
    /// That was logged, and not yet that it has ended.
    is_failing: bool,
}

impl Breaker {
    /// Whether nobody asks now.
    pub(super) fn is_open(&self) -> bool {
        let state = self.0.lock();
        state
            .paused_until
            .is_some_and(|until| Instant::now() < until)
    }

    /// A request was answered as it should be.
    pub(super) fn worked(&self) {
        let mut state = self.0.lock();
        (state.failures, state.paused_until) = (0, None);
        if std::mem::take(&mut state.is_failing) {
            info!("The backend of forward.url answers again.");
        }
    }

    /// A request was not. `answers`: there was an answer all the same, so the next client may have a better one.
    pub(super) fn failed(&self, answers: bool, reason: &str) {
        let mut state = self.0.lock();
        let now = Instant::now();
        state.failures = if answers { 0 } else { state.failures + 1 };
        if state.failures >= FAILURES {
            state.paused_until = Some(now + PAUSE);
        }
        let due = |logged: Instant| now.duration_since(logged) >= LOG_INTERVAL;
        if state.logged.is_none_or(due) {
            (state.logged, state.is_failing) = (Some(now), true);
            warn!(
                reason,
                "The backend of forward.url gives no answer that can be used: its clients come back later."
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_in_a_row_make_a_pause_and_answers_end_it() {
        let breaker = Breaker::default();
        for _ in 1..FAILURES {
            breaker.failed(false, "no route");
            assert!(!breaker.is_open());
        }
        breaker.failed(true, "500");
        breaker.failed(false, "no route");
        assert!(!breaker.is_open(), "it answered in between");
        for _ in 1..FAILURES {
            breaker.failed(false, "no route");
        }
        assert!(breaker.is_open());
        breaker.worked();
        assert!(!breaker.is_open());
    }
}

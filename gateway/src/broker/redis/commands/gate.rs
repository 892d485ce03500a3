//! Reads and verifications that wait for one server. Whoever reads has few places, for rooms of all servers: a server that
//! is dead or stands still must not take them all.
//!
//! Invariant: once nothing was heard from a server for [`SILENCE`], one read at most waits for it. It is never given up
//! for another one, so that a server that is merely slow is read from all the same.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::Away;

/// Without any answer while something waits for one.
const SILENCE: Duration = Duration::from_secs(1);

/// What lets reads through to one server; cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Gate {
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    /// When the server last answered as it should, or else when the first read that it has not answered began.
    heard: Instant,
    /// A read has failed since.
    failed: bool,
    /// Reads that wait, the oldest first.
    waiting: BTreeSet<u64>,
    last: u64,
}

/// A read that waits, until this is dropped.
pub(super) struct Pass {
    gate: Gate,
    number: u64,
}

impl Gate {
    pub(super) fn new() -> Self {
        let state = State {
            heard: Instant::now(),
            failed: false,
            waiting: BTreeSet::new(),
            last: 0,
        };
        Self {
            state: Arc::new(Mutex::new(state)),
        }
    }

    /// The server has answered, and serves what it is asked for.
    pub(super) fn heard(&self) {
        let mut state = self.state.lock();
        state.heard = Instant::now();
        state.failed = false;
    }

    /// Something was not answered, or by a server that cannot serve it now.
    pub(super) fn failed(&self) {
        self.state.lock().failed = true;
    }

    /// Ends once nothing was heard for [`SILENCE`], from now on.
    pub(super) async fn silence(&self) -> Away {
        let began = Instant::now();
        loop {
            let until = self.state.lock().heard.max(began) + SILENCE;
            if Instant::now() >= until {
                return silent();
            }
            tokio::time::sleep_until(until).await;
        }
    }

    /// Lets one more read wait.
    ///
    /// # Errors
    /// The server is silent, and another read waits for it already.
    pub(super) fn enter(&self) -> Result<Pass, Away> {
        let mut state = self.state.lock();
        if state.waiting.is_empty() {
            if !state.failed {
                state.heard = Instant::now();
            }
        } else if state.heard.elapsed() >= SILENCE {
            return Err(silent());
        }
        state.last += 1;
        let number = state.last;
        state.waiting.insert(number);
        Ok(Pass {
            gate: self.clone(),
            number,
        })
    }
}

impl Pass {
    /// Ends once the server is silent and another read waits longer than this one.
    pub(super) async fn overdue(&self) -> Away {
        loop {
            let (heard, is_oldest) = {
                let state = self.gate.state.lock();
                (state.heard, state.waiting.first() == Some(&self.number))
            };
            if heard.elapsed() < SILENCE {
                tokio::time::sleep_until(heard + SILENCE).await;
            } else if is_oldest {
                tokio::time::sleep(SILENCE).await;
            } else {
                self.gate.failed();
                return silent();
            }
        }
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.gate.state.lock().waiting.remove(&self.number);
    }
}

fn silent() -> Away {
    Away("it has not answered for a second".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_read_waits_for_a_silent_server() {
        let gate = Gate::new();
        let first = gate.enter().unwrap();
        let second = gate.enter().unwrap();
        second.overdue().await;
        drop(second);
        assert!(gate.enter().is_err(), "the first one waits still");
        tokio::select! {
            _ = first.overdue() => panic!("the oldest read is given up"),
            () = tokio::time::sleep(10 * SILENCE) => {}
        }
        gate.failed();
        drop(first);
        let third = gate.enter().unwrap();
        assert!(gate.enter().is_err(), "nothing was heard since");
        gate.heard();
        assert!(gate.enter().is_ok());
        drop(third);
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_answers_others_is_not_silent() {
        let gate = Gate::new();
        let (_first, second) = (gate.enter().unwrap(), gate.enter().unwrap());
        for _ in 0..4 {
            tokio::select! {
                _ = second.overdue() => panic!("it has answered"),
                () = tokio::time::sleep(SILENCE / 2) => gate.heard(),
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn silence_begins_with_the_last_answer() {
        let gate = Gate::new();
        let silence = gate.silence();
        tokio::pin!(silence);
        tokio::select! {
            _ = &mut silence => panic!("it has not been asked for long"),
            () = tokio::time::sleep(SILENCE / 2) => gate.heard(),
        }
        let heard = Instant::now();
        silence.await;
        assert_eq!(heard.elapsed(), SILENCE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_of_a_moment_stops_nobody() {
        let gate = Gate::new();
        gate.failed();
        let _first = gate.enter().unwrap();
        assert!(gate.enter().is_ok());
        // Nothing waited meanwhile: that it was quiet says nothing.
        let gate = Gate::new();
        tokio::time::sleep(2 * SILENCE).await;
        let _first = gate.enter().unwrap();
        assert!(gate.enter().is_ok());
    }
}

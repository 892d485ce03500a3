//! The orderly stop: unready at once, then no new connections, then no streams, then the end.

use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tracing::info;

/// Where the process is on its way to the end. Only ever moves down this list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// As usual.
    Serving,
    /// Told to stop: unready, so that load balancers look elsewhere; still serves everyone.
    Unready,
    /// Accepts nothing new, answers what has begun, closes streams.
    Closing,
}

/// The phase, for everyone who has to know. Cloning shares it.
#[derive(Debug, Clone)]
pub struct Lifecycle(watch::Sender<Phase>);

impl Default for Lifecycle {
    fn default() -> Self {
        Self(watch::Sender::new(Phase::Serving))
    }
}

impl Lifecycle {
    /// The phase now.
    #[must_use]
    pub fn phase(&self) -> Phase {
        *self.0.borrow()
    }

    /// Moves on; never back.
    pub fn enter(&self, phase: Phase) {
        self.0.send_if_modified(|now| {
            let later = phase > *now;
            if later {
                *now = phase;
            }
            later
        });
    }

    /// Waits until `phase` or a later one.
    pub async fn reached(&self, phase: Phase) {
        // The sender lives as long as `self`: waiting cannot fail.
        let _ = self.0.subscribe().wait_for(|now| *now >= phase).await;
    }
}

/// SIGTERM and SIGINT.
#[derive(Debug)]
pub struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
}

/// SIGHUP, which reloads the configuration.
#[derive(Debug)]
pub struct ReloadSignal(Signal);

impl ReloadSignal {
    /// Listens from now on; before, the signal ends the process.
    ///
    /// # Errors
    /// What the system says.
    pub fn listen() -> std::io::Result<Self> {
        signal(SignalKind::hangup()).map(Self)
    }

    /// Waits for the next one.
    pub async fn next(&mut self) {
        // Ends only with the runtime.
        let _ = self.0.recv().await;
    }
}

impl StopSignals {
    /// Listens from now on; before, a signal ends the process.
    ///
    /// # Errors
    /// What the system says.
    pub fn listen() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Waits for the next one and names it.
    pub async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// How long each part of the stop takes.
#[derive(Debug, Clone)]
pub struct DrainTimes {
    /// Unready before anything closes.
    pub delay: Duration,
    /// Streams are closed over this time.
    pub spread: Duration,
    /// The limit over all of it.
    pub grace: Duration,
}

/// Pause between looks at how much is left.
const LOOK: Duration = Duration::from_millis(20);

/// Goes through the phases. `close` is told to close streams over a time; `left` counts what is
/// still open. Returns what was left when the grace time was over, 0 if all went in time.
pub async fn drain(
    lifecycle: &Lifecycle,
    times: &DrainTimes,
    close: impl FnOnce(Duration),
    left: impl Fn() -> usize,
) -> usize {
    lifecycle.enter(Phase::Unready);
    info!(phase = "unready", delay = ?times.delay, "Load balancers are told to look elsewhere.");
    let phases = async {
        tokio::time::sleep(times.delay).await;
        lifecycle.enter(Phase::Closing);
        info!(phase = "closing", left = left(), spread = ?times.spread, "Streams are closed.");
        close(times.spread);
        while left() > 0 {
            tokio::time::sleep(LOOK).await;
        }
    };
    match tokio::time::timeout(times.grace, phases).await {
        Ok(()) => 0,
        Err(_) => left(),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    fn times() -> DrainTimes {
        DrainTimes {
            delay: Duration::from_secs(3),
            spread: Duration::from_secs(5),
            grace: Duration::from_secs(30),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn goes_through_the_phases_and_waits_for_the_last() {
        let (lifecycle, left, closed) = (Lifecycle::default(), Cell::new(2), Cell::new(false));
        let watch = async {
            lifecycle.reached(Phase::Unready).await;
            assert!(!closed.get());
            lifecycle.reached(Phase::Closing).await;
            assert!(closed.get());
            tokio::time::sleep(Duration::from_secs(4)).await;
            left.set(0);
        };
        let close = |spread| {
            assert_eq!(spread, Duration::from_secs(5));
            closed.set(true);
        };
        let times = times();
        let (rest, ()) = tokio::join!(drain(&lifecycle, &times, close, || left.get()), watch);
        assert_eq!(rest, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn gives_up_when_the_grace_time_is_over() {
        assert_eq!(
            drain(&Lifecycle::default(), &times(), |_| {}, || 7).await,
            7
        );
    }

    #[test]
    fn never_goes_back() {
        let lifecycle = Lifecycle::default();
        lifecycle.enter(Phase::Closing);
        lifecycle.enter(Phase::Unready);
        assert_eq!(lifecycle.phase(), Phase::Closing);
    }
}

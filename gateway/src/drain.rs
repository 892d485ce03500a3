//! The orderly stop, in named phases: unready at once, then no streams, then no connections, then the end.

use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tracing::info;

use crate::notify::notify;

/// Where the process is on its way to the end. Only ever moves down this list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// As usual.
    Running,
    /// Told to stop: unready, so that load balancers look elsewhere; still serves everyone.
    Unready,
    /// Closes open streams over a time, and each new one at once, politely. Requests are answered.
    Draining,
    /// Accepts nothing new; the last connections and answers end.
    Closing,
    /// At the end.
    Stopped,
}

impl Phase {
    /// All of them, in order.
    pub const ALL: [Self; 5] = [
        Self::Running,
        Self::Unready,
        Self::Draining,
        Self::Closing,
        Self::Stopped,
    ];

    /// In metrics, in the log and at `/readyz`.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Unready => "unready",
            Self::Draining => "draining",
            Self::Closing => "closing",
            Self::Stopped => "stopped",
        }
    }
}

/// The phase, for everyone who has to know. Cloning shares it.
#[derive(Debug, Clone)]
pub struct Lifecycle(watch::Sender<Phase>);

impl Default for Lifecycle {
    fn default() -> Self {
        Self(watch::Sender::new(Phase::Running))
    }
}

impl Lifecycle {
    /// The phase now.
    #[must_use]
    pub fn phase(&self) -> Phase {
        *self.0.borrow()
    }

    /// Moves on; never back. The service manager is told.
    pub fn enter(&self, phase: Phase) {
        let moved = self.0.send_if_modified(|now| {
            let later = phase > *now;
            if later {
                *now = phase;
            }
            later
        });
        if moved {
            notify(&format!("STATUS={}", phase.label()));
        }
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
    /// Unready before any stream is closed.
    pub delay: Duration,
    /// Streams are closed over this time.
    pub spread: Duration,
    /// The limit over all of it.
    pub grace: Duration,
}

/// Pause between looks at how much is left.
const LOOK: Duration = Duration::from_millis(20);
/// The last streams are closed at the end of the window, by a clock of their shard: they may go until then.
const LAST: Duration = Duration::from_millis(200);

/// What is still open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Left {
    /// Event streams.
    pub streams: usize,
    /// Connections that speak HTTP, or that a stream has just ended on.
    pub connections: usize,
}

impl Left {
    /// Both.
    #[must_use]
    pub fn total(&self) -> usize {
        self.streams + self.connections
    }
}

/// Goes through the phases up to `Closing`. `close` is told to close streams over a time; `left` counts what is
/// still open. Returns what was left when the grace time was over, 0 if all went in time.
pub async fn drain(
    lifecycle: &Lifecycle,
    times: &DrainTimes,
    close: impl FnOnce(Duration),
    left: impl Fn() -> Left,
) -> usize {
    lifecycle.enter(Phase::Unready);
    info!(phase = "unready", delay = ?times.delay, "Load balancers are told to look elsewhere.");
    let phases = async {
        tokio::time::sleep(times.delay).await;
        lifecycle.enter(Phase::Draining);
        info!(phase = "draining", streams = left().streams, spread = ?times.spread, "Streams are closed.");
        close(times.spread);
        let window = async {
            while left().streams > 0 {
                tokio::time::sleep(LOOK).await;
            }
        };
        // What the window was too short for goes in the next phase.
        let _ = tokio::time::timeout(times.spread + LAST, window).await;
        lifecycle.enter(Phase::Closing);
        let Left {
            streams,
            connections,
        } = left();
        info!(
            phase = "closing",
            streams, connections, "Nothing new is accepted; what has begun is finished."
        );
        while left().total() > 0 {
            tokio::time::sleep(LOOK).await;
        }
    };
    match tokio::time::timeout(times.grace, phases).await {
        Ok(()) => 0,
        Err(_) => left().total(),
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
        let (lifecycle, closed) = (Lifecycle::default(), Cell::new(false));
        let left = Cell::new(Left {
            streams: 2,
            connections: 1,
        });
        let watch = async {
            lifecycle.reached(Phase::Unready).await;
            assert!(!closed.get());
            lifecycle.reached(Phase::Draining).await;
            assert!(closed.get());
            tokio::time::sleep(Duration::from_secs(4)).await;
            assert_eq!(lifecycle.phase(), Phase::Draining);
            left.set(Left {
                streams: 0,
                connections: 1,
            });
            lifecycle.reached(Phase::Closing).await;
            tokio::time::sleep(Duration::from_secs(1)).await;
            left.set(Left {
                streams: 0,
                connections: 0,
            });
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
        let (lifecycle, began) = (Lifecycle::default(), tokio::time::Instant::now());
        let left = || Left {
            streams: 3,
            connections: 4,
        };
        let watch = async {
            lifecycle.reached(Phase::Closing).await;
            assert_eq!(
                began.elapsed().as_secs(),
                8,
                "the window is over, and streams are left"
            );
        };
        let times = times();
        let (rest, ()) = tokio::join!(drain(&lifecycle, &times, |_| {}, left), watch);
        assert_eq!((rest, began.elapsed().as_secs()), (7, 30));
    }

    #[test]
    fn never_goes_back() {
        let lifecycle = Lifecycle::default();
        lifecycle.enter(Phase::Closing);
        lifecycle.enter(Phase::Unready);
        assert_eq!(lifecycle.phase(), Phase::Closing);
    }
}

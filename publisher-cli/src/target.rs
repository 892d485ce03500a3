//! Where events go, how a try ends, and when to try again.

pub mod http;
pub mod library;
pub mod redis;

use std::time::Duration;

use protocol::RoomName;
use tokio::time::{Instant, sleep};

use crate::cli;
use crate::input::Outgoing;

/// Waiting times between tries, before jitter.
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(2);

/// Why nothing more is published; decides the exit code.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{sentence}")]
pub struct Failure {
    /// What the user has to know of.
    pub kind: FailureKind,
    /// One sentence.
    pub sentence: String,
}

/// Whose fault a failure is, and whether to try again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    /// The event or the command line: the same would be refused again.
    Refused,
    /// The caller may not do this.
    Forbidden,
    /// The user or the system wants it to stop.
    Interrupted,
    /// The server is away or cannot serve now: worth another try.
    Unavailable,
    /// Like [`FailureKind::Unavailable`], but another try might deliver twice.
    Unknown,
    /// It is stored, and fewer replicas have it than were asked for; not tried again.
    Unreplicated,
    /// Anything else; not tried again.
    Other,
}

impl Failure {
    /// See [`FailureKind::Refused`].
    pub fn refused(sentence: impl Into<String>) -> Self {
        Self::new(FailureKind::Refused, sentence)
    }

    /// See [`FailureKind::Unavailable`].
    pub fn unavailable(sentence: impl Into<String>) -> Self {
        Self::new(FailureKind::Unavailable, sentence)
    }

    /// See [`FailureKind::Other`].
    pub fn other(sentence: impl Into<String>) -> Self {
        Self::new(FailureKind::Other, sentence)
    }

    /// A failure of a kind.
    pub fn new(kind: FailureKind, sentence: impl Into<String>) -> Self {
        Self {
            kind,
            sentence: sentence.into(),
        }
    }

    /// The exit code, as `--help` lists them (`EX_USAGE`, `EX_UNAVAILABLE`, `EX_NOPERM`,
    /// and 128 + SIGINT).
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self.kind {
            FailureKind::Refused => 64,
            FailureKind::Unavailable | FailureKind::Unknown | FailureKind::Unreplicated => 69,
            FailureKind::Forbidden => 77,
            FailureKind::Interrupted => 130,
            FailureKind::Other => 1,
        }
    }
}

/// What a server said of an event that it took.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Receipt {
    /// `None` for an ephemeral event.
    pub id: Option<String>,
    /// The idempotency key was known: nothing new was stored.
    pub repeat: bool,
    /// Replicas that have it, if they were waited for.
    pub replicas: Option<u64>,
}

/// How far a try came: receipts for the first events of the batch, and what stopped it.
#[derive(Debug, Default)]
pub struct Progress {
    /// In the order of the batch.
    pub receipts: Vec<Receipt>,
    /// `None` when there is a receipt for every event.
    pub failure: Option<Failure>,
}

impl From<Failure> for Progress {
    fn from(failure: Failure) -> Self {
        Self {
            receipts: Vec::new(),
            failure: Some(failure),
        }
    }
}

/// Where events go.
#[derive(Debug)]
pub enum Target {
    /// Straight into Redis.
    Redis(redis::Publisher),
    /// Through a gateway.
    Http(http::Publisher),
}

impl Target {
    /// The one that the flags name.
    ///
    /// # Errors
    /// An address cannot be used.
    pub fn from_cli(cli: &cli::Publish) -> Result<Self, Failure> {
        match &cli.url {
            Some(url) => http::Publisher::new(url, cli).map(Self::Http),
            None => redis::Publisher::from_cli(cli).map(Self::Redis),
        }
    }

    /// Events that one round trip carries at most.
    #[must_use]
    pub fn at_once(&self) -> usize {
        match self {
            Self::Redis(_) => redis::BATCH,
            Self::Http(_) => 1,
        }
    }

    /// Tries once to publish events of one room, in order.
    pub async fn publish(&mut self, room: &RoomName, batch: &[Outgoing]) -> Progress {
        match self {
            Self::Redis(publisher) => publisher.publish(room, batch).await,
            Self::Http(publisher) => publisher.publish(room, batch).await,
        }
    }
}

/// Tries again, with growing and jittered waits, until a time has passed without any success.
#[derive(Debug)]
pub struct Retry {
    patience: Duration,
    deadline: Option<Instant>,
    wait: Duration,
}

impl Retry {
    /// For at most `patience` after the first failure.
    #[must_use]
    pub fn new(patience: Duration) -> Self {
        Self {
            patience,
            deadline: None,
            wait: FIRST_WAIT,
        }
    }

    /// Something worked: the next failure is a first one again.
    pub fn reset(&mut self) {
        *self = Self::new(self.patience);
    }

    /// Whether another try follows a failure.
    #[must_use]
    pub fn would_follow(&self, failure: &Failure) -> bool {
        let over = match self.deadline {
            None => self.patience.is_zero(),
            Some(deadline) => Instant::now() >= deadline,
        };
        failure.kind == FailureKind::Unavailable && !over
    }

    /// Waits for the next try.
    ///
    /// # Errors
    /// The failure itself, if it is not one to try again, or the time is over.
    pub async fn after(&mut self, failure: Failure) -> Result<(), Failure> {
        if !self.would_follow(&failure) {
            return Err(failure);
        }
        let now = Instant::now();
        let deadline = *self.deadline.get_or_insert(now + self.patience);
        // Half of it is random: publishers that lost the same server do not come back together.
        let wait = self.wait.mul_f64(0.5 + fastrand::f64() / 2.0);
        self.wait = (self.wait * 2).min(LONGEST_WAIT);
        sleep(wait.min(deadline.saturating_duration_since(now))).await;
        Ok(())
    }

    /// Runs a piece of work until it succeeds.
    ///
    /// # Errors
    /// The last failure.
    pub async fn run<T>(
        mut self,
        mut work: impl AsyncFnMut() -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        loop {
            match work().await {
                Ok(done) => return Ok(done),
                Err(failure) => {
                    self.after(failure).await?;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn only_what_may_pass_is_tried_again_and_not_for_ever() {
        let start = Instant::now();
        let mut tries = 0;
        let outcome = Retry::new(Duration::from_secs(30))
            .run(async || {
                tries += 1;
                Err::<(), _>(Failure::unavailable("away"))
            })
            .await;
        assert_eq!(outcome.map_err(|failure| failure.exit_code()), Err(69));
        assert_eq!(start.elapsed().as_secs(), 30);
        assert!((15..=40).contains(&tries), "{tries}");
        for failure in [
            Failure::refused("no"),
            Failure::other("no"),
            Failure::new(FailureKind::Unknown, "perhaps"),
            Failure::new(FailureKind::Forbidden, "no"),
        ] {
            let mut retry = Retry::new(Duration::from_secs(30));
            assert_eq!(retry.after(failure.clone()).await, Err(failure));
        }
        let mut impatient = Retry::new(Duration::ZERO);
        assert!(impatient.after(Failure::unavailable("away")).await.is_err());
    }
}

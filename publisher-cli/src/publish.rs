//! The run: batches of what is there, in order, paced and tried again.

use std::io::IsTerminal;
use std::num::NonZeroU32;
use std::time::Duration;

use protocol::RoomName;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use crate::cli;
use crate::input::{self, Line, Maker, Outgoing, RandomKeys};
use crate::report::Report;
use crate::target::{Failure, Retry, Target};

/// Events that one round trip carries at most.
const BATCH: usize = 128;
/// A rate may be caught up with for so long after a slow answer.
const CATCH_UP: Duration = Duration::from_millis(100);

/// What is the same for all events of a run.
#[derive(Debug)]
pub struct Settings {
    room: RoomName,
    maker: Maker,
    retry_for: Duration,
    rate: Option<NonZeroU32>,
}

impl Settings {
    /// As the flags say.
    ///
    /// # Errors
    /// There is no room.
    pub fn from_cli(cli: &cli::Publish) -> Result<Self, Failure> {
        let room = cli.room.as_ref().or(cli.room_flag.as_ref());
        let room = room.ok_or_else(|| Failure::refused("a room is needed"))?;
        let maker = Maker {
            event: cli.event.clone().unwrap_or_default(),
            format: cli.format,
            max_bytes: cli.max_bytes,
            key: cli.idempotency_key.clone(),
            ephemeral: cli.ephemeral,
            printable_keys: cli.url.is_some(),
            random: RandomKeys::new(),
        };
        Ok(Self {
            room: room.clone(),
            maker,
            retry_for: cli.server.retry_for,
            rate: cli.rate,
        })
    }
}

/// Publishes one event or all of standard input.
///
/// # Errors
/// What stopped it; all before it is published and reported.
pub async fn run(
    cli: &cli::Publish,
    mut settings: Settings,
    mut target: Target,
    report: &mut Report,
) -> Result<(), Failure> {
    let mut sender = Sender {
        room: settings.room,
        retry: Retry::new(settings.retry_for),
        target: &mut target,
        report,
    };
    if let Some(data) = &cli.data {
        let event = settings.maker.single(data.clone())?;
        return sender.send(&[event]).await;
    }
    // A bad name is better refused before any line is read.
    protocol::event::check_name(settings.maker.event.as_bytes())
        .map_err(|error| Failure::refused(error.to_string()))?;
    if std::io::stdin().is_terminal() {
        sender.report.hint("one event per line; end with Ctrl-D");
    }
    let mut batches = Batches {
        lines: input::lines(settings.maker.max_bytes),
        maker: settings.maker,
        pace: settings.rate.map(Pace::new),
        stopped: None,
    };
    let outcome = loop {
        let batch = batches.next().await;
        if batch.is_empty() {
            break batches.stopped.map_or(Ok(()), Err);
        }
        if let Err(failure) = sender.send(&batch).await {
            break Err(failure);
        }
    };
    sender.report.finish();
    outcome
}

/// Sends batches until they are through.
struct Sender<'a> {
    room: RoomName,
    retry: Retry,
    target: &'a mut Target,
    report: &'a mut Report,
}

impl Sender<'_> {
    async fn send(&mut self, mut batch: &[Outgoing]) -> Result<(), Failure> {
        while !batch.is_empty() {
            let progress = self.target.publish(&self.room, batch).await;
            if !progress.receipts.is_empty() {
                self.retry.reset();
            }
            let done = progress.receipts.len().min(batch.len());
            for receipt in &progress.receipts {
                self.report.published(&self.room, receipt);
            }
            batch = &batch[done..];
            let Some(failure) = progress.failure else {
                continue;
            };
            let place = batch.first().map(Outgoing::place).unwrap_or_default();
            if self.retry.would_follow(&failure) {
                self.report.trouble(&failure.sentence);
            }
            self.retry.after(failure).await.map_err(|failure| Failure {
                sentence: format!("{place}{}", failure.sentence),
                ..failure
            })?;
        }
        Ok(())
    }
}

/// Makes batches of the lines that are there.
struct Batches {
    lines: mpsc::Receiver<Line>,
    maker: Maker,
    pace: Option<Pace>,
    /// The line at which it ended.
    stopped: Option<Failure>,
}

impl Batches {
    /// The next batch; empty at the end, or once what came before a refused line is through.
    async fn next(&mut self) -> Vec<Outgoing> {
        let mut batch = Vec::new();
        while batch.is_empty() && self.stopped.is_none() {
            let limit = match &mut self.pace {
                Some(pace) => pace.due().await.min(BATCH),
                None => BATCH,
            };
            let mut lines = Vec::with_capacity(limit);
            if self.lines.recv_many(&mut lines, limit).await == 0 {
                break;
            }
            for line in lines {
                match self.maker.line(line) {
                    Ok(event) => batch.extend(event),
                    Err(failure) => {
                        self.stopped = Some(failure);
                        break;
                    }
                }
            }
            if let Some(pace) = &mut self.pace {
                pace.spend(batch.len());
            }
        }
        batch
    }
}

/// At most so many events a second, evenly.
#[derive(Debug)]
struct Pace {
    step: Duration,
    next: Instant,
}

impl Pace {
    fn new(rate: NonZeroU32) -> Self {
        Self {
            step: Duration::from_secs(1) / rate.get(),
            next: Instant::now(),
        }
    }

    /// Waits until one event is due, and says how many are.
    async fn due(&mut self) -> usize {
        sleep_until(self.next).await;
        let now = Instant::now();
        if let Some(oldest) = now.checked_sub(CATCH_UP) {
            self.next = self.next.max(oldest);
        }
        let late = now.saturating_duration_since(self.next).as_nanos();
        let steps = late / self.step.as_nanos().max(1) + 1;
        usize::try_from(steps).unwrap_or(usize::MAX)
    }

    fn spend(&mut self, events: usize) {
        self.next += self.step * u32::try_from(events).unwrap_or(u32::MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_pace_is_even_and_catches_up_a_little() {
        let mut pace = Pace::new(NonZeroU32::new(10).unwrap());
        let start = Instant::now();
        for _ in 0..5 {
            assert_eq!(pace.due().await, 1);
            pace.spend(1);
        }
        assert_eq!(start.elapsed().as_millis() / 10, 40);
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert!(pace.due().await <= 2);
    }
}

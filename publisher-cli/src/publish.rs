//! The run: batches of what is there, in order, paced and tried again.

use std::io::IsTerminal;
use std::num::NonZeroU32;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use crate::cli;
use crate::input::{self, Line, Maker, Outgoing, RandomKeys};
use crate::report::Report;
use crate::target::{Failure, FailureKind, Retry, Target};
use crate::trace::Traces;

/// A batch has more bytes of data than this only if it is a single event: Redis serves nobody else
/// meanwhile.
const BATCH_BYTES: usize = 256 * 1024;
/// A rate may be caught up with for so long after a slow answer.
const CATCH_UP: Duration = Duration::from_millis(100);

/// What is the same for all events of a run.
#[derive(Debug)]
pub struct Settings {
    maker: Maker,
    retry_for: Duration,
    rate: Option<NonZeroU32>,
}

impl Settings {
    /// As the flags say.
    ///
    /// # Errors
    /// There is no room.
    pub fn from_cli(cli: &cli::Publish, traces: Traces) -> Result<Self, Failure> {
        let room = cli.room.as_ref().or(cli.room_flag.as_ref());
        let room = room.ok_or_else(|| Failure::refused("a room is needed"))?;
        let maker = Maker {
            room: room.clone(),
            event: cli.event.clone().unwrap_or_default(),
            format: cli.format,
            max_bytes: cli.max_bytes,
            key: cli.idempotency_key.clone(),
            ephemeral: cli.ephemeral,
            printable_keys: cli.url.is_some(),
            random: RandomKeys::new(),
            traces,
        };
        Ok(Self {
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
    target: Target,
    report: &mut Report,
) -> Result<(), Failure> {
    let mut sender = Sender {
        retry: Retry::new(settings.retry_for),
        target,
        report,
        under_way: 0,
    };
    if let Some(data) = &cli.data {
        let event = settings.maker.single(data.clone())?;
        return unless_interrupted(&mut sender, async |sender| sender.send(&[event]).await).await;
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
        limit: sender.target.at_once(),
        held: None,
        stopped: None,
    };
    let outcome = unless_interrupted(&mut sender, async |sender| {
        loop {
            let batch = batches.next().await;
            if batch.is_empty() {
                return batches.stopped.take().map_or(Ok(()), Err);
            }
            sender.send(&batch).await?;
        }
    });
    let outcome = outcome.await;
    sender.report.finish();
    outcome
}

/// Works until it is done or a signal comes; then says how far it came.
async fn unless_interrupted<'a>(
    sender: &mut Sender<'a>,
    work: impl AsyncFnOnce(&mut Sender<'a>) -> Result<(), Failure>,
) -> Result<(), Failure> {
    tokio::select! {
        biased;
        outcome = work(sender) => return outcome,
        () = interrupted() => {}
    }
    let mut sentence = format!("interrupted: published {}", sender.report.count());
    if sender.under_way > 0 {
        sentence += &format!(", and perhaps the next {}", sender.under_way);
    }
    Err(Failure::new(FailureKind::Interrupted, sentence))
}

/// SIGINT (Ctrl-C) or SIGTERM.
async fn interrupted() {
    let Ok(mut terminated) = signal(SignalKind::terminate()) else {
        // Without handlers the system ends the program, only without a word.
        return std::future::pending().await;
    };
    tokio::select! {
        Ok(()) = tokio::signal::ctrl_c() => {}
        Some(()) = terminated.recv() => {}
        else => std::future::pending().await,
    }
}

/// Sends batches until they are through.
struct Sender<'a> {
    retry: Retry,
    target: Target,
    report: &'a mut Report,
    /// Events that may have arrived, but were not answered.
    under_way: usize,
}

impl Sender<'_> {
    /// Sends events of one room.
    async fn send(&mut self, mut batch: &[Outgoing]) -> Result<(), Failure> {
        while let Some(first) = batch.first() {
            self.under_way = batch.len();
            let progress = self.target.publish(&first.room, batch).await;
            if !progress.receipts.is_empty() {
                self.retry.reset();
            }
            let done = progress.receipts.len().min(batch.len());
            for (event, receipt) in batch.iter().zip(&progress.receipts) {
                event.trace.published(receipt.id.as_deref());
                self.report.published(&event.room, receipt);
            }
            batch = &batch[done..];
            self.under_way = batch.len();
            let Some(failure) = progress.failure else {
                continue;
            };
            let place = batch.first().map(Outgoing::place).unwrap_or_default();
            if self.retry.would_follow(&failure) {
                self.report.trouble(&failure.sentence);
            }
            self.retry.after(failure).await.map_err(|failure| {
                for event in batch {
                    event.trace.failed(&failure.sentence);
                }
                Failure {
                    sentence: format!("{place}{}", failure.sentence),
                    ..failure
                }
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
    /// Events in a batch at most.
    limit: usize,
    /// The first event of the next batch.
    held: Option<Outgoing>,
    /// The line at which it ended.
    stopped: Option<Failure>,
}

impl Batches {
    /// The next batch; empty at the end, or once what came before a refused line is through.
    ///
    /// A batch is for one room, so that what stops an event, such as a key of the wrong type, stops
    /// all that follow it.
    async fn next(&mut self) -> Vec<Outgoing> {
        let limit = match &mut self.pace {
            Some(pace) => pace.due().await.min(self.limit),
            None => self.limit,
        };
        let mut batch: Vec<Outgoing> = Vec::with_capacity(limit);
        let mut bytes = 0;
        while batch.len() < limit {
            let Some(event) = self.event(batch.is_empty()).await else {
                break;
            };
            bytes += event.data.len();
            let fits = |first: &Outgoing| first.room == event.room && bytes <= BATCH_BYTES;
            if !batch.first().is_none_or(fits) {
                self.held = Some(event);
                break;
            }
            batch.push(event);
        }
        if let Some(pace) = &mut self.pace {
            pace.spend(batch.len());
        }
        batch
    }

    /// The next event, if there is one; waits for it if it is the `first` of a batch.
    async fn event(&mut self, first: bool) -> Option<Outgoing> {
        if self.held.is_some() {
            return self.held.take();
        }
        while self.stopped.is_none() {
            let line = if first {
                self.lines.recv().await?
            } else {
                self.lines.try_recv().ok()?
            };
            match self.maker.line(line) {
                Ok(Some(event)) => return Some(event),
                Ok(None) => {}
                Err(failure) => self.stopped = Some(failure),
            }
        }
        None
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

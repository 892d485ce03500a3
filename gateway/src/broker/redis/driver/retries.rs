//! Rooms of one server whose reads failed, and when they are tried again.

use std::time::Duration;

use tokio::time::Instant;

use crate::broker::redis::rooms::Handle;

/// First and last pause between attempts to read what could not be read. It grows while the server answers no read, so
/// that many rooms do not ask a server again and again that refuses them.
pub(super) const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// All of them are tried together.
#[derive(Debug)]
pub(super) struct Retries {
    rooms: Vec<Handle>,
    at: Option<Instant>,
    pause: Duration,
}

impl Default for Retries {
    fn default() -> Self {
        Self {
            rooms: Vec::new(),
            at: None,
            pause: RETRY.0,
        }
    }
}

impl Retries {
    /// When the next attempt is due.
    pub(super) fn next_timer(&self) -> Option<Instant> {
        self.at
    }

    /// A read of this room has failed.
    pub(super) fn push(&mut self, room: Handle, now: Instant) {
        self.rooms.push(room);
        if self.at.is_none() {
            // Not at the moment at which all other nodes try.
            self.at = Some(now + self.pause.mul_f64(0.5 + fastrand::f64() / 2.0));
            self.pause = (self.pause * 2).min(RETRY.1);
        }
    }

    /// The server has answered a read, or a probe again after it did not: the others need not wait any longer.
    pub(super) fn answered(&mut self, now: Instant) {
        self.pause = RETRY.0;
        self.at = self.at.map(|at| at.min(now + RETRY.0));
    }

    /// The rooms to try again now.
    pub(super) fn due(&mut self, now: Instant) -> Vec<Handle> {
        match self.at.take_if(|at| *at <= now) {
            Some(_) => std::mem::take(&mut self.rooms),
            None => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails once more, waits for the next attempt, and gives how long that took.
    fn fail(retries: &mut Retries, now: &mut Instant) -> Duration {
        let began = *now;
        retries.push((1, 1), began);
        retries.push((2, 2), began);
        assert!(retries.due(began).is_empty());
        *now = retries.next_timer().unwrap();
        assert_eq!(retries.due(*now), [(1, 1), (2, 2)]);
        assert_eq!(retries.next_timer(), None);
        *now - began
    }

    #[test]
    fn the_pause_grows_while_reads_fail_and_an_answer_ends_it() {
        let (mut retries, mut now) = (Retries::default(), Instant::now());
        for expected in [100, 200, 400, 800, 1600, 2000, 2000] {
            let (pause, most) = (
                fail(&mut retries, &mut now),
                Duration::from_millis(expected),
            );
            assert!((most / 2..=most).contains(&pause), "{pause:?} of {most:?}");
        }
        retries.push((1, 1), now);
        retries.answered(now);
        assert!(retries.next_timer().unwrap() <= now + RETRY.0);
        now += RETRY.0;
        assert_eq!(retries.due(now), [(1, 1)]);
        assert!(fail(&mut retries, &mut now) <= RETRY.0);
    }
}

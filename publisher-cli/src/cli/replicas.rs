//! Waiting for replicas.

use std::time::Duration;

use crate::target::{Failure, FailureKind, Receipt};

/// For how many replicas to wait, and how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Replicas {
    /// 1 to 16.
    pub replicas: u64,
    /// 1 ms to 10 s.
    pub timeout: Duration,
}

impl Replicas {
    /// The time in milliseconds.
    #[must_use]
    pub fn millis(self) -> u64 {
        u64::try_from(self.timeout.as_millis()).unwrap_or(u64::MAX)
    }

    /// Says that fewer replicas have the last of these events, if so, and `why`, if that is known.
    #[must_use]
    pub fn shortage(self, receipts: &[Receipt], why: Option<&str>) -> Option<Failure> {
        let last = receipts.last()?;
        let has = last.replicas.unwrap_or(0);
        if has >= self.replicas {
            return None;
        }
        let id = last.id.as_deref().unwrap_or_default();
        let because = why.map(|why| format!(" ({why})")).unwrap_or_default();
        let sentence = format!(
            "the event {id} is stored, but {has} of {} replicas have it after {} ms{because}",
            self.replicas,
            self.millis()
        );
        Some(Failure::new(FailureKind::Unreplicated, sentence))
    }
}

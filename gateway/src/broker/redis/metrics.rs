//! Counters of the broker.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counters since the start; each only rises.
#[derive(Debug, Default)]
pub struct RedisMetrics {
    /// Stored events that came whole on the channel.
    pub events_function: AtomicU64,
    /// Stored events that were read from the stream.
    pub events_stream: AtomicU64,
    /// Events that are not stored.
    pub events_ephemeral: AtomicU64,
    /// Channel messages that could not be understood or must not be delivered.
    pub malformed: AtomicU64,
    /// Stored entries that cannot be delivered.
    pub skipped: AtomicU64,
    /// Messages that did not follow the last one of their room.
    pub holes: AtomicU64,
    /// Range reads of streams, whatever for.
    pub range_reads: AtomicU64,
    /// Times the subscriptions had to be made anew.
    pub reconnects: AtomicU64,
    /// Commands sent.
    pub commands: AtomicU64,
    /// Batches of commands that got no answer.
    pub command_failures: AtomicU64,
    /// Resets of rooms.
    pub resets: AtomicU64,
}

impl RedisMetrics {
    pub(super) fn add(counter: &AtomicU64, count: u64) {
        counter.fetch_add(count, Ordering::Relaxed);
    }

    pub(super) fn count_read(&self) {
        Self::add(&self.range_reads, 1);
    }
}

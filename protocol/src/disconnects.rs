//! The stream of disconnects, which gateways read and `sse-publish disconnect` writes.

/// Entries that a writer keeps, roughly (`MAXLEN ~`).
pub const MAX_ENTRIES: u64 = 100_000;

//! `sse-loadtest`: puts load on event-stream servers, checks every delivery, and compares.

pub mod report;
pub mod serve;
pub mod target;

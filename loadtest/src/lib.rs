//! `sse-loadtest`: puts load on event-stream servers, checks every delivery, and compares.

pub mod cli;
pub mod clock;
pub mod compare;
pub mod control;
pub mod cost;
pub mod histogram;
pub mod load;
pub mod payload;
pub mod peer;
pub mod plan;
pub mod progress;
pub mod publisher;
pub mod report;
pub mod scenario;
pub mod serve;
pub mod system;
pub mod target;
pub mod tls;
pub mod worker;

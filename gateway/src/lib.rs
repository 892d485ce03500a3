//! sse-gateway: holds browser `EventSource` streams, grouped by room, and feeds them from a broker.
//!
//! Dependencies point one way: `protocol` ← [`trace`] ← [`hub`] ← [`broker`] ← [`auth`] ← [`http`] ← [`app`] ← `main`.

pub mod app;
pub mod auth;
pub mod banner;
pub mod broker;
pub mod cli;
pub mod config;
pub mod doctor;
pub mod drain;
pub mod fetch;
pub mod healthcheck;
pub mod http;
pub mod hub;
pub mod live;
pub mod metrics;
pub mod notify;
pub mod reload;
pub mod telemetry;
pub mod trace;

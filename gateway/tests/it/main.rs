//! Black-box tests: the real binary, real sockets, a real `redis-server`. One binary, a module per
//! behaviour; `support` spawns the servers and has a browser-like client.

// Helpers outside `#[test]` functions fail a test by panicking too.
#![allow(clippy::unwrap_used)]

#[macro_use]
mod support;

mod admin;
mod away;
mod bad_input;
mod broker_suite;
mod bytes;
#[cfg(target_os = "linux")]
mod clock;
mod config;
mod cors;
mod deletions;
mod disconnect;
mod doctor;
mod documents;
mod drain;
mod expiry;
mod faults;
mod forward;
mod hostile;
mod http2;
mod limits;
mod metrics;
mod migrations;
mod opening;
mod operations;
mod permission;
mod proxies;
mod publish;
mod replicas;
mod resume;
mod retention;
mod secrets;
mod servers;
mod slow;
mod suite;
mod tls;
mod tokens;
mod traces;

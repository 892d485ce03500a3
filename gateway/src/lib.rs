//! sse-gateway: holds browser `EventSource` streams, grouped by room, and feeds them from a broker.
//!
//! Dependencies point one way: `protocol` ← [`hub`] ← [`broker`] ← `http` ← `app` ← `main`.

pub mod broker;
pub mod hub;

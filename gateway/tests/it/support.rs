//! Servers, proxies and clients for the tests. Everything is ended by `Drop`, by its own handle.

/// Polls a condition (which may `.await`) until it holds, or fails after [`DEADLINE`]. The only
/// way in which tests wait.
macro_rules! eventually {
    ($condition:expr, $($message:tt)+) => {{
        let deadline = std::time::Instant::now() + $crate::support::DEADLINE;
        loop {
            if $condition {
                break;
            }
            if std::time::Instant::now() > deadline {
                panic!("never came true: {}: {}", stringify!($condition), format_args!($($message)+));
            }
            tokio::time::sleep($crate::support::POLL).await;
        }
    }};
    ($condition:expr) => { eventually!($condition, "no more is known") };
}

pub mod authority;
pub mod backend;
pub mod client;
pub mod cluster;
#[path = "../../../protocol/tests/support/collector.rs"]
pub mod collector;
pub mod gateway;
pub mod haproxy;
pub mod http;
pub mod http2;
pub mod load;
pub mod node;
pub mod parse;
pub mod port;
pub mod proxy;
pub mod redis;
pub mod sentinel;

use std::time::Duration;

pub use authority::Authority;
pub use backend::{Backend, Reply};
pub use client::Client;
pub use cluster::RedisCluster;
pub use gateway::{Gateway, Setup};
pub use haproxy::HaProxy;
pub use http2::Http2;
pub use load::Load;
pub use proxy::Proxy;
pub use redis::{Persistence, RedisServer};
pub use sentinel::RedisSentinel;

/// How long `eventually!` polls. Generous: a test that passes never waits that long, and two cores
/// run many servers at once.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// The pause between two looks of `eventually!`.
pub const POLL: Duration = Duration::from_millis(10);

/// Fails with what is missing, doubled or out of order, instead of two long lists.
#[track_caller]
pub fn assert_same_ids(what: &str, got: &[String], want: &[String]) {
    if got == want {
        return;
    }
    let missing: Vec<_> = want.iter().filter(|id| !got.contains(id)).collect();
    let surplus: Vec<_> = got.iter().filter(|id| !want.contains(id)).collect();
    let mut seen = std::collections::HashSet::new();
    let doubled: Vec<_> = got.iter().filter(|id| !seen.insert(*id)).collect();
    panic!(
        "{what}: {} ids received, {} expected; missing {missing:?}; not expected {surplus:?}; \
         twice {doubled:?}; otherwise the order differs",
        got.len(),
        want.len()
    );
}

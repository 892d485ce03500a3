//! What the fuzz targets check: each module has a function `check` that takes any bytes and panics where a parser breaks its
//! word. The gateway's own parsers are compiled in by their files, so that the gateway's dependencies need not be built with
//! the fuzzer's flags, and nothing of them has to be public.

pub mod carriers;
pub mod channel;
pub mod envelope;
pub mod event_stream;
pub mod forwarded;
pub mod layout;
pub mod names;
pub mod proxy_protocol;
pub mod resp;
pub mod rules;
pub mod servers;
pub mod tokens;

// Files of the gateway, in modules that are named as theirs are.

#[allow(dead_code, unused_imports, unreachable_pub)]
#[path = "."]
mod auth {
    #[rustfmt::skip]
    #[path = "../../src/auth/key_line.rs"]
    mod key_line;
    #[path = "../../src/auth/keys.rs"]
    pub mod keys;

    #[path = "."]
    pub mod tokens {
        pub use super::{Refusal, RefusalKind};

        #[rustfmt::skip]
        #[path = "../../src/auth/tokens/carriers.rs"]
        pub mod carriers;

        /// `find` is for this module.
        pub fn find<'a>(
            carriers: &carriers::Carriers,
            headers: &'a http::HeaderMap,
            query: &'a str,
        ) -> Result<Option<std::borrow::Cow<'a, str>>, Refusal> {
            carriers.find(headers, query)
        }
    }

    /// What `auth.rs` has under this name.
    #[derive(Debug)]
    pub struct Refusal {
        pub kind: RefusalKind,
        pub label: &'static str,
        pub sentence: String,
    }

    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum RefusalKind {
        Missing,
        Invalid,
        Forbidden,
    }

    impl Refusal {
        pub fn new(kind: RefusalKind, label: &'static str, sentence: impl Into<String>) -> Self {
            Self {
                kind,
                label,
                sentence: sentence.into(),
            }
        }
    }
}

#[allow(dead_code, unused_imports, unreachable_pub)]
#[path = "."]
mod broker {
    #[rustfmt::skip]
    #[path = "../../src/broker/retention.rs"]
    pub mod retention;

    pub use retention::{RetentionChange, RetentionRules};
}

#[allow(dead_code, unused_imports, unreachable_pub)]
#[path = "."]
mod config {
    use std::time::Duration;

    #[rustfmt::skip]
    #[path = "../../src/config/network.rs"]
    mod network;
    #[rustfmt::skip]
    #[path = "../../src/config/retention.rs"]
    pub mod retention;
    #[rustfmt::skip]
    #[path = "../../src/config/values.rs"]
    pub mod values;

    pub use network::Network;

    /// It is for this module.
    pub fn read_line(line: &str) -> Result<(String, crate::broker::RetentionChange), String> {
        retention::read_line(line)
    }

    /// What `config.rs` has under this name.
    pub struct Retention {
        pub max_len: u64,
        pub max_age: Duration,
        pub expire: Duration,
        pub rooms: Vec<String>,
    }
}

#[allow(dead_code, unused_imports, unreachable_pub)]
#[path = "."]
mod http_files {
    #[rustfmt::skip]
    #[path = "../../src/http/publish/envelope.rs"]
    pub mod envelope;
    #[rustfmt::skip]
    #[path = "../../src/http/proxies.rs"]
    pub mod proxies;
    #[rustfmt::skip]
    #[path = "../../src/http/proxy_protocol.rs"]
    mod proxy_protocol;

    /// What the bytes so far are: nothing sound (`None`), or a header of so many bytes and whom it names, once it is whole.
    pub fn proxy_header(bytes: &[u8]) -> Option<Option<(usize, Option<std::net::IpAddr>)>> {
        match proxy_protocol::parse(bytes) {
            proxy_protocol::Parsed::Malformed => None,
            proxy_protocol::Parsed::Part => Some(None),
            proxy_protocol::Parsed::Whole(length, named) => Some(Some((length, named))),
        }
    }
}

#[allow(dead_code, unreachable_pub)]
#[rustfmt::skip]
#[path = "../../src/broker/redis/resp.rs"]
mod pushes;

/// Cuts bytes into a first part of at most `most` and the rest, by a length in the first byte.
fn cut(bytes: &[u8], most: usize) -> (&[u8], &[u8]) {
    let Some((&length, rest)) = bytes.split_first() else {
        return (&[], &[]);
    };
    rest.split_at(usize::from(length).min(most).min(rest.len()))
}

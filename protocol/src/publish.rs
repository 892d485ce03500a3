//! The publish function: one Lua source, as a Redis function library and as a script for `EVALSHA`.

use std::sync::LazyLock;

/// The body, written against `KEYS` and `ARGV`. Its first line declares what a function keeps from call to call.
pub const PUBLISH_LUA: &str = include_str!("publish.lua");
/// Name of the function library.
pub const LIBRARY_NAME: &str = "sse";
/// Name of the function.
pub const FUNCTION_NAME: &str = "sse_publish";
/// Name of the function that returns [`LIBRARY_VERSION`].
pub const VERSION_FUNCTION_NAME: &str = "sse_version";
/// Rises with every change of the function; a program never replaces a library of a later version.
pub const LIBRARY_VERSION: u32 = 4;
/// Events kept per room unless the call says otherwise.
pub const DEFAULT_MAX_LEN: u64 = 1_000;
/// Seconds of idleness after which a room's history expires unless the call says otherwise.
pub const DEFAULT_EXPIRE_SECONDS: u64 = 86_400;
/// Seconds for which an idempotency key is remembered unless the call says otherwise.
pub const DEFAULT_ONCE_SECONDS: u64 = 300;

/// The library's source for `FUNCTION LOAD`.
#[must_use]
pub fn library() -> String {
    let (kept, body) = PUBLISH_LUA.split_once('\n').unwrap_or(("", PUBLISH_LUA));
    format!(
        "#!lua name={LIBRARY_NAME}\n{kept}\nlocal function publish(KEYS, ARGV)\n{body}\nend\n\
         redis.register_function('{FUNCTION_NAME}', publish)\n\
         redis.register_function{{function_name='{VERSION_FUNCTION_NAME}', flags={{'no-writes'}}, \
         callback=function() return {LIBRARY_VERSION} end}}\n"
    )
}

/// The same body for `EVAL`, where a server has no functions.
#[must_use]
pub fn script() -> &'static str {
    PUBLISH_LUA
}

/// The script's name for `EVALSHA`.
#[must_use]
pub fn script_sha1() -> &'static str {
    static SHA1: LazyLock<String> =
        LazyLock::new(|| sha1_smol::Sha1::from(PUBLISH_LUA).hexdigest());
    &SHA1
}

/// The arguments of one call, after the key. `None` leaves the function's default in force.
#[derive(Debug, Clone, Copy, Default)]
pub struct PublishArgs<'a> {
    /// Empty for an unnamed event.
    pub event: &'a [u8],
    /// UTF-8, checked by the caller.
    pub data: &'a [u8],
    /// Events to keep, roughly; 0 keeps all.
    pub max_len: Option<u64>,
    /// Seconds to keep events; 0 keeps all.
    pub max_age_seconds: Option<u64>,
    /// Seconds of idleness after which the room expires; 0 is never.
    pub expire_seconds: Option<u64>,
    /// Idempotency key, 1 to 256 bytes.
    pub once: Option<&'a str>,
    /// Seconds for which it is remembered.
    pub once_seconds: Option<u64>,
    /// The most bytes of data.
    pub max_bytes: Option<usize>,
    /// `SPUBLISH` instead of `PUBLISH`: for a cluster.
    pub sharded: bool,
    /// `traceparent`, `tracestate` or names that begin with `x-`.
    pub extensions: &'a [(&'a str, &'a str)],
    /// Reply with `[id, previous id, 1 for a repeat]` instead of the id.
    pub full_reply: bool,
}

impl PublishArgs<'_> {
    /// The arguments in the order of the call.
    #[must_use]
    pub fn to_args(&self) -> Vec<Vec<u8>> {
        let mut args: Vec<Vec<u8>> = Vec::with_capacity(16);
        let mut pair =
            |name: &str, value: &[u8]| args.extend([name.as_bytes().to_vec(), value.to_vec()]);
        if !self.event.is_empty() {
            pair("event", self.event);
        }
        pair("data", self.data);
        let numbers = [
            ("maxlen", self.max_len),
            ("maxage", self.max_age_seconds),
            ("expire", self.expire_seconds),
            (
                "onceexpire",
                self.once_seconds.filter(|_| self.once.is_some()),
            ),
            ("maxbytes", self.max_bytes.map(|bytes| bytes as u64)),
            ("sharded", self.sharded.then_some(1)),
        ];
        for (name, number) in numbers {
            if let Some(number) = number {
                pair(name, number.to_string().as_bytes());
            }
        }
        if let Some(once) = self.once {
            pair("once", once.as_bytes());
        }
        self.extensions
            .iter()
            .for_each(|(name, value)| pair(name, value.as_bytes()));
        if self.full_reply {
            pair("reply", b"full");
        }
        args
    }
}

//! What a server's refusal means.

use redis::{ServerError, Value};

const IN_MOTION: &str = "the room is on its way to another server of the cluster";

/// Whose fault a refusal is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::broker::redis) enum Refusal {
    /// The key holds another type.
    WrongType,
    /// The publish function's own words.
    Sse(String),
    /// The function or script is not there.
    Unknown,
    /// The server does not have this command, or its use is not allowed.
    Forbidden(String),
    /// The slot is on its way to another server, and some of the keys are still here or not here yet.
    InMotion,
    /// Anything else: the server cannot serve this now.
    Other(String),
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::WrongType => f.write_str("the key holds another type"),
            Self::Unknown => f.write_str("a function is missing"),
            Self::InMotion => f.write_str(IN_MOTION),
            Self::Sse(text) | Self::Forbidden(text) | Self::Other(text) => f.write_str(text),
        }
    }
}

/// Sorts a refusal by what follows from it.
pub(in crate::broker::redis) fn refusal(error: &ServerError) -> Refusal {
    let detail = error.details().unwrap_or_default();
    let text = || format!("{} {detail}", error.code());
    match error.code() {
        "WRONGTYPE" => Refusal::WrongType,
        "NOSCRIPT" => Refusal::Unknown,
        // From inside the function, which has stored the event by then: another way would store it again.
        "NOPERM" if detail.contains("script: ") => Refusal::Other(text()),
        "NOPERM" => Refusal::Forbidden(text()),
        "ERR" if detail.starts_with("sse: ") => Refusal::Sse(detail["sse: ".len()..].to_owned()),
        "ERR" if detail.starts_with("Function not found") => Refusal::Unknown,
        // A function was refused a key that its call did not name.
        "ERR" if detail.starts_with("Script attempted to access a non local key") => {
            Refusal::InMotion
        }
        "TRYAGAIN" => Refusal::InMotion,
        "ERR" if detail.starts_with("unknown command") => Refusal::Forbidden(text()),
        _ => Refusal::Other(text()),
    }
}

/// `Value`, or the refusal that stands in its place.
pub(in crate::broker::redis) fn check(value: Value) -> Result<Value, Refusal> {
    match value {
        Value::ServerError(error) => Err(refusal(&error)),
        value => Ok(value),
    }
}

/// The bytes of a string answer.
pub(in crate::broker::redis) fn text(value: &Value) -> Option<&[u8]> {
    match value {
        Value::BulkString(bytes) => Some(bytes),
        Value::SimpleString(text) => Some(text.as_bytes()),
        Value::Okay => Some(b"OK"),
        _ => None,
    }
}

//! Error replies, sorted by what follows from them.

use protocol::servers::{Address, redirection};
use redis::ServerError;

use crate::target::{Failure, FailureKind};

/// What follows from an error reply.
#[derive(Debug)]
pub enum Refusal {
    /// The function or script is not there.
    Missing,
    /// The server knows no functions.
    NoFunctions,
    /// The slot is served elsewhere.
    Moved {
        /// Which slot.
        slot: u16,
        /// Where.
        to: Address,
        /// This once only: the slot is on its way there.
        once: bool,
    },
    /// The slot is on its way to another server, and not all of the keys are here.
    Apart,
    /// Anything else.
    Failure(Failure),
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Missing => Self::unavailable("the publish function is missing in Redis"),
            Refusal::NoFunctions => Self::other("this server has no functions"),
            Refusal::Moved { to, .. } => {
                Self::unavailable(format!("the room is on its way to Redis at {to}"))
            }
            Refusal::Apart => {
                Self::unavailable("the room is on its way to another server of the cluster")
            }
            Refusal::Failure(failure) => failure,
        }
    }
}

/// Sorts an error reply of the server at `from`.
#[must_use]
pub fn refusal(from: &Address, error: &ServerError) -> Refusal {
    let detail = error.details().unwrap_or_default();
    let said = || format!("Redis said: {} {detail}", error.code());
    let begins = |words: &str| detail.starts_with(words);
    Refusal::Failure(match error.code() {
        "ERR" if begins("Function not found") => return Refusal::Missing,
        "NOSCRIPT" => return Refusal::Missing,
        "ERR" if begins("unknown command") => return Refusal::NoFunctions,
        // A function was refused a key that its call did not name.
        "ERR" if begins("Script attempted to access a non local key") => return Refusal::Apart,
        "TRYAGAIN" => return Refusal::Apart,
        "ERR" => match detail.strip_prefix("sse: ") {
            Some(sentence) => Failure::refused(sentence),
            None => Failure::other(said()),
        },
        code @ ("MOVED" | "ASK") => match redirection(from, detail) {
            Some((slot, to)) => {
                let once = code == "ASK";
                return Refusal::Moved { slot, to, once };
            }
            None => Failure::other(said()),
        },
        "WRONGTYPE" => {
            Failure::other("the room's key in Redis holds something other than a stream")
        }
        // From inside the function, which has stored the event by then: another way would store it again.
        "NOPERM" if detail.contains("script: ") => Failure::other(said()),
        "NOPERM" | "NOAUTH" | "WRONGPASS" => Failure::new(FailureKind::Forbidden, said()),
        "LOADING" | "BUSY" | "READONLY" | "MASTERDOWN" | "CLUSTERDOWN" | "NOREPLICAS"
        | "MISCONF" | "OOM" | "UNBLOCKED" => Failure::unavailable(said()),
        _ => Failure::other(said()),
    })
}

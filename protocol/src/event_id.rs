//! Event ids: Redis stream ids, `milliseconds-sequence`.

use std::fmt;
use std::str::FromStr;

/// A Redis stream id. Orders as Redis orders. `0-0` is before the first event of any stream.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct EventId {
    /// Milliseconds since 1970 by the Redis server's clock.
    pub ms: u64,
    /// Rises within one millisecond. The publish function's tells servers apart (`publish.lua`).
    pub seq: u64,
}

/// The text is not `digits-digits`, or a number is over 64 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an event id is two numbers joined by '-', such as 1700000000000-0")]
pub struct EventIdError;

impl EventId {
    /// `0-0`: before the first event.
    pub const ZERO: Self = Self { ms: 0, seq: 0 };
    /// The greatest id.
    pub const MAX: Self = Self {
        ms: u64::MAX,
        seq: u64::MAX,
    };

    /// Makes an id from its two numbers.
    #[must_use]
    pub const fn new(ms: u64, seq: u64) -> Self {
        Self { ms, seq }
    }

    /// Reads an id from ASCII bytes: strictly `digits-digits`, no signs, no spaces.
    ///
    /// # Errors
    /// [`EventIdError`] for everything else.
    pub fn parse(text: &[u8]) -> Result<Self, EventIdError> {
        let dash = text.iter().position(|&b| b == b'-').ok_or(EventIdError)?;
        Ok(Self {
            ms: number(&text[..dash])?,
            seq: number(&text[dash + 1..])?,
        })
    }

    /// The greatest id below this one; `0-0` stays.
    #[must_use]
    pub const fn before(self) -> Self {
        match (self.ms, self.seq) {
            (0, 0) => self,
            (ms, 0) => Self {
                ms: ms - 1,
                seq: u64::MAX,
            },
            (ms, seq) => Self { ms, seq: seq - 1 },
        }
    }

    /// Appends the text form to `out` without allocating a string.
    pub fn write_to(self, out: &mut Vec<u8>) {
        let mut digits = itoa::Buffer::new();
        out.extend_from_slice(digits.format(self.ms).as_bytes());
        out.push(b'-');
        out.extend_from_slice(digits.format(self.seq).as_bytes());
    }
}

fn number(digits: &[u8]) -> Result<u64, EventIdError> {
    if digits.is_empty() {
        return Err(EventIdError);
    }
    digits.iter().try_fold(0u64, |n, &b| {
        if !b.is_ascii_digit() {
            return Err(EventIdError);
        }
        n.checked_mul(10)
            .and_then(|n| n.checked_add(u64::from(b - b'0')))
            .ok_or(EventIdError)
    })
}

impl FromStr for EventId {
    type Err = EventIdError;
    fn from_str(text: &str) -> Result<Self, EventIdError> {
        Self::parse(text.as_bytes())
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.ms, self.seq)
    }
}

impl fmt::Debug for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_writes_redis_ids() {
        for text in [
            "0-0",
            "1700000000000-0",
            "18446744073709551615-18446744073709551615",
        ] {
            let id: EventId = text.parse().unwrap();
            assert_eq!(id.to_string(), text);
            let mut out = Vec::new();
            id.write_to(&mut out);
            assert_eq!(out, text.as_bytes());
        }
        for bad in [
            "",
            "-",
            "1",
            "1-",
            "-1",
            "1-2-3",
            "+1-0",
            "1 -0",
            "a-b",
            "18446744073709551616-0",
            "$",
            "*",
        ] {
            assert!(bad.parse::<EventId>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn orders_by_time_then_sequence() {
        assert!(EventId::new(1, 9) < EventId::new(2, 0));
        assert!(EventId::new(2, 0) < EventId::new(2, 1));
        assert_eq!(EventId::new(2, 0).before(), EventId::new(1, u64::MAX));
        assert_eq!(EventId::ZERO.before(), EventId::ZERO);
    }
}

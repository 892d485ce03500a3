//! What a client brings back (`Last-Event-ID`): the id of the last event that it has, or of the reset that came after it.

use std::fmt;

use crate::event_id::{EventId, EventIdError};

/// The last `id:` that a client was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LastEventId {
    /// Of an event, or of a place between two.
    Event(EventId),
    /// Of a reset after a failover.
    Fork(ForkId),
}

/// The id of a reset after a failover, `resume~seen~mark`. For a moment some nodes may still follow the old primary. Where the
/// stream has `seen`, the client goes on after that one: it has been given all up to there; and else after `resume`, with
/// which what the old primary had and the new one has not begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ForkId {
    /// The last event that both primaries have.
    pub resume: EventId,
    /// The last event of the old one that was handed on.
    pub seen: EventId,
    /// Tells `seen` from another event with its id, unless it is [`ANY_MARK`].
    pub mark: u32,
}

/// The mark of whatever has the id.
pub const ANY_MARK: u32 = 0;

/// Hexadecimal digits of a mark.
const MARK_DIGITS: usize = 8;

impl LastEventId {
    /// Reads it: two ids and eight lower-case hexadecimal digits joined by `~`, or an id.
    ///
    /// # Errors
    /// [`EventIdError`] for everything else.
    pub fn parse(text: &[u8]) -> Result<Self, EventIdError> {
        let mut parts = text.split(|&b| b == b'~');
        let first = EventId::parse(parts.next().unwrap_or_default())?;
        match (parts.next(), parts.next(), parts.next()) {
            (None, ..) => Ok(Self::Event(first)),
            (Some(seen), Some(mark), None) => Ok(Self::Fork(ForkId {
                resume: first,
                seen: EventId::parse(seen)?,
                mark: hexadecimal(mark)?,
            })),
            _ => Err(EventIdError),
        }
    }

    /// The id after which the stream goes on.
    #[must_use]
    pub fn resume(self) -> EventId {
        match self {
            Self::Event(id) => id,
            Self::Fork(fork) => fork.resume,
        }
    }

    /// Appends the text form to `out`.
    pub fn write_to(self, out: &mut Vec<u8>) {
        self.resume().write_to(out);
        if let Self::Fork(ForkId { seen, mark, .. }) = self {
            out.push(b'~');
            seen.write_to(out);
            out.extend_from_slice(format!("~{mark:0MARK_DIGITS$x}").as_bytes());
        }
    }
}

fn hexadecimal(digits: &[u8]) -> Result<u32, EventIdError> {
    if digits.len() != MARK_DIGITS {
        return Err(EventIdError);
    }
    digits.iter().try_fold(0, |n, &b| {
        let digit = match b {
            b'0'..=b'9' => b - b'0',
            b'a'..=b'f' => b - b'a' + 10,
            _ => return Err(EventIdError),
        };
        Ok(n << 4 | u32::from(digit))
    })
}

impl From<EventId> for LastEventId {
    fn from(id: EventId) -> Self {
        Self::Event(id)
    }
}

impl fmt::Display for LastEventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = Vec::new();
        self.write_to(&mut text);
        f.write_str(&String::from_utf8_lossy(&text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_writes_both() {
        for text in [
            "0-0",
            "1700000000000-3",
            "0-0~1-0~00000001",
            "1700000000000-3~1700000000009-12~00c0ffee",
        ] {
            let id = LastEventId::parse(text.as_bytes()).unwrap();
            assert_eq!(id.to_string(), text);
            assert_eq!(matches!(id, LastEventId::Fork(_)), text.contains('~'));
        }
        for bad in [
            "",
            "~",
            "1-0~",
            "1-0~2-0",
            "1-0~2-0~",
            "1-0~2-0~1",
            "1-0~2-0~0000000g",
            "1-0~2-0~0000000A",
            "1-0~2-0~+0000001",
            "1-0~2-0~000000001",
            "1-0~2-0~00000001~",
            "1-0~2~00000001",
            "~2-0~00000001",
        ] {
            assert!(LastEventId::parse(bad.as_bytes()).is_err(), "{bad:?}");
        }
    }
}

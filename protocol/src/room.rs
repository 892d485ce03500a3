//! Room names: what may be in one, and the one place that checks it.

use std::fmt;
use std::sync::Arc;

/// The most bytes a room name may have.
pub const MAX_ROOM_BYTES: usize = 128;

/// A checked room name: 1 to 128 bytes of ASCII letters, digits and `. _ ~ : @ -`, but not `.` or
/// `..` (clients normalise such paths). Cloning shares the text.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RoomName(Arc<str>);

/// Why a text is not a room name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RoomNameError {
    /// No characters at all.
    #[error("a room name needs at least one character")]
    Empty,
    /// More than [`MAX_ROOM_BYTES`].
    #[error("a room name has at most 128 bytes")]
    TooLong,
    /// `.` or `..`.
    #[error("a room name is not '.' or '..', because clients normalise such paths")]
    Dots,
    /// A byte outside the allowed set.
    #[error("a room name is made of ASCII letters, digits and . _ ~ : @ -")]
    Character,
}

impl RoomName {
    /// Checks `text` and keeps it.
    ///
    /// # Errors
    /// [`RoomNameError`] says which rule was broken.
    pub fn parse(text: &str) -> Result<Self, RoomNameError> {
        match text {
            "" => return Err(RoomNameError::Empty),
            "." | ".." => return Err(RoomNameError::Dots),
            _ => {}
        }
        if text.len() > MAX_ROOM_BYTES {
            return Err(RoomNameError::TooLong);
        }
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"._~:@-".contains(&b);
        if !text.bytes().all(allowed) {
            return Err(RoomNameError::Character);
        }
        Ok(Self(text.into()))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RoomName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for RoomName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl std::borrow::Borrow<str> for RoomName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_what_the_rule_names() {
        for good in ["a", "demo", "A.b_c~d:e@f-9", "...", &"x".repeat(128)] {
            assert_eq!(RoomName::parse(good).unwrap().as_str(), good);
        }
    }

    #[test]
    fn refuses_everything_else() {
        use RoomNameError::*;
        let long = "x".repeat(129);
        for (bad, why) in [
            ("", Empty),
            (".", Dots),
            ("..", Dots),
            (&long, TooLong),
            ("a b", Character),
            ("a/b", Character),
            ("ä", Character),
            ("a\n", Character),
            ("a{b}", Character),
        ] {
            assert_eq!(RoomName::parse(bad), Err(why), "{bad:?}");
        }
    }
}

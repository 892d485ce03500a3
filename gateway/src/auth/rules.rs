//! Rules by room: the first whose pattern fits counts.

use protocol::RoomName;
use protocol::pattern::fits;

/// How permission is given in a room.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Mode {
    /// To anyone.
    Open,
    /// To whoever shows a token, or for publishing a key, that names the room.
    #[default]
    Token,
    /// To whom the user's backend lets in.
    Forward,
}

impl Mode {
    /// As it is written in rules.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Token => "token",
            Self::Forward => "forward",
        }
    }

    /// The opposite of [`Mode::label`].
    #[must_use]
    pub fn read(word: &str) -> Option<Self> {
        [Self::Open, Self::Token, Self::Forward]
            .into_iter()
            .find(|mode| mode.label() == word)
    }
}

/// Rules in order. A room that none fits needs a token.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules(Vec<(String, Mode)>);

impl Rules {
    /// These, the first first.
    pub fn new(rules: impl IntoIterator<Item = (String, Mode)>) -> Self {
        Self(rules.into_iter().collect())
    }

    /// Anyone, everywhere.
    #[must_use]
    pub fn open() -> Self {
        Self(vec![("*".to_owned(), Mode::Open)])
    }

    /// How permission is given in this room.
    #[must_use]
    pub fn of(&self, room: &RoomName) -> Mode {
        let mut rules = self.0.iter();
        rules
            .find(|(pattern, _)| fits(pattern, room.as_str()))
            .map_or_else(Mode::default, |(_, mode)| *mode)
    }

    /// Whether any room is treated in this way.
    #[must_use]
    pub fn has(&self, mode: Mode) -> bool {
        self.0.iter().any(|(_, one)| *one == mode)
    }

    /// Each rule.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Mode)> {
        self.0
            .iter()
            .map(|(pattern, mode)| (pattern.as_str(), *mode))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_that_fits_counts_and_the_rest_need_a_token() {
        let rule = |pattern: &str, mode| (pattern.to_owned(), mode);
        let rules = Rules::new([
            rule("news:secret", Mode::Token),
            rule("news:*", Mode::Open),
            rule("chat:*", Mode::Forward),
        ]);
        for (room, mode) in [
            ("news:a", Mode::Open),
            ("news:secret", Mode::Token),
            ("chat:1", Mode::Forward),
            ("chat", Mode::Token),
            ("News:a", Mode::Token),
        ] {
            assert_eq!(rules.of(&RoomName::parse(room).unwrap()), mode, "{room}");
        }
        assert_eq!(
            Rules::default().of(&RoomName::parse("a").unwrap()),
            Mode::Token
        );
    }
}

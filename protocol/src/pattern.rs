//! Patterns of rooms, in which `*` stands for anything.

use crate::RoomName;

/// Whether some room fits it.
#[must_use]
pub fn is_pattern(pattern: &str) -> bool {
    RoomName::parse(&pattern.replace('*', "x")).is_ok()
}

/// Whether a room fits a pattern, in which `*` stands for anything.
#[must_use]
pub fn fits(pattern: &str, room: &str) -> bool {
    let Some((first, mut rest)) = pattern.split_once('*') else {
        return pattern == room;
    };
    let Some(mut left) = room.strip_prefix(first) else {
        return false;
    };
    // The earliest place for each part leaves the most for the parts behind it.
    while let Some((part, behind)) = rest.split_once('*') {
        let Some(at) = left.find(part) else {
            return false;
        };
        left = &left[at + part.len()..];
        rest = behind;
    }
    left.ends_with(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_anything() {
        for (pattern, room, fit) in [
            ("*", "a", true),
            ("chat:*", "chat:", true),
            ("chat:*", "chat", false),
            ("*:private", "a:private", true),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c-b", false),
            ("a*a", "a", false),
            ("demo", "demo2", false),
        ] {
            assert_eq!(fits(pattern, room), fit, "{pattern} {room}");
        }
        for (pattern, sound) in [
            ("*", true),
            ("a:*", true),
            ("", false),
            ("a b", false),
            ("a/*", false),
        ] {
            assert_eq!(is_pattern(pattern), sound, "{pattern}");
        }
    }
}

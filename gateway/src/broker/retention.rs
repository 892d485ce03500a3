//! How much of a room is kept: for all rooms, for rooms by pattern, and as a single publish says.

use std::sync::Arc;
use std::time::Duration;

use protocol::RoomName;

use protocol::pattern::fits;

/// The most events that a limit can name: the publish function reads numbers exactly up to here.
pub const MOST_EVENTS: u64 = (1 << 53) - 1;
/// The longest age or idle time (100 years of 365 days). Redis refuses times that do not fit into its clock, and
/// would do so after it has stored the event.
pub const LONGEST: Duration = Duration::from_secs(36_500 * 86_400);

/// How much of a room is kept. Zero is no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Retention {
    /// Events, about.
    pub max_len: u64,
    /// Age of an event. Redis counts in seconds.
    pub max_age: Duration,
    /// Idle time after which the room is deleted. Redis counts in seconds.
    pub expire: Duration,
}

/// What differs from the rest: `None` leaves what is in force.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RetentionChange {
    /// See [`Retention::max_len`].
    pub max_len: Option<u64>,
    /// See [`Retention::max_age`].
    pub max_age: Option<Duration>,
    /// See [`Retention::expire`].
    pub expire: Option<Duration>,
}

impl RetentionChange {
    /// What is in force with this change.
    #[must_use]
    pub fn over(self, rest: Retention) -> Retention {
        Retention {
            max_len: self.max_len.unwrap_or(rest.max_len),
            max_age: self.max_age.unwrap_or(rest.max_age),
            expire: self.expire.unwrap_or(rest.expire),
        }
    }
}

/// What is kept of which room. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct RetentionRules {
    rest: Retention,
    rooms: Arc<[(String, Retention)]>,
}

impl RetentionRules {
    /// `rest`, but for rooms that fit a pattern; the first that fits counts.
    #[must_use]
    pub fn new(
        rest: Retention,
        rooms: impl IntoIterator<Item = (String, RetentionChange)>,
    ) -> Self {
        let rooms = rooms
            .into_iter()
            .map(|(pattern, change)| (pattern, change.over(rest)));
        Self {
            rest,
            rooms: rooms.collect(),
        }
    }

    /// What is kept of a room, as far as a publish does not say otherwise.
    #[must_use]
    pub fn of(&self, room: &RoomName) -> Retention {
        let mut rooms = self.rooms.iter();
        let found = rooms.find(|(pattern, _)| fits(pattern, room.as_str()));
        found.map_or(self.rest, |(_, retention)| *retention)
    }
}

impl From<Retention> for RetentionRules {
    fn from(rest: Retention) -> Self {
        Self::new(rest, [])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_pattern_that_fits_counts_and_the_rest_fills_in() {
        let rest = Retention {
            max_len: 1000,
            expire: Duration::from_secs(60),
            ..Retention::default()
        };
        let few = RetentionChange {
            max_len: Some(10),
            ..RetentionChange::default()
        };
        let aged = RetentionChange {
            max_age: Some(Duration::from_secs(5)),
            expire: Some(Duration::ZERO),
            ..RetentionChange::default()
        };
        let rooms = [("chat:vip", aged), ("chat:*", few), ("*:vip", few)];
        let rooms = rooms.map(|(pattern, change)| (pattern.to_owned(), change));
        let rules = RetentionRules::new(rest, rooms);
        let of = |room: &str| rules.of(&RoomName::parse(room).unwrap());
        let vip = Retention {
            max_len: 1000,
            max_age: Duration::from_secs(5),
            expire: Duration::ZERO,
        };
        assert_eq!(of("chat:vip"), vip);
        assert_eq!(
            (of("chat:a").max_len, of("chat:a").expire),
            (10, rest.expire)
        );
        assert_eq!(of("lobby"), rest);
    }
}

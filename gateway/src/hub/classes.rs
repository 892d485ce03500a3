//! Classes of rooms, so that metrics can tell kinds of rooms apart without a label for each room.
//!
//! Invariant: a room's class is found when the room is made, never when an event is delivered.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use protocol::RoomName;
use protocol::pattern::fits;

use super::node::Counters;

/// The class of rooms that no pattern fits.
const OTHER: &str = "other";

/// The configured classes. The first whose pattern fits is a room's.
#[derive(Debug, Clone, Default)]
pub struct RoomClasses {
    names: Arc<[String]>,
    /// Each with its class's place among the names.
    patterns: Arc<[(usize, String)]>,
}

impl RoomClasses {
    /// Classes by name and pattern, in which `*` stands for anything.
    #[must_use]
    pub fn new(classes: impl IntoIterator<Item = (String, String)>) -> Self {
        let mut names: Vec<String> = Vec::new();
        let mut place = |name: String| {
            let known = names.iter().position(|known| *known == name);
            known.unwrap_or_else(|| {
                names.push(name);
                names.len() - 1
            })
        };
        let mut patterns: Vec<(usize, String)> = classes
            .into_iter()
            .map(|(name, pattern)| (place(name), pattern))
            .collect();
        if !patterns.is_empty() {
            patterns.push((place(OTHER.to_owned()), "*".to_owned()));
        }
        Self {
            names: names.into(),
            patterns: patterns.into(),
        }
    }

    /// Their names, with that of the rest; none where none are configured.
    #[must_use]
    pub fn names(&self) -> &Arc<[String]> {
        &self.names
    }

    /// The place among the names.
    fn of(&self, room: &RoomName) -> usize {
        let mut patterns = self.patterns.iter();
        let found = patterns.find(|(_, pattern)| fits(pattern, room.as_str()));
        found.map_or(0, |(class, _)| *class)
    }
}

/// What happens in the rooms of one class.
#[derive(Debug, Clone, Copy, Default)]
pub struct ClassCounters {
    /// Streams open now.
    pub streams_open: u64,
    /// Events that reached a room.
    pub events: u64,
    /// Events times the streams that they were due to.
    pub deliveries: u64,
}

/// Written by one shard only, read by anyone.
#[derive(Debug, Default)]
pub(super) struct Counts {
    streams_open: AtomicU64,
    events: AtomicU64,
    deliveries: AtomicU64,
}

impl Counts {
    pub(super) fn add_to(&self, sum: &mut ClassCounters) {
        sum.streams_open += self.streams_open.load(Ordering::Relaxed);
        sum.events += self.events.load(Ordering::Relaxed);
        sum.deliveries += self.deliveries.load(Ordering::Relaxed);
    }
}

/// One shard's view: which class a room has, and the counts of each. Without classes there is nothing to count.
#[derive(Debug, Clone, Default)]
pub(super) struct Classes {
    known: RoomClasses,
    counts: Arc<[Counts]>,
}

impl Classes {
    pub(super) fn new(known: RoomClasses) -> Self {
        let counts = known.names().iter().map(|_| Counts::default()).collect();
        Self { known, counts }
    }

    pub(super) fn counts(&self) -> &[Counts] {
        &self.counts
    }

    pub(super) fn of(&self, room: &RoomName) -> usize {
        self.known.of(room)
    }

    pub(super) fn opened(&self, class: usize) {
        if let Some(counts) = self.counts.get(class) {
            Counters::bump(&counts.streams_open, 1);
        }
    }

    pub(super) fn closed(&self, class: usize) {
        if let Some(counts) = self.counts.get(class) {
            let open = counts.streams_open.load(Ordering::Relaxed);
            Counters::set(&counts.streams_open, open.saturating_sub(1));
        }
    }

    /// So many events came for so many streams.
    pub(super) fn appended(&self, class: usize, events: u64, streams: u64) {
        if let Some(counts) = self.counts.get(class) {
            Counters::bump(&counts.events, events);
            Counters::bump(&counts.deliveries, events * streams);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_fit() {
        for (pattern, room) in [
            ("chat", "chat"),
            ("chat:*", "chat:"),
            ("chat:*", "chat:a:b"),
            ("*", "x"),
            ("*:public", "a:public"),
            ("a*b*c", "abc"),
            ("a*b*c", "a-b-b-c"),
            ("**", "x"),
            ("*a*a", "aa"),
        ] {
            assert!(fits(pattern, room), "{pattern} {room}");
        }
        for (pattern, room) in [
            ("chat", "chat:"),
            ("chat:*", "chat"),
            ("*:public", "a:public:b"),
            ("a*b*c", "acb"),
            ("*a*a", "a"),
            ("ab*ba", "aba"),
        ] {
            assert!(!fits(pattern, room), "{pattern} {room}");
        }
    }

    #[test]
    fn the_first_class_that_fits_is_the_rooms() {
        let pair = |name: &str, pattern: &str| (name.to_owned(), pattern.to_owned());
        let classes = RoomClasses::new([
            pair("chat", "chat:*"),
            pair("stock", "stock-*"),
            pair("chat", "lobby"),
            pair("talk", "chat:vip"),
        ]);
        assert_eq!(classes.names()[..], ["chat", "stock", "talk", "other"]);
        let of = |room: &str| classes.of(&RoomName::parse(room).unwrap());
        assert_eq!(
            (of("chat:vip"), of("stock-1"), of("lobby"), of("x")),
            (0, 1, 0, 3)
        );
        assert!(RoomClasses::default().names().is_empty());
    }
}

//! What one client must see, and what it saw.

/// What an event is to a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// The next one, or the first.
    Next,
    /// The next one with some before it still to come: how many.
    Skipped(u64),
    /// The next one after a reset, with some before it that are gone: how many.
    Told(u64),
    /// It was missing, and comes after a later one.
    Reordered,
    /// It was there before.
    Repeated,
}

/// The events of one client's room, by their numbers.
#[derive(Debug, Clone, Default)]
pub struct Check {
    /// The number that must come next; 0 while any may be the first.
    next: u64,
    /// Numbers that were skipped: (first, last), in order.
    missing: Vec<(u64, u64)>,
    /// The client was told that events are gone, and none has come since.
    told: bool,
}

impl Check {
    /// A client that must see everything from `number` on.
    #[must_use]
    pub fn from_number(number: u64) -> Self {
        Self {
            next: number,
            ..Self::default()
        }
    }

    /// The number that must come next; 0 while any may be the first.
    #[must_use]
    pub fn next(&self) -> u64 {
        self.next
    }

    /// The client was told that events before the next one are gone.
    pub fn tell(&mut self) {
        self.told = true;
    }

    /// Whether the client was told so, and none has come since.
    #[must_use]
    pub fn is_told(&self) -> bool {
        self.told
    }

    /// Takes an event that arrived.
    pub fn see(&mut self, number: u64) -> Seen {
        let told = std::mem::take(&mut self.told);
        if number >= self.next {
            let first = std::mem::replace(&mut self.next, number + 1);
            if first == 0 || first == number {
                return Seen::Next;
            }
            if told {
                return Seen::Told(number - first);
            }
            self.missing.push((first, number - 1));
            return Seen::Skipped(number - first);
        }
        let Some(at) = self
            .missing
            .iter()
            .position(|&(first, last)| (first..=last).contains(&number))
        else {
            return Seen::Repeated;
        };
        let (first, last) = self.missing.remove(at);
        let parts = [(first, number - 1), (number + 1, last)];
        let parts = parts.into_iter().filter(|&(first, last)| first <= last);
        self.missing.splice(at..at, parts);
        Seen::Reordered
    }

    /// What never came: (first, last), in order, up to the room's last number.
    pub fn lost(&self, last: u64) -> impl Iterator<Item = (u64, u64)> + '_ {
        let tail = (self.next != 0 && self.next <= last).then_some((self.next, last));
        self.missing.iter().copied().chain(tail)
    }

    /// Whether everything up to `last` is there.
    #[must_use]
    pub fn has_all(&self, last: u64) -> bool {
        self.missing.is_empty() && (self.next == 0 || self.next > last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_event_once_in_order_is_clean() {
        let mut check = Check::from_number(1);
        assert!((1..=5).all(|number| check.see(number) == Seen::Next));
        assert!(check.has_all(5) && !check.has_all(6));
        assert_eq!(check.lost(7).collect::<Vec<_>>(), [(6, 7)]);
    }

    #[test]
    fn a_hole_is_lost_until_it_comes_late() {
        let mut check = Check::from_number(1);
        assert_eq!(check.see(5), Seen::Skipped(4));
        assert_eq!(check.see(3), Seen::Reordered);
        assert_eq!(check.lost(5).collect::<Vec<_>>(), [(1, 2), (4, 4)]);
        assert_eq!(check.see(4), Seen::Reordered);
        assert_eq!(check.see(4), Seen::Repeated);
        assert_eq!(check.see(5), Seen::Repeated);
        assert_eq!(check.lost(5).collect::<Vec<_>>(), [(1, 2)]);
        assert!(!check.has_all(5));
    }

    #[test]
    fn what_a_reset_says_is_gone_is_not_lost_in_silence() {
        let mut check = Check::from_number(1);
        check.tell();
        assert_eq!(check.see(4), Seen::Told(3));
        assert_eq!(check.see(6), Seen::Skipped(1));
        assert_eq!(check.lost(6).collect::<Vec<_>>(), [(5, 5)]);
    }

    #[test]
    fn one_who_joined_late_misses_nothing_before() {
        let mut check = Check::default();
        assert!(check.has_all(100));
        assert_eq!(check.see(41), Seen::Next);
        assert_eq!(check.see(42), Seen::Next);
        assert_eq!(check.lost(42).count(), 0);
        assert_eq!(check.see(40), Seen::Repeated);
    }
}

//! Which server is the primary of which slots.

use super::Address;
use crate::keys::SLOTS;

/// A primary and those that follow it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Primary {
    /// Where it is.
    pub address: Address,
    /// Its replicas, where they are known.
    pub replicas: Vec<Address>,
}

/// A deployment at one time: its primaries, and what each of them serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    primaries: Vec<Primary>,
    /// In a cluster: for each slot an index into `primaries`, or [`NOBODY`].
    slots: Option<Box<[u16]>>,
}

const NOBODY: u16 = u16::MAX;

impl Layout {
    /// One primary that serves everything.
    #[must_use]
    pub fn single(address: Address) -> Self {
        Self {
            primaries: vec![Primary {
                address,
                replicas: Vec::new(),
            }],
            slots: None,
        }
    }

    /// A cluster without any slots yet.
    pub(super) fn empty_cluster() -> Self {
        Self {
            primaries: Vec::new(),
            slots: Some(vec![NOBODY; usize::from(SLOTS)].into()),
        }
    }

    /// Says that `primary` serves the slots `first` to `last`.
    pub(super) fn assign(&mut self, first: u16, last: u16, primary: Primary) {
        let known = |other: &Primary| other.address == primary.address;
        let index = self.primaries.iter().position(known).unwrap_or_else(|| {
            self.primaries.push(primary);
            self.primaries.len() - 1
        });
        let index = u16::try_from(index).unwrap_or(NOBODY);
        if let Some(slots) = &mut self.slots {
            for slot in first..=last.min(SLOTS - 1) {
                slots[usize::from(slot)] = index;
            }
        }
    }

    /// All primaries.
    #[must_use]
    pub fn primaries(&self) -> &[Primary] {
        &self.primaries
    }

    /// The primary that serves a slot; `None` where nobody does.
    #[must_use]
    pub fn primary_of(&self, slot: u16) -> Option<&Address> {
        let index = match &self.slots {
            None => 0,
            Some(slots) => *slots.get(usize::from(slot))?,
        };
        Some(&self.primaries.get(usize::from(index))?.address)
    }

    /// How many slots nobody serves.
    #[must_use]
    pub fn uncovered(&self) -> usize {
        let slots = self.slots.iter().flat_map(|slots| slots.iter());
        slots.filter(|&&index| index == NOBODY).count()
    }

    /// The same, once a server has said that a slot is served at `address`.
    #[must_use]
    pub fn moved(&self, slot: u16, address: Address) -> Self {
        let mut layout = self.clone();
        let replicas = Vec::new();
        layout.assign(slot, slot, Primary { address, replicas });
        layout
    }

    /// Whether both send every slot to the same address.
    #[must_use]
    pub fn routes_as(&self, other: &Self) -> bool {
        (0..SLOTS).all(|slot| self.primary_of(slot) == other.primary_of(slot))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(port: u16) -> Address {
        Address::Tcp("h".into(), port)
    }

    fn primary(port: u16) -> Primary {
        Primary {
            address: at(port),
            replicas: Vec::new(),
        }
    }

    #[test]
    fn slots_lead_to_primaries() {
        let mut layout = Layout::empty_cluster();
        layout.assign(0, 8191, primary(1));
        layout.assign(8192, 16000, primary(2));
        layout.assign(16001, 16001, primary(1));
        assert_eq!(layout.primaries().len(), 2);
        assert_eq!(layout.primary_of(8191), Some(&at(1)));
        assert_eq!(layout.primary_of(8192), Some(&at(2)));
        assert_eq!(layout.primary_of(16001), Some(&at(1)));
        assert_eq!(layout.primary_of(16002), None);
        assert_eq!(layout.uncovered(), 382);
        let moved = layout.moved(0, at(3));
        assert_eq!(moved.primary_of(0), Some(&at(3)));
        assert!(!moved.routes_as(&layout) && layout.routes_as(&layout.clone()));
        assert_eq!(Layout::single(at(9)).primary_of(77), Some(&at(9)));
    }
}

//! What tells two events apart to which two primaries gave one id.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::num::NonZeroU32;

use super::Item;

/// Made of the predecessor, the name, and the data's length and ends. The same in all nodes of one build; in others it may
/// differ, and then an event passes for another one.
pub type Mark = NonZeroU32;

/// Bytes at each end of the data that a mark looks at.
const ENDS: usize = 256;

impl Item {
    /// `None` where it cannot be delivered: then its id has to do.
    #[must_use]
    pub fn mark(&self) -> Option<Mark> {
        let event = self.event()?;
        let mut hasher = DefaultHasher::new();
        (event.prev, &*event.name, event.data.len()).hash(&mut hasher);
        let end = event.data.len().saturating_sub(ENDS).max(ENDS);
        for part in [
            event.data.get(..ENDS).unwrap_or(&event.data),
            event.data.get(end..).unwrap_or_default(),
        ] {
            part.hash(&mut hasher);
        }
        // Half of the hash is enough: it is asked only where the ids are alike.
        NonZeroU32::new(hasher.finish() as u32 | 1)
    }
}

//! Whose streams they are, where that is known, and until when they may stay.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::leaving::FEW;
use super::state::{Closed, State};
use super::subscriber::Handle;
use super::{Limit, Place, Terms};

/// A stream's user.
#[derive(Debug)]
pub(super) struct Owner {
    place: Place<Arc<str>>,
    /// When permission was given, in seconds since 1970; 0 where that is not known.
    pub(super) issued: u32,
}

impl Owner {
    pub(super) fn user(&self) -> &Arc<str> {
        self.place.holder()
    }
}

/// By the streams' keys: 32 bytes for each up to the last that has a user, and nothing where none has.
#[derive(Debug, Default)]
pub(super) struct Owners(Vec<Option<Owner>>);

impl Owners {
    fn set(&mut self, key: usize, owner: Owner) {
        if self.0.len() <= key {
            self.0.resize_with(key + 1, || None);
        }
        self.0[key] = Some(owner);
    }

    pub(super) fn remove(&mut self, key: usize) {
        if let Some(owner) = self.0.get_mut(key) {
            *owner = None;
        }
    }

    pub(super) fn get(&self, key: usize) -> Option<&Owner> {
        self.0.get(key)?.as_ref()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (usize, &Owner)> {
        let owners = self.0.iter().enumerate();
        owners.filter_map(|(key, owner)| Some((key, owner.as_ref()?)))
    }
}

/// When permission ends: milliseconds since 1970, the earliest on top; 16 bytes for each stream with an end. Not counted
/// in ticks, which come late on a busy node.
#[derive(Debug, Default)]
pub(super) struct Ends(BinaryHeap<Reverse<(u64, Handle)>>);

impl Ends {
    /// Keeps those of streams that are here, once most are of others.
    pub(super) fn forget(&mut self, streams: usize, is_here: impl Fn(&Handle) -> bool) {
        if self.0.len() > 2 * streams + FEW {
            self.0.retain(|Reverse((_, handle))| is_here(handle));
        }
    }

    /// All of them, ascending.
    #[cfg(test)]
    pub(super) fn drawn(&self) -> Vec<u64> {
        let mut drawn: Vec<u64> = self.0.iter().map(|Reverse((end, _))| *end).collect();
        drawn.sort_unstable();
        drawn
    }

    fn due(&mut self, now: u64) -> Option<Handle> {
        let &Reverse((end, handle)) = self.0.peek()?;
        (end <= now).then(|| {
            self.0.pop();
            handle
        })
    }
}

impl State {
    /// A place among the streams of the user; `None` where there is no user.
    ///
    /// # Errors
    /// The user has as many as allowed.
    pub(super) fn own(&self, terms: &Terms) -> Result<Option<Owner>, Closed> {
        let Some(user) = &terms.user else {
            return Ok(None);
        };
        let place = self.users.take(user.clone(), self.rules.get().per_user);
        let place = place.ok_or(Closed::Limit(Limit::User))?;
        let issued = terms.issued.unwrap_or_default();
        let issued = u32::try_from(issued).unwrap_or(u32::MAX);
        Ok(Some(Owner { place, issued }))
    }

    /// Notes whose a new stream is, and when it has to end: between the end of its permission and the leeway later, drawn by
    /// lot, so that those whose permission was given together do not come back together.
    pub(super) fn note_terms(&mut self, handle: Handle, owner: Option<Owner>, ends: Option<u64>) {
        if let Some(owner) = owner {
            self.owners.set(handle.0 as usize, owner);
        }
        if let Some(ends) = ends {
            let leeway = millis(self.rules.get().leeway);
            let ends = ends.saturating_mul(1000);
            let last = ends.saturating_add(leeway);
            // Within the leeway already: what is left of it.
            let first = ends.max(unix_millis()).min(last);
            let end = fastrand::u64(first..=last);
            self.ends.0.push(Reverse((end, handle)));
        }
    }

    /// One tick: streams whose permission has ended.
    pub(super) fn expire(&mut self) {
        if self.ends.0.is_empty() {
            return;
        }
        let now = unix_millis();
        while let Some(handle) = self.ends.due(now) {
            self.dismiss(handle, Closed::Expired);
        }
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// The time of now, in milliseconds since 1970.
pub(super) fn unix_millis() -> u64 {
    millis(
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default(),
    )
}

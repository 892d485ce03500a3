//! What publishers of a room know: what they tried, and which id each acknowledged event got.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

/// An event id as two numbers, so that it sorts.
pub type Id = (u64, u64);

pub fn parse_id(text: &str) -> Option<Id> {
    let (ms, sequence) = text.split_once('-')?;
    Some((ms.parse().ok()?, sequence.parse().ok()?))
}

#[derive(Debug, Default)]
pub struct Book {
    /// Numbers run from 1; an event's data begins with its number.
    attempted: u64,
    /// Those published by a plain `XADD`.
    plain: HashSet<u64>,
    /// Since the last check.
    pub acked: BTreeMap<Id, (u64, Instant)>,
    /// Events of one id that were acknowledged since the last check, where it may not be.
    pub twins: Vec<String>,
    /// The id of every number that ever got one.
    pub ids: HashMap<u64, Id>,
}

impl Book {
    pub fn attempt(&mut self, is_plain: bool) -> u64 {
        self.attempted += 1;
        if is_plain {
            self.plain.insert(self.attempted);
        }
        self.attempted
    }

    /// Says that two events have one id. Two primaries side by side may give it, if both events are plain.
    pub fn twins_of(&self, id: Id, one: u64, other: u64) -> Option<String> {
        let are_plain = self.plain.contains(&one) && self.plain.contains(&other);
        (!are_plain).then(|| format!("events {one} and {other} both have the id {id:?}"))
    }

    pub fn attempted(&self) -> u64 {
        self.attempted
    }

    pub fn acknowledge(&mut self, number: u64, id: Id) {
        if let Some((other, _)) = self.acked.insert(id, (number, Instant::now())) {
            self.twins.extend(self.twins_of(id, number, other));
        }
        self.ids.insert(number, id);
    }

    /// Acknowledged at this moment or later.
    pub fn acked_since(&self, moment: Instant) -> usize {
        let later = self.acked.values().filter(|(_, at)| *at >= moment);
        later.count()
    }
}

/// Shared by a room's publishers and the check.
#[derive(Debug, Clone, Default)]
pub struct Ledger(Arc<Mutex<Book>>);

impl Ledger {
    pub fn book(&self) -> MutexGuard<'_, Book> {
        self.0.lock().unwrap()
    }
}

/// The number that an event's data begins with.
pub fn number_of(data: &str) -> Option<u64> {
    data.split(' ').next()?.parse().ok()
}

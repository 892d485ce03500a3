//! A room log: the recent events of one room, already encoded as response bytes, contiguous.
//!
//! Invariant: the bytes from one entry's end to the next entry's end are exactly one event, and
//! stored ids ascend; so "everything since a cursor" is one slice.
//!
//! Offsets are positions in the endless sequence of the room's bytes. They begin high, so that
//! older history can be put in front without moving a cursor.

use std::collections::VecDeque;
use std::ops::Range;

use protocol::EventId;

use super::{Control, Encoder, Item};

const FIRST_OFFSET: u64 = 1 << 48;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// In the stream: has an id, is replayed.
    Stored,
    /// Ephemeral or control: only for those who are there when it comes.
    Passing,
}

#[derive(Debug)]
struct Entry {
    /// Its own id; of a passing entry, that of the last stored one before it.
    id: EventId,
    end: u64,
    inner_start: u32,
    inner_end: u32,
    kind: Kind,
}

/// Where an id stands in relation to a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// Known here: reading goes on at this offset.
    At(u64),
    /// Older than the log.
    Before,
    /// Within the log's range, but no such entry.
    Missing,
    /// Newer than the log.
    Ahead,
}

/// What a cursor must not send again or never.
#[derive(Debug, Clone, Copy)]
pub(super) struct View {
    /// Bare bytes instead of chunks.
    pub identity: bool,
    /// Passing entries that end at or before this offset are left out.
    pub replay_until: u64,
    /// Stored entries up to this id are left out.
    pub floor: EventId,
}

#[derive(Debug)]
pub(super) struct RoomLog {
    bytes: Vec<u8>,
    start: u64,
    entries: VecDeque<Entry>,
    /// The position just before the first entry.
    floor: EventId,
    /// The newest position.
    head: EventId,
    /// Nothing older than the log is kept anywhere.
    complete: bool,
}

impl RoomLog {
    /// An empty log of a room whose stream stands at `head`.
    pub(super) fn new(head: EventId) -> Self {
        Self {
            bytes: Vec::new(),
            start: FIRST_OFFSET,
            entries: VecDeque::new(),
            floor: head,
            head,
            complete: head == EventId::ZERO,
        }
    }

    pub(super) fn start(&self) -> u64 {
        self.start
    }

    pub(super) fn end(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }

    pub(super) fn head(&self) -> EventId {
        self.head
    }

    pub(super) fn floor(&self) -> EventId {
        self.floor
    }

    pub(super) fn complete(&self) -> bool {
        self.complete
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Bytes of memory that the log holds.
    pub(super) fn memory(&self) -> usize {
        self.bytes.capacity() + self.entries.capacity() * size_of::<Entry>()
    }

    /// Gives back memory that the log does not need now.
    pub(super) fn shrink(&mut self) {
        self.bytes
            .shrink_to(self.bytes.len() + self.bytes.len() / 4);
        self.entries
            .shrink_to(self.entries.len() + self.entries.len() / 4);
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// The bytes from one offset to another; both must lie within the log.
    pub(super) fn slice(&self, range: Range<u64>) -> &[u8] {
        &self.bytes[(range.start - self.start) as usize..(range.end - self.start) as usize]
    }

    pub(super) fn append(&mut self, item: &Item, encoder: &dyn Encoder) {
        match item {
            Item::Event(event) => {
                let kind = if event.id.is_some() {
                    Kind::Stored
                } else {
                    Kind::Passing
                };
                let inner = encoder.event(&mut self.bytes, event);
                self.push(event.id, inner, kind);
            }
            Item::Skipped(id) => self.push(Some(*id), 0..0, Kind::Stored),
        }
    }

    /// Nothing more is to come up to `id`.
    pub(super) fn reach(&mut self, id: EventId) {
        self.head = self.head.max(id);
    }

    pub(super) fn append_control(&mut self, control: Control<'_>, encoder: &dyn Encoder) {
        let inner = encoder.control(&mut self.bytes, control);
        self.push(None, inner, Kind::Passing);
    }

    fn push(&mut self, id: Option<EventId>, inner: Range<usize>, kind: Kind) {
        let id = id.unwrap_or(self.head);
        self.head = self.head.max(id);
        self.entries.push_back(Entry {
            id,
            end: self.end(),
            inner_start: inner.start as u32,
            inner_end: inner.end as u32,
            kind,
        });
    }

    /// Puts older history in front: of `items` (ascending, the newest that the stream has) those
    /// up to the log's floor, newest first, while `max_bytes` and `max_entries` of the whole log
    /// last. `complete` says that the stream has nothing older than `items`, and `from_start`
    /// that it never had.
    pub(super) fn prepend(
        &mut self,
        items: &[Item],
        complete: bool,
        from_start: bool,
        limits: (usize, usize),
        encoder: &dyn Encoder,
    ) {
        let (max_bytes, max_entries) = limits;
        let older = items.partition_point(|item| item.id().unwrap_or_default() <= self.floor);
        let mut fresh: Vec<(Vec<u8>, EventId, Range<usize>)> = Vec::new();
        let mut total = self.bytes.len();
        let mut first = older;
        while first > 0 && fresh.len() + self.entries.len() < max_entries {
            let mut bytes = Vec::new();
            let (id, inner) = match &items[first - 1] {
                Item::Event(event) => (
                    event.id.unwrap_or_default(),
                    encoder.event(&mut bytes, event),
                ),
                Item::Skipped(id) => (*id, 0..0),
            };
            total += bytes.len();
            if total > max_bytes && !fresh.is_empty() {
                break;
            }
            fresh.push((bytes, id, inner));
            first -= 1;
        }
        if first < older {
            let mut joined = Vec::with_capacity(total.max(self.bytes.len()));
            fresh
                .iter()
                .rev()
                .for_each(|(bytes, ..)| joined.extend_from_slice(bytes));
            self.start -= joined.len() as u64;
            joined.extend_from_slice(&self.bytes);
            let mut end = self.start + (joined.len() - self.bytes.len()) as u64;
            self.bytes = joined;
            for (bytes, id, inner) in &fresh {
                self.entries.push_front(Entry {
                    id: *id,
                    end,
                    inner_start: inner.start as u32,
                    inner_end: inner.end as u32,
                    kind: Kind::Stored,
                });
                end -= bytes.len() as u64;
            }
            let oldest = &items[first];
            self.floor = oldest
                .prev()
                .unwrap_or_else(|| oldest.id().unwrap_or_default().before());
        }
        if first == 0 && complete {
            self.complete = true;
            if from_start {
                self.floor = EventId::ZERO;
            }
        }
    }

    /// The offset that the log would start at if it kept at most `bytes` and `entries`.
    pub(super) fn cut(&self, bytes: usize, entries: usize) -> u64 {
        let by_count = self.entries.len().saturating_sub(entries);
        let target = self.end().saturating_sub(bytes as u64);
        let by_bytes = if self.bytes.len() <= bytes {
            0
        } else {
            self.entries.partition_point(|e| e.end < target) + 1
        };
        match by_count.max(by_bytes).min(self.entries.len()) {
            0 => self.start,
            n => self.entries[n - 1].end,
        }
    }

    /// Forgets everything before `offset`, which must be an entry's end.
    pub(super) fn evict(&mut self, offset: u64) {
        while let Some(entry) = self.entries.front() {
            if entry.end > offset {
                break;
            }
            self.floor = entry.id;
            self.complete = false;
            self.entries.pop_front();
        }
        self.bytes.drain(..(offset - self.start) as usize);
        self.start = offset;
    }

    /// Forgets everything; the room goes on at `resume`.
    pub(super) fn restart(&mut self, resume: EventId) {
        self.start = self.end();
        self.bytes.clear();
        self.entries.clear();
        self.floor = resume;
        self.head = resume;
        self.complete = false;
    }

    /// Where a reader that has seen `id` goes on.
    pub(super) fn locate(&self, id: EventId) -> Place {
        if id == self.head {
            return Place::At(self.end());
        }
        if id == self.floor {
            return Place::At(self.start);
        }
        if id > self.head {
            return Place::Ahead;
        }
        if id < self.floor {
            return Place::Before;
        }
        let after = self.entries.partition_point(|e| e.id <= id);
        match after.checked_sub(1).map(|at| &self.entries[at]) {
            Some(entry) if entry.id == id => Place::At(entry.end),
            _ => Place::Missing,
        }
    }

    /// Where the first entry after `id` begins, for an `id` whose continuity is proved; `None`
    /// where the log begins later than that.
    pub(super) fn seek(&self, id: EventId) -> Option<u64> {
        if id < self.floor {
            return None;
        }
        match self.entries.partition_point(|e| e.id <= id) {
            0 => Some(self.start),
            n => Some(self.entries[n - 1].end),
        }
    }

    /// Where the newest `count` stored events begin, and the position before them; `None` where
    /// the log has fewer and is not complete.
    pub(super) fn recent(&self, count: usize) -> Option<(u64, EventId)> {
        if count == 0 {
            return Some((self.end(), self.head));
        }
        let mut left = count;
        for at in (0..self.entries.len()).rev() {
            if self.entries[at].kind == Kind::Stored && self.begin(at) < self.entries[at].end {
                left -= 1;
                if left == 0 {
                    let before = at
                        .checked_sub(1)
                        .map_or(self.floor, |at| self.entries[at].id);
                    return Some((self.begin(at), before));
                }
            }
        }
        self.complete.then_some((self.start, self.floor))
    }

    /// Whether it has something after `from` up to `to`, or had.
    pub(super) fn has_between(&self, from: EventId, to: EventId) -> bool {
        let count = |id| self.entries.partition_point(|e| e.id <= id);
        from < self.floor || count(from) < count(to)
    }

    /// How many stored events come after `id`.
    pub(super) fn stored_after(&self, id: EventId) -> usize {
        let first = self.entries.partition_point(|e| e.id <= id);
        let stored = |&at: &usize| {
            self.entries[at].kind == Kind::Stored && self.begin(at) < self.entries[at].end
        };
        (first..self.entries.len()).filter(stored).count()
    }

    fn begin(&self, at: usize) -> u64 {
        at.checked_sub(1)
            .map_or(self.start, |at| self.entries[at].end)
    }

    /// The last stored id that a reader at `offset` has seen whole or begun to see, and where the
    /// entry ends that it is in the middle of.
    pub(super) fn seen_at(&self, offset: u64) -> (EventId, Option<u64>) {
        let at = self.entries.partition_point(|e| e.end <= offset);
        let before = at
            .checked_sub(1)
            .map_or(self.floor, |at| self.entries[at].id);
        match self.entries.get(at) {
            Some(entry) if self.begin(at) < offset => (entry.id, Some(entry.end)),
            _ => (before, None),
        }
    }

    /// The bare bytes that are left of the entry around `offset`.
    pub(super) fn inner_rest(&self, offset: u64) -> &[u8] {
        let at = self.entries.partition_point(|e| e.end <= offset);
        let Some(entry) = self.entries.get(at) else {
            return &[];
        };
        let inner_end = self.begin(at) + u64::from(entry.inner_end);
        self.slice(offset.min(inner_end)..inner_end)
    }

    /// The next bytes for a cursor that cannot take everything: what to write, and where the
    /// cursor stands once all of it is written.
    pub(super) fn next_run(&self, offset: u64, view: View) -> Option<(Range<u64>, u64)> {
        let mut at = self.entries.partition_point(|e| e.end <= offset);
        let mut from = offset;
        loop {
            let entry = self.entries.get(at)?;
            let begin = self.begin(at);
            if from > begin || !Self::left_out(entry, begin, view) {
                if !view.identity {
                    return Some(self.chunk_run(at, from, view));
                }
                let inner =
                    begin + u64::from(entry.inner_start)..begin + u64::from(entry.inner_end);
                let from = from.max(inner.start);
                if from < inner.end {
                    return Some((from..inner.end, entry.end));
                }
            }
            from = entry.end;
            at += 1;
        }
    }

    fn chunk_run(&self, first: usize, from: u64, view: View) -> (Range<u64>, u64) {
        let mut to = self.entries[first].end;
        for entry in self.entries.iter().skip(first + 1) {
            if Self::left_out(entry, to, view) {
                break;
            }
            to = entry.end;
        }
        (from..to, to)
    }

    fn left_out(entry: &Entry, begin: u64, view: View) -> bool {
        entry.end == begin
            || match entry.kind {
                Kind::Passing => entry.end <= view.replay_until,
                Kind::Stored => entry.id <= view.floor,
            }
    }
}

#[cfg(test)]
mod tests;

//! Redis as a node sees it: a stream, the way to the node that loses things, and primaries that go
//! back. Remembers all that ever happened.

use std::collections::{BTreeSet, VecDeque};

use protocol::{Event, EventId};

use super::reference::Faults;
use crate::broker::sequencer::{BRANCH, Message, Read, Tail};
use crate::hub::{History, Item};

/// Entries per page.
const PAGE: usize = 3;
/// Ids of one branch lie this far apart, so that a clock that went back finds unused ones, and that there are never two
/// primaries at a time.
const STEP: u64 = 1 << 16;

/// On the way to the node.
#[derive(Debug, Clone)]
pub(super) enum Wire {
    Message(Message),
    Signal,
    Replaced,
}

#[derive(Debug, Clone)]
pub(super) struct Stream {
    /// Ids, and the id that the entry names as the one before.
    pub(super) entries: Vec<(u64, Option<u64>)>,
    pub(super) last: u64,
    /// The highest id that `XDEL` took.
    pub(super) deleted: u64,
    /// All that were ever added.
    pub(super) added: Vec<u64>,
    /// Another one after `DEL` and a new beginning.
    birth: u64,
}

/// What a primary has, and what it had.
#[derive(Debug, Clone, Default)]
pub(super) struct Data {
    pub(super) stream: Option<Stream>,
    /// Trimmed, or deleted with the stream.
    pub(super) gone: Vec<u64>,
}

impl Data {
    fn birth(&self) -> Option<u64> {
        self.stream.as_ref().map(|stream| stream.birth)
    }
}

/// The primary, the channel and everything that happened.
#[derive(Debug, Clone)]
pub(super) struct Redis {
    pub(super) faults: Faults,
    pub(super) data: Data,
    /// What replicas may be left with: the data after each write.
    pub(super) past: Vec<Data>,
    /// With the number of writes before it.
    pub(super) backup: Option<(usize, Data)>,
    /// The copy has entries that the primary lacks: with the next write they are of another branch.
    pub(super) is_beside: bool,
    pub(super) clock: u64,
    pub(super) branches: u64,
    pub(super) primary: u64,
    /// The primary that the link leads to.
    pub(super) link: Option<u64>,
    pub(super) wire: VecDeque<Wire>,
    /// What the last transition delivered.
    pub(super) arrived: Vec<Wire>,
    pub(super) owed: [VecDeque<Message>; 2],
    pub(super) ephemerals: u64,
    /// Everything that was ever stored, in this order.
    pub(super) stored: Vec<u64>,
    /// By `XDEL`.
    pub(super) removed: BTreeSet<u64>,
    /// How often the stream was deleted, or replaced by one of another birth.
    pub(super) deletions: usize,
    /// Whether a primary went back, and whether one of them to a stream of another birth.
    pub(super) forked: bool,
    pub(super) trimmed: bool,
    pub(super) reborn: bool,
    /// How often ids went back.
    pub(super) ids_back: usize,
    /// What was stored below an id that another primary had issued.
    pub(super) low: BTreeSet<u64>,
}

pub(super) fn id(ms: u64) -> EventId {
    EventId::new(ms, 0)
}

pub(super) fn event(ms: Option<u64>, prev: Option<u64>, data: u64) -> Item {
    Item::Event(Event {
        id: ms.map(id),
        prev: prev.map(id),
        name: Default::default(),
        data: data.to_string().into(),
        trace: None,
    })
}

impl Redis {
    pub(super) fn new(faults: Faults) -> Self {
        Self {
            faults,
            data: Data::default(),
            past: Vec::new(),
            backup: None,
            is_beside: false,
            clock: STEP,
            branches: 0,
            primary: 0,
            link: None,
            wire: VecDeque::new(),
            arrived: Vec::new(),
            owed: Default::default(),
            ephemerals: 0,
            stored: Vec::new(),
            removed: BTreeSet::new(),
            deletions: 0,
            forked: false,
            trimmed: false,
            reborn: false,
            ids_back: 0,
            low: BTreeSet::new(),
        }
    }

    pub(super) fn is_linked(&self) -> bool {
        self.link == Some(self.primary)
    }

    pub(super) fn send(&mut self, wire: Wire) {
        if self.is_linked() {
            self.wire.push_back(wire);
        }
    }

    /// Appends an entry; gives its id and the one before.
    pub(super) fn append(&mut self, named: bool) -> (u64, u64) {
        self.past.push(self.data.clone());
        if std::mem::take(&mut self.is_beside) {
            self.backup = None;
        }
        // Above the stream's last id, and never issued before: what is issued twice nobody can tell.
        let last = self.data.stream.as_ref().map_or(0, |stream| stream.last);
        self.clock = self.clock.max(last) + STEP;
        while self.stored.contains(&self.clock) {
            self.clock += 1;
        }
        let branches = &mut self.branches;
        let stream = self.data.stream.get_or_insert_with(|| {
            *branches += 1;
            Stream {
                entries: Vec::new(),
                last: 0,
                deleted: 0,
                added: Vec::new(),
                birth: *branches,
            }
        });
        let prev = stream.entries.last().map_or(0, |&(ms, _)| ms);
        stream.entries.push((self.clock, named.then_some(prev)));
        stream.last = self.clock;
        stream.added.push(self.clock);
        if self.stored.iter().any(|&ms| ms > self.clock) {
            self.low.insert(self.clock);
        }
        self.stored.push(self.clock);
        self.send(Wire::Signal);
        (self.clock, prev)
    }

    /// Another primary, with older data.
    pub(super) fn promote(&mut self, data: Data, back: bool, cut: bool) {
        self.forked = true;
        self.primary += 1;
        if data.birth() != self.data.birth() {
            self.reborn = true;
            self.deletions += 1;
        }
        self.data = data;
        self.branches += 1;
        if back {
            // Behind what was issued, and beside it: a few branches fit between two ids.
            self.ids_back += 1;
            let last = self.data.stream.as_ref().map_or(0, |stream| stream.last);
            self.clock = last - last % STEP + self.branches % STEP;
        }
        self.past.clear();
        if let Some((writes, _)) = &mut self.backup {
            *writes = 0;
        }
        self.owed = Default::default();
        if cut {
            self.hang_up();
        }
    }

    pub(super) fn hang_up(&mut self) {
        self.link = None;
        self.wire.clear();
    }

    /// Ids of the stream.
    pub(super) fn ids(&self) -> Vec<u64> {
        let entries = self.data.stream.iter().flat_map(|stream| &stream.entries);
        entries.map(|&(ms, _)| ms).collect()
    }

    /// All that was ever added to the stream.
    pub(super) fn added(&self) -> Vec<u64> {
        let stream = self.data.stream.iter();
        stream.flat_map(|stream| &stream.added).copied().collect()
    }

    /// The answer to a read at this moment.
    pub(super) fn tail(&self, read: Read) -> Tail {
        let Some(stream) = &self.data.stream else {
            return Tail::default();
        };
        let mut history = History {
            last_id: id(stream.last),
            oldest: stream.entries.first().map(|&(ms, _)| id(ms)),
            from_start: stream.added.len() == stream.entries.len(),
            ..History::default()
        };
        let mut anchor = None;
        if let Read::After(after) = read {
            let own = stream.entries.iter().find(|(ms, _)| id(*ms) == after);
            anchor = own.and_then(|&(ms, prev)| event(Some(ms), prev, ms).mark());
            let later = stream.entries.iter().filter(|(ms, _)| id(*ms) > after);
            let items = later.map(|&(ms, prev)| event(Some(ms), prev, ms));
            history.items = items.take(PAGE + 1).collect();
            history.more = history.items.len() > PAGE;
            history.items.truncate(PAGE);
            history.anchor_found = stream.entries.iter().any(|(ms, _)| id(*ms) == after);
        }
        if let Read::Around(middle) = read {
            let items = |&(ms, prev): &(u64, Option<u64>)| event(Some(ms), prev, ms);
            let at = stream.entries.partition_point(|(ms, _)| id(*ms) <= middle);
            let around = stream.entries.iter().skip(at.saturating_sub(1));
            let count = BRANCH + at.min(1);
            history.items = around.take(count).map(items).collect();
        }
        Tail {
            exists: true,
            added: Some(stream.added.len() as u64),
            length: stream.entries.len() as u64,
            deleted: Some(id(stream.deleted)),
            anchor,
            history,
        }
    }

    /// What `XREAD` and `EXISTS` say to a verification of this head.
    pub(super) fn has_news(&self, head: EventId) -> bool {
        match &self.data.stream {
            Some(stream) => stream.entries.iter().any(|(ms, _)| id(*ms) > head),
            None => head != EventId::ZERO,
        }
    }
}

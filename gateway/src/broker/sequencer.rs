//! Puts one room's events in order: joins what was read from the stream with what arrives on the
//! channel, and proves that nothing is missing between them. No input or output of its own.
//!
//! Invariant: an item leaves only when everything between it and the head is known to have left
//! before it, or after a reset that says what is gone. While a read is under way nothing else
//! moves the head: messages are held, and merged by id when it returns.

use std::collections::VecDeque;

use protocol::EventId;

use crate::hub::{History, Item, Mark, Reset, ResetReason};

mod branches;
mod judge;

use branches::Handed;

/// Held messages of one room; beyond this they are dropped and read from the stream again.
const MAX_HELD: usize = 1024;
/// Ids that a room remembers of what it handed on.
pub const RECENT: usize = 32;
/// Entries that show where two branches part: one more than a room remembers.
pub const BRANCH: usize = RECENT + 1;
/// Bytes of held messages of one room.
const MAX_HELD_BYTES: usize = 4 << 20;

/// What to do next, in order.
#[derive(Debug, Clone)]
pub enum Output {
    /// Read the stream, and answer with [`Sequencer::read`].
    Read(Read),
    /// The last read failed: call [`Sequencer::retry`] in a while.
    RetryLater,
    /// The room is live from this id on.
    Joined(EventId),
    /// The next item.
    Append(Item),
    /// Continuity broke.
    Reset(Reset),
}

/// What to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Read {
    /// The facts of the stream, no entries.
    Head,
    /// The facts, the entry itself and the first entries after it.
    After(EventId),
    /// The facts, the last entry up to it and the first [`BRANCH`] after that one.
    Around(EventId),
}

/// A stream at one instant: its facts and the entries that were asked for.
#[derive(Debug, Clone, Default)]
pub struct Tail {
    /// Whether there is such a stream.
    pub exists: bool,
    /// How many entries were ever added, where the server counts them (Redis 7).
    pub added: Option<u64>,
    /// How many entries it has.
    pub length: u64,
    /// The highest id that was ever deleted by itself (`XDEL`), where the server knows it (Redis 7).
    pub deleted: Option<EventId>,
    /// For [`Read::After`]: the mark of the entry itself, where it is there.
    pub anchor: Option<Mark>,
    /// Everything else.
    pub history: History,
}

/// What came on the channel.
#[derive(Debug, Clone)]
pub struct Message {
    /// The event, or the id of one that cannot be delivered.
    pub item: Item,
    /// The id of the entry before it.
    pub prev: Option<EventId>,
}

impl Message {
    fn bytes(&self) -> usize {
        match &self.item {
            Item::Event(event) => event.name.len() + event.data.len(),
            Item::Skipped(_) => 0,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reading {
    No,
    Pending(Read),
    Failed,
}

/// The state of one room.
#[derive(Debug, Clone)]
pub struct Sequencer {
    /// `None` until joined.
    head: Option<EventId>,
    /// Entries ever added to the stream when `head` was its last one.
    counted: Option<u64>,
    /// The last items that were handed on, of whichever primary: all of those above `known_from`.
    recent: VecDeque<Handed>,
    known_from: EventId,
    /// Of so many of them, those above this id are of a branch that was lost.
    parted: (usize, EventId),
    /// There were more: `known_from` is not where the room began.
    has_forgotten: bool,
    /// The head that is missing in the stream is being compared with it, or was.
    compares: bool,
    compared: Option<EventId>,
    /// The subscription is confirmed.
    connected: bool,
    reading: Reading,
    /// The link went while the read was under way: its answer may be of a primary that another one has replaced.
    is_void: bool,
    /// Another read has to follow the one under way.
    again: bool,
    held: Vec<Message>,
    held_bytes: usize,
    /// How many of `held` were there when the read under way was asked for.
    held_at_issue: usize,
    /// Signals that no message has accounted for yet.
    signals: u32,
    /// A verification found something after this head.
    suspect: Option<EventId>,
    /// The head at which an old message was looked into: once for each.
    doubted: Option<EventId>,
    /// The key was deleted or replaced; the second one belongs to the read under way.
    gone: bool,
    gone_at_issue: bool,
    /// The highest head before a reset: a message up to here may be an old one.
    floor: EventId,
    /// The stream's last id, where it was seen to be below the head.
    behind: Option<EventId>,
    /// An entry without `prev` was seen: something else than the publish function writes here.
    plain: bool,
}

impl Default for Sequencer {
    fn default() -> Self {
        Self {
            head: None,
            counted: None,
            recent: VecDeque::new(),
            known_from: EventId::ZERO,
            parted: (0, EventId::ZERO),
            has_forgotten: false,
            compares: false,
            compared: None,
            connected: false,
            reading: Reading::No,
            is_void: false,
            again: false,
            held: Vec::new(),
            held_bytes: 0,
            held_at_issue: 0,
            signals: 0,
            suspect: None,
            doubted: None,
            gone: false,
            gone_at_issue: false,
            floor: EventId::ZERO,
            behind: None,
            plain: false,
        }
    }
}

impl Sequencer {
    /// The id up to which everything has left; `None` until joined.
    #[must_use]
    pub fn head(&self) -> Option<EventId> {
        self.head
    }

    /// Whether a read is under way or has to be repeated.
    #[must_use]
    pub fn is_reading(&self) -> bool {
        self.reading != Reading::No
    }

    /// Whether it is joined and subscribed, and nothing is being read.
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.head.is_some() && self.connected && !self.is_reading()
    }

    /// Whether [`Sequencer::settle`] has to be called when messages have had a moment to arrive.
    #[must_use]
    pub fn is_unsettled(&self) -> bool {
        self.signals > 0 || self.suspect.is_some()
    }

    /// Whether entries that the publish function did not write were seen since the last call.
    pub fn take_plain(&mut self) -> bool {
        std::mem::take(&mut self.plain)
    }

    /// The subscription is in force: whatever was missed before is read now.
    pub fn confirmed(&mut self, out: &mut Vec<Output>) {
        self.connected = true;
        self.want_read(out);
    }

    /// The link is gone; nothing arrives until [`Sequencer::confirmed`].
    pub fn lost(&mut self) {
        self.connected = false;
        self.is_void |= matches!(self.reading, Reading::Pending(_));
        self.signals = 0;
        self.suspect = None;
        // What was stored is read when the link is back, perhaps from another primary, which does not
        // know these.
        self.held.retain(|message| message.item.id().is_none());
        self.held_bytes = self.held.iter().map(Message::bytes).sum();
        self.held_at_issue = 0;
    }

    /// A message arrived on the channel.
    pub fn message(&mut self, message: Message, out: &mut Vec<Output>) {
        if message.item.id().is_some() {
            self.signals = self.signals.saturating_sub(1);
        }
        if self.head.is_none() || self.is_reading() {
            self.hold(message);
        } else {
            self.accept(message, out);
        }
    }

    /// Something was added to the stream. The function's own message follows at once and takes
    /// this back; a plain `XADD` has none.
    pub fn signal(&mut self) {
        self.signals = self.signals.saturating_add(1);
    }

    /// The key was deleted, expired, evicted or replaced.
    pub fn replaced(&mut self, out: &mut Vec<Output>) {
        self.gone = true;
        self.want_read(out);
    }

    /// A verification that was asked for at `head` found later entries, or no stream at all.
    pub fn suspicious(&mut self, head: EventId) {
        if self.head == Some(head) && !self.is_reading() {
            self.suspect = Some(head);
        }
    }

    /// All messages that belong to the signals so far have arrived: the rest has to be read.
    pub fn settle(&mut self, out: &mut Vec<Output>) {
        let suspect = self.suspect.take();
        if self.signals > 0 || (suspect.is_some() && suspect == self.head) {
            self.want_read(out);
        }
        self.signals = 0;
    }

    /// Asks again for what could not be read.
    pub fn retry(&mut self, out: &mut Vec<Output>) {
        // Without a link it is read once the link is back.
        if self.reading == Reading::Failed && self.connected {
            self.issue(out);
        }
    }

    /// The read under way returned; `None` where it failed.
    pub fn read(&mut self, tail: Option<Tail>, out: &mut Vec<Output>) {
        let Reading::Pending(read) = self.reading else {
            return;
        };
        if std::mem::take(&mut self.is_void) {
            self.reading = Reading::Failed;
            self.gone |= self.gone_at_issue;
            self.retry(out);
            return;
        }
        let Some(tail) = tail else {
            self.reading = Reading::Failed;
            self.gone |= self.gone_at_issue;
            out.push(Output::RetryLater);
            return;
        };
        self.reading = Reading::No;
        let more = match read {
            Read::Head => {
                self.begin_at(tail.history.last_id);
                self.counted = if tail.exists { tail.added } else { Some(0) };
                out.push(Output::Joined(tail.history.last_id));
                false
            }
            Read::After(asked) => self.judge(asked, tail, out),
            Read::Around(_) => {
                self.compare(&tail, out);
                true
            }
        };
        if more {
            self.issue(out);
        } else {
            self.release(out);
        }
    }

    /// Lets go of what was held, as far as it follows.
    fn release(&mut self, out: &mut Vec<Output>) {
        let again = std::mem::take(&mut self.again);
        let known = std::mem::take(&mut self.held_at_issue);
        self.held_bytes = 0;
        for (index, message) in std::mem::take(&mut self.held).into_iter().enumerate() {
            if self.is_reading() {
                self.hold(message);
                continue;
            }
            // What was published before the read has come with it, or the stream does not have it any
            // more.
            if message.item.id().is_none() || index >= known {
                self.accept(message, out);
            }
        }
        if again {
            self.want_read(out);
        }
    }

    fn hold(&mut self, message: Message) {
        let bytes = message.bytes();
        if self.held.len() >= MAX_HELD || self.held_bytes + bytes > MAX_HELD_BYTES {
            self.again = true;
            return;
        }
        self.held_bytes += bytes;
        self.held.push(message);
    }

    /// Appends a message that follows, drops one that was seen, reads where that is open.
    fn accept(&mut self, message: Message, out: &mut Vec<Output>) {
        let (Some(id), Some(mut head)) = (message.item.id(), self.head) else {
            out.push(Output::Append(message.item));
            return;
        };
        if id <= head {
            match self.behind {
                Some(behind) if id > behind => {
                    self.reset(ResetReason::Fork, behind, behind, out);
                    head = behind;
                }
                // Seen already, or of a stream that began again with lower ids.
                _ => {
                    if id < head && self.doubted != Some(head) {
                        self.doubted = Some(head);
                        self.suspect = Some(head);
                    }
                    return;
                }
            }
        }
        let follows = id > self.floor
            && message.prev.is_some_and(|prev| {
                let branched = self.behind.is_some_and(|behind| prev > behind);
                let known = || self.is_on_branch(prev) || self.behind == Some(prev);
                prev == head || (prev != EventId::ZERO && prev < head && !branched && known())
            });
        if follows {
            if message.prev != Some(head) {
                // The head is not there any more: deleted, or left behind with another primary.
                self.counted = None;
            }
            self.append(message.item, id, out);
        } else {
            self.hold(message);
            self.want_read(out);
        }
    }

    fn append(&mut self, item: Item, id: EventId, out: &mut Vec<Output>) {
        self.head = Some(id);
        self.remember(id, item.mark());
        self.counted = self.counted.map(|count| count + 1);
        self.behind = None;
        self.plain |= matches!(&item, Item::Event(event) if event.prev.is_none());
        out.push(Output::Append(item));
    }

    fn reset(
        &mut self,
        reason: ResetReason,
        after: EventId,
        resume: EventId,
        out: &mut Vec<Output>,
    ) {
        self.floor = self.floor.max(self.head.unwrap_or_default());
        let id = match reason {
            ResetReason::Fork => self.fork_id(resume),
            _ => resume.into(),
        };
        if reason == ResetReason::Fork {
            self.head = Some(resume);
            self.parted = (self.recent.len(), resume);
        } else {
            self.begin_at(resume);
        }
        self.counted = None;
        self.behind = None;
        out.push(Output::Reset(Reset {
            reason,
            after,
            resume,
            id,
        }));
    }

    fn want_read(&mut self, out: &mut Vec<Output>) {
        match self.reading {
            // A read follows as soon as the subscription is back.
            _ if !self.connected => {}
            Reading::Pending(_) => self.again = true,
            Reading::No | Reading::Failed => self.issue(out),
        }
    }

    fn issue(&mut self, out: &mut Vec<Output>) {
        let read = match self.head {
            None => Read::Head,
            Some(_) if self.compares => Read::Around(self.known_from),
            Some(head) => Read::After(self.behind.unwrap_or(head)),
        };
        self.reading = Reading::Pending(read);
        self.held_at_issue = self.held.len();
        self.gone_at_issue = std::mem::take(&mut self.gone);
        self.signals = 0;
        self.suspect = None;
        out.push(Output::Read(read));
    }
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;

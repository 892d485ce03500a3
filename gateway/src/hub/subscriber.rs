//! One open stream: the line to its client (who may write, and what is left of a partial write) and the
//! cursor (a position in one room log).
//!
//! Invariant: while a subscriber is not blocked and its outbox is empty, what has been written to
//! its socket ends at a frame's end.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Instant;

use opentelemetry::Context;
use protocol::{EventId, ForkId, LastEventId};

use super::access::Access;
use super::log::{RoomLog, View};
use super::transport::Line;
use super::{Control, Encoder, Framing, Position};

/// A subscriber's key, and the serial that tells it from a later one with the same key.
pub(super) type Handle = (u32, u32);

/// What answered a resume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// The room log.
    Log,
    /// A read of the stream.
    Broker,
    /// Nothing proved it.
    Reset,
}

impl Source {
    /// In spans.
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Log => "log",
            Self::Broker => "broker",
            Self::Reset => "reset",
        }
    }
}

/// A place in the stream that is not in the room log (yet).
#[derive(Debug)]
pub(super) struct CatchUp {
    pub(super) want: Position,
    /// The room was reset while its client was elsewhere: what that has of the branch that is lost.
    pub(super) lost_branch: Option<EventId>,
    /// What the client presented, as it wrote it.
    pub(super) presented: Option<String>,
    /// Continuity from the wanted id on is proved.
    pub(super) proved: bool,
    /// The room's newest history was asked for on its behalf.
    pub(super) backfilled: bool,
    /// The page that it is being written from.
    pub(super) page: Option<PageCursor>,
    /// A page was asked for and has not come.
    pub(super) reading: bool,
    /// In the room's list of those who wait.
    pub(super) waiting: bool,
    /// When a new stream came.
    pub(super) began: Option<Instant>,
    /// The span of its request, where that is recorded.
    pub(super) trace: Option<Context>,
    /// Of a new stream that resumes: what answers it, as far as is known.
    pub(super) source: Option<Source>,
    /// Stored events that it was given from pages.
    pub(super) replayed: usize,
    /// The last page and the room log were of one stream.
    pub(super) agreed: bool,
    /// Ticks for which there was nothing for it.
    pub(super) waits: u16,
}

/// A place in a page of history.
#[derive(Debug)]
pub(super) struct PageCursor {
    pub(super) log: Rc<RoomLog>,
    pub(super) offset: u64,
}

impl CatchUp {
    pub(super) fn new(want: Position) -> Self {
        let presented = match &want {
            Position::After(id) => Some(id.to_string()),
            Position::Fork(fork) => Some(LastEventId::Fork(*fork).to_string()),
            Position::Malformed(text) => Some(text.clone()),
            _ => None,
        };
        let source = presented.is_some().then_some(Source::Log);
        Self {
            want,
            lost_branch: None,
            presented,
            proved: false,
            backfilled: false,
            page: None,
            reading: false,
            waiting: false,
            began: Some(Instant::now()),
            trace: None,
            source,
            replayed: 0,
            agreed: false,
            waits: 0,
        }
    }

    /// What answers it, if it is a new stream that resumes.
    pub(super) fn answered_by(&mut self, source: Source) {
        // One that was reset once stays so.
        if self.source.is_some_and(|known| known != Source::Reset) {
            self.source = Some(source);
        }
    }

    /// The id after which it wants to go on, where that is known.
    pub(super) fn after(&self) -> Option<EventId> {
        match self.want {
            Position::After(id) => Some(id),
            Position::Fork(fork) => Some(fork.resume),
            _ => None,
        }
    }

    /// Of a client that a failover put where it is, until a page says which of its two ids counts.
    pub(super) fn fork(&self) -> Option<ForkId> {
        match self.want {
            Position::Fork(fork) => Some(fork),
            _ => None,
        }
    }
}

#[derive(Debug)]
pub(super) struct Subscriber {
    line: Line,
    pub(super) serial: u32,
    pub(super) room: u32,
    pub(super) index: u32,
    pub(super) offset: u64,
    replay_until: u64,
    floor: EventId,
    outbox: Option<Box<Outbox>>,
    pub(super) catch_up: Option<Box<CatchUp>>,
    /// The tick of the last byte that the socket took before it blocked.
    pub(super) stalled_since: u32,
    framing: Framing,
    pub(super) blocked: bool,
    /// In the shard's list of blocked subscribers.
    pub(super) listed: bool,
    /// Opened while the broker was away, and not yet told that it is back.
    pub(super) dark: bool,
    /// `stream.open` has been sent.
    pub(super) opened: bool,
    /// Has no position of its own yet.
    pub(super) adrift: bool,
    pub(super) heartbeat_events: bool,
    /// Where a line is logged at its end.
    pub(super) access: Option<Box<Access>>,
}

#[derive(Debug, Default)]
struct Outbox {
    bytes: Vec<u8>,
    sent: usize,
}

/// How a flush ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flush {
    /// Everything that is due has been written.
    Done,
    /// Outbox empty; the cursor is outside of the log.
    CatchingUp,
    /// The socket takes no more.
    Blocked,
    /// The peer is gone.
    Gone,
}

/// What a flush cost, added up by the caller.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Work {
    pub(super) writes: u64,
    pub(super) bytes: u64,
}

impl Subscriber {
    pub(super) fn new(line: Line, handle: Handle, framing: Framing, head: Vec<u8>) -> Self {
        // Over HTTP/2 the head goes another way.
        let outbox = (!head.is_empty()).then(|| {
            Box::new(Outbox {
                bytes: head,
                sent: 0,
            })
        });
        Self {
            line,
            serial: handle.1,
            room: 0,
            index: 0,
            offset: 0,
            replay_until: 0,
            floor: EventId::ZERO,
            outbox,
            catch_up: None,
            stalled_since: 0,
            framing,
            blocked: false,
            listed: false,
            dark: false,
            opened: false,
            adrift: false,
            heartbeat_events: false,
            access: None,
        }
    }

    /// Puts the cursor at an offset of the room log; what passed before `log_end` is not replayed,
    /// and stored events up to `floor` are left out.
    pub(super) fn place(&mut self, offset: u64, log_end: u64, floor: EventId) {
        self.catch_up = None;
        self.offset = offset;
        self.replay_until = log_end;
        self.floor = floor;
    }

    /// The greatest id that must not be sent again, besides what the offset says.
    pub(super) fn floor(&self) -> EventId {
        self.floor
    }

    /// Nothing is left to write from before the cursor.
    pub(super) fn is_clear(&self) -> bool {
        !self.blocked && self.outbox.is_none()
    }

    /// Adds a control event to the outbox.
    pub(super) fn push_control(&mut self, control: Control<'_>, encoder: &dyn Encoder) {
        self.push_with(|out| encoder.control(out, control));
    }

    /// Adds bytes that are already framed for this subscriber.
    pub(super) fn push_raw(&mut self, bytes: &[u8]) {
        self.outbox
            .get_or_insert_default()
            .bytes
            .extend_from_slice(bytes);
    }

    /// Keeps the rest of the event that `offset` is in the middle of; gives the last id begun.
    pub(super) fn keep_rest(&mut self, log: &RoomLog, offset: u64) -> EventId {
        let (id, entry_end) = log.seen_at(offset);
        if let Some(end) = entry_end {
            self.push_raw(if self.identity() {
                log.inner_rest(offset)
            } else {
                log.slice(offset..end)
            });
        }
        id
    }

    fn push_with(&mut self, encode: impl FnOnce(&mut Vec<u8>) -> std::ops::Range<usize>) {
        let out = &mut self.outbox.get_or_insert_default().bytes;
        let begin = out.len();
        let inner = encode(out);
        if self.framing == Framing::Identity {
            out.copy_within(begin + inner.start..begin + inner.end, begin);
            out.truncate(begin + inner.len());
        }
    }

    /// The other end; `None` once it is gone.
    pub(super) fn peer(&self) -> Option<SocketAddr> {
        self.line.peer()
    }

    pub(super) fn identity(&self) -> bool {
        self.framing == Framing::Identity
    }

    /// Writes the outbox, then the room log from the cursor on, as far as the socket takes it.
    pub(super) fn flush(&mut self, log: &RoomLog, work: &mut Work) -> Flush {
        let before = work.bytes;
        let flushed = self.write_due(log, work);
        if let Some(access) = &mut self.access {
            access.bytes += work.bytes - before;
        }
        flushed
    }

    fn write_due(&mut self, log: &RoomLog, work: &mut Work) -> Flush {
        if self.blocked {
            return Flush::Blocked;
        }
        match self.line.flush() {
            Ok(true) => {}
            Ok(false) => {
                self.blocked = true;
                return Flush::Blocked;
            }
            Err(()) => return Flush::Gone,
        }
        if let Some(outbox) = &mut self.outbox {
            let rest = &outbox.bytes[outbox.sent..];
            let Ok(sent) = self.line.send(rest, work) else {
                return Flush::Gone;
            };
            if sent.bytes < rest.len() {
                outbox.sent += sent.bytes;
            } else {
                self.outbox = None;
            }
            if sent.blocked {
                self.blocked = true;
                return Flush::Blocked;
            }
        }
        if self.catch_up.is_some() {
            return self.flush_page(work);
        }
        if self.offset < self.replay_until || self.floor != EventId::ZERO || self.identity() {
            return self.flush_runs(log, work);
        }
        let due = log.slice(self.offset..log.end());
        if due.is_empty() {
            return Flush::Done;
        }
        let Ok(sent) = self.line.send(due, work) else {
            return Flush::Gone;
        };
        self.offset += sent.bytes as u64;
        if sent.blocked {
            self.blocked = true;
            return Flush::Blocked;
        }
        Flush::Done
    }

    fn flush_page(&mut self, work: &mut Work) -> Flush {
        let view = View {
            identity: self.identity(),
            replay_until: 0,
            floor: EventId::ZERO,
        };
        let page = self.catch_up.as_mut().and_then(|c| c.page.as_mut());
        let Some(cursor) = page else {
            return Flush::CatchingUp;
        };
        while let Some((run, next)) = cursor.log.next_run(cursor.offset, view) {
            let due = cursor.log.slice(run.clone());
            let Ok(sent) = self.line.send(due, work) else {
                return Flush::Gone;
            };
            if sent.bytes == due.len() {
                cursor.offset = next;
            } else if sent.bytes > 0 {
                cursor.offset = run.start + sent.bytes as u64;
            }
            if sent.blocked {
                self.blocked = true;
                return Flush::Blocked;
            }
        }
        Flush::CatchingUp
    }

    /// The page goes. The rest of the event in the midst of which it is stays here.
    pub(super) fn leave_page(&mut self, page: &Rc<RoomLog>) {
        let Some(catch_up) = &mut self.catch_up else {
            return;
        };
        let Some(cursor) = catch_up
            .page
            .take_if(|cursor| Rc::ptr_eq(&cursor.log, page))
        else {
            return;
        };
        let seen = catch_up.after().unwrap_or_default();
        let id = self.keep_rest(page, cursor.offset);
        if let Some(catch_up) = &mut self.catch_up {
            let id = id.max(seen);
            catch_up.want = Position::After(id);
            catch_up.replayed = catch_up.replayed.saturating_sub(page.stored_after(id));
        }
    }

    fn flush_runs(&mut self, log: &RoomLog, work: &mut Work) -> Flush {
        let view = View {
            identity: self.identity(),
            replay_until: self.replay_until,
            floor: self.floor,
        };
        while let Some((run, next)) = log.next_run(self.offset, view) {
            let due = log.slice(run.clone());
            let Ok(sent) = self.line.send(due, work) else {
                return Flush::Gone;
            };
            // Nothing sent leaves the cursor where it was, at a frame's beginning.
            if sent.bytes == due.len() {
                self.offset = next;
            } else if sent.bytes > 0 {
                self.offset = run.start + sent.bytes as u64;
            }
            if sent.blocked {
                self.blocked = true;
                return Flush::Blocked;
            }
        }
        self.offset = log.end();
        if log.head() >= self.floor {
            self.floor = EventId::ZERO;
        }
        Flush::Done
    }

    /// Reads and drops what the client sends on an open stream. `false` when the client is gone.
    pub(super) fn drain_input(&mut self) -> bool {
        self.line.drain_input()
    }

    /// The client is to leave its connection; see [`super::Transport::part`].
    pub(super) fn part(&mut self) {
        self.line.part();
    }

    /// What is left once the hub has nothing more to say on it.
    pub(super) fn leave(self, clean: bool) -> Parting {
        Parting {
            line: self.line,
            outbox: self.outbox,
            clean,
        }
    }
}

/// A stream at its end: the line, and what it has not taken. It ends when this is dropped; see [`super::Transport::finish`].
#[derive(Debug)]
pub(super) struct Parting {
    line: Line,
    outbox: Option<Box<Outbox>>,
    clean: bool,
}

impl Parting {
    /// Whether the last bytes are on their way, and the connection breaks off with the stream. A transport without a socket
    /// of its own sees to its last bytes itself.
    pub(super) fn breaks_off(&mut self) -> bool {
        !self.clean && self.line.socket().is_some()
    }
}

impl Drop for Parting {
    fn drop(&mut self) {
        let outbox = self.outbox.as_deref();
        let rest = outbox.map_or(&[][..], |outbox| &outbox.bytes[outbox.sent..]);
        self.line.finish(rest, self.clean);
    }
}

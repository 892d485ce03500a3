//! One client: its stream, what it read, and what it must read next.

use protocol::sse::decode::{Decoder, Message};

use super::check::{Check, Seen};
use super::http2::Stream;
use super::line::Line;
use super::response::{Part, Response, ResponseError};
use super::tally::Tally;
use crate::payload::Payloads;
use crate::report::model::{Fault, FaultKind};

/// How a client reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// At once.
    Prompt,
    /// Some bytes now and then.
    Slow,
    /// Not at all, once its stream is open.
    Stalled,
}

/// Where a client stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Not begun, or waiting to come back.
    Away,
    /// The connection is under way.
    Connecting,
    /// The request is sent.
    Asked,
    /// The stream is open.
    Open,
    /// An answer ended it for good.
    Ended,
}

/// One client.
#[derive(Debug)]
pub struct Client {
    pub(super) number: u64,
    pub(super) room: u32,
    pub(super) pace: Pace,
    pub(super) state: State,
    /// Its connection, where it has one of its own.
    pub(super) line: Option<Line>,
    /// The connection that it shares, and its stream there.
    pub(super) carrier: Option<usize>,
    pub(super) stream: Option<Stream>,
    /// Connections so far.
    pub(super) turns: u32,
    /// Connections that were refused in a row.
    pub(super) refused: u32,
    pub(super) connect_began: u64,
    pub(super) opened_at: u64,
    /// The number that a client that came back must have seen to be caught up; 0 is none.
    pub(super) goal: u64,
    /// Whether the order to catch up still waits for it.
    pub(super) behind: bool,
    pub(super) check: Check,
    response: Response,
    decoder: Decoder,
}

/// What bytes changed.
#[derive(Debug, Default)]
pub struct Change {
    pub(super) opened: bool,
    pub(super) ended: Option<u16>,
    pub(super) complete: bool,
}

/// What clients share while they read.
pub struct Reading<'a> {
    pub(super) now: u64,
    pub(super) payloads: &'a Payloads,
    pub(super) tally: &'a mut Tally,
    /// The greatest number that any client of this worker saw, by room.
    pub(super) seen: &'a mut [u64],
    pub(super) prefix: &'a str,
}

impl Client {
    pub(super) fn new(number: u64, room: u32, pace: Pace) -> Self {
        Self {
            number,
            room,
            pace,
            state: State::Away,
            line: None,
            carrier: None,
            stream: None,
            turns: 0,
            refused: 0,
            connect_began: 0,
            opened_at: 0,
            goal: 0,
            behind: false,
            check: Check::from_number(1),
            response: Response::default(),
            decoder: Decoder::default(),
        }
    }

    /// Whether it must have seen everything in the end.
    pub(super) fn is_judged(&self) -> bool {
        self.pace == Pace::Prompt && self.state != State::Ended
    }

    /// Milliseconds after which it comes back by itself: what the server said, or what browsers take.
    pub(super) fn retry_ms(&self) -> u64 {
        self.decoder.retry().unwrap_or(3_000)
    }

    /// What it sends as `Last-Event-ID`; empty for nothing.
    pub(super) fn last_event_id(&self) -> &str {
        self.decoder.last_event_id()
    }

    /// Forgets the connection: the one that it has shared.
    pub(super) fn leave(&mut self) -> Option<usize> {
        self.line = None;
        self.stream = None;
        self.state = State::Away;
        self.response = Response::default();
        self.decoder.reconnect();
        self.carrier.take()
    }

    /// Takes bytes of the answer.
    pub(super) fn read(
        &mut self,
        bytes: &[u8],
        reading: &mut Reading<'_>,
    ) -> Result<Change, ResponseError> {
        let mut change = Change::default();
        let mut response = std::mem::take(&mut self.response);
        let fed = response.feed(bytes, |part| self.take(part, &mut change, reading));
        self.response = response;
        fed?;
        self.settle(reading.now, reading.tally);
        Ok(change)
    }

    /// Takes a part of the answer, where the connection tells the parts.
    pub(super) fn part(&mut self, part: Part<'_>, reading: &mut Reading<'_>) -> Change {
        let mut change = Change::default();
        self.take(part, &mut change, reading);
        self.settle(reading.now, reading.tally);
        change
    }

    fn take(&mut self, part: Part<'_>, change: &mut Change, reading: &mut Reading<'_>) {
        match part {
            Part::Head {
                status: 200,
                event_stream: true,
            } => {
                change.opened = true;
                self.opened_at = reading.now;
            }
            Part::Head { status, .. } => change.ended = Some(status),
            Part::Body(body) if change.ended.is_none() => {
                let mut events = Events {
                    number: self.number,
                    room: self.room,
                    opened_at: self.opened_at,
                    check: &mut self.check,
                    reading,
                };
                self.decoder.feed(body, |message| events.take(message));
            }
            Part::Body(_) => {}
            Part::End => change.complete = true,
        }
    }

    /// Records how long it took to come back, once it has everything.
    pub(super) fn settle(&mut self, now: u64, tally: &mut Tally) {
        if self.goal != 0 && self.check.next() > self.goal {
            self.goal = 0;
            tally.resume.record_ns(now - self.connect_began);
        }
    }

    /// Judges what never came. `unsure` tells whether an event may be missing.
    pub(super) fn judge(
        &self,
        last: u64,
        unsure: impl Fn(u64) -> bool,
        prefix: &str,
        tally: &mut Tally,
    ) {
        let kind = if self.check.is_told() {
            FaultKind::Told
        } else {
            FaultKind::Lost
        };
        for (first, last) in self.check.lost(last) {
            let count = (first..=last).filter(|&number| !unsure(number)).count() as u64;
            if count > 0 {
                let what = match count {
                    1 => format!("event {first} never came"),
                    _ => format!("{count} events never came: {first} to {last}"),
                };
                tally.fault(kind, count, || self.fault(kind, prefix, what));
            }
        }
    }

    pub(super) fn fault(&self, kind: FaultKind, prefix: &str, what: String) -> Fault {
        Fault {
            kind,
            client: self.number,
            room: format!("{prefix}{}", self.room),
            what,
        }
    }
}

/// Takes the events of one read of one client.
struct Events<'a, 'b> {
    number: u64,
    room: u32,
    opened_at: u64,
    check: &'a mut Check,
    reading: &'a mut Reading<'b>,
}

impl Events<'_, '_> {
    fn take(&mut self, message: Message<'_>) {
        let tally = &mut *self.reading.tally;
        if message.event == "stream.reset" {
            tally.judgement.checking.resets += 1;
            self.check.tell();
            return;
        }
        let head = match self.reading.payloads.read(message.data.as_bytes()) {
            Ok(None) => return,
            Ok(Some(head)) if head.room == self.room => head,
            Ok(Some(head)) => {
                let what = format!("event {} of room {} came", head.number, head.room);
                return self.fault(FaultKind::Garbled, 1, what);
            }
            Err(_) => {
                let data: String = message.data.chars().take(80).collect();
                let what = format!("an event's data is not what was published: {data}");
                return self.fault(FaultKind::Garbled, 1, what);
            }
        };
        tally.tick.deliveries += 1;
        match self.check.see(head.number) {
            Seen::Next | Seen::Skipped(_) => {}
            Seen::Told(gone) => {
                let what = format!(
                    "{gone} events before {} are gone, as a reset said",
                    head.number
                );
                self.fault(FaultKind::Told, gone, what);
            }
            Seen::Reordered => {
                let what = format!("event {} came after a later one", head.number);
                self.fault(FaultKind::Reordered, 1, what);
            }
            Seen::Repeated => {
                let what = format!("event {} came again", head.number);
                return self.fault(FaultKind::Repeated, 1, what);
            }
        }
        let tally = &mut *self.reading.tally;
        tally.judgement.received += 1;
        if head.due >= self.opened_at {
            tally
                .latency
                .record_ns(self.reading.now.saturating_sub(head.due));
        }
        if let Some(seen) = self.reading.seen.get_mut(self.room as usize) {
            *seen = head.number.max(*seen);
        }
    }

    fn fault(&mut self, kind: FaultKind, deliveries: u64, what: String) {
        let (client, room) = (self.number, self.room);
        let prefix = self.reading.prefix;
        self.reading.tally.fault(kind, deliveries, || Fault {
            kind,
            client,
            room: format!("{prefix}{room}"),
            what,
        });
    }
}

//! How many frames a client may send that ask for nothing: PING, SETTINGS, PRIORITY and their like cost a node their time,
//! and an answer, and come in any number (CVE-2019-9512, -9513, -9515, -9518). hyper bounds requests that are taken back,
//! and heads that go on; these are counted here, on their way to it.

use std::time::Instant;

use super::PREFACE;

/// What a connection may spend at once, and what it gets back in a second.
const BURST: u64 = 10_000;
const EACH_SECOND: u64 = 1_000;
/// What a request adds: some clients say with each how urgent it is.
const REQUEST: u64 = 100;
/// Bytes to the client that add one: it may give room for more in as many frames as it got, of its streams and of the
/// connection.
const BYTES: u64 = 16;

/// Bytes of a frame's head (RFC 9113, section 4.1).
const HEAD: usize = 9;
const END_STREAM: u8 = 1;

/// A client has sent more of them than anyone needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::http) struct TooMany;

/// Walks over the frames of one connection.
#[derive(Debug)]
pub(in crate::http) struct Calm {
    head: [u8; HEAD],
    /// Bytes of the head that have come.
    have: usize,
    /// Bytes of the payload that have not.
    skip: usize,
    credit: u64,
    /// Until when it was given back.
    since: Instant,
    /// Bytes to the client, as far as they have added something.
    written: u64,
}

impl Calm {
    /// Begins with the preface.
    pub(in crate::http) fn new(now: Instant) -> Self {
        Self {
            head: [0; HEAD],
            have: 0,
            skip: PREFACE.len(),
            credit: BURST,
            since: now,
            written: 0,
        }
    }

    /// Takes what the client has sent next; `written` is what was sent to it so far, in bytes.
    pub(in crate::http) fn look(
        &mut self,
        mut bytes: &[u8],
        written: u64,
        now: Instant,
    ) -> Result<(), TooMany> {
        self.give_back(written, now);
        loop {
            let passed = self.skip.min(bytes.len());
            self.skip -= passed;
            bytes = bytes.get(passed..).unwrap_or_default();
            if bytes.is_empty() {
                return Ok(());
            }
            let (more, rest) = bytes.split_at((HEAD - self.have).min(bytes.len()));
            if let Some(place) = self.head.get_mut(self.have..self.have + more.len()) {
                place.copy_from_slice(more);
            }
            self.have += more.len();
            bytes = rest;
            if self.have == HEAD {
                self.have = 0;
                self.frame()?;
            }
        }
    }

    fn give_back(&mut self, written: u64, now: Instant) {
        let elapsed = now.saturating_duration_since(self.since).as_millis();
        let back = u64::try_from(elapsed)
            .unwrap_or(u64::MAX)
            .saturating_mul(EACH_SECOND)
            / 1000;
        if back > 0 {
            self.since = now;
        }
        let sent = written.saturating_sub(self.written) / BYTES;
        self.written += sent * BYTES;
        self.credit = self
            .credit
            .saturating_add(back)
            .saturating_add(sent)
            .min(BURST);
    }

    fn frame(&mut self) -> Result<(), TooMany> {
        let [a, b, c, kind, flags, ..] = self.head;
        self.skip = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        let price = match kind {
            // DATA, which may be empty at its end.
            0 if self.skip > 0 || flags & END_STREAM != 0 => 0,
            // HEADERS
            1 => {
                self.credit = self.credit.saturating_add(REQUEST).min(BURST);
                0
            }
            // RST_STREAM and CONTINUATION are bounded by hyper.
            3 | 9 => 0,
            // WINDOW_UPDATE
            8 => 1,
            // PRIORITY, empty DATA, and what nobody knows.
            0 | 2 | 10.. => 20,
            // SETTINGS, PING, GOAWAY and PUSH_PROMISE
            4..=7 => 50,
        };
        self.credit = self.credit.checked_sub(price).ok_or(TooMany)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn frame(kind: u8, flags: u8, payload: usize) -> Vec<u8> {
        let length = u32::try_from(payload).unwrap().to_be_bytes();
        let head = [&length[1..], &[kind, flags, 0, 0, 0, 1]].concat();
        [head, vec![0xff; payload]].concat()
    }

    /// Frames of a kind until there are too many, at one moment; `None` where there are never.
    fn many(kind: u8, flags: u8, payload: usize) -> Option<usize> {
        let now = Instant::now();
        let mut calm = Calm::new(now);
        calm.look(PREFACE, 0, now).unwrap();
        (0..100_000).find(|_| calm.look(&frame(kind, flags, payload), 0, now).is_err())
    }

    #[test]
    fn each_kind_has_its_number() {
        assert_eq!(many(6, 0, 8), Some(200), "PING");
        assert_eq!(many(4, 0, 6), Some(200), "SETTINGS");
        assert_eq!(many(2, 0, 5), Some(500), "PRIORITY");
        assert_eq!(many(0, 0, 0), Some(500), "DATA without any");
        assert_eq!(many(0xfa, 0, 100), Some(500), "unknown");
        assert_eq!(many(8, 0, 4), Some(10_000), "WINDOW_UPDATE");
        for (kind, flags, payload) in [(0, 0, 1), (0, END_STREAM, 0), (1, 4, 30), (3, 0, 4)] {
            assert_eq!(many(kind, flags, payload), None, "{kind}");
        }
    }

    #[test]
    fn pieces_of_any_size_are_the_same_frames() {
        let frames = [
            frame(4, 0, 12),
            frame(1, 4, 300),
            frame(6, 0, 8),
            frame(0, 0, 0),
        ]
        .concat();
        let bytes = [PREFACE, &frames.repeat(90)].concat();
        let now = Instant::now();
        let credit = |size: usize| {
            let mut calm = Calm::new(now);
            for piece in bytes.chunks(size) {
                calm.look(piece, 0, now).unwrap();
            }
            calm.credit
        };
        let whole = credit(bytes.len());
        // A request gives no more than there was at the beginning.
        assert_eq!(whole, BURST - 70 - 89 * 20);
        for size in [1, 2, 8, 9, 10, 17, 1000] {
            assert_eq!(credit(size), whole, "{size}");
        }
    }

    #[test]
    fn time_requests_and_what_was_sent_give_back() {
        let mut now = Instant::now();
        let mut calm = Calm::new(now);
        calm.look(PREFACE, 0, now).unwrap();
        calm.look(&frame(6, 0, 8).repeat(200), 0, now).unwrap();
        assert_eq!(calm.credit, 0);
        now += Duration::from_millis(100);
        calm.look(&[], 0, now).unwrap();
        assert_eq!(calm.credit, 100);
        calm.look(&frame(1, 5, 20), 0, now).unwrap();
        assert_eq!(calm.credit, 200);
        // Little by little is as much as at once.
        for bytes in 1..=800 {
            calm.look(&[], bytes, now).unwrap();
        }
        assert_eq!(calm.credit, 250);
        now += Duration::from_secs(100);
        calm.look(&[], 800, now).unwrap();
        assert_eq!(calm.credit, BURST);
    }
}

//! `text/event-stream` bytes to messages, as a browser reads them.

use memchr::memchr2;

/// One dispatched event, borrowed from the [`Decoder`] that read it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message<'a> {
    /// The last event id at the time of dispatch; empty where none was given yet.
    pub id: &'a str,
    /// `message` where the stream names none.
    pub event: &'a str,
    /// Lines joined by LF.
    pub data: &'a str,
    /// The latest reconnection time in milliseconds, where one was given.
    pub retry: Option<u64>,
}

/// A push parser: feed it bytes as they come. It keeps its buffers, so that an event costs no
/// allocation.
#[derive(Debug, Default)]
pub struct Decoder {
    /// The beginning of a line whose end has not come yet.
    line: Vec<u8>,
    started: bool,
    after_cr: bool,
    event: String,
    data: String,
    has_data: bool,
    /// The latest `id:`, which counts from the end of its block.
    id: String,
    last_event_id: String,
    retry: Option<u64>,
}

impl Decoder {
    /// Parses the next bytes and hands over each event that they complete.
    pub fn feed(&mut self, mut bytes: &[u8], mut each: impl FnMut(Message<'_>)) {
        if self.after_cr && !bytes.is_empty() {
            self.after_cr = false;
            bytes = bytes.strip_prefix(b"\n").unwrap_or(bytes);
        }
        while let Some(end) = memchr2(b'\r', b'\n', bytes) {
            if self.line.is_empty() {
                self.line(&bytes[..end], &mut each);
            } else {
                let mut line = std::mem::take(&mut self.line);
                line.extend_from_slice(&bytes[..end]);
                self.line(&line, &mut each);
                line.clear();
                self.line = line;
            }
            let cr = bytes[end] == b'\r';
            bytes = &bytes[end + 1..];
            self.after_cr = cr && bytes.is_empty();
            if cr {
                bytes = bytes.strip_prefix(b"\n").unwrap_or(bytes);
            }
        }
        self.line.extend_from_slice(bytes);
    }

    /// The last event id: what a client would send as `Last-Event-ID`. An `id:` in a block that has
    /// not ended yet does not count.
    #[must_use]
    pub fn last_event_id(&self) -> &str {
        &self.last_event_id
    }

    /// The latest reconnection time in milliseconds, where one was given.
    #[must_use]
    pub fn retry(&self) -> Option<u64> {
        self.retry
    }

    /// Begins a new stream of the same client: what was begun is dropped, the last event id and the
    /// reconnection time stay.
    pub fn reconnect(&mut self) {
        self.line.clear();
        self.started = false;
        self.after_cr = false;
        self.event.clear();
        self.data.clear();
        self.has_data = false;
        self.id.clone_from(&self.last_event_id);
    }

    fn line(&mut self, mut line: &[u8], each: &mut impl FnMut(Message<'_>)) {
        if !std::mem::replace(&mut self.started, true) {
            line = line.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(line);
        }
        if line.is_empty() {
            self.dispatch(each);
            return;
        }
        let line = String::from_utf8_lossy(line);
        let (field, value) = line.split_once(':').unwrap_or((&line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.event),
            "data" => {
                if std::mem::replace(&mut self.has_data, true) {
                    self.data.push('\n');
                }
                self.data.push_str(value);
            }
            "id" if !value.contains('\0') => value.clone_into(&mut self.id),
            "retry" if !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit()) => {
                self.retry = value.parse().ok().or(self.retry);
            }
            _ => {}
        }
    }

    fn dispatch(&mut self, each: &mut impl FnMut(Message<'_>)) {
        self.last_event_id.clone_from(&self.id);
        if std::mem::take(&mut self.has_data) {
            each(Message {
                id: &self.id,
                event: if self.event.is_empty() {
                    "message"
                } else {
                    &self.event
                },
                data: &self.data,
                retry: self.retry,
            });
            self.data.clear();
        }
        self.event.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Id, event, data and retry of each event.
    type Owned = (String, String, String, Option<u64>);

    fn decode(chunks: &[&[u8]]) -> Vec<Owned> {
        let (mut decoder, mut out) = (Decoder::default(), Vec::new());
        for chunk in chunks {
            decoder.feed(chunk, |m| {
                out.push((m.id.into(), m.event.into(), m.data.into(), m.retry));
            });
        }
        out
    }

    #[test]
    fn reads_as_a_browser_does() {
        let text = "\u{FEFF}: hi\r\nid: 1\revent: e\ndata: a\r\ndata:b\n\nid\ndata\n\nretry: 5\nretry: x\ndata:  c\n\nevent: no\n\n";
        let one: Vec<&[u8]> = text.as_bytes().chunks(1).collect();
        let messages = decode(&one);
        assert_eq!(messages, decode(&[text.as_bytes()]));
        let short: Vec<_> = messages
            .iter()
            .map(|m| (m.0.as_str(), m.1.as_str(), m.2.as_str(), m.3))
            .collect();
        assert_eq!(
            short,
            [
                ("1", "e", "a\nb", None),
                ("", "message", "", None),
                ("", "message", " c", Some(5))
            ]
        );
    }

    #[test]
    fn an_id_counts_from_the_end_of_its_block() {
        let mut decoder = Decoder::default();
        decoder.feed(b"id: 1\ndata: a\n\nid: 2\ndata: b\n", |_| ());
        assert_eq!(decoder.last_event_id(), "1");
        decoder.feed(b"\r", |_| ());
        assert_eq!(decoder.last_event_id(), "2");
        decoder.feed(b"", |_| ());
        decoder.feed(b"\nid: 3\n\n", |_| unreachable!("it has no data"));
        assert_eq!(decoder.last_event_id(), "3");
    }

    #[test]
    fn a_retry_beyond_measure_is_ignored() {
        let messages = decode(&[b"retry: 7\nretry: 99999999999999999999999\ndata: a\n\n"]);
        assert_eq!(messages[0].3, Some(7));
    }

    #[test]
    fn a_reconnect_drops_what_was_begun_and_keeps_the_id() {
        let mut decoder = Decoder::default();
        decoder.feed(b"retry: 9\nid: 1\ndata: a\n\nid: 2\ndata: b\nda", |_| ());
        decoder.reconnect();
        let mut seen = Vec::new();
        decoder.feed("\u{FEFF}data: c\n\n".as_bytes(), |m| {
            seen.push((m.id.to_owned(), m.data.to_owned(), m.retry));
        });
        assert_eq!(seen, [("1".to_owned(), "c".to_owned(), Some(9))]);
    }
}

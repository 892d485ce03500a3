//! `text/event-stream` bytes to messages, as a browser reads them.

use memchr::memchr2;

/// One dispatched event.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Message {
    /// The last event id at the time of dispatch; empty where none was given yet.
    pub id: String,
    /// `message` where the stream names none.
    pub event: String,
    /// Lines joined by LF.
    pub data: String,
    /// The latest reconnection time in milliseconds, where one was given.
    pub retry: Option<u64>,
}

/// A push parser: feed it bytes as they come.
#[derive(Debug, Default)]
pub struct Decoder {
    /// The beginning of a line whose end has not come yet.
    line: Vec<u8>,
    started: bool,
    after_cr: bool,
    event: String,
    data: Option<String>,
    /// The latest `id:`, which counts from the end of its block.
    id: String,
    last_event_id: String,
    retry: Option<u64>,
}

impl Decoder {
    /// Parses the next bytes and hands over each event that they complete.
    pub fn feed(&mut self, mut bytes: &[u8], mut each: impl FnMut(Message)) {
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

    fn line(&mut self, mut line: &[u8], each: &mut impl FnMut(Message)) {
        if !std::mem::replace(&mut self.started, true) {
            line = line.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(line);
        }
        if line.is_empty() {
            self.last_event_id.clone_from(&self.id);
            let event = std::mem::take(&mut self.event);
            if let Some(mut data) = self.data.take() {
                data.pop();
                let event = if event.is_empty() {
                    "message".to_owned()
                } else {
                    event
                };
                each(Message {
                    id: self.id.clone(),
                    event,
                    data,
                    retry: self.retry,
                });
            }
            return;
        }
        let line = String::from_utf8_lossy(line);
        let (field, value) = line.split_once(':').unwrap_or((&line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.event),
            "data" => {
                let data = self.data.get_or_insert_default();
                data.push_str(value);
                data.push('\n');
            }
            "id" if !value.contains('\0') => value.clone_into(&mut self.id),
            "retry" if !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit()) => {
                self.retry = value.parse().ok().or(self.retry);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(chunks: &[&[u8]]) -> Vec<Message> {
        let (mut decoder, mut out) = (Decoder::default(), Vec::new());
        chunks
            .iter()
            .for_each(|chunk| decoder.feed(chunk, |message| out.push(message)));
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
            .map(|m| (m.id.as_str(), m.event.as_str(), m.data.as_str(), m.retry))
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
        assert_eq!(messages[0].retry, Some(7));
    }
}

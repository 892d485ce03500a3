//! `text/event-stream` bytes to messages, as a browser reads them.

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
    line: Vec<u8>,
    started: bool,
    after_cr: bool,
    event: String,
    data: Option<String>,
    id: String,
    retry: Option<u64>,
}

impl Decoder {
    /// Parses the next bytes and hands over each event that they complete.
    pub fn feed(&mut self, bytes: &[u8], mut each: impl FnMut(Message)) {
        for &byte in bytes {
            let after_cr = std::mem::take(&mut self.after_cr);
            match byte {
                b'\n' if after_cr => {}
                b'\n' | b'\r' => {
                    self.after_cr = byte == b'\r';
                    let line = std::mem::take(&mut self.line);
                    self.line(&line, &mut each);
                    self.line = line;
                    self.line.clear();
                }
                _ => self.line.push(byte),
            }
        }
    }

    /// The last event id: what a client would send as `Last-Event-ID`.
    #[must_use]
    pub fn last_event_id(&self) -> &str {
        &self.id
    }

    fn line(&mut self, mut line: &[u8], each: &mut impl FnMut(Message)) {
        if !std::mem::replace(&mut self.started, true) {
            line = line.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(line);
        }
        if line.is_empty() {
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
                self.retry = value.parse().ok();
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{EventId, sse::encode};
    use proptest::prelude::*;

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

    /// An independent reading of the same bytes: whole text at once, by lines.
    fn simple(text: &str) -> Vec<(String, String, String)> {
        text.split("\n\n")
            .filter(|block| !block.is_empty())
            .map(|block| {
                let field = |name: &str| {
                    block
                        .lines()
                        .filter_map(|l| l.strip_prefix(name))
                        .collect::<Vec<_>>()
                };
                (
                    field("id: ").concat(),
                    field("event: ").concat(),
                    block
                        .split('\n')
                        .filter_map(|l| l.strip_prefix("data: "))
                        .collect::<Vec<_>>()
                        .join("\n"),
                )
            })
            .collect()
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_read_back(texts in proptest::collection::vec("([a-z :ü]|\\r\\n|\\r|\\n){0,20}", 1..6), cut in 1usize..9) {
            let mut out = Vec::new();
            for (at, text) in texts.iter().enumerate() {
                encode::event(&mut out, Some(EventId::new(at as u64 + 1, 0)), b"n", text.as_bytes());
            }
            let chunks: Vec<&[u8]> = out.chunks(cut).collect();
            let messages = decode(&chunks);
            let read: Vec<_> = messages.iter().map(|m| (m.id.clone(), m.event.clone(), m.data.clone())).collect();
            let expected: Vec<_> = texts.iter().enumerate().map(|(at, text)| {
                (format!("{}-0", at + 1), "n".to_owned(), text.replace("\r\n", "\n").replace('\r', "\n"))
            }).collect();
            prop_assert_eq!(&read, &expected);
            prop_assert_eq!(simple(std::str::from_utf8(&out).unwrap()), expected);
        }
    }
}

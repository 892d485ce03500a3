//! Events to `text/event-stream` bytes: LF line ends only, one space after each colon, data split
//! on CRLF, CR and LF.

use memchr::memchr2;

use crate::{EventId, LastEventId};

/// One block of an event stream. Lines are written in the order of the fields.
#[derive(Debug, Clone, Copy)]
pub struct Frame<'a> {
    /// Moves the client's position.
    pub id: Option<LastEventId>,
    /// Empty for an unnamed event. Must be free of CR, LF and NUL.
    pub event: &'a str,
    /// Reconnection time in milliseconds.
    pub retry_ms: Option<u32>,
    /// Any text.
    pub data: &'a str,
}

impl Frame<'_> {
    /// Appends the block and its blank line.
    pub fn write_to(&self, out: &mut Vec<u8>) {
        head(out, self.id, self.event.as_bytes());
        if let Some(retry) = self.retry_ms {
            out.extend_from_slice(b"retry: ");
            out.extend_from_slice(itoa::Buffer::new().format(retry).as_bytes());
            out.push(b'\n');
        }
        data(out, self.data.as_bytes());
    }
}

/// Appends an event. `name` must be free of CR, LF and NUL, both must be UTF-8: the caller has
/// checked them.
pub fn event(out: &mut Vec<u8>, id: Option<EventId>, name: &[u8], text: &[u8]) {
    out.reserve(text.len() + name.len() + 64);
    head(out, id.map(LastEventId::Event), name);
    data(out, text);
}

fn head(out: &mut Vec<u8>, id: Option<LastEventId>, name: &[u8]) {
    if let Some(id) = id {
        out.extend_from_slice(b"id: ");
        id.write_to(out);
        out.push(b'\n');
    }
    if !name.is_empty() {
        out.extend_from_slice(b"event: ");
        out.extend_from_slice(name);
        out.push(b'\n');
    }
}

fn data(out: &mut Vec<u8>, mut text: &[u8]) {
    loop {
        out.extend_from_slice(b"data: ");
        let Some(end) = memchr2(b'\r', b'\n', text) else {
            break;
        };
        out.extend_from_slice(&text[..end]);
        out.push(b'\n');
        let crlf = text[end] == b'\r' && text.get(end + 1) == Some(&b'\n');
        text = &text[end + 1 + usize::from(crlf)..];
    }
    out.extend_from_slice(text);
    out.extend_from_slice(b"\n\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_exact_bytes() {
        let cases: [(&str, &str, &str); 7] = [
            ("", "hi", "id: 5-0\ndata: hi\n\n"),
            ("chat", "hi", "id: 5-0\nevent: chat\ndata: hi\n\n"),
            ("", "", "id: 5-0\ndata: \n\n"),
            ("", "a\nb", "id: 5-0\ndata: a\ndata: b\n\n"),
            ("", "a\r\nb\rc", "id: 5-0\ndata: a\ndata: b\ndata: c\n\n"),
            ("", "a\n", "id: 5-0\ndata: a\ndata: \n\n"),
            ("", " a", "id: 5-0\ndata:  a\n\n"),
        ];
        for (name, text, expected) in cases {
            let mut out = Vec::new();
            event(
                &mut out,
                Some(EventId::new(5, 0)),
                name.as_bytes(),
                text.as_bytes(),
            );
            assert_eq!(String::from_utf8(out).unwrap(), expected);
        }
    }

    #[test]
    fn retry_travels_inside_a_block() {
        let mut out = Vec::new();
        Frame {
            id: None,
            event: "stream.open",
            retry_ms: Some(2500),
            data: "{}",
        }
        .write_to(&mut out);
        assert_eq!(out, b"event: stream.open\nretry: 2500\ndata: {}\n\n");
    }
}

//! Readers of chunked bodies and event streams, written apart from the product's own, so that an
//! error in one does not hide an error in the other.

/// Takes chunks apart, whatever pieces they arrive in.
#[derive(Debug, Default)]
pub struct Dechunker {
    pending: Vec<u8>,
    /// Whole chunks, not taken yet.
    pub chunks: Vec<Vec<u8>>,
    /// The final chunk came: a clean end.
    pub done: bool,
}

impl Dechunker {
    pub fn feed(&mut self, bytes: &[u8]) {
        self.pending.extend_from_slice(bytes);
        let mut at = 0;
        while !self.done {
            let rest = &self.pending[at..];
            let Some(line) = rest.windows(2).position(|w| w == b"\r\n") else {
                break;
            };
            let head = std::str::from_utf8(&rest[..line]).expect("a chunk head is ASCII");
            let size = usize::from_str_radix(head, 16)
                .unwrap_or_else(|_| panic!("not a chunk head: {head:?}"));
            let end = line + 2 + size;
            if rest.len() < end + 2 {
                break;
            }
            assert_eq!(&rest[end..end + 2], b"\r\n", "a chunk ends in CRLF");
            self.done = size == 0;
            if size > 0 {
                self.chunks.push(rest[line + 2..end].to_vec());
            }
            at += end + 2;
        }
        self.pending.drain(..at);
    }

    pub fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.chunks).concat()
    }
}

/// One block of an event stream, at its blank line.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Block {
    /// The block's own `id:`.
    pub id: Option<String>,
    /// Empty for an unnamed event.
    pub event: String,
    /// `None`: no `data:` line, so nothing is dispatched.
    pub data: Option<String>,
    pub retry_ms: Option<u64>,
}

/// An event-stream parser by the letter of the standard (section 9.2.6).
#[derive(Debug, Default)]
pub struct Parser {
    line: Vec<u8>,
    after_cr: bool,
    begun: bool,
    block: Block,
    /// Comment lines so far.
    pub comments: usize,
}

impl Parser {
    pub fn feed(&mut self, bytes: &[u8]) -> Vec<Block> {
        let mut blocks = Vec::new();
        let mut rest = bytes;
        while let Some(at) = rest.iter().position(|b| matches!(b, b'\r' | b'\n')) {
            let end = rest[at];
            self.line.extend_from_slice(&rest[..at]);
            rest = &rest[at + 1..];
            let second_half = std::mem::take(&mut self.after_cr)
                && end == b'\n'
                && at == 0
                && self.line.is_empty();
            self.after_cr = end == b'\r';
            if !second_half {
                let line = std::mem::take(&mut self.line);
                blocks.extend(self.finish_line(&line));
            }
        }
        if !rest.is_empty() {
            self.after_cr = false;
            self.line.extend_from_slice(rest);
        }
        blocks
    }

    fn finish_line(&mut self, line: &[u8]) -> Option<Block> {
        let line = std::str::from_utf8(line).expect("an event stream is UTF-8");
        if !std::mem::replace(&mut self.begun, true) {
            assert!(!line.starts_with('\u{feff}'), "a byte-order mark");
        }
        if line.is_empty() {
            return Some(std::mem::take(&mut self.block));
        }
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match name {
            "" => self.comments += 1,
            "event" => value.clone_into(&mut self.block.event),
            "data" => match &mut self.block.data {
                Some(data) => {
                    data.push('\n');
                    data.push_str(value);
                }
                none => *none = Some(value.to_owned()),
            },
            "id" if !value.contains('\0') => self.block.id = Some(value.to_owned()),
            "retry" if value.bytes().all(|b| b.is_ascii_digit()) => {
                self.block.retry_ms = value.parse().ok()
            }
            _ => {}
        }
        None
    }
}

mod tests {
    use super::*;

    #[test]
    fn the_parser_takes_every_line_end_and_any_pieces() {
        let text = b": hi\nid: 1\revent: x\r\ndata: a\ndata:  b\n\nretry: 5\n\ndata\r\r";
        let block = |id: Option<&str>, event: &str, data: Option<&str>, retry_ms| Block {
            id: id.map(Into::into),
            event: event.into(),
            data: data.map(Into::into),
            retry_ms,
        };
        let want = [
            block(Some("1"), "x", Some("a\n b"), None),
            block(None, "", None, Some(5)),
            block(None, "", Some(""), None),
        ];
        for size in 1..text.len() {
            let mut parser = Parser::default();
            let blocks: Vec<Block> = text
                .chunks(size)
                .flat_map(|piece| parser.feed(piece))
                .collect();
            assert_eq!(blocks, want, "in pieces of {size}");
            assert_eq!(parser.comments, 1);
        }
    }
}

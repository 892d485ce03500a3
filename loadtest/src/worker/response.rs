//! The answer to a subscription, byte by byte: the head, then the body without its transfer coding.

use memchr::memmem;

/// The most bytes of a head.
const HEAD_MAX: usize = 16 * 1024;

/// Why an answer cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ResponseError {
    /// Not HTTP, or a head that is too long.
    #[error("the answer's head is not HTTP")]
    Head,
    /// A chunk's size or end is not where it should be.
    #[error("the body's chunks are malformed")]
    Chunk,
}

/// What a client sees of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part<'a> {
    /// The head is complete.
    Head {
        /// The status.
        status: u16,
        /// Whether the content type is `text/event-stream`.
        event_stream: bool,
    },
    /// Bytes of the body.
    Body(&'a [u8]),
    /// The body is complete.
    End,
}

#[derive(Debug)]
enum State {
    Head(Vec<u8>),
    /// Hexadecimal digits of a chunk's size, as far as they were read.
    Size {
        size: u64,
        digits: bool,
    },
    /// After the size: an extension, and the line end.
    SizeEnd {
        size: u64,
    },
    Chunk {
        left: u64,
    },
    ChunkEnd {
        cr: bool,
    },
    /// The trailer: the length of its line so far.
    Trailer {
        line: u32,
    },
    /// A body that has a length.
    Length {
        left: u64,
    },
    /// A body that ends with the connection.
    UntilClose,
    Done,
}

/// Reads one answer.
#[derive(Debug)]
pub struct Response(State);

impl Default for Response {
    fn default() -> Self {
        Self(State::Head(Vec::new()))
    }
}

impl Response {
    /// Reads the next bytes.
    ///
    /// # Errors
    /// The bytes are no answer; nothing more can be read.
    pub fn feed(
        &mut self,
        mut bytes: &[u8],
        mut each: impl FnMut(Part<'_>),
    ) -> Result<(), ResponseError> {
        while !bytes.is_empty() {
            match &mut self.0 {
                State::Head(head) => {
                    let before = head.len().saturating_sub(3);
                    let from = head.len();
                    head.extend_from_slice(bytes);
                    let Some(end) = memmem::find(&head[before..], b"\r\n\r\n") else {
                        if head.len() > HEAD_MAX {
                            return Err(ResponseError::Head);
                        }
                        return Ok(());
                    };
                    let end = before + end + 4;
                    bytes = &bytes[end - from..];
                    let (part, next) = read_head(&head[..end]).ok_or(ResponseError::Head)?;
                    each(part);
                    if matches!(next, State::Done) {
                        each(Part::End);
                    }
                    self.0 = next;
                }
                State::Size { size, digits } => {
                    let byte = bytes[0];
                    match (byte as char).to_digit(16) {
                        Some(digit) if *size < 1 << 48 => {
                            *size = *size * 16 + u64::from(digit);
                            *digits = true;
                            bytes = &bytes[1..];
                        }
                        None if *digits => self.0 = State::SizeEnd { size: *size },
                        _ => return Err(ResponseError::Chunk),
                    }
                }
                State::SizeEnd { size } => {
                    let size = *size;
                    let Some(end) = memchr::memchr(b'\n', bytes) else {
                        return Ok(());
                    };
                    bytes = &bytes[end + 1..];
                    self.0 = if size == 0 {
                        State::Trailer { line: 0 }
                    } else {
                        State::Chunk { left: size }
                    };
                }
                State::Chunk { left } => {
                    let length = (bytes.len() as u64).min(*left) as usize;
                    each(Part::Body(&bytes[..length]));
                    bytes = &bytes[length..];
                    *left -= length as u64;
                    if *left == 0 {
                        self.0 = State::ChunkEnd { cr: false };
                    }
                }
                State::ChunkEnd { cr } => {
                    match (bytes[0], *cr) {
                        (b'\r', false) => *cr = true,
                        (b'\n', true) => {
                            self.0 = State::Size {
                                size: 0,
                                digits: false,
                            }
                        }
                        _ => return Err(ResponseError::Chunk),
                    }
                    bytes = &bytes[1..];
                }
                State::Trailer { line } => {
                    match bytes[0] {
                        b'\n' if *line == 0 => {
                            self.0 = State::Done;
                            each(Part::End);
                        }
                        b'\n' => *line = 0,
                        b'\r' => {}
                        _ => *line = line.saturating_add(1),
                    }
                    bytes = &bytes[1..];
                }
                State::Length { left } => {
                    let length = (bytes.len() as u64).min(*left) as usize;
                    each(Part::Body(&bytes[..length]));
                    bytes = &bytes[length..];
                    *left -= length as u64;
                    if *left == 0 {
                        self.0 = State::Done;
                        each(Part::End);
                    }
                }
                State::UntilClose => {
                    each(Part::Body(bytes));
                    return Ok(());
                }
                // What follows an answer that nobody asked for is nobody's.
                State::Done => return Ok(()),
            }
        }
        Ok(())
    }
}

fn read_head(head: &[u8]) -> Option<(Part<'static>, State)> {
    let head = std::str::from_utf8(head).ok()?;
    let mut lines = head.split("\r\n");
    let mut status = lines.next()?.split(' ');
    status
        .next()
        .filter(|version| version.starts_with("HTTP/1."))?;
    let status: u16 = status.next()?.parse().ok()?;
    let (mut event_stream, mut chunked, mut length) = (false, false, None);
    for line in lines.filter(|line| !line.is_empty()) {
        let (name, value) = line.split_once(':')?;
        let value = value.trim();
        if name.eq_ignore_ascii_case("content-type") {
            let kind = value.split(';').next().unwrap_or_default().trim();
            event_stream = kind.eq_ignore_ascii_case("text/event-stream");
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            chunked = value.eq_ignore_ascii_case("chunked");
        } else if name.eq_ignore_ascii_case("content-length") {
            length = Some(value.parse::<u64>().ok()?);
        }
    }
    let body = match (chunked, length) {
        // RFC 9112, section 6.3: these have no body.
        _ if status == 204 || status == 304 => State::Done,
        (true, _) => State::Size {
            size: 0,
            digits: false,
        },
        (false, Some(0)) => State::Done,
        (false, Some(left)) => State::Length { left },
        (false, None) => State::UntilClose,
    };
    Some((
        Part::Head {
            status,
            event_stream,
        },
        body,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Status, body, and whether it ended; the bytes come in pieces of `size`.
    fn read(bytes: &[u8], size: usize) -> Result<(u16, String, bool), ResponseError> {
        let (mut response, mut out) = (Response::default(), (0, String::new(), false));
        for piece in bytes.chunks(size) {
            response.feed(piece, |part| match part {
                Part::Head {
                    status,
                    event_stream,
                } => {
                    out.0 = status;
                    assert!(event_stream);
                }
                Part::Body(bytes) => out.1.push_str(std::str::from_utf8(bytes).unwrap()),
                Part::End => out.2 = true,
            })?;
        }
        Ok(out)
    }

    fn each_size(head: &str, body: &str) -> Vec<Result<(u16, String, bool), ResponseError>> {
        let bytes = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n{head}\r\n{body}"
        );
        let mut all: Vec<_> = (1..=bytes.len())
            .map(|size| read(bytes.as_bytes(), size))
            .collect();
        all.dedup();
        all
    }

    #[test]
    fn bodies_are_read_however_they_are_cut() {
        let chunked = "Transfer-Encoding: chunked\r\n";
        let ok = |body: &str, end| vec![Ok((200, body.to_owned(), end))];
        assert_eq!(
            each_size(chunked, "3\r\nabc\r\n0A;x=y\r\n0123456789\r\n"),
            ok("abc0123456789", false)
        );
        assert_eq!(each_size(chunked, "3\r\nabc\r\n0\r\n\r\n"), ok("abc", true));
        assert_eq!(
            each_size(chunked, "1\r\nx\r\n0\r\nA: b\r\nC: d\r\n\r\nHTTP"),
            ok("x", true)
        );
        assert_eq!(each_size("", "abc"), ok("abc", false));
        assert_eq!(each_size("Content-Length: 0\r\n", ""), ok("", true));
        assert_eq!(each_size("Content-Length: 3\r\n", "abc"), ok("abc", true));
    }

    #[test]
    fn what_is_no_answer_is_an_error() {
        let chunked = "Transfer-Encoding: chunked\r\n";
        let bad = vec![Err(ResponseError::Chunk)];
        assert_eq!(each_size(chunked, "x\r\n"), bad);
        assert_eq!(each_size(chunked, "1\r\nabc"), bad);
        assert_eq!(read(b"SSH-2.0-x\r\n\r\n", 4), Err(ResponseError::Head));
        assert_eq!(read(&[b'x'; HEAD_MAX + 2], 1_000), Err(ResponseError::Head));
    }
}

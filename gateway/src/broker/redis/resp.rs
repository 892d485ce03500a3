//! Reads what a Redis server pushes to a subscribed connection (RESP2), in place.
//!
//! Invariant: a message is cut out of the read buffer as one slice, and its parts are ranges of
//! that slice. Nothing is copied and nothing is allocated per message.

use std::ops::Range;

use bytes::{Bytes, BytesMut};

/// What a subscribed connection receives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A message on a channel or a shard channel.
    Message,
    /// A subscription is in force.
    Subscribed,
    /// A subscription has ended.
    Unsubscribed,
    /// An answer to a command before or between subscriptions, such as `+OK`.
    Answer,
    /// A refusal; `payload` is its text.
    Error,
}

/// One complete push: the bytes it arrived in, and where its parts are.
#[derive(Debug, Clone)]
pub(super) struct Push {
    /// What it is.
    pub(super) kind: Kind,
    frame: Bytes,
    channel: Range<usize>,
    payload: Range<usize>,
}

impl Push {
    /// The channel's name.
    pub(super) fn channel(&self) -> &[u8] {
        &self.frame[self.channel.clone()]
    }

    /// The message, still in the buffer that it arrived in.
    pub(super) fn payload(&self) -> Bytes {
        self.frame.slice(self.payload.clone())
    }
}

/// The server sent something that is not RESP2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the server does not speak the Redis protocol")]
pub(super) struct RespError;

/// Cuts the next complete push out of `buffer`; `None` where more bytes are needed.
///
/// # Errors
/// [`RespError`]: the connection is of no use any more.
pub(super) fn next(buffer: &mut BytesMut) -> Result<Option<Push>, RespError> {
    let mut reader = Reader {
        bytes: buffer,
        at: 0,
    };
    let Some((kind, channel, payload)) = reader.push()? else {
        return Ok(None);
    };
    let end = reader.at;
    let frame = buffer.split_to(end).freeze();
    Ok(Some(Push {
        kind,
        frame,
        channel,
        payload,
    }))
}

/// More than any bulk string of a Redis server.
const MAX_LENGTH: i64 = 1 << 30;

type Parts = (Kind, Range<usize>, Range<usize>);

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn push(&mut self) -> Result<Option<Parts>, RespError> {
        let Some((kind, line)) = self.line()? else {
            return Ok(None);
        };
        match kind {
            b'+' | b':' => Ok(Some((Kind::Answer, 0..0, line))),
            b'-' => Ok(Some((Kind::Error, 0..0, line))),
            b'$' => Ok(self.bulk(line)?.map(|text| (Kind::Answer, 0..0, text))),
            b'*' => match self.number(line)? {
                3 => self.triple(),
                // `PING` of a subscribed connection is answered with two strings.
                2 => {
                    let first = self.field()?;
                    let second = if first.is_some() { self.field()? } else { None };
                    Ok(second.map(|text| (Kind::Answer, 0..0, text)))
                }
                _ => Err(RespError),
            },
            _ => Err(RespError),
        }
    }

    fn triple(&mut self) -> Result<Option<Parts>, RespError> {
        let Some(word) = self.field()? else {
            return Ok(None);
        };
        let kind = match &self.bytes[word] {
            b"message" | b"smessage" => Kind::Message,
            b"subscribe" | b"ssubscribe" => Kind::Subscribed,
            b"unsubscribe" | b"sunsubscribe" => Kind::Unsubscribed,
            _ => return Err(RespError),
        };
        let Some(channel) = self.field()? else {
            return Ok(None);
        };
        Ok(self.field()?.map(|payload| (kind, channel, payload)))
    }

    /// A bulk string or a number; a null string is an empty one.
    fn field(&mut self) -> Result<Option<Range<usize>>, RespError> {
        match self.line()? {
            None => Ok(None),
            Some((b'$', line)) => self.bulk(line),
            Some((b':' | b'+', line)) => Ok(Some(line)),
            Some(_) => Err(RespError),
        }
    }

    fn bulk(&mut self, line: Range<usize>) -> Result<Option<Range<usize>>, RespError> {
        let length = self.number(line)?;
        if length == -1 {
            return Ok(Some(self.at..self.at));
        }
        if !(0..=MAX_LENGTH).contains(&length) {
            return Err(RespError);
        }
        let start = self.at;
        let end = start + usize::try_from(length).map_err(|_| RespError)?;
        match self.bytes.get(end..end + 2) {
            Some(b"\r\n") => {
                self.at = end + 2;
                Ok(Some(start..end))
            }
            Some(_) => Err(RespError),
            None => Ok(None),
        }
    }

    /// A type byte and the rest of its line.
    fn line(&mut self) -> Result<Option<(u8, Range<usize>)>, RespError> {
        let rest = &self.bytes[self.at..];
        let Some(length) = memchr::memchr(b'\n', rest) else {
            // An error message is the longest line that a server sends.
            return if rest.len() > 64 * 1024 {
                Err(RespError)
            } else {
                Ok(None)
            };
        };
        if length < 2 || rest[length - 1] != b'\r' {
            return Err(RespError);
        }
        let start = self.at + 1;
        let end = self.at + length - 1;
        let kind = rest[0];
        self.at += length + 1;
        Ok(Some((kind, start..end)))
    }

    fn number(&self, line: Range<usize>) -> Result<i64, RespError> {
        let text = std::str::from_utf8(&self.bytes[line]).map_err(|_| RespError)?;
        text.parse().map_err(|_| RespError)
    }
}

/// Appends a command to `out`.
pub(super) fn command(out: &mut BytesMut, words: &[&[u8]]) {
    let mut digits = itoa::Buffer::new();
    out.extend_from_slice(b"*");
    out.extend_from_slice(digits.format(words.len()).as_bytes());
    for word in words {
        out.extend_from_slice(b"\r\n$");
        out.extend_from_slice(digits.format(word.len()).as_bytes());
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(word);
    }
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all(buffer: &mut BytesMut, seen: &mut Vec<(Kind, Vec<u8>, Vec<u8>)>) {
        while let Some(push) = next(buffer).unwrap() {
            seen.push((push.kind, push.channel().to_vec(), push.payload().to_vec()));
        }
    }

    #[test]
    fn reads_every_kind_of_push() {
        let mut buffer = BytesMut::from(
            &b"+OK\r\n*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n*3\r\n$7\r\nmessage\r\n$1\r\na\r\n$4\r\nx\r\ny\r\n\
               *3\r\n$11\r\nunsubscribe\r\n$-1\r\n:0\r\n-ERR no\r\n*2\r\n$4\r\npong\r\n$0\r\n\r\n$2\r\nhi\r\n"[..],
        );
        let mut seen = Vec::new();
        all(&mut buffer, &mut seen);
        let owned =
            |kind, channel: &[u8], payload: &[u8]| (kind, channel.to_vec(), payload.to_vec());
        assert_eq!(
            seen,
            [
                owned(Kind::Answer, b"", b"OK"),
                owned(Kind::Subscribed, b"a", b"1"),
                owned(Kind::Message, b"a", b"x\r\ny"),
                owned(Kind::Unsubscribed, b"", b"0"),
                owned(Kind::Error, b"", b"ERR no"),
                owned(Kind::Answer, b"", b""),
                owned(Kind::Answer, b"", b"hi"),
            ]
        );
        assert!(buffer.is_empty());
    }

    #[test]
    fn refuses_what_is_not_resp() {
        for bad in [
            &b"HTTP/1.1 400 Bad Request\r\n"[..],
            b"\n",
            b"*3\r\n$x\r\n",
            b"*9\r\n",
            b"*3\r\n$7\r\nmessage\r\n$1\r\naa\r\n",
            b"*3\r\n$8\r\npmessage\r\n",
            b"$99999999999\r\n",
        ] {
            assert_eq!(
                next(&mut BytesMut::from(bad)).unwrap_err(),
                RespError,
                "{bad:?}"
            );
        }
    }

    #[test]
    fn writes_commands() {
        let mut out = BytesMut::new();
        command(&mut out, &[b"SUBSCRIBE", b"", b"ab"]);
        assert_eq!(&out[..], b"*3\r\n$9\r\nSUBSCRIBE\r\n$0\r\n\r\n$2\r\nab\r\n");
    }

    proptest! {
        #[test]
        fn any_chunking_gives_the_same_pushes(
            messages in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..20), prop::collection::vec(any::<u8>(), 0..60)), 0..8),
            cuts in prop::collection::vec(1usize..40, 1..40),
        ) {
            let mut wire = BytesMut::new();
            for (channel, payload) in &messages {
                command(&mut wire, &[b"message", channel, payload]);
            }
            let (mut buffer, mut seen, mut rest, mut turn) = (BytesMut::new(), Vec::new(), &wire[..], 0);
            while !rest.is_empty() {
                let cut = cuts[turn % cuts.len()].min(rest.len());
                buffer.extend_from_slice(&rest[..cut]);
                (rest, turn) = (&rest[cut..], turn + 1);
                all(&mut buffer, &mut seen);
            }
            let expected: Vec<_> = messages.into_iter().map(|(c, p)| (Kind::Message, c, p)).collect();
            prop_assert_eq!(seen, expected);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut buffer = BytesMut::from(&bytes[..]);
            while let Ok(Some(_)) = next(&mut buffer) {}
        }
    }
}

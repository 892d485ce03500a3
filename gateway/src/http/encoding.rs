//! The bytes of an event stream over HTTP/1.1: each event is one chunk.

use std::ops::Range;
use std::time::Duration;

use protocol::sse::encode;
use protocol::{Event, EventId, LastEventId};
use serde::Serialize;

use crate::hub::{Control, Encoder};

/// Encodes for HTTP/1.1. Chunk heads have at least four digits (leading zeros are allowed, RFC
/// 9112 section 7.1), so that an event is encoded in place and its length is filled in afterwards.
#[derive(Debug, Clone)]
pub struct ChunkedEncoder {
    node: String,
    retry: Duration,
    retry_jitter: Duration,
}

impl ChunkedEncoder {
    /// `retry` plus a random part of `retry_jitter` is what each client is told.
    #[must_use]
    pub fn new(node: String, retry: Duration, retry_jitter: Duration) -> Self {
        Self {
            node,
            retry,
            retry_jitter,
        }
    }

    fn retry(&self) -> u32 {
        let jitter = self.retry_jitter.as_millis() as u32;
        self.retry.as_millis() as u32
            + if jitter == 0 {
                0
            } else {
                fastrand::u32(0..=jitter)
            }
    }

    fn named(
        &self,
        out: &mut Vec<u8>,
        event: &str,
        id: Option<LastEventId>,
        retry: bool,
        data: &impl Serialize,
    ) {
        let retry_ms = retry.then(|| self.retry());
        // Serialising these small structs of strings and numbers cannot fail.
        let data = serde_json::to_string(data).unwrap_or_default();
        encode::Frame {
            id,
            event,
            retry_ms,
            data: &data,
        }
        .write_to(out);
    }
}

/// Wraps what `write` appends into one chunk and returns the range of the bare bytes.
pub fn chunk(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) -> Range<usize> {
    let begin = out.len();
    out.extend_from_slice(b"0000\r\n");
    write(out);
    let length = out.len() - begin - 6;
    let mut digits = 4;
    if length > 0xffff {
        digits = 8;
        out.splice(begin..begin, *b"0000");
    }
    for (at, digit) in out[begin..begin + digits].iter_mut().rev().enumerate() {
        *digit = b"0123456789abcdef"[length >> (4 * at) & 15];
    }
    out.extend_from_slice(b"\r\n");
    digits + 2..digits + 2 + length
}

impl Encoder for ChunkedEncoder {
    fn event(&self, out: &mut Vec<u8>, event: &Event) -> Range<usize> {
        chunk(out, |out| {
            encode::event(out, event.id, &event.name, &event.data)
        })
    }

    fn control(&self, out: &mut Vec<u8>, control: Control<'_>) -> Range<usize> {
        chunk(out, |out| match control {
            Control::Open { room, id, live } => {
                let data = Open {
                    room: room.as_str(),
                    node: &self.node,
                    live,
                };
                self.named(out, "stream.open", id, true, &data);
            }
            Control::Live { id } => {
                let id = id.map(LastEventId::Event);
                self.named(out, "stream.live", id, false, &Live { live: true });
            }
            Control::Reset { reset, presented } => {
                let position = |id: EventId| (id != EventId::ZERO).then(|| id.to_string());
                let lost = Lost {
                    after: position(reset.after),
                    through: position(reset.resume),
                };
                let data = ResetData {
                    reason: reset.reason.label(),
                    presented,
                    lost,
                };
                self.named(out, "stream.reset", Some(reset.id), false, &data);
            }
            Control::Close { reason } => {
                self.named(out, "stream.close", None, true, &Close { reason })
            }
            Control::Heartbeat => self.named(out, "stream.heartbeat", None, false, &Heartbeat {}),
            Control::Comment => out.extend_from_slice(b":\n"),
        })
    }
}

#[derive(Serialize)]
struct Open<'a> {
    room: &'a str,
    node: &'a str,
    live: bool,
}

#[derive(Serialize)]
struct Live {
    live: bool,
}

#[derive(Serialize)]
struct ResetData<'a> {
    reason: &'static str,
    presented: Option<&'a str>,
    lost: Lost,
}

#[derive(Serialize)]
struct Lost {
    after: Option<String>,
    through: Option<String>,
}

#[derive(Serialize)]
struct Close {
    reason: &'static str,
}

#[derive(Serialize)]
struct Heartbeat {}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::RoomName;

    #[test]
    fn an_event_is_one_chunk() {
        let encoder = ChunkedEncoder::new("n1".into(), Duration::from_secs(2), Duration::ZERO);
        let event = Event {
            id: Some(EventId::new(7, 1)),
            prev: None,
            name: "chat".into(),
            data: "hi".into(),
            trace: None,
        };
        let mut out = b"before".to_vec();
        let inner = encoder.event(&mut out, &event);
        let bare = "id: 7-1\nevent: chat\ndata: hi\n\n";
        assert_eq!(&out[6..][inner], bare.as_bytes());
        assert_eq!(
            out,
            format!("before{:04x}\r\n{bare}\r\n", bare.len()).as_bytes()
        );
    }

    #[test]
    fn a_stream_opens_with_position_and_retry() {
        let encoder = ChunkedEncoder::new("n1".into(), Duration::from_secs(2), Duration::ZERO);
        let room = RoomName::parse("demo").unwrap();
        let mut out = Vec::new();
        let inner = encoder.control(
            &mut out,
            Control::Open {
                room: &room,
                id: Some(EventId::ZERO.into()),
                live: true,
            },
        );
        let text = std::str::from_utf8(&out[inner]).unwrap();
        assert_eq!(
            text,
            "id: 0-0\nevent: stream.open\nretry: 2000\ndata: {\"room\":\"demo\",\"node\":\"n1\",\"live\":true}\n\n"
        );
    }
}

//! The bytes on a room's channel, and the fields of a stream entry.
//!
//! Version 1 of a channel message: `SSE/1 <id> <prev>\n`, header lines `name: value\n`, `\n`, and
//! the raw data to the end. `protocol/README.md` has the whole of it with test vectors.

use bytes::Bytes;
use memchr::memchr;
use serde_json::{Map, Value};

use crate::event::{self, EventError};
use crate::trace::TRACEPARENT;
use crate::{Event, EventId, TraceParent};

const MAGIC: &[u8] = b"SSE/";

/// What a channel message is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChannelMessage {
    /// Written by the publish function; `id` and `prev` are set.
    Stored(Event),
    /// Published by `PUBLISH`; has no id.
    Ephemeral(Event),
    /// A version that this program does not know: something was stored.
    UnknownVersion,
}

/// A message begins as a versioned frame and goes on as something else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a channel message is malformed: {0}")]
pub struct EnvelopeError(&'static str);

/// Reads a channel message. Checks the format only: names, sizes and encoding are for
/// [`event::check`].
///
/// # Errors
/// When it begins as version 1 and is not.
pub fn decode(message: &Bytes) -> Result<ChannelMessage, EnvelopeError> {
    let Some(rest) = message.strip_prefix(MAGIC) else {
        return Ok(ChannelMessage::Ephemeral(ephemeral(message)));
    };
    let digits = rest.iter().take_while(|b| b.is_ascii_digit()).count();
    if digits == 0 || rest.get(digits) != Some(&b' ') {
        return Ok(ChannelMessage::Ephemeral(ephemeral(message)));
    }
    if &rest[..digits] != b"1" {
        return Ok(ChannelMessage::UnknownVersion);
    }
    let mut at = MAGIC.len() + digits + 1;
    let line = next_line(message, &mut at)?;
    let space = memchr(b' ', line).ok_or(EnvelopeError(
        "the first line needs an id and the previous id",
    ))?;
    let id =
        EventId::parse(&line[..space]).map_err(|_| EnvelopeError("its id is not an event id"))?;
    let prev = EventId::parse(&line[space + 1..])
        .map_err(|_| EnvelopeError("its previous id is not an event id"))?;
    let (mut name, mut trace) = (Bytes::new(), None);
    loop {
        let line = next_line(message, &mut at)?;
        if line.is_empty() {
            break;
        }
        let (header, value) = header(line).ok_or(EnvelopeError("a header line has no ': '"))?;
        if header == b"event" {
            name = message.slice_ref(value);
        } else if header == TRACEPARENT.as_bytes() {
            trace = TraceParent::parse(value);
        }
    }
    Ok(ChannelMessage::Stored(Event {
        id: Some(id),
        prev: Some(prev),
        name,
        data: message.slice(at..),
        trace,
    }))
}

fn next_line<'a>(message: &'a [u8], at: &mut usize) -> Result<&'a [u8], EnvelopeError> {
    let rest = &message[*at..];
    let end = memchr(b'\n', rest).ok_or(EnvelopeError("its head does not end"))?;
    *at += end + 1;
    Ok(&rest[..end])
}

fn header(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let colon = memchr(b':', line)?;
    Some((&line[..colon], line[colon + 1..].strip_prefix(b" ")?))
}

/// The extension fields of a version 1 message (all header lines but `event`), in order.
pub fn extensions(message: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let head = if message.starts_with(b"SSE/1 ") {
        message
    } else {
        &[]
    };
    let end = memchr::memmem::find(head, b"\n\n").unwrap_or(0);
    head[..end]
        .split(|&b| b == b'\n')
        .skip(1)
        .filter_map(header)
        .filter(|(name, _)| *name != b"event")
}

/// Writes a version 1 message, as the publish function does. An event without ids gets `0-0`.
#[must_use]
pub fn encode(event: &Event, extensions: &[(&str, &str)]) -> Vec<u8> {
    let mut out = b"SSE/1 ".to_vec();
    event.id.unwrap_or_default().write_to(&mut out);
    out.push(b' ');
    event.prev.unwrap_or_default().write_to(&mut out);
    out.push(b'\n');
    let mut line = |name: &[u8], value: &[u8]| {
        out.extend_from_slice(name);
        out.extend_from_slice(b": ");
        out.extend_from_slice(value);
        out.push(b'\n');
    };
    if !event.name.is_empty() {
        line(b"event", &event.name);
    }
    extensions
        .iter()
        .for_each(|(name, value)| line(name.as_bytes(), value.as_bytes()));
    out.push(b'\n');
    out.extend_from_slice(&event.data);
    out
}

/// A message that is not ours: a JSON object with `data`, or else data itself.
fn ephemeral(message: &Bytes) -> Event {
    let plain = || Event {
        data: message.clone(),
        ..Event::default()
    };
    if !message.trim_ascii_start().starts_with(b"{") {
        return plain();
    }
    let Ok(Value::Object(mut object)) = serde_json::from_slice(message) else {
        return plain();
    };
    let Some(data) = object.remove("data") else {
        return plain();
    };
    let name = match object.remove("event") {
        Some(Value::String(name)) => name.into(),
        _ => Bytes::new(),
    };
    let data = match data {
        Value::String(text) => text,
        other => other.to_string(),
    };
    let trace = object.get(TRACEPARENT).and_then(Value::as_str);
    Event {
        name,
        data: data.into(),
        trace: trace.and_then(|text| TraceParent::parse(text.as_bytes())),
        ..Event::default()
    }
}

/// Reads a stream entry: fields `event`, `data` and `prev`; without `data`, all its own fields as
/// one JSON object, in their order.
///
/// # Errors
/// When name or data break the rules of [`event::check`]: such an entry is skipped.
pub fn from_entry(
    id: EventId,
    fields: &[(Bytes, Bytes)],
    max_data_bytes: usize,
) -> Result<Event, EventError> {
    let field = |wanted: &[u8]| {
        fields
            .iter()
            .find(|(name, _)| name == wanted)
            .map(|(_, value)| value)
    };
    let prev = field(b"prev").and_then(|value| EventId::parse(value).ok());
    let name = field(b"event").cloned().unwrap_or_default();
    let data = match field(b"data") {
        Some(data) => data.clone(),
        None => own_fields(fields)?,
    };
    event::check(&name, &data, max_data_bytes)?;
    Ok(Event {
        id: Some(id),
        prev,
        name,
        data,
        trace: field(TRACEPARENT.as_bytes()).and_then(|value| TraceParent::parse(value)),
    })
}

fn own_fields(fields: &[(Bytes, Bytes)]) -> Result<Bytes, EventError> {
    let text = |bytes: &Bytes| {
        std::str::from_utf8(bytes)
            .map(str::to_owned)
            .map_err(|_| EventError::NotUtf8)
    };
    let mut object = Map::new();
    for (name, value) in fields
        .iter()
        .filter(|(name, _)| name != "prev" && name != "event")
    {
        object.insert(text(name)?, Value::String(text(value)?));
    }
    Ok(Value::Object(object).to_string().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(id: u64, prev: u64, name: &'static str, data: &'static str) -> Event {
        Event {
            id: Some(EventId::new(id, 0)),
            prev: Some(EventId::new(prev, 0)),
            name: name.into(),
            data: data.into(),
            trace: None,
        }
    }

    #[test]
    fn a_message_is_exact_and_comes_back() {
        let event = stored(8, 7, "chat", "{\"m\":\"a\\n\"}\n\nraw");
        let bytes: Bytes = encode(&event, &[("traceparent", "00-a-b-01")]).into();
        assert_eq!(
            bytes,
            &b"SSE/1 8-0 7-0\nevent: chat\ntraceparent: 00-a-b-01\n\n{\"m\":\"a\\n\"}\n\nraw"[..]
        );
        assert_eq!(decode(&bytes), Ok(ChannelMessage::Stored(event)));
        assert_eq!(
            extensions(&bytes).collect::<Vec<_>>(),
            [(&b"traceparent"[..], &b"00-a-b-01"[..])]
        );
        let bare = stored(8, 0, "", "");
        assert_eq!(encode(&bare, &[]), b"SSE/1 8-0 0-0\n\n");
        assert_eq!(
            decode(&encode(&bare, &[]).into()),
            Ok(ChannelMessage::Stored(bare))
        );
    }

    #[test]
    fn other_messages_are_ephemeral_or_unknown() {
        let cases = [
            ("hello", "", "hello"),
            ("{\"event\":\"typing\",\"data\":\"ann\"}", "typing", "ann"),
            ("{\"data\":{\"a\":1}}", "", "{\"a\":1}"),
            ("{\"x\":1}", "", "{\"x\":1}"),
            ("SSE/x", "", "SSE/x"),
            ("", "", ""),
        ];
        for (message, name, data) in cases {
            let event = Event {
                id: None,
                prev: None,
                name: name.into(),
                data: data.into(),
                trace: None,
            };
            assert_eq!(
                decode(&message.into()),
                Ok(ChannelMessage::Ephemeral(event)),
                "{message}"
            );
        }
        assert_eq!(
            decode(&"SSE/2 what ever".into()),
            Ok(ChannelMessage::UnknownVersion)
        );
        for bad in [
            "SSE/1 ",
            "SSE/1 1-0\n\n",
            "SSE/1 1-0 0-0\n",
            "SSE/1 a-0 0-0\n\n",
            "SSE/1 1-0 0-0\nevent\n\n",
        ] {
            assert!(decode(&bad.into()).is_err(), "{bad}");
        }
    }

    #[test]
    fn entries_become_events() {
        let id = EventId::new(9, 0);
        let fields = |list: &[(&'static str, &'static str)]| {
            list.iter()
                .map(|(n, v)| (Bytes::from(*n), Bytes::from(*v)))
                .collect::<Vec<_>>()
        };
        let event = from_entry(
            id,
            &fields(&[("event", "chat"), ("data", "x"), ("prev", "8-0")]),
            10,
        )
        .unwrap();
        assert_eq!(
            event,
            Event {
                id: Some(id),
                prev: Some(EventId::new(8, 0)),
                name: "chat".into(),
                data: "x".into(),
                trace: None,
            }
        );
        let event = from_entry(id, &fields(&[("temp", "20"), ("unit", "C")]), 100).unwrap();
        assert_eq!(event.data, "{\"temp\":\"20\",\"unit\":\"C\"}");
        assert_eq!(
            from_entry(id, &fields(&[("event", "stream.x"), ("data", "x")]), 10),
            Err(EventError::Reserved)
        );
        assert!(matches!(
            from_entry(id, &fields(&[("data", "12345678901")]), 10),
            Err(EventError::TooLarge { .. })
        ));
    }
}

//! Messages on a room's channel, and entries of its stream.

use bytes::Bytes;
use protocol::envelope::{ChannelMessage, decode, encode, extensions, from_entry};
use protocol::trace::TRACEPARENT;
use protocol::{Event, EventId, event};

/// What was read is written and read again.
fn comes_back(event: &Event) {
    let trace = event.trace.map(|trace| trace.to_string());
    let extension = trace.as_deref().map(|trace| (TRACEPARENT, trace));
    let bytes: Bytes = encode(event, extension.as_slice()).into();
    assert_eq!(decode(&bytes), Ok(ChannelMessage::Stored(event.clone())));
}

/// `part` is a piece of `whole`, in its own memory: nothing was copied.
fn is_inside(whole: &[u8], part: &[u8]) -> bool {
    let (whole, part) = (whole.as_ptr_range(), part.as_ptr_range());
    part.is_empty() || (whole.start <= part.start && part.end <= whole.end)
}

pub fn check(bytes: &[u8]) {
    let message = Bytes::copy_from_slice(bytes);
    match decode(&message) {
        Ok(ChannelMessage::Stored(event)) => {
            assert!(bytes.starts_with(b"SSE/1 ") && event.id.is_some() && event.prev.is_some());
            assert!(is_inside(&message, &event.name) && is_inside(&message, &event.data));
            assert!(bytes.ends_with(&event.data) && !event.name.contains(&b'\n'));
            comes_back(&event);
        }
        Ok(ChannelMessage::Ephemeral(event)) => {
            assert_eq!((event.id, event.prev), (None, None));
            let is_object = message.trim_ascii_start().starts_with(b"{");
            assert!(is_object || event.data == message, "data came out changed");
        }
        Ok(ChannelMessage::UnknownVersion) => assert!(bytes.starts_with(b"SSE/")),
        Err(_) => assert!(bytes.starts_with(b"SSE/1 ")),
    }
    for (name, value) in extensions(&message) {
        assert!(is_inside(&message, name) && is_inside(&message, value));
        assert!(!name.contains(&b'\n') && !value.contains(&b'\n'));
    }
    entry(bytes);
}

/// Fields of an entry that anyone may have written.
fn entry(bytes: &[u8]) {
    let (mut fields, mut rest) = (Vec::new(), bytes);
    while !rest.is_empty() {
        let (name, behind) = crate::cut(rest, 32);
        let name: &[u8] = match name {
            b"e" => b"event",
            b"d" => b"data",
            b"p" => b"prev",
            name => name,
        };
        let (value, behind) = crate::cut(behind, 200);
        let field = [name, value].map(Bytes::copy_from_slice);
        fields.push((field[0].clone(), field[1].clone()));
        rest = behind;
    }
    let id = EventId::new(9, 0);
    if let Ok(read) = from_entry(id, &fields, 300) {
        assert_eq!(read.id, Some(id));
        event::check(&read.name, &read.data, 300).unwrap();
        comes_back(&Event {
            prev: read.prev.or(Some(EventId::ZERO)),
            ..read
        });
    }
}

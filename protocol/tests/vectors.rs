//! The files in `protocol/vectors`, which any other implementation can use too.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use bytes::Bytes;
use protocol::envelope::{self, ChannelMessage};
use protocol::sse::decode::Decoder;
use protocol::sse::encode::Frame;
use protocol::{Event, EventId, RoomName, RoomNameError};
use serde_json::{Value, json};
use support::vectors;

fn cases(file: &str, section: &str) -> Vec<Value> {
    let cases = vectors(file)[section].as_array().unwrap().clone();
    assert!(!cases.is_empty());
    cases
}

fn text<'a>(case: &'a Value, member: &str) -> &'a str {
    case[member].as_str().unwrap()
}

fn id(case: &Value, member: &str) -> Option<EventId> {
    let id = case[member].as_str()?;
    Some(EventId::parse(id.as_bytes()).unwrap())
}

fn bytes(case: &Value, member: &str) -> Bytes {
    Bytes::copy_from_slice(text(case, member).as_bytes())
}

fn messages(section: &str) -> Vec<(Bytes, Value)> {
    let with_bytes = |case| (bytes(&case, "message"), case);
    cases("channel-messages.json", section)
        .into_iter()
        .map(with_bytes)
        .collect()
}

#[test]
fn stored_messages_go_both_ways() {
    for (message, case) in messages("stored") {
        let event = Event {
            id: id(&case, "id"),
            prev: id(&case, "prev"),
            name: bytes(&case, "event"),
            data: bytes(&case, "data"),
            trace: None,
        };
        let pair = |pair: &'_ Value| -> (String, String) {
            (
                pair[0].as_str().unwrap().into(),
                pair[1].as_str().unwrap().into(),
            )
        };
        let extensions: Vec<_> = case["extensions"]
            .as_array()
            .unwrap()
            .iter()
            .map(pair)
            .collect();
        let borrowed: Vec<_> = extensions
            .iter()
            .map(|(n, v)| (n.as_str(), v.as_str()))
            .collect();
        assert_eq!(
            Bytes::from(envelope::encode(&event, &borrowed)),
            message,
            "{case}"
        );
        assert_eq!(
            envelope::decode(&message),
            Ok(ChannelMessage::Stored(event)),
            "{case}"
        );
        let read: Vec<_> = envelope::extensions(&message).collect();
        let expected: Vec<_> = borrowed
            .iter()
            .map(|(n, v)| (n.as_bytes(), v.as_bytes()))
            .collect();
        assert_eq!(read, expected, "{case}");
    }
}

#[test]
fn other_messages_are_told_apart() {
    for (message, case) in messages("ephemeral") {
        let event = Event {
            id: None,
            prev: None,
            name: bytes(&case, "event"),
            data: bytes(&case, "data"),
            trace: None,
        };
        assert_eq!(
            envelope::decode(&message),
            Ok(ChannelMessage::Ephemeral(event)),
            "{case}"
        );
        assert_eq!(envelope::extensions(&message).count(), 0);
    }
    for (message, case) in messages("unknown_version") {
        assert_eq!(
            envelope::decode(&message),
            Ok(ChannelMessage::UnknownVersion),
            "{case}"
        );
    }
    for (message, case) in messages("malformed") {
        assert!(envelope::decode(&message).is_err(), "{case}");
    }
}

#[test]
fn frames_are_byte_exact() {
    for case in cases("event-stream.json", "encode") {
        let frame = Frame {
            id: id(&case, "id").map(Into::into),
            event: text(&case, "event"),
            retry_ms: case["retry"].as_u64().map(|ms| u32::try_from(ms).unwrap()),
            data: text(&case, "data"),
        };
        let mut out = Vec::new();
        frame.write_to(&mut out);
        assert_eq!(
            String::from_utf8(out).unwrap(),
            text(&case, "bytes"),
            "{case}"
        );
    }
}

#[test]
fn streams_are_read_as_the_standard_says() {
    for case in cases("event-stream.json", "decode") {
        let mut read = Vec::new();
        Decoder::default().feed(text(&case, "bytes").as_bytes(), |m| {
            read.push(json!({"id": m.id, "event": m.event, "data": m.data, "retry": m.retry}));
        });
        assert_eq!(Value::from(read), case["messages"], "{case}");
    }
}

#[test]
fn room_names_are_told_apart() {
    for name in cases("room-names.json", "valid") {
        let name = name.as_str().unwrap();
        assert_eq!(RoomName::parse(name).unwrap().as_str(), name);
    }
    for case in cases("room-names.json", "invalid") {
        let why = match RoomName::parse(text(&case, "name")).unwrap_err() {
            RoomNameError::Empty => "empty",
            RoomNameError::Dots => "dots",
            RoomNameError::TooLong => "too long",
            RoomNameError::Character => "character",
        };
        assert_eq!(why, text(&case, "why"), "{case}");
    }
}

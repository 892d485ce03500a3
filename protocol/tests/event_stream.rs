//! Encoder and decoder against a second reading of the standard: the whole text at once, field by
//! field, with nothing shared.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use proptest::prelude::*;
use proptest::sample::select;
use protocol::EventId;
use protocol::sse::decode::Decoder;
use protocol::sse::encode::{self, Frame};

/// A message that outlives its decoder.
#[derive(Debug, PartialEq)]
struct Message {
    id: String,
    event: String,
    data: String,
    retry: Option<u64>,
}

/// WHATWG HTML, section 9.2.6, in its own order and words.
fn parse(bytes: &[u8]) -> Vec<Message> {
    let decoded = String::from_utf8_lossy(bytes).into_owned();
    let stream = decoded.strip_prefix('\u{FEFF}').unwrap_or(&decoded);
    let stream = stream.replace("\r\n", "\n").replace('\r', "\n");
    let mut lines: Vec<&str> = stream.split('\n').collect();
    // What follows the last line end is an unfinished line.
    lines.pop();
    let (mut messages, mut retry) = (Vec::new(), None);
    let (mut data, mut event, mut id) = (String::new(), String::new(), String::new());
    for line in lines {
        if line.is_empty() {
            let name = std::mem::take(&mut event);
            let mut text = std::mem::take(&mut data);
            if text.is_empty() {
                continue;
            }
            assert_eq!(text.pop(), Some('\n'));
            let event = if name.is_empty() { "message" } else { &name }.to_owned();
            messages.push(Message {
                id: id.clone(),
                event,
                data: text,
                retry,
            });
            continue;
        }
        let (field, value) = match line.find(':') {
            Some(0) => continue,
            Some(colon) => (&line[..colon], &line[colon + 1..]),
            None => (line, ""),
        };
        let value = value.strip_prefix(' ').unwrap_or(value);
        if field == "event" {
            event = value.to_owned();
        } else if field == "data" {
            data = data + value + "\n";
        } else if field == "id" && value.find('\0').is_none() {
            id = value.to_owned();
        } else if field == "retry" && value.chars().all(|c| c.is_ascii_digit()) {
            retry = value.parse().ok().or(retry);
        }
    }
    messages
}

/// Feeds `bytes` in pieces whose lengths are taken from `cuts`, round and round.
fn decode(bytes: &[u8], cuts: &[usize]) -> Vec<Message> {
    let (mut decoder, mut messages) = (Decoder::default(), Vec::new());
    let (mut rest, mut cuts) = (bytes, cuts.iter().cycle());
    while !rest.is_empty() {
        let (piece, after) = rest.split_at((*cuts.next().unwrap()).min(rest.len()));
        decoder.feed(piece, |m| {
            messages.push(Message {
                id: m.id.to_owned(),
                event: m.event.to_owned(),
                data: m.data.to_owned(),
                retry: m.retry,
            });
        });
        rest = after;
    }
    messages
}

/// At least one piece is not empty, so that the feeding ends.
fn cuts() -> impl Strategy<Value = Vec<usize>> {
    (prop::collection::vec(0usize..12, 0..6), 1usize..40).prop_map(|(mut cuts, last)| {
        cuts.push(last);
        cuts
    })
}

/// Text that is thick with what could break a frame.
fn text() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        4 => select(vec!["\n", "\r", "\r\n", "\n\r", "\n\n", "\r\n\r\n"]).prop_map(str::to_owned),
        4 => select(vec![" ", ":", "data: ", "id: 9-9", "event: x", "retry: 1", "\0", "\u{FEFF}", "\u{2028}", "\u{85}", "ü", "🙂"])
            .prop_map(str::to_owned),
        1 => any::<String>(),
    ];
    prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        Just(String::new()),
        "[a-zA-Z.:ü _-]{1,20}",
        any::<String>().prop_map(|name| name.replace(['\r', '\n', '\0'], "")),
    ]
}

/// Any bytes, thick with what the standard gives a meaning.
fn stream() -> impl Strategy<Value = Vec<u8>> {
    let words: Vec<&[u8]> = vec![
        b"data",
        b"event",
        b"id",
        b"retry",
        b":",
        b": ",
        b" ",
        b"\n",
        b"\n",
        b"\r",
        b"\r\n",
        b"\n\n",
        b"\r\r",
        b"\r\n\r\n",
        b"\0",
        b"7",
        b"x",
        b"\xEF\xBB\xBF",
        b"\xC3\xBC",
        b"\xC3",
        b"\xFF",
        b"data: a\n",
        b"data\r",
        b"id: 5-0\r\n",
        b"id: a\0b\n",
        b"retry: 12\n",
        b"event: e\r",
    ];
    let piece = prop_oneof![
        8 => select(words).prop_map(<[u8]>::to_vec),
        1 => prop::collection::vec(any::<u8>(), 0..4),
    ];
    prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

fn one_kind_of_line_end(text: &str) -> String {
    text.replace("\r\n", "\n").replace('\r', "\n")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_encoded_is_read_by_both(
        events in prop::collection::vec((any::<u64>(), any::<u64>(), name(), text()), 1..6),
        retry in any::<Option<u32>>(),
        cuts in cuts(),
    ) {
        let (mut out, mut expected) = (Vec::new(), Vec::new());
        for (at, (ms, sequence, name, data)) in events.iter().enumerate() {
            let id = EventId::new(*ms, *sequence);
            if at == 0 {
                let frame = Frame { id: Some(id.into()), event: name, retry_ms: retry, data };
                frame.write_to(&mut out);
            } else {
                encode::event(&mut out, Some(id), name.as_bytes(), data.as_bytes());
            }
            // Keep-alive comments between events change nothing.
            out.extend_from_slice(b":\n");
            expected.push(Message {
                id: id.to_string(),
                event: if name.is_empty() { "message".into() } else { name.clone() },
                data: one_kind_of_line_end(data),
                retry: retry.map(u64::from),
            });
        }
        prop_assert!(!out.contains(&b'\r'));
        prop_assert!(std::str::from_utf8(&out).is_ok());
        prop_assert_eq!(&parse(&out), &expected);
        prop_assert_eq!(&decode(&out, &cuts), &expected);
    }

    #[test]
    fn both_read_any_bytes_alike_however_they_are_cut(bytes in stream(), cuts in cuts()) {
        let expected = parse(&bytes);
        prop_assert_eq!(&decode(&bytes, &cuts), &expected);
        prop_assert_eq!(&decode(&bytes, &[1]), &expected);
        prop_assert_eq!(&decode(&bytes, &[usize::MAX]), &expected);
    }
}

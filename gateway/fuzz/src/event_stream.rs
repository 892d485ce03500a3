//! Event streams: what the gateway writes is read as it was meant, by a decoder that is compared with a plain one.

use protocol::EventId;
use protocol::sse::decode::Decoder;
use protocol::sse::encode::Frame;

/// Id, event, data, reconnection time.
type Seen = (String, String, String, Option<u64>);

fn read(bytes: &[u8], piece: usize) -> (Vec<Seen>, String) {
    let (mut decoder, mut seen) = (Decoder::default(), Vec::new());
    for piece in bytes.chunks(piece.max(1)) {
        decoder.feed(piece, |m| {
            seen.push((m.id.into(), m.event.into(), m.data.into(), m.retry));
        });
    }
    let last = decoder.last_event_id().to_owned();
    (seen, last)
}

/// Section 9.2.6 of the HTML standard, line by line and without regard to cost.
fn plainly(bytes: &[u8]) -> Vec<Seen> {
    let text = String::from_utf8_lossy(bytes);
    let text = text.strip_prefix('\u{FEFF}').unwrap_or(&text);
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    let mut lines: Vec<&str> = text.split('\n').collect();
    // What has no end yet does not count.
    lines.pop();
    let (mut seen, mut id, mut event, mut retry) = (Vec::new(), "", "", None);
    let mut data: Vec<&str> = Vec::new();
    for line in lines {
        if line.is_empty() {
            if !data.is_empty() {
                let event = if event.is_empty() { "message" } else { event };
                seen.push((id.to_owned(), event.to_owned(), data.join("\n"), retry));
            }
            (data, event) = (Vec::new(), "");
            continue;
        }
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match name {
            "data" => data.push(value),
            "event" => event = value,
            "id" if !value.contains('\0') => id = value,
            "retry" if value.bytes().all(|b| b.is_ascii_digit()) => {
                retry = value.parse().ok().or(retry);
            }
            _ => {}
        }
    }
    seen
}

pub fn check(bytes: &[u8]) {
    let (piece, bytes) = bytes.split_first().unwrap_or((&0, &[]));
    let piece = usize::from(*piece);
    let whole = read(bytes, bytes.len());
    assert_eq!(whole, read(bytes, piece), "pieces matter");
    assert_eq!(whole.0, plainly(bytes), "the plain decoder differs");

    // An event with anything in it is one event.
    let (name, data) = crate::cut(bytes, 64);
    let data = String::from_utf8_lossy(data);
    let name = String::from_utf8_lossy(name).replace(['\r', '\n', '\0'], "");
    let frame = Frame {
        id: Some(EventId::new(piece as u64, 7).into()),
        event: &name,
        retry_ms: Some(piece as u32),
        data: &data,
    };
    let mut out = Vec::new();
    frame.write_to(&mut out);
    assert!(!out.contains(&b'\r'));
    let id = format!("{piece}-7");
    let event = if name.is_empty() { "message" } else { &name };
    let lines = data.replace("\r\n", "\n").replace('\r', "\n");
    let expected = (id.clone(), event.to_owned(), lines, Some(piece as u64));
    assert_eq!(read(&out, piece), (vec![expected], id));
}

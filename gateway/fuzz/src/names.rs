//! Event ids and what clients bring back, room names, patterns of rooms, trace contexts.

use protocol::pattern::{fits, is_pattern};
use protocol::{EventId, LastEventId, RoomName, TraceParent};

fn plain_id(text: &str) -> Option<EventId> {
    let (ms, seq) = text.split_once('-')?;
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        digits.then(|| text.parse::<u64>().ok()).flatten()
    };
    Some(EventId::new(number(ms)?, number(seq)?))
}

/// By a table: whether the first letters of the pattern fit the first letters of the room.
fn plain_fits(pattern: &[u8], room: &[u8]) -> bool {
    let mut row = vec![false; room.len() + 1];
    row[0] = true;
    for letter in pattern {
        let mut next = vec![false; room.len() + 1];
        for at in 0..=room.len() {
            next[at] = match letter {
                b'*' => row[at] || (at > 0 && next[at - 1]),
                letter => at > 0 && row[at - 1] && room[at - 1] == *letter,
            };
        }
        row = next;
    }
    row[room.len()]
}

pub fn check(bytes: &[u8]) {
    let id = EventId::parse(bytes).ok();
    assert_eq!(id, std::str::from_utf8(bytes).ok().and_then(plain_id));
    if let Some(id) = id {
        let mut out = Vec::new();
        id.write_to(&mut out);
        assert_eq!(out, id.to_string().as_bytes());
        assert_eq!(EventId::parse(&out), Ok(id));
        assert!(id.before() < id || id == EventId::ZERO);
    }
    match LastEventId::parse(bytes) {
        Ok(last) => {
            assert_eq!(LastEventId::parse(last.to_string().as_bytes()), Ok(last));
            assert!(last == last.resume().into() || bytes.contains(&b'~'));
        }
        Err(_) => assert_eq!(id, None),
    }
    if let Some(trace) = TraceParent::parse(bytes) {
        assert_eq!(
            TraceParent::parse(trace.to_string().as_bytes()),
            Some(trace)
        );
    }
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let letter = |c: char| c.is_ascii_alphanumeric() || "._~:@-".contains(c);
    let sound =
        (1..=128).contains(&text.len()) && text.chars().all(letter) && text != "." && text != "..";
    assert_eq!(RoomName::parse(text).is_ok(), sound);
    let (pattern, room) = text.split_once(' ').unwrap_or((text, text));
    assert_eq!(
        fits(pattern, room),
        plain_fits(pattern.as_bytes(), room.as_bytes())
    );
    if sound {
        assert!(is_pattern(text) && fits("*", text) && fits(text, text));
    }
    if is_pattern(pattern) {
        let one = pattern.replace('*', "x");
        assert!(fits(pattern, RoomName::parse(&one).unwrap().as_str()));
    }
}

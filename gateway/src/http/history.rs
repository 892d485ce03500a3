//! Stored events as JSON: for a first paint, and for clients that cannot stream.

use protocol::{EventId, LastEventId};
use serde_json::{Value, json};
use url::form_urlencoded;

use super::error::Failure;
use crate::hub::{History, HistoryQuery, Item};

/// Events in an answer, where `?limit=` does not say.
pub const DEFAULT_LIMIT: usize = 100;
/// The most events in an answer.
pub const MAX_LIMIT: usize = 1000;

/// Bytes of names and data in an answer, if it is not a single event that has more: an answer that nobody takes stays in
/// memory until the kernel gives the connection up.
const MAX_BYTES: usize = 1 << 20;

/// Reads `?after=ID&limit=N`. Without `after` it is the newest events.
///
/// # Errors
/// 400 for what is not an id or not a number.
pub fn query(query: &str) -> Result<HistoryQuery, Failure> {
    let (mut after, mut limit) = (None, DEFAULT_LIMIT);
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        match &*name {
            "after" if value == "earliest" => after = Some(EventId::ZERO),
            "after" => {
                let id = LastEventId::parse(value.as_bytes())
                    .map(LastEventId::resume)
                    .map_err(|error| Failure::bad(format!("after is {value:?}: {error}")))?;
                after = Some(id);
            }
            "limit" => {
                limit = value
                    .parse()
                    .ok()
                    .filter(|limit| (1..=MAX_LIMIT).contains(limit))
                    .ok_or_else(|| {
                        Failure::bad(format!("limit is {value:?}, not 1 to {MAX_LIMIT}"))
                    })?;
            }
            _ => {}
        }
    }
    Ok(match after {
        Some(after) => HistoryQuery::After { after, limit },
        None => HistoryQuery::Newest { limit },
    })
}

/// The answer, of [`MAX_BYTES`] at most: what is over is left for the next page, or of the newest events the oldest. `last_id`
/// is where to go on from: as `?after=` for the next page, or as the position of a stream.
#[must_use]
pub fn answer(history: &History, query: HistoryQuery) -> Value {
    let items = match query {
        HistoryQuery::After { .. } => {
            let fit = how_many_fit(history.items.iter());
            &history.items[..fit]
        }
        HistoryQuery::Newest { .. } => {
            let fit = how_many_fit(history.items.iter().rev());
            &history.items[history.items.len() - fit..]
        }
    };
    let events: Vec<Value> = items.iter().filter_map(event).collect();
    // Not the stream's last id: an event may have been stored between the two reads that a
    // broker needs for both.
    let last = items.last().and_then(Item::id).unwrap_or(history.last_id);
    json!({
        "events": events,
        "last_id": last.to_string(),
        "oldest_id": history.oldest.map(|id| id.to_string()),
        "more": history.more || items.len() < history.items.len(),
    })
}

/// One at least.
fn how_many_fit<'a>(items: impl Iterator<Item = &'a Item>) -> usize {
    let mut bytes = 0;
    let fit = items.take_while(|item| {
        let is_first = bytes == 0;
        if let Item::Event(event) = item {
            bytes += event.name.len() + event.data.len() + 1;
        }
        is_first || bytes <= MAX_BYTES
    });
    fit.count()
}

fn event(item: &Item) -> Option<Value> {
    let Item::Event(event) = item else {
        return None;
    };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let mut value = json!({ "id": event.id?.to_string(), "data": text(&event.data) });
    if !event.name.is_empty() {
        value["event"] = Value::String(text(&event.name));
    }
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::Event;

    #[test]
    fn reads_the_query() {
        let newest = |limit| HistoryQuery::Newest { limit };
        let after = |after, limit| HistoryQuery::After { after, limit };
        assert_eq!(query("").unwrap(), newest(DEFAULT_LIMIT));
        assert_eq!(query("limit=5&x=y").unwrap(), newest(5));
        assert_eq!(
            query("after=1-0&limit=1000").unwrap(),
            after(EventId::new(1, 0), 1000)
        );
        assert_eq!(
            query("after=1-0~2-0~000000ff").unwrap(),
            after(EventId::new(1, 0), DEFAULT_LIMIT)
        );
        assert_eq!(
            query("after=earliest").unwrap(),
            after(EventId::ZERO, DEFAULT_LIMIT)
        );
        for bad in [
            "after=",
            "after=1",
            "after=x-y",
            "limit=0",
            "limit=1001",
            "limit=-1",
            "limit=",
        ] {
            assert_eq!(query(bad).unwrap_err().status, 400, "{bad}");
        }
    }

    #[test]
    fn skipped_entries_move_the_position_only() {
        let stored = Event {
            id: Some(EventId::new(1, 0)),
            prev: None,
            name: "chat".into(),
            data: "hi".into(),
            trace: None,
        };
        let history = History {
            items: vec![Item::Event(stored), Item::Skipped(EventId::new(2, 0))],
            last_id: EventId::new(9, 0),
            oldest: Some(EventId::new(1, 0)),
            more: true,
            ..History::default()
        };
        let expected = json!({
            "events": [{"id": "1-0", "event": "chat", "data": "hi"}],
            "last_id": "2-0", "oldest_id": "1-0", "more": true,
        });
        let newest = HistoryQuery::Newest { limit: 2 };
        assert_eq!(answer(&history, newest), expected);
        let nothing = answer(&History::default(), newest);
        assert_eq!(
            nothing,
            json!({"events": [], "last_id": "0-0", "oldest_id": null, "more": false})
        );
    }

    #[test]
    fn an_answer_has_so_many_bytes_and_what_is_over_is_told() {
        let of = |id: u64, bytes: usize| {
            Item::Event(Event {
                id: Some(EventId::new(id, 0)),
                data: "x".repeat(bytes).into(),
                ..Event::default()
            })
        };
        let history = |sizes: [usize; 3]| History {
            items: (1..).zip(sizes).map(|(id, bytes)| of(id, bytes)).collect(),
            ..History::default()
        };
        let ids = |sizes, query| {
            let answer = answer(&history(sizes), query);
            let events = answer["events"].as_array().unwrap().iter();
            let ids: Vec<_> = events.map(|event| event["id"].clone()).collect();
            (ids, answer["last_id"].clone(), answer["more"] == true)
        };
        let after = HistoryQuery::After {
            after: EventId::ZERO,
            limit: 3,
        };
        let newest = HistoryQuery::Newest { limit: 3 };
        let half = MAX_BYTES / 2;
        let all = vec![json!("1-0"), json!("2-0"), json!("3-0")];
        assert_eq!(ids([1, half, 1], after), (all, json!("3-0"), false));
        let two = vec![json!("1-0"), json!("2-0")];
        assert_eq!(ids([1, half, half], after), (two, json!("2-0"), true));
        let two = vec![json!("2-0"), json!("3-0")];
        assert_eq!(ids([half, half, 1], newest), (two, json!("3-0"), true));
        let large = 2 * MAX_BYTES;
        let one = |id| (vec![json!(id)], json!(id), true);
        assert_eq!(ids([large, 1, 1], after), one("1-0"));
        assert_eq!(ids([1, 1, large], newest), one("3-0"));
    }
}

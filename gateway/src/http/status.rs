//! What is known of one room.

use protocol::RoomName;
use serde_json::{Map, Value, json};

use crate::broker::RoomInfo;
use crate::config::format_duration;

/// The body of `GET /rooms/{room}`.
#[must_use]
pub fn answer(room: &RoomName, node: &str, subscribers: usize, info: &RoomInfo) -> Value {
    let id = |id: Option<protocol::EventId>| id.map(|id| id.to_string());
    let skipped: Map<String, Value> = info
        .skipped
        .iter()
        .map(|(reason, count)| (reason.clone(), Value::from(*count)))
        .collect();
    let kept = info.retention;
    json!({
        "room": room.as_str(),
        "node": node,
        "subscribers": subscribers,
        "nodes": info.nodes,
        "last_id": id(info.last_id),
        "oldest_id": id(info.oldest_id),
        "length": info.length,
        "skipped": skipped,
        "retention": {
            "max_len": kept.max_len,
            "max_age": format_duration(kept.max_age),
            "expire": format_duration(kept.expire),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_what_was_skipped() {
        let info = RoomInfo {
            nodes: 2,
            skipped: vec![("reserved".into(), 3)],
            ..RoomInfo::default()
        };
        let answer = answer(&RoomName::parse("demo").unwrap(), "n1", 7, &info);
        let expected = json!({
            "room": "demo", "node": "n1", "subscribers": 7, "nodes": 2, "last_id": null,
            "oldest_id": null, "length": 0, "skipped": {"reserved": 3},
            "retention": {"max_len": 0, "max_age": "0s", "expire": "0s"},
        });
        assert_eq!(answer, expected);
    }
}

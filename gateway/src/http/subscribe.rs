//! What a subscriber asks for: where to begin, and how to be kept informed.

use http::{HeaderMap, HeaderValue, header};
use protocol::LastEventId;
use url::form_urlencoded;

use crate::hub::Position;

/// Names under which clients send their position in the query.
const POSITION_NAMES: [&str; 5] = [
    "lastEventId",
    "lastEventID",
    "last_event_id",
    "Last-Event-ID",
    "evs_last_event_id",
];
/// The most events that `?recent=` goes back.
pub const MAX_RECENT: usize = 1000;
/// As much of a malformed position as is told back.
const MAX_PRESENTED: usize = 128;

/// What the query and the headers of a stream request say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    /// Where to begin.
    pub position: Position,
    /// `?heartbeat=event`.
    pub heartbeat_events: bool,
    /// `?padding=true`.
    pub padding: bool,
}

impl Wish {
    /// Reads it. Never fails: any answer but 200 would stop a browser for good, so a position that
    /// cannot be read is told in the stream.
    #[must_use]
    pub fn read(headers: &HeaderMap, query: &str) -> Self {
        let mut wish = Self {
            position: Position::New,
            heartbeat_events: false,
            padding: false,
        };
        let (mut presented, mut recent) = (None, None);
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            match &*name {
                "heartbeat" => wish.heartbeat_events = value == "event",
                "padding" => wish.padding = value == "true",
                "recent" if recent.is_none() => recent = Some(value),
                name if presented.is_none()
                    && !value.is_empty()
                    && POSITION_NAMES.contains(&name) =>
                {
                    presented = Some(value);
                }
                _ => {}
            }
        }
        // The header wins: when a browser reconnects, it repeats the URL of its first request.
        let header = headers
            .get("last-event-id")
            .map(HeaderValue::as_bytes)
            .filter(|id| !id.is_empty());
        wish.position = match (header, presented, recent) {
            (Some(id), _, _) => position(id),
            (None, Some(id), _) => position(id.as_bytes()),
            (None, None, Some(recent)) => match recent.parse::<usize>() {
                Ok(recent) => Position::Recent(recent.min(MAX_RECENT)),
                Err(_) => malformed(format!("recent={recent}").as_bytes()),
            },
            (None, None, None) => Position::New,
        };
        wish
    }
}

fn position(text: &[u8]) -> Position {
    match text {
        b"earliest" => Position::Earliest,
        _ => match LastEventId::parse(text) {
            Ok(LastEventId::Event(id)) => Position::After(id),
            Ok(LastEventId::Fork(fork)) => Position::Fork(fork),
            Err(_) => malformed(text),
        },
    }
}

fn malformed(text: &[u8]) -> Position {
    Position::Malformed(
        String::from_utf8_lossy(text)
            .chars()
            .take(MAX_PRESENTED)
            .collect(),
    )
}

/// How an `Accept` header chooses between a stream and JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accept {
    /// `text/event-stream` is named.
    Stream,
    /// `application/json` is named, and no stream.
    Json,
    /// Neither.
    Any,
}

impl Accept {
    /// Reads all `Accept` headers.
    #[must_use]
    pub fn read(headers: &HeaderMap) -> Self {
        let mut accept = Self::Any;
        for value in headers.get_all(header::ACCEPT) {
            for range in value.as_bytes().split(|b| *b == b',') {
                let kind = range
                    .split(|b| *b == b';')
                    .next()
                    .unwrap_or_default()
                    .trim_ascii();
                if kind.eq_ignore_ascii_case(b"text/event-stream") {
                    return Self::Stream;
                }
                if kind.eq_ignore_ascii_case(b"application/json") {
                    accept = Self::Json;
                }
            }
        }
        accept
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::{EventId, ForkId};

    fn position_of(header: Option<&'static str>, query: &str) -> Position {
        let mut headers = HeaderMap::new();
        if let Some(id) = header {
            headers.insert("last-event-id", HeaderValue::from_static(id));
        }
        Wish::read(&headers, query).position
    }

    #[test]
    fn the_header_wins_over_every_query_name() {
        let one = Position::After(EventId::new(1, 0));
        assert_eq!(position_of(Some("1-0"), "lastEventId=2-0"), one);
        for name in POSITION_NAMES {
            assert_eq!(position_of(None, &format!("x=y&{name}=1-0")), one, "{name}");
            assert_eq!(
                position_of(None, &format!("{name}=")),
                Position::New,
                "{name}"
            );
        }
    }

    #[test]
    fn reads_where_to_begin() {
        assert_eq!(position_of(None, ""), Position::New);
        assert_eq!(
            position_of(None, "lastEventId=earliest"),
            Position::Earliest
        );
        assert_eq!(
            position_of(None, "lastEventId=0-0"),
            Position::After(EventId::ZERO)
        );
        assert_eq!(position_of(None, "recent=20"), Position::Recent(20));
        assert_eq!(
            position_of(None, "recent=99999999"),
            Position::Recent(MAX_RECENT)
        );
        let fork = ForkId {
            resume: EventId::new(1, 0),
            seen: EventId::new(2, 3),
            mark: 0xff,
        };
        assert_eq!(
            position_of(Some("1-0~2-3~000000ff"), ""),
            Position::Fork(fork)
        );
        assert_eq!(
            position_of(None, "recent=5&lastEventId=1-0"),
            Position::After(EventId::new(1, 0))
        );
        assert_eq!(
            position_of(Some("42"), ""),
            Position::Malformed("42".into())
        );
        assert_eq!(
            position_of(None, "recent=-1"),
            Position::Malformed("recent=-1".into())
        );
        let long = "x".repeat(1000);
        assert_eq!(
            position_of(None, &format!("lastEventId={long}")),
            Position::Malformed("x".repeat(MAX_PRESENTED))
        );
    }

    #[test]
    fn reads_the_switches() {
        let wish = Wish::read(&HeaderMap::new(), "padding=true&heartbeat=event");
        assert!(wish.padding && wish.heartbeat_events);
        let wish = Wish::read(&HeaderMap::new(), "padding=1&heartbeat=comment");
        assert!(!wish.padding && !wish.heartbeat_events);
    }

    #[test]
    fn accept_chooses() {
        for (text, accept) in [
            ("*/*", Accept::Any),
            ("application/json", Accept::Json),
            ("application/json, text/event-stream", Accept::Stream),
            ("text/event-stream;q=0.9", Accept::Stream),
            ("text/html, Application/JSON; q=1", Accept::Json),
        ] {
            let headers = [(header::ACCEPT, HeaderValue::from_static(text))]
                .into_iter()
                .collect();
            assert_eq!(Accept::read(&headers), accept, "{text}");
        }
        assert_eq!(Accept::read(&HeaderMap::new()), Accept::Any);
    }
}

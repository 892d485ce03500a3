//! What the backend is asked. Every request is a `GET` of `forward.url` with these headers:
//!
//! | header | value |
//! |---|---|
//! | `X-Sse-Room` | the room, decoded: the characters that a room may have are safe in a header |
//! | `X-Sse-Action` | `subscribe` or `publish` |
//! | `X-Forwarded-For` | the client's address: behind trusted proxies the one that they name |
//! | `Cookie`, `Authorization`, `Origin` | as the client sent them; several lines of `Cookie` as one (RFC 9113, section 8.2.3) |
//!
//! Nothing else of the client's request is sent: a header that differs from request to request, or a query with the last
//! event's id, would make each question a new one.

use aws_lc_rs::digest::{Context, SHA256, SHA256_OUTPUT_LEN};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Uri, header};
use http_body_util::Empty;

use crate::auth::{Asked, Refusal, RefusalKind};

const ROOM: HeaderName = HeaderName::from_static("x-sse-room");
const ACTION: HeaderName = HeaderName::from_static("x-sse-action");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const USER_AGENT: &str = concat!("sse-gateway/", env!("CARGO_PKG_VERSION"));

/// Of all that is sent: equal only where the backend cannot tell two clients apart.
pub(super) type Digest = [u8; SHA256_OUTPUT_LEN];

/// A question, ready to be sent. Has no `Debug`: it holds secrets.
pub(super) struct Question {
    pub(super) key: Digest,
    headers: HeaderMap,
}

impl Question {
    /// # Errors
    /// The request shows two `Authorization` headers: the backend and whoever stands in between could each take another one.
    pub(super) fn of(asked: &Asked<'_>) -> Result<Self, Refusal> {
        let mut headers = HeaderMap::with_capacity(8);
        if let Ok(room) = HeaderValue::from_str(asked.room.as_str()) {
            headers.insert(ROOM, room);
        }
        headers.insert(ACTION, HeaderValue::from_static(asked.action.label()));
        let address = asked.client.map(|client| client.to_canonical().to_string());
        if let Some(Ok(address)) = address.map(HeaderValue::try_from) {
            headers.insert(X_FORWARDED_FOR, address);
        }
        for name in [header::AUTHORIZATION, header::ORIGIN] {
            let mut lines = asked.headers.get_all(&name).iter();
            if let Some(line) = lines.next() {
                headers.insert(&name, line.clone());
            }
            if lines.next().is_some() {
                let sentence = format!("the request has {name} twice: send one");
                return Err(Refusal::new(RefusalKind::Invalid, "ambiguous", sentence));
            }
        }
        let cookies = asked.headers.get_all(header::COOKIE).iter();
        let cookies: Vec<&[u8]> = cookies.map(HeaderValue::as_bytes).collect();
        if let Ok(cookies) = HeaderValue::from_bytes(&cookies.join(&b"; "[..]))
            && !cookies.is_empty()
        {
            headers.insert(header::COOKIE, cookies);
        }
        let key = digest(&headers);
        for name in [header::AUTHORIZATION, header::COOKIE] {
            if let Some(value) = headers.get_mut(name) {
                value.set_sensitive(true);
            }
        }
        headers.insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
        Ok(Self { key, headers })
    }

    /// Asks there.
    pub(super) fn request(&self, url: &Uri) -> Request<Empty<Bytes>> {
        let mut request = Request::new(Empty::new());
        *request.uri_mut() = url.clone();
        *request.headers_mut() = self.headers.clone();
        request
    }
}

/// Lengths go in too, so that no value passes for another header.
fn digest(headers: &HeaderMap) -> Digest {
    let mut context = Context::new(&SHA256);
    // In this order, whatever the map's is.
    for name in [
        ROOM,
        ACTION,
        X_FORWARDED_FOR,
        header::AUTHORIZATION,
        header::ORIGIN,
        header::COOKIE,
    ] {
        let value = headers.get(name).map(HeaderValue::as_bytes);
        let length = value.map_or(u64::MAX, |value| value.len() as u64);
        context.update(&length.to_be_bytes());
        context.update(value.unwrap_or_default());
    }
    let mut key = Digest::default();
    key.copy_from_slice(context.finish().as_ref());
    key
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use protocol::RoomName;

    use super::*;
    use crate::auth::Action;

    fn question(
        room: &str,
        action: Action,
        client: Option<&str>,
        lines: &[(&'static str, &'static str)],
    ) -> Result<Question, Refusal> {
        let headers = lines.iter().map(|(name, value)| {
            let name = HeaderName::from_static(name);
            (name, HeaderValue::from_static(value))
        });
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(name, value);
        }
        Question::of(&Asked {
            action,
            room: &RoomName::parse(room).unwrap(),
            headers: &map,
            query: "",
            client: client.map(|client| client.parse().unwrap()),
            certified: false,
        })
    }

    #[test]
    fn the_backend_gets_what_it_may_decide_by_and_nothing_else() {
        let lines = [
            ("cookie", "a=1"),
            ("cookie", "b=2"),
            ("authorization", "Bearer x"),
            ("origin", "https://app.example"),
            ("x-forwarded-for", "192.0.2.9"),
            ("last-event-id", "1-0"),
            ("host", "gate.example"),
        ];
        let asked = question("a:b~", Action::Publish, Some("::ffff:192.0.2.1"), &lines);
        let request = asked
            .unwrap()
            .request(&Uri::from_static("http://backend:8000/may?k=v"));
        assert_eq!(
            (request.method().as_str(), request.uri().query()),
            ("GET", Some("k=v"))
        );
        let mut sent: Vec<_> = request
            .headers()
            .iter()
            .map(|(name, value)| (name.as_str(), value.to_str().unwrap()))
            .collect();
        sent.sort_unstable();
        assert_eq!(
            sent,
            [
                ("authorization", "Bearer x"),
                ("cookie", "a=1; b=2"),
                ("origin", "https://app.example"),
                ("user-agent", USER_AGENT),
                ("x-forwarded-for", "192.0.2.1"),
                ("x-sse-action", "publish"),
                ("x-sse-room", "a:b~"),
            ]
        );
        assert!(!format!("{request:?}").contains("Bearer x"));
    }

    #[test]
    fn whoever_can_be_told_apart_has_a_key_of_its_own() {
        use Action::{Publish, Subscribe};
        let client = Some("192.0.2.1");
        let keys = [
            question("a", Subscribe, client, &[]),
            question("b", Subscribe, client, &[]),
            question("a", Publish, client, &[]),
            question("a", Subscribe, Some("192.0.2.2"), &[]),
            question("a", Subscribe, None, &[]),
            question("a", Subscribe, client, &[("cookie", "x")]),
            question("a", Subscribe, client, &[("authorization", "x")]),
            question("a", Subscribe, client, &[("origin", "x")]),
            question("a", Subscribe, client, &[("cookie", "y")]),
            question(
                "a",
                Subscribe,
                client,
                &[("authorization", "x"), ("cookie", "x")],
            ),
        ]
        .map(|question| question.unwrap().key);
        assert_eq!(keys.iter().collect::<HashSet<_>>().len(), keys.len());
        // What the backend does not get makes no difference.
        let same = question(
            "a",
            Subscribe,
            client,
            &[("last-event-id", "1-0"), ("cookie", "x")],
        );
        assert_eq!(same.unwrap().key, keys[5]);
        let empty = question("a", Subscribe, client, &[("cookie", "")]);
        assert_eq!(empty.unwrap().key, keys[0]);
    }

    #[test]
    fn two_authorizations_are_refused() {
        let lines = [("authorization", "Bearer a"), ("authorization", "Bearer b")];
        let refusal = question("a", Action::Subscribe, None, &lines)
            .err()
            .unwrap();
        assert_eq!(
            (refusal.kind, refusal.label),
            (RefusalKind::Invalid, "ambiguous")
        );
    }
}

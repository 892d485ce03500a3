//! The head of an event stream. From here on the socket is the hub's, so hyper's duties (`Date`,
//! framing, HTTP/1.0) are done here.

use std::io::Write;
use std::net::IpAddr;
use std::time::SystemTime;

use http::{HeaderMap, HeaderValue, Response, Version, header};
use opentelemetry::Context;
use protocol::RoomName;

use super::body::Answer;
use super::cors::Caller;
use super::subscribe::Wish;
use crate::hub::{Framing, Limit, Position, Terms};

/// Size of the comment that `?padding=true` asks for, its line end included.
const PADDING_BYTES: usize = 2048;

/// A stream request that was understood: everything the hub needs beside the socket.
#[derive(Debug)]
pub struct Opening {
    /// The room.
    pub room: RoomName,
    /// Where to begin.
    pub position: Position,
    /// Of everything after the head.
    pub framing: Framing,
    /// Heartbeats as events.
    pub heartbeat_events: bool,
    /// Over HTTP/2: the headers of the answer. Empty where they are part of the next.
    pub headers: HeaderMap,
    /// The bytes that go first.
    pub head: Vec<u8>,
    /// Why it is not let in.
    pub refused: Option<Limit>,
    /// The span of the request, where it is recorded.
    pub trace: Option<Context>,
    /// Streams that its client's address may have; 0 for no limit.
    pub per_address: usize,
    /// Who asks: see [`super::peer::Peer::client`].
    pub client: Option<IpAddr>,
    /// On what terms it is let in.
    pub terms: Terms,
}

impl Opening {
    /// Prepares the answer.
    #[must_use]
    pub fn new(room: RoomName, wish: Wish, version: Version, caller: &Caller) -> Self {
        let framing = match version {
            Version::HTTP_10 | Version::HTTP_2 => Framing::Identity,
            _ => Framing::Chunked,
        };
        let (mut head, mut headers) = (Vec::new(), HeaderMap::new());
        if version == Version::HTTP_2 {
            let mut response = head_only();
            caller.allow(&mut response);
            headers = std::mem::take(response.headers_mut());
        } else {
            head = self::head(framing, caller, SystemTime::now());
        }
        if wish.padding {
            pad(&mut head, framing);
        }
        Self {
            room,
            position: wish.position,
            framing,
            heartbeat_events: wish.heartbeat_events,
            headers,
            head,
            refused: None,
            trace: None,
            per_address: 0,
            client: None,
            terms: Terms::default(),
        }
    }
}

/// The answer to `HEAD`: the same head, and the end.
#[must_use]
pub fn head_only() -> Response<Answer> {
    let mut response = Response::new(Answer::NoLength);
    fixed(response.headers_mut());
    response
}

fn fixed(headers: &mut HeaderMap) {
    for (name, value) in [
        (header::CONTENT_TYPE, "text/event-stream; charset=utf-8"),
        (header::CACHE_CONTROL, "no-store, no-transform"),
        (header::VARY, "Accept-Encoding, Origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
}

fn head(framing: Framing, caller: &Caller, now: SystemTime) -> Vec<u8> {
    let (version, ending) = match framing {
        Framing::Chunked => ("HTTP/1.1", "Transfer-Encoding: chunked"),
        Framing::Identity => ("HTTP/1.0", "Connection: close"),
    };
    let mut head = Vec::with_capacity(512);
    let date = httpdate::fmt_http_date(now);
    // Writing into a vector cannot fail.
    let _ = write!(
        head,
        "{version} 200 OK\r\n\
         Date: {date}\r\n\
         Content-Type: text/event-stream; charset=utf-8\r\n\
         Cache-Control: no-store, no-transform\r\n\
         X-Accel-Buffering: no\r\n\
         Vary: Accept-Encoding, Origin\r\n\
         {ending}\r\n"
    );
    if let Some(origin) = caller.origin() {
        head.extend_from_slice(b"Access-Control-Allow-Origin: ");
        head.extend_from_slice(origin.as_bytes());
        head.extend_from_slice(b"\r\n");
        if !caller.is_anonymous() {
            head.extend_from_slice(b"Access-Control-Allow-Credentials: true\r\n");
        }
    }
    head.extend_from_slice(b"\r\n");
    head
}

/// A long comment, for polyfills and middleboxes that hold back the first bytes.
fn pad(head: &mut Vec<u8>, framing: Framing) {
    if framing == Framing::Chunked {
        let _ = write!(head, "{PADDING_BYTES:X}\r\n");
    }
    head.push(b':');
    head.resize(head.len() + PADDING_BYTES - 2, b' ');
    head.push(b'\n');
    if framing == Framing::Chunked {
        head.extend_from_slice(b"\r\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opening(query: &str, version: Version, caller: &Caller) -> String {
        let wish = Wish::read(&HeaderMap::new(), query);
        let room = RoomName::parse("demo").unwrap();
        String::from_utf8(Opening::new(room, wish, version, caller).head).unwrap()
    }

    #[test]
    fn the_head_is_exact() {
        let date = SystemTime::UNIX_EPOCH;
        let page = Caller::Page(HeaderValue::from_static("https://app.example"));
        assert_eq!(
            String::from_utf8(head(Framing::Chunked, &page, date)).unwrap(),
            "HTTP/1.1 200 OK\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\n\
             Content-Type: text/event-stream; charset=utf-8\r\nCache-Control: no-store, no-transform\r\n\
             X-Accel-Buffering: no\r\nVary: Accept-Encoding, Origin\r\nTransfer-Encoding: chunked\r\n\
             Access-Control-Allow-Origin: https://app.example\r\nAccess-Control-Allow-Credentials: true\r\n\r\n"
        );
    }

    #[test]
    fn an_old_client_gets_a_body_that_ends_with_the_connection() {
        let text = opening("", Version::HTTP_10, &Caller::Direct);
        assert!(text.starts_with("HTTP/1.0 200 OK\r\n"), "{text}");
        assert!(
            text.contains("\r\nConnection: close\r\n") && !text.contains("chunked"),
            "{text}"
        );
    }

    #[test]
    fn over_http2_the_head_is_headers() {
        let wish = Wish::read(&HeaderMap::new(), "padding=true");
        let room = RoomName::parse("demo").unwrap();
        let page = Caller::Page(HeaderValue::from_static("https://app.example"));
        let opening = Opening::new(room, wish, Version::HTTP_2, &page);
        let old = head(Framing::Identity, &page, SystemTime::now());
        let old = String::from_utf8(old).unwrap().to_ascii_lowercase();
        for (name, value) in &opening.headers {
            let line = format!(
                "\r\n{name}: {}\r\n",
                value.to_str().unwrap().to_ascii_lowercase()
            );
            assert!(old.contains(&line), "{line}");
        }
        // All but those that HTTP/2 has not (RFC 9113, section 8.2.2), and the date, which hyper adds.
        assert_eq!(opening.headers.len() + 2, old.matches("\r\n").count() - 2);
        assert_eq!(opening.head.len(), PADDING_BYTES);
    }

    #[test]
    fn padding_is_a_comment_line_of_two_kibibytes() {
        let text = opening("padding=true", Version::HTTP_11, &Caller::Direct);
        let body = text.split_once("\r\n\r\n").unwrap().1;
        let comment = body
            .strip_prefix("800\r\n:")
            .unwrap()
            .strip_suffix("\n\r\n")
            .unwrap();
        assert_eq!((comment.len(), comment.trim()), (2046, ""));
        let text = opening("padding=true", Version::HTTP_10, &Caller::Direct);
        assert_eq!(text.split_once("\r\n\r\n").unwrap().1.len(), 2048);
    }

    #[test]
    fn head_has_the_same_headers() {
        let response = head_only();
        let text = opening("", Version::HTTP_11, &Caller::Direct).to_ascii_lowercase();
        for (name, value) in response.headers() {
            let line = format!(
                "{name}: {}\r\n",
                value.to_str().unwrap().to_ascii_lowercase()
            );
            assert!(text.contains(&line), "{line}");
        }
    }
}

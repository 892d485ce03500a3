//! Publishing over HTTP: what a request body means.

use std::net::IpAddr;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Body;
use protocol::trace::TRACEPARENT;
use protocol::{TraceParent, event};

use super::error::Failure;
use crate::auth::{By, Grant};
use crate::broker::{NewEvent, Wait};
use crate::hub::Household;

mod envelope;
mod options;

use envelope::Envelope;
pub use options::{Options, answer};

/// The most bytes of an idempotency key.
const MAX_KEY_BYTES: usize = 256;
/// JSON writes a byte as six at worst (`\u0041`); the rest is for the envelope itself.
const ENVELOPE_FACTOR: usize = 6;
const ENVELOPE_EXTRA: usize = 4096;

/// How much may be published at a time.
#[derive(Debug, Clone, Default)]
pub struct PublishRules {
    /// Largest data of an event.
    pub max_bytes: usize,
    /// How long an answer waits for replicas, where a request does not say; no replicas is not at all.
    pub wait: Wait,
}

/// Reads the event out of a request that may publish.
///
/// # Errors
/// 400, 408 or 413, naming what is wrong.
pub async fn read_event<B>(
    headers: &HeaderMap,
    body: B,
    max_bytes: usize,
    patience: Duration,
) -> Result<NewEvent, Failure>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let idempotency_key = idempotency_key(headers)?;
    let kind = Kind::read(headers);
    let cap = match kind {
        Kind::Data => max_bytes,
        Kind::Json | Kind::Form => max_bytes
            .saturating_mul(ENVELOPE_FACTOR)
            .saturating_add(ENVELOPE_EXTRA),
    };
    let bytes = read_body(body, cap, patience)
        .await
        .map_err(|failure| match failure.status {
            StatusCode::PAYLOAD_TOO_LARGE => Failure::too_large(max_bytes),
            _ => failure,
        })?;
    let envelope = match kind {
        Kind::Json => true,
        // What `curl -d` sends without being told otherwise.
        Kind::Form => bytes.trim_ascii_start().starts_with(b"{"),
        Kind::Data => false,
    };
    let mut new = if envelope {
        let Envelope {
            name,
            data,
            ephemeral,
        } = Envelope::read(&bytes).map_err(Failure::bad)?;
        NewEvent {
            name: name.into(),
            data: data.into(),
            ephemeral,
            ..NewEvent::default()
        }
    } else {
        NewEvent {
            data: bytes,
            ..NewEvent::default()
        }
    };
    event::check(&new.name, &new.data, max_bytes)?;
    new.idempotency_key = idempotency_key;
    new.trace = traceparent(headers);
    Ok(new)
}

/// Reads a whole body of at most `cap` bytes, within `patience`.
///
/// # Errors
/// 400, 408 or 413.
pub async fn read_body<B>(body: B, cap: usize, patience: Duration) -> Result<Bytes, Failure>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let promised = body.size_hint().lower();
    if promised > cap as u64 {
        return Err(Failure::too_large(cap));
    }
    let whole = std::pin::pin!(Limited::new(body, cap).collect());
    match tokio::time::timeout(patience, whole).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(Failure::too_large(cap)),
        Ok(Err(_)) => Err(Failure::bad(
            "the request body ended before its announced length",
        )),
        Err(_) => Err(Failure::new(
            StatusCode::REQUEST_TIMEOUT,
            "the request body did not arrive in time",
        )),
    }
}

/// What the content type says of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Json,
    Form,
    Data,
}

impl Kind {
    fn read(headers: &HeaderMap) -> Self {
        let value = headers
            .get(header::CONTENT_TYPE)
            .map(HeaderValue::as_bytes)
            .unwrap_or_default();
        let kind = value
            .split(|b| *b == b';')
            .next()
            .unwrap_or_default()
            .trim_ascii()
            .to_ascii_lowercase();
        match kind.as_slice() {
            b"application/json" | b"text/json" => Self::Json,
            b"application/x-www-form-urlencoded" => Self::Form,
            kind if kind.ends_with(b"+json") => Self::Json,
            _ => Self::Data,
        }
    }
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Failure> {
    let Some(value) = headers.get("idempotency-key") else {
        return Ok(None);
    };
    match value.to_str() {
        Ok(key) if (1..=MAX_KEY_BYTES).contains(&key.len()) => Ok(Some(key.to_owned())),
        _ => Err(Failure::bad(format!(
            "Idempotency-Key is not 1 to {MAX_KEY_BYTES} printable ASCII characters"
        ))),
    }
}

/// Makes an idempotency key its publisher's own: a visitor who guesses another's must not take its place. Publishers with a key
/// are one backend and share theirs, also with those who publish through Redis; so is everybody in development mode. Of others
/// a digest stands for user and key, or for client address and key where there is no user: as long as a key may be, the same on
/// all nodes, and without the user's name in Redis.
pub fn own_key(key: &str, grant: &Grant, client: Option<IpAddr>) -> String {
    if matches!(grant.by, By::Key | By::Development) {
        return key.to_owned();
    }
    let mut whose = match (&grant.terms.user, client) {
        (Some(user), _) => [b"u", user.as_bytes()].concat(),
        (None, Some(client)) => [&b"a"[..], Household::from(client).as_bytes()].concat(),
        (None, None) => b"n".to_vec(),
    };
    // The length tells where the name ends.
    whose.extend(whose.len().to_be_bytes());
    whose.extend(key.as_bytes());
    let digest = digest(&SHA256, &whose);
    let digits = digest.as_ref().iter().map(|byte| format!("{byte:02x}"));
    format!("visitor-{}", digits.collect::<String>())
}

/// The trace that the request belongs to, where it names one.
pub fn traceparent(headers: &HeaderMap) -> Option<TraceParent> {
    TraceParent::parse(headers.get(TRACEPARENT)?.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(kind: Option<&'static str>, body: &'static [u8]) -> Result<NewEvent, Failure> {
        let mut headers = HeaderMap::new();
        if let Some(kind) = kind {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        }
        read_event(
            &headers,
            http_body_util::Full::new(Bytes::from_static(body)),
            16,
            Duration::from_secs(30),
        )
        .await
    }

    #[tokio::test]
    async fn content_types_decide_what_a_body_is() {
        let json = br#"{"event":"chat","data":{"b": 1.50, "a": "x \" y"}}"#;
        for kind in [
            "application/json; charset=utf-8",
            "application/x-www-form-urlencoded",
            "application/cloudevents+json",
        ] {
            let failure = read(Some(kind), json).await.unwrap_err();
            assert_eq!(failure.status, 413, "{failure}");
        }
        let short = br#" {"event":"chat","data":{"b": 1.5, "a":[]}}"#;
        let event = read(Some("application/x-www-form-urlencoded"), short)
            .await
            .unwrap();
        assert_eq!(
            (&event.name[..], &event.data[..]),
            (&b"chat"[..], &br#"{"b":1.5,"a":[]}"#[..])
        );
    }

    #[tokio::test]
    async fn anything_else_is_the_data() {
        for kind in [
            None,
            Some("text/plain"),
            Some("application/x-www-form-urlencoded"),
        ] {
            let event = read(kind, b"a=b&c").await.unwrap();
            assert_eq!(
                (&event.name[..], &event.data[..]),
                (&b""[..], &b"a=b&c"[..])
            );
        }
        assert_eq!(
            &read(Some("text/plain"), b"{\"data\":1}")
                .await
                .unwrap()
                .data[..],
            b"{\"data\":1}"
        );
    }

    #[tokio::test]
    async fn bad_bodies_are_named() {
        let json = Some("application/json");
        for (kind, body, status, word) in [
            (
                json,
                &br#"{"event":"a","data":"b","id":"1-0"}"#[..],
                400,
                "`id`",
            ),
            (json, br#"{"event":"a"}"#, 400, "`data`"),
            (json, br#"{"data":"#, 400, "EOF"),
            (json, br#"[1]"#, 400, "not an object"),
            (
                json,
                br#"{"event":"stream.open","data":""}"#,
                400,
                "stream.",
            ),
            (json, br#"{"event":"a\nb","data":""}"#, 400, "CR, LF"),
            (json, b"{\"data\":\"\xff\"}", 400, "UTF-8"),
            (None, b"\xff", 400, "UTF-8"),
            (None, b"seventeen bytes!!", 413, "16 bytes"),
        ] {
            let failure = read(kind, body).await.unwrap_err();
            assert_eq!(failure.status.as_u16(), status, "{failure}");
            assert!(failure.sentence.contains(word), "{failure}");
        }
    }

    #[tokio::test]
    async fn data_of_any_type_is_text() {
        for (body, data) in [
            (&br#"{"data":"a\u0041\n"}"#[..], "aA\n"),
            (br#"{"data":12345678901234567890123}"#, ""),
            (br#"{"data": [1,  "a b", null] }"#, "[1,\"a b\",null]"),
            (br#"{"data":null}"#, "null"),
        ] {
            match read(Some("application/json"), body).await {
                Ok(event) => assert_eq!(&event.data[..], data.as_bytes()),
                Err(failure) => assert_eq!((failure.status.as_u16(), data), (413, "")),
            }
        }
        let event = read(
            Some("application/json"),
            br#"{"data":"x","ephemeral":true}"#,
        )
        .await
        .unwrap();
        assert!(event.ephemeral);
    }

    #[test]
    fn an_idempotency_key_is_its_publishers_own() {
        let grant = |by, user: &str| {
            let mut grant = Grant::open(by);
            grant.terms.user = Some(user.into()).filter(|_| !user.is_empty());
            grant
        };
        let [one, same, two] =
            ["2001:db8::1", "2001:db8::2", "192.0.2.1"].map(|text| text.parse::<IpAddr>().ok());
        for by in [By::Key, By::Development] {
            assert_eq!(own_key("k", &Grant::open(by), one), "k");
        }
        let own = |user, client| own_key("k", &grant(By::Token, user), client);
        assert_eq!(own("ann", one), own("ann", two));
        assert_eq!(own("", one), own("", same));
        let all = [
            own("ann", one),
            own("bob", one),
            own("", one),
            own("", two),
            own("", None),
        ];
        let all: std::collections::HashSet<_> = all.into_iter().collect();
        assert_eq!(all.len(), 5);
        assert!(
            all.iter()
                .all(|key| key.len() <= MAX_KEY_BYTES && key != "k")
        );
        assert_ne!(
            own_key("bk", &grant(By::Token, "a"), None),
            own_key("k", &grant(By::Token, "ab"), None)
        );
    }

    #[test]
    fn keys_and_traces_have_a_shape() {
        let with = |name: &'static str, value: &str| {
            [(
                http::HeaderName::from_static(name),
                HeaderValue::from_str(value).unwrap(),
            )]
            .into_iter()
            .collect::<HeaderMap>()
        };
        assert_eq!(
            idempotency_key(&with("idempotency-key", "a b"))
                .unwrap()
                .as_deref(),
            Some("a b")
        );
        assert!(idempotency_key(&with("idempotency-key", "")).is_err());
        assert!(idempotency_key(&with("idempotency-key", &"x".repeat(257))).is_err());
        let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert_eq!(
            traceparent(&with("traceparent", trace)).map(|trace| trace.to_string()),
            Some(trace.to_owned())
        );
        assert_eq!(traceparent(&with("traceparent", "nonsense")), None);
    }
}

//! Which pages may use the gateway. A page of another origin that is not allowed is refused, not
//! only left without headers: a form post needs no headers to do its harm.

use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Uri, header};

use super::body::Answer;
use super::error::Failure;

/// Headers that pages may send.
pub const ALLOWED_HEADERS: &str =
    "authorization, cache-control, content-type, idempotency-key, last-event-id";
/// How long browsers may remember a preflight, in seconds: the most that Chrome accepts.
const MAX_AGE: &str = "7200";

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Caller {
    /// Not a page, or a page on this origin that a browser says nothing about.
    Direct,
    /// A page of the gateway's own origin or of an allowed one; the origin is echoed.
    Page(HeaderValue),
}

impl Caller {
    /// Judges the request's origin.
    ///
    /// # Errors
    /// 403 for a page of any other origin.
    pub fn judge(
        method: &Method,
        uri: &Uri,
        headers: &HeaderMap,
        allowed: &[String],
    ) -> Result<Self, Failure> {
        let Some(origin) = headers.get(header::ORIGIN) else {
            // Browsers leave `Origin` out of plain links and images, never out of a cross-site
            // post; this guards against those that do.
            let site = headers.get("sec-fetch-site").map(HeaderValue::as_bytes);
            return match site {
                Some(b"cross-site") if *method == Method::POST => Err(refusal("another site")),
                _ => Ok(Self::Direct),
            };
        };
        let text = origin.to_str().unwrap_or("");
        let host = uri
            .authority()
            .map(|authority| authority.as_str())
            .or_else(|| {
                headers
                    .get(header::HOST)
                    .and_then(|host| host.to_str().ok())
            });
        let own = host.is_some_and(|host| is_own(text, host));
        if own || allowed.iter().any(|one| one.eq_ignore_ascii_case(text)) {
            Ok(Self::Page(origin.clone()))
        } else {
            Err(refusal(text))
        }
    }

    /// The headers that let the page read the answer.
    pub fn headers(&self) -> impl Iterator<Item = (http::HeaderName, HeaderValue)> {
        let origin = match self {
            Self::Direct => None,
            Self::Page(origin) => Some(origin.clone()),
        };
        origin.into_iter().flat_map(|origin| {
            [
                (header::ACCESS_CONTROL_ALLOW_ORIGIN, origin),
                (
                    header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
                    HeaderValue::from_static("true"),
                ),
            ]
        })
    }
}

fn refusal(origin: &str) -> Failure {
    let sentence = format!(
        "pages of {origin:?} may not use this gateway: http.allowed_origins names the origins that may"
    );
    Failure::new(StatusCode::FORBIDDEN, sentence)
}

/// The origin's authority is the host that was asked, either with or without a default port.
fn is_own(origin: &str, host: &str) -> bool {
    let (authority, port) = match origin.split_once("://") {
        Some(("http", authority)) => (authority, ":80"),
        Some(("https", authority)) => (authority, ":443"),
        _ => return false,
    };
    let bare = |text: &str| text.strip_suffix(port).unwrap_or(text).to_ascii_lowercase();
    !authority.is_empty() && bare(authority) == bare(host)
}

/// The answer to `OPTIONS`, a preflight or not.
#[must_use]
pub fn options(methods: &'static str) -> Response<Answer> {
    let mut response = Response::new(Answer::Whole(bytes::Bytes::new()));
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    for (name, value) in [
        (header::ALLOW, methods),
        (header::ACCESS_CONTROL_ALLOW_METHODS, methods),
        (header::ACCESS_CONTROL_ALLOW_HEADERS, ALLOWED_HEADERS),
        (header::ACCESS_CONTROL_MAX_AGE, MAX_AGE),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(method: Method, headers: &[(&'static str, &'static str)]) -> Result<Caller, Failure> {
        let headers = headers
            .iter()
            .map(|(name, value)| {
                (
                    http::HeaderName::from_static(name),
                    HeaderValue::from_static(value),
                )
            })
            .collect();
        let allowed = ["https://app.example".to_owned()];
        Caller::judge(
            &method,
            &Uri::from_static("/rooms/a/events"),
            &headers,
            &allowed,
        )
    }

    #[test]
    fn own_and_allowed_origins_are_echoed() {
        for (origin, host) in [
            ("http://127.0.0.1:8080", "127.0.0.1:8080"),
            ("https://Gate.example", "gate.example:443"),
            ("http://gate.example", "gate.example"),
            ("https://app.example", "gate.example"),
        ] {
            let caller = judge(Method::GET, &[("origin", origin), ("host", host)]).unwrap();
            assert_eq!(caller, Caller::Page(HeaderValue::from_static(origin)));
            assert_eq!(caller.headers().count(), 2);
        }
        assert_eq!(
            judge(Method::POST, &[("host", "gate.example")]).unwrap(),
            Caller::Direct
        );
    }

    #[test]
    fn everything_else_is_refused() {
        for origin in [
            "null",
            "http://gate.example:81",
            "https://evil.example",
            "http://",
            "https://app.example.evil",
        ] {
            let failure =
                judge(Method::GET, &[("origin", origin), ("host", "gate.example")]).unwrap_err();
            assert_eq!(failure.status, StatusCode::FORBIDDEN, "{origin}");
        }
        assert!(
            judge(
                Method::POST,
                &[("sec-fetch-site", "cross-site"), ("host", "gate.example")]
            )
            .is_err()
        );
        assert!(
            judge(
                Method::GET,
                &[("sec-fetch-site", "cross-site"), ("host", "gate.example")]
            )
            .is_ok()
        );
    }
}

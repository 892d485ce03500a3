//! Which pages may use the gateway. A page of another origin that is not allowed is refused, not
//! only left without headers: a form post needs no headers to do its harm.
//!
//! What browsers say of the page behind a request:
//!
//! | request | `Origin` | `Sec-Fetch-Site` |
//! |---|---|---|
//! | `EventSource` and `fetch`, of the same origin | only with `POST` | `same-origin` |
//! | the same of another origin | yes | `same-site`, `cross-site` |
//! | a form post | yes; `null` by a page without referrers and from a sandbox | as above |
//! | an image, a script, a link | no | as above; `none` where the user typed it |
//!
//! Chromium, Firefox and Safari send `Origin` with every `POST`; `Sec-Fetch-Site` they send since 76, 90 and 16.4, and to
//! origins that are https or of the same machine only. So a `POST` with neither is from a browser of years ago, or from none.

use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Uri, header};
use url::Url;

use super::body::Answer;
use super::error::Failure;
use super::subscribe::Accept;
use crate::auth::bearer;
use crate::config::AllowedOrigin;

/// Headers that pages may send.
pub const ALLOWED_HEADERS: &str =
    "authorization, cache-control, content-type, idempotency-key, last-event-id";
/// Headers of errors that pages may read, beside those that they always may.
const EXPOSED_HEADERS: &str = "retry-after, www-authenticate";
/// How long browsers may remember a preflight, in seconds: the most that Chrome accepts.
const MAX_AGE: &str = "7200";

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Caller {
    /// Not a page, or a page on this origin that a browser says nothing about.
    Direct,
    /// A page of the gateway's own origin or of an allowed one; the origin is echoed.
    Page(HeaderValue),
    /// A page of an origin that is allowed without credentials.
    Anonymous(HeaderValue),
}

impl Caller {
    /// Judges the request's origin. `tls`: the gateway speaks TLS itself, so that a page over http is not its own: anyone on the
    /// way can write one.
    ///
    /// # Errors
    /// 403 for a page of any other origin.
    pub fn judge(
        method: &Method,
        uri: &Uri,
        headers: &HeaderMap,
        allowed: &[AllowedOrigin],
        tls: bool,
    ) -> Result<Self, Failure> {
        let host = uri
            .authority()
            .map(|authority| authority.as_str())
            .or_else(|| {
                headers
                    .get(header::HOST)
                    .and_then(|host| host.to_str().ok())
            });
        let own = |origin: &str| host.is_some_and(|host| is_own(origin, host, tls));
        let mut origins = headers.get_all(header::ORIGIN).iter();
        let Some(origin) = origins.next() else {
            let known = |origin: &str| own(origin) || allowed.iter().any(|one| one.is(origin));
            return without_origin(method, headers, known);
        };
        if origins.next().is_some() {
            return Err(refusal("more than one origin"));
        }
        let text = origin.to_str().unwrap_or("");
        if own(text) {
            return Ok(Self::Page(origin.clone()));
        }
        // What any of the lines allows, is allowed.
        let mut lines = allowed.iter().filter(|one| one.is(text)).peekable();
        if lines.peek().is_none() {
            return Err(refusal(&format!("{text:?}")));
        }
        Ok(if lines.any(AllowedOrigin::credentials) {
            Self::Page(origin.clone())
        } else {
            Self::Anonymous(origin.clone())
        })
    }

    /// The page's origin, which is told that it may read the answer.
    #[must_use]
    pub fn origin(&self) -> Option<&HeaderValue> {
        match self {
            Self::Direct => None,
            Self::Page(origin) | Self::Anonymous(origin) => Some(origin),
        }
    }

    /// Whether it is a page whose credentials do not count.
    #[must_use]
    pub fn is_anonymous(&self) -> bool {
        matches!(self, Self::Anonymous(_))
    }

    /// Lets the page read the answer.
    pub fn allow(&self, response: &mut Response<Answer>) {
        let Some(origin) = self.origin() else {
            return;
        };
        let status = response.status();
        let headers = response.headers_mut();
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        if !self.is_anonymous() {
            headers.insert(
                header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
                HeaderValue::from_static("true"),
            );
        }
        if status.is_client_error() || status.is_server_error() {
            headers.insert(
                header::ACCESS_CONTROL_EXPOSE_HEADERS,
                HeaderValue::from_static(EXPOSED_HEADERS),
            );
        }
    }
}

/// Takes out what a browser adds to a request of its own accord. A bearer token is the page's own.
pub fn drop_credentials(headers: &mut HeaderMap) {
    headers.remove(header::COOKIE);
    let is_bearer = |value: &HeaderValue| bearer(value).is_some();
    if !headers.get_all(header::AUTHORIZATION).iter().all(is_bearer) {
        headers.remove(header::AUTHORIZATION);
    }
}

/// Judges a request that names no origin by what else browsers send.
fn without_origin(
    method: &Method,
    headers: &HeaderMap,
    known: impl Fn(&str) -> bool,
) -> Result<Caller, Failure> {
    let text = |name: &str| headers.get(name).map(HeaderValue::as_bytes);
    match text("sec-fetch-site") {
        Some(b"same-origin" | b"none") => return Ok(Caller::Direct),
        // A link that somebody follows. An image or a script of another site could only waste connections.
        Some(_) if *method == Method::GET && text("sec-fetch-mode") == Some(b"navigate") => {
            return Ok(Caller::Direct);
        }
        Some(_) => return Err(refusal("another site")),
        None if *method != Method::POST => return Ok(Caller::Direct),
        None => {}
    }
    // An old browser says no more than this.
    if let Some(referer) = text("referer") {
        let url = std::str::from_utf8(referer).ok();
        let url = url.and_then(|url| Url::parse(url).ok());
        let origin = url.map(|url| url.origin().ascii_serialization());
        if !origin.as_deref().is_some_and(known) {
            return Err(refusal("another site"));
        }
    }
    // A form cannot ask for a stream, and a stream does no harm.
    let publishes = Accept::read(headers) != Accept::Stream;
    if publishes && headers.contains_key(header::COOKIE) && is_form(headers) {
        return Err(Failure::new(
            StatusCode::FORBIDDEN,
            "this could be a form on any page: with a cookie and without Origin, publish as `Content-Type: application/json`",
        ));
    }
    Ok(Caller::Direct)
}

/// Whether a form of a page can send this content type (the Fetch standard, "CORS-safelisted request-header").
fn is_form(headers: &HeaderMap) -> bool {
    let mut values = headers.get_all(header::CONTENT_TYPE).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return true;
    };
    let kind = value.as_bytes().split(|b| *b == b';').next();
    let kind = kind.unwrap_or_default().trim_ascii();
    [
        &b""[..],
        b"text/plain",
        b"multipart/form-data",
        b"application/x-www-form-urlencoded",
    ]
    .iter()
    .any(|form| kind.eq_ignore_ascii_case(form))
}

fn refusal(origin: &str) -> Failure {
    let sentence = format!(
        "pages of {origin} may not use this gateway: http.allowed_origins names the origins that may"
    );
    Failure::new(StatusCode::FORBIDDEN, sentence)
}

/// The origin's authority is the host that was asked, either with or without a default port.
fn is_own(origin: &str, host: &str, tls: bool) -> bool {
    let (authority, port) = match origin.split_once("://") {
        Some(("http", authority)) if !tls => (authority, ":80"),
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
mod tests;

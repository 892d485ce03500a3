//! What the backend's answer means.
//!
//! | answer | meaning |
//! |---|---|
//! | 2xx | allowed |
//! | 2xx with `X-Sse-Ttl: 60` | allowed for so many seconds: the answer is kept so long, and a stream ends then |
//! | 2xx with `X-Sse-User: ann` | allowed as this user, for limits and disconnects: 1 to 256 bytes of printable UTF-8 |
//! | 401, 403 | refused, with the same status |
//! | anything else | no answer: redirects and errors too |
//!
//! Without `X-Sse-Ttl`, an answer is kept for `forward.cache`, and a stream has no end. A header that cannot be read makes
//! the answer none: a stream without the end or the user that was meant would be more than was allowed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode};

use super::metrics::Outcome;
use crate::auth::{Asked, By, Grant, Refusal, RefusalKind, Verdict, unix_now};
use crate::hub::{MAX_USER_BYTES, Terms};

const TTL: &str = "x-sse-ttl";
const USER: &str = "x-sse-user";
/// Refusals are kept this long at most: a client that has just signed in is let in soon.
const REFUSAL_CACHE: Duration = Duration::from_secs(2);

/// What the backend decided.
#[derive(Debug, Clone)]
pub(super) struct Decision {
    answer: Answer,
    /// Until when it counts.
    until: Instant,
}

#[derive(Debug, Clone)]
enum Answer {
    Allowed(Terms),
    Unauthorized,
    Forbidden,
}

impl Decision {
    /// Reads an answer to what was asked at `issued`, in seconds since 1970. It counts for `cache` where it does not say.
    ///
    /// # Errors
    /// A clause that says why it is none.
    pub(super) fn read(
        answer: &Response<Bytes>,
        issued: u64,
        cache: Duration,
    ) -> Result<Self, String> {
        let headers = answer.headers();
        let (answer, counts) = match answer.status() {
            status if status.is_success() => {
                let ttl = only(headers, TTL)?.map(ttl).transpose()?;
                let terms = Terms {
                    user: only(headers, USER)?.map(user).transpose()?,
                    issued: Some(issued),
                    ends: ttl.map(|ttl| unix_now() + ttl),
                };
                let counts = ttl.map_or(cache, Duration::from_secs);
                (Answer::Allowed(terms), counts)
            }
            StatusCode::UNAUTHORIZED => (Answer::Unauthorized, cache.min(REFUSAL_CACHE)),
            StatusCode::FORBIDDEN => (Answer::Forbidden, cache.min(REFUSAL_CACHE)),
            status => {
                return Err(format!(
                    "it answered {status}, which is none of 2xx, 401 and 403"
                ));
            }
        };
        let until = Instant::now() + counts;
        Ok(Self { answer, until })
    }

    pub(super) fn counts(&self, now: Instant) -> bool {
        now < self.until
    }

    /// Of an answer that allows.
    pub(super) fn terms(&self) -> Option<&Terms> {
        match &self.answer {
            Answer::Allowed(terms) => Some(terms),
            Answer::Unauthorized | Answer::Forbidden => None,
        }
    }

    pub(super) fn outcome(&self) -> Outcome {
        match self.answer {
            Answer::Allowed(_) => Outcome::Allowed,
            Answer::Unauthorized | Answer::Forbidden => Outcome::Refused,
        }
    }

    pub(super) fn verdict(self, asked: &Asked<'_>) -> Verdict {
        let (action, room) = (asked.action.label(), asked.room);
        let (kind, label, what) = match self.answer {
            Answer::Allowed(terms) => {
                return Verdict::Allowed(Grant {
                    by: By::Forward,
                    terms,
                });
            }
            Answer::Unauthorized => {
                let shown = [http::header::AUTHORIZATION, http::header::COOKIE]
                    .iter()
                    .any(|name| asked.headers.contains_key(name));
                let kind = if shown {
                    RefusalKind::Invalid
                } else {
                    RefusalKind::Missing
                };
                (
                    kind,
                    "unauthorized",
                    "does not know who you are: sign in and try again",
                )
            }
            Answer::Forbidden => (RefusalKind::Forbidden, "forbidden", "does not allow it"),
        };
        let sentence =
            format!("to {action} in {room} the backend is asked (forward.url), which {what}");
        Verdict::Refused(Refusal::new(kind, label, sentence))
    }
}

/// The value of a header that may stand there once.
fn only<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a HeaderValue>, String> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (value, None) => Ok(value),
        _ => Err(format!("it answered with {name} twice")),
    }
}

fn ttl(value: &HeaderValue) -> Result<u64, String> {
    let digits = value.to_str().ok();
    digits
        .filter(|text| text.bytes().all(|b| b.is_ascii_digit()))
        .and_then(|text| text.parse::<u32>().ok())
        .filter(|ttl| *ttl > 0)
        .map(u64::from)
        .ok_or_else(|| {
            format!(
                "it answered with {TTL}: {value:?}, which is not 1 to 4294967295 seconds in digits"
            )
        })
}

fn user(value: &HeaderValue) -> Result<Arc<str>, String> {
    let text = std::str::from_utf8(value.as_bytes()).ok();
    text.filter(|text| (1..=MAX_USER_BYTES).contains(&text.len()))
        .filter(|text| !text.contains(char::is_control))
        .map(Arc::from)
        .ok_or_else(|| format!("it answered with a {USER} that is not 1 to {MAX_USER_BYTES} bytes of printable UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(status: u16, headers: &[(&'static str, &str)]) -> Result<Decision, String> {
        let mut answer = Response::new(Bytes::new());
        *answer.status_mut() = StatusCode::from_u16(status).unwrap();
        for (name, value) in headers {
            let value = HeaderValue::from_bytes(value.as_bytes()).unwrap();
            answer.headers_mut().append(*name, value);
        }
        Decision::read(&answer, 7, Duration::from_secs(10))
    }

    #[test]
    fn an_answer_says_who_and_for_how_long() {
        let before = unix_now();
        let decision = read(204, &[("x-sse-ttl", "60"), ("x-sse-user", "jos\u{e9} b")]).unwrap();
        let now = Instant::now();
        assert!(decision.counts(now + Duration::from_secs(59)));
        assert!(!decision.counts(now + Duration::from_secs(61)));
        let Answer::Allowed(terms) = decision.answer else {
            panic!("{decision:?}");
        };
        assert_eq!(terms.user.as_deref(), Some("jos\u{e9} b"));
        assert_eq!(terms.issued, Some(7));
        assert!((before + 60..=unix_now() + 60).contains(&terms.ends.unwrap()));
        let decision = read(200, &[]).unwrap();
        assert!(!decision.counts(Instant::now() + Duration::from_secs(10)));
        assert!(decision.counts(Instant::now() + Duration::from_secs(9)));
        let Answer::Allowed(terms) = decision.answer else {
            panic!("{decision:?}");
        };
        assert_eq!((terms.user, terms.ends), (None, None));
    }

    #[test]
    fn refusals_count_for_a_short_time() {
        for status in [401, 403] {
            let decision = read(status, &[("x-sse-ttl", "60"), ("x-sse-user", "")]).unwrap();
            assert_eq!(decision.outcome(), Outcome::Refused);
            assert!(decision.counts(Instant::now()));
            assert!(!decision.counts(Instant::now() + REFUSAL_CACHE));
        }
    }

    #[test]
    fn anything_else_is_no_answer() {
        for status in [100, 301, 302, 400, 404, 429, 500, 503] {
            assert!(read(status, &[]).unwrap_err().contains(&status.to_string()));
        }
        let long = "x".repeat(MAX_USER_BYTES + 1);
        for headers in [
            &[("x-sse-ttl", "0")][..],
            &[("x-sse-ttl", "60s")],
            &[("x-sse-ttl", "+60")],
            &[("x-sse-ttl", "")],
            &[("x-sse-ttl", "99999999999")],
            &[("x-sse-ttl", "60"), ("x-sse-ttl", "60")],
            &[("x-sse-user", "")],
            &[("x-sse-user", "a\tb")],
            &[("x-sse-user", &long)],
            &[("x-sse-user", "a"), ("x-sse-user", "b")],
        ] {
            assert!(read(200, headers).is_err(), "{headers:?}");
        }
    }
}

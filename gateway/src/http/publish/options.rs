//! What a request that publishes says beside the event, in its query: how long the room keeps events, and for how many
//! replicas to wait.

use std::time::Duration;

use http::StatusCode;
use serde_json::{Value, json};
use url::form_urlencoded;

use crate::auth::By;
use crate::broker::{
    MAX_WAIT_REPLICAS, MAX_WAIT_TIMEOUT, NewEvent, Published, RetentionChange, Wait,
};
use crate::config::{format_duration, parse_duration, set_retention};
use crate::http::error::Failure;

/// `?max_len=100&max_age=1h&expire=1d&replicas=1&wait=500ms`; each may be left out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Options {
    retention: RetentionChange,
    replicas: Option<u64>,
    wait: Option<Duration>,
}

impl Options {
    /// Reads a query, in which the parameter `token` is for another; an empty name is nobody's.
    ///
    /// # Errors
    /// 400 for another name, because a misspelt one would promise what is not done, and for a bad value.
    pub fn read(query: &str, token: &str) -> Result<Self, Failure> {
        let mut options = Self::default();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            match &*name {
                "max_len" | "max_age" | "expire" => {
                    set_retention(&mut options.retention, &name, &value).map_err(Failure::bad)?;
                }
                "replicas" => {
                    let replicas = value.parse().ok().filter(|n| *n <= MAX_WAIT_REPLICAS);
                    options.replicas = Some(replicas.ok_or_else(|| {
                        Failure::bad(format!(
                            "replicas is `{value}`, not 0 to {MAX_WAIT_REPLICAS}"
                        ))
                    })?);
                }
                "wait" => {
                    let range = Duration::from_millis(1)..=MAX_WAIT_TIMEOUT;
                    let wait = parse_duration(&value).filter(|wait| range.contains(wait));
                    options.wait = Some(wait.ok_or_else(|| {
                        let most = format_duration(MAX_WAIT_TIMEOUT);
                        Failure::bad(format!(
                            "wait is `{value}`, not a duration such as 500ms, of 1ms to {most}"
                        ))
                    })?);
                }
                name if !token.is_empty() && name == token => {}
                _ => {
                    return Err(Failure::bad(format!(
                        "the query has `{name}`, and publishing knows only max_len, max_age, expire, replicas and wait"
                    )));
                }
            }
        }
        Ok(options)
    }

    /// Whether the publisher may ask for this. Without a key nobody says what a room keeps; and where the gateway
    /// has visitors, they do not make it wait.
    ///
    /// # Errors
    /// 403.
    pub fn check(&self, by: By) -> Result<(), Failure> {
        let keeps = self.retention != RetentionChange::default();
        let waits = self.replicas.is_some() || self.wait.is_some();
        let refused = match by {
            By::Key => None,
            _ if keeps => Some("max_len, max_age and expire"),
            By::Open | By::Token | By::Forward if waits => Some("replicas and wait"),
            _ => None,
        };
        match refused {
            None => Ok(()),
            Some(names) => Err(Failure::new(
                StatusCode::FORBIDDEN,
                format!(
                    "{names} are for publishers with a key: send `Authorization: Bearer KEY` with one of publish.keys"
                ),
            )),
        }
    }

    /// Writes it into the event. `wait` holds where the request does not say.
    ///
    /// # Errors
    /// 400 where it does not fit the event, or to itself.
    pub fn apply(&self, event: &mut NewEvent, wait: Wait) -> Result<(), Failure> {
        if event.ephemeral {
            return match self {
                Self {
                    replicas: None | Some(0),
                    wait: None,
                    ..
                } if self.retention == RetentionChange::default() => Ok(()),
                _ => Err(Failure::bad(
                    "an ephemeral event is not stored: it takes no max_len, max_age, expire, replicas and wait",
                )),
            };
        }
        let replicas = self.replicas.unwrap_or(wait.replicas);
        if replicas == 0 && self.wait.is_some() {
            return Err(Failure::bad(
                "wait is without replicas to wait for: add replicas=1",
            ));
        }
        event.retention = self.retention;
        event.wait = (replicas > 0).then_some(Wait {
            replicas,
            timeout: self.wait.unwrap_or(wait.timeout),
        });
        Ok(())
    }
}

/// The body of the answer to a publish.
#[must_use]
pub fn answer(published: &Published) -> Value {
    let mut answer = json!({ "id": published.id.map(|id| id.to_string()) });
    match &published.replicas {
        None => {}
        Some(Ok(replicas)) => answer["replicas"] = (*replicas).into(),
        Some(Err(reason)) => {
            answer["replicas"] = 0.into();
            answer["replicas_error"] = reason.as_str().into();
        }
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where no token may be in the query.
    fn read(query: &str) -> Result<Options, Failure> {
        Options::read(query, "")
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn reads_what_it_knows_and_refuses_the_rest() {
        let options = read("max_len=100&max_age=1h&expire=0s&replicas=2&wait=500ms");
        let retention = RetentionChange {
            max_len: Some(100),
            max_age: Some(3600 * SECOND),
            expire: Some(Duration::ZERO),
        };
        let expected = Options {
            retention,
            replicas: Some(2),
            wait: Some(SECOND / 2),
        };
        assert_eq!(options.unwrap(), expected);
        for (query, word) in [
            ("max_len=-1", "max_len is `-1`"),
            ("max_len=9007199254740992", "9007199254740991"),
            ("max_age=1", "not a duration"),
            ("max_age=10ms", "max_age is 10ms"),
            ("expire=40000d", "36500d"),
            ("replicas=17", "0 to 16"),
            ("replicas=", "replicas is ``"),
            ("wait=0", "wait is `0`"),
            ("wait=11s", "1ms to 10s"),
            ("replica=1", "`replica`"),
        ] {
            let failure = read(query).unwrap_err();
            assert_eq!(failure.status, 400, "{query}");
            assert!(failure.sentence.contains(word), "{query}: {failure}");
        }
    }

    #[test]
    fn a_token_in_the_query_is_no_option() {
        assert_eq!(Options::read("t=a.b.c", "t").unwrap(), Options::default());
        assert_eq!(Options::read("=a.b.c", "").unwrap_err().status, 400);
    }

    #[test]
    fn who_has_no_key_decides_little() {
        for (query, known, anyone, visitor) in [
            ("", true, true, true),
            ("max_len=1", true, false, false),
            ("replicas=1", true, true, false),
            ("wait=1s", true, true, false),
        ] {
            let options = read(query).unwrap();
            let may = |publisher| match options.check(publisher) {
                Ok(()) => true,
                Err(failure) => {
                    assert_eq!(failure.status, 403);
                    false
                }
            };
            let found = (may(By::Key), may(By::Development), may(By::Open));
            assert_eq!(found, (known, anyone, visitor), "{query}");
        }
    }

    #[test]
    fn the_request_comes_before_the_configuration() {
        let wait = |replicas, timeout| Wait { replicas, timeout };
        let applied = |query: &str, configured| {
            let mut event = NewEvent::default();
            let options = read(query).unwrap();
            options.apply(&mut event, configured).map(|()| event.wait)
        };
        let (none, one) = (wait(0, SECOND), wait(1, SECOND));
        assert_eq!(applied("", none).unwrap(), None);
        assert_eq!(applied("", one).unwrap(), Some(one));
        assert_eq!(applied("replicas=0", one).unwrap(), None);
        assert_eq!(applied("replicas=2", none).unwrap(), Some(wait(2, SECOND)));
        assert_eq!(applied("wait=2s", one).unwrap(), Some(wait(1, 2 * SECOND)));
        assert_eq!(applied("wait=2s", none).unwrap_err().status, 400);
        let mut ephemeral = NewEvent {
            ephemeral: true,
            ..NewEvent::default()
        };
        assert!(Options::default().apply(&mut ephemeral, one).is_ok());
        assert_eq!(ephemeral.wait, None);
        for query in ["replicas=1", "wait=1s", "expire=1d"] {
            let options = read(query).unwrap();
            assert_eq!(options.apply(&mut ephemeral, one).unwrap_err().status, 400);
        }
    }
}

//! `[tokens]`: keys that can be used, and names that can be sent.

use std::time::Duration;

use super::{ConfigError, format_duration, rule};
use crate::auth::{check_lines, read_files, read_keys};
use crate::config::access::Tokens;

/// Keys in settings and files: each may be tried for a token that names none.
const MAX_KEYS: usize = 64;
const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(86_400);

/// Checks them, and does not read key files.
///
/// # Errors
/// The first rule that is broken. It quotes no secret.
pub(super) fn check(tokens: &Tokens) -> Result<(), ConfigError> {
    names(tokens)?;
    times(tokens)?;
    url(&tokens.jwks_url)?;
    let lines = tokens.keys.len() + tokens.key_files.len();
    rule(lines <= MAX_KEYS, || {
        format!("tokens.keys and tokens.key_files have {lines} lines, more than {MAX_KEYS}")
    })?;
    read_keys(&tokens.keys).map_err(ConfigError::Rule)?;
    check_lines(&tokens.key_files).map_err(ConfigError::Rule)
}

/// Reads the key files, for a start and for `check-config`.
///
/// # Errors
/// The first one that cannot be used. It quotes nothing of it.
pub(super) fn check_files(tokens: &Tokens) -> Result<(), ConfigError> {
    let read = read_files(&tokens.key_files);
    read.map(drop).map_err(ConfigError::Rule)
}

fn names(tokens: &Tokens) -> Result<(), ConfigError> {
    rule(!tokens.claim.is_empty(), || {
        "tokens.claim is empty: it names the claim with the rooms, such as sse".to_owned()
    })?;
    // RFC 6265, section 4.1.1: a cookie's name is a token of HTTP.
    let cookie = &tokens.cookie;
    rule(
        cookie.is_empty() || http::HeaderName::from_bytes(cookie.as_bytes()).is_ok(),
        || format!("tokens.cookie is `{cookie}`, which cannot be the name of a cookie"),
    )?;
    let query = &tokens.query;
    let plain = |c: u8| c.is_ascii_alphanumeric() || b"._-".contains(&c);
    rule(query.bytes().all(plain), || {
        format!("tokens.query is `{query}`, not ASCII letters, digits and . _ -")
    })?;
    // Otherwise a publisher's option, or a client's position, would be taken for a token.
    rule(!TAKEN.contains(&query.as_str()), || {
        format!(
            "tokens.query is `{query}`, which means something else: choose another name, such as token"
        )
    })
}

/// Query parameters that mean something.
const TAKEN: [&str; 15] = [
    "after",
    "evs_last_event_id",
    "expire",
    "last-event-id",
    "Last-Event-ID",
    "lastEventID",
    "lastEventId",
    "last_event_id",
    "limit",
    "max_age",
    "max_len",
    "padding",
    "recent",
    "replicas",
    "wait",
];

fn times(tokens: &Tokens) -> Result<(), ConfigError> {
    let ranges = [
        (
            "tokens.jwks_refresh",
            tokens.jwks_refresh,
            Duration::from_secs(1),
            DAY,
        ),
        ("tokens.leeway", tokens.leeway, Duration::ZERO, 60 * MINUTE),
        ("tokens.max_age", tokens.max_age, MINUTE, 366 * DAY),
    ];
    for (key, value, least, most) in ranges {
        rule((least..=most).contains(&value), || {
            let [value, least, most] = [value, least, most].map(format_duration);
            format!("{key} is {value}, not {least} to {most}")
        })?;
    }
    Ok(())
}

fn url(text: &str) -> Result<(), ConfigError> {
    if text.is_empty() {
        return Ok(());
    }
    let sound = url::Url::parse(text).is_ok_and(|url| {
        matches!(url.scheme(), "http" | "https")
            && url.has_host()
            && url.username().is_empty()
            && url.password().is_none()
    }) && text.parse::<http::Uri>().is_ok();
    rule(sound, || {
        "tokens.jwks_url is not an http:// or https:// URL without user and password".to_owned()
    })
}

//! Says what a token says.

use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use jsonwebtoken::EncodingKey;
use jsonwebtoken::jwk::Jwk;
use protocol::token::{
    Algorithm, Claims, Demands, Key, KeySource, MAX_BYTES, PUBLISH, Rooms, SUBSCRIBE, Token,
    algorithm, read_set,
};
use serde_json::{Map, Value, json};

use super::{about, read_file};
use crate::cli::Explain;
use crate::target::Failure;

/// What there is to say.
#[derive(Debug)]
pub(super) struct Explained {
    /// For standard output, with a line's end.
    pub text: String,
    /// Why gateways refuse it.
    pub refused: Option<String>,
}

/// Of the signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Signature {
    NotLooked,
    Counts,
    Wrong,
}

/// Takes a token apart. `now` is in seconds since 1970.
pub(super) fn explain(explain: &Explain, text: &str, now: u64) -> Result<Explained, Failure> {
    let token = Token::split(text)
        .map_err(|error| Failure::refused(format!("this is no token: {error}")))?;
    let signature = match &explain.key_file {
        None => Signature::NotLooked,
        Some(path) => {
            let keys = keys(explain, path, &token)?;
            let signed = keys.iter().any(|key| {
                let named = key.id.is_none() || token.key_id.is_none() || key.id == token.key_id;
                named && token.is_signed_by(key)
            });
            if signed {
                Signature::Counts
            } else {
                Signature::Wrong
            }
        }
    };
    let demands = Demands {
        issuer: explain.issuer.clone(),
        audience: explain.audience.clone(),
        leeway: explain.leeway,
        max_age: explain.max_age,
        claim: explain.claim.clone(),
    };
    let claims = Claims::read(&token.payload, &explain.claim);
    let refused = refusal(text, &token, signature, &demands, claims.as_ref(), now);
    let text = if explain.json {
        let all: Value = serde_json::from_slice(&token.payload).unwrap_or(Value::Null);
        let signature = match signature {
            Signature::NotLooked => "not looked at",
            Signature::Counts => "counts",
            Signature::Wrong => "wrong",
        };
        let found = json!({
            "header": token.header, "claims": all, "signature": signature,
            "counts": refused.is_none(), "why": refused,
        });
        format!("{found}\n")
    } else {
        words(
            &token,
            signature,
            claims.as_ref().ok(),
            &demands,
            refused.as_deref(),
            now,
        )
    };
    Ok(Explained { text, refused })
}

/// As a gateway with these settings would say it.
fn refusal(
    text: &str,
    token: &Token<'_>,
    signature: Signature,
    demands: &Demands,
    claims: Result<&Claims, &String>,
    now: u64,
) -> Option<String> {
    if text.len() > MAX_BYTES {
        return Some(format!("the token is over {MAX_BYTES} bytes"));
    }
    if token.critical {
        return Some("the token's header has `crit`, and gateways know no extensions".into());
    }
    if algorithm(&token.algorithm).is_none() {
        return Some(format!(
            "gateways do not know the algorithm {:?}, or never take it",
            token.algorithm
        ));
    }
    if signature == Signature::Wrong {
        return Some("no key of --key-file has signed the token".into());
    }
    let claims = match claims {
        Ok(claims) => claims,
        Err(error) => return Some(format!("of the token, {error}")),
    };
    let checked = demands
        .check(claims)
        .and_then(|()| demands.check_time(claims.times(), now));
    checked.err().map(|unmet| unmet.sentence.to_owned())
}

/// The keys of a file: a set, or one key. A private key stands for its public one.
fn keys(explain: &Explain, path: &Path, token: &Token<'_>) -> Result<Vec<Key>, Failure> {
    let text = read_file(path)?;
    let says = |error: String| about(path, &error);
    if text.trim_ascii_start().starts_with(b"{") {
        return read_set(&text, KeySource::File, |_| {}).map_err(says);
    }
    let Some(known) = explain.alg.or_else(|| algorithm(&token.algorithm)) else {
        return Ok(Vec::new());
    };
    if String::from_utf8_lossy(&text).contains("PRIVATE KEY-----")
        && let Some(set) = public_part(known, &text)
    {
        return read_set(&set, KeySource::File, |_| {}).map_err(says);
    }
    let key = Key::new(None, known, &text).map_err(says)?;
    Ok(vec![key])
}

fn public_part(algorithm: Algorithm, pem: &[u8]) -> Option<Vec<u8>> {
    let readers = [
        EncodingKey::from_rsa_pem,
        EncodingKey::from_ec_pem,
        EncodingKey::from_ed_pem,
    ];
    let mut keys = readers.into_iter().filter_map(|read| read(pem).ok());
    let key = keys.find(|key| key.family() == algorithm.family())?;
    let jwk = Jwk::from_encoding_key(&key, algorithm).ok()?;
    serde_json::to_vec(&jwk).ok()
}

/// A line for each thing. Text of the token's is shown as JSON, so that it moves no cursor.
fn words(
    token: &Token<'_>,
    signature: Signature,
    claims: Option<&Claims>,
    demands: &Demands,
    refused: Option<&str>,
    now: u64,
) -> String {
    let mut lines = vec![("header", Value::Object(token.header.clone()).to_string())];
    let signed = match signature {
        Signature::NotLooked => "not looked at: give --key-file",
        Signature::Counts => "counts",
        Signature::Wrong => "does not count: no key of --key-file has made it",
    };
    lines.push(("signature", signed.to_owned()));
    if let Some(claims) = claims {
        let text = |text: &str| Value::from(text).to_string();
        let user = claims.user.as_deref();
        lines.push((
            "user",
            user.map_or_else(|| "nobody in particular".into(), text),
        ));
        let time = |time: Option<u64>| {
            time.map_or_else(|| "it does not say".into(), |time| when(time, now))
        };
        lines.push(("issued", time(claims.issued)));
        if claims.not_before.is_some() {
            lines.push(("counts from", time(claims.not_before)));
        }
        lines.push(("expires", time(claims.expires)));
        lines.extend(
            claims
                .issuer
                .as_deref()
                .map(|issuer| ("issuer", text(issuer))),
        );
        if !claims.audience.is_empty() {
            let all: Vec<String> = claims.audience.iter().map(|one| text(one)).collect();
            lines.push(("audience", all.join(" ")));
        }
        lines.push((SUBSCRIBE, rooms(&claims.subscribe)));
        lines.push((PUBLISH, rooms(&claims.publish)));
    }
    let others = others(token, &demands.claim);
    if !others.is_empty() {
        lines.push(("other claims", others));
    }
    lines.push((
        "verdict",
        match (refused, signature) {
            (Some(why), _) => format!("refused: {why}"),
            (None, Signature::Counts) => "it counts".into(),
            (None, _) => "it counts, if the signature does".into(),
        },
    ));
    let line = |(name, value): (&str, String)| format!("{name:<13}{value}\n");
    lines.into_iter().map(line).collect()
}

fn rooms(rooms: &Rooms) -> String {
    if rooms.iter().len() == 0 {
        return "no rooms".into();
    }
    rooms.iter().collect::<Vec<_>>().join(" ")
}

/// Their names: the gateway does not listen to them.
fn others(token: &Token<'_>, claim: &str) -> String {
    const KNOWN: [&str; 6] = ["sub", "iat", "nbf", "exp", "iss", "aud"];
    let all: Map<String, Value> = serde_json::from_slice(&token.payload).unwrap_or_default();
    let names = all
        .keys()
        .filter(|name| !KNOWN.contains(&name.as_str()) && *name != claim);
    let names: Vec<String> = names
        .map(|name| Value::from(name.as_str()).to_string())
        .collect();
    names.join(" ")
}

/// A date, and how far away it is.
fn when(time: u64, now: u64) -> String {
    /// The last second of the year 9999: no date is written beyond it.
    const LAST: u64 = 253_402_300_799;
    let date = if time > LAST {
        format!("{time} seconds after 1970")
    } else {
        httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(time))
    };
    match (time.checked_sub(now), now.checked_sub(time)) {
        (_, Some(0)) => format!("{date}, now"),
        (Some(left), _) => format!("{date}, in {}", span(left)),
        (None, passed) => format!("{date}, {} ago", span(passed.unwrap_or_default())),
    }
}

/// The largest unit, and of days and hours the next one too.
fn span(seconds: u64) -> String {
    let count = |n: u64, unit: &str| format!("{n} {unit}{}", if n == 1 { "" } else { "s" });
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    let and = |large: String, rest: u64, unit: &str| match rest {
        0 => large,
        rest => format!("{large} {}", count(rest, unit)),
    };
    match (days, hours, minutes) {
        (0, 0, 0) => count(seconds, "second"),
        (0, 0, _) => count(minutes, "minute"),
        (0, ..) => and(count(hours, "hour"), minutes % 60, "minute"),
        _ => and(count(days, "day"), hours % 24, "hour"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_in_words() {
        let now = 1_800_000_000;
        for (time, words) in [
            (now, "Fri, 15 Jan 2027 08:00:00 GMT, now"),
            (now + 3600, "Fri, 15 Jan 2027 09:00:00 GMT, in 1 hour"),
            (now - 95, "Fri, 15 Jan 2027 07:58:25 GMT, 1 minute ago"),
            (0, "Thu, 01 Jan 1970 00:00:00 GMT, 20833 days 8 hours ago"),
        ] {
            assert_eq!(when(time, now), words);
        }
        assert!(when(u64::MAX, now).starts_with("18446744073709551615 seconds after 1970, in "));
    }
}

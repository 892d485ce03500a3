//! Where a request carries its token: in one place, once, or not at all.

use http::{HeaderMap, HeaderValue, header};
use protocol::token::MAX_BYTES;

use crate::auth::RefusalKind;
use crate::auth::tokens::carriers::Carriers;
use crate::auth::tokens::find;

pub fn check(bytes: &[u8]) {
    let carriers = Carriers {
        cookie: "t".into(),
        query: "q".into(),
    };
    let mut lines = bytes.split(|b| *b == b'\n');
    let query = String::from_utf8_lossy(lines.next().unwrap_or_default()).into_owned();
    let mut headers = HeaderMap::new();
    for line in lines.take(8) {
        let (name, value) = match line.split_first() {
            Some((b'a', value)) => (header::AUTHORIZATION, value),
            Some((_, value)) => (header::COOKIE, value),
            None => continue,
        };
        if let Ok(value) = HeaderValue::from_bytes(value) {
            headers.append(name, value);
        }
    }
    let found = find(&carriers, &headers, &query).map(|found| found.map(|text| text.into_owned()));
    match &found {
        Ok(Some(token)) => {
            assert!(token.len() <= MAX_BYTES);
            // It stands in the request as it is, but for what the query's encoding hides.
            let stands = |value: &HeaderValue| {
                String::from_utf8_lossy(value.as_bytes()).contains(token.as_str())
            };
            assert!(headers.values().any(stands) || !query.is_empty());
        }
        Ok(None) => {}
        Err(refusal) => {
            assert_eq!(refusal.kind, RefusalKind::Invalid);
            assert!(refusal.sentence.contains(' '));
        }
    }
    // What a program sends on purpose comes first, and is all that counts.
    let mut bearer = headers.clone();
    let alone = !headers.contains_key(header::AUTHORIZATION);
    bearer.append(
        header::AUTHORIZATION,
        HeaderValue::from_static("bearer own"),
    );
    if alone {
        let text = find(&carriers, &bearer, &query).unwrap();
        assert_eq!(text.as_deref(), Some("own"));
        // The cookie comes before the query.
        if let Ok(Some(token)) = &found {
            let mut cookie = headers.clone();
            cookie.append(header::COOKIE, HeaderValue::from_static("x=1; t=own"));
            match find(&carriers, &cookie, &query) {
                Ok(text) => assert_eq!(text.as_deref(), Some("own"), "{token} counted before"),
                Err(refusal) => assert_eq!(refusal.label, "ambiguous"),
            }
        }
    }
}

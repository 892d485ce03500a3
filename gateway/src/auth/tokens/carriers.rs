//! Where in a request a token may be.

use std::borrow::Cow;
use std::sync::Arc;

use http::{HeaderMap, header};
use protocol::token::MAX_BYTES;
use url::form_urlencoded;

use super::{Refusal, RefusalKind};
use crate::auth::keys::bearer;

/// Names; an empty one is never looked for.
#[derive(Debug, Clone, Default)]
pub struct Carriers {
    /// The cookie.
    pub cookie: Arc<str>,
    /// The query parameter.
    pub query: Arc<str>,
}

impl Carriers {
    /// The token of a request. `Authorization` comes before the cookie, which comes before the query: what a program
    /// sends on purpose, before what a browser adds to every request, before what may be left from an old link. The
    /// others are then not looked at, so that a bad token is never made good by another one.
    ///
    /// # Errors
    /// One place holds two: a proxy or a page of a neighbouring domain may have added one of them, and whose it is
    /// cannot be known (RFC 6265, section 5.4, leaves their order open); or it is too large.
    pub(super) fn find<'a>(
        &self,
        headers: &'a HeaderMap,
        query: &'a str,
    ) -> Result<Option<Cow<'a, str>>, Refusal> {
        let values = headers.get_all(header::AUTHORIZATION).iter();
        let values = values.filter_map(bearer).map(text);
        let mut found = single(values, || "`Authorization: Bearer`".to_owned())?;
        if found.is_none() && !self.cookie.is_empty() {
            let place = || format!("the cookie `{}`", self.cookie);
            found = single(self.cookies(headers), place)?;
        }
        if found.is_none() && !self.query.is_empty() {
            let pairs = form_urlencoded::parse(query.as_bytes());
            let values = pairs.filter(|(name, value)| **name == *self.query && !value.is_empty());
            let place = || format!("the query's `{}`", self.query);
            found = single(values.map(|(_, value)| value), place)?;
        }
        match found {
            Some(text) if text.len() > MAX_BYTES => Err(Refusal::new(
                RefusalKind::Invalid,
                "too_large",
                format!("the token is over {MAX_BYTES} bytes"),
            )),
            found => Ok(found),
        }
    }

    /// HTTP/2 may split the header (RFC 9113, section 8.2.3). A cookie without a value is one that was taken back.
    fn cookies<'a>(&self, headers: &'a HeaderMap) -> impl Iterator<Item = Cow<'a, str>> {
        let all = headers.get_all(header::COOKIE).iter();
        let pairs = all.flat_map(|value| value.as_bytes().split(|b| *b == b';'));
        pairs.filter_map(|pair| {
            let value = pair.trim_ascii().strip_prefix(self.cookie.as_bytes())?;
            let value = value.strip_prefix(b"=")?;
            (!value.is_empty()).then(|| text(value))
        })
    }

    /// How to send one.
    pub(super) fn advice(&self) -> String {
        let mut advice = "send it as `Authorization: Bearer TOKEN`".to_owned();
        if !self.cookie.is_empty() {
            advice += &format!(", or in the cookie `{}`", self.cookie);
        }
        advice
    }
}

/// What is not UTF-8 is no token, and is found to be none.
fn text(bytes: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}

fn single<'a>(
    mut values: impl Iterator<Item = Cow<'a, str>>,
    place: impl FnOnce() -> String,
) -> Result<Option<Cow<'a, str>>, Refusal> {
    let first = values.next();
    if values.next().is_none() {
        return Ok(first);
    }
    Err(Refusal::new(
        RefusalKind::Invalid,
        "ambiguous",
        format!(
            "the request has two tokens in {}, and which of them counts cannot be known: send one",
            place()
        ),
    ))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn find(
        headers: &[(&'static str, &'static str)],
        query: &str,
    ) -> Result<Option<String>, &'static str> {
        let headers: HeaderMap = headers
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value)))
            .collect();
        let carriers = Carriers {
            cookie: "t".into(),
            query: "q".into(),
        };
        let found = carriers
            .find(&headers, query)
            .map_err(|refusal| refusal.label);
        Ok(found?.map(Cow::into_owned))
    }

    #[test]
    fn one_place_comes_before_the_next_and_holds_one_token() {
        let bearer = ("authorization", "bearer a");
        let cookie = ("cookie", "x=1; t=b; tt=2");
        let some = |text: &str| Ok(Some(text.to_owned()));
        assert_eq!(find(&[bearer, cookie], "q=c"), some("a"));
        assert_eq!(
            find(&[("authorization", "Basic a"), cookie], "q=c"),
            some("b")
        );
        assert_eq!(find(&[("cookie", "t=; x=t=1")], "p=1&q=%63"), some("c"));
        assert_eq!(find(&[("cookie", "x=1"), ("cookie", "t=b")], ""), some("b"));
        assert_eq!(find(&[("cookie", "T=b")], "Q=c&q="), Ok(None));
        for (headers, query) in [
            (&[bearer, ("authorization", "Bearer a")][..], ""),
            (&[("cookie", "t=b; t=b")], ""),
            (&[("cookie", "t=b"), ("cookie", "t=c")], ""),
            (&[], "q=a&q=b"),
        ] {
            assert_eq!(
                find(headers, query),
                Err("ambiguous"),
                "{headers:?} {query}"
            );
        }
        assert_eq!(
            find(&[], &format!("q={}", "x".repeat(MAX_BYTES + 1))),
            Err("too_large")
        );
    }
}

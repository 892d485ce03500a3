//! Origins of pages that may use the gateway (RFC 6454), as browsers write them.

use url::{Host, Url};

/// Written behind an origin whose pages get no credentials.
const NO_CREDENTIALS: &str = "no-credentials";

/// One item of `http.allowed_origins`: `https://example.com`, `https://*.example.com`, either with `no-credentials` behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AllowedOrigin {
    /// `https://`, where any name below `rest` is meant; else nothing.
    scheme: String,
    /// The origin; or `.example.com` and the port.
    rest: String,
    credentials: bool,
}

impl AllowedOrigin {
    /// Reads one.
    ///
    /// # Errors
    /// A clause that says what is wrong.
    pub fn read(line: &str) -> Result<Self, String> {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let (origin, credentials) = match words[..] {
            [origin] => (origin, true),
            [origin, NO_CREDENTIALS] => (origin, false),
            _ => {
                return Err(format!(
                    "which is not an origin such as https://example.com, perhaps with {NO_CREDENTIALS} behind it"
                ));
            }
        };
        let (scheme, rest) = match origin.split_once("://*.") {
            Some((scheme, rest)) => (format!("{scheme}://"), format!(".{rest}")),
            None => (String::new(), origin.to_owned()),
        };
        // Any name will do in place of the star.
        let probe = if scheme.is_empty() {
            origin.to_owned()
        } else {
            format!("{scheme}any{rest}")
        };
        let url = Url::parse(&probe).ok();
        let url =
            url.filter(|url| !probe.contains('*') && matches!(url.scheme(), "http" | "https"));
        let Some(url) = url else {
            return Err("which is not an origin such as https://example.com".to_owned());
        };
        let written = url.origin().ascii_serialization();
        if written != probe {
            let written = written.replacen("://any.", "://*.", usize::from(!scheme.is_empty()));
            return Err(format!(
                "which is not an origin such as https://example.com: write `{written}`"
            ));
        }
        // `https://*.com` would be everybody's.
        let is_wide = match url.host() {
            Some(Host::Domain(name)) => name.matches('.').count() < 2 && name != "any.localhost",
            _ => true,
        };
        if !scheme.is_empty() && is_wide {
            return Err(
                "in which the star stands for too much: write a domain such as *.example.com"
                    .to_owned(),
            );
        }
        Ok(Self {
            scheme,
            rest,
            credentials,
        })
    }

    /// Whether an origin is meant. Scheme and port have to be the same.
    #[must_use]
    pub fn is(&self, origin: &str) -> bool {
        if self.scheme.is_empty() {
            return self.rest.eq_ignore_ascii_case(origin);
        }
        let origin = origin.to_ascii_lowercase();
        let name = origin
            .strip_prefix(&self.scheme)
            .and_then(|name| name.strip_suffix(&self.rest));
        let letters = |label: &str| {
            !label.is_empty()
                && label
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
        };
        name.is_some_and(|name| name.split('.').all(letters))
    }

    /// Whether its pages may use cookies and the like.
    #[must_use]
    pub fn credentials(&self) -> bool {
        self.credentials
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_name_below() {
        for (allowed, origin, is) in [
            ("https://a.example", "https://a.example", true),
            ("https://a.example", "https://A.Example", true),
            ("https://a.example", "https://b.a.example", false),
            ("https://a.example", "https://a.example:8443", false),
            (
                "https://a.example no-credentials",
                "https://a.example",
                true,
            ),
            ("https://*.a.example", "https://b.a.example", true),
            ("https://*.a.example", "https://c.b.A.example", true),
            ("https://*.a.example", "https://a.example", false),
            ("https://*.a.example", "https://.a.example", false),
            ("https://*.a.example", "https://b..a.example", false),
            ("https://*.a.example", "http://b.a.example", false),
            ("https://*.a.example", "https://b.a.example:8443", false),
            (
                "https://*.a.example",
                "https://bad.example/.a.example",
                false,
            ),
            (
                "https://*.a.example",
                "https://bad.example:1.a.example",
                false,
            ),
            ("https://*.a.example", "https://u@b.a.example", false),
            (
                "https://*.a.example",
                "https://b.a.example.bad.example",
                false,
            ),
            ("https://*.a.example", "https://bada.example", false),
            ("https://*.a.example", "null", false),
            ("https://*.a.example:8443", "https://b.a.example:8443", true),
            ("https://*.a.example:8443", "https://b.a.example", false),
            ("http://*.localhost:3000", "http://app.localhost:3000", true),
        ] {
            assert_eq!(
                AllowedOrigin::read(allowed).unwrap().is(origin),
                is,
                "{allowed} {origin}"
            );
        }
        assert!(
            AllowedOrigin::read("https://a.example")
                .unwrap()
                .credentials()
        );
        assert!(
            !AllowedOrigin::read("https://*.a.example no-credentials")
                .unwrap()
                .credentials()
        );
    }

    #[test]
    fn what_is_no_origin_is_named() {
        for (line, word) in [
            ("", "such as"),
            ("*", "such as"),
            ("null", "such as"),
            ("a.example", "such as"),
            ("ftp://a.example", "such as"),
            ("https://a.example/", "write `https://a.example`"),
            ("https://a.example:443", "write `https://a.example`"),
            ("https://*.A.example", "write `https://*.a.example`"),
            ("https://*.com", "too much"),
            ("https://*.", "such as"),
            ("https://*.192.0.2.1", "such as"),
            ("https://*.*.a.example", "such as"),
            ("https://a.*.example", "such as"),
            ("https://a.example with-credentials", "no-credentials"),
        ] {
            let reason = AllowedOrigin::read(line).unwrap_err();
            assert!(reason.contains(word), "{line}: {reason}");
        }
    }
}

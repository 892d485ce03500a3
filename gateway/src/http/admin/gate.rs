//! Who may ask the operators' listener for what.
//!
//! Invariant: nothing but `/livez` and `/readyz` is answered on an address that others reach, unless whoever asks has shown
//! the token or a certificate, or the metrics are open.

use std::net::IpAddr;
use std::path::PathBuf;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use http::request::Parts;
use http::uri::Authority;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use tracing::warn;

use crate::auth::bearer;
use crate::http::error::Failure;
use crate::live::Live;

/// What lets operators in. `Debug` hides the token.
#[derive(Clone, Default)]
pub struct Gate {
    /// The address is this machine's own.
    pub loopback: bool,
    /// What changes while the node runs.
    pub rules: Live<GateRules>,
}

/// What changes while the node runs.
#[derive(Clone, Default)]
pub struct GateRules {
    /// What operators show; empty for none.
    pub token: String,
    /// Holds it instead, and is read for each request.
    pub token_file: Option<PathBuf>,
    /// Metrics are for anyone.
    pub metrics_open: bool,
}

impl std::fmt::Debug for Gate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gate")
            .field("loopback", &self.loopback)
            .finish_non_exhaustive()
    }
}

impl Gate {
    /// Lets a request pass; `certified` is whether it came with an operator's certificate.
    ///
    /// # Errors
    /// 401, 403, or 503 where the token cannot be read.
    pub(super) fn pass(&self, parts: &Parts, certified: bool) -> Result<(), Failure> {
        if !matches!(parts.method, Method::GET | Method::HEAD) {
            no_page(&parts.headers)?;
        }
        let path = parts.uri.path();
        // For load balancers, which ask by any name.
        if matches!(path, "/livez" | "/readyz") {
            return Ok(());
        }
        if self.loopback {
            own_host(parts)?;
        }
        let rules = self.rules.get();
        if certified || (path == "/metrics" && rules.metrics_open) {
            return Ok(());
        }
        match rules.token()? {
            Some(token) => shown(&parts.headers, &token),
            None if self.loopback => Ok(()),
            None => Err(Failure::new(
                StatusCode::FORBIDDEN,
                "this address is not the machine's own, and there is no admin.token: set admin.token_file, or for /metrics admin.metrics_open",
            )),
        }
    }
}

impl GateRules {
    /// The token, where one is set.
    fn token(&self) -> Result<Option<String>, Failure> {
        let Some(file) = &self.token_file else {
            return Ok((!self.token.is_empty()).then(|| self.token.clone()));
        };
        match std::fs::read_to_string(file) {
            Ok(text) if !text.trim().is_empty() => Ok(Some(text.trim().to_owned())),
            Ok(_) => Err(unreadable(file, "it is empty")),
            Err(error) => Err(unreadable(file, &error.to_string())),
        }
    }
}

fn unreadable(file: &std::path::Path, why: &str) -> Failure {
    warn!(file = %file.display(), why, "The admin token cannot be read.");
    Failure::away("the admin token cannot be read: see the log")
}

/// The token is in `Authorization: Bearer` (RFC 6750, section 2.1). Hashes are compared, so that the time taken does not
/// tell the length either.
fn shown(headers: &HeaderMap, token: &str) -> Result<(), Failure> {
    let refusal = |challenge, sentence| {
        Failure::new(StatusCode::UNAUTHORIZED, sentence).with(
            header::WWW_AUTHENTICATE,
            HeaderValue::from_static(challenge),
        )
    };
    let Some(value) = headers.get(header::AUTHORIZATION) else {
        return Err(refusal(
            "Bearer",
            "this needs `Authorization: Bearer TOKEN` with admin.token",
        ));
    };
    let given = bearer(value).unwrap_or_default();
    let [given, token] = [given, token.as_bytes()].map(|text| digest(&SHA256, text));
    verify_slices_are_equal(given.as_ref(), token.as_ref()).map_err(|_| {
        refusal(
            "Bearer error=\"invalid_token\"",
            "the token in `Authorization` is not admin.token",
        )
    })
}

/// A page that a browser has open may have its own name lead to this machine (DNS rebinding). The names by which operators
/// ask are not to be had for it.
fn own_host(parts: &Parts) -> Result<(), Failure> {
    let host = parts.headers.get(header::HOST);
    let named = match (parts.uri.authority(), host) {
        (Some(authority), _) => Some(authority.clone()),
        (None, Some(host)) => match Authority::try_from(host.as_bytes()) {
            Ok(authority) => Some(authority),
            Err(_) => return Err(foreign("a malformed name")),
        },
        // No browser leaves it out.
        (None, None) => None,
    };
    let Some(named) = named else { return Ok(()) };
    let name = named.host();
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    if bare.parse::<IpAddr>().is_ok() || name.eq_ignore_ascii_case("localhost") {
        Ok(())
    } else {
        Err(foreign(name))
    }
}

fn foreign(name: &str) -> Failure {
    Failure::new(
        StatusCode::FORBIDDEN,
        format!("`{name}` is no name for the admin listener: ask for an address, or localhost"),
    )
}

/// Pages change nothing here: `Origin` and `Sec-Fetch-Site` are what browsers send and nobody else.
fn no_page(headers: &HeaderMap) -> Result<(), Failure> {
    let site = headers.get("sec-fetch-site").map(HeaderValue::as_bytes);
    let elsewhere = site.is_some_and(|site| !matches!(site, b"none" | b"same-origin"));
    if headers.contains_key(header::ORIGIN) || elsewhere {
        return Err(Failure::new(
            StatusCode::FORBIDDEN,
            "pages may not change anything here: use curl or sse-publish",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gate(loopback: bool, token: &str, metrics_open: bool) -> Gate {
        Gate {
            loopback,
            rules: Live::new(GateRules {
                token: token.to_owned(),
                token_file: None,
                metrics_open,
            }),
        }
    }

    fn ask(gate: &Gate, method: &str, path: &str, headers: &[(&str, &str)]) -> u16 {
        let mut request = http::Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (parts, ()) = request.body(()).unwrap().into_parts();
        gate.pass(&parts, false)
            .map_or_else(|failure| failure.status.as_u16(), |()| 200)
    }

    #[test]
    fn who_needs_the_token() {
        let bearer = [("authorization", "bearer t0ken")];
        for (loopback, token, open, path, headers, status) in [
            (true, "", false, "/metrics", &[][..], 200),
            (true, "t0ken", false, "/metrics", &[], 401),
            (true, "t0ken", false, "/metrics", &bearer, 200),
            (false, "", false, "/livez", &[], 200),
            (false, "", false, "/readyz", &[], 200),
            (false, "", false, "/metrics", &[], 403),
            (false, "", false, "/none", &[], 403),
            (false, "", false, "/log", &bearer, 403),
            (false, "", true, "/metrics", &[], 200),
            (false, "", true, "/log", &[], 403),
            (false, "t0ken", false, "/log", &bearer, 200),
            (
                false,
                "t0ken",
                false,
                "/log",
                &[("authorization", "Bearer t0keN")],
                401,
            ),
            (
                false,
                "t0ken",
                false,
                "/log",
                &[("authorization", "Bearer ")],
                401,
            ),
            (
                false,
                "t0ken",
                false,
                "/log",
                &[("authorization", "t0ken")],
                401,
            ),
            (false, "t0ken", false, "/log", &[], 401),
        ] {
            let gate = gate(loopback, token, open);
            assert_eq!(
                ask(&gate, "GET", path, headers),
                status,
                "{gate:?} {path} {headers:?}"
            );
        }
        let (parts, ()) = http::Request::get("/log").body(()).unwrap().into_parts();
        assert!(gate(false, "", false).pass(&parts, true).is_ok());
        assert!(!format!("{:?}", gate(false, "t0ken", false)).contains("t0ken"));
    }

    #[test]
    fn pages_change_nothing() {
        let gate = gate(true, "", false);
        for (headers, status) in [
            (&[][..], 200),
            (&[("sec-fetch-site", "none")], 200),
            (&[("sec-fetch-site", "same-origin")], 200),
            (&[("sec-fetch-site", "cross-site")], 403),
            (&[("sec-fetch-site", "same-site")], 403),
            (&[("origin", "http://127.0.0.1:9080")], 403),
            (&[("origin", "null")], 403),
        ] {
            assert_eq!(ask(&gate, "PUT", "/log", headers), status, "{headers:?}");
        }
    }

    #[test]
    fn a_name_that_anyone_may_have_is_not_answered_on_this_machine() {
        for (host, status) in [
            ("127.0.0.1:9080", 200),
            ("127.0.0.1", 200),
            ("[::1]:9080", 200),
            ("LocalHost:9080", 200),
            ("evil.example:9080", 403),
            ("localhost.evil.example", 403),
            ("127.0.0.1.evil.example", 403),
            ("a b", 403),
        ] {
            let host = [("host", host)];
            let local = gate(true, "", false);
            assert_eq!(ask(&local, "GET", "/log", &host), status, "{host:?}");
            assert_eq!(ask(&local, "GET", "/readyz", &host), 200, "{host:?}");
            let other = gate(false, "", true);
            assert_eq!(ask(&other, "GET", "/metrics", &host), 200, "{host:?}");
        }
    }
}

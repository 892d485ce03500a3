//! Development mode that nobody asked for is for the people on this machine. The node listens on a loopback address then, and
//! there are two ways to it all the same: a proxy on this machine, and a page whose name leads here (DNS rebinding).

use std::net::IpAddr;

use http::uri::Authority;
use http::{HeaderMap, StatusCode, Uri, header};

use super::error::Failure;

/// What proxies say of their clients.
const FORWARDED: [&str; 6] = [
    "forwarded",
    "via",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-real-ip",
];

/// Lets requests pass that come from this machine.
///
/// # Errors
/// 403 for those that show that they do not.
pub(super) fn judge(uri: &Uri, headers: &HeaderMap) -> Result<(), Failure> {
    if let Some(name) = FORWARDED.iter().find(|name| headers.contains_key(**name)) {
        return Err(refusal(&format!("this came through a proxy ({name})")));
    }
    let host = headers.get(header::HOST);
    let named = match (uri.authority(), host) {
        (Some(authority), _) => Some(authority.clone()),
        (None, Some(host)) => {
            let named = Authority::try_from(host.as_bytes());
            Some(named.map_err(|_| refusal("the name in `Host` is malformed"))?)
        }
        // No browser leaves it out.
        (None, None) => None,
    };
    match named {
        Some(named) if !is_own(named.host()) => Err(refusal(&format!(
            "`{}` is no name of this machine",
            named.host()
        ))),
        _ => Ok(()),
    }
}

/// A name without a dot is nobody's on the internet, and `localhost` (RFC 6761, section 6.3) is always this machine.
fn is_own(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let name = host.to_ascii_lowercase();
    bare.parse::<IpAddr>().is_ok() || !name.contains('.') || name.ends_with(".localhost")
}

fn refusal(what: &str) -> Failure {
    Failure::new(
        StatusCode::FORBIDDEN,
        format!(
            "{what}, and development mode is for this machine alone: say who may do what with [access], [tokens] or publish.keys, \
             or set http.trusted_proxies, or dev = true to let anyone in"
        ),
    )
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    #[test]
    fn names_of_this_machine() {
        for (host, is_own) in [
            ("127.0.0.1:8080", true),
            ("[::1]:8080", true),
            ("LocalHost:8080", true),
            ("app.localhost", true),
            ("workstation:8080", true),
            ("evil.example:8080", false),
            ("localhost.evil.example", false),
            ("127.0.0.1.evil.example", false),
            ("evil.example.", false),
            ("evil.", false),
            ("a b", false),
        ] {
            let headers = [(header::HOST, HeaderValue::from_static(host))];
            let headers = headers.into_iter().collect();
            let path = Uri::from_static("/rooms/a");
            assert_eq!(judge(&path, &headers).is_ok(), is_own, "{host}");
        }
        let none = HeaderMap::new();
        assert!(judge(&Uri::from_static("/"), &none).is_ok());
        assert!(judge(&Uri::from_static("http://evil.example/"), &none).is_err());
    }

    #[test]
    fn what_proxies_say() {
        for name in FORWARDED {
            let headers = [(HeaderName::from_static(name), HeaderValue::from_static("x"))];
            let headers = headers.into_iter().collect();
            let failure = judge(&Uri::from_static("/"), &headers).unwrap_err();
            assert_eq!(failure.status, StatusCode::FORBIDDEN);
        }
    }
}

//! Requests that a proxy in front could have understood differently: refused, together with whatever comes behind them on
//! their connection.
//!
//! hyper settles the length of a body: two lengths, blanks before a colon and continued lines are 400, and where a request is
//! chunked and has a length too, chunked counts and its connection is closed (RFC 9112, section 6.3). What it lets through is
//! judged here.

use http::uri::Authority;
use http::{HeaderMap, HeaderValue, StatusCode, Version, header};

use super::error::Failure;

/// Judges the headers that say where a request goes and where it ends.
///
/// # Errors
/// 400 for two `Host` headers, for one that names no host, and for none in HTTP/1.1 (RFC 9112, section 3.2); 501 for a transfer
/// coding other than `chunked` alone (section 6.1): a body in it would be stored as it came.
pub fn judge(version: Version, headers: &HeaderMap) -> Result<(), Failure> {
    let refuse = |status, sentence| {
        let close = HeaderValue::from_static("close");
        Err(Failure::new(status, sentence).with(header::CONNECTION, close))
    };
    let mut hosts = headers.get_all(header::HOST).iter();
    let wrong = match (hosts.next(), hosts.next()) {
        (_, Some(_)) => Some(
            "the request has two Host headers, and which of them counts cannot be known: send one",
        ),
        (Some(host), None) if !names_a_host(host) => {
            Some("the Host header is not the name or address of a host, with a port or without")
        }
        // HTTP/1.0 does not know it, and HTTP/2 has `:authority`.
        (None, None) if version == Version::HTTP_11 => {
            Some("the request has no Host header, which says whom it is for: send one")
        }
        _ => None,
    };
    if let Some(sentence) = wrong {
        return refuse(StatusCode::BAD_REQUEST, sentence);
    }
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    let Some(coding) = codings.next() else {
        return Ok(());
    };
    let chunked = coding
        .as_bytes()
        .trim_ascii()
        .eq_ignore_ascii_case(b"chunked");
    if chunked && codings.next().is_none() {
        return Ok(());
    }
    refuse(
        StatusCode::NOT_IMPLEMENTED,
        "the gateway knows no Transfer-Encoding but chunked, once: send the body without the others",
    )
}

/// Nothing is allowed too: where a URI has no host, `Host` is empty (RFC 9112, section 3.2). A login is not a part of it.
fn names_a_host(value: &HeaderValue) -> bool {
    let bytes = value.as_bytes();
    bytes.is_empty() || (!bytes.contains(&b'@') && Authority::try_from(bytes).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_has_one_meaning_goes_on() {
        let judged_as = |version, pairs: &[(&'static str, &'static str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in pairs {
                headers.append(*name, HeaderValue::from_static(value));
            }
            let failure = judge(version, &headers).err()?;
            assert_eq!(failure.header.unwrap().0, header::CONNECTION);
            Some(failure.status.as_u16())
        };
        assert_eq!(judged_as(Version::HTTP_11, &[]), Some(400));
        let judged = |pairs: &[(&'static str, &'static str)]| {
            let answer = judged_as(Version::HTTP_10, pairs);
            assert_eq!(judged_as(Version::HTTP_2, pairs), answer);
            if pairs.iter().any(|(name, _)| *name == "host") {
                assert_eq!(judged_as(Version::HTTP_11, pairs), answer);
            }
            answer
        };
        assert_eq!(judged(&[]), None);
        for host in ["", "a", "a_b.example:8080", "192.0.2.1", "[2001:db8::1]:80"] {
            assert_eq!(judged(&[("host", host)]), None, "{host}");
        }
        for host in ["a b", "a/b", "ann@a", "http://a", "a:b:c", "[::1"] {
            assert_eq!(judged(&[("host", host)]), Some(400), "{host}");
        }
        assert_eq!(
            judged(&[("host", "a"), ("transfer-encoding", "Chunked ")]),
            None
        );
        assert_eq!(judged(&[("host", "a"), ("host", "a")]), Some(400));
        for other in [
            "gzip, chunked",
            "identity, chunked",
            "chunked, chunked",
            "gzip",
            "",
        ] {
            assert_eq!(
                judged(&[("transfer-encoding", other)]),
                Some(501),
                "{other}"
            );
        }
        let twice = ("transfer-encoding", "chunked");
        assert_eq!(judged(&[twice, twice]), Some(501));
    }
}

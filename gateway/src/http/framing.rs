//! Requests that a proxy in front could have understood differently: refused, together with whatever comes behind them on
//! their connection.
//!
//! hyper settles the length of a body: two lengths, blanks before a colon and continued lines are 400, and where a request is
//! chunked and has a length too, chunked counts and its connection is closed (RFC 9112, section 6.3). What it lets through is
//! judged here.

use http::{HeaderMap, HeaderValue, StatusCode, header};

use super::error::Failure;

/// Judges the headers that say where a request goes and where it ends.
///
/// # Errors
/// 400 for two `Host` headers (RFC 9112, section 3.2); 501 for a transfer coding other than `chunked` alone (section 6.1):
/// a body in it would be stored as it came.
pub fn judge(headers: &HeaderMap) -> Result<(), Failure> {
    let refuse = |status, sentence| {
        let close = HeaderValue::from_static("close");
        Err(Failure::new(status, sentence).with(header::CONNECTION, close))
    };
    if headers.get_all(header::HOST).iter().nth(1).is_some() {
        return refuse(
            StatusCode::BAD_REQUEST,
            "the request has two Host headers, and which of them counts cannot be known: send one",
        );
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_has_one_meaning_goes_on() {
        let judged = |pairs: &[(&'static str, &'static str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in pairs {
                headers.append(*name, HeaderValue::from_static(value));
            }
            let failure = judge(&headers).err()?;
            assert_eq!(failure.header.unwrap().0, header::CONNECTION);
            Some(failure.status.as_u16())
        };
        assert_eq!(judged(&[]), None);
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

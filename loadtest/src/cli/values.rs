//! Values of flags as people write them.

use std::net::{SocketAddr, ToSocketAddrs};
use std::time::Duration;

use url::Url;

use super::Share;
use crate::plan::Spread;

/// `500ms`, `30s`, `10m`, `2h`; a number alone is seconds.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = split(text);
    let factor = match unit {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3_600.0,
        _ => return Err("write a time like 500ms, 30s, 10m or 2h".to_owned()),
    };
    let seconds = number.map(|number| number * factor);
    seconds
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .ok_or_else(|| "write a time like 500ms, 30s, 10m or 2h".to_owned())
}

/// `200`, `4K`, `1M`.
pub(super) fn bytes(text: &str) -> Result<usize, String> {
    let (number, unit) = split(text);
    let factor = match unit.to_ascii_lowercase().trim_end_matches('b') {
        "" => 1.0,
        "k" | "ki" => 1_024.0,
        "m" | "mi" => 1_048_576.0,
        _ => return Err("write a size like 200, 4K or 1M".to_owned()),
    };
    number
        .map(|number| (number * factor) as usize)
        .ok_or_else(|| "write a size like 200, 4K or 1M".to_owned())
}

/// `5/s` or `5`.
pub(super) fn per_second(text: &str) -> Result<f64, String> {
    let number = text.trim_end_matches("/s").parse().ok();
    number
        .filter(|number: &f64| number.is_finite() && *number > 0.0)
        .ok_or_else(|| "write a rate like 5/s".to_owned())
}

/// `3` or `5%`.
pub(super) fn share(text: &str) -> Result<Share, String> {
    let bad = || "write a number of clients, or a share like 5%".to_owned();
    match text.strip_suffix('%') {
        Some(percent) => match percent.parse::<f64>() {
            Ok(percent) if (0.0..=100.0).contains(&percent) => Ok(Share::Part(percent / 100.0)),
            _ => Err(bad()),
        },
        None => text.parse().map(Share::Count).map_err(|_| bad()),
    }
}

/// `Name: value`.
pub(super) fn header(text: &str) -> Result<(String, String), String> {
    let bad = || "write a header like 'Cookie: sse_token={token}'".to_owned();
    let (name, value) = text.split_once(':').ok_or_else(bad)?;
    let (name, value) = (name.trim(), value.trim());
    let known = http::HeaderName::try_from(name).is_ok();
    if !known || http::HeaderValue::try_from(value).is_err() {
        return Err(bad());
    }
    Ok((name.to_owned(), value.to_owned()))
}

/// `even`, `zipf`, `hot:0.5`.
pub(super) fn spread(text: &str) -> Result<Spread, String> {
    match text.split_once(':') {
        None if text == "even" => Ok(Spread::Even),
        None if text == "zipf" => Ok(Spread::Zipf),
        None if text == "hot" => Ok(Spread::Hot(0.5)),
        Some(("hot", part)) => match share(part) {
            Ok(Share::Part(part)) => Ok(Spread::Hot(part)),
            _ => part
                .parse()
                .ok()
                .filter(|part| (0.0..=1.0).contains(part))
                .map(Spread::Hot)
                .ok_or_else(|| "write a share from 0 to 1, like hot:0.5".to_owned()),
        },
        _ => Err("write even, zipf or hot:0.5".to_owned()),
    }
}

/// `http://HOST:PORT/path`.
#[derive(Debug)]
pub(super) struct HttpUrl {
    pub(super) address: SocketAddr,
    /// Without a slash at the end.
    pub(super) path: String,
    /// The host, where it is `https`.
    pub(super) secure: Option<String>,
}

/// Reads the URL of a gateway.
pub(super) fn http_url(text: &str) -> Result<HttpUrl, String> {
    let bad = |why: &str| format!("{text} is not a URL like http://127.0.0.1:8080: {why}");
    let url = Url::parse(text).map_err(|error| bad(&error.to_string()))?;
    if !["http", "https"].contains(&url.scheme()) {
        return Err(bad("only http:// and https:// are supported"));
    }
    let host = url.host_str().ok_or_else(|| bad("it names no host"))?;
    let host = host.trim_matches(['[', ']']);
    let port = url.port_or_known_default().unwrap_or(80);
    let address = (host, port)
        .to_socket_addrs()
        .map_err(|error| bad(&error.to_string()))?
        .next()
        .ok_or_else(|| bad("its host has no address"))?;
    Ok(HttpUrl {
        address,
        path: url.path().trim_end_matches('/').to_owned(),
        secure: (url.scheme() == "https").then(|| host.to_owned()),
    })
}

fn split(text: &str) -> (Option<f64>, &str) {
    let at = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let number = text[..at].parse().ok().filter(|n: &f64| n.is_finite());
    (number, text[at..].trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_sizes_are_read_as_people_write_them() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("2h"), Ok(Duration::from_secs(7_200)));
        assert_eq!(duration("1.5"), Ok(Duration::from_millis(1_500)));
        assert!(duration("soon").is_err() && duration("1 week").is_err() && duration("").is_err());
        assert_eq!(
            (bytes("200"), bytes("4K"), bytes("1MB")),
            (Ok(200), Ok(4_096), Ok(1_048_576))
        );
        assert!(bytes("-1").is_err());
    }

    #[test]
    fn urls_of_gateways_are_read() {
        let url = http_url("http://127.0.0.1:8080/a/").unwrap();
        assert_eq!((url.address.port(), url.path.as_str()), (8080, "/a"));
        assert_eq!(url.secure, None);
        let url = http_url("http://[::1]:9").unwrap();
        assert_eq!(url.address.to_string(), "[::1]:9");
        let url = http_url("https://127.0.0.1").unwrap();
        assert_eq!(
            (url.address.port(), url.secure.as_deref()),
            (443, Some("127.0.0.1"))
        );
        assert!(http_url("ftp://127.0.0.1").is_err() && http_url("127.0.0.1:80").is_err());
    }

    #[test]
    fn headers_have_a_name_and_a_value() {
        let read = header("Cookie: a={token}; b=c:d").unwrap();
        assert_eq!(read, ("Cookie".to_owned(), "a={token}; b=c:d".to_owned()));
        assert!(header("no colon").is_err() && header("a b: c").is_err());
        assert!(header("a: b\r\nc: d").is_err() && header(": x").is_err());
    }

    #[test]
    fn shares_and_spreads_have_bounds() {
        assert_eq!(share("5%"), Ok(Share::Part(0.05)));
        assert!(share("101%").is_err() && share("-1").is_err());
        assert_eq!(spread("hot:0.25"), Ok(Spread::Hot(0.25)));
        assert!(spread("hot:2").is_err() && spread("cold").is_err());
    }
}

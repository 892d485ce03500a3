//! The header of the PROXY protocol: its end does not depend on what is behind it, or on how it came.

use crate::http_files::proxy_header as parse;

/// The longest header that is read.
const MOST: usize = 536;

pub fn check(bytes: &[u8]) {
    let found = parse(bytes);
    match found {
        Some(Some((length, _))) => {
            assert!((1..=bytes.len().min(MOST)).contains(&length));
            assert_eq!(parse(&bytes[..length]), found, "what is behind it counts");
            for end in 0..length {
                assert_eq!(parse(&bytes[..end]), Some(None), "{end} of {length} bytes");
            }
            let more = [bytes, b"GET / HTTP/1.1\r\n\r\n"].concat();
            assert_eq!(parse(&more), found);
        }
        Some(None) => assert!(bytes.len() < MOST, "it would be waited for without end"),
        None => {
            let more = [bytes, b"\r\n"].concat();
            assert_eq!(parse(&more), None, "what is malformed stays so");
        }
    }
    // A name in it is one that a proxy wrote.
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Some(Some((length, Some(named)))) = found
        && text.starts_with("PROXY ")
    {
        let word = text[..length].split(' ').nth(2).unwrap();
        let written: std::net::IpAddr = word.parse().unwrap();
        assert_eq!(written.to_canonical(), named);
    }
}

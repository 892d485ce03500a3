//! Whom a proxy names: nothing that a client writes to the left of it may change that.

use std::net::IpAddr;

use http::{HeaderMap, HeaderValue};

use crate::config::Network;
use crate::http_files::proxies::TrustedProxies;

const PROXY: &str = "10.0.0.1";
const STRANGER: &str = "198.51.100.7";

fn headers(pairs: &[(&'static str, &[u8])]) -> Option<HeaderMap> {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        headers.append(*name, HeaderValue::from_bytes(value).ok()?);
    }
    Some(headers)
}

pub fn check(bytes: &[u8]) {
    let network: Network = "10.0.0.0/8".parse().unwrap();
    let proxies = TrustedProxies::new(vec![network]);
    let [proxy, stranger]: [IpAddr; 2] = [PROXY, STRANGER].map(|text| text.parse().unwrap());
    if let Some(text) = bytes.strip_prefix(b"/")
        && let Ok(network) = std::str::from_utf8(text)
            .unwrap_or_default()
            .parse::<Network>()
    {
        // A network has its own address in it.
        let first = std::str::from_utf8(text)
            .unwrap()
            .split('/')
            .next()
            .unwrap();
        assert!(network.contains(first.parse().unwrap()));
    }
    for name in ["x-forwarded-for", "forwarded"] {
        let Some(one) = headers(&[(name, bytes)]) else {
            return;
        };
        assert_eq!(
            proxies.client(stranger, &one),
            None,
            "a stranger is believed"
        );
        assert_eq!(TrustedProxies::default().client(proxy, &one), None);
        let named = proxies.client(proxy, &one);
        let element: &[u8] = if name == "forwarded" {
            b"for=203.0.113.9"
        } else {
            b"203.0.113.9"
        };
        // A line of its own, to the left: what a client sends itself.
        let spoofed = headers(&[(name, element), (name, bytes)]).unwrap();
        let found = proxies.client(proxy, &spoofed);
        if named.is_some_and(|named| !network.contains(named)) {
            assert_eq!(found, named, "the left counts");
            // In the same line.
            let line = [element, b", ", bytes].concat();
            let spoofed = headers(&[(name, &line)]).unwrap();
            assert_eq!(proxies.client(proxy, &spoofed), named, "the left counts");
        }
        // A proxy that adds whom it was asked by is believed, whatever it was given.
        let added = headers(&[(name, bytes), (name, element)]).unwrap();
        assert_eq!(
            proxies.client(proxy, &added),
            "203.0.113.9".parse().ok(),
            "the right does not count"
        );
    }
}

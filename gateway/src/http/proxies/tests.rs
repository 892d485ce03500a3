use http::HeaderValue;

use super::*;

fn proxies() -> TrustedProxies {
    let networks = ["10.0.0.0/8", "192.0.2.7", "fd00::/8"];
    TrustedProxies::new(networks.map(|network| network.parse().unwrap()).to_vec())
}

fn named(name: &'static str, lines: &[&str]) -> Option<String> {
    let mut headers = HeaderMap::new();
    for line in lines {
        headers.append(name, HeaderValue::from_bytes(line.as_bytes()).unwrap());
    }
    proxies().named(&headers).map(|address| address.to_string())
}

fn assert_named(name: &'static str, cases: &[(&[&str], Option<&str>)]) {
    for (lines, address) in cases {
        assert_eq!(named(name, lines).as_deref(), *address, "{name}: {lines:?}");
    }
}

#[test]
fn x_forwarded_for_is_read_from_the_right() {
    assert_named(
        "x-forwarded-for",
        &[
            (&["198.51.100.1"], Some("198.51.100.1")),
            (&["203.0.113.9, 198.51.100.1"], Some("198.51.100.1")),
            (
                &["203.0.113.9, 198.51.100.1, 10.1.2.3 ,192.0.2.7"],
                Some("198.51.100.1"),
            ),
            // Lines in order: the last one was added last.
            (
                &["203.0.113.9", "198.51.100.1", "10.0.0.1"],
                Some("198.51.100.1"),
            ),
            // What the client wrote does not matter, however wrong it is.
            (&["invented;\"[::, 198.51.100.1"], Some("198.51.100.1")),
            (&["\u{ff}", "198.51.100.1"], Some("198.51.100.1")),
            (&["198.51.100.1:4711"], Some("198.51.100.1")),
            (&["2001:db8::1"], Some("2001:db8::1")),
            (&["[2001:db8::1]:4711"], Some("2001:db8::1")),
            (&["[2001:db8::1], fd00::1"], Some("2001:db8::1")),
            (&["::ffff:198.51.100.1"], Some("198.51.100.1")),
            (&["198.51.100.1, ::ffff:10.0.0.1"], Some("198.51.100.1")),
            (&["198.51.100.1,, ,"], Some("198.51.100.1")),
            // Only proxies: the first of them asked.
            (&["10.0.0.2, 10.0.0.1"], Some("10.0.0.2")),
        ],
    );
}

#[test]
fn what_cannot_be_read_names_nobody() {
    let cases: [&[&str]; 14] = [
        &[],
        &[""],
        &[" , "],
        &["unknown"],
        &["198.51.100.1, unknown"],
        &["198.51.100.1, nobody, 10.0.0.1"],
        &["198.51.100.1:"],
        &["198.51.100.1:port"],
        &["198.51.100.1:123456"],
        &["[2001:db8::1"],
        &["[198.51.100.1]"],
        &["2001:db8::1%eth0"],
        &["198.51.100.1", "\u{ff}"],
        &["198.51.100.256"],
    ];
    for lines in cases {
        assert_eq!(named("x-forwarded-for", lines), None, "{lines:?}");
    }
}

#[test]
fn forwarded_is_read_from_the_right() {
    assert_named(
        "forwarded",
        &[
            (&["for=198.51.100.1"], Some("198.51.100.1")),
            (
                &["For=198.51.100.1;proto=https;by=10.0.0.1"],
                Some("198.51.100.1"),
            ),
            (
                &["for=203.0.113.9, for=198.51.100.1, for=10.0.0.1"],
                Some("198.51.100.1"),
            ),
            (
                &["for=203.0.113.9", "proto=http ; for=198.51.100.1"],
                Some("198.51.100.1"),
            ),
            (&["for=\"[2001:db8::1]:4711\""], Some("2001:db8::1")),
            (
                &["for=\"[2001:db8::1]\";host=\"a,b;c\""],
                Some("2001:db8::1"),
            ),
            (&["for=\"198.51.100.1:_hidden\""], Some("198.51.100.1")),
            (&["for=\"198.51\\.100.1\""], Some("198.51.100.1")),
            (&["for=_hidden, for=198.51.100.1"], Some("198.51.100.1")),
            (&["for=unknown"], None),
            (&["for=198.51.100.1, for=_hidden"], None),
            (&["for=198.51.100.1, for=unknown, for=10.0.0.1"], None),
            (&["for=198.51.100.1, proto=https"], None),
            (&["for=198.51.100.1;for=198.51.100.2"], None),
            (&["for=\"198.51.100.1"], None),
            (&["for="], None),
            (&["198.51.100.1"], None),
        ],
    );
}

#[test]
fn two_headers_have_to_name_the_same() {
    for (forwarded, named) in [
        ("for=198.51.100.1", Some("198.51.100.1")),
        (
            "for=203.0.113.9, for=\"198.51.100.1:4711\", for=10.0.0.1",
            Some("198.51.100.1"),
        ),
        ("for=198.51.100.2", None),
        ("for=unknown", None),
        ("for", None),
    ] {
        let mut headers = HeaderMap::new();
        headers.insert("forwarded", HeaderValue::from_static(forwarded));
        headers.insert("x-forwarded-for", HeaderValue::from_static("198.51.100.1"));
        let proxies = proxies();
        let found = proxies.named(&headers).map(|address| address.to_string());
        assert_eq!(found.as_deref(), named, "{forwarded}");
        assert_eq!(proxies.told.load(Ordering::Relaxed), named.is_none());
    }
}

#[test]
fn only_trusted_peers_speak_for_others() {
    let mut headers = HeaderMap::new();
    headers.insert("x-forwarded-for", HeaderValue::from_static("198.51.100.1"));
    let client = |peer: &str| proxies().client(peer.parse().unwrap(), &headers);
    assert!(
        client("10.255.0.1").is_some()
            && client("::ffff:10.0.0.1").is_some()
            && client("fd12::1").is_some()
    );
    assert!(
        client("11.0.0.1").is_none()
            && client("192.0.2.8").is_none()
            && client("fe80::1").is_none()
    );
    let nobody = TrustedProxies::default();
    let mut headers = HeaderMap::new();
    headers.insert("x-forwarded-for", HeaderValue::from_static("198.51.100.1"));
    assert_eq!(nobody.named(&headers), None);
}

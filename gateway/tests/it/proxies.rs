//! The PROXY protocol: proxies that do not speak HTTP name their clients before anything else.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use crate::support::http2::Stream;
use crate::support::{Authority, Gateway, Http2, Setup};

const DROPPED: &str = "sse_gateway_http_connections_dropped_total{reason=\"proxy_header\"}";
const STREAM: &str = "GET /rooms/demo/events HTTP/1.1\r\nHost: x\r\n\r\n";
const TEXT: &[u8] = b"PROXY TCP4 198.51.100.1 10.0.0.1 56324 443\r\n";

/// The same of version 2, with an extension.
fn binary(client: [u8; 4]) -> Vec<u8> {
    let prefix = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x11";
    let rest = [10, 0, 0, 1, 0x30, 0x39, 0, 80, 1, 0, 2, b'h', b'2'];
    [&prefix[..], &client, &rest].concat()
}

fn setup() -> Setup {
    Setup::memory()
        .set("http.proxy_protocol", "true")
        .set("http.trusted_proxies", "127.0.0.1")
        .set("limits.streams_per_address", "1")
        .set("log.access", "true")
}

/// Connects from an address of this machine.
async fn connect(to: SocketAddr, from: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket
        .bind(SocketAddr::new(from.parse().unwrap(), 0))
        .unwrap();
    let socket = socket.connect(to).await.unwrap();
    socket.set_nodelay(true).unwrap();
    socket
}

/// Writes the parts, and reads until `end`, or until there is no more.
async fn exchange(
    gateway: &Gateway,
    from: &str,
    parts: &[&[u8]],
    end: &str,
) -> (TcpStream, String) {
    let mut socket = connect(gateway.address, from).await;
    for part in parts {
        // A connection that is closed already is seen below.
        let _ = socket.write_all(part).await;
        tokio::task::yield_now().await;
    }
    let mut text = Vec::new();
    let reading = async {
        while !String::from_utf8_lossy(&text).contains(end) {
            if !matches!(socket.read_buf(&mut text).await, Ok(1..)) {
                break;
            }
        }
    };
    tokio::time::timeout(crate::support::DEADLINE, reading)
        .await
        .unwrap();
    (socket, String::from_utf8(text).unwrap())
}

/// Opens a stream, and says which event its answer ends with.
async fn open(gateway: &Gateway, from: &str, parts: &[&[u8]]) -> (TcpStream, &'static str) {
    let (socket, text) = exchange(gateway, from, parts, "\n\n").await;
    let event = ["stream.open", "stream.close"]
        .into_iter()
        .find(|event| text.contains(event));
    (socket, event.unwrap_or_else(|| panic!("{text:?}")))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trusted_proxy_names_its_client() {
    let gateway = setup().start().await;
    let at = "127.0.0.1";
    let (_one, event) = open(&gateway, at, &[TEXT, STREAM.as_bytes()]).await;
    assert_eq!(event, "stream.open");
    let log = gateway.log();
    assert!(log.contains("\"client\":\"198.51.100.1\""), "{log}");
    // The same client by the other version, and in one piece, or in many.
    let header = binary([198, 51, 100, 1]);
    let whole = [&header, STREAM.as_bytes()].concat();
    let bytes: Vec<&[u8]> = whole.chunks(1).collect();
    for parts in [&[&whole[..]][..], &bytes, &[&header, STREAM.as_bytes()]] {
        assert_eq!(open(&gateway, at, parts).await.1, "stream.close");
    }
    // It is no proxy: what it says of others is not listened to.
    let request =
        "GET /rooms/demo/events HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 203.0.113.9\r\n\r\n";
    assert_eq!(
        open(&gateway, at, &[TEXT, request.as_bytes()]).await.1,
        "stream.close"
    );
    // A proxy behind a proxy is one.
    let inner = b"PROXY TCP4 127.0.0.1 10.0.0.1 56324 443\r\n";
    let (_two, event) = open(&gateway, at, &[inner, request.as_bytes()]).await;
    assert_eq!(event, "stream.open");
    let log = gateway.log();
    assert!(log.contains("\"client\":\"203.0.113.9\""), "{log}");
    // Who speaks for itself is the proxy.
    for own in [
        &b"PROXY UNKNOWN\r\n"[..],
        b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00",
    ] {
        let (stream, event) = open(&gateway, at, &[own, STREAM.as_bytes()]).await;
        assert_eq!(event, "stream.open", "{own:?}");
        drop(stream);
        eventually!(gateway.metric("sse_gateway_streams_open").await == Some(2.0));
    }
    assert_eq!(gateway.metric(DROPPED).await.unwrap_or(0.0), 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_header_a_proxy_is_not_served() {
    let gateway = setup().set("http.head_timeout", "300ms").start().await;
    let mut dropped = 0.0;
    let long = [b"PROXY UNKNOWN ", &[b'x'; 1000][..]].concat();
    let length = [&binary([1; 4])[..14], &[0xff, 0xff], &[0; 2000]].concat();
    for header in [
        STREAM.as_bytes(),
        b"PROXY TCP4 198.51.100.1\r\nGET",
        b"PROXY TCP9 198.51.100.1 10.0.0.1 1 1\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        &long,
        &length,
    ] {
        let (_, text) = exchange(&gateway, "127.0.0.1", &[header], "never").await;
        assert_eq!(text, "", "{header:?}");
        dropped += 1.0;
        eventually!(gateway.metric(DROPPED).await == Some(dropped), "{header:?}");
    }
    // Half a header, or none, in time.
    for header in [&TEXT[..20], b""] {
        let (_, text) = exchange(&gateway, "127.0.0.1", &[header], "never").await;
        assert_eq!(text, "");
    }
    assert_eq!(gateway.metric(DROPPED).await, Some(dropped));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_no_proxy_speaks_for_itself() {
    let gateway = setup().start().await;
    let (_stream, event) = open(&gateway, "127.0.0.2", &[STREAM.as_bytes()]).await;
    assert_eq!(event, "stream.open");
    let request = [TEXT, STREAM.as_bytes()].concat();
    let (_, text) = exchange(&gateway, "127.0.0.2", &[&request], "never").await;
    assert!(text.starts_with("HTTP/1.1 400 "), "{text}");
    assert!(!gateway.log().contains("198.51.100.1"));
    let off = Setup::memory()
        .set("http.trusted_proxies", "127.0.0.1")
        .start()
        .await;
    let (_, text) = exchange(&off, "127.0.0.1", &[&request], "never").await;
    assert!(text.starts_with("HTTP/1.1 400 "), "{text}");
}

/// The header comes before TLS, and HTTP/2 is chosen as ever.
#[tokio::test(flavor = "multi_thread")]
async fn it_comes_before_tls() {
    let authority = Authority::new();
    let gateway = authority.secure(setup()).start().await;
    for (protocols, client) in [(&[][..], [198, 51, 100, 1]), (&["h2"], [198, 51, 100, 2])] {
        let mut socket = connect(gateway.address, "127.0.0.1").await;
        socket.write_all(&binary(client)).await.unwrap();
        let mut stream = authority
            .connect_over(socket, None, protocols)
            .await
            .unwrap();
        if protocols.is_empty() {
            stream.write_all(STREAM.as_bytes()).await.unwrap();
            let mut text = Vec::new();
            while !text.ends_with(b"\n\n\r\n") {
                assert_ne!(stream.read_buf(&mut text).await.unwrap(), 0);
            }
        } else {
            let client = Http2::over(stream).await;
            let answer = client
                .send("GET", "/rooms/demo/events", &[], b"")
                .await
                .unwrap();
            Stream::read(answer).wait("stream.open").await;
        }
        let [a, b, c, d] = client;
        let line = format!("\"client\":\"{a}.{b}.{c}.{d}\"");
        assert!(gateway.log().contains(&line), "{}", gateway.log());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_headers_that_differ_are_told_once() {
    let setup = Setup::memory().set("http.trusted_proxies", "127.0.0.1");
    let gateway = setup.set("limits.streams_per_address", "1").start().await;
    let request = "GET /rooms/demo/events HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 198.51.100.1\r\nForwarded: for=198.51.100.2\r\n\r\n";
    let (_one, event) = open(&gateway, "127.0.0.1", &[request.as_bytes()]).await;
    assert_eq!(event, "stream.open");
    // Both are the proxy's own.
    let (_, event) = open(&gateway, "127.0.0.1", &[request.as_bytes()]).await;
    assert_eq!(event, "stream.close");
    let log = gateway.log();
    assert_eq!(log.matches("neither counts").count(), 1, "{log}");
}

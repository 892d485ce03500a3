//! HTTP/2: many tabs on one connection, and everything else that HTTP/1.1 answers.

use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::http2::Stream;
use crate::support::{Authority, Client, DEADLINE, Gateway, Http2, Setup};

const OPEN: &str = "sse_gateway_streams_open";

async fn wait_metric(gateway: &Gateway, series: &str, value: f64) {
    eventually!(
        gateway.metric(series).await == Some(value),
        "{series} is not {value}: {:?}",
        gateway.metric(series).await
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_and_fifty_tabs_share_a_connection() {
    let gateway = Setup::memory().start().await;
    let client = Http2::connect(gateway.address).await;
    let mut tabs = Vec::new();
    for number in 0..250 {
        tabs.push(client.open(&format!("room-{}", number % 3)).await);
        if [7, 20, 100, 250].contains(&(number + 1)) {
            let id = gateway
                .publish("room-0", "chat", &format!("to {number}"))
                .await;
            for tab in tabs.iter().step_by(3) {
                tab.wait(&format!("id: {id}\nevent: chat\ndata: to {number}\n\n"))
                    .await;
            }
        }
    }
    assert_eq!(gateway.metric(OPEN).await, Some(250.0));
    // There is room for other requests besides.
    let answer = client
        .request("POST", "/rooms/room-1/events", &[], b"hello")
        .await;
    assert_eq!(answer.status(), 201);
    for tab in tabs.iter().skip(1).step_by(3) {
        tab.wait("data: hello\n\n").await;
    }
    assert!(!tabs[0].text().contains("hello"));
    // Who closes a tab leaves the others.
    tabs.truncate(100);
    wait_metric(&gateway, OPEN, 100.0).await;
    gateway.publish("room-0", "chat", "still here").await;
    for tab in tabs.iter().step_by(3) {
        tab.wait("data: still here\n\n").await;
        assert_eq!(tab.end(), None);
    }
    client.cut();
    wait_metric(&gateway, OPEN, 0.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_the_same_as_over_http_1() {
    let setup = Setup::memory().set("http.allowed_origins", "https://app.example");
    let gateway = setup.start().await;
    let first = gateway.publish("demo", "chat", "one\ntwo").await;
    gateway.publish("demo", "chat", "three").await;
    let client = Http2::connect(gateway.address).await;
    let target = format!("/rooms/demo/events?padding=true&lastEventId={first}");
    let origin = ("origin", "https://app.example");
    let stream = client.stream(&target, &[origin]).await;
    stream.wait("data: three\n\n").await;
    let old = Client::of_target(&[gateway.address], &target)
        .header(origin.0, origin.1)
        .keep_bytes();
    let old = old.open().await;
    old.wait_events(1).await;
    gateway.publish("demo", "", "four").await;
    stream.wait("data: four\n\n").await;
    old.wait_events(2).await;
    assert_eq!(
        stream.text(),
        String::from_utf8(old.seen().body.clone()).unwrap()
    );
    let head = old.seen().head.clone().unwrap();
    for (name, value) in &head.headers {
        let here = stream
            .headers
            .get(name)
            .map(|value| value.to_str().unwrap());
        match name.as_str() {
            "transfer-encoding" => assert_eq!(here, None),
            "date" => assert!(here.is_some()),
            _ => assert_eq!(here, Some(value.as_str()), "{name}"),
        }
    }
    assert_eq!(stream.headers.len() + 1, head.headers.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn other_requests_are_answered_as_over_http_1() {
    let gateway = Setup::memory().start().await;
    gateway.publish("demo", "chat", "hi").await;
    let client = Http2::connect(gateway.address).await;
    let json = [("accept", "application/json")];
    for (method, target, headers) in [
        ("GET", "/rooms/demo", &[][..]),
        ("GET", "/rooms/demo/events", &json),
        ("HEAD", "/rooms/demo/events", &[]),
        ("HEAD", "/rooms/demo", &[]),
        ("OPTIONS", "/rooms/demo/events", &[]),
        ("GET", "/rooms/%zz/events", &[]),
        ("DELETE", "/rooms/demo", &[]),
        (
            "GET",
            "/rooms/demo/events",
            &[("origin", "https://evil.example")],
        ),
        ("GET", "/", &[]),
    ] {
        let here = client.request(method, target, headers, b"").await;
        let there =
            crate::support::http::request(gateway.address, method, target, headers, b"").await;
        assert_eq!(here.status().as_u16(), there.status, "{method} {target}");
        assert_eq!(here.body(), &there.body, "{method} {target}");
        for (name, value) in &there.headers {
            let same = here
                .headers()
                .get(name)
                .map(|value| value.to_str().unwrap());
            if name == "connection" {
                assert_eq!(same, None, "{method} {target}");
            } else if name != "date" && name != "transfer-encoding" {
                assert_eq!(same, Some(value.as_str()), "{method} {target}: {name}");
            }
        }
    }
    let body = serde_json::json!({ "event": "chat", "data": "x".repeat(60_000) }).to_string();
    let headers = [
        ("content-type", "application/json"),
        ("idempotency-key", "k"),
    ];
    for status in [201, 200] {
        let answer = client
            .request("POST", "/rooms/demo/events", &headers, body.as_bytes())
            .await;
        assert_eq!(answer.status(), status);
    }
    let answer = client
        .request("POST", "/rooms/demo/events", &[], &vec![b'x'; 100_000])
        .await;
    assert_eq!(answer.status(), 413);
}

/// A client that stops reading one stream holds up neither its others nor the node, and loses nothing.
#[tokio::test(flavor = "multi_thread")]
async fn who_reads_late_gets_everything_and_holds_nobody_up() {
    let setup = Setup::memory().set("stream.log_bytes", "262144");
    let gateway = setup.set("shards", "1").start().await;
    let client = Http2::connect(gateway.address).await;
    let slow = client
        .send("GET", "/rooms/demo/events", &[], b"")
        .await
        .unwrap();
    let quick = client.open("demo").await;
    let mut want = Vec::new();
    // More than the windows and the room log hold: hyper's client takes 5 MB of a connection.
    for number in 0..60u32 {
        let data = format!("{number}-{}", "x".repeat(60_000));
        gateway.publish("demo", "bulk", &data).await;
        want.push(data);
        eventually!(
            quick.data().len() == want.len(),
            "{} of {}",
            quick.data().len(),
            want.len()
        );
    }
    let slow = Stream::read(slow);
    eventually!(
        slow.data().len() >= want.len(),
        "{} of {}",
        slow.data().len(),
        want.len()
    );
    assert!(slow.data() == want && quick.data() == want);
    assert!(!slow.text().contains("stream.reset"));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_reads_nothing_is_closed() {
    let setup = Setup::memory()
        .set("stream.lag_timeout", "300ms")
        .set("stream.log_bytes", "262144");
    let gateway = setup.set("shards", "1").start().await;
    let client = Http2::connect(gateway.address).await;
    let quick = client.open("demo").await;
    let stalled = client
        .send("GET", "/rooms/demo/events", &[], b"")
        .await
        .unwrap();
    wait_metric(&gateway, OPEN, 2.0).await;
    for number in 0..60u32 {
        let data = format!("{number}-{}", "x".repeat(60_000));
        gateway.publish("demo", "bulk", &data).await;
        quick.wait(&format!("data: {number}-")).await;
    }
    let lag = "sse_gateway_streams_closed_total{reason=\"lag\"}";
    wait_metric(&gateway, lag, 1.0).await;
    // What it had been given comes, and then a reset.
    let rest = stalled.into_body().collect().await;
    assert!(
        rest.is_err(),
        "a clean end is the last word for some clients"
    );
    gateway.publish("demo", "chat", "on").await;
    quick.wait("data: on\n\n").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_stops_says_so_and_ends_its_connections() {
    for (clean, spread) in [(false, "0s"), (true, "300ms")] {
        let setup = Setup::memory()
            .set("http.unclean_close", &(!clean).to_string())
            .set("drain.spread", spread);
        let mut gateway = setup.start().await;
        let client = Http2::connect(gateway.address).await;
        let mut tabs = Vec::new();
        for _ in 0..20 {
            tabs.push(client.open("demo").await);
        }
        gateway.signal("TERM");
        for tab in &tabs {
            eventually!(tab.end().is_some(), "{}", tab.text());
            let text = tab.text();
            let close = text.rsplit_once("event: stream.close\n").unwrap().1;
            assert!(close.contains("retry: 2000\n") && close.contains("\"reason\":\"drain\""));
            let end = tab.end().unwrap();
            assert_eq!(end.is_ok(), clean, "{end:?}");
            if let Err(error) = end {
                assert!(error.contains("CANCEL"), "{error}");
            }
        }
        eventually!(client.has_ended());
        assert_eq!(gateway.wait_exit().await, Some(0));
    }
}

/// It would come back to the same node otherwise.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_too_old_sends_its_client_to_another_connection() {
    let setup = Setup::memory().set("stream.max_age", "10s");
    let gateway = setup.start().await;
    let client = Http2::connect(gateway.address).await;
    let mut tabs = Vec::new();
    for _ in 0..40 {
        tabs.push(client.open("demo").await);
    }
    eventually!(
        client.send("GET", "/rooms/demo", &[], b"").await.is_err(),
        "it was not told to go"
    );
    // What is there goes on until its own end: those who are younger too are told so.
    for tab in &tabs {
        eventually!(tab.end().is_some(), "{}", tab.text());
        let text = tab.text();
        let close = text.rsplit_once("event: stream.close\n").unwrap().1;
        assert!(close.contains("\"reason\":\"age\""), "{text}");
    }
    eventually!(client.has_ended());
    let again = Http2::connect(gateway.address).await;
    again.open("demo").await;
    let aged = "sse_gateway_streams_closed_total{reason=\"age\"}";
    assert_eq!(gateway.metric(aged).await, Some(40.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_count_streams_not_connections() {
    let setup = Setup::memory()
        .set("limits.streams_per_address", "2")
        .set("log.access", "true");
    let gateway = setup.start().await;
    let client = Http2::connect(gateway.address).await;
    let one = client.open("a").await;
    let _two = client.open("b").await;
    let refused = client.stream("/rooms/c/events", &[]).await;
    eventually!(refused.end().is_some(), "{}", refused.text());
    assert!(
        refused.text().contains("\"reason\":\"limit\""),
        "{}",
        refused.text()
    );
    assert!(refused.text().contains("\nretry: "));
    assert!(refused.end().unwrap().is_err());
    drop(one);
    wait_metric(&gateway, OPEN, 1.0).await;
    let _three = client.open("a").await;
    let log = gateway.log();
    let line = log.lines().find(|line| line.contains("A stream opened."));
    assert!(line.unwrap().contains("\"client\":\"127.0.0.1:"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_preface_may_come_in_parts_and_other_bytes_are_http_1() {
    let gateway = Setup::memory().start().await;
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    for cut in [1, 4, 23, 24, 30] {
        let mut socket = TcpStream::connect(gateway.address).await.unwrap();
        socket.set_nodelay(true).unwrap();
        for part in [&preface[..cut], &preface[cut..]] {
            socket.write_all(part).await.unwrap();
            // The kernel keeps a first part to itself for a second.
            tokio::task::yield_now().await;
        }
        let mut answer = [0; 9];
        socket.read_exact(&mut answer).await.unwrap();
        // SETTINGS (RFC 9113, section 6.5).
        assert_eq!((answer[3], &answer[5..]), (4, &[0; 4][..]), "cut at {cut}");
    }
    for (request, status) in [
        (
            "PRI /rooms/a HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
            "405",
        ),
        ("P", ""),
        ("PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n", "400"),
    ] {
        let mut socket = TcpStream::connect(gateway.address).await.unwrap();
        socket.write_all(request.as_bytes()).await.unwrap();
        socket.shutdown().await.unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.unwrap();
        let found = answer.split(' ').nth(1).unwrap_or_default();
        assert_eq!(found, status, "{request:?}: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_it_is_off_nobody_speaks_it() {
    let authority = Authority::new();
    let plain = Setup::memory().set("http.http2", "false").start().await;
    let mut socket = TcpStream::connect(plain.address).await.unwrap();
    socket
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
        .await
        .unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, "");
    let setup = authority.secure(Setup::memory()).set("http.http2", "false");
    let secure = setup.start().await;
    let stream = authority.connect(secure.address, None, &["h2", "http/1.1"]);
    let stream = stream.await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_without_requests_is_closed() {
    let setup = Setup::memory().set("http.head_timeout", "300ms");
    let gateway = setup.start().await;
    let idle = Http2::connect(gateway.address).await;
    let used = Http2::connect(gateway.address).await;
    let tab = used.open("demo").await;
    eventually!(idle.has_ended());
    gateway.publish("demo", "chat", "hi").await;
    tab.wait("data: hi\n\n").await;
    assert!(!used.has_ended());
}

#[tokio::test(flavor = "multi_thread")]
async fn over_tls_it_is_chosen_by_alpn() {
    let authority = Authority::new();
    let gateway = authority.secure(Setup::memory()).start().await;
    let stream = authority.connect(gateway.address, None, &["h2", "http/1.1"]);
    let stream = stream.await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let client = Http2::over(stream).await;
    let mut tabs = Vec::new();
    for _ in 0..20 {
        tabs.push(client.open("demo").await);
    }
    let data = "x".repeat(60_000);
    let answer = client
        .request("POST", "/rooms/demo/events", &[], data.as_bytes())
        .await;
    assert_eq!(answer.status(), 201);
    for tab in &tabs {
        tab.wait(&format!("data: {data}\n\n")).await;
    }
    drop(tabs);
    wait_metric(&gateway, OPEN, 0.0).await;
}

/// A frame (RFC 9113, section 4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let stream = stream.to_be_bytes();
    [&length[1..], &[kind, flags], &stream, payload].concat()
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const CONTINUATION: u8 = 9;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// `GET /rooms/demo/events`, in HPACK without Huffman codes and without the table (RFC 7541).
fn head() -> Vec<u8> {
    let path = b"/rooms/demo/events";
    [&[0x82, 0x86, 0x04, 18][..], path, &[0x01, 1, b'x']].concat()
}

/// Reads frames until one of this kind and with this flag; gives the kinds of those of stream 1 among them.
async fn kinds_until(socket: &mut TcpStream, kind: u8, flag: u8) -> Vec<u8> {
    let mut kinds = Vec::new();
    let reading = async {
        loop {
            let mut head = [0; 9];
            socket.read_exact(&mut head).await.unwrap();
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let mut payload = vec![0; length as usize];
            socket.read_exact(&mut payload).await.unwrap();
            if head[5..] == 1u32.to_be_bytes() {
                kinds.push(head[3]);
            }
            if head[3] == kind && head[4] & flag != 0 {
                break;
            }
        }
    };
    tokio::time::timeout(DEADLINE, reading).await.unwrap();
    kinds
}

/// Who is told while it still sends, and has its stream taken back by that, may never read what it is told (curl 7.88).
#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_waits_for_a_short_body() {
    let gateway = Setup::memory().start().await;
    // Nothing is published there: the answer is clear before the body has come.
    let path = b"/rooms/demo";
    let post = [&[0x83, 0x86, 0x04, 11][..], path, &[0x01, 1, b'x']].concat();
    let mut socket = TcpStream::connect(gateway.address).await.unwrap();
    let start = [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        &frame(SETTINGS, 0, 0, &[])[..],
        &frame(HEADERS, END_HEADERS, 1, &post),
        &frame(PING, 0, 0, &[1; 8]),
    ]
    .concat();
    socket.write_all(&start).await.unwrap();
    let mut kinds = kinds_until(&mut socket, PING, ACK).await;
    let rest = frame(DATA, END_STREAM, 1, b"hi");
    socket.write_all(&rest).await.unwrap();
    kinds.extend(kinds_until(&mut socket, DATA, END_STREAM).await);
    let last = frame(PING, 0, 0, &[2; 8]);
    socket.write_all(&last).await.unwrap();
    kinds.extend(kinds_until(&mut socket, PING, ACK).await);
    assert_eq!(kinds, [HEADERS, DATA]);
}

/// What a client writes that never reads, until the gateway cuts it off or there is no more.
async fn attack(gateway: &Gateway, frames: impl Iterator<Item = Vec<u8>>) -> bool {
    let mut socket = TcpStream::connect(gateway.address).await.unwrap();
    let start = [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        &frame(SETTINGS, 0, 0, &[])[..],
    ]
    .concat();
    socket.write_all(&start).await.unwrap();
    for bytes in frames {
        let writing = socket.write_all(&bytes);
        match tokio::time::timeout(std::time::Duration::from_millis(500), writing).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return true,
            // The gateway reads no more than it can answer.
            Err(_) => return false,
        }
    }
    // Whatever it has said, it ends the connection.
    let mut answer = Vec::new();
    let reading = socket.read_to_end(&mut answer);
    let ended = tokio::time::timeout(std::time::Duration::from_secs(5), reading).await;
    ended.is_ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn floods_end_their_own_connection_and_nobody_elses() {
    let setup = Setup::memory().set("shards", "1");
    // Not what ends them.
    let gateway = setup.set("http.head_timeout", "1h").start().await;
    let client = Http2::connect(gateway.address).await;
    let tab = client.open("other").await;
    // Requests that are taken back at once (CVE-2023-44487).
    let rapid = (0..20_000u32).map(|number| {
        let stream = 2 * number + 1;
        let code = 8u32.to_be_bytes();
        [
            frame(HEADERS, 5, stream, &head()),
            frame(RST_STREAM, 0, stream, &code),
        ]
        .concat()
    });
    assert!(attack(&gateway, rapid).await, "rapid reset");
    // A head without end (CVE-2024-27316).
    let begin = std::iter::once(frame(HEADERS, 1, 1, &head()));
    let more = [&[0x00, 1, b'a', 100][..], &[b'b'; 100]]
        .concat()
        .repeat(100);
    let endless = begin.chain((0..2000).map(|_| frame(CONTINUATION, 0, 1, &more)));
    assert!(attack(&gateway, endless).await, "continuation");
    let empty = std::iter::once(frame(HEADERS, 1, 1, &head()));
    let empty = empty.chain((0..20_000).map(|_| frame(CONTINUATION, 0, 1, &[])));
    assert!(attack(&gateway, empty).await, "empty frames");
    // What has to be answered, by a client that does not read.
    let pings = (0..200).map(|_| frame(PING, 0, 0, &[0; 8]).repeat(1000));
    attack(&gateway, pings).await;
    let settings = (0..200).map(|_| frame(SETTINGS, 0, 0, &[]).repeat(1000));
    attack(&gateway, settings).await;
    gateway.publish("other", "chat", "hi").await;
    tab.wait("data: hi\n\n").await;
    assert_eq!(tab.end(), None);
    wait_metric(&gateway, OPEN, 1.0).await;
    let memory = gateway
        .metric("process_resident_memory_bytes")
        .await
        .unwrap();
    assert!(memory < 200e6, "{memory}");
}

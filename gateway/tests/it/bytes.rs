//! What travels on the socket, byte by byte.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::redis::key;
use crate::support::{Client, Gateway, RedisServer, Setup, http};

const OPEN: &str = "id: 0-0\nevent: stream.open\nretry: 2000\ndata: {\"room\":\"demo\",\"node\":\"n1\",\"live\":true}\n\n";

/// Fields of entries and the block that each becomes; the ids are 1-1, 2-1 and so on.
const VECTORS: &[(&[&str], &str)] = &[
    (
        &["event", "chat", "data", "hi"],
        "event: chat\ndata: hi\n\n",
    ),
    (&["data", "no name"], "data: no name\n\n"),
    (&["event", "", "data", "empty name"], "data: empty name\n\n"),
    (&["data", ""], "data: \n\n"),
    (
        &["data", "a\nb\rc\r\nd"],
        "data: a\ndata: b\ndata: c\ndata: d\n\n",
    ),
    (&["data", "ends\n"], "data: ends\ndata: \n\n"),
    (&["data", "\n"], "data: \ndata: \n\n"),
    (&["data", "\r\n\r\n"], "data: \ndata: \ndata: \n\n"),
    (&["data", "\n\r"], "data: \ndata: \ndata: \n\n"),
    (&["data", " led by a blank"], "data:  led by a blank\n\n"),
    (
        &["data", ": id: 9\ndata: x"],
        "data: : id: 9\ndata: data: x\n\n",
    ),
    (
        &["event", "größe ☃", "data", "🦀 ü\u{2028}"],
        "event: größe ☃\ndata: 🦀 ü\u{2028}\n\n",
    ),
    (&["data", "\u{feff}mark"], "data: \u{feff}mark\n\n"),
    (
        &["a", "1", "b", "x\"y"],
        "data: {\"a\":\"1\",\"b\":\"x\\\"y\"}\n\n",
    ),
    (
        &["event", "row", "a", "1"],
        "event: row\ndata: {\"a\":\"1\"}\n\n",
    ),
];

fn blocks() -> Vec<String> {
    VECTORS
        .iter()
        .zip(1..)
        .map(|((_, block), number)| format!("id: {number}-1\n{block}"))
        .collect()
}

async fn gateway_with_vectors() -> (RedisServer, Gateway) {
    let redis = RedisServer::start().await;
    let gateway = Setup::redis(&redis).node("n1").start().await;
    for ((fields, _), number) in VECTORS.iter().zip(1..) {
        let (key, id) = (key("demo"), format!("{number}-1"));
        redis.call(&[&["XADD", &key, &id], *fields].concat()).await;
    }
    (redis, gateway)
}

async fn compare(client: &Client, want: &str) {
    eventually!(
        client.seen().body.len() >= want.len(),
        "got {:?}",
        String::from_utf8_lossy(&client.seen().body)
    );
    assert_eq!(String::from_utf8_lossy(&client.seen().body), want);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_these_bytes_replayed_and_live_chunked_and_bare() {
    let (redis, gateway) = gateway_with_vectors().await;
    let chunked = Client::of(&[gateway.address], "demo")
        .last_event_id("0-0")
        .once()
        .keep_bytes()
        .open()
        .await;
    let bare = Client::of(&[gateway.address], "demo")
        .last_event_id("0-0")
        .once()
        .http10()
        .keep_bytes()
        .open()
        .await;
    let replayed = OPEN.to_owned() + &blocks().concat();
    compare(&chunked, &replayed).await;
    compare(&bare, &replayed).await;

    redis
        .call(&[
            "XADD",
            &key("demo"),
            "1000-0",
            "event",
            "chat",
            "data",
            "a\nb",
        ])
        .await;
    let live = replayed + "id: 1000-0\nevent: chat\ndata: a\ndata: b\n\n";
    compare(&chunked, &live).await;
    compare(&bare, &live).await;

    redis
        .call(&[
            "PUBLISH",
            &key("demo"),
            r#"{"event":"typing","data":"ann"}"#,
        ])
        .await;
    let live = live + "event: typing\ndata: ann\n\n";
    compare(&chunked, &live).await;
    compare(&bare, &live).await;
    for client in [&chunked, &bare] {
        assert_eq!(client.seen().connections, 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_event_is_one_chunk() {
    let (redis, gateway) = gateway_with_vectors().await;
    let client = Client::of(&[gateway.address], "demo")
        .last_event_id("0-0")
        .once()
        .keep_bytes()
        .open()
        .await;
    redis
        .call(&["XADD", &key("demo"), "1000-0", "data", "live"])
        .await;
    client.wait_id("1000-0").await;
    let chunks = client.seen().chunks.clone();
    let chunks: Vec<_> = chunks
        .iter()
        .map(|chunk| String::from_utf8_lossy(chunk))
        .collect();
    let mut want = vec![OPEN.to_owned()];
    want.extend(blocks());
    want.push("id: 1000-0\ndata: live\n\n".to_owned());
    assert_eq!(chunks, want);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_stream_opens_at_the_rooms_position() {
    let redis = RedisServer::start().await;
    let gateway = Setup::redis(&redis).node("n1").start().await;
    let id = redis.publish("demo", "chat", "before").await;
    let client = Client::of(&[gateway.address], "demo")
        .once()
        .keep_bytes()
        .open()
        .await;
    let want = OPEN.replace("id: 0-0", &format!("id: {id}"));
    compare(&client, &want).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_head_says_what_clients_and_proxies_need() {
    let gateway = Setup::memory().start().await;
    let chunked = Client::of(&[gateway.address], "demo").once().open().await;
    let bare = Client::of(&[gateway.address], "demo")
        .once()
        .http10()
        .open()
        .await;
    for (client, transfer) in [(&chunked, Some("chunked")), (&bare, None)] {
        let head = client.seen().head.clone().unwrap();
        for (name, value) in [
            ("content-type", "text/event-stream; charset=utf-8"),
            ("cache-control", "no-store, no-transform"),
            ("x-accel-buffering", "no"),
            ("vary", "Accept-Encoding, Origin"),
        ] {
            assert_eq!(head.header(name), Some(value), "{name}");
        }
        assert_eq!(head.header("transfer-encoding"), transfer);
        assert_eq!(head.header("content-length"), None);
        assert!(
            head.header("date")
                .is_some_and(|date| date.ends_with("GMT")),
            "{head:?}"
        );
        let mut names: Vec<_> = head.headers.iter().map(|(name, _)| name).collect();
        names.sort_unstable();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count, "a header twice: {head:?}");
    }
    let bare = bare.seen().head.clone().unwrap();
    assert_ne!(
        bare.header("connection")
            .map(str::to_ascii_lowercase)
            .as_deref(),
        Some("keep-alive")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_needs_no_accept_header() {
    let gateway = Setup::memory().start().await;
    let client = Client::of(&[gateway.address], "demo")
        .header("Accept", "*/*")
        .open()
        .await;
    gateway.publish("demo", "chat", "hi").await;
    client.wait_events(1).await;

    let mut socket = TcpStream::connect(gateway.address).await.unwrap();
    socket
        .write_all(b"GET /rooms/demo/events HTTP/1.1\r\nHost: x\r\n\r\n")
        .await
        .unwrap();
    read_until(&mut socket, "stream.open").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn head_answers_the_head_and_ends() {
    let gateway = Setup::memory().start().await;
    let answer = http::request(gateway.address, "HEAD", "/rooms/demo/events", &[], b"").await;
    assert_eq!(answer.status, 200);
    assert_eq!(
        answer.header("content-type"),
        Some("text/event-stream; charset=utf-8")
    );
    assert_eq!(answer.text(), "");
    eventually!(
        gateway.room("demo").await["subscribers"] == 0,
        "a HEAD request is no subscriber"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn options_and_other_methods() {
    let gateway = Setup::memory().start().await;
    let answer = http::request(gateway.address, "OPTIONS", "/rooms/demo/events", &[], b"").await;
    assert!(matches!(answer.status, 200 | 204), "{answer:?}");
    for method in ["PUT", "DELETE", "PATCH"] {
        let answer = http::request(gateway.address, method, "/rooms/demo/events", &[], b"").await;
        assert_eq!(answer.status, 405, "{method}");
        let allow = answer.header("allow").unwrap();
        for allowed in ["GET", "HEAD", "POST", "OPTIONS"] {
            assert!(allow.contains(allowed), "{allow}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn post_subscribes_when_it_asks_for_an_event_stream() {
    let gateway = Setup::memory().start().await;
    let id = gateway.publish("demo", "chat", "one").await;
    let mut socket = TcpStream::connect(gateway.address).await.unwrap();
    let request = "POST /rooms/demo/events HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\nLast-Event-ID: 0-0\r\n\
                   Content-Type: application/json\r\nContent-Length: 9\r\n\r\n{\"x\":\"y\"}";
    socket.write_all(request.as_bytes()).await.unwrap();
    let text = read_until(&mut socket, "data: one\n\n").await;
    assert!(
        text.contains("HTTP/1.1 200") && text.contains(&format!("id: {id}\n")),
        "{text}"
    );
    assert_eq!(
        gateway.room("demo").await["length"],
        1,
        "the body of a subscriber is no event"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn heartbeats_are_comment_lines_and_nothing_more() {
    let gateway = Setup::memory()
        .node("n1")
        .set("stream.heartbeat", "1s")
        .start()
        .await;
    let client = Client::of(&[gateway.address], "demo")
        .once()
        .keep_bytes()
        .open()
        .await;
    let bare = Client::of(&[gateway.address], "demo")
        .once()
        .http10()
        .keep_bytes()
        .open()
        .await;
    eventually!(
        client.seen().comments >= 2 && bare.seen().comments >= 2,
        "no heartbeats"
    );
    let id = gateway.publish("demo", "", "after").await;
    client.wait_id(&id).await;
    bare.wait_id(&id).await;
    for body in [client.seen().body.clone(), bare.seen().body.clone()] {
        let body = String::from_utf8(body).unwrap();
        let beats = body
            .strip_prefix(OPEN)
            .unwrap_or_else(|| panic!("{body:?}"));
        let event = format!("id: {id}\ndata: after\n\n");
        let (before, after) = beats
            .split_once(&event)
            .unwrap_or_else(|| panic!("{body:?}"));
        assert_eq!(
            before.replace(":\n", "") + &after.replace(":\n", ""),
            "",
            "{body:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn heartbeats_are_events_on_request() {
    let gateway = Setup::memory().set("stream.heartbeat", "1s").start().await;
    let client = Client::of(&[gateway.address], "demo")
        .query("heartbeat=event")
        .open()
        .await;
    client.wait_control("stream.heartbeat").await;
    assert_eq!(client.seen().comments, 0);
    assert_eq!(client.seen().connections, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn padding_is_a_long_comment_first() {
    let gateway = Setup::memory().start().await;
    let client = Client::of(&[gateway.address], "demo")
        .query("padding=true")
        .keep_bytes()
        .open()
        .await;
    let body = String::from_utf8(client.seen().body.clone()).unwrap();
    let (padding, rest) = body.split_once('\n').unwrap();
    assert!(
        padding.starts_with(':') && padding.len() + 1 >= 2048,
        "{} bytes",
        padding.len()
    );
    assert!(
        rest.starts_with("id: 0-0\nevent: stream.open\n"),
        "{rest:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_follows_other_requests_on_the_same_connection() {
    let gateway = Setup::memory().start().await;
    let mut socket = TcpStream::connect(gateway.address).await.unwrap();
    for _ in 0..2 {
        socket
            .write_all(b"GET /rooms/demo HTTP/1.1\r\nHost: x\r\n\r\n")
            .await
            .unwrap();
        read_until(&mut socket, "}").await;
    }
    // Both at once: the head of the second is in the buffer when the first is answered.
    let pipelined = "GET /rooms/demo HTTP/1.1\r\nHost: x\r\n\r\nGET /rooms/demo/events HTTP/1.1\r\nHost: x\r\n\r\n";
    socket.write_all(pipelined.as_bytes()).await.unwrap();
    read_until(&mut socket, "stream.open").await;
    gateway.publish("demo", "chat", "hi there").await;
    read_until(&mut socket, "data: hi there\n\n").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_after_the_request_do_no_harm() {
    let gateway = Setup::memory().start().await;
    let mut socket = TcpStream::connect(gateway.address).await.unwrap();
    let surplus = "GET /rooms/demo/events HTTP/1.1\r\nHost: x\r\n\r\nGET /rooms/demo HTTP/1.1\r\nHost: x\r\n\r\n";
    socket.write_all(surplus.as_bytes()).await.unwrap();
    read_until(&mut socket, "stream.open").await;
    socket
        .write_all(b"more that nobody asked for")
        .await
        .unwrap();
    gateway.publish("demo", "chat", "still here").await;
    let text = read_until(&mut socket, "data: still here\n\n").await;
    assert!(
        !text.contains("HTTP/1.1"),
        "a stream is the last answer of its connection: {text}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn paths_below_a_prefix() {
    let gateway = Setup::memory()
        .arguments(&["--path-prefix", "/live"])
        .start()
        .await;
    let client = Client::of_target(&[gateway.address], "/live/rooms/demo/events")
        .open()
        .await;
    assert_eq!(gateway.get("/live/rooms/demo").await.status, 200);
    assert_eq!(gateway.get("/rooms/demo").await.status, 404);
    drop(client);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_room_in_percent_encoding_is_the_same_room() {
    let gateway = Setup::memory().start().await;
    let client = Client::of(&[gateway.address], "%64e%6Do%40x").open().await;
    assert_eq!(client.control("stream.open")[0]["room"], "demo@x");
    gateway.publish("demo@x", "chat", "hi").await;
    client.wait_events(1).await;
}

/// Reads until a text has come, and gives all that has.
async fn read_until(socket: &mut TcpStream, text: &str) -> String {
    let mut got = Vec::new();
    let work = async {
        while !String::from_utf8_lossy(&got).contains(text) {
            let read = socket.read_buf(&mut got).await.unwrap();
            assert_ne!(read, 0, "it ended before {text:?}");
        }
    };
    let done = tokio::time::timeout(Duration::from_secs(20), work).await;
    let got = String::from_utf8_lossy(&got).into_owned();
    assert!(done.is_ok(), "no {text:?} in {got:?}");
    got
}

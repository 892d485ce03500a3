//! Over a limit, a new stream is told so and closed, with a 200 that brings its client back; open ones stay.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::expiry::{bearer_of, now, with_tokens};
use crate::support::client::Options;
use crate::support::http::{self, Response};
use crate::support::{Client, Setup};

async fn assert_not_let_in(address: std::net::SocketAddr, room: &str) {
    assert_refused(Client::of(&[address], room)).await;
}

async fn assert_refused(client: Options) {
    let client = client.once().start();
    let close = client.wait_control("stream.close").await;
    assert_eq!(close["reason"], "limit");
    let seen = client.seen();
    assert!(seen.retry_ms.is_some());
    assert_eq!(
        seen.refused, None,
        "a status other than 200 ends a browser's client for good"
    );
    assert_eq!(seen.connections, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_node_lets_nobody_in_and_keeps_its_streams() {
    let gateway = Setup::memory().set("limits.streams", "3").start().await;
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.push(Client::of(&[gateway.address], "demo").open().await);
    }
    assert_not_let_in(gateway.address, "demo").await;
    gateway.publish("demo", "chat", "hi").await;
    for client in &clients {
        client.wait_events(1).await;
        assert_eq!(client.seen().connections, 1);
    }
    let metrics = gateway.admin("/metrics").await.unwrap().text();
    for line in [
        "sse_gateway_streams_closed_total{reason=\"limit\"} 1",
        "sse_gateway_streams_refused_total{limit=\"streams\"} 1",
    ] {
        assert!(metrics.contains(line), "{metrics}");
    }
    clients.pop();
    let _late = Client::of(&[gateway.address], "demo").open().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_room_more_than_allowed_is_not_opened() {
    let setup = Setup::memory().set("shards", "1").set("limits.rooms", "2");
    let gateway = setup.start().await;
    let _a = Client::of(&[gateway.address], "a").open().await;
    let _b = Client::of(&[gateway.address], "b").open().await;
    assert_not_let_in(gateway.address, "c").await;
    let _another = Client::of(&[gateway.address], "a").open().await;
}

/// One stream, which was let in.
async fn opened(client: Options) -> Client {
    client.once().open().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_has_so_many_streams_and_others_have_theirs() {
    let setup = Setup::memory()
        .set("dev", "true")
        .set("limits.streams_per_address", "2")
        .set("log.access", "true");
    let gateway = setup.start().await;
    let of = |room: &str| Client::of(&[gateway.address], room);
    // Two shards, two rooms: the address counts on the node.
    let one = opened(of("a")).await;
    let two = opened(of("b")).await;
    assert_refused(of("a")).await;
    // What a stranger says of itself is not listened to.
    assert_refused(of("a").header("X-Forwarded-For", "198.51.100.1")).await;
    assert_refused(of("a").header("Forwarded", "for=198.51.100.1")).await;
    let _other = opened(of("a").from("127.0.0.2")).await;
    let metrics = gateway.admin("/metrics").await.unwrap().text();
    for line in [
        "sse_gateway_streams_closed_total{reason=\"limit\"} 3",
        "sse_gateway_streams_refused_total{limit=\"address\"} 3",
    ] {
        assert!(metrics.contains(line), "{metrics}");
    }
    let log = gateway.log();
    let refused = log
        .lines()
        .filter(|line| line.contains("A stream was not let in."));
    assert_eq!(
        refused
            .filter(|line| line.contains("\"limit\":\"address\""))
            .count(),
        3
    );
    gateway.publish("a", "chat", "hi").await;
    one.wait_events(1).await;
    assert!(one.seen().connected && two.seen().connected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_is_free_again_however_its_stream_ended() {
    let setup = Setup::memory()
        .set("limits.streams_per_address", "2")
        .set("limits.rooms", "1")
        .set("shards", "1")
        .set("stream.lag_timeout", "300ms")
        .set("stream.send_buffer", "4096");
    let gateway = setup.start().await;
    let of = |room: &str| Client::of(&[gateway.address], room);
    let kept = opened(of("a")).await;
    // The client goes.
    drop(opened(of("a")).await);
    let closed = async |reason: &str, count: u32| {
        let line = format!("sse_gateway_streams_closed_total{{reason=\"{reason}\"}} {count}\n");
        eventually!(
            gateway
                .admin("/metrics")
                .await
                .unwrap()
                .text()
                .contains(&line),
            "{line}: {}",
            gateway.log()
        );
    };
    closed("client", 1).await;
    // It is refused for another reason.
    assert_refused(of("b")).await;
    // It asks for the head alone, or for something else.
    for request in ["HEAD /rooms/a/events", "GET /rooms/a"] {
        let request = format!("{request} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        crate::support::http::exchange(gateway.address, request.as_bytes())
            .await
            .unwrap();
    }
    // It takes nothing.
    let stalled = opened(of("a").receive_buffer(4096)).await;
    stalled.stall(true);
    assert_refused(of("a")).await;
    for _ in 0..5 {
        gateway.publish("a", "bulk", &"x".repeat(60_000)).await;
    }
    closed("lag", 1).await;
    let _again = opened(of("a")).await;
    assert_refused(of("a")).await;
    assert!(kept.seen().connected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_grew_old_leaves_its_place() {
    let setup = Setup::memory()
        .set("limits.streams_per_address", "1")
        .set("stream.max_age", "1s");
    let gateway = setup.start().await;
    let client = Client::of(&[gateway.address], "demo").open().await;
    // It comes back at once each time, and finds its own place free.
    eventually!(client.seen().connections > 3, "{}", client.summary());
    let reasons = client.control("stream.close");
    assert!(
        reasons.iter().all(|close| close["reason"] == "age"),
        "{reasons:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trusted_proxy_says_whose_streams_they_are() {
    let setup = Setup::memory()
        .set("limits.streams_per_address", "1")
        .set("log.access", "true")
        .set("http.trusted_proxies", "127.0.0.1, 10.0.0.0/8");
    let gateway = setup.start().await;
    let of = || Client::of(&[gateway.address], "demo");
    let by = |name: &str, value: &str| of().header(name, value);
    let x = "X-Forwarded-For";
    let _a = opened(by(x, "198.51.100.1")).await;
    assert!(
        gateway.log().contains("\"client\":\"198.51.100.1\""),
        "{}",
        gateway.log()
    );
    let _b = opened(by(x, "198.51.100.2")).await;
    // The same client, whatever it adds itself, over however many proxies, in whatever line.
    assert_refused(by(x, "198.51.100.3, 198.51.100.1")).await;
    assert_refused(by(x, "198.51.100.3").header(x, "198.51.100.1, 10.0.0.1")).await;
    assert_refused(by(x, "::ffff:198.51.100.1")).await;
    assert_refused(by(
        "Forwarded",
        "for=198.51.100.3, for=\"198.51.100.1:4711\";proto=https",
    ))
    .await;
    // A household of IPv6.
    let _c = opened(by("Forwarded", "for=\"[2001:db8:1:2::1]:4711\"")).await;
    assert_refused(by(x, "2001:db8:1:2:ffff::2")).await;
    let _d = opened(by(x, "2001:db8:1:3::1")).await;
    // What cannot be read is the proxy's own.
    let _e = opened(by(x, "198.51.100.9, unknown")).await;
    assert_refused(by("Forwarded", "for=_hidden")).await;
    assert_refused(of()).await;
    // A peer that is no proxy speaks for itself alone.
    let _f = opened(by(x, "198.51.100.1").from("127.0.0.2")).await;
    assert_refused(by(x, "198.51.100.8").from("127.0.0.2")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_limit_of_addresses_changes_without_a_restart() {
    let file = tempfile::Builder::new().suffix(".toml").tempfile().unwrap();
    let write = |most: u32| {
        let text = format!("[limits]\nstreams_per_address = {most}\n");
        std::fs::write(file.path(), text).unwrap();
    };
    write(1);
    let path = file.path().to_str().unwrap();
    let gateway = Setup::memory().arguments(&["--config", path]).start().await;
    let of = || Client::of(&[gateway.address], "demo");
    let first = opened(of()).await;
    assert_refused(of()).await;
    write(2);
    gateway.signal("HUP");
    eventually!(gateway.log().contains("was reloaded"), "{}", gateway.log());
    let _second = opened(of()).await;
    assert_refused(of()).await;
    write(0);
    gateway.signal("HUP");
    eventually!(
        gateway.log().matches("was reloaded").count() == 2,
        "{}",
        gateway.log()
    );
    let _third = opened(of()).await;
    assert!(first.seen().connected && !gateway.log().contains("need a restart"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_stream_is_closed_and_its_client_misses_nothing() {
    let gateway = Setup::memory().set("stream.max_age", "1s").start().await;
    let client = Client::of(&[gateway.address], "demo").open().await;
    let mut ids = Vec::new();
    while client.seen().connections < 3 {
        ids.push(gateway.publish("demo", "chat", "hi").await);
    }
    client.wait_id(ids.last().unwrap()).await;
    client.assert_ids("over three connections", &ids);
    client.assert_never_reset();
    assert_eq!(client.control("stream.close")[0]["reason"], "age");
    assert_eq!(client.seen().clean_ends, 0);
}

/// Logs that fill by history as well as by events: all rooms together stay within the limit of the node, and nobody
/// loses a stream or an event for it.
#[tokio::test(flavor = "multi_thread")]
async fn the_logs_of_all_rooms_together_are_bounded() {
    const MEMORY: usize = 512 * 1024;
    const ROOMS: usize = 24;
    let setup = Setup::memory()
        .set("stream.log_bytes", "262144")
        .set("stream.log_memory", &MEMORY.to_string());
    let gateway = setup.start().await;
    let bytes = async || gateway.metric("sse_gateway_room_log_bytes").await;
    let data = "x".repeat(50_000);
    let mut clients = Vec::new();
    for room in 0..ROOMS {
        let room = format!("room-{room}");
        for _ in 0..4 {
            gateway.publish(&room, "bulk", &data).await;
        }
        let client = Client::of(&[gateway.address], &room)
            .query("recent=4")
            .once()
            .open()
            .await;
        client.wait_events(4).await;
        clients.push((room, client));
    }
    eventually!(
        bytes().await.is_some_and(|bytes| bytes <= MEMORY as f64),
        "{}",
        gateway.log()
    );
    for (room, client) in &clients {
        gateway.publish(room, "bulk", &data).await;
        client.wait_events(5).await;
    }
    eventually!(
        bytes().await.is_some_and(|bytes| bytes <= MEMORY as f64),
        "{}",
        gateway.log()
    );
    assert!(clients.iter().all(|(_, client)| client.seen().connected));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_has_so_many_streams_on_a_node_whatever_the_token() {
    let setup = with_tokens(Setup::memory()).set("limits.streams_per_user", "2");
    let gateway = setup.start().await;
    let of = |room: &str, user: &str, issued: u64| {
        Client::of(&[gateway.address], room).header("Authorization", &bearer_of(user, issued))
    };
    // Two shards, two rooms, two tokens.
    let one = opened(of("a", "ann", now())).await;
    let _two = opened(of("b", "ann", now() - 1)).await;
    assert_refused(of("a", "ann", now() - 2)).await;
    let _bob = opened(of("a", "bob", now())).await;
    let refused = "sse_gateway_streams_refused_total{limit=\"user\"}";
    assert_eq!(gateway.metric(refused).await, Some(1.0));
    drop(one);
    let ended = "sse_gateway_streams_closed_total{reason=\"client\"}";
    eventually!(gateway.metric(ended).await == Some(1.0));
    let _again = opened(of("c", "ann", now())).await;
    assert_refused(of("a", "ann", now())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_room_has_so_many_streams_and_the_limit_changes_without_a_restart() {
    let file = tempfile::Builder::new().suffix(".toml").tempfile().unwrap();
    let write = |most: u32| {
        let text = format!("[limits]\nstreams_per_room = {most}\n");
        std::fs::write(file.path(), text).unwrap();
    };
    write(2);
    let path = file.path().to_str().unwrap();
    let setup = Setup::memory().arguments(&["--config", path]);
    let gateway = setup.set("shards", "1").start().await;
    let of = |room: &str| Client::of(&[gateway.address], room);
    let _one = opened(of("a")).await;
    let _two = opened(of("a")).await;
    assert_refused(of("a")).await;
    let _other = opened(of("b")).await;
    let refused = "sse_gateway_streams_refused_total{limit=\"room\"}";
    assert_eq!(gateway.metric(refused).await, Some(1.0));
    write(3);
    gateway.signal("HUP");
    eventually!(gateway.log().contains("was reloaded"), "{}", gateway.log());
    let _third = opened(of("a")).await;
    assert_refused(of("a")).await;
}

/// Asks until the answer is another one than 200 and 201, and gives it with the number of those.
async fn until_refused(
    address: std::net::SocketAddr,
    method: &str,
    headers: &[(&str, &str)],
) -> (usize, Response) {
    for passed in 0..10_000 {
        let answer = http::request(address, method, "/rooms/demo/events", headers, b"x").await;
        if !matches!(answer.status, 200 | 201) {
            return (passed, answer);
        }
    }
    panic!("never refused");
}

#[track_caller]
fn assert_too_often(passed: usize, answer: &Response) {
    assert!(passed >= 10, "refused after {passed}");
    assert_eq!(answer.status, 429, "{}", answer.text());
    let wait: u64 = answer.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=10).contains(&wait), "{wait}");
    assert!(answer.error().contains("per_second"), "{}", answer.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_opens_so_many_streams_in_a_second_and_others_theirs() {
    let setup = Setup::memory().set("limits.opens_per_second", "1");
    let gateway = setup.start().await;
    let json = [("Accept", "application/json")];
    let (passed, answer) = until_refused(gateway.address, "GET", &json).await;
    assert_too_often(passed, &answer);
    // A stream is told so in it. A second may have passed meanwhile, so more than one is tried.
    let refused = "sse_gateway_streams_refused_total{limit=\"rate\"}";
    let mut streams = Vec::new();
    while gateway.metric(refused).await == Some(0.0) {
        let client = Client::of(&[gateway.address], "demo").once().start();
        eventually!(client.seen().connections == 1, "{}", client.summary());
        streams.push(client);
    }
    let last = streams.last().unwrap();
    let close = last.wait_control("stream.close").await;
    assert_eq!(close["reason"], "limit");
    assert!(last.seen().retry_ms.is_some() && last.seen().refused.is_none());
    let _other = opened(Client::of(&[gateway.address], "demo").from("127.0.0.2")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publisher_publishes_so_much_in_a_second_and_others_theirs() {
    let setup = Setup::memory()
        .set("dev", "false")
        .set("publish.keys", "one,two")
        .set("http.allowed_origins", "https://good.example")
        .set("limits.publishes_per_second", "1");
    let gateway = setup.start().await;
    let key = |key: &'static str| {
        [
            ("Authorization", key),
            ("Content-Type", "text/plain"),
            ("Origin", "https://good.example"),
        ]
    };
    for key in [key("Bearer one"), key("Bearer two")] {
        let (passed, answer) = until_refused(gateway.address, "POST", &key).await;
        assert_too_often(passed, &answer);
        // A page can read when to try again.
        assert_eq!(
            answer.header("access-control-allow-origin"),
            Some("https://good.example")
        );
        let readable = answer.header("access-control-expose-headers").unwrap();
        assert!(readable.contains("retry-after"), "{readable}");
    }
    // Another spelling is no other publisher: so many together as one has, and what a few seconds bring.
    let mut answers = Vec::new();
    for at in 0..15 {
        let written = format!("bEaReR {}two", " ".repeat(at));
        let headers = [("Authorization", written.as_str())];
        answers.push(gateway.post("demo", &headers, b"x").await.status);
    }
    assert!(answers.contains(&429), "{answers:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_refused_again_and_again_is_not_decided_on_and_keys_pass() {
    let setup = Setup::memory()
        .set("publish.keys", "right-key")
        .set("limits.opens_per_second", "1");
    let gateway = setup.start().await;
    let post = async |key: &str| {
        let key = format!("Bearer {key}");
        gateway.post("demo", &[("Authorization", &key)], b"x").await
    };
    let mut refused = 0;
    let answer = loop {
        let answer = post("wrong-key").await;
        if answer.status != 401 {
            break answer;
        }
        refused += 1;
        assert!(refused < 10_000, "never too often");
    };
    assert_too_often(refused, &answer);
    let counted = "sse_gateway_http_refused_total{action=\"publish\",reason=\"unknown_key\"}";
    assert_eq!(gateway.metric(counted).await, Some(refused as f64));
    assert_eq!(post("right-key").await.status, 201);
}

/// Asks for what is stored in a room.
async fn ask(address: std::net::SocketAddr, authorization: &str) -> Response {
    let headers = [
        ("Accept", "application/json"),
        ("Authorization", authorization),
    ];
    http::request(address, "GET", "/rooms/demo/events", &headers, b"").await
}

/// Shows a token that has ended until the answer is another one than 401, and gives it with the number of those.
async fn until_too_often(address: std::net::SocketAddr) -> (usize, Response) {
    let ended = bearer_of("ann", now() - 7200);
    for refused in 0..10_000 {
        let answer = ask(address, &ended).await;
        if answer.status != 401 {
            return (refused, answer);
        }
    }
    panic!("never too often");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_refused_the_very_same_again_and_again_waits_and_nobody_else_does() {
    let setup = with_tokens(Setup::memory()).set("limits.refusals_per_second", "1");
    let gateway = setup.start().await;
    let (refused, answer) = until_too_often(gateway.address).await;
    assert_too_often(refused, &answer);
    // The others behind this address, with tokens that count and with those that do not.
    for at in 0..50 {
        let other = bearer_of("bob", now() - 7200 - at);
        assert_eq!(ask(gateway.address, &other).await.status, 401);
        let good = bearer_of("bob", now() - at % 2);
        assert_eq!(ask(gateway.address, &good).await.status, 200);
    }
    let good = bearer_of("bob", now());
    let stream = Client::of(&[gateway.address], "demo");
    let _stream = opened(stream.header("Authorization", &good)).await;
    // A stream is answered in the same way: its client was told 401 by now.
    let ended = bearer_of("ann", now() - 7200);
    for turn in 0.. {
        assert!(turn < 100, "a stream is never refused");
        until_too_often(gateway.address).await;
        let stream = Client::of(&[gateway.address], "demo").once();
        let stream = stream.header("Authorization", &ended).start();
        eventually!(stream.seen().refused.is_some(), "{}", stream.summary());
        let refused = stream.seen().refused.clone().unwrap();
        if refused.contains("429") {
            break;
        }
        assert!(refused.contains("401"), "{refused}");
    }
    let counted = "sse_gateway_http_refused_total{action=\"subscribe\",reason=\"too_often\"}";
    assert!(gateway.metric(counted).await > Some(1.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_setting_many_refusals_pass_and_a_loop_does_not() {
    let gateway = with_tokens(Setup::memory()).start().await;
    let (refused, answer) = until_too_often(gateway.address).await;
    assert_eq!(answer.status, 429, "{}", answer.text());
    assert!(refused >= 200, "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_does_not_come_is_given_up() {
    let setup = Setup::memory().set("http.body_timeout", "300ms");
    let gateway = setup.start().await;
    for accept in ["*/*", "text/event-stream"] {
        let mut socket = TcpStream::connect(gateway.address).await.unwrap();
        let head = format!(
            "POST /rooms/demo/events HTTP/1.1\r\nHost: x\r\nAccept: {accept}\r\nContent-Length: 5\r\n\r\nhi"
        );
        socket.write_all(head.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let read = async {
            while !answer.ends_with(b"}") {
                assert_ne!(socket.read_buf(&mut answer).await.unwrap(), 0);
            }
        };
        let read = tokio::time::timeout(crate::support::DEADLINE, read).await;
        assert!(read.is_ok(), "it waits: {answer:?}");
        assert!(answer.starts_with(b"HTTP/1.1 408 "), "{answer:?}");
    }
}

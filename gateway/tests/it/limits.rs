//! Over a limit, a new stream is told so and closed, with a 200 that brings its client back; open ones stay.

use crate::support::{Client, Setup};

use crate::support::client::Options;

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

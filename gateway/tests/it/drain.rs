//! Orderly stop: unready first, streams told and ended uncleanly, exit code 0.

use crate::support::{Client, Gateway, RedisServer, Setup};

async fn assert_closed_in_order(gateway: &mut Gateway, clients: &[Client]) {
    for client in clients {
        let close = client.wait_control("stream.close").await;
        assert_eq!(close["reason"], "drain");
        assert!(client.seen().retry_ms.is_some());
        eventually!(!client.seen().connected, "it should end after stream.close");
        assert_eq!(
            client.seen().clean_ends,
            0,
            "a clean end stops some clients for good"
        );
    }
    assert_eq!(gateway.wait_exit().await, Some(0), "{}", gateway.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_are_closed_uncleanly_with_a_retry_and_the_exit_code_is_0() {
    for signal in ["TERM", "INT"] {
        let mut gateway = Setup::memory()
            .set("drain.spread", "500ms")
            .set("drain.grace", "5s")
            .start()
            .await;
        let mut clients = Vec::new();
        for _ in 0..20 {
            clients.push(
                Client::of(&[gateway.address], "demo")
                    .once()
                    .keep_bytes()
                    .open()
                    .await,
            );
        }
        clients.push(
            Client::of(&[gateway.address], "demo")
                .once()
                .http10()
                .keep_bytes()
                .open()
                .await,
        );
        gateway.signal(signal);
        assert_closed_in_order(&mut gateway, &clients).await;
        for client in &clients {
            let body = String::from_utf8(client.seen().body.clone()).unwrap();
            let (_, close) = body.split_once("event: stream.close\n").unwrap();
            assert!(
                close.starts_with("retry: ") && close.ends_with("\n\n"),
                "the last block: {close:?}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_unready_before_any_stream_is_closed() {
    let mut gateway = Setup::memory()
        .set("drain.delay", "5s")
        .set("drain.spread", "100ms")
        .start()
        .await;
    let client = Client::of(&[gateway.address], "demo").once().open().await;
    gateway.signal("TERM");
    eventually!(!gateway.is_ready().await, "it stays ready");
    let answer = gateway.admin("/readyz").await.unwrap();
    assert_eq!(answer.status, 503);
    assert!(client.control("stream.close").is_empty() && client.seen().connected);
    gateway.publish("demo", "chat", "still served").await;
    client.wait_events(1).await;
    // No answer but a stream that says when to come back, or no connection at all.
    let late = Client::of(&[gateway.address], "demo").once().start();
    assert_closed_in_order(&mut gateway, &[client]).await;
    assert_eq!(
        late.seen().refused,
        None,
        "a status other than 200 ends a browser's client for good"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_holds_nothing_up() {
    let setup = Setup::memory()
        .set("drain.spread", "200ms")
        .set("drain.grace", "1s");
    let mut gateway = setup.set("stream.send_buffer", "4096").start().await;
    let stalled = Client::of(&[gateway.address], "demo")
        .once()
        .receive_buffer(4096)
        .open()
        .await;
    stalled.stall(true);
    let data = "x".repeat(60_000);
    for _ in 0..5 {
        gateway.publish("demo", "bulk", &data).await;
    }
    gateway.signal("TERM");
    assert_eq!(gateway.wait_exit().await, Some(0), "{}", gateway.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drained_nodes_clients_go_on_elsewhere() {
    let redis = RedisServer::start().await;
    let drain = |setup: Setup| setup.set("drain.spread", "300ms").set("drain.grace", "5s");
    let mut a = drain(Setup::redis(&redis)).start().await;
    let b = drain(Setup::redis(&redis)).start().await;
    let mut clients = Vec::new();
    for _ in 0..10 {
        clients.push(Client::of(&[a.address, b.address], "demo").open().await);
    }
    let load = crate::support::Load::start(&redis, "demo");
    load.wait_more(100).await;
    a.signal("TERM");
    assert_eq!(a.wait_exit().await, Some(0), "{}", a.log());
    load.wait_more(100).await;
    load.stop().await;
    let ids = redis.ids("demo").await;
    for client in &clients {
        client.wait_id(ids.last().unwrap()).await;
        client.assert_ids("over both nodes", &ids);
        client.assert_never_reset();
        assert_eq!(client.seen().refused, None);
    }
}

async fn is_in(gateway: &Gateway, phase: &str) -> bool {
    gateway
        .metric(&format!("sse_gateway_phase{{phase=\"{phase}\"}}"))
        .await
        == Some(1.0)
}

#[tokio::test(flavor = "multi_thread")]
async fn each_phase_does_what_its_name_says_and_can_be_seen() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    let mut gateway = Setup::memory()
        .set("drain.delay", "3s")
        .set("drain.spread", "5s")
        .set("drain.grace", "20s")
        .start()
        .await;
    let of = || Client::of(&[gateway.address], "demo").once();
    assert!(is_in(&gateway, "running").await);
    assert_eq!(gateway.metric("sse_gateway_drain_streams").await, Some(0.0));
    let mut clients = Vec::new();
    for _ in 0..10 {
        clients.push(of().open().await);
    }
    // A request whose end is yet to come.
    let mut slow = tokio::net::TcpStream::connect(gateway.address)
        .await
        .unwrap();
    slow.write_all(b"POST /rooms/demo/events HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nh")
        .await
        .unwrap();

    gateway.signal("TERM");
    eventually!(is_in(&gateway, "unready").await, "{}", gateway.log());
    assert!(!gateway.is_ready().await);
    clients.push(of().open().await);

    eventually!(is_in(&gateway, "draining").await, "{}", gateway.log());
    let late = of().start();
    let close = late.wait_control("stream.close").await;
    assert_eq!(close["reason"], "drain");
    assert!(late.seen().retry_ms.is_some() && late.seen().refused.is_none());
    eventually!(
        gateway.metric("sse_gateway_drain_streams").await == Some(11.0),
        "{}",
        gateway.log()
    );
    eventually!(
        gateway
            .metric("sse_gateway_drain_streams_left")
            .await
            .is_some_and(|left| left > 0.0 && left < 11.0),
        "{}",
        gateway.log()
    );
    assert!(is_in(&gateway, "draining").await);

    eventually!(is_in(&gateway, "closing").await, "{}", gateway.log());
    eventually!(
        gateway.metric("sse_gateway_drain_streams_left").await == Some(0.0),
        "{}",
        gateway.log()
    );
    eventually!(
        tokio::net::TcpStream::connect(gateway.address)
            .await
            .is_err(),
        "it goes on accepting"
    );
    slow.write_all(b"i").await.unwrap();
    let mut answer = Vec::new();
    slow.read_to_end(&mut answer).await.unwrap();
    assert!(
        answer.starts_with(b"HTTP/1.1 201 "),
        "{}",
        String::from_utf8_lossy(&answer)
    );

    assert_closed_in_order(&mut gateway, &clients).await;
    let log = gateway.log();
    let phases = log.lines().filter_map(|line| {
        let line: serde_json::Value = serde_json::from_str(line).ok()?;
        Some(line["phase"].as_str()?.to_owned())
    });
    let phases: Vec<_> = phases.collect();
    assert_eq!(
        phases,
        ["running", "unready", "draining", "closing", "stopped"]
    );
    assert!(
        log.lines()
            .last()
            .unwrap()
            .contains("\"phase\":\"stopped\""),
        "{log}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_streams_waits_for_nothing() {
    // Longer than anything is waited for here.
    let setup = Setup::memory().set("drain.spread", "10m");
    let mut gateway = setup.set("drain.grace", "11m").start().await;
    gateway.signal("TERM");
    assert_eq!(gateway.wait_exit().await, Some(0));
}

/// A request on a kept connection could otherwise meet the end of the node, and its sender not know whether it counted.
#[tokio::test(flavor = "multi_thread")]
async fn kept_connections_end_with_the_next_answer_once_the_node_is_told_to_stop() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let setup = Setup::memory().set("drain.delay", "10m");
    let gateway = setup.set("drain.grace", "11m").start().await;
    let mut kept = tokio::net::TcpStream::connect(gateway.address)
        .await
        .unwrap();
    let request = b"POST /rooms/a/events HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi";
    kept.write_all(request).await.unwrap();
    let mut first = Vec::new();
    while !first.ends_with(b"}") {
        assert_ne!(kept.read_buf(&mut first).await.unwrap(), 0);
    }
    gateway.signal("TERM");
    eventually!(!gateway.is_ready().await);
    kept.write_all(request).await.unwrap();
    let mut last = String::new();
    let end = tokio::time::timeout(crate::support::DEADLINE, kept.read_to_string(&mut last));
    end.await.expect("the connection ends").unwrap();
    assert!(last.starts_with("HTTP/1.1 201 "), "{last}");
    assert!(last.contains("\r\nConnection: close\r\n"), "{last}");
}

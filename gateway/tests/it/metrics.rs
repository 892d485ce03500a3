//! What is counted, and by which label.

use crate::support::{Client, Gateway, RedisServer, Setup, redis};

async fn assert_metrics(gateway: &Gateway, expected: &[(&str, f64)]) {
    for (series, number) in expected {
        let series = format!("sse_gateway_{series}");
        eventually!(
            gateway.metric(&series).await == Some(*number),
            "{series} is {:?}, not {number}",
            gateway.metric(&series).await
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn events_published_over_http_are_counted_by_what_became_of_them() {
    let server = RedisServer::start().await;
    let gateway = Setup::redis(&server).start().await;
    gateway.publish("demo", "chat", "hi").await;
    let key = [("Idempotency-Key", "once")];
    for status in [201, 200, 200] {
        assert_eq!(gateway.post("demo", &key, b"hi").await.status, status);
    }
    let json = [("Content-Type", "application/json")];
    let ephemeral = br#"{"event":"typing","data":"ann","ephemeral":true}"#;
    assert_eq!(gateway.post("demo", &json, ephemeral).await.status, 202);
    assert_eq!(gateway.post("demo", &json, b"{").await.status, 400);
    let wrong = [("Authorization", "Bearer nobody")];
    let path = "/rooms/demo/events";
    let answer = crate::support::http::request(gateway.address, "POST", path, &wrong, b"hi").await;
    assert_eq!(answer.status, 401);
    assert_metrics(
        &gateway,
        &[
            ("http_published_total{outcome=\"stored\"}", 2.0),
            ("http_published_total{outcome=\"repeated\"}", 2.0),
            ("http_published_total{outcome=\"ephemeral\"}", 1.0),
            ("http_published_total{outcome=\"refused\"}", 2.0),
            ("http_published_total{outcome=\"failed\"}", 0.0),
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn resumes_are_counted_by_what_answered_them_and_by_their_size() {
    let server = RedisServer::start().await;
    let setup = Setup::redis(&server)
        .set("shards", "1")
        .set("stream.log_entries", "8")
        .set("stream.history_page", "10");
    let gateway = setup.start().await;
    let mut ids = Vec::new();
    for _ in 0..40 {
        ids.push(gateway.publish("demo", "chat", "hi").await);
    }
    let resume = async |id: &str, want: &[String]| {
        let client = Client::of(&[gateway.address], "demo")
            .last_event_id(id)
            .once()
            .open()
            .await;
        if let Some(last) = want.last() {
            client.wait_id(last).await;
        }
        client.assert_ids("after the resume", want);
        client
    };
    let sizes = async |count: f64, sum: f64| {
        assert_metrics(
            &gateway,
            &[("resume_events_count", count), ("resume_events_sum", sum)],
        )
        .await;
    };
    // From the end; then out of pages up to the log; then out of the log.
    let _watch = resume(&ids[39], &[]).await;
    sizes(1.0, 0.0).await;
    let _far = resume(&ids[4], &ids[5..]).await;
    sizes(2.0, 35.0).await;
    let _near = resume(&ids[36], &ids[37..]).await;
    sizes(3.0, 38.0).await;
    let lost = resume("9999999999999-0", &[]).await;
    lost.wait_control("stream.reset").await;
    let malformed = resume("42", &[]).await;
    malformed.wait_control("stream.reset").await;
    sizes(5.0, 38.0).await;
    // New ones resume nothing.
    let _new = Client::of(&[gateway.address], "demo")
        .query("recent=3")
        .once()
        .open()
        .await;
    assert_metrics(
        &gateway,
        &[
            ("resumes_total{source=\"broker\"}", 1.0),
            ("resumes_total{source=\"log\"}", 2.0),
            ("resumes_total{source=\"reset\"}", 2.0),
            ("resets_total{reason=\"future\"}", 1.0),
            ("resets_total{reason=\"malformed\"}", 1.0),
            ("subscribe_seconds_count", 6.0),
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rooms_are_told_apart_by_class_where_classes_are_configured() {
    let classes = "chat=chat:*, stock=stock-*, chat=lobby";
    let gateway = Setup::memory()
        .set("metrics.room_classes", classes)
        .start()
        .await;
    let of = |room: &str| Client::of(&[gateway.address], room).once();
    let mut clients = Vec::new();
    for room in ["chat:a", "chat:a", "lobby", "stock-1", "else"] {
        clients.push(of(room).open().await);
    }
    gateway.publish("chat:a", "chat", "hi").await;
    gateway.publish("lobby", "chat", "hi").await;
    gateway.publish("else", "chat", "hi").await;
    // Each is counted once it has arrived, in whichever shard.
    for at in [0, 1, 2, 4] {
        clients[at].wait_events(1).await;
    }
    drop(clients.pop());
    let series = |name: &str, class: &str| format!("class_{name}{{class=\"{class}\"}}");
    // The two streams of one room may be on two shards: each of them has the event.
    let events = gateway
        .metric(&format!("sse_gateway_{}", series("events_total", "chat")))
        .await;
    assert!(events == Some(2.0) || events == Some(3.0), "{events:?}");
    assert_metrics(
        &gateway,
        &[
            (&series("streams_open", "chat"), 3.0),
            (&series("streams_open", "stock"), 1.0),
            (&series("streams_open", "other"), 0.0),
            (&series("deliveries_total", "chat"), 3.0),
            (&series("deliveries_total", "stock"), 0.0),
            (&series("deliveries_total", "other"), 1.0),
        ],
    )
    .await;
    let plain = Setup::memory().start().await;
    let text = plain.admin("/metrics").await.unwrap().text();
    assert!(!text.contains("sse_gateway_class_"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hole_is_counted_when_it_is_found_and_when_it_is_filled() {
    let server = RedisServer::start().await;
    // Nothing but the next message tells of a plain XADD.
    let setup = Setup::redis(&server)
        .set("redis.set_notifications", "false")
        .set("redis.poll_interval", "1h")
        .set("redis.verify_interval", "1h");
    let gateway = setup.start().await;
    let client = Client::of(&[gateway.address], "demo").open().await;
    gateway.publish("demo", "chat", "first").await;
    client.wait_events(1).await;
    server
        .xadd("demo", &[("event", "chat"), ("data", "second")])
        .await;
    gateway.publish("demo", "chat", "third").await;
    client.wait_events(3).await;
    client.assert_ids("with the hole filled", &server.ids("demo").await);
    assert_metrics(
        &gateway,
        &[
            ("redis_holes_total", 1.0),
            ("redis_holes_repaired_total", 1.0),
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_node_tells_whether_it_is_ready_and_how_busy_its_threads_are() {
    let mut server = RedisServer::start().await;
    let setup = Setup::redis(&server).set("drain.readiness_strict", "true");
    let gateway = setup.set("shards", "2").start().await;
    assert_metrics(&gateway, &[("ready", 1.0)]).await;
    for shard in 0..2 {
        let busy = format!("sse_gateway_shard_busy_seconds_total{{shard=\"{shard}\"}}");
        let parks = format!("sse_gateway_shard_parks_total{{shard=\"{shard}\"}}");
        eventually!(gateway.metric(&busy).await > Some(0.0), "{busy}");
        eventually!(gateway.metric(&parks).await > Some(0.0), "{parks}");
    }
    server.kill();
    assert_metrics(&gateway, &[("ready", 0.0)]).await;
    assert!(!gateway.is_ready().await);
    server.up().await;
    assert_metrics(&gateway, &[("ready", 1.0)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pass_is_counted_with_the_events_that_it_carries() {
    let server = RedisServer::start().await;
    let gateway = Setup::redis(&server).set("shards", "1").start().await;
    let client = Client::of(&[gateway.address], "demo").open().await;
    gateway.publish("demo", "chat", "one").await;
    client.wait_events(1).await;
    assert_metrics(
        &gateway,
        &[("pass_events_count", 1.0), ("pass_events_sum", 1.0)],
    )
    .await;
    // Many at once are carried by fewer passes.
    let script = format!(
        "for i = 1, 200 do redis.call('PUBLISH', '{}', 'x') end",
        redis::key("demo")
    );
    server.call(&["EVAL", &script, "0"]).await;
    client.wait_events(201).await;
    assert_metrics(&gateway, &[("pass_events_sum", 201.0)]).await;
    let passes = gateway
        .metric("sse_gateway_pass_events_count")
        .await
        .unwrap();
    assert!(passes < 201.0, "{passes}");
}

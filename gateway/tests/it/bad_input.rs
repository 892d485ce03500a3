//! What is wrong from outside is answered as promised, and harms nobody else.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::redis::key;
use crate::support::{Client, Gateway, RedisServer, Setup, assert_same_ids, http};

const JSON: (&str, &str) = ("Content-Type", "application/json");
const PLAIN: (&str, &str) = ("Content-Type", "text/plain");

async fn pair() -> (RedisServer, Gateway) {
    let redis = RedisServer::start().await;
    let gateway = Setup::redis(&redis).start().await;
    (redis, gateway)
}

/// The error of a function call that must fail.
async fn refusal(redis: &RedisServer, words: &[&[u8]]) -> String {
    let error = redis
        .try_call_bytes::<String>(words)
        .await
        .expect_err("the function should refuse it");
    error.to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn room_names_outside_the_rule_are_404_and_create_nothing() {
    let (redis, gateway) = pair().await;
    let long = "x".repeat(129);
    for room in [
        "a%20b", "%2e", "%2E%2e", "..", "a%2Fb", "%zz", "%f", "%", "%ff", "%C3%A4", "a%00", "a{b}",
        "%0a", &long,
    ] {
        for (method, tail) in [
            ("GET", "/events"),
            ("POST", "/events"),
            ("HEAD", "/events"),
            ("GET", ""),
        ] {
            let target = format!("/rooms/{room}{tail}");
            let answer = http::request(gateway.address, method, &target, &[], b"").await;
            assert_eq!(answer.status, 404, "{method} {target}: {}", answer.text());
            if method != "HEAD" {
                answer.error();
            }
        }
        let published = gateway.post(room, &[PLAIN], b"hi").await;
        assert_eq!(published.status, 404, "{room}");
    }
    for target in [
        "/",
        "/rooms",
        "/rooms/",
        "/rooms//events",
        "/rooms/demo/",
        "/rooms/demo/other",
        "/other",
    ] {
        assert_eq!(gateway.get(target).await.status, 404, "{target}");
    }
    let keys: Vec<String> = redis.try_call(&["KEYS", "*"]).await.unwrap();
    assert!(!keys.iter().any(|key| key.contains("room")), "{keys:?}");
    assert_eq!(redis.channels().await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn control_names_are_refused_and_skipped_where_they_stand() {
    let (redis, gateway) = pair().await;
    let client = Client::of(&[gateway.address], "demo").open().await;
    let answer = gateway
        .post("demo", &[JSON], br#"{"event":"stream.reset","data":"x"}"#)
        .await;
    assert_eq!(answer.status, 400);
    assert!(answer.error().contains("stream."), "{}", answer.text());
    let room = key("demo");
    let words = [
        &b"FCALL"[..],
        b"sse_publish",
        b"1",
        room.as_bytes(),
        b"event",
        b"stream.x",
        b"data",
        b"x",
    ];
    let error = refusal(&redis, &words).await;
    assert!(error.contains("sse: "), "{error}");
    assert_eq!(redis.ids("demo").await.len(), 0, "nothing is stored");

    let before = redis.publish("demo", "chat", "before").await;
    let skipped = redis
        .xadd("demo", &[("event", "stream.open"), ("data", "forged")])
        .await;
    redis
        .call(&[
            "PUBLISH",
            &room,
            r#"{"event":"stream.close","data":"forged"}"#,
        ])
        .await;
    let after = redis.publish("demo", "chat", "after").await;
    client.wait_id(&after).await;
    assert_same_ids("around it", &client.ids(), &[before, after.clone()]);
    assert_eq!(client.control("stream.open").len(), 1);
    assert_eq!(client.control("stream.close").len(), 0);
    let room = gateway.room("demo").await;
    assert!(gateway.skipped("demo").await >= 1, "{room}");

    // The position has moved past it: who presents it, or came later, is told nothing.
    for position in ["0-0", &skipped] {
        let late = Client::of(&[gateway.address], "demo")
            .last_event_id(position)
            .open()
            .await;
        late.wait_id(&after).await;
        late.assert_never_reset();
    }
    client.assert_never_reset();
}

#[tokio::test(flavor = "multi_thread")]
async fn envelopes_are_read_strictly() {
    let (redis, gateway) = pair().await;
    let form = ("Content-Type", "application/x-www-form-urlencoded");
    for header in [JSON, form] {
        let answer = gateway
            .post(
                "demo",
                &[header],
                br#"{"event":"chat","data":"x","colour":"red"}"#,
            )
            .await;
        assert_eq!(answer.status, 400, "{}", answer.text());
        assert!(
            answer.error().contains("colour"),
            "it is named: {}",
            answer.text()
        );
        for malformed in [
            r#"{"data":"x""#,
            r#"{"data":"x"} more"#,
            r#"{data:"x"}"#,
            "{",
        ] {
            let answer = gateway.post("demo", &[header], malformed.as_bytes()).await;
            assert_eq!(answer.status, 400, "{malformed}: {}", answer.text());
            assert!(
                answer.error().to_ascii_lowercase().contains("json"),
                "{}",
                answer.text()
            );
        }
    }
    for not_an_envelope in [
        "[]",
        "\"x\"",
        "7",
        "",
        r#"{"event":7,"data":"x"}"#,
        r#"{"event":"chat"}"#,
    ] {
        let answer = gateway
            .post("demo", &[JSON], not_an_envelope.as_bytes())
            .await;
        assert_eq!(answer.status, 400, "{not_an_envelope}: {}", answer.text());
        answer.error();
    }
    assert_eq!(redis.ids("demo").await.len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_would_inject_fields_and_data_over_the_cap_store_nothing() {
    let (redis, gateway) = pair().await;
    let room = key("demo");
    let long = "n".repeat(257);
    for name in ["a\rb", "a\nid: 9", "a\0", &long] {
        let body = serde_json::json!({"event": name, "data": "x"}).to_string();
        let answer = gateway.post("demo", &[JSON], body.as_bytes()).await;
        assert_eq!(answer.status, 400, "{name:?}: {}", answer.text());
        answer.error();
        let words = [
            &b"FCALL"[..],
            b"sse_publish",
            b"1",
            room.as_bytes(),
            b"event",
            name.as_bytes(),
            b"data",
            b"x",
        ];
        let error = refusal(&redis, &words).await;
        assert!(error.contains("sse: "), "{name:?}: {error}");
    }
    let big = vec![b'x'; 65_537];
    let answer = gateway.post("demo", &[PLAIN], &big).await;
    assert_eq!(answer.status, 413, "{}", answer.text());
    answer.error();
    let huge = vec![b'x'; 3 << 20];
    assert_eq!(gateway.post("demo", &[PLAIN], &huge).await.status, 413);
    let error = refusal(
        &redis,
        &[
            b"FCALL",
            b"sse_publish",
            b"1",
            room.as_bytes(),
            b"data",
            &big,
        ],
    )
    .await;
    assert!(error.contains("sse: "), "{error}");
    assert_eq!(redis.ids("demo").await.len(), 0, "nothing is stored");

    let answer = gateway.post("demo", &[PLAIN], &big[..65_536]).await;
    assert_eq!(
        answer.status,
        201,
        "exactly the cap is fine: {}",
        answer.text()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_function_refuses_calls_that_it_does_not_understand() {
    let (redis, _gateway) = pair().await;
    let room = key("demo");
    let cases: &[(&str, &[&str])] = &[
        (&room, &[]),
        (&room, &["event", "chat"]),
        (&room, &["data", "x", "colour", "red"]),
        (&room, &["data", "x", "maxlen"]),
        (&room, &["data", "x", "maxlen", "many"]),
        (&room, &["data", "x", "maxlen", "-1"]),
        (&room, &["data", "x", "expire", "1.5"]),
        ("sse:room:a b", &["data", "x"]),
        ("sse:room:", &["data", "x"]),
    ];
    for (key, arguments) in cases {
        let words = [&["FCALL", "sse_publish", "1", key], *arguments].concat();
        let error = redis
            .try_call::<String>(&words)
            .await
            .expect_err(&format!("{words:?}"))
            .to_string();
        assert!(error.contains("sse: "), "{words:?}: {error}");
    }
    let keys: Vec<String> = redis.try_call(&["KEYS", "*room*"]).await.unwrap();
    assert_eq!(keys, Vec::<String>::new(), "nothing is stored");
}

#[tokio::test(flavor = "multi_thread")]
async fn data_that_is_not_utf8_is_refused() {
    let (redis, gateway) = pair().await;
    for header in [PLAIN, ("Content-Type", "application/octet-stream")] {
        let answer = gateway.post("demo", &[header], b"caf\xe9").await;
        assert_eq!(answer.status, 400, "{}", answer.text());
        assert!(answer.error().contains("UTF-8"), "{}", answer.text());
    }
    assert_eq!(
        gateway
            .post("demo", &[JSON], b"{\"data\":\"caf\xe9\"}")
            .await
            .status,
        400
    );
    assert_eq!(redis.ids("demo").await.len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_entries_in_a_stream_are_skipped_and_counted_and_the_stream_goes_on() {
    let (redis, gateway) = pair().await;
    let client = Client::of(&[gateway.address], "demo").open().await;
    let room = key("demo");
    let big = vec![b'x'; 70_000];
    let bad: [&[&[u8]]; 6] = [
        &[b"event", b"a\nid: 9", b"data", b"x"],
        &[b"event", b"a\rb", b"data", b"x"],
        &[b"event", b"a\0b", b"data", b"x"],
        &[b"data", b"caf\xe9"],
        &[b"event", b"caf\xe9", b"data", b"x"],
        &[b"data", &big],
    ];
    let mut good = vec![redis.publish("demo", "chat", "first").await];
    let mut bad_ids = Vec::new();
    for fields in bad {
        let words = [&[b"XADD", room.as_bytes(), b"*"], fields].concat();
        bad_ids.push(redis.try_call_bytes::<String>(&words).await.unwrap());
        good.push(redis.publish("demo", "chat", "good").await);
    }
    // Through the function too: it does not look at UTF-8.
    let words = [
        &b"FCALL"[..],
        b"sse_publish",
        b"1",
        room.as_bytes(),
        b"data",
        b"caf\xe9",
    ];
    redis.try_call_bytes::<String>(&words).await.unwrap();
    good.push(redis.publish("demo", "chat", "last").await);

    client.wait_id(good.last().unwrap()).await;
    assert_same_ids("live", &client.ids(), &good);
    client.assert_never_reset();
    assert_eq!(client.seen().connections, 1);
    eventually!(
        gateway.skipped("demo").await == 7,
        "{}",
        gateway.room("demo").await
    );

    let late = Client::of(&[gateway.address], "demo")
        .last_event_id("0-0")
        .open()
        .await;
    late.wait_id(good.last().unwrap()).await;
    assert_same_ids("replayed", &late.ids(), &good);
    late.assert_never_reset();
    let from_bad = Client::of(&[gateway.address], "demo")
        .last_event_id(&bad_ids[3])
        .open()
        .await;
    from_bad.wait_id(good.last().unwrap()).await;
    assert_same_ids("from a skipped one", &from_bad.ids(), &good[4..]);
    from_bad.assert_never_reset();
    let history = http::request(
        gateway.address,
        "GET",
        "/rooms/demo/events",
        &[("Accept", "application/json")],
        b"",
    );
    assert_eq!(
        history.await.json()["events"].as_array().unwrap().len(),
        good.len()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_skipped_kind_is_logged_once_per_room() {
    let redis = RedisServer::start().await;
    let gateway = Setup::redis(&redis)
        .arguments(&["--log", "warn", "--log-format", "text"])
        .start()
        .await;
    let client = Client::of(&[gateway.address], "spoilt-room").open().await;
    for _ in 0..20 {
        redis
            .xadd("spoilt-room", &[("event", "a\nb"), ("data", "x")])
            .await;
    }
    let id = redis.publish("spoilt-room", "", "end").await;
    client.wait_id(&id).await;
    let lines = gateway
        .log()
        .lines()
        .filter(|line| line.contains("spoilt-room"))
        .count();
    assert_eq!(lines, 1, "{}", gateway.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_channel_messages_are_counted_and_leave_no_hole() {
    let (redis, gateway) = pair().await;
    let client = Client::of(&[gateway.address], "demo").open().await;
    let room = key("demo");
    let mut ids = vec![redis.publish("demo", "chat", "one").await];
    let malformed: [&[u8]; 6] = [
        b"SSE/1 nonsense",
        b"SSE/1 1-1 0-0",
        b"SSE/1 \n\n",
        b"SSE/1 5-x 4-0\n\nx",
        b"SSE/7 what\n\nx",
        b"caf\xe9",
    ];
    for message in malformed {
        redis
            .try_call_bytes::<i64>(&[b"PUBLISH", room.as_bytes(), message])
            .await
            .unwrap();
        ids.push(redis.publish("demo", "chat", "next").await);
    }
    client.wait_id(ids.last().unwrap()).await;
    assert_same_ids("live", &client.ids(), &ids);
    assert_eq!(
        client.data().len(),
        ids.len(),
        "and nothing else: {:?}",
        client.data()
    );
    client.assert_never_reset();
    assert!(
        gateway.skipped("demo").await >= 1,
        "{}",
        gateway.room("demo").await
    );

    // A publisher of a later version: the entry is there, the message cannot be read.
    let mut pipe = redis::pipe();
    pipe.atomic()
        .cmd("XADD")
        .arg(&[&*room, "*", "data", "from a later version"]);
    pipe.cmd("PUBLISH")
        .arg(&[&*room, "SSE/7 something else\n\n"]);
    pipe.exec_async(&mut redis.connection().await.unwrap())
        .await
        .unwrap();
    let ids = redis.ids("demo").await;
    client.wait_id(ids.last().unwrap()).await;
    assert_same_ids("live", &client.ids(), &ids);
    client.assert_never_reset();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_of_the_wrong_type_is_an_error_of_that_room_alone() {
    let (redis, gateway) = pair().await;
    redis.call(&["SET", &key("wrong"), "a string"]).await;
    let other = Client::of(&[gateway.address], "other").open().await;
    let wrong = Client::of(&[gateway.address], "wrong").start();
    let published = gateway.post("wrong", &[PLAIN], b"hi").await;
    assert!((400..500).contains(&published.status), "{published:?}");
    assert!(published.error().contains("type"), "{}", published.text());
    let accept = [("Accept", "application/json")];
    let history = http::request(gateway.address, "GET", "/rooms/wrong/events", &accept, b"").await;
    assert!((400..500).contains(&history.status), "{history:?}");
    assert!(history.error().contains("type"), "{}", history.text());
    for number in 0..20 {
        redis.publish("other", "chat", &number.to_string()).await;
    }
    let ids = redis.ids("other").await;
    other.wait_id(ids.last().unwrap()).await;
    assert_same_ids("the other room", &other.ids(), &ids);
    assert_eq!(other.seen().connections, 1);
    other.assert_never_reset();
    assert!(gateway.is_ready().await);

    // Once the key is out of the way, the room works.
    redis.call(&["DEL", &key("wrong")]).await;
    drop(wrong);
    let right = Client::of(&[gateway.address], "wrong").open().await;
    let id = redis.publish("wrong", "chat", "now").await;
    right.wait_id(&id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_never_ends_is_closed() {
    let gateway = Setup::memory()
        .set("http.head_timeout", "300ms")
        .start()
        .await;
    let mut socket = TcpStream::connect(gateway.address).await.unwrap();
    socket
        .write_all(b"GET /rooms/demo/events HTTP/1.1\r\nHost: x\r\nX-Slow: ")
        .await
        .unwrap();
    let mut answer = Vec::new();
    let end = tokio::time::timeout(Duration::from_secs(20), socket.read_to_end(&mut answer)).await;
    assert!(end.is_ok(), "it stayed open");
    let answer = String::from_utf8_lossy(&answer).into_owned();
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 408"),
        "{answer}"
    );
    let mut idle = TcpStream::connect(gateway.address).await.unwrap();
    let end =
        tokio::time::timeout(Duration::from_secs(20), idle.read_to_end(&mut Vec::new())).await;
    assert!(end.is_ok(), "a connection without any request stayed open");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_is_too_large_is_431() {
    let gateway = Setup::memory()
        .set("http.max_head_bytes", "8192")
        .start()
        .await;
    let long = "x".repeat(20_000);
    let answer = http::request(
        gateway.address,
        "GET",
        "/rooms/demo",
        &[("X-Long", &long)],
        b"",
    )
    .await;
    assert_eq!(answer.status, 431);
    assert_eq!(gateway.get("/rooms/demo").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_http_harms_nobody() {
    let gateway = Setup::memory().start().await;
    let client = Client::of(&[gateway.address], "demo").open().await;
    for noise in [
        &b"\x16\x03\x01\x02\x00\x01\x00"[..],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\0\0\0\0\r\n\r\n",
        b"GET\r\n\r\n",
    ] {
        let mut socket = TcpStream::connect(gateway.address).await.unwrap();
        socket.write_all(noise).await.unwrap();
        let _ = socket.shutdown().await;
        let _ = tokio::time::timeout(Duration::from_secs(20), socket.read_to_end(&mut Vec::new()))
            .await
            .unwrap();
    }
    gateway.publish("demo", "chat", "hi").await;
    client.wait_events(1).await;
    assert_eq!(client.seen().connections, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_down_at_start_is_told_and_waited_for() {
    let mut redis = RedisServer::prepare(crate::support::Persistence::None);
    let mut gateway = Setup::redis(&redis).spawn();
    gateway.wait_alive().await;
    let answer = gateway.admin("/readyz").await.unwrap();
    assert_eq!(answer.status, 503);
    assert!(
        answer.text().to_ascii_lowercase().contains("redis"),
        "it says why: {}",
        answer.text()
    );
    let client = Client::of(&[gateway.address], "demo").open().await;
    assert_eq!(client.control("stream.open")[0]["live"], false);
    assert_eq!(client.control_id("stream.open"), None);

    redis.up().await;
    gateway.wait_ready().await;
    client.wait_control("stream.live").await;
    let id = redis.publish("demo", "chat", "hi").await;
    client.wait_id(&id).await;
    assert_eq!(client.seen().connections, 1);
}

//! Every way to publish reaches the subscribers of every node, in order.

use serde_json::json;

use crate::support::gateway::PUBLISH_KEY;
use crate::support::redis::key;
use crate::support::{Client, Persistence, RedisServer, Setup, assert_same_ids, http};

#[tokio::test(flavor = "multi_thread")]
async fn all_ways_reach_subscribers_of_two_nodes_in_order() {
    let redis = RedisServer::start().await;
    let a = Setup::redis(&redis).start().await;
    let b = Setup::redis(&redis).start().await;
    let clients = [
        Client::of(&[a.address], "demo").open().await,
        Client::of(&[b.address], "demo").open().await,
    ];
    let key = key("demo");
    for round in 0..20 {
        let data = |way: &str| format!("{way} {round}");
        redis.publish("demo", "chat", &data("fcall")).await;
        redis
            .xadd("demo", &[("event", "chat"), ("data", &data("xadd"))])
            .await;
        a.publish("demo", "chat", &data("http a")).await;
        redis
            .call(&[
                "XADD",
                &key,
                "MAXLEN",
                "~",
                "1000",
                "*",
                "event",
                "chat",
                "data",
                &data("xadd maxlen"),
            ])
            .await;
        b.publish("demo", "chat", &data("http b")).await;
        redis.publish("demo", "chat", &data("fcall again")).await;
    }
    let ids = redis.ids("demo").await;
    assert_eq!(ids.len(), 120);
    for client in &clients {
        client.wait_id(ids.last().unwrap()).await;
        assert_same_ids("live", &client.ids(), &ids);
        client.assert_never_reset();
        assert_eq!(
            &client.data()[..6],
            [
                "fcall 0",
                "xadd 0",
                "http a 0",
                "xadd maxlen 0",
                "http b 0",
                "fcall again 0"
            ]
        );
        assert!(
            client
                .events()
                .iter()
                .all(|message| message.event == "chat")
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_transaction_of_all_ways_is_in_order() {
    let redis = RedisServer::start().await;
    let gateway = Setup::redis(&redis).start().await;
    let client = Client::of(&[gateway.address], "demo").open().await;
    let mut connection = redis.connection().await.unwrap();
    let key = key("demo");
    for round in 0..30 {
        let mut pipe = redis::pipe();
        pipe.atomic();
        for way in 0..round % 7 + 1 {
            if (way + round) % 3 == 0 {
                pipe.cmd("XADD").arg(&[&*key, "*", "data", "x"]);
            } else {
                pipe.cmd("FCALL")
                    .arg(&["sse_publish", "1", &*key, "data", "x"]);
            }
        }
        pipe.exec_async(&mut connection).await.unwrap();
    }
    let ids = redis.ids("demo").await;
    client.wait_id(ids.last().unwrap()).await;
    assert_same_ids("live", &client.ids(), &ids);
    client.assert_never_reset();
}

#[tokio::test(flavor = "multi_thread")]
async fn ephemeral_messages_are_live_only() {
    let redis = RedisServer::start().await;
    let a = Setup::redis(&redis).start().await;
    let b = Setup::redis(&redis).start().await;
    let clients = [
        Client::of(&[a.address], "demo").open().await,
        Client::of(&[b.address], "demo").open().await,
    ];
    let key = key("demo");
    for message in [
        r#"{"event":"typing","data":"ann"}"#,
        "hello",
        r#"{"data":{"n":1}}"#,
        r#"{"no":"data member"}"#,
        "two\nlines",
        r#"["a","list"]"#,
    ] {
        redis.call(&["PUBLISH", &key, message]).await;
    }
    let id = redis.publish("demo", "chat", "stored").await;
    let want = [
        "ann",
        "hello",
        r#"{"n":1}"#,
        r#"{"no":"data member"}"#,
        "two\nlines",
        r#"["a","list"]"#,
        "stored",
    ];
    for client in &clients {
        client.wait_id(&id).await;
        assert_eq!(client.data(), want);
        let events = client.events();
        assert_eq!(events[0].event, "typing");
        assert!(events[1..6].iter().all(|message| message.event.is_empty()));
        assert!(events[..6].iter().all(|message| message.id.is_none()));
    }
    let late = Client::of(&[a.address], "demo")
        .last_event_id("0-0")
        .open()
        .await;
    late.wait_id(&id).await;
    assert_eq!(
        late.data(),
        ["stored"],
        "ephemeral messages are never replayed"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_as_curl_sends_them() {
    let gateway = Setup::memory().start().await;
    let client = Client::of(&[gateway.address], "demo").open().await;
    let form = ("Content-Type", "application/x-www-form-urlencoded");
    let json = ("Content-Type", "application/json");
    let plain = ("Content-Type", "text/plain");
    let cases: [((&str, &str), &str, &str, &str); 8] = [
        (form, r#"{"event":"chat","data":"hi"}"#, "chat", "hi"),
        (form, "just text & more=1", "", "just text & more=1"),
        (json, r#"{"data":"unnamed"}"#, "", "unnamed"),
        (
            json,
            r#"{"event":"chat","data":{"m": "hi"}}"#,
            "chat",
            r#"{"m":"hi"}"#,
        ),
        (json, r#"{"event":"n","data":[1,2]}"#, "n", "[1,2]"),
        (
            ("Content-Type", "application/json; charset=utf-8"),
            r#"{"data":"ü ☃"}"#,
            "",
            "ü ☃",
        ),
        (
            plain,
            r#"{"data":"as it is"}"#,
            "",
            r#"{"data":"as it is"}"#,
        ),
        (plain, "a\nb\n", "", "a\nb\n"),
    ];
    for (header, body, _, _) in cases {
        let answer = gateway.post("demo", &[header], body.as_bytes()).await;
        assert_eq!(answer.status, 201, "{body}: {}", answer.text());
        assert!(answer.json()["id"].is_string());
    }
    client.wait_events(cases.len()).await;
    for (message, (_, body, event, data)) in client.events().iter().zip(cases) {
        assert_eq!(
            (message.event.as_str(), message.data.as_str()),
            (event, data),
            "{body}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeat_of_an_idempotency_key_stores_nothing() {
    let redis = RedisServer::start().await;
    let a = Setup::redis(&redis).start().await;
    let b = Setup::redis(&redis).start().await;
    let client = Client::of(&[a.address], "demo").open().await;
    let headers = [
        ("Content-Type", "text/plain"),
        ("Idempotency-Key", "order-17"),
    ];
    let first = a.post("demo", &headers, b"one").await;
    assert_eq!(first.status, 201, "{}", first.text());
    for node in [&a, &b] {
        let again = node.post("demo", &headers, b"one").await;
        assert_eq!(again.status, 200, "{}", again.text());
        assert_eq!(again.json()["id"], first.json()["id"]);
    }
    let elsewhere = a.post("other", &headers, b"one").await;
    assert_eq!(elsewhere.status, 201, "a key belongs to a room");
    let id = a.publish("demo", "chat", "two").await;
    client.wait_id(&id).await;
    assert_eq!(client.data(), ["one", "two"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn retries_with_a_key_through_faults_store_each_event_once() {
    let mut redis = RedisServer::start_with(Persistence::AofAlways).await;
    let mut gateway = Setup::redis(&redis).start().await;
    let (address, key) = (gateway.address, format!("Bearer {PUBLISH_KEY}"));
    let publisher = tokio::spawn(async move {
        for number in 0..400 {
            let (body, once) = (number.to_string(), format!("event-{number}"));
            let headers = [("Authorization", &*key), ("Idempotency-Key", &*once)];
            eventually!(
                {
                    let target = "/rooms/demo/events";
                    let answer =
                        http::try_request(address, "POST", target, &headers, body.as_bytes()).await;
                    match answer.map_or(503, |answer| answer.status) {
                        200 | 201 => true,
                        503 => false,
                        other => panic!("status {other}"),
                    }
                },
                "event {number} was never accepted"
            );
        }
    });
    for round in 0..6 {
        let length = redis.ids("demo").await.len();
        eventually!(
            publisher.is_finished() || redis.ids("demo").await.len() >= length + 40,
            "round {round}: it does not go on"
        );
        match round % 3 {
            0 => {
                redis.kill();
                redis.up().await;
            }
            1 => {
                redis.call(&["CLIENT", "KILL", "TYPE", "normal"]).await;
            }
            _ => {
                gateway.kill();
                gateway.up().await;
            }
        }
    }
    publisher.await.unwrap();
    let client = Client::of(&[gateway.address], "demo")
        .last_event_id("0-0")
        .open()
        .await;
    client.wait_events(400).await;
    let want: Vec<_> = (0..400).map(|number| number.to_string()).collect();
    assert_eq!(client.data(), want);
}

#[tokio::test(flavor = "multi_thread")]
async fn publishing_needs_a_key_or_an_open_room() {
    let redis = RedisServer::start().await;
    let gateway = Setup::redis(&redis)
        .set("access.publish", "lobby open")
        .start()
        .await;
    let post = async |room: &str, headers: &[(&str, &str)]| {
        http::request(
            gateway.address,
            "POST",
            &format!("/rooms/{room}/events"),
            headers,
            b"hi",
        )
        .await
    };
    let refused = post("demo", &[]).await;
    assert_eq!(refused.status, 401, "{}", refused.text());
    let sentence = refused.error();
    assert!(
        sentence.contains("Authorization") || sentence.contains("key"),
        "{sentence}"
    );
    let refused = post("demo", &[("Authorization", "Bearer wrong")]).await;
    assert!(matches!(refused.status, 401 | 403), "{}", refused.text());
    refused.error();
    assert_eq!(
        post(
            "demo",
            &[("Authorization", &format!("Bearer {PUBLISH_KEY}"))]
        )
        .await
        .status,
        201
    );
    assert_eq!(post("lobby", &[]).await.status, 201);
    assert_eq!(redis.ids("demo").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn retention_is_by_default_and_by_call() {
    let redis = RedisServer::start().await;
    let gateway = Setup::redis(&redis)
        .set("retention.max_len", "100")
        .start()
        .await;
    let mut connection = redis.connection().await.unwrap();
    let mut pipe = redis::pipe();
    for _ in 0..1500 {
        pipe.cmd("FCALL")
            .arg(&["sse_publish", "1", "sse:room:many", "data", "x"])
            .ignore();
        pipe.cmd("FCALL")
            .arg(&[
                "sse_publish",
                "1",
                "sse:room:all",
                "data",
                "x",
                "maxlen",
                "0",
                "expire",
                "0",
            ])
            .ignore();
    }
    pipe.exec_async(&mut connection).await.unwrap();
    let length: usize = redis.try_call(&["XLEN", "sse:room:many"]).await.unwrap();
    assert!((1000..1200).contains(&length), "about 1,000: {length}");
    assert_eq!(redis.ids("all").await.len(), 1500);
    let seconds: i64 = redis.try_call(&["TTL", "sse:room:many"]).await.unwrap();
    assert!((86_000..=86_400).contains(&seconds), "a day: {seconds}");
    assert_eq!(
        redis
            .try_call::<i64>(&["TTL", "sse:room:all"])
            .await
            .unwrap(),
        -1
    );

    for number in 0..400 {
        gateway.publish("few", "", &number.to_string()).await;
    }
    let length: usize = redis.try_call(&["XLEN", "sse:room:few"]).await.unwrap();
    assert!(
        (100..=300).contains(&length),
        "about 100, as configured: {length}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn room_and_history_as_json() {
    let redis = RedisServer::start().await;
    let a = Setup::redis(&redis).start().await;
    let b = Setup::redis(&redis).start().await;
    let empty = a.room("demo").await;
    assert_eq!(
        (&empty["room"], &empty["subscribers"], &empty["length"]),
        (&json!("demo"), &json!(0), &json!(0))
    );
    let _one = Client::of(&[a.address], "demo").open().await;
    let _two = Client::of(&[a.address], "demo").open().await;
    let _three = Client::of(&[b.address], "demo").open().await;
    let mut ids = Vec::new();
    for number in 0..5 {
        ids.push(redis.publish("demo", "chat", &number.to_string()).await);
    }
    ids.push(redis.publish("demo", "", "unnamed").await);
    let room = a.room("demo").await;
    assert_eq!(room["subscribers"], 2, "{room}");
    assert_eq!(room["nodes"], 2, "{room}");
    assert_eq!(room["length"], 6, "{room}");
    assert_eq!(room["oldest_id"], json!(ids[0]), "{room}");
    assert_eq!(room["last_id"], json!(ids[5]), "{room}");

    let history = async |query: &str| {
        let accept = [("Accept", "application/json")];
        let answer = http::request(
            a.address,
            "GET",
            &format!("/rooms/demo/events{query}"),
            &accept,
            b"",
        )
        .await;
        assert_eq!(answer.status, 200, "{query}: {}", answer.text());
        assert!(
            answer
                .header("content-type")
                .unwrap()
                .starts_with("application/json")
        );
        answer.json()
    };
    let taken = |json: &serde_json::Value| -> Vec<String> {
        json["events"]
            .as_array()
            .unwrap()
            .iter()
            .map(|event| event["id"].as_str().unwrap().to_owned())
            .collect()
    };
    let all = history("").await;
    assert_eq!(taken(&all), ids);
    assert_eq!(
        all["events"][0],
        json!({"id": ids[0], "event": "chat", "data": "0"})
    );
    assert_eq!(
        all["events"][5],
        json!({"id": ids[5], "data": "unnamed"}),
        "an unnamed event has no \"event\""
    );
    assert_eq!(
        (&all["last_id"], &all["oldest_id"], &all["more"]),
        (&json!(ids[5]), &json!(ids[0]), &json!(false))
    );
    let newest = history("?limit=2").await;
    assert_eq!(taken(&newest), ids[4..]);
    assert_eq!(newest["more"], true);
    let page = history(&format!("?after={}&limit=2", ids[1])).await;
    assert_eq!(taken(&page), ids[2..4]);
    assert_eq!(page["more"], true);
    assert_eq!(
        taken(&history(&format!("?after={}", ids[4])).await),
        ids[5..]
    );
    assert_eq!(
        taken(&history(&format!("?after={}", ids[5])).await),
        Vec::<String>::new()
    );
}

/// A visitor who guesses the backend's idempotency key does not take the place of its event.
#[tokio::test(flavor = "multi_thread")]
async fn idempotency_keys_are_each_publishers_own() {
    let redis = RedisServer::start().await;
    for setup in [Setup::redis(&redis), Setup::memory()] {
        let setup = crate::expiry::with_tokens(setup)
            .set("access.publish", "open:* open,* token")
            .set("publish.keys", PUBLISH_KEY);
        let gateway = setup.start().await;
        let key = format!("Bearer {PUBLISH_KEY}");
        let of = |user| crate::expiry::bearer_of(user, crate::expiry::now());
        let (ann, bob) = (of("ann"), of("bob"));
        let publish = async |room: &str, authorization: Option<&str>| {
            let mut headers = vec![("Idempotency-Key", "order-42")];
            headers.extend(authorization.map(|value| ("Authorization", value)));
            let answer = {
                let target = format!("/rooms/{room}/events");
                http::request(gateway.address, "POST", &target, &headers, b"x").await
            };
            (
                answer.status,
                answer.json()["id"].as_str().unwrap().to_owned(),
            )
        };
        for (room, publishers) in [
            ("open:1", &[None, Some(&key[..])][..]),
            ("chat:1", &[Some(&ann[..]), Some(&bob[..]), Some(&key[..])]),
        ] {
            for &who in publishers {
                let (status, first) = publish(room, who).await;
                assert_eq!(status, 201, "{room}");
                assert_eq!(publish(room, who).await, (200, first), "{room}");
            }
        }
    }
    // Whoever publishes through Redis shares those of the keys.
    let known = redis.try_call::<u64>(&["EXISTS", "{sse:room:open:1}:once:order-42"]);
    assert_eq!(known.await.unwrap(), 1);
}

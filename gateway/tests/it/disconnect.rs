//! A user or a room is disconnected: on every node, and for good with what was issued before.

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::expiry::{bearer, bearer_of, now, with_tokens};
use crate::support::http::{self, Response};
use crate::support::http2::{Http2, Stream};
use crate::support::{Client, Gateway, Persistence, Proxy, RedisCluster, RedisServer, Setup};

/// One stream with a token.
async fn open(gateway: &Gateway, room: &str, token: &str) -> Client {
    let options = Client::of(&[gateway.address], room).header("Authorization", token);
    options.open().await
}

/// It was told, and its token counts no more.
async fn assert_disconnected(client: &Client) {
    let close = client.wait_control("stream.close").await;
    assert_eq!(close["reason"], "disconnected");
    eventually!(
        client
            .seen()
            .refused
            .as_ref()
            .is_some_and(|why| why.contains("401")),
        "{}",
        client.summary()
    );
}

/// What a stream request with this token is answered.
async fn ask(gateway: &Gateway, room: &str, token: &str) -> Response {
    let target = format!("/rooms/{room}/events");
    let headers = [("Authorization", token)];
    http::request(gateway.address, "HEAD", &target, &headers, b"").await
}

/// As an operator does it.
async fn order(redis: &RedisServer, kind: &str, name: &str) {
    let words = ["XADD", "sse:disconnects", "MAXLEN", "~", "100000", "*"];
    redis.call(&[&words[..], &[kind, name]].concat()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_leaves_all_nodes_and_comes_back_with_a_later_token_only() {
    let redis = RedisServer::start().await;
    let start = async || with_tokens(Setup::redis(&redis)).start().await;
    let (one, two) = tokio::join!(start(), start());
    let (ann, bob) = (bearer_of("ann", now()), bearer_of("bob", now()));
    let gone = [
        open(&one, "a", &ann).await,
        open(&one, "b", &ann).await,
        open(&two, "a", &ann).await,
    ];
    let stays = open(&two, "a", &bob).await;
    order(&redis, "user", "ann").await;
    for client in &gone {
        assert_disconnected(client).await;
    }
    // So is publishing, history and what is known of the room.
    for (method, target) in [("POST", "/rooms/a/events"), ("GET", "/rooms/a")] {
        let headers = [("Authorization", &ann[..]), ("Accept", "application/json")];
        let answer = http::request(one.address, method, target, &headers, b"x").await;
        assert_eq!(answer.status, 401, "{}", answer.text());
        assert!(answer.error().contains("disconnected"), "{}", answer.text());
        assert!(
            answer
                .header("www-authenticate")
                .is_some_and(|value| value.contains("invalid_token"))
        );
    }
    // A node that starts later knows it too.
    let three = start().await;
    eventually!(ask(&three, "a", &ann).await.status == 401);
    // A token of a later second is another one.
    for node in [&one, &two, &three] {
        eventually!(ask(node, "a", &bearer_of("ann", now())).await.status == 200);
    }
    assert!(stays.seen().connected && stays.seen().connections == 1);
    let metrics = one.admin("/metrics").await.unwrap().text();
    for line in [
        "sse_gateway_streams_closed_total{reason=\"disconnected\"} 2",
        "reason=\"disconnected\"} 1",
    ] {
        assert!(metrics.contains(line), "{metrics}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_room_is_emptied_and_those_whom_anyone_lets_in_come_back() {
    let setup = with_tokens(Setup::memory()).set("access.subscribe", "open:* open");
    let gateway = setup.start().await;
    let ann = bearer_of("ann", now());
    let closed = open(&gateway, "chat:1", &ann).await;
    let elsewhere = open(&gateway, "chat:2", &ann).await;
    let anyone = Client::of(&[gateway.address], "open:1").open().await;
    for room in ["chat:1", "open:1"] {
        let body = json!({ "room": room }).to_string();
        let headers = [("Content-Type", "application/json")];
        let answer = http::request(
            gateway.admin,
            "POST",
            "/disconnects",
            &headers,
            body.as_bytes(),
        )
        .await;
        assert_eq!(answer.status, 201, "{}", answer.text());
        assert!(answer.json()["id"].as_str().unwrap().contains('-'));
    }
    assert_disconnected(&closed).await;
    eventually!(anyone.seen().connections == 2, "{}", anyone.summary());
    assert_eq!(anyone.control("stream.close")[0]["reason"], "disconnected");
    // The token counts in other rooms.
    assert_eq!(ask(&gateway, "chat:2", &ann).await.status, 200);
    assert!(elsewhere.seen().connected && anyone.seen().connected);
}

/// The node cannot reach Redis when the order is given: it acts once it can. What was done is not done again.
#[tokio::test(flavor = "multi_thread")]
async fn an_order_is_found_when_redis_is_back() {
    let redis = RedisServer::start_with(Persistence::AofAlways).await;
    let proxy = Proxy::to(redis.address).await;
    let setup = with_tokens(Setup::redis_at(proxy.address));
    let gateway = setup.set("access.subscribe", "open:* open").start().await;
    let ann = open(&gateway, "a", &bearer_of("ann", now())).await;
    let anyone = Client::of(&[gateway.address], "open:1").open().await;
    order(&redis, "room", "open:1").await;
    eventually!(anyone.seen().connections == 2, "{}", anyone.summary());
    proxy.refuse();
    proxy.cut();
    order(&redis, "user", "ann").await;
    proxy.open();
    assert_disconnected(&ann).await;
    let bob = open(&gateway, "a", &bearer_of("bob", now())).await;
    order(&redis, "user", "bob").await;
    assert_disconnected(&bob).await;
    assert_eq!(anyone.seen().connections, 2, "{}", anyone.summary());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_order_is_skipped_and_told_once() {
    let redis = RedisServer::start().await;
    let old = "for ms = 1, 1000 do redis.call('XADD', KEYS[1], ms .. '-0', 'user', 'ann') end";
    redis.call(&["EVAL", old, "1", "sse:disconnects"]).await;
    let gateway = with_tokens(Setup::redis(&redis)).start().await;
    let token = bearer_of("ann", now());
    let ann = open(&gateway, "a", &token).await;
    let bob = open(&gateway, "a", &bearer_of("bob", now())).await;
    for (kind, name) in [("node", "n1"), ("room", "a b"), ("user", ""), ("room", "")] {
        order(&redis, kind, name).await;
    }
    order(&redis, "user", "bob").await;
    assert_disconnected(&bob).await;
    let log = gateway.log();
    assert_eq!(log.matches("A disconnect was skipped").count(), 1, "{log}");
    // Too old to matter.
    assert!(ann.seen().connected);
    assert_eq!(ask(&gateway, "a", &token).await.status, 200);
    let kept: u64 = redis.try_call(&["XLEN", "sse:disconnects"]).await.unwrap();
    assert!(kept < 500, "{kept} entries of long ago are kept");
    // A key of another type does no harm, and is told.
    redis.call(&["DEL", "sse:disconnects"]).await;
    redis.call(&["SET", "sse:disconnects", "x"]).await;
    eventually!(
        gateway
            .admin("/readyz")
            .await
            .unwrap()
            .text()
            .contains("disconnects cannot be read"),
        "{}",
        gateway.log()
    );
    assert!(gateway.is_ready().await);
    redis.call(&["DEL", "sse:disconnects"]).await;
    order(&redis, "user", "ann").await;
    assert_disconnected(&ann).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_cluster_every_node_hears_of_it() {
    let cluster = RedisCluster::start().await;
    let start = async || with_tokens(Setup::redis_by(&cluster.url())).start().await;
    let (one, two) = tokio::join!(start(), start());
    let ann = bearer_of("ann", now());
    let clients = [open(&one, "a", &ann).await, open(&two, "b", &ann).await];
    let body = json!({ "user": "ann" }).to_string();
    let answer = http::request(one.admin, "POST", "/disconnects", &[], body.as_bytes()).await;
    assert_eq!(answer.status, 201, "{}", answer.text());
    for client in &clients {
        assert_disconnected(client).await;
    }
}

/// Permission is given when the head is there, the stream is opened when the body is: what happens between the two counts.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_on_its_way_does_not_slip_through() {
    let gateway = with_tokens(Setup::memory()).start().await;
    let ann = bearer_of("ann", now());
    let told = open(&gateway, "a", &ann).await;
    let mut slow = TcpStream::connect(gateway.address).await.unwrap();
    let head = format!(
        "POST /rooms/a/events HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\nAuthorization: {ann}\r\nContent-Length: 2\r\n\r\n"
    );
    slow.write_all(head.as_bytes()).await.unwrap();
    // The other shard's answer does not say that this one has read the head, so each gets several requests.
    for _ in 0..8 {
        assert_eq!(ask(&gateway, "a", &ann).await.status, 200);
    }
    let body = json!({ "user": "ann" }).to_string();
    let answer = http::request(gateway.admin, "POST", "/disconnects", &[], body.as_bytes()).await;
    assert_eq!(answer.status, 201, "{}", answer.text());
    assert_disconnected(&told).await;
    slow.write_all(b"hi").await.unwrap();
    let mut answer = Vec::new();
    // The end is an unclean one.
    let _ = slow.read_to_end(&mut answer).await;
    let text = String::from_utf8(answer).unwrap();
    assert!(
        text.contains("200 OK") && text.contains("disconnected"),
        "{text}"
    );
    assert!(!text.contains("stream.open"), "{text}");
}

/// The same with an event, whose body takes its time.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_on_its_way_does_not_slip_through() {
    let gateway = with_tokens(Setup::memory()).start().await;
    let ann = bearer_of("ann", now());
    let told = open(&gateway, "a", &ann).await;
    let mut slow = TcpStream::connect(gateway.address).await.unwrap();
    let head = format!(
        "POST /rooms/a/events HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: {ann}\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"
    );
    slow.write_all(head.as_bytes()).await.unwrap();
    // Permission is given: the node asks for the body.
    let mut go = [0; 25];
    slow.read_exact(&mut go).await.unwrap();
    assert_eq!(&go, b"HTTP/1.1 100 Continue\r\n\r\n");
    let body = json!({ "user": "ann" }).to_string();
    let answer = http::request(gateway.admin, "POST", "/disconnects", &[], body.as_bytes()).await;
    assert_eq!(answer.status, 201, "{}", answer.text());
    assert_disconnected(&told).await;
    slow.write_all(b"hi").await.unwrap();
    let mut answer = String::new();
    slow.read_to_string(&mut answer).await.unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 401 ") && answer.contains("disconnected"),
        "{answer}"
    );
    let reader = [("Authorization", &bearer_of("bob", now())[..])];
    let room = http::request(gateway.address, "GET", "/rooms/a", &reader, b"").await;
    assert_eq!(room.status, 200, "{}", room.text());
    assert!(room.json()["last_id"].is_null(), "{}", room.text());
}

/// The clock of whoever makes tokens may be ahead of Redis's by `tokens.leeway`.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_from_a_clock_that_is_ahead_does_not_outlast_it() {
    let redis = RedisServer::start().await;
    let gateway = with_tokens(Setup::redis(&redis)).start().await;
    let client = open(&gateway, "a", &bearer_of("ann", now() + 20)).await;
    order(&redis, "user", "ann").await;
    assert_disconnected(&client).await;
}

/// More orders than Redis keeps: an operator hears of it.
#[tokio::test(flavor = "multi_thread")]
async fn orders_that_are_lost_too_early_are_told() {
    let redis = RedisServer::start().await;
    let many = "for n = 1, 110000 do redis.call('XADD', KEYS[1], 'MAXLEN', '~', '100000', '*', 'user', 'u' .. n % 100) end";
    redis.call(&["EVAL", many, "1", "sse:disconnects"]).await;
    let gateway = with_tokens(Setup::redis(&redis)).start().await;
    eventually!(
        gateway
            .log()
            .contains("Redis keeps fewer disconnects than matter"),
        "{}",
        gateway.log()
    );
}

/// As little as `deploy/redis/users.acl` gives a gateway is enough to give orders and to follow them.
#[tokio::test(flavor = "multi_thread")]
async fn the_documented_rights_are_enough() {
    let redis = RedisServer::start().await;
    let documented = include_str!("../../../deploy/redis/users.acl");
    let mut lines = documented.lines();
    let line = lines
        .find(|line| line.starts_with("user sse-gateway "))
        .unwrap();
    let words: Vec<&str> = line.split(' ').skip(1).collect();
    redis
        .call(&[&["ACL", "SETUSER"], &words[..]].concat())
        .await;
    let url = format!("redis://sse-gateway:change-me@{}", redis.address);
    let gateway = with_tokens(Setup::redis_by(&url)).start().await;
    let ann = open(&gateway, "a", &bearer_of("ann", now())).await;
    let body = json!({ "user": "ann" }).to_string();
    let answer = http::request(gateway.admin, "POST", "/disconnects", &[], body.as_bytes()).await;
    assert_eq!(answer.status, 201, "{}", answer.text());
    assert_disconnected(&ann).await;
}

/// Users are counted, streams end and are disconnected, whatever carries them: here two tabs on one connection.
#[tokio::test(flavor = "multi_thread")]
async fn over_http_2_it_is_the_same() {
    let setup = with_tokens(Setup::memory())
        .set("limits.streams_per_user", "2")
        .set("tokens.leeway", "1s");
    let gateway = setup.start().await;
    let client = Http2::connect(gateway.address).await;
    let stream = async |room: &str, token: &str| {
        let target = format!("/rooms/{room}/events");
        client.stream(&target, &[("authorization", token)]).await
    };
    let told = async |stream: &Stream, reason: &str| {
        stream.wait(&format!("\"reason\":\"{reason}\"")).await;
        assert!(stream.text().contains("\nretry: "), "{}", stream.text());
        eventually!(stream.end().is_some_and(|end| end.is_err()), "{reason}");
    };
    let ann = bearer_of("ann", now());
    let tabs = [stream("a", &ann).await, stream("b", &ann).await];
    for tab in &tabs {
        tab.wait("stream.open").await;
    }
    told(&stream("a", &ann).await, "limit").await;
    let short = bearer(json!({ "sub": "bob", "iat": now(), "exp": now() + 2 }));
    told(&stream("a", &short).await, "expired").await;
    let body = json!({ "user": "ann" }).to_string();
    let answer = http::request(gateway.admin, "POST", "/disconnects", &[], body.as_bytes()).await;
    assert_eq!(answer.status, 201, "{}", answer.text());
    for tab in &tabs {
        told(tab, "disconnected").await;
    }
    let headers = [("authorization", &ann[..])];
    let again = client
        .request("GET", "/rooms/a/events", &headers, b"")
        .await;
    assert_eq!(again.status(), 401);
}

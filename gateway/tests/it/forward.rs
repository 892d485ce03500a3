//! The user's backend decides: what it is asked, what its answers do, and what its faults do not.

use std::net::SocketAddr;

use ::http::{HeaderMap, header};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::support::http::{self, Response};
use crate::support::{Backend, Client, Gateway, RedisServer, Reply, Setup, port};

const KEY: &str = "a-publish-key";
const APP: &str = "https://app.example";

/// By the cookie `user`.
fn by_user(headers: &HeaderMap) -> Reply {
    let cookie = headers
        .get(header::COOKIE)
        .map(|cookie| cookie.to_str().unwrap());
    match cookie.unwrap_or_default() {
        "user=ann" => Reply::status(200).with("X-Sse-User", "ann"),
        "user=bob" => Reply::status(403),
        "user=eve" => Reply::status(500),
        _ => Reply::status(401),
    }
}

fn setup(url: &str) -> Setup {
    Setup::memory()
        .set("access.subscribe", "chat:* forward")
        .set("access.publish", "chat:* forward")
        .set("publish.keys", &format!("{KEY},elsewhere-key news:*"))
        .set("http.allowed_origins", APP)
        .set("forward.url", url)
}

async fn ask(gateway: &Gateway, method: &str, target: &str, more: &[(&str, &str)]) -> Response {
    http::request(gateway.address, method, target, more, b"").await
}

async fn publish(gateway: &Gateway, room: &str) {
    let key = format!("Bearer {KEY}");
    let answer = gateway.post(room, &[("Authorization", &key)], b"hi").await;
    assert_eq!(answer.status, 201, "{}", answer.text());
}

async fn metric(gateway: &Gateway, name: &str) -> usize {
    let value = gateway.metric(&format!("sse_gateway_{name}")).await;
    value.unwrap_or_else(|| panic!("no {name}")) as usize
}

/// A stream request on a socket of its own, without anyone who reads the answer.
async fn begin(address: SocketAddr, room: &str, cookie: &str) -> TcpStream {
    let mut socket = TcpStream::connect(address).await.unwrap();
    let head =
        format!("GET /rooms/{room}/events HTTP/1.1\r\nHost: {address}\r\nCookie: {cookie}\r\n\r\n");
    socket.write_all(head.as_bytes()).await.unwrap();
    socket
}

#[tokio::test(flavor = "multi_thread")]
async fn the_backend_is_asked_for_each_who_and_where_and_its_answer_counts() {
    let backend = Backend::start(by_user).await;
    let gateway = setup(&backend.url()).start().await;
    let client = Client::of(&[gateway.address], "chat%3a1")
        .header("Cookie", "user=ann")
        .header("Origin", APP)
        .header("X-Forwarded-For", "192.0.2.9")
        .open()
        .await;
    let asked = backend.newest();
    for (name, value) in [
        ("x-sse-room", "chat:1"),
        ("x-sse-action", "subscribe"),
        ("cookie", "user=ann"),
        ("origin", APP),
        ("x-forwarded-for", "127.0.0.1"),
    ] {
        assert_eq!(asked[name], value, "{asked:?}");
    }
    publish(&gateway, "chat:1").await;
    client.wait_events(1).await;
    let (room, events) = ("/rooms/chat:1", "/rooms/chat:1/events");
    let json = ("Accept", "application/json");
    for (user, status) in [
        ("user=ann", 200),
        ("user=bob", 403),
        ("", 401),
        ("user=eve", 503),
    ] {
        let cookie = [("Cookie", user), ("Origin", APP), json];
        for (method, target) in [("GET", room), ("GET", events), ("HEAD", room)] {
            let answer = ask(&gateway, method, target, &cookie).await;
            assert_eq!(answer.status, status, "{user} {method} {target}");
            let origin = answer.header("access-control-allow-origin");
            assert_eq!(origin, Some(APP), "a page can read it");
        }
        let head = ask(&gateway, "HEAD", events, &cookie[..2]).await;
        assert_eq!(head.status, status, "{user}");
    }
    for (user, status) in [
        ("user=ann", 201),
        ("user=bob", 403),
        ("", 401),
        ("user=eve", 503),
    ] {
        let answer = gateway
            .post("chat:1", &[("Cookie", user), ("Origin", APP)], b"hi")
            .await;
        assert_eq!(answer.status, status, "{}", answer.text());
    }
    for (user, status) in [("user=bob", 403), ("", 401)] {
        let answer = ask(&gateway, "GET", events, &[("Cookie", user)]).await;
        assert_eq!(answer.status, status);
        assert!(answer.error().contains("forward.url"), "{}", answer.error());
        assert_eq!(answer.header("www-authenticate").is_some(), status == 401);
    }
    client.wait_events(2).await;
    assert_eq!(client.events().len(), 2);
    for series in [
        "forward_requests_total{outcome=\"allowed\"}",
        "forward_requests_total{outcome=\"refused\"}",
        "forward_requests_total{outcome=\"unusable\"}",
        "http_refused_total{action=\"publish\",reason=\"forbidden\"}",
        "http_refused_total{action=\"subscribe\",reason=\"unauthorized\"}",
    ] {
        assert!(metric(&gateway, series).await > 0, "{series}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_backend_never_sees_a_publish_key() {
    let backend = Backend::start(|_| Reply::status(204)).await;
    let gateway = setup(&backend.url()).start().await;
    publish(&gateway, "chat:1").await;
    let elsewhere = [("Authorization", "Bearer elsewhere-key")];
    let answer = gateway.post("chat:1", &elsewhere, b"hi").await;
    assert_eq!(answer.status, 403, "{}", answer.text());
    assert_eq!(backend.requests(), 0);
    let other = [("Authorization", "Bearer of-the-backend")];
    assert_eq!(gateway.post("chat:1", &other, b"hi").await.status, 201);
    assert_eq!(backend.newest()["authorization"], "Bearer of-the-backend");
    let twice = [other[0], elsewhere[0]];
    assert_eq!(gateway.post("chat:1", &twice, b"hi").await.status, 401);
    assert_eq!(backend.requests(), 1);
}

/// A reconnect storm of clients that the backend cannot tell apart.
#[tokio::test(flavor = "multi_thread")]
async fn two_thousand_streams_with_one_cookie_are_one_request() {
    const STREAMS: usize = 2000;
    let backend = Backend::start(by_user).await;
    let gateway = setup(&backend.url())
        .set("forward.timeout", "60s")
        .start()
        .await;
    backend.hold();
    let mut sockets = Vec::new();
    for _ in 0..STREAMS {
        sockets.push(begin(gateway.address, "chat:1", "user=ann").await);
    }
    let shared = "forward_lookups_total{result=\"shared\"}";
    eventually!(metric(&gateway, shared).await == STREAMS - 1);
    backend.release();
    eventually!(metric(&gateway, "streams_open").await == STREAMS);
    sockets.push(begin(gateway.address, "chat:1", "user=ann").await);
    eventually!(metric(&gateway, "streams_open").await == STREAMS + 1);
    let hit = metric(&gateway, "forward_lookups_total{result=\"hit\"}").await;
    assert_eq!((backend.requests(), hit), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_backend_has_so_many_requests_at_a_time_and_no_more() {
    const CLIENTS: usize = 500;
    let backend = Backend::start(|_| Reply::status(200)).await;
    let gateway = setup(&backend.url())
        .set("forward.timeout", "60s")
        .set("forward.max_requests", "8")
        .start()
        .await;
    backend.hold();
    let mut sockets = Vec::new();
    for client in 0..CLIENTS {
        sockets.push(begin(gateway.address, "chat:1", &format!("user={client}")).await);
    }
    let miss = "forward_lookups_total{result=\"miss\"}";
    eventually!(metric(&gateway, miss).await == CLIENTS);
    eventually!(backend.now() == 8);
    let under_way = metric(&gateway, "forward_sent_total").await
        - metric(&gateway, "forward_ended_total").await;
    assert_eq!(under_way, 8);
    backend.release();
    eventually!(metric(&gateway, "streams_open").await == CLIENTS);
    assert_eq!((backend.most(), backend.requests()), (8, CLIENTS));
}

#[tokio::test(flavor = "multi_thread")]
async fn more_than_may_wait_come_back_later_and_leave_places_to_other_addresses() {
    let backend = Backend::start(|_| Reply::status(200)).await;
    let gateway = setup(&backend.url())
        .set("forward.timeout", "60s")
        .set("forward.max_requests", "1")
        .start()
        .await;
    backend.hold();
    let mut sockets = Vec::new();
    // A quarter of the one under way and the 256 that may wait.
    for client in 0..65 {
        sockets.push(begin(gateway.address, "chat:1", &format!("user={client}")).await);
    }
    eventually!(metric(&gateway, "forward_lookups_total{result=\"miss\"}").await == 65);
    let client = Client::of(&[gateway.address], "chat:1").once().start();
    assert_eq!(client.wait_control("stream.close").await["reason"], "limit");
    let unasked = "forward_requests_total{outcome=\"unasked\"}";
    assert_eq!(metric(&gateway, unasked).await, 1);
    let other = Client::of(&[gateway.address], "chat:1").from("127.0.0.2");
    let other = other.start();
    eventually!(metric(&gateway, "forward_lookups_total{result=\"miss\"}").await == 67);
    backend.release();
    eventually!(metric(&gateway, "streams_open").await == 66);
    other.wait_open().await;
    assert_eq!(metric(&gateway, unasked).await, 1);
}

/// Whatever the backend does, browsers come back, and are let in once it answers.
#[tokio::test(flavor = "multi_thread")]
async fn a_backend_in_trouble_ends_no_browser() {
    let replies = [
        Reply::status(500),
        Reply::status(503),
        Reply::status(404),
        Reply::status(302).with("Location", "/login"),
        Reply::status(200).with("X-Sse-Ttl", "soon"),
        Reply::status(200).with("X-Sse-User", ""),
    ];
    for reply in replies {
        let told = format!("{reply:?}");
        let backend = Backend::start(move |_| reply.clone()).await;
        let gateway = setup(&backend.url()).start().await;
        assert_survives(&gateway, backend, &told).await;
    }
    // Nobody there at all.
    let address = port::free();
    let gateway = setup(&format!("http://{address}/may")).start().await;
    let client = Client::of(&[gateway.address], "chat:1").start();
    assert_away(&gateway, &client, "dead").await;
    let _backend = Backend::start_at(address, |_| Reply::status(200)).await;
    client.wait_open().await;
    assert_eq!(client.seen().refused, None);
    // One that takes too long.
    let backend = Backend::start(|_| Reply::status(200)).await;
    let setup = setup(&backend.url()).set("forward.timeout", "50ms");
    let gateway = setup.start().await;
    backend.hold();
    assert_survives(&gateway, backend, "slow").await;
    let timeout = "forward_requests_total{outcome=\"timeout\"}";
    assert!(metric(&gateway, timeout).await > 0);
}

async fn assert_away(gateway: &Gateway, client: &Client, told: &str) {
    let close = client.wait_control("stream.close").await;
    assert_eq!(close["reason"], "limit", "{told}");
    assert!(client.seen().retry_ms.is_some(), "{told}");
    let history = ask(
        gateway,
        "GET",
        "/rooms/chat:1/events",
        &[("Accept", "application/json")],
    )
    .await;
    assert_eq!(history.status, 503, "{told}");
    assert!(history.header("retry-after").is_some(), "{told}");
    history.error();
    let refused = "streams_refused_total{limit=\"permission\"}";
    assert!(metric(gateway, refused).await > 0, "{told}");
}

async fn assert_survives(gateway: &Gateway, backend: Backend, told: &str) {
    let client = Client::of(&[gateway.address], "chat:1").start();
    assert_away(gateway, &client, told).await;
    let address = backend.address;
    drop(backend);
    let mut listening = None;
    eventually!({
        // The last connections of the one before may still hold the address.
        if listening.is_none() && std::net::TcpListener::bind(address).is_ok() {
            listening = Some(Backend::start_at(address, |_| Reply::status(200)).await);
        }
        listening.is_some()
    });
    client.wait_open().await;
    assert_eq!(client.seen().refused, None, "{told}");
    publish(gateway, "chat:1").await;
    client.wait_events(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_asks_a_dead_backend_for_every_client() {
    let gateway = setup(&format!("http://{}/may", port::free())).start().await;
    let unasked = "forward_requests_total{outcome=\"unasked\"}";
    let mut clients = 0;
    eventually!({
        clients += 1;
        let cookie = format!("user={clients}");
        let answer = ask(&gateway, "GET", "/rooms/chat:1", &[("Cookie", &cookie)]).await;
        assert_eq!(answer.status, 503);
        metric(&gateway, unasked).await > 0
    });
    assert!(gateway.log().contains("forward.url"), "{}", gateway.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_go_away_leave_nothing() {
    let backend = Backend::start(|_| Reply::status(200)).await;
    let gateway = setup(&backend.url())
        .set("forward.timeout", "60s")
        .set("forward.max_requests", "4")
        .start()
        .await;
    backend.hold();
    let mut sockets = Vec::new();
    for client in 0..50 {
        sockets.push(begin(gateway.address, "chat:1", &format!("user={client}")).await);
    }
    eventually!(metric(&gateway, "forward_lookups_total{result=\"miss\"}").await == 50);
    eventually!(backend.now() == 4);
    drop(sockets);
    eventually!({
        let accepted = metric(&gateway, "http_connections_accepted_total").await;
        metric(&gateway, "http_connections_ended_total").await == accepted
    });
    backend.release();
    let last = begin(gateway.address, "chat:1", "user=last").await;
    eventually!(metric(&gateway, "streams_open").await == 1);
    // Of those that had gone before their turn, nobody asked.
    assert_eq!(backend.requests(), 5);
    assert_eq!(metric(&gateway, "forward_ended_total").await, 5);
    drop(last);
    eventually!(metric(&gateway, "streams_open").await == 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_kept_for_as_long_as_it_says() {
    let backend = Backend::start(|headers| {
        let reply = Reply::status(200);
        match headers[header::COOKIE].to_str().unwrap() {
            "kept" => reply.with("X-Sse-Ttl", "3600"),
            _ => reply,
        }
    })
    .await;
    let gateway = setup(&backend.url())
        .set("forward.cache", "0s")
        .start()
        .await;
    let room = "/rooms/chat:1";
    for (cookie, requests) in [
        ("kept", 1),
        ("kept", 1),
        ("other", 2),
        ("other", 3),
        ("kept", 3),
    ] {
        let answer = ask(&gateway, "GET", room, &[("Cookie", cookie)]).await;
        assert_eq!(
            (answer.status, backend.requests()),
            (200, requests),
            "{cookie}"
        );
    }
    // Another room, action or client is another question.
    for (target, requests) in [("/rooms/chat:2", 4), (room, 4)] {
        ask(&gateway, "GET", target, &[("Cookie", "kept")]).await;
        assert_eq!(backend.requests(), requests, "{target}");
    }
    let json = [("Cookie", "kept"), ("Content-Type", "application/json")];
    let answer = gateway.post("chat:1", &json, br#"{"data":"hi"}"#).await;
    assert_eq!((answer.status, backend.requests()), (201, 5));
    let _other = Client::of(&[gateway.address], "chat:1")
        .header("Cookie", "kept")
        .from("127.0.0.2")
        .open()
        .await;
    assert_eq!(backend.requests(), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn sighup_asks_another_backend_and_drops_no_stream() {
    let (first, second) = (
        Backend::start(|_| Reply::status(200)).await,
        Backend::start(|_| Reply::status(403)).await,
    );
    let file = tempfile::Builder::new().suffix(".toml").tempfile().unwrap();
    let write = |backend: &Backend| {
        let text = format!(
            "[access]\nsubscribe = [\"* forward\"]\n[forward]\nurl = \"{}\"\ncache = \"1h\"\n",
            backend.url()
        );
        std::fs::write(file.path(), text).unwrap();
    };
    write(&first);
    let path = file.path().to_str().unwrap();
    let gateway = Setup::memory().arguments(&["--config", path]).start().await;
    let client = Client::of(&[gateway.address], "chat").open().await;
    write(&second);
    gateway.signal("HUP");
    eventually!(
        gateway.get("/rooms/chat").await.status == 403,
        "{}",
        gateway.log()
    );
    assert!(
        !gateway.log().contains("need a restart"),
        "{}",
        gateway.log()
    );
    assert_eq!(first.requests(), 1);
    assert!(client.seen().connected);
}

#[tokio::test(flavor = "multi_thread")]
async fn urls_that_cannot_be_asked_are_refused_without_their_secrets() {
    for url in [
        "backend:8000",
        "ftp://b/may",
        "http://u:hunter2@b/",
        "http://b/?key=hunter2#x",
    ] {
        let output = setup(url).output().await;
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(64), "{url}: {error}");
        assert!(
            error.contains("forward.url") && !error.contains("hunter2"),
            "{error}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_with_tls_is_known_by_the_systems_certificates() {
    let certificate = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let backend = Backend::start_tls(&certificate, |_| Reply::status(200)).await;
    let url = format!("https://localhost:{}/may", backend.address.port());
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("ca.pem");
    std::fs::write(&file, certificate.cert.pem()).unwrap();
    let with_certificates = |url: &str, file: &str| {
        setup(url)
            .variable("SSL_CERT_FILE", file)
            .variable("SSL_CERT_DIR", "/nonexistent")
    };
    let status = async |gateway: &Gateway| gateway.get("/rooms/chat:1").await.status;
    let gateway = with_certificates(&url, file.to_str().unwrap())
        .start()
        .await;
    assert_eq!(status(&gateway).await, 200, "{}", gateway.log());
    // A machine without any trusts nobody, and asks without TLS all the same.
    let gateway = with_certificates(&url, "/nonexistent").start().await;
    assert_eq!(status(&gateway).await, 503, "{}", gateway.log());
    assert_eq!(backend.requests(), 1);
    let plain = Backend::start(|_| Reply::status(200)).await;
    let gateway = with_certificates(&plain.url(), "/nonexistent")
        .start()
        .await;
    assert_eq!(status(&gateway).await, 200, "{}", gateway.log());
}

/// What was decided before a disconnect is not kept: the backend is asked again.
#[tokio::test(flavor = "multi_thread")]
async fn a_user_who_is_disconnected_is_asked_for_anew() {
    let redis = RedisServer::start().await;
    let backend = Backend::start(by_user).await;
    let gateway = Setup::redis(&redis)
        .set("access.subscribe", "* forward")
        .set("forward.url", &backend.url())
        .set("forward.cache", "1h")
        .start()
        .await;
    let of = |user: &str| Client::of(&[gateway.address], "chat").header("Cookie", user);
    let client = of("user=ann").open().await;
    let _other = of("user=ann").open().await;
    assert_eq!(backend.requests(), 1);
    redis
        .call(&["XADD", "sse:disconnects", "*", "user", "ann"])
        .await;
    client.wait_control("stream.close").await;
    eventually!(backend.requests() > 1 && client.seen().connected);
    assert_eq!(client.seen().refused, None);
    gateway.publish("chat", "chat", "hi").await;
    client.wait_events(1).await;
}

/// The end and the user that the backend names are those of the stream.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_ends_when_the_backend_says_and_counts_for_its_user() {
    let backend = Backend::start(|headers| {
        let reply = Reply::status(200).with("X-Sse-User", "ann");
        match headers[header::COOKIE].to_str().unwrap() {
            "short" => reply.with("X-Sse-Ttl", "1"),
            _ => reply,
        }
    })
    .await;
    let gateway = setup(&backend.url())
        .set("tokens.leeway", "0s")
        .set("limits.streams_per_user", "2")
        .start()
        .await;
    let of = |cookie: &str| Client::of(&[gateway.address], "chat:1").header("Cookie", cookie);
    let client = of("short").open().await;
    let close = client.wait_control("stream.close").await;
    assert_eq!(close["reason"], "expired");
    // It comes back, and is asked for anew.
    eventually!(client.seen().connections > 1 && backend.requests() > 1);
    assert_eq!(client.seen().refused, None);
    drop(client);
    eventually!(metric(&gateway, "streams_open").await == 0);
    let _one = of("one").once().open().await;
    let _two = of("two").once().open().await;
    let three = of("three").once().start();
    assert_eq!(three.wait_control("stream.close").await["reason"], "limit");
    let refused = "streams_refused_total{limit=\"user\"}";
    assert_eq!(metric(&gateway, refused).await, 1);
}

//! Which pages may use the gateway.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::http::{self, Response};
use crate::support::{Authority, Backend, Client, Gateway, Reply, Setup, port};

const GOOD: &str = "https://good.example";

async fn gateway() -> Gateway {
    Setup::memory()
        .set("http.allowed_origins", GOOD)
        .start()
        .await
}

async fn preflight(gateway: &Gateway, origin: &str, method: &str, headers: &str) -> Response {
    let asked = [
        ("Origin", origin),
        ("Access-Control-Request-Method", method),
        ("Access-Control-Request-Headers", headers),
    ];
    http::request(
        gateway.address,
        "OPTIONS",
        "/rooms/demo/events",
        &asked,
        b"",
    )
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_allowed_origin_is_echoed() {
    let gateway = gateway().await;
    let client = Client::of(&[gateway.address], "demo")
        .header("Origin", GOOD)
        .open()
        .await;
    let head = client.seen().head.clone().unwrap();
    assert_eq!(head.header("access-control-allow-origin"), Some(GOOD));
    assert!(head.header("vary").unwrap().contains("Origin"));
    let answer = gateway
        .post(
            "demo",
            &[("Origin", GOOD), ("Content-Type", "text/plain")],
            b"hi",
        )
        .await;
    assert_eq!(answer.status, 201);
    assert_eq!(answer.header("access-control-allow-origin"), Some(GOOD));
    let refused = gateway
        .post(
            "demo",
            &[("Origin", GOOD), ("Content-Type", "application/json")],
            b"{",
        )
        .await;
    assert_eq!(refused.status, 400);
    assert_eq!(
        refused.header("access-control-allow-origin"),
        Some(GOOD),
        "the page must be able to read errors too"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn preflights_allow_what_event_sources_send() {
    let gateway = gateway().await;
    for (method, headers) in [
        ("GET", "last-event-id,cache-control"),
        ("POST", "authorization,content-type"),
    ] {
        let answer = preflight(&gateway, GOOD, method, headers).await;
        assert!(matches!(answer.status, 200 | 204), "{answer:?}");
        assert_eq!(answer.header("access-control-allow-origin"), Some(GOOD));
        assert!(
            answer
                .header("access-control-allow-methods")
                .unwrap()
                .contains(method)
        );
        let allowed = answer
            .header("access-control-allow-headers")
            .unwrap()
            .to_ascii_lowercase();
        for name in [
            "authorization",
            "cache-control",
            "content-type",
            "last-event-id",
        ] {
            assert!(allowed.contains(name), "{allowed}");
        }
        assert!(
            answer
                .header("access-control-max-age")
                .is_some_and(|age| age.parse::<u32>().is_ok())
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_origin_is_refused() {
    let gateway = gateway().await;
    for origin in [
        "https://bad.example",
        "http://good.example",
        "https://good.example:8443",
        "null",
    ] {
        let stream = http::request(
            gateway.address,
            "GET",
            "/rooms/demo/events",
            &[("Origin", origin)],
            b"",
        )
        .await;
        assert_eq!(stream.status, 403, "{origin}");
        assert_eq!(stream.header("access-control-allow-origin"), None);
        stream.error();
        let publish = gateway
            .post(
                "demo",
                &[("Origin", origin), ("Content-Type", "text/plain")],
                b"hi",
            )
            .await;
        assert_eq!(publish.status, 403, "{origin}");
        let answer = preflight(&gateway, origin, "GET", "last-event-id").await;
        assert_eq!(answer.header("access-control-allow-origin"), None);
    }
    assert_eq!(gateway.room("demo").await["length"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pages_own_origin_is_never_refused() {
    let gateway = gateway().await;
    let own = format!("http://{}", gateway.address);
    let client = Client::of(&[gateway.address], "demo")
        .header("Origin", &own)
        .open()
        .await;
    let answer = gateway
        .post(
            "demo",
            &[("Origin", &own), ("Content-Type", "text/plain")],
            b"hi",
        )
        .await;
    assert_eq!(answer.status, 201, "{}", answer.text());
    client.wait_events(1).await;
}

/// An error without headers for the page would look to it like a network that is down.
#[tokio::test(flavor = "multi_thread")]
async fn a_page_can_read_why_it_was_refused() {
    let setup = Setup::memory()
        .set("http.allowed_origins", "https://*.good.example")
        .set("access.subscribe", "token:* token,away:* forward")
        .set("tokens.keys", "HS256 a-secret-of-at-least-thirty-two-bytes")
        .set("access.publish", "away:* forward")
        .set("publish.keys", "a-key,other-key news")
        .set("forward.url", &format!("http://{}/may", port::free()));
    let gateway = setup.start().await;
    let origin = ("Origin", "https://app.good.example");
    let json = ("Accept", "application/json");
    for (method, room, header, status) in [
        ("GET", "token:1", origin, 401),
        ("GET", "token:1", json, 401),
        ("HEAD", "token:1", json, 401),
        ("GET", "away:1", json, 503),
        ("POST", "token:1", ("Authorization", "Bearer no"), 401),
        (
            "POST",
            "token:1",
            ("Authorization", "Bearer other-key"),
            403,
        ),
        ("POST", "away:1", json, 503),
    ] {
        let path = format!("/rooms/{room}/events");
        let headers = if header == origin {
            vec![origin]
        } else {
            vec![origin, header]
        };
        let answer = http::request(gateway.address, method, &path, &headers, b"").await;
        assert_eq!(answer.status, status, "{method} {room}: {}", answer.text());
        assert_eq!(answer.header("access-control-allow-origin"), Some(origin.1));
        assert_eq!(
            answer.header("access-control-allow-credentials"),
            Some("true")
        );
        let exposed = answer.header("access-control-expose-headers").unwrap();
        assert!(exposed.contains("retry-after"), "{exposed}");
        assert!(answer.header("vary").unwrap().contains("Origin"));
        assert_eq!(answer.header("retry-after").is_some(), status == 503);
        // Nobody needs permission to ask whether it may ask.
        let answer = preflight_of(&gateway, &path, origin.1).await;
        assert_eq!(answer.status, 204);
        assert_eq!(answer.header("access-control-allow-origin"), Some(origin.1));
    }
    let closed = Client::of(&[gateway.address], "away:1")
        .header("Origin", origin.1)
        .once()
        .start();
    closed.wait_control("stream.close").await;
    let head = closed.seen().head.clone().unwrap();
    assert_eq!(head.header("access-control-allow-origin"), Some(origin.1));
}

async fn preflight_of(gateway: &Gateway, path: &str, origin: &str) -> Response {
    let asked = [
        ("Origin", origin),
        ("Access-Control-Request-Method", "POST"),
    ];
    http::request(gateway.address, "OPTIONS", path, &asked, b"").await
}

/// A page that is let in as nobody: its cookies are not looked at, on no way.
#[tokio::test(flavor = "multi_thread")]
async fn a_page_without_credentials_is_nobody() {
    let backend = Backend::start(|headers| {
        let known = headers.contains_key("cookie");
        Reply::status(if known { 200 } else { 401 })
    })
    .await;
    let guest = "https://guest.example";
    let setup = Setup::memory()
        .set(
            "http.allowed_origins",
            &format!("{GOOD},{guest} no-credentials"),
        )
        .set("access.subscribe", "open open,* forward")
        .set("access.publish", "* forward")
        .set("forward.url", &backend.url());
    let gateway = setup.start().await;
    let cookie = ("Cookie", "a=b");
    for (origin, credentials, allowed, stored) in
        [(GOOD, Some("true"), 200, 201), (guest, None, 401, 401)]
    {
        let headers = [("Origin", origin), cookie];
        let room = http::request(gateway.address, "GET", "/rooms/a", &headers, b"").await;
        assert_eq!(room.status, allowed, "{origin}");
        assert_eq!(room.header("access-control-allow-origin"), Some(origin));
        assert_eq!(room.header("access-control-allow-credentials"), credentials);
        let answer = gateway.post("a", &headers, b"hi").await;
        assert_eq!(answer.status, stored, "{origin}");
        let client = Client::of(&[gateway.address], "open")
            .header("Origin", origin)
            .open()
            .await;
        let head = client.seen().head.clone().unwrap();
        assert_eq!(head.header("access-control-allow-origin"), Some(origin));
        assert_eq!(head.header("access-control-allow-credentials"), credentials);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_form_of_another_site_publishes_nothing() {
    let gateway = gateway().await;
    let form = ("Content-Type", "application/x-www-form-urlencoded");
    let body = br#"{"data":"from a form"}"#;
    let rows: [(&[(&str, &str)], u16); 8] = [
        (&[("Origin", "null")], 403),
        (&[("Origin", "https://evil.example")], 403),
        (&[("Origin", GOOD), ("Origin", "https://evil.example")], 403),
        (&[("Sec-Fetch-Site", "cross-site")], 403),
        (&[("Sec-Fetch-Site", "same-site")], 403),
        (&[("Referer", "https://evil.example/")], 403),
        (&[("Cookie", "a=b")], 403),
        (&[("Sec-Fetch-Site", "same-origin"), ("Cookie", "a=b")], 201),
    ];
    for (headers, status) in rows {
        let answer = gateway
            .post("demo", &[headers, &[form]].concat(), body)
            .await;
        assert_eq!(answer.status, status, "{headers:?}: {}", answer.text());
    }
    assert_eq!(gateway.room("demo").await["length"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn sighup_changes_the_origins() {
    let file = tempfile::Builder::new().suffix(".toml").tempfile().unwrap();
    let write = |origin: &str| {
        std::fs::write(
            file.path(),
            format!("[http]\nallowed_origins = [\"{origin}\"]\n"),
        )
        .unwrap();
    };
    write("https://other.example");
    let path = file.path().to_str().unwrap();
    let gateway = Setup::memory().arguments(&["--config", path]).start().await;
    let status = async || preflight(&gateway, GOOD, "GET", "").await.status;
    assert_eq!(status().await, 403);
    write("https://*.example");
    gateway.signal("HUP");
    eventually!(gateway.log().contains("too much"), "{}", gateway.log());
    assert_eq!(status().await, 403, "what is no origin changes nothing");
    write(GOOD);
    gateway.signal("HUP");
    eventually!(status().await == 204, "{}", gateway.log());
    assert!(
        !gateway.log().contains("need a restart"),
        "{}",
        gateway.log()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_over_http_is_not_of_a_gateway_with_tls() {
    let authority = Authority::new();
    let gateway = authority.secure(Setup::memory()).start().await;
    for (scheme, status) in [("http", "403"), ("https", "201")] {
        let mut stream = authority.connect(gateway.address, None, &[]).await.unwrap();
        let address = gateway.address;
        let request = format!(
            "POST /rooms/demo/events HTTP/1.1\r\nHost: {address}\r\nOrigin: {scheme}://{address}\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer.get(9..12), Some(status), "{scheme}: {answer}");
    }
}

//! Which pages may use the gateway.

use crate::support::http::{self, Response};
use crate::support::{Client, Gateway, Setup};

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

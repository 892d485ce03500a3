//! Clients that do not read what they have asked for.

use super::*;

/// Events for [`READERS`] that nobody reads, each so large.
const DATA: usize = 4000;
const READERS: usize = 200;

#[tokio::test(flavor = "multi_thread")]
async fn streams_that_nobody_reads() {
    let setup = Setup::memory()
        .set("stream.lag_timeout", "2s")
        .set("stream.send_buffer", "4096");
    let scene = Scene::begin(setup).await;
    let data = "x".repeat(DATA);
    let attack = async || {
        let request = b"GET /rooms/flood/events HTTP/1.1\r\nHost: a\r\n\r\n";
        let sockets = connect_many(scene.address(), READERS, request).await;
        eventually!(scene.gateway.room("flood").await["subscribers"] == READERS);
        // Far more than the kernel holds for them: in queues it would be 160 MB.
        for _ in 0..200 {
            scene.gateway.publish("flood", "bulk", &data).await;
        }
        scene.unharmed().await;
        eventually!(scene.gateway.room("flood").await["subscribers"] == 0);
        drop(sockets);
        scene.over().await;
    };
    attack().await;
    let before = scene.memory().await;
    attack().await;
    let more = scene.memory().await - before;
    assert!(more < SLACK, "{more} bytes more");
    scene.end().await;
}

/// Answers that nobody reads have a size, whatever a room keeps.
#[tokio::test(flavor = "multi_thread")]
async fn history_that_nobody_reads() {
    const ASKED: usize = 40;
    let scene = Scene::begin(Setup::memory()).await;
    let data = "x".repeat(32_000);
    for _ in 0..500 {
        scene.gateway.publish("kept", "bulk", &data).await;
    }
    let before = scene.memory().await;
    let request = b"GET /rooms/kept/events?limit=1000 HTTP/1.1\r\nHost: a\r\nAccept: application/json\r\n\r\n";
    let sockets = connect_many(scene.address(), ASKED, request).await;
    scene.unharmed().await;
    eventually!(
        sum(
            &scene.gateway.admin("/metrics").await.unwrap().text(),
            "sse_gateway_http_requests_total{route=\"history\""
        ) >= ASKED as f64
    );
    // Each would have 16 MB.
    let more = scene.memory().await - before;
    assert!(more < 4e6 * ASKED as f64, "{more} bytes more");
    drop(sockets);
    scene.end().await;
}

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

//! Over a limit, a new stream is told so and closed, with a 200 that brings its client back; open ones stay.

use crate::support::{Client, Setup};

async fn assert_not_let_in(address: std::net::SocketAddr, room: &str) {
    let client = Client::of(&[address], room).once().start();
    let close = client.wait_control("stream.close").await;
    assert_eq!(close["reason"], "limit");
    let seen = client.seen();
    assert!(seen.retry_ms.is_some());
    assert_eq!(
        seen.refused, None,
        "a status other than 200 ends a browser's client for good"
    );
    assert_eq!(seen.connections, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_node_lets_nobody_in_and_keeps_its_streams() {
    let gateway = Setup::memory().set("limits.streams", "3").start().await;
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.push(Client::of(&[gateway.address], "demo").open().await);
    }
    assert_not_let_in(gateway.address, "demo").await;
    gateway.publish("demo", "chat", "hi").await;
    for client in &clients {
        client.wait_events(1).await;
        assert_eq!(client.seen().connections, 1);
    }
    clients.pop();
    let _late = Client::of(&[gateway.address], "demo").open().await;
    let metrics = gateway.admin("/metrics").await.unwrap().text();
    let line = "sse_gateway_streams_closed_total{reason=\"limit\"} 1";
    assert!(metrics.contains(line), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_room_more_than_allowed_is_not_opened() {
    let setup = Setup::memory().set("shards", "1").set("limits.rooms", "2");
    let gateway = setup.start().await;
    let _a = Client::of(&[gateway.address], "a").open().await;
    let _b = Client::of(&[gateway.address], "b").open().await;
    assert_not_let_in(gateway.address, "c").await;
    let _another = Client::of(&[gateway.address], "a").open().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_stream_is_closed_and_its_client_misses_nothing() {
    let gateway = Setup::memory().set("stream.max_age", "1s").start().await;
    let client = Client::of(&[gateway.address], "demo").open().await;
    let mut ids = Vec::new();
    while client.seen().connections < 3 {
        ids.push(gateway.publish("demo", "chat", "hi").await);
    }
    client.wait_id(ids.last().unwrap()).await;
    client.assert_ids("over three connections", &ids);
    client.assert_never_reset();
    assert_eq!(client.control("stream.close")[0]["reason"], "age");
    assert_eq!(client.seen().clean_ends, 0);
}

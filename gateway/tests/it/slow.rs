//! A client that stops reading costs itself, and nobody else.

use crate::support::{Client, Gateway, RedisServer, Setup, assert_same_ids};

const GOOD: usize = 1000;

#[tokio::test(flavor = "multi_thread")]
async fn a_stalled_client_beside_a_thousand_good_ones() {
    let redis = RedisServer::start().await;
    let setup = Setup::redis(&redis)
        .set("stream.lag_timeout", "2s")
        .set("stream.send_buffer", "4096");
    let gateway = setup.start().await;
    let mut good = Vec::new();
    for _ in 0..GOOD {
        good.push(Client::of(&[gateway.address], "demo").start());
    }
    for client in &good {
        client.wait_open().await;
    }
    let stalled = Client::of(&[gateway.address], "demo")
        .receive_buffer(4096)
        .open()
        .await;
    stalled.stall(true);
    assert_eq!(gateway.room("demo").await["subscribers"], GOOD + 1);

    let data = "x".repeat(4000);
    for _ in 0..40 {
        redis.publish("demo", "bulk", &data).await;
    }
    let ids = redis.ids("demo").await;
    for client in &good {
        client.wait_id(ids.last().unwrap()).await;
        assert_same_ids("a good one", &client.ids(), &ids);
        assert_eq!(client.seen().connections, 1);
    }
    assert!(stalled.ids().len() < ids.len(), "it is stalled");

    eventually!(
        gateway.room("demo").await["subscribers"] == GOOD,
        "it should be closed after lag_timeout"
    );
    stalled.stall(false);
    stalled.wait_id(ids.last().unwrap()).await;
    assert_same_ids("the stalled one", &stalled.ids(), &ids);
    stalled.assert_never_reset();
    assert_eq!(
        stalled.seen().clean_ends,
        0,
        "it must come back, so its end is unclean"
    );
    assert_eq!(stalled.seen().connections, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn lagging_clients_with_redis() {
    let redis = RedisServer::start().await;
    lags_and_reads_again_in_time(Setup::redis(&redis)).await;
    lags_beyond_the_limit(Setup::redis(&redis)).await;
    stalls_and_cuts(Setup::redis(&redis)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lagging_clients_with_the_memory_broker() {
    lags_and_reads_again_in_time(Setup::memory()).await;
    lags_beyond_the_limit(Setup::memory()).await;
    stalls_and_cuts(Setup::memory()).await;
}

/// Publishes 400 KB, more than the kernel's buffers of a client hold, and gives the ids.
async fn bulk(gateway: &Gateway, room: &str) -> Vec<String> {
    let data = "x".repeat(4000);
    let mut ids = Vec::new();
    for _ in 0..100 {
        ids.push(gateway.publish(room, "bulk", &data).await);
    }
    ids
}

async fn lags_and_reads_again_in_time(setup: Setup) {
    // The room log holds a part of what is due: the rest comes from the stream, in pages.
    let setup = setup
        .set("publish.max_bytes", "8192")
        .set("stream.log_bytes", "16384");
    let setup = setup
        .set("stream.send_buffer", "4096")
        .set("stream.history_page", "8");
    let gateway = setup.start().await;
    let good = Client::of(&[gateway.address], "lag").open().await;
    let stalled = Client::of(&[gateway.address], "lag")
        .receive_buffer(4096)
        .open()
        .await;
    stalled.stall(true);
    let ids = bulk(&gateway, "lag").await;
    good.wait_id(ids.last().unwrap()).await;
    assert!(stalled.ids().len() < ids.len(), "it is stalled");
    stalled.stall(false);
    stalled.wait_id(ids.last().unwrap()).await;
    assert_same_ids("the lagging one", &stalled.ids(), &ids);
    assert_eq!(stalled.seen().connections, 1);
    let id = gateway.publish("lag", "chat", "live again").await;
    stalled.wait_id(&id).await;
    stalled.assert_never_reset();
}

async fn lags_beyond_the_limit(setup: Setup) {
    let setup = setup
        .set("stream.max_lag_bytes", "65536")
        .set("stream.send_buffer", "4096");
    let gateway = setup.start().await;
    let stalled = Client::of(&[gateway.address], "limit")
        .receive_buffer(4096)
        .open()
        .await;
    stalled.stall(true);
    let ids = bulk(&gateway, "limit").await;
    eventually!(
        gateway.room("limit").await["subscribers"] == 0,
        "it should be closed at max_lag_bytes"
    );
    stalled.stall(false);
    stalled.wait_id(ids.last().unwrap()).await;
    assert_same_ids("the lagging one", &stalled.ids(), &ids);
    stalled.assert_never_reset();
    assert!(stalled.seen().connections >= 2);
}

/// Clients stall, read again and are cut in many patterns, with a room log that holds little.
async fn stalls_and_cuts(setup: Setup) {
    let setup = setup
        .set("publish.max_bytes", "4096")
        .set("stream.log_bytes", "8192")
        .set("stream.log_entries", "16");
    let setup = setup
        .set("stream.send_buffer", "4096")
        .set("stream.history_page", "3");
    let gateway = setup.start().await;
    let mut clients = Vec::new();
    for number in 0..30 {
        let client = Client::of(&[gateway.address], "mix").receive_buffer(4096);
        // Half of them are new, half say that they begin at the start: it is the same here.
        let client = if number % 2 == 0 {
            client.last_event_id("0-0")
        } else {
            client
        };
        clients.push(client.open().await);
    }
    let mut ids = Vec::new();
    for step in 0..400usize {
        let data = "x".repeat(step * 7919 % 3000);
        ids.push(gateway.publish("mix", "", &data).await);
        for (number, client) in clients.iter().enumerate() {
            match (step * 31 + number * 17) % (20 + number) {
                0 => client.stall(true),
                5 => client.stall(false),
                9 if number % 3 == 0 => client.cut(),
                _ => {}
            }
        }
    }
    for (number, client) in clients.iter().enumerate() {
        client.stall(false);
        client.wait_id(ids.last().unwrap()).await;
        client.assert_ids(&format!("client {number}"), &ids);
        client.assert_never_reset();
        assert!(number % 3 == 0 || client.seen().connections == 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_vanish_are_no_subscribers() {
    let gateway = Setup::memory().start().await;
    let mut clients = Vec::new();
    for _ in 0..50 {
        clients.push(Client::of(&[gateway.address], "demo").open().await);
    }
    assert_eq!(gateway.room("demo").await["subscribers"], 50);
    clients.truncate(20);
    eventually!(
        gateway.room("demo").await["subscribers"] == 20,
        "{}",
        gateway.room("demo").await
    );
    clients.clear();
    eventually!(
        gateway.room("demo").await["subscribers"] == 0,
        "{}",
        gateway.room("demo").await
    );
}

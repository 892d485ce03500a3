//! A client that stops reading costs itself, and nobody else.

use crate::support::{Client, RedisServer, Setup, assert_same_ids};

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
async fn a_lagging_client_that_reads_again_in_time_keeps_its_stream() {
    let redis = RedisServer::start().await;
    // The room log holds a part of what is due: the rest comes from the stream, in pages.
    let setup = Setup::redis(&redis)
        .set("publish.max_bytes", "8192")
        .set("stream.log_bytes", "16384");
    let gateway = setup
        .set("stream.send_buffer", "4096")
        .set("stream.history_page", "8")
        .start()
        .await;
    let good = Client::of(&[gateway.address], "demo").open().await;
    let stalled = Client::of(&[gateway.address], "demo")
        .receive_buffer(4096)
        .open()
        .await;
    stalled.stall(true);
    let data = "x".repeat(4000);
    for _ in 0..100 {
        redis.publish("demo", "bulk", &data).await;
    }
    let ids = redis.ids("demo").await;
    good.wait_id(ids.last().unwrap()).await;
    stalled.stall(false);
    stalled.wait_id(ids.last().unwrap()).await;
    assert_same_ids("the lagging one", &stalled.ids(), &ids);
    assert_eq!(stalled.seen().connections, 1);
    let id = redis.publish("demo", "chat", "live again").await;
    stalled.wait_id(&id).await;
    stalled.assert_never_reset();
}

#[tokio::test(flavor = "multi_thread")]
async fn lag_beyond_the_limit_is_closed_and_comes_back() {
    let redis = RedisServer::start().await;
    let setup = Setup::redis(&redis)
        .set("stream.max_lag_bytes", "65536")
        .set("stream.send_buffer", "4096");
    let gateway = setup.start().await;
    let stalled = Client::of(&[gateway.address], "demo")
        .receive_buffer(4096)
        .open()
        .await;
    stalled.stall(true);
    let data = "x".repeat(4000);
    for _ in 0..100 {
        redis.publish("demo", "bulk", &data).await;
    }
    eventually!(
        gateway.room("demo").await["subscribers"] == 0,
        "it should be closed at max_lag_bytes"
    );
    stalled.stall(false);
    let ids = redis.ids("demo").await;
    stalled.wait_id(ids.last().unwrap()).await;
    assert_same_ids("the lagging one", &stalled.ids(), &ids);
    stalled.assert_never_reset();
    assert!(stalled.seen().connections >= 2);
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

//! The first bytes of a stream, and clients that are cut right there.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::support::{Client, Load, RedisServer, Setup, assert_same_ids};

/// Cuts its first `times` connections right after `stream.open`.
fn at_open(
    times: usize,
) -> (
    Arc<AtomicUsize>,
    impl Fn(&crate::support::client::Message) -> bool + Send + Sync,
) {
    let cuts = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&cuts);
    let test = move |message: &crate::support::client::Message| {
        message.event == "stream.open" && counter.fetch_add(1, Ordering::SeqCst) < times
    };
    (cuts, test)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_cut_between_open_and_replay_loses_nothing() {
    let redis = RedisServer::start().await;
    let a = Setup::redis(&redis).start().await;
    let b = Setup::redis(&redis).start().await;
    let mut ids = Vec::new();
    for number in 0..200 {
        ids.push(redis.publish("demo", "chat", &number.to_string()).await);
    }
    for position in ["0-0", &ids[50], &ids[198]] {
        let (cuts, test) = at_open(3);
        let options = Client::of(&[a.address, b.address], "demo")
            .last_event_id(position)
            .cut_when(test);
        let client = options.open().await;
        client.wait_id(&ids[199]).await;
        let from = ids
            .iter()
            .position(|id| id == position)
            .map_or(0, |at| at + 1);
        assert_same_ids(position, &client.ids(), &ids[from..]);
        assert!(cuts.load(Ordering::SeqCst) > 3);
        client.assert_never_reset();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_client_cut_after_open_gets_what_was_published_meanwhile() {
    let redis = RedisServer::start().await;
    let gateway = Setup::redis(&redis).start().await;
    redis.publish("demo", "chat", "before").await;
    for room in ["demo", "empty"] {
        let (_, test) = at_open(1);
        let client = Client::of(&[gateway.address], room).cut_when(test).start();
        client.wait_open().await;
        let id = redis.publish(room, "chat", "meanwhile").await;
        client.wait_id(&id).await;
        assert_same_ids(room, &client.ids(), &[id]);
        client.assert_never_reset();
        eventually!(client.seen().connections >= 2, "it was not cut");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cuts_at_any_event_under_load_lose_nothing_and_double_nothing() {
    let redis = RedisServer::start().await;
    let a = Setup::redis(&redis).start().await;
    let b = Setup::redis(&redis).start().await;
    let load = Load::start(&redis, "demo");
    load.wait_more(50).await;
    let mut clients = Vec::new();
    for number in 0..12 {
        let seen = AtomicUsize::new(0);
        // Every 7th to 18th message, its own control events included.
        let test = move |_: &_| seen.fetch_add(1, Ordering::SeqCst) % (7 + number) == 6 + number;
        let options = Client::of(&[a.address, b.address], "demo")
            .last_event_id("0-0")
            .cut_when(test);
        clients.push(options.open().await);
    }
    load.wait_more(600).await;
    load.stop().await;
    let ids = redis.ids("demo").await;
    for (number, client) in clients.iter().enumerate() {
        client.wait_id(ids.last().unwrap()).await;
        client.assert_ids(&format!("client {number}"), &ids);
        client.assert_never_reset();
        assert!(client.seen().connections > 5);
    }
}

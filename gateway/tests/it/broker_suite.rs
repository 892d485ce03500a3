//! One suite for every broker: what the memory broker promises on one node is what Redis promises.

use std::sync::Arc;

use serde_json::json;

use crate::support::{Client, Gateway, RedisServer, Setup, assert_same_ids, http};

/// Makes a test of each scenario for each broker.
macro_rules! for_each_broker {
    ($($scenario:ident)+) => {
        mod memory {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $scenario() {
                super::$scenario(super::tuned(super::Setup::memory()).start().await).await;
            })+
        }
        mod redis {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $scenario() {
                let server = super::RedisServer::start().await;
                super::$scenario(super::tuned(super::Setup::redis(&server)).start().await).await;
            })+
        }
    };
}

for_each_broker! {
    all_subscribers_see_the_same_order
    positions_get_the_rest
    positions_that_prove_nothing_reset
    trimmed_positions_reset
    rooms_are_apart
    repeats_store_nothing
    history_in_pages
    a_herd_comes_back
    clients_that_come_and_go_miss_nothing
    the_largest_event_fits
}

fn tuned(setup: Setup) -> Setup {
    setup.node("n1").set("retention.max_len", "500")
}

async fn publish(gateway: &Gateway, room: &str, count: usize) -> Vec<String> {
    let mut ids = Vec::new();
    for number in 0..count {
        ids.push(gateway.publish(room, "chat", &number.to_string()).await);
    }
    ids
}

async fn back(gateway: &Gateway, room: &str, position: &str) -> Client {
    Client::of(&[gateway.address], room)
        .last_event_id(position)
        .open()
        .await
}

async fn stored(gateway: &Gateway, room: &str, query: &str) -> serde_json::Value {
    let accept = [("Accept", "application/json")];
    let target = format!("/rooms/{room}/events?{query}");
    let answer = http::request(gateway.address, "GET", &target, &accept, b"").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()
}

fn ids_of(history: &serde_json::Value) -> Vec<String> {
    history["events"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| event["id"].as_str().unwrap().to_owned())
        .collect()
}

async fn all_subscribers_see_the_same_order(gateway: Gateway) {
    let gateway = Arc::new(gateway);
    let mut clients = Vec::new();
    for _ in 0..10 {
        clients.push(Client::of(&[gateway.address], "demo").open().await);
    }
    let mut publishers = Vec::new();
    for publisher in 0..5 {
        let gateway = Arc::clone(&gateway);
        publishers.push(tokio::spawn(async move {
            for number in 0..40 {
                gateway
                    .publish("demo", "chat", &format!("{publisher}:{number}"))
                    .await;
            }
        }));
    }
    for publisher in publishers {
        publisher.await.unwrap();
    }
    let ids = ids_of(&stored(&gateway, "demo", "limit=1000").await);
    assert_eq!(ids.len(), 200);
    for client in &clients {
        client.wait_id(ids.last().unwrap()).await;
        assert_same_ids("live", &client.ids(), &ids);
        assert_eq!(client.seen().connections, 1);
    }
}

async fn positions_get_the_rest(gateway: Gateway) {
    let watcher = back(&gateway, "demo", "0-0").await;
    let ids = publish(&gateway, "demo", 60).await;
    watcher.wait_id(&ids[59]).await;
    assert_same_ids("from the start", &watcher.ids(), &ids);
    for (position, from) in [
        ("0-0", 0),
        ("earliest", 0),
        (&*ids[0], 1),
        (&*ids[30], 31),
        (&*ids[58], 59),
    ] {
        let client = Client::of(&[gateway.address], "demo")
            .query(&format!("lastEventId={position}"))
            .open()
            .await;
        client.wait_id(&ids[59]).await;
        assert_same_ids(position, &client.ids(), &ids[from..]);
        client.assert_never_reset();
    }
    let recent = Client::of(&[gateway.address], "demo")
        .query("recent=7")
        .open()
        .await;
    recent.wait_id(&ids[59]).await;
    assert_same_ids("recent", &recent.ids(), &ids[53..]);
    let last = back(&gateway, "demo", &ids[59]).await;
    let new = Client::of(&[gateway.address], "demo").open().await;
    assert_eq!(new.control_id("stream.open").as_ref(), Some(&ids[59]));
    let next = publish(&gateway, "demo", 1).await;
    for client in [&last, &new] {
        client.wait_id(&next[0]).await;
        assert_same_ids("only what is new", &client.ids(), &next);
        client.assert_never_reset();
    }
}

async fn positions_that_prove_nothing_reset(gateway: Gateway) {
    let milliseconds = |id: &str| id.split_once('-').unwrap().0.parse::<u64>().unwrap();
    let mut last = milliseconds(&gateway.publish("demo", "chat", "first").await);
    let mut before;
    // Two neighbours with a millisecond between them that has no event.
    eventually!(
        {
            before = last;
            last = milliseconds(&gateway.publish("demo", "chat", "next").await);
            last >= before + 2
        },
        "events come too fast"
    );
    let unknown = format!("{}-7", before + 1);
    let future = format!("{}-0", last + 1_000_000);
    for (position, reason) in [
        (&*future, "future"),
        (&*unknown, "unknown"),
        ("rubbish", "malformed"),
    ] {
        let client = back(&gateway, "demo", position).await;
        let reset = client.wait_control("stream.reset").await;
        assert_eq!(
            (&reset["reason"], &reset["presented"]),
            (&json!(reason), &json!(position))
        );
        let id = gateway.publish("demo", "chat", "next").await;
        client.wait_id(&id).await;
        assert_same_ids(reason, &client.ids(), &[id]);
        assert_eq!(client.resets().len(), 1);
    }
}

async fn trimmed_positions_reset(gateway: Gateway) {
    let ids = publish(&gateway, "demo", 900).await;
    let room = gateway.room("demo").await;
    let oldest = room["oldest_id"].as_str().unwrap().to_owned();
    let from = ids.iter().position(|id| *id == oldest).unwrap();
    assert!(
        (200..=400).contains(&from),
        "about 500 are kept, of 900: {room}"
    );
    for position in ["0-0", &ids[10]] {
        let client = back(&gateway, "demo", position).await;
        client.wait_id(&ids[899]).await;
        assert_same_ids("what is kept", &client.ids(), &ids[from..]);
        assert_eq!(client.resets().len(), 1);
        assert_eq!(client.resets()[0]["reason"], "trimmed");
    }
    let client = back(&gateway, "demo", &oldest).await;
    client.wait_id(&ids[899]).await;
    assert_same_ids("from the oldest", &client.ids(), &ids[from + 1..]);
    client.assert_never_reset();
}

async fn rooms_are_apart(gateway: Gateway) {
    let rooms = ["one", "two", "ONE", "one.", "o:n@e~-_"];
    let mut clients = Vec::new();
    for room in rooms {
        clients.push(Client::of(&[gateway.address], room).open().await);
    }
    for round in 0..5 {
        for room in rooms {
            gateway
                .publish(room, "chat", &format!("{room} {round}"))
                .await;
        }
    }
    for (room, client) in rooms.iter().zip(&clients) {
        client.wait_events(5).await;
        let want: Vec<_> = (0..5).map(|round| format!("{room} {round}")).collect();
        assert_eq!(client.data(), want);
        assert_eq!(gateway.room(room).await["length"], 5);
    }
}

async fn repeats_store_nothing(gateway: Gateway) {
    let client = Client::of(&[gateway.address], "demo").open().await;
    let headers = [("Content-Type", "text/plain"), ("Idempotency-Key", "k1")];
    let first = gateway.post("demo", &headers, b"one").await;
    let again = gateway.post("demo", &headers, b"one").await;
    assert_eq!(
        (first.status, again.status),
        (201, 200),
        "{} {}",
        first.text(),
        again.text()
    );
    assert_eq!(first.json()["id"], again.json()["id"]);
    assert_eq!(gateway.post("other", &headers, b"one").await.status, 201);
    let id = gateway.publish("demo", "chat", "end").await;
    client.wait_id(&id).await;
    assert_eq!(client.data(), ["one", "end"]);
}

async fn history_in_pages(gateway: Gateway) {
    let empty = stored(&gateway, "demo", "").await;
    assert_eq!(
        (&empty["events"], &empty["more"]),
        (&json!([]), &json!(false)),
        "{empty}"
    );
    let ids = publish(&gateway, "demo", 25).await;
    let newest = stored(&gateway, "demo", "limit=10").await;
    assert_eq!(ids_of(&newest), ids[15..]);
    assert_eq!(newest["more"], true);
    let mut after = "0-0".to_owned();
    let mut got = Vec::new();
    loop {
        let page = stored(&gateway, "demo", &format!("after={after}&limit=10")).await;
        got.extend(ids_of(&page));
        assert_eq!(page["oldest_id"], json!(ids[0]));
        // Where to go on, not the end of the stream.
        assert_eq!(page["last_id"], json!(got.last()));
        page["last_id"].as_str().unwrap().clone_into(&mut after);
        if page["more"] == false {
            break;
        }
    }
    assert_same_ids("page by page", &got, &ids);
    let accept = [("Accept", "application/json")];
    for wrong in ["after=x", "limit=x", "limit=-1"] {
        let target = format!("/rooms/demo/events?{wrong}");
        let answer = http::request(gateway.address, "GET", &target, &accept, b"").await;
        assert_eq!(answer.status, 400, "{wrong}: {}", answer.text());
        answer.error();
    }
    // First paint, then the stream from its last id: nothing missing, nothing twice.
    let client = Client::of(&[gateway.address], "demo")
        .query(&format!("lastEventId={after}"))
        .open()
        .await;
    let next = publish(&gateway, "demo", 1).await;
    client.wait_id(&next[0]).await;
    assert_same_ids("after the history", &client.ids(), &next);
}

async fn a_herd_comes_back(gateway: Gateway) {
    let mut clients = Vec::new();
    for _ in 0..100 {
        clients.push(
            Client::of(&[gateway.address], "demo")
                .last_event_id("0-0")
                .open()
                .await,
        );
    }
    let mut ids = publish(&gateway, "demo", 10).await;
    for round in 0..3 {
        for client in &clients {
            client.cut();
        }
        ids.extend(publish(&gateway, "demo", 10 + round).await);
    }
    for client in &clients {
        client.wait_id(ids.last().unwrap()).await;
        assert_same_ids("the herd", &client.ids(), &ids);
        client.assert_never_reset();
    }
    eventually!(
        gateway.room("demo").await["subscribers"] == 100,
        "{}",
        gateway.room("demo").await
    );
}

/// A room that empties is left and joined again, while events go on.
async fn clients_that_come_and_go_miss_nothing(gateway: Gateway) {
    let gateway = Arc::new(gateway);
    let publisher = Arc::clone(&gateway);
    let publisher = tokio::spawn(async move { publish(&publisher, "demo", 300).await });
    let client = back(&gateway, "demo", "0-0").await;
    while !publisher.is_finished() {
        let seen = client.ids().len();
        client.cut();
        eventually!(
            client.ids().len() > seen || publisher.is_finished(),
            "{}",
            client.summary()
        );
    }
    let ids = publisher.await.unwrap();
    client.wait_id(&ids[299]).await;
    assert_same_ids("over many connections", &client.ids(), &ids);
    client.assert_never_reset();
}

async fn the_largest_event_fits(gateway: Gateway) {
    let client = Client::of(&[gateway.address], "demo").open().await;
    let lines = "\n".repeat(65_536);
    let text = "ä".repeat(32_768);
    for data in [&lines, &text] {
        let answer = gateway
            .post("demo", &[("Content-Type", "text/plain")], data.as_bytes())
            .await;
        assert_eq!(answer.status, 201, "{}", answer.text());
    }
    client.wait_events(2).await;
    assert!(
        client.data() == [lines.clone(), text.clone()],
        "changed on the way"
    );
    let late = back(&gateway, "demo", "0-0").await;
    late.wait_events(2).await;
    assert!(late.data() == [lines, text], "changed on the way");
}

//! Clients that come back, with every kind of position, to any node.

use std::net::SocketAddr;

use serde_json::json;

use crate::support::redis::key;
use crate::support::{Client, Gateway, HaProxy, Load, RedisServer, Setup, assert_same_ids, http};

/// Two nodes; the first one knows the room, the second one has never heard of it.
async fn two_nodes() -> (RedisServer, Gateway, Gateway) {
    let redis = RedisServer::start().await;
    let a = Setup::redis(&redis).node("a").start().await;
    let b = Setup::redis(&redis).node("b").start().await;
    (redis, a, b)
}

/// Publishes through the function and gives the ids.
async fn publish(redis: &RedisServer, room: &str, count: usize) -> Vec<String> {
    let mut ids = Vec::new();
    for number in 0..count {
        ids.push(redis.publish(room, "chat", &number.to_string()).await);
    }
    ids
}

async fn back(node: &Gateway, room: &str, position: &str) -> Client {
    Client::of(&[node.address], room)
        .last_event_id(position)
        .open()
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_known_position_gets_the_rest_from_any_node() {
    let (redis, a, b) = two_nodes().await;
    let watcher = Client::of(&[a.address], "demo").open().await;
    let ids = publish(&redis, "demo", 300).await;
    watcher.wait_id(&ids[299]).await;
    for node in [&a, &b] {
        for from in [0, 1, 150, 297, 298] {
            let client = back(node, "demo", &ids[from]).await;
            client.wait_id(&ids[299]).await;
            assert_same_ids("the rest", &client.ids(), &ids[from + 1..]);
            assert_eq!(
                client.control_id("stream.open").as_ref(),
                Some(&ids[from]),
                "the presented position"
            );
            client.assert_never_reset();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_position_gets_nothing_but_what_comes() {
    let (redis, a, b) = two_nodes().await;
    let ids = publish(&redis, "demo", 10).await;
    let clients = [
        back(&a, "demo", &ids[9]).await,
        back(&b, "demo", &ids[9]).await,
    ];
    let next = publish(&redis, "demo", 2).await;
    for client in &clients {
        client.wait_id(&next[1]).await;
        assert_same_ids("live", &client.ids(), &next);
        client.assert_never_reset();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trimmed_position_is_told_and_goes_on_from_the_oldest() {
    let (redis, a, b) = two_nodes().await;
    let ids = publish(&redis, "demo", 20).await;
    redis
        .call(&["XTRIM", &key("demo"), "MAXLEN", "=", "5"])
        .await;
    for node in [&a, &b] {
        let client = back(node, "demo", &ids[3]).await;
        client.wait_id(&ids[19]).await;
        assert_same_ids("what is kept", &client.ids(), &ids[15..]);
        let resets = client.resets();
        assert_eq!(resets.len(), 1, "{resets:?}");
        assert_eq!(resets[0]["reason"], "trimmed");
        assert_eq!(resets[0]["presented"], json!(ids[3]));
        assert_eq!(resets[0]["lost"]["after"], json!(ids[3]));
        assert!(resets[0]["lost"]["through"].is_string(), "{resets:?}");
        let goes_on = client.control_id("stream.reset").unwrap();
        assert!(
            !ids[15..].contains(&goes_on),
            "dropped right after the reset it would skip {goes_on}"
        );
        // The last trimmed one: the oldest kept entry names it, so nothing is lost.
        let client = back(node, "demo", &ids[14]).await;
        client.wait_id(&ids[19]).await;
        assert_same_ids("what is kept", &client.ids(), &ids[15..]);
        client.assert_never_reset();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn positions_that_prove_nothing_are_told_and_go_on_from_now() {
    let redis = RedisServer::start().await;
    // With one shard, what one client has seen is "now" for the next one too.
    let start = || Setup::redis(&redis).set("shards", "1").start();
    let (a, b) = (start().await, start().await);
    for id in ["100-0", "200-0", "300-0"] {
        redis.call(&["XADD", &key("demo"), id, "data", id]).await;
    }
    let mut last = 300;
    for node in [&a, &b] {
        for (position, reason) in [
            ("150-0", "unknown"),
            ("200-1", "unknown"),
            ("9999999999999-0", "future"),
            ("301-0", "future"),
            ("abc", "malformed"),
            ("1-2-3", "malformed"),
            ("-1", "malformed"),
            ("+5-0", "malformed"),
            ("99999999999999999999-0", "malformed"),
        ] {
            // `last` moves on below, past 301.
            if reason == "future" && position == "301-0" && last > 300 {
                continue;
            }
            let client = back(node, "demo", position).await;
            let reset = client.wait_control("stream.reset").await;
            assert_eq!(
                (&reset["reason"], &reset["presented"]),
                (&json!(reason), &json!(position)),
                "{reset}"
            );
            let now = if last == 300 {
                "300-0".to_owned()
            } else {
                format!("{last}-0")
            };
            // Another primary may have it.
            let now = match reason {
                "future" => format!("{now}~{position}~00000000"),
                _ => now,
            };
            assert_eq!(client.control_id("stream.reset"), Some(now));
            last += 1000;
            let next = format!("{last}-0");
            redis
                .call(&["XADD", &key("demo"), &next, "data", "next"])
                .await;
            client.wait_id(&next).await;
            assert_same_ids("from now on", &client.ids(), &[next]);
            assert_eq!(client.resets().len(), 1);
            let open = client.control_id("stream.open");
            assert!(
                reason != "malformed" || open.as_deref() != Some(position),
                "not an id: {open:?}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn zero_is_before_the_first_event() {
    let (redis, a, b) = two_nodes().await;
    let empty = back(&a, "demo", "0-0").await;
    let ids = publish(&redis, "demo", 20).await;
    empty.wait_id(&ids[19]).await;
    assert_same_ids("from an empty room", &empty.ids(), &ids);
    empty.assert_never_reset();
    for node in [&a, &b] {
        let client = back(node, "demo", "0-0").await;
        client.wait_id(&ids[19]).await;
        assert_same_ids("all", &client.ids(), &ids);
        client.assert_never_reset();
    }
    redis
        .call(&["XTRIM", &key("demo"), "MAXLEN", "=", "5"])
        .await;
    let c = Setup::redis(&redis).start().await;
    let client = back(&c, "demo", "0-0").await;
    client.wait_id(&ids[19]).await;
    assert_same_ids("what is kept", &client.ids(), &ids[15..]);
    assert_eq!(client.resets().len(), 1);
    assert_eq!(client.resets()[0]["reason"], "trimmed");
}

#[tokio::test(flavor = "multi_thread")]
async fn earliest_replays_what_is_kept_and_never_resets() {
    let (redis, a, b) = two_nodes().await;
    let ids = publish(&redis, "demo", 20).await;
    redis
        .call(&["XTRIM", &key("demo"), "MAXLEN", "=", "5"])
        .await;
    for node in [&a, &b] {
        for query in ["lastEventId=earliest", "last_event_id=earliest"] {
            let client = Client::of(&[node.address], "demo")
                .query(query)
                .open()
                .await;
            client.wait_id(&ids[19]).await;
            assert_same_ids("what is kept", &client.ids(), &ids[15..]);
            client.assert_never_reset();
        }
        let empty = Client::of(&[node.address], "nothing-yet")
            .query("lastEventId=earliest")
            .open()
            .await;
        empty.assert_never_reset();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn recent_starts_some_events_back() {
    let (redis, a, b) = two_nodes().await;
    let ids = publish(&redis, "demo", 20).await;
    for node in [&a, &b] {
        for (count, from) in [(1, 19), (5, 15), (20, 0), (500, 0)] {
            let client = Client::of(&[node.address], "demo")
                .query(&format!("recent={count}"))
                .open()
                .await;
            client.wait_id(&ids[19]).await;
            assert_same_ids("recent", &client.ids(), &ids[from..]);
            client.assert_never_reset();
        }
        // The browser repeats the URL when it comes back: the header wins.
        let client = Client::of(&[node.address], "demo")
            .query("recent=5")
            .last_event_id(&ids[17])
            .open()
            .await;
        client.wait_id(&ids[19]).await;
        assert_same_ids("after the header's position", &client.ids(), &ids[18..]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_position_comes_by_query_too_and_the_header_wins() {
    let (redis, a, _b) = two_nodes().await;
    let ids = publish(&redis, "demo", 10).await;
    for name in [
        "lastEventId",
        "lastEventID",
        "last_event_id",
        "Last-Event-ID",
        "evs_last_event_id",
    ] {
        let query = format!("{name}={}", ids[6]);
        let client = Client::of(&[a.address], "demo").query(&query).open().await;
        client.wait_id(&ids[9]).await;
        assert_same_ids(name, &client.ids(), &ids[7..]);
        let client = Client::of(&[a.address], "demo")
            .query(&query)
            .last_event_id(&ids[8])
            .open()
            .await;
        client.wait_id(&ids[9]).await;
        assert_same_ids("the header wins", &client.ids(), &ids[9..]);
        client.assert_never_reset();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_deleted_entry_is_no_gap() {
    let (redis, a, b) = two_nodes().await;
    let watcher = back(&a, "demo", "0-0").await;
    let ids = publish(&redis, "demo", 10).await;
    watcher.wait_id(&ids[9]).await;
    redis.call(&["XDEL", &key("demo"), &ids[4]]).await;
    let client = back(&b, "demo", &ids[4]).await;
    client.wait_id(&ids[9]).await;
    assert_same_ids("after the deleted one", &client.ids(), &ids[5..]);
    client.assert_never_reset();
    // The last entry: its id is still the stream's last generated one.
    redis.call(&["XDEL", &key("demo"), &ids[9]]).await;
    let client = back(&b, "demo", &ids[9]).await;
    let next = redis.xadd("demo", &[("data", "next")]).await;
    client.wait_id(&next).await;
    assert_same_ids(
        "after the deleted last one",
        &client.ids(),
        std::slice::from_ref(&next),
    );
    client.assert_never_reset();
    watcher.wait_id(&next).await;
    assert_same_ids("live", &watcher.ids(), &[&ids[..], &[next]].concat());
    watcher.assert_never_reset();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_room_is_told_to_those_in_it_and_to_those_who_come_back() {
    let (redis, a, b) = two_nodes().await;
    let deletes: [&[&str]; 5] = [
        &["DEL", "sse:room:demo"],
        &["UNLINK", "sse:room:demo"],
        &["PEXPIRE", "sse:room:demo", "1"],
        &["RENAME", "sse:room:demo", "elsewhere"],
        &["FLUSHALL"],
    ];
    for delete in deletes {
        let ids = publish(&redis, "demo", 5).await;
        let watcher = back(&a, "demo", &ids[3]).await;
        watcher.wait_id(&ids[4]).await;
        redis.call(delete).await;
        let reset = watcher.wait_control("stream.reset").await;
        assert_eq!(reset["reason"], "deleted", "{delete:?}: {reset}");
        let next = publish(&redis, "demo", 3).await;
        watcher.wait_id(&next[2]).await;
        assert_same_ids(
            "before and after",
            &watcher.ids(),
            &[&ids[4..], &next[..]].concat(),
        );
        assert_eq!(watcher.resets().len(), 1, "{:?}", watcher.resets());
        for node in [&a, &b] {
            let client = back(node, "demo", &ids[2]).await;
            client.wait_control("stream.reset").await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_herd_hardly_reads_the_stream() {
    let (redis, a, b) = two_nodes().await;
    let ids = publish(&redis, "demo", 300).await;
    for node in [&a, &b] {
        let before = redis.calls("xrange").await + redis.calls("xrevrange").await;
        let mut herd = Vec::new();
        for number in 0..300 {
            let position = if number % 2 == 0 {
                &ids[200]
            } else {
                &ids[number]
            };
            let client = Client::of(&[node.address], "demo").last_event_id(position);
            herd.push((position, client.start()));
        }
        for (position, client) in &herd {
            let from = ids.iter().position(|id| id == *position).unwrap() + 1;
            eventually!(
                client.ids().len() >= ids.len() - from,
                "{}",
                client.summary()
            );
            assert_same_ids("the herd", &client.ids(), &ids[from..]);
            client.assert_never_reset();
        }
        let reads = redis.calls("xrange").await + redis.calls("xrevrange").await - before;
        assert!(reads <= 12, "{reads} range reads for one room");
    }
}

/// Positions older than the room log: the bytes decide how much is read, not the positions.
#[tokio::test(flavor = "multi_thread")]
async fn a_herd_below_the_log_reads_each_page_once() {
    const PAGE: usize = 64;
    let redis = RedisServer::start().await;
    let node = Setup::redis(&redis)
        // Shards share nothing: each reads for its own clients.
        .set("shards", "1")
        .set("publish.max_bytes", "8192")
        .set("stream.log_bytes", "16384")
        .set("stream.history_page", &PAGE.to_string())
        .start()
        .await;
    let watcher = Client::of(&[node.address], "demo").open().await;
    let mut ids = Vec::new();
    let text = "x".repeat(1000);
    for _ in 0..400 {
        ids.push(redis.publish("demo", "chat", &text).await);
    }
    watcher.wait_id(&ids[399]).await;
    let reads = async || redis.calls("xrange").await + redis.calls("xrevrange").await;
    let before = reads().await;
    let mut herd = Vec::new();
    for number in 0..300 {
        // Not in the order of the positions.
        let from = number * 37 % 100 * 3;
        let client = Client::of(&[node.address], "demo").last_event_id(&ids[from]);
        herd.push((from + 1, client.start()));
    }
    for (from, client) in &herd {
        client.wait_id(&ids[399]).await;
        assert_same_ids("the herd", &client.ids(), &ids[*from..]);
        client.assert_never_reset();
    }
    let (reads, pages) = (reads().await - before, 400_u64.div_ceil(PAGE as u64));
    assert!(reads <= pages + 5, "{reads} range reads for {pages} pages");
    println!("{reads} range reads for {pages} pages");
}

#[tokio::test(flavor = "multi_thread")]
async fn kills_behind_haproxy_lose_nothing_and_double_nothing() {
    let (redis, mut a, mut b) = two_nodes().await;
    let Some(haproxy) = HaProxy::start([&a, &b]).await else {
        return;
    };
    kill_rounds(&redis, &mut a, &mut b, &[haproxy.address], Some(&haproxy)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kills_lose_nothing_and_double_nothing_for_clients_that_know_both_nodes() {
    let (redis, mut a, mut b) = two_nodes().await;
    let addresses = [a.address, b.address];
    kill_rounds(&redis, &mut a, &mut b, &addresses, None).await;
}

/// Each node in turn is killed under load. At the end everyone has what the stream has.
async fn kill_rounds(
    redis: &RedisServer,
    a: &mut Gateway,
    b: &mut Gateway,
    addresses: &[SocketAddr],
    balancer: Option<&HaProxy>,
) {
    let mut clients = Vec::new();
    for number in 0..24 {
        // Some say where they begin, some are new: nothing was published yet, so it is the same.
        let client = Client::of(addresses, "demo");
        clients.push(
            if number % 2 == 0 {
                client.last_event_id("0-0")
            } else {
                client
            }
            .open()
            .await,
        );
    }
    let load = Load::start(redis, "demo");
    for round in 0..6 {
        load.wait_more(80).await;
        let (victim, name) = if round % 2 == 0 {
            (&mut *a, "a")
        } else {
            (&mut *b, "b")
        };
        victim.kill();
        load.wait_more(80).await;
        for client in &clients {
            eventually!(
                client.seen().connected,
                "round {round}: {}",
                client.summary()
            );
        }
        victim.up().await;
        if let Some(haproxy) = balancer {
            let served = async || {
                let answer = http::get(haproxy.address, "/rooms/demo").await;
                answer.status == 200 && answer.json()["node"] == name
            };
            eventually!(served().await, "{name} is not used again");
        }
    }
    load.stop().await;
    let ids = redis.ids("demo").await;
    for (number, client) in clients.iter().enumerate() {
        client.wait_id(ids.last().unwrap()).await;
        client.assert_ids(&format!("client {number}"), &ids);
        client.assert_never_reset();
        assert_eq!(client.seen().refused, None);
    }
    let moved = clients
        .iter()
        .filter(|client| client.seen().connections > 2)
        .count();
    assert!(
        moved > clients.len() / 2,
        "hardly anyone was on a node that was killed: {moved}"
    );
}

//! A room whose history is replaced: deleted while nodes know of it at different times, begun again with lower ids, or gone on with on
//! another branch.

use crate::support::redis::key;
use crate::support::{Client, Persistence, Proxy, RedisServer, Setup, assert_same_ids};

/// A client that has seen the new history comes to a node that still holds the old one.
#[tokio::test(flavor = "multi_thread")]
async fn who_has_the_new_history_is_not_given_it_again() {
    let redis = RedisServer::start().await;
    let proxy = Proxy::to(redis.address).await;
    let prompt = Setup::redis(&redis).start().await;
    let late = Setup::redis_at(proxy.address).set("redis.verify_interval", "2s");
    let late = late.start().await;
    let stays = Client::of(&[late.address], "demo").open().await;
    let moves = Client::of(&[prompt.address, late.address], "demo")
        .open()
        .await;
    let old = redis.publish("demo", "chat", "old").await;
    stays.wait_id(&old).await;
    moves.wait_id(&old).await;
    proxy.lose(|channel, _| channel.ends_with("demo"));
    redis.call(&["DEL", &key("demo")]).await;
    let mut ids = vec![old];
    for number in 0..3 {
        ids.push(redis.publish("demo", "chat", &number.to_string()).await);
    }
    moves.wait_id(&ids[3]).await;
    moves.cut();
    stays.wait_id(&ids[3]).await;
    let last = redis.publish("demo", "chat", "last").await;
    ids.push(last.clone());
    for client in [&stays, &moves] {
        client.wait_id(&last).await;
        assert_same_ids("after the deletion", &client.ids(), &ids);
        assert_eq!(client.resets().len(), 1, "{:?}", client.resets());
    }
}

/// The room begins again with lower ids than it had.
#[tokio::test(flavor = "multi_thread")]
async fn a_room_that_begins_again_with_lower_ids_is_told_and_goes_on() {
    for together in [true, false] {
        let redis = RedisServer::start().await;
        let gateway = Setup::redis(&redis).start().await;
        let client = Client::of(&[gateway.address], "demo").open().await;
        let old = redis.publish("demo", "chat", "old").await;
        let (ms, _) = old.split_once('-').unwrap();
        let ahead = format!("{}-0", ms.parse::<u64>().unwrap() + 3_600_000);
        redis
            .call(&["XADD", &key("demo"), &ahead, "data", "ahead"])
            .await;
        client.wait_id(&ahead).await;
        let mut ids = vec![old, ahead];
        if together {
            let mut connection = redis.connection().await.unwrap();
            let mut pipe = redis::pipe();
            pipe.cmd("DEL").arg(key("demo")).ignore();
            for number in 0..3 {
                let words = ["XADD", &key("demo"), "*", "data", &number.to_string()];
                pipe.cmd(words[0]).arg(&words[1..]);
            }
            let new: Vec<String> = pipe.query_async(&mut connection).await.unwrap();
            ids.extend(new);
        } else {
            redis.call(&["DEL", &key("demo")]).await;
            for number in 0..3 {
                ids.push(redis.publish("demo", "chat", &number.to_string()).await);
            }
        }
        let last = redis.publish("demo", "chat", "last").await;
        ids.push(last.clone());
        client.wait_id(&last).await;
        assert_same_ids("after the deletion", &client.ids(), &ids);
        assert!(!client.resets().is_empty(), "a reset");
    }
}

/// Two primaries at once, as for a while after a failover: the node was with the wrong one, and what the other one took
/// meanwhile has ids below those that its clients saw.
#[tokio::test(flavor = "multi_thread")]
async fn events_of_the_other_branch_are_delivered_or_told() {
    for function in [false, true] {
        let mut redis = RedisServer::start_with(Persistence::AofAlways).await;
        let proxy = Proxy::to(redis.address).await;
        let gateway = Setup::redis_at(proxy.address).start().await;
        let client = Client::of(&[gateway.address], "demo").open().await;
        let common = redis.publish("demo", "chat", "common").await;
        redis.back_up();
        let later = |id: &str, by: u64| {
            let (ms, _) = id.split_once('-').unwrap();
            format!("{}-0", ms.parse::<u64>().unwrap() + by)
        };
        // The function names the entry before; a plain XADD does not.
        let add = async |redis: &RedisServer, id: &str, prev: &str| {
            let key = key("demo");
            let mut words = vec!["XADD", &key, id, "data", "x"];
            if function {
                words.extend(["prev", prev]);
            }
            redis.call(&words).await;
        };
        let wrong = later(&common, 20);
        add(&redis, &wrong, &common).await;
        client.wait_id(&wrong).await;
        proxy.refuse();
        proxy.cut();
        redis.kill();
        redis.restore();
        redis.up().await;
        let (between, after) = (later(&common, 10), later(&common, 30));
        add(&redis, &between, &common).await;
        add(&redis, &after, &between).await;
        proxy.open();
        client.wait_id(&after).await;
        let ids = client.ids();
        assert!(
            ids.contains(&between) || !client.resets().is_empty(),
            "{between} is lost without a word (function: {function}): {ids:?}"
        );
    }
}

const READS: &str = "sse_gateway_redis_range_reads_total";

/// A client that was told that all is gone has the position before the first event. The other node still holds the old events.
#[tokio::test(flavor = "multi_thread")]
async fn who_was_told_that_all_is_gone_is_not_given_it_again() {
    for away in [false, true] {
        let redis = RedisServer::start().await;
        let proxy = Proxy::to(redis.address).await;
        let prompt = Setup::redis(&redis).start().await;
        // One room log for both clients.
        let late = Setup::redis_at(proxy.address).set("shards", "1");
        let late = late.set("redis.verify_interval", "2s").start().await;
        let stays = Client::of(&[late.address], "demo").open().await;
        let moves = Client::of(&[prompt.address, late.address], "demo")
            .open()
            .await;
        // Both know the present history from its beginning.
        let mut ids = vec![redis.publish("demo", "chat", "old").await];
        stays.wait_id(&ids[0]).await;
        moves.wait_id(&ids[0]).await;
        redis.call(&["DEL", &key("demo")]).await;
        stays.wait_control("stream.reset").await;
        moves.wait_control("stream.reset").await;
        for number in 0..3 {
            ids.push(redis.publish("demo", "chat", &number.to_string()).await);
        }
        stays.wait_id(&ids[3]).await;
        moves.wait_id(&ids[3]).await;
        if away {
            proxy.refuse();
            proxy.cut();
        } else {
            proxy.lose(|channel, _| channel.ends_with("demo"));
        }
        redis.call(&["DEL", &key("demo")]).await;
        eventually!(moves.resets().len() == 2, "{}", moves.summary());
        let reads = async || late.metric(READS).await.unwrap();
        let before = reads().await;
        moves.cut();
        eventually!(
            moves.control("stream.open").len() == 2,
            "it does not come back"
        );
        // What follows its position has been looked for, and there is nothing; any answer: it has had its turn.
        eventually!(reads().await > before);
        late.get("/rooms/demo").await;
        proxy.open();
        let last = redis.publish("demo", "chat", "last").await;
        ids.push(last.clone());
        for client in [&stays, &moves] {
            client.wait_id(&last).await;
            assert_same_ids(&format!("link away: {away}"), &client.ids(), &ids);
        }
    }
}

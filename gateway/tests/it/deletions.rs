//! A room that is deleted while nodes know of it at different times, or while the clock goes back.

use crate::support::redis::key;
use crate::support::{Client, Proxy, RedisServer, Setup, assert_same_ids};

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

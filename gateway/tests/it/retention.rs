//! What a room keeps: by configuration, by pattern of rooms, and as a publish says.

use redis::Value;
use serde_json::json;

use crate::support::redis::key;
use crate::support::{Gateway, RedisServer, Setup, http};

const RULES: &str = "few:* max_len=100 max_age=2h expire=3h, few:*:log, *:log expire=0s";
const KEY: (&str, &str) = ("Authorization", "Bearer a-key-for-tests");

async fn ttl(redis: &RedisServer, room: &str) -> i64 {
    redis.try_call(&["TTL", &key(room)]).await.unwrap()
}

async fn publish(gateway: &Gateway, room: &str, query: &str) -> u16 {
    let target = format!("/rooms/{room}/events{query}");
    let answer = http::request(gateway.address, "POST", &target, &[KEY], b"x").await;
    answer.status
}

#[tokio::test(flavor = "multi_thread")]
async fn rooms_are_kept_by_pattern() {
    let redis = RedisServer::start().await;
    let gateway = Setup::redis(&redis).set("retention.rooms", RULES);
    let gateway = gateway.start().await;
    for _ in 0..500 {
        gateway.publish("few:a", "", "x").await;
    }
    let length = redis.ids("few:a").await.len();
    assert!((100..=300).contains(&length), "about 100: {length}");
    assert!((10_000..=10_800).contains(&ttl(&redis, "few:a").await));
    gateway.publish("app:log", "", "x").await;
    gateway.publish("few:a:log", "", "x").await;
    gateway.publish("other", "", "x").await;
    assert_eq!(ttl(&redis, "app:log").await, -1);
    assert!((10_000..=10_800).contains(&ttl(&redis, "few:a:log").await));
    assert!((86_000..=86_400).contains(&ttl(&redis, "other").await));
    for (room, max_len, max_age, expire) in [
        ("few:a", 100, "2h", "3h"),
        ("app:log", 1000, "0s", "0s"),
        ("other", 1000, "0s", "1d"),
    ] {
        let expected = json!({"max_len": max_len, "max_age": max_age, "expire": expire});
        assert_eq!(gateway.room(room).await["retention"], expected, "{room}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publish_says_what_is_kept() {
    let redis = RedisServer::start().await;
    let gateway = Setup::redis(&redis).start().await;
    assert_eq!(publish(&gateway, "demo", "?expire=2h").await, 201);
    assert!((7_000..=7_200).contains(&ttl(&redis, "demo").await));
    assert_eq!(publish(&gateway, "demo", "?expire=0s").await, 201);
    assert_eq!(ttl(&redis, "demo").await, -1);
    let key = key("old");
    for number in 0..300 {
        let id = format!("{}-0", number + 1);
        redis.call(&["XADD", &key, &id, "data", "x"]).await;
    }
    assert_eq!(publish(&gateway, "old", "?max_len=150").await, 201);
    let length = redis.ids("old").await.len();
    assert!((150..300).contains(&length), "about 150: {length}");
    assert_eq!(publish(&gateway, "old", "?max_len=0&max_age=1h").await, 201);
    let length = redis.ids("old").await.len();
    assert!((2..150).contains(&length), "what is old goes: {length}");
    for query in ["?max_len=x", "?expire=1ms", "?maxlen=1"] {
        assert_eq!(publish(&gateway, "demo", query).await, 400, "{query}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_redis_it_is_the_same() {
    let gateway = Setup::memory()
        .arguments(&["--publish-key", "a-key-for-tests"])
        .set("retention.rooms", RULES)
        .start()
        .await;
    let length = async |room: &str| gateway.room(room).await["length"].as_u64().unwrap();
    for _ in 0..105 {
        assert_eq!(publish(&gateway, "few:a", "").await, 201);
        assert_eq!(publish(&gateway, "demo", "").await, 201);
    }
    assert_eq!((length("few:a").await, length("demo").await), (100, 105));
    assert_eq!(
        publish(&gateway, "demo", "?max_len=10&expire=1h").await,
        201
    );
    assert_eq!(length("demo").await, 10);
    let kept = gateway.room("demo").await["retention"].clone();
    assert_eq!(
        kept,
        json!({"max_len": 10, "max_age": "0s", "expire": "1h"})
    );
    assert_eq!(publish(&gateway, "demo", "?expire=1s").await, 201);
    eventually!(length("demo").await == 0, "it does not expire");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_no_key_does_not_say_what_is_kept() {
    let open = Setup::memory().start().await;
    let visited = Setup::memory()
        .arguments(&["--publish-key", "a-key-for-tests"])
        .set("access.publish", "demo open")
        .start()
        .await;
    for gateway in [&open, &visited] {
        let target = "/rooms/demo/events?max_len=1";
        let answer = http::request(gateway.address, "POST", target, &[], b"x").await;
        assert_eq!(answer.status, 403);
        assert!(answer.error().contains("key"), "{}", answer.text());
    }
    assert_eq!(publish(&visited, "demo", "?max_len=1").await, 201);
}

/// What gateways do about once a minute in rooms that a plain `XADD` has written to, as they send it.
#[tokio::test(flavor = "multi_thread")]
async fn rooms_of_plain_writers_are_trimmed_and_expire() {
    let redis = RedisServer::start().await;
    let key = key("demo");
    let trim = async |maxlen: &str, maxage: &str, expire: &str| {
        let script = include_str!("../../src/broker/redis/upkeep.lua");
        let words = ["EVAL", script, "1", &key, maxlen, maxage, expire];
        assert_eq!(redis.call(&words).await, Value::Int(1));
        (redis.ids("demo").await.len(), ttl(&redis, "demo").await)
    };
    assert_eq!(trim("10", "10", "10").await, (0, -2));
    for number in 1..=300 {
        let id = format!("{number}-0");
        redis.call(&["XADD", &key, &id, "data", "x"]).await;
    }
    assert_eq!(trim("0", "0", "0").await, (300, -1));
    let (length, left) = trim("150", "0", "100").await;
    assert!((150..300).contains(&length), "about 150: {length}");
    assert!((90..=100).contains(&left));
    // Longer, as a publisher wanted it, stays; shorter becomes as long.
    redis.call(&["EXPIRE", &key, "5000"]).await;
    assert!(trim("0", "0", "100").await.1 > 4_000);
    redis.call(&["EXPIRE", &key, "10"]).await;
    assert!(trim("0", "0", "100").await.1 > 50);
    redis.xadd("demo", &[("data", "new")]).await;
    let (length, _) = trim("0", "3600", "0").await;
    assert!((1..150).contains(&length), "what is old goes: {length}");
}

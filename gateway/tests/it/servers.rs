//! Servers as they are found: with passwords, for users with few rights, without some commands, behind a socket.

use crate::support::cluster::slot;
use crate::support::redis::key;
use crate::support::{Client, Gateway, RedisCluster, RedisServer, Setup};

/// Every way in which an event reaches a client works: the function, a plain `XADD`, an ephemeral one, HTTP; and so does
/// coming back to what was missed.
pub async fn assert_all_works(redis: &RedisServer, gateway: &Gateway) {
    let client = Client::of(&[gateway.address], "demo").open().await;
    let first = gateway.publish("demo", "chat", "http").await;
    let repeated = async || {
        let headers = [("Idempotency-Key", "k"), ("Content-Type", "text/plain")];
        let answer = gateway.post("demo", &headers, b"once").await;
        (answer.status, answer.json()["id"].clone())
    };
    let (stored, repeat) = (repeated().await, repeated().await);
    assert_eq!((stored.0, repeat.0, stored.1), (201, 200, repeat.1));
    redis.xadd("demo", &[("data", "plain")]).await;
    client.wait_events(3).await;
    let ephemeral = [("Content-Type", "application/json")];
    let body = br#"{"data":"gone","ephemeral":true}"#;
    assert_eq!(gateway.post("demo", &ephemeral, body).await.status, 202);
    client.wait_events(4).await;
    assert_eq!(client.data(), ["http", "once", "plain", "gone"]);
    assert_eq!(gateway.room("demo").await["length"], 3);
    let resumed = Client::of(&[gateway.address], "demo")
        .last_event_id(&first)
        .open()
        .await;
    resumed.wait_events(2).await;
    assert_eq!(resumed.data(), ["once", "plain"]);
    resumed.assert_never_reset();
}

pub async fn reasons(gateway: &Gateway) -> String {
    gateway.admin("/readyz").await.unwrap().text()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_is_enough_and_a_wrong_one_is_said() {
    let redis = RedisServer::start_as(&["--requirepass", "s3cret"], ":s3cret@").await;
    let gateway = Setup::redis_by(&redis.url()).start().await;
    assert_all_works(&redis, &gateway).await;
    let wrong = format!("redis://:wr0ng@{}", redis.address);
    let gateway = Setup::redis_by(&wrong).spawn();
    gateway.wait_alive().await;
    eventually!(
        reasons(&gateway).await.contains("WRONGPASS"),
        "{}",
        gateway.log()
    );
    assert!(!gateway.is_ready().await);
    assert!(!gateway.log().contains("wr0ng"), "{}", gateway.log());
}

/// The rights of `deploy/redis/users.acl` are enough for everything, and for nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn the_documented_users_can_do_their_work_and_no_more() {
    let documented = include_str!("../../../deploy/redis/users.acl");
    let file = tempfile::NamedTempFile::new().unwrap();
    let everything = "user default on nopass ~* &* +@all\n";
    std::fs::write(file.path(), everything.to_owned() + documented).unwrap();
    // Which the gateway may not set itself.
    let flags = ["--notify-keyspace-events", "Kgtxe"];
    let file = ["--aclfile", file.path().to_str().unwrap()];
    let redis = RedisServer::start_as(&[file, flags].concat(), "").await;
    let url = |user: &str| format!("redis://{user}:change-me@{}", redis.address);
    let gateway = Setup::redis_by(&url("sse-gateway")).start().await;
    assert_all_works(&redis, &gateway).await;
    let redis::Value::Array(mut refused) = redis.call(&["ACL", "LOG"]).await else {
        panic!("no list");
    };
    // Which does no harm; Redis has it since 7.2, and refuses rules about what it does not have.
    refused.retain(|entry| !format!("{entry:?}").contains("client|setinfo"));
    assert_eq!(refused, []);
    let connect = async |user: &str| {
        let client = redis::Client::open(url(user)).unwrap();
        client.get_multiplexed_async_connection().await.unwrap()
    };
    let mut publisher = connect("sse-publisher").await;
    for call in [
        "1 sse:room:demo",
        "2 sse:room:demo {sse:room:demo}:once:key",
    ] {
        let call = format!("FCALL sse_publish {call} data x once key");
        let words: Vec<_> = call.split(' ').map(str::as_bytes).collect();
        crate::support::redis::command(&words)
            .query_async::<String>(&mut publisher)
            .await
            .unwrap();
    }
    for (user, words) in [
        ("sse-publisher", &["FLUSHALL"][..]),
        ("sse-publisher", &["DEL", "sse:room:demo"]),
        ("sse-publisher", &["CONFIG", "GET", "*"]),
        ("sse-publisher", &["XADD", "other", "*", "a", "b"]),
        ("sse-publisher", &["SUBSCRIBE", "sse:room:demo"]),
        ("sse-gateway", &["GET", "other"]),
        ("sse-gateway", &["DEL", "sse:room:demo"]),
        ("sse-gateway", &["KEYS", "*"]),
        ("sse-gateway", &["CONFIG", "SET", "dir", "/tmp"]),
        ("sse-gateway", &["SHUTDOWN"]),
    ] {
        let words: Vec<_> = words.iter().map(|word| word.as_bytes()).collect();
        let asked = crate::support::redis::command(&words)
            .query_async::<redis::Value>(&mut connect(user).await)
            .await;
        let error = asked.unwrap_err();
        assert_eq!(error.code(), Some("NOPERM"), "{user}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_config_streams_are_looked_at() {
    let redis = RedisServer::start_as(&["--rename-command", "CONFIG", ""], "").await;
    let gateway = Setup::redis_by(&redis.url()).start().await;
    assert_all_works(&redis, &gateway).await;
    let said = gateway.log().matches("polled").count();
    assert_eq!(said, 1, "{}", gateway.log());
    assert!(reasons(&gateway).await.contains("CONFIG"));
}

/// As before Redis 7.
#[tokio::test(flavor = "multi_thread")]
async fn without_functions_the_script_does_it() {
    let without = ["FCALL", "FCALL_RO", "FUNCTION"].map(|word| ["--rename-command", word, ""]);
    let redis = RedisServer::start_as(&without.concat(), "").await;
    let gateway = Setup::redis_by(&redis.url()).start().await;
    assert_all_works(&redis, &gateway).await;
    assert!(redis.calls("evalsha").await > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_local_socket_and_a_database_will_do() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("redis.sock");
    let path = path.to_str().unwrap();
    let redis = RedisServer::start_as(&["--unixsocket", path], "").await;
    let gateway = Setup::redis_by(&format!("redis+unix://{path}"))
        .start()
        .await;
    assert_all_works(&redis, &gateway).await;
}

/// Whichever primary is lost for good, a node that starts without it serves the rooms of the others.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_starts_while_a_primary_of_the_cluster_is_lost() {
    for lost in 0..3 {
        let mut cluster = RedisCluster::start().await;
        let mut rooms = Vec::new();
        for number in 0..12 {
            let room = format!("room-{number}");
            if cluster.owner(slot(&key(&room))).await.unwrap() != lost {
                rooms.push(room);
            }
        }
        for node in [lost, lost + 3] {
            cluster.nodes[node].server.kill();
        }
        let gateway = Setup::redis_by(&cluster.url()).start().await;
        assert!(!rooms.is_empty());
        for room in rooms {
            let client = Client::of(&[gateway.address], &room).open().await;
            eventually!(
                gateway
                    .post(&room, &[("Content-Type", "text/plain")], b"hi")
                    .await
                    .status
                    == 201,
                "{room}: {}",
                gateway.log()
            );
            client.wait_events(1).await;
        }
    }
}

//! Publishing over HTTP that waits for replicas: what the answer says, and whom it holds up.

use std::process::Command;

use serde_json::json;

use crate::support::gateway::PUBLISH_KEY;
use crate::support::{Gateway, RedisCluster, RedisServer, Setup, http};

/// A server that follows another one, and has all of its data.
async fn replica_of(primary: &RedisServer) -> RedisServer {
    let now = ["CONFIG", "SET", "repl-diskless-sync-delay", "0"];
    primary.call(&now).await;
    let port = primary.address.port().to_string();
    let replica = RedisServer::start_as(&["--replicaof", "127.0.0.1", &port], "").await;
    eventually!(
        info(primary, "replication").await.contains("state=online"),
        "no replica"
    );
    replica
}

async fn info(server: &RedisServer, section: &str) -> String {
    server.try_call(&["INFO", section]).await.unwrap()
}

/// Stops a server or lets it go on, by `STOP` and `CONT`.
struct Paused(String);

impl Paused {
    async fn pause(server: &RedisServer) -> Self {
        let text = info(server, "server").await;
        let id = text
            .lines()
            .find_map(|line| line.strip_prefix("process_id:"));
        let paused = Self(id.unwrap().trim().to_owned());
        paused.signal("STOP");
        paused
    }

    fn signal(&self, name: &str) {
        let sent = Command::new("kill").args(["-s", name, &self.0]).status();
        assert!(sent.unwrap().success());
    }

    fn resume(self) {}
}

impl Drop for Paused {
    fn drop(&mut self) {
        self.signal("CONT");
    }
}

/// Status and body of a publish in `room` with this query.
async fn post(
    gateway: &Gateway,
    room: &str,
    query: &str,
    headers: &[(&str, &str)],
) -> (u16, serde_json::Value) {
    let target = format!("/rooms/{room}/events{query}");
    let answer = http::request(gateway.address, "POST", &target, headers, b"x").await;
    (answer.status, answer.json())
}

const KEY: (&str, &str) = ("Authorization", "Bearer a-key-for-tests");

#[tokio::test(flavor = "multi_thread")]
async fn the_answer_says_how_many_replicas_have_it() {
    assert!(KEY.1.ends_with(PUBLISH_KEY));
    let primary = RedisServer::start().await;
    let replica = replica_of(&primary).await;
    let gateway = Setup::redis(&primary).start().await;
    let (status, body) = post(&gateway, "demo", "?replicas=1&wait=10s", &[KEY]).await;
    assert_eq!((status, &body["replicas"]), (201, &json!(1)), "{body}");
    assert_eq!(replica.ids("demo").await, [body["id"].as_str().unwrap()]);
    let (status, body) = post(&gateway, "demo", "?replicas=2&wait=50ms", &[KEY]).await;
    assert_eq!((status, &body["replicas"]), (201, &json!(1)), "{body}");
    let (status, body) = post(&gateway, "demo", "", &[KEY]).await;
    assert_eq!((status, body.get("replicas")), (201, None));

    let paused = Paused::pause(&replica).await;
    let once = [KEY, ("Idempotency-Key", "k")];
    let (status, first) = post(&gateway, "demo", "?replicas=1&wait=50ms", &once).await;
    assert_eq!((status, &first["replicas"]), (201, &json!(0)), "{first}");
    assert_eq!(
        primary.ids("demo").await.len(),
        4,
        "it is stored all the same"
    );
    // A repeat waits for what was stored then.
    let (status, again) = post(&gateway, "demo", "?replicas=1&wait=50ms", &once).await;
    assert_eq!((status, &again), (200, &first));
    paused.resume();
    let (status, again) = post(&gateway, "demo", "?replicas=1&wait=10s", &once).await;
    assert_eq!((status, &again["replicas"]), (200, &json!(1)), "{again}");
    assert_eq!(again["id"], first["id"]);
    assert_eq!(replica.ids("demo").await.len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_holds_up_nobody_else() {
    let primary = RedisServer::start().await;
    let replica = replica_of(&primary).await;
    let gateway = Setup::redis(&primary).set("redis.pool_size", "1");
    let gateway = gateway.start().await;
    let paused = Paused::pause(&replica).await;
    let address = gateway.address;
    let waiting = tokio::spawn(async move {
        let target = "/rooms/demo/events?replicas=1&wait=10s";
        http::request(address, "POST", target, &[KEY], b"patient").await
    });
    eventually!(
        info(&primary, "clients")
            .await
            .contains("blocked_clients:1"),
        "nobody waits"
    );
    assert_eq!(post(&gateway, "demo", "", &[KEY]).await.0, 201);
    let (status, body) = post(&gateway, "demo", "?replicas=1&wait=1ms", &[KEY]).await;
    assert_eq!((status, &body["replicas"]), (201, &json!(0)));
    assert!(!waiting.is_finished());
    paused.resume();
    let answer = waiting.await.unwrap();
    assert_eq!(
        (answer.status, &answer.json()["replicas"]),
        (201, &json!(1))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_configuration_waits_for_those_who_say_nothing() {
    let primary = RedisServer::start().await;
    let gateway = Setup::redis(&primary)
        .set("publish.wait_replicas", "1")
        .set("publish.wait_timeout", "20ms")
        .start()
        .await;
    let (status, body) = post(&gateway, "demo", "", &[KEY]).await;
    assert_eq!((status, &body["replicas"]), (201, &json!(0)), "{body}");
    let (status, body) = post(&gateway, "demo", "?replicas=0", &[KEY]).await;
    assert_eq!((status, body.get("replicas")), (201, None));
    let json = [KEY, ("Content-Type", "application/json")];
    let ephemeral = br#"{"data":"x","ephemeral":true}"#;
    assert_eq!(gateway.post("demo", &json, ephemeral).await.status, 202);
    let target = "/rooms/demo/events?replicas=1";
    let refused = http::request(gateway.address, "POST", target, &json, ephemeral).await;
    assert_eq!(refused.status, 400);
    assert!(refused.error().contains("ephemeral"), "{}", refused.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_are_told() {
    let acl = tempfile::NamedTempFile::new().unwrap();
    let user = "user default on nopass ~* &* +@all\nuser few on nopass ~* &* +@all -wait\n";
    std::fs::write(acl.path(), user).unwrap();
    let arguments = ["--aclfile", acl.path().to_str().unwrap()];
    let redis = RedisServer::start_as(&arguments, "").await;
    let gateway = Setup::redis_by(&format!("redis://few:x@{}", redis.address));
    let gateway = gateway.start().await;
    let (status, body) = post(&gateway, "demo", "?replicas=1&wait=1s", &[KEY]).await;
    assert_eq!((status, &body["replicas"]), (201, &json!(0)), "{body}");
    let reason = body["replicas_error"].as_str().unwrap();
    assert!(
        reason.contains("WAIT") && reason.contains("NOPERM"),
        "{reason}"
    );

    redis
        .call(&["CONFIG", "SET", "min-replicas-to-write", "1"])
        .await;
    let (status, body) = post(&gateway, "demo", "?replicas=1&wait=1s", &[KEY]).await;
    assert_eq!(status, 503, "{body}");
    let sentence = body["error"].as_str().unwrap();
    assert!(sentence.contains("min-replicas-to-write"), "{sentence}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_redis_there_are_no_replicas() {
    let gateway = Setup::memory().start().await;
    let (status, body) = post(&gateway, "demo", "?replicas=1&wait=10s", &[]).await;
    assert_eq!((status, &body["replicas"]), (201, &json!(0)));
    let secured = Setup::memory()
        .arguments(&["--publish-key", PUBLISH_KEY])
        .set("access.publish", "lobby open")
        .start()
        .await;
    for (headers, expected) in [(&[][..], 403), (&[KEY], 201)] {
        let (status, body) = post(&secured, "lobby", "?replicas=1", headers).await;
        assert_eq!(status, expected, "{body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_cluster_it_is_the_replicas_of_the_rooms_primary() {
    let cluster = RedisCluster::start().await;
    let gateway = Setup::redis_by(&cluster.url()).start().await;
    for number in 0..12 {
        let (room, key) = (format!("room{number}"), number.to_string());
        let once = [KEY, ("Idempotency-Key", &*key)];
        let (status, first) = post(&gateway, &room, "?replicas=1&wait=10s", &once).await;
        assert_eq!((status, &first["replicas"]), (201, &json!(1)), "{first}");
        let (status, again) = post(&gateway, &room, "?replicas=1&wait=10s", &once).await;
        assert_eq!((status, &again), (200, &first));
    }
    let (status, more) = post(&gateway, "room0", "?replicas=2&wait=2s", &[KEY]).await;
    assert_eq!((status, &more["replicas"]), (201, &json!(1)), "{more}");
}

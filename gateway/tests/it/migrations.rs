//! A slot of a cluster on its way from one primary to another: the keys of its rooms go one by one.

use crate::support::cluster::slot;
use crate::support::node::Node;
use crate::support::redis::key;
use crate::support::{Client, Gateway, RedisCluster, Setup};

const TEXT: (&str, &str) = ("Content-Type", "text/plain");

/// The room `demo`, whose slot is on its way.
struct Moving<'a> {
    from: &'a Node,
    to: &'a Node,
    ids: [String; 2],
    slot: String,
}

impl<'a> Moving<'a> {
    async fn begin(cluster: &'a RedisCluster) -> Self {
        let slot = slot(&key("demo"));
        let from = cluster.owner(slot).await.unwrap();
        let [from, to] = [from, (from + 1) % 3].map(|number| &cluster.nodes[number]);
        let id = async |node: &Node| node.ask(&["CLUSTER", "MYID"]).await.unwrap();
        let moving = Self {
            ids: [id(from).await, id(to).await],
            slot: slot.to_string(),
            from,
            to,
        };
        moving.set(to, &["IMPORTING", &moving.ids[0]]).await;
        moving.set(from, &["MIGRATING", &moving.ids[1]]).await;
        moving
    }

    async fn set(&self, node: &Node, words: &[&str]) {
        let words = [&["CLUSTER", "SETSLOT", &self.slot], words].concat();
        node.server.call(&words).await;
    }

    async fn carry(&self, key: &str) {
        let address = self.to.server.address;
        let (host, port) = (address.ip().to_string(), address.port().to_string());
        let words = ["MIGRATE", &host, &port, key, "0", "5000"];
        let moved: String = self.from.server.try_call(&words).await.unwrap();
        assert_eq!(moved, "OK", "{key}");
    }

    async fn finish(self) {
        for node in [self.to, self.from] {
            self.set(node, &["NODE", &self.ids[1]]).await;
        }
    }
}

fn once(idempotency_key: &str) -> String {
    format!("{{{}}}:once:{idempotency_key}", key("demo"))
}

/// Publishes with this idempotency key; gives the status and the id.
async fn publish(gateway: &Gateway, idempotency_key: &str) -> (u16, String) {
    let headers = [("Idempotency-Key", idempotency_key), TEXT];
    let answer = gateway.post("demo", &headers, b"x").await;
    let id = answer.json()["id"].as_str().map(str::to_owned);
    (answer.status, id.unwrap_or_default())
}

/// Whichever key has moved, a repeat is answered by the first id. What is new is stored where the stream is already.
async fn assert_once(cluster: &RedisCluster, gateway: &Gateway, stream_first: bool) {
    let client = Client::of(&[gateway.address], "demo").open().await;
    let (status, first) = publish(gateway, "k").await;
    assert_eq!(status, 201);
    let mut ids = vec![first.clone()];
    let moving = Moving::begin(cluster).await;
    let repeated = (200, first);
    assert_eq!(
        publish(gateway, "k").await,
        repeated,
        "both are there still"
    );
    let mut keys = [key("demo"), once("k")];
    if !stream_first {
        keys.reverse();
    }
    moving.carry(&keys[0]).await;
    assert_eq!(publish(gateway, "k").await, repeated, "{} moved", keys[0]);
    let (status, new) = publish(gateway, "new").await;
    if stream_first {
        assert_eq!(status, 201);
        assert_eq!(publish(gateway, "new").await, (200, new.clone()));
        ids.push(new);
    } else {
        // Nothing can remember it where the stream is.
        assert_eq!(status, 503);
    }
    moving.carry(&keys[1]).await;
    assert_eq!(publish(gateway, "k").await, repeated, "both have moved");
    moving.finish().await;
    assert_eq!(publish(gateway, "k").await, repeated, "the slot has moved");
    let (status, last) = publish(gateway, "last").await;
    assert_eq!(status, 201);
    ids.push(last.clone());
    client.wait_id(&last).await;
    client.assert_ids("each once", &ids);
    client.assert_never_reset();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeat_stores_nothing_while_the_stream_is_ahead() {
    let cluster = RedisCluster::start().await;
    let gateway = Setup::redis_by(&cluster.url()).start().await;
    assert_once(&cluster, &gateway, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeat_stores_nothing_while_the_idempotency_key_is_ahead() {
    let cluster = RedisCluster::start().await;
    let gateway = Setup::redis_by(&cluster.url()).start().await;
    assert_once(&cluster, &gateway, false).await;
}

/// As where a user has no right to functions.
#[tokio::test(flavor = "multi_thread")]
async fn the_script_stores_once_too_while_a_slot_moves() {
    let cluster = RedisCluster::start().await;
    for node in &cluster.nodes {
        node.server
            .call(&["ACL", "SETUSER", "default", "-fcall"])
            .await;
    }
    let gateway = Setup::redis_by(&cluster.url()).start().await;
    assert_once(&cluster, &gateway, true).await;
}

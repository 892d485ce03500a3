//! A cluster of which one primary is away: the rooms of the others go on as if nothing were the matter.

use std::collections::HashMap;

use crate::servers::reasons;
use crate::support::cluster::slot;
use crate::support::redis::key;
use crate::support::{Client, Gateway, RedisCluster, Setup};

/// Rooms of the primary that stands still; more than a shard reads pages of at a time.
const MANY: usize = 80;

/// A room with more events than a room log keeps here, and a client that has made the log be filled.
struct Room {
    name: String,
    ids: Vec<String>,
    _client: Client,
}

impl Room {
    async fn fill(gateway: &Gateway, name: String) -> Self {
        let mut ids = Vec::new();
        for number in 0..5 {
            ids.push(gateway.publish(&name, "chat", &number.to_string()).await);
        }
        let client = Client::of(&[gateway.address], &name);
        let client = client.last_event_id(&ids[3]).open().await;
        client.wait_id(&ids[4]).await;
        Self {
            name,
            ids,
            _client: client,
        }
    }

    /// Comes back from before what the log has: a page has to be read.
    async fn resume(&self, gateway: &Gateway) -> Client {
        let client = Client::of(&[gateway.address], &self.name);
        client.last_event_id(&self.ids[0]).open().await
    }

    async fn assert_served(&self, client: &Client) {
        client.wait_id(&self.ids[4]).await;
        client.assert_ids(&self.name, &self.ids[1..]);
        client.assert_never_reset();
    }
}

/// Rooms of node 0, and one of node 1.
async fn names(cluster: &RedisCluster) -> (Vec<String>, String) {
    let (mut here, mut there) = (Vec::new(), None);
    for number in 0.. {
        let name = format!("room-{number}");
        match cluster.owner(slot(&key(&name))).await {
            Some(0) if here.len() < MANY => here.push(name),
            Some(1) => there = Some(name),
            _ => {}
        }
        if here.len() == MANY && there.is_some() {
            break;
        }
    }
    (here, there.unwrap())
}

/// Stops a primary and its replica, which would take over; or lets them go on.
fn signal(cluster: &RedisCluster, name: &str) {
    for node in [3, 0] {
        cluster.nodes[node].server.signal(name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rooms_of_other_primaries_are_read_while_one_stands_still() {
    let cluster = RedisCluster::start().await;
    let gateway = Setup::redis_by(&cluster.url())
        .set("shards", "1")
        .set("stream.log_entries", "2")
        // Longer than any test waits: nobody is served because a read was given up.
        .set("redis.response_timeout", "2m");
    let gateway = gateway.start().await;
    let (here, there) = names(&cluster).await;
    let mut rooms = Vec::new();
    for name in here {
        rooms.push(Room::fill(&gateway, name).await);
    }
    let other = Room::fill(&gateway, there).await;
    signal(&cluster, "STOP");
    let mut waiting = Vec::new();
    for room in &rooms {
        waiting.push(room.resume(&gateway).await);
    }
    other.assert_served(&other.resume(&gateway).await).await;
    assert!(waiting.iter().all(|client| client.ids().is_empty()));
    signal(&cluster, "CONT");
    for (room, client) in rooms.iter().zip(&waiting) {
        room.assert_served(client).await;
    }
}

/// Where Redis does not announce plain entries, all rooms are looked at together.
#[tokio::test(flavor = "multi_thread")]
async fn plain_events_of_other_primaries_are_found_while_one_stands_still() {
    let cluster = RedisCluster::start().await;
    let gateway = Setup::redis_by(&cluster.url())
        .set("redis.set_notifications", "false")
        .set("redis.response_timeout", "2m");
    let gateway = gateway.start().await;
    let (here, there) = names(&cluster).await;
    let _held = Client::of(&[gateway.address], &here[0]).open().await;
    let client = Client::of(&[gateway.address], &there).open().await;
    let add = || cluster.nodes[1].server.xadd(&there, &[("data", "plain")]);
    client.wait_id(&add().await).await;
    signal(&cluster, "STOP");
    // More than one look: the first may have begun before.
    for _ in 0..5 {
        client.wait_id(&add().await).await;
    }
}

/// What the node's metrics say of each server.
async fn servers_up(gateway: &Gateway) -> HashMap<String, bool> {
    let text = gateway.admin("/metrics").await.unwrap().text();
    let of_server = |line: &str| {
        let rest = line.strip_prefix("sse_gateway_redis_server_up{server=\"")?;
        let (server, up) = rest.split_once("\"} ")?;
        Some((server.to_owned(), up == "1"))
    };
    text.lines().filter_map(of_server).collect()
}

/// Who comes to a room whose primary is away is told so, whether the node had the room before or not, and told when it is back.
#[tokio::test(flavor = "multi_thread")]
async fn streams_of_a_primary_that_is_away_are_told_so() {
    let mut cluster = RedisCluster::start().await;
    let gateway = Setup::redis_by(&cluster.url()).start().await;
    let (mut here, there) = names(&cluster).await;
    let (new, known) = (here.pop().unwrap(), here.pop().unwrap());
    let open = async |name: &str, after: &str| {
        let client = Client::of(&[gateway.address], name);
        client.last_event_id(after).open().await
    };
    // The node is with another primary, too: it stays live.
    let others = open(&there, "").await;
    let old = open(&known, "").await;
    let first = gateway.publish(&known, "chat", "first").await;
    let unseen = gateway.publish(&new, "chat", "first").await;
    old.wait_id(&first).await;
    for node in [3, 0] {
        cluster.nodes[node].server.kill();
    }
    let lost = cluster.nodes[0].proxy.address.to_string();
    eventually!(reasons(&gateway).await.contains(&lost));
    let well = cluster.nodes[1].proxy.address.to_string();
    eventually!(servers_up(&gateway).await.get(&lost) == Some(&false));
    assert_eq!(servers_up(&gateway).await.get(&well), Some(&true));
    let mut told = Vec::new();
    for (name, id) in [(&known, &first), (&new, &unseen)] {
        // The second one comes when the room is waited for already.
        for after in ["", id, ""] {
            let client = open(name, after).await;
            assert_eq!(
                client.control("stream.open")[0]["live"],
                false,
                "{name} {after}"
            );
            assert_eq!(client.control_id("stream.open"), None, "{name} {after}");
            told.push((name, id, after, client));
        }
    }
    let other = open(&there, "").await;
    assert_eq!(other.control("stream.open")[0]["live"], true);
    for node in [0, 3] {
        cluster.nodes[node].server.up().await;
    }
    // By the one or by the other: of what is no primary any more, nothing is said.
    eventually!(servers_up(&gateway).await.values().all(|is_up| *is_up));
    for (name, id, after, client) in &told {
        assert_eq!(client.wait_control("stream.live").await["live"], true);
        let position = after.is_empty().then(|| id.to_string());
        assert_eq!(client.control_id("stream.live"), position, "{name}");
    }
    for (name, room) in [(&known, &told[..3]), (&new, &told[3..])] {
        let publish = async || {
            let headers = [("Content-Type", "text/plain")];
            let answer = gateway.post(name, &headers, b"last").await;
            answer.json()["id"].as_str().map(str::to_owned)
        };
        eventually!(publish().await.is_some());
        let id = publish().await.unwrap();
        for (.., client) in room {
            client.wait_id(&id).await;
            client.assert_never_reset();
            assert_eq!((client.events().len(), client.seen().connections), (2, 1));
        }
    }
    for client in [&old, &others, &other] {
        let told = client.control("stream.live");
        assert!(told.is_empty(), "it was live when it was opened: {told:?}");
    }
}

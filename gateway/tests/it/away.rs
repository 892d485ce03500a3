//! A cluster of which one primary is away: the rooms of the others go on as if nothing were the matter.

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

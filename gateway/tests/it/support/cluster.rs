//! A Redis Cluster: three primaries, each with a replica.

use std::time::{Duration, Instant};

use redis::RedisResult;

use super::node::{Node, caught_up};

const PRIMARIES: usize = 3;
const SLOTS: u16 = 16_384;

/// The cluster; its servers are ended by `Drop`. Nodes 0 to 2 begin as primaries, node n + 3 as the replica of n.
pub struct RedisCluster {
    pub nodes: Vec<Node>,
    ids: Vec<String>,
}

impl RedisCluster {
    pub async fn start() -> Self {
        let mut nodes = Vec::new();
        for _ in 0..2 * PRIMARIES {
            let mut node = Node::prepare_member().await;
            node.server.up().await;
            nodes.push(node);
        }
        let mut ids: Vec<String> = Vec::new();
        for (number, node) in nodes.iter().enumerate() {
            let epoch = (number + 1).to_string();
            node.server
                .call(&["CLUSTER", "SET-CONFIG-EPOCH", &epoch])
                .await;
            ids.push(node.server.try_call(&["CLUSTER", "MYID"]).await.unwrap());
        }
        for (number, node) in nodes[..PRIMARIES].iter().enumerate() {
            let [from, to] = [number, number + 1].map(|n| n * usize::from(SLOTS) / PRIMARIES);
            let (from, to) = (from.to_string(), (to - 1).to_string());
            node.server
                .call(&["CLUSTER", "ADDSLOTSRANGE", &from, &to])
                .await;
        }
        let cluster = Self { nodes, ids };
        for node in &cluster.nodes[1..] {
            cluster.meet(node).await;
        }
        for (number, replica) in cluster.nodes.iter().enumerate().skip(PRIMARIES) {
            let primary = &cluster.ids[number - PRIMARIES];
            eventually!(
                replica
                    .ask::<String>(&["CLUSTER", "REPLICATE", primary])
                    .await
                    .is_ok(),
                "node {number} does not know its primary"
            );
        }
        cluster.settled().await;
        cluster
    }

    async fn meet(&self, node: &Node) {
        let port = node.proxy.address.port().to_string();
        let bus: Vec<String> = node
            .server
            .try_call(&["CONFIG", "GET", "cluster-port"])
            .await
            .unwrap();
        self.nodes[0]
            .server
            .call(&["CLUSTER", "MEET", "127.0.0.1", &port, &bus[1]])
            .await;
    }

    /// Waits until all nodes run, agree that all is well, and every replica has its primary's data.
    pub async fn settled(&self) {
        for (number, node) in self.nodes.iter().enumerate() {
            eventually!(
                {
                    let state: RedisResult<String> = node.ask(&["CLUSTER", "INFO"]).await;
                    let members: RedisResult<String> = node.ask(&["CLUSTER", "NODES"]).await;
                    state.is_ok_and(|text| {
                        text.contains("cluster_state:ok")
                            && text.contains("cluster_slots_ok:16384")
                            && text.contains("cluster_known_nodes:6")
                    }) && members.is_ok_and(|text| {
                        text.matches("slave").count() == PRIMARIES && !text.contains("fail")
                    })
                },
                "node {number}: {:?} {:?}",
                node.ask::<String>(&["CLUSTER", "INFO"]).await,
                node.ask::<String>(&["CLUSTER", "NODES"]).await
            );
            eventually!(
                node.info("replication", "role").await.as_deref() == Some("master")
                    || node.follows().await,
                "replica {number} has no primary"
            );
        }
    }

    /// For gateways: by way of the proxies.
    pub fn url(&self) -> String {
        let hosts = self.nodes[..PRIMARIES].iter();
        let hosts: Vec<String> = hosts.map(|node| node.proxy.address.to_string()).collect();
        format!("redis+cluster://{}", hosts.join(","))
    }

    /// The primary that serves a slot, as those say who are asked; `None` while there is none.
    pub async fn owner(&self, slot: u16) -> Option<usize> {
        let addresses: Vec<_> = self.nodes.iter().map(|node| node.server.address).collect();
        owner(&addresses, slot).await
    }

    /// The replicas of a primary, as it says itself.
    pub async fn replicas(&self, primary: usize) -> Vec<usize> {
        let text: String = self.nodes[primary]
            .ask(&["CLUSTER", "NODES"])
            .await
            .unwrap_or_default();
        let of = |line: &&str| line.contains("slave") && line.contains(&self.ids[primary]);
        text.lines()
            .filter(of)
            .filter_map(|line| {
                let id = line.split(' ').next()?;
                self.ids.iter().position(|known| known == id)
            })
            .collect()
    }

    /// Lets a replica take over from its primary in agreement: nothing is lost.
    pub async fn fail_over(&self, slot: u16) {
        let primary = self.owner(slot).await.unwrap();
        let replica = self.replicas(primary).await[0];
        let mut asked: Option<Instant> = None;
        eventually!(
            {
                // The servers give it up after five seconds.
                if asked.is_none_or(|at| at.elapsed() > Duration::from_secs(6)) {
                    asked = Some(Instant::now());
                    let words = ["CLUSTER", "FAILOVER"];
                    let _ = self.nodes[replica].ask::<String>(&words).await;
                }
                self.owner(slot).await == Some(replica)
            },
            "node {replica} does not take over from node {primary}: {:?}; {:?}; {:?}; {}",
            self.nodes[replica]
                .ask::<String>(&["CLUSTER", "NODES"])
                .await,
            self.nodes[primary]
                .ask::<String>(&["INFO", "replication"])
                .await,
            self.nodes[replica]
                .ask::<String>(&["INFO", "replication"])
                .await,
            self.nodes[replica].server.log()
        );
    }

    /// Waits until replicas have what their primaries have; nobody may write meanwhile.
    pub async fn replicated(&self, slot: u16) {
        let primary = self.owner(slot).await.unwrap();
        for replica in self.replicas(primary).await {
            caught_up(&self.nodes[primary], &[&self.nodes[replica]]).await;
        }
    }

    /// Moves a slot with its keys.
    pub async fn move_slot(&self, slot: u16, to: usize) {
        let from = self.owner(slot).await.unwrap();
        assert_ne!(from, to, "it is there already");
        let text = slot.to_string();
        let set = async |node: usize, words: &[&str]| {
            let words = [&["CLUSTER", "SETSLOT", &text], words].concat();
            self.nodes[node].server.call(&words).await;
        };
        set(to, &["IMPORTING", &self.ids[from]]).await;
        set(from, &["MIGRATING", &self.ids[to]]).await;
        let target = self.nodes[to].server.address;
        let (host, port) = (target.ip().to_string(), target.port().to_string());
        loop {
            let keys: Vec<String> = self.nodes[from]
                .server
                .try_call(&["CLUSTER", "GETKEYSINSLOT", &text, "100"])
                .await
                .unwrap();
            if keys.is_empty() {
                break;
            }
            let mut words = vec!["MIGRATE", &host, &port, "", "0", "5000", "KEYS"];
            words.extend(keys.iter().map(String::as_str));
            self.nodes[from].server.call(&words).await;
        }
        set(to, &["NODE", &self.ids[to]]).await;
        set(from, &["NODE", &self.ids[to]]).await;
        for node in 0..self.nodes.len() {
            if node != from && node != to && self.nodes[node].server.runs() {
                let words = ["CLUSTER", "SETSLOT", &text, "NODE", &self.ids[to]];
                // A replica learns it from its primary.
                let _ = self.nodes[node].ask::<String>(&words).await;
            }
        }
        eventually!(
            self.owner(slot).await == Some(to),
            "slot {slot} is not at node {to}"
        );
    }
}

/// Which of these servers is the primary of a slot: of several that say so, the one with the highest epoch.
pub async fn owner(addresses: &[std::net::SocketAddr], slot: u16) -> Option<usize> {
    let mut best = None;
    for (number, &address) in addresses.iter().enumerate() {
        let words = ["CLUSTER", "NODES"];
        let Ok(text) =
            super::redis::ask::<String>(address, &words, Duration::from_millis(200)).await
        else {
            continue;
        };
        let myself = text.lines().find(|line| line.contains("myself,master"));
        let words: Vec<&str> = myself.unwrap_or_default().split(' ').collect();
        let Some(epoch) = words.get(6).and_then(|text| text.parse::<u64>().ok()) else {
            continue;
        };
        let has = words[8..].iter().any(|range| {
            let (from, to) = range.split_once('-').unwrap_or((range, range));
            matches!((from.parse(), to.parse()), (Ok(from), Ok(to)) if (from..=to).contains(&slot))
        });
        if has && best.is_none_or(|(highest, _)| epoch > highest) {
            best = Some((epoch, number));
        }
    }
    best.map(|(_, number)| number)
}

/// The slot of a key: CRC16 (XMODEM) of its hash tag, or of all of it.
pub fn slot(key: &str) -> u16 {
    let tag = key
        .split_once('{')
        .and_then(|(_, rest)| rest.split_once('}'));
    let hashed = tag.map_or(key, |(tag, _)| if tag.is_empty() { key } else { tag });
    let crc = hashed.bytes().fold(0u16, |crc, byte| {
        (0..8).fold(crc ^ (u16::from(byte) << 8), |crc, _| {
            if crc & 0x8000 == 0 {
                crc << 1
            } else {
                (crc << 1) ^ 0x1021
            }
        })
    });
    crc % SLOTS
}

mod tests {
    use super::{RedisCluster, slot};
    use crate::support::redis::key;

    #[tokio::test(flavor = "multi_thread")]
    async fn a_cluster_moves_slots_and_fails_over() {
        let mut cluster = RedisCluster::start().await;
        let key = key("demo");
        let slot_of = slot(&key);
        let known: u16 = cluster.nodes[0]
            .ask(&["CLUSTER", "KEYSLOT", &key])
            .await
            .unwrap();
        assert_eq!(slot_of, known);
        let home = cluster.owner(slot_of).await.unwrap();
        let add = ["XADD", key.as_str(), "*", "data", "x"];
        cluster.nodes[home].server.call(&add).await;
        let away = (home + 1) % 3;
        cluster.move_slot(slot_of, away).await;
        cluster.nodes[away].server.call(&add).await;
        cluster.move_slot(slot_of, home).await;
        cluster.nodes[home].server.call(&add).await;
        cluster.replicated(slot_of).await;
        cluster.fail_over(slot_of).await;
        let now = cluster.owner(slot_of).await.unwrap();
        cluster.settled().await;
        cluster.replicated(slot_of).await;
        cluster.nodes[now].server.kill();
        eventually!(
            cluster.owner(slot_of).await == Some(home),
            "its replica does not take over"
        );
        let length: u64 = cluster.nodes[home].ask(&["XLEN", &key]).await.unwrap();
        assert_eq!(length, 3);
        cluster.nodes[now].server.up().await;
        cluster.settled().await;
    }
}

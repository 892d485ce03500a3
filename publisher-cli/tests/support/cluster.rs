//! A Redis Cluster of three primaries.

use super::{Redis, eventually, free_port};

const SLOTS: usize = 16_384;
const PRIMARIES: usize = 3;

pub struct Cluster {
    pub nodes: Vec<Redis>,
    ids: Vec<String>,
}

impl Cluster {
    pub fn start() -> Self {
        let member = || {
            let bus = free_port().to_string();
            let words = ["--cluster-enabled", "yes", "--cluster-port", &bus];
            words.map(str::to_owned).to_vec()
        };
        let nodes: Vec<Redis> = (0..PRIMARIES).map(|_| Redis::start_as(member)).collect();
        for (number, node) in nodes.iter().enumerate() {
            let epoch = (number + 1).to_string();
            node.ask::<()>(&["CLUSTER", "SET-CONFIG-EPOCH", &epoch]);
            let [from, to] = [number, number + 1].map(|n| n * SLOTS / PRIMARIES);
            let (from, to) = (from.to_string(), (to - 1).to_string());
            node.ask::<()>(&["CLUSTER", "ADDSLOTSRANGE", &from, &to]);
            let bus: Vec<String> = node.ask(&["CONFIG", "GET", "cluster-port"]);
            let port = node.port().to_string();
            nodes[0].ask::<()>(&["CLUSTER", "MEET", "127.0.0.1", &port, &bus[1]]);
        }
        for node in &nodes {
            eventually("the cluster is whole", || {
                let info: String = node.ask(&["CLUSTER", "INFO"]);
                let all = ["cluster_state:ok", "cluster_known_nodes:3"];
                all.iter().all(|part| info.contains(part))
            });
        }
        let id = |node: &Redis| node.ask(&["CLUSTER", "MYID"]);
        let ids = nodes.iter().map(id).collect();
        Self { nodes, ids }
    }

    /// By way of its first node.
    pub fn url(&self) -> String {
        format!("redis+cluster://127.0.0.1:{}", self.nodes[0].port())
    }

    /// The number of the node that serves a room.
    pub fn owner(&self, room: &str) -> usize {
        let key = format!("sse:room:{room}");
        let serves = |node: &Redis| node.try_ask::<i64>(&["XLEN", &key]).is_ok();
        self.nodes.iter().position(serves).unwrap()
    }

    /// Begins to move the slot of a room: keys that are not at `from` any more are asked for at `to`.
    pub fn begin_move(&self, room: &str, to: usize) -> Moving<'_> {
        let from = self.owner(room);
        let key = format!("sse:room:{room}");
        let slot: u16 = self.nodes[0].ask(&["CLUSTER", "KEYSLOT", &key]);
        let moving = Moving {
            cluster: self,
            slot: slot.to_string(),
            from,
            to,
        };
        moving.set(to, &["IMPORTING", &self.ids[from]]);
        moving.set(from, &["MIGRATING", &self.ids[to]]);
        moving
    }
}

/// A slot on its way.
pub struct Moving<'a> {
    cluster: &'a Cluster,
    slot: String,
    from: usize,
    to: usize,
}

impl Moving<'_> {
    fn set(&self, node: usize, words: &[&str]) {
        let words = [&["CLUSTER", "SETSLOT", &self.slot], words].concat();
        self.cluster.nodes[node].ask::<()>(&words);
    }

    /// Moves its keys, and gives it to the new node.
    pub fn finish(self) {
        let (from, to) = (&self.cluster.nodes[self.from], &self.cluster.nodes[self.to]);
        let port = to.port().to_string();
        loop {
            let keys: Vec<String> = from.ask(&["CLUSTER", "GETKEYSINSLOT", &self.slot, "1000"]);
            if keys.is_empty() {
                break;
            }
            let mut words = vec!["MIGRATE", "127.0.0.1", &port, "", "0", "60000", "KEYS"];
            words.extend(keys.iter().map(String::as_str));
            // A key may have expired meanwhile: then there is nothing to move.
            from.ask::<String>(&words);
        }
        for node in [self.to, self.from] {
            self.set(node, &["NODE", &self.cluster.ids[self.to]]);
        }
    }
}

//! A primary with two replicas, watched by three sentinels.

use std::collections::HashMap;
use std::fs::File;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use super::node::{Node, PATIENCE, by_announced, caught_up};
use super::port;
use super::redis::ask;

/// What the sentinels call the primary.
pub const NAME: &str = "mymaster";

/// One sentinel; killed by `Drop`.
pub struct Sentinel {
    pub address: SocketAddr,
    child: Child,
    _directory: TempDir,
}

impl Sentinel {
    fn start(primary: SocketAddr) -> Self {
        let address = port::free();
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("sentinel.conf");
        // They ask once a second: what is down sooner is often not down.
        let text = format!(
            "bind 127.0.0.1\nport {}\ndir {}\nsentinel monitor {NAME} 127.0.0.1 {} 2\n\
             sentinel down-after-milliseconds {NAME} 2000\nsentinel failover-timeout {NAME} 3000\n\
             sentinel parallel-syncs {NAME} 2\n",
            address.port(),
            directory.path().display(),
            primary.port()
        );
        std::fs::write(&file, text).unwrap();
        let log = File::create(directory.path().join("sentinel.log")).unwrap();
        let child = Command::new("redis-server")
            .arg(&file)
            .arg("--sentinel")
            .stdout(Stdio::from(log.try_clone().unwrap()))
            .stderr(Stdio::from(log))
            .spawn()
            .unwrap();
        Self {
            address,
            child,
            _directory: directory,
        }
    }
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The servers and their sentinels; ended by `Drop`. Node 0 begins as the primary.
pub struct RedisSentinel {
    pub nodes: Vec<Node>,
    pub sentinels: Vec<Sentinel>,
}

impl RedisSentinel {
    pub async fn start() -> Self {
        let mut nodes = Vec::new();
        for number in 0..3 {
            let mut node = Node::prepare().await;
            if number > 0 {
                let first: &Node = &nodes[0];
                node.server.follow(Some(first.proxy.address));
            }
            node.server.up().await;
            nodes.push(node);
        }
        let primary = nodes[0].proxy.address;
        let sentinels = (0..3).map(|_| Sentinel::start(primary)).collect();
        let deployment = Self { nodes, sentinels };
        deployment.settled().await;
        deployment
    }

    /// Waits until all servers run, replicas have their primary's data, and every sentinel knows all of them.
    pub async fn settled(&self) {
        for (number, sentinel) in self.sentinels.iter().enumerate() {
            let quorum = ["SENTINEL", "CKQUORUM", NAME];
            let replicas = ["SENTINEL", "REPLICAS", NAME];
            eventually!(
                {
                    let agreed = ask::<String>(sentinel.address, &quorum, PATIENCE).await;
                    let known: Result<Vec<HashMap<String, String>>, _> =
                        ask(sentinel.address, &replicas, PATIENCE).await;
                    agreed.is_ok_and(|text| text.contains("3 usable"))
                        && known.is_ok_and(|known| {
                            let well = known.iter().filter(|one| one["flags"] == "slave");
                            well.count() == self.nodes.len() - 1
                        })
                },
                "sentinel {number}: {:?} {:?}",
                ask::<String>(sentinel.address, &quorum, PATIENCE).await,
                ask::<redis::Value>(sentinel.address, &replicas, PATIENCE).await
            );
        }
        let primary = self.primary().await;
        for (number, node) in self.nodes.iter().enumerate() {
            eventually!(
                Some(number) == primary || node.follows().await,
                "replica {number} has no primary"
            );
        }
    }

    /// For gateways.
    pub fn url(&self) -> String {
        let hosts = self.sentinels.iter();
        let hosts: Vec<String> = hosts.map(|one| one.address.to_string()).collect();
        format!("redis+sentinel://{}/{NAME}", hosts.join(","))
    }

    /// The primary that most sentinels name.
    pub async fn primary(&self) -> Option<usize> {
        let addresses: Vec<_> = self.sentinels.iter().map(|one| one.address).collect();
        by_announced(&self.nodes, primary(&addresses).await?)
    }

    /// Waits until replicas have what the primary has; nobody may write meanwhile.
    pub async fn replicated(&self) {
        let primary = self.primary().await.unwrap();
        let others = (0..self.nodes.len()).filter(|&number| number != primary);
        let others: Vec<&Node> = others.map(|number| &self.nodes[number]).collect();
        caught_up(&self.nodes[primary], &others).await;
    }

    /// Lets the sentinels promote a replica while the primary is well, and waits for it.
    pub async fn fail_over(&self) {
        let before = self.primary().await;
        // Refused for a while after another failover.
        eventually!(
            ask::<String>(
                self.sentinels[0].address,
                &["SENTINEL", "FAILOVER", NAME],
                PATIENCE
            )
            .await
            .is_ok(),
            "no sentinel fails over"
        );
        self.promoted(before).await;
    }

    /// Waits until another than `before` is the primary and says so itself.
    pub async fn promoted(&self, before: Option<usize>) {
        eventually!(
            match self.primary().await {
                Some(now) if Some(now) != before => {
                    let role = self.nodes[now].info("replication", "role").await;
                    role.as_deref() == Some("master")
                }
                _ => false,
            },
            "nobody was promoted"
        );
    }
}

/// The primary that at least two of these sentinels name.
pub async fn primary(sentinels: &[SocketAddr]) -> Option<SocketAddr> {
    let mut named = Vec::new();
    for &sentinel in sentinels {
        let words = ["SENTINEL", "GET-MASTER-ADDR-BY-NAME", NAME];
        let answer = ask::<(String, u16)>(sentinel, &words, Duration::from_millis(300)).await;
        let Ok((host, port)) = answer else { continue };
        let address = SocketAddr::new(host.parse().ok()?, port);
        if named.contains(&address) {
            return Some(address);
        }
        named.push(address);
    }
    None
}

mod tests {
    use super::RedisSentinel;

    #[tokio::test(flavor = "multi_thread")]
    async fn sentinels_fail_over() {
        let mut redis = RedisSentinel::start().await;
        let first = redis.primary().await;
        redis.fail_over().await;
        redis.settled().await;
        let second = redis.primary().await.unwrap();
        assert_ne!(first, Some(second));
        let add = ["XADD", "key", "*", "data", "x"];
        redis.nodes[second].server.call(&add).await;
        redis.replicated().await;
        redis.nodes[second].server.kill();
        redis.promoted(Some(second)).await;
        let third = redis.primary().await.unwrap();
        let length: u64 = redis.nodes[third].ask(&["XLEN", "key"]).await.unwrap();
        assert_eq!(length, 1);
        let primary = redis.nodes[third].proxy.address;
        redis.nodes[second].server.follow(Some(primary));
        redis.nodes[second].server.up().await;
        redis.settled().await;
    }
}

//! A Redis server that others know by the address of a proxy in front of it.

use std::net::SocketAddr;
use std::time::Duration;

use redis::{FromRedisValue, RedisResult};

use super::redis::ask;
use super::{Persistence, Proxy, RedisServer, port};

/// How long a question to a server that may be down waits.
pub const PATIENCE: Duration = Duration::from_millis(500);

/// A server of a deployment. Gateways, replicas and sentinels go through the proxy; `server.address` leads past it.
pub struct Node {
    pub server: RedisServer,
    pub proxy: Proxy,
}

impl Node {
    /// Not started yet; every write that it answers is on its disk.
    pub async fn prepare() -> Self {
        let mut server = RedisServer::prepare(Persistence::AofAlways);
        let proxy = Proxy::to(server.address).await;
        let announced = proxy.address.port().to_string();
        server.set(&["--repl-diskless-sync-delay", "0"]);
        server.set(&["--replica-announce-ip", "127.0.0.1"]);
        server.set(&["--replica-announce-port", &announced]);
        Self { server, proxy }
    }

    /// The same as a member of a cluster.
    pub async fn prepare_member() -> Self {
        let mut node = Self::prepare().await;
        let (announced, bus) = (node.proxy.address.port().to_string(), port::free());
        let bus = bus.port().to_string();
        for setting in [
            ["--cluster-enabled", "yes"],
            ["--cluster-port", &bus],
            ["--cluster-announce-ip", "127.0.0.1"],
            ["--cluster-announce-port", &announced],
            ["--cluster-announce-bus-port", &bus],
            ["--cluster-node-timeout", "1000"],
            // A replica takes over however old its data are: what is lost then is told, and that is tested.
            ["--cluster-replica-validity-factor", "0"],
            ["--cluster-allow-replica-migration", "no"],
            ["--cluster-require-full-coverage", "no"],
        ] {
            node.server.set(&setting);
        }
        node
    }

    pub async fn ask<T: FromRedisValue>(&self, words: &[&str]) -> RedisResult<T> {
        ask(self.server.address, words, PATIENCE).await
    }

    /// A field of `INFO`.
    pub async fn info(&self, section: &str, field: &str) -> Option<String> {
        let text: String = self.ask(&["INFO", section]).await.ok()?;
        let mut lines = text
            .lines()
            .filter_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        lines.next().map(str::to_owned)
    }

    /// Whether it is a replica that has its primary's data.
    pub async fn follows(&self) -> bool {
        self.info("replication", "master_link_status")
            .await
            .is_some_and(|status| status == "up")
    }

    /// Bytes of replication written or read.
    pub async fn offset(&self) -> Option<u64> {
        self.info("replication", "master_repl_offset")
            .await?
            .parse()
            .ok()
    }
}

/// Waits until these have all that `primary` has; nobody may write meanwhile.
pub async fn caught_up(primary: &Node, replicas: &[&Node]) {
    for replica in replicas {
        eventually!(
            {
                let (ours, theirs) = (primary.offset().await, replica.offset().await);
                ours.is_some() && theirs >= ours
            },
            "the replica at {} does not catch up",
            replica.server.address
        );
    }
}

/// The node that others know by this port.
pub fn by_announced(nodes: &[Node], address: SocketAddr) -> Option<usize> {
    nodes.iter().position(|node| node.proxy.address == address)
}

//! The ways in which Redis is run, and how a publisher finds the primary of a room in each.

use std::net::SocketAddr;

use crate::support::cluster::{self, slot};
use crate::support::node::Node;
use crate::support::redis::key;
use crate::support::{RedisCluster, RedisSentinel, sentinel};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Topology {
    Single,
    Sentinel,
    Cluster,
}

/// Running servers.
pub enum Deployment {
    Single(Vec<Node>),
    Sentinel(RedisSentinel),
    Cluster(RedisCluster),
}

impl Deployment {
    pub async fn start(topology: Topology) -> Self {
        match topology {
            Topology::Single => {
                let mut node = Node::prepare().await;
                node.server.up().await;
                Self::Single(vec![node])
            }
            Topology::Sentinel => Self::Sentinel(RedisSentinel::start().await),
            Topology::Cluster => Self::Cluster(RedisCluster::start().await),
        }
    }

    /// For gateways: every link goes through a proxy.
    pub fn url(&self) -> String {
        match self {
            Self::Single(nodes) => format!("redis://{}", nodes[0].proxy.address),
            Self::Sentinel(sentinel) => sentinel.url(),
            Self::Cluster(cluster) => cluster.url(),
        }
    }

    pub fn nodes(&self) -> &[Node] {
        match self {
            Self::Single(nodes) => nodes,
            Self::Sentinel(sentinel) => &sentinel.nodes,
            Self::Cluster(cluster) => &cluster.nodes,
        }
    }

    pub fn node_mut(&mut self, number: usize) -> &mut Node {
        match self {
            Self::Single(nodes) => &mut nodes[number],
            Self::Sentinel(sentinel) => &mut sentinel.nodes[number],
            Self::Cluster(cluster) => &mut cluster.nodes[number],
        }
    }

    pub fn route(&self) -> Route {
        let (topology, sentinels) = match self {
            Self::Single(_) => (Topology::Single, Vec::new()),
            Self::Sentinel(redis) => {
                let sentinels = redis.sentinels.iter().map(|one| one.address).collect();
                (Topology::Sentinel, sentinels)
            }
            Self::Cluster(_) => (Topology::Cluster, Vec::new()),
        };
        let nodes = self.nodes().iter();
        Route {
            topology,
            sentinels,
            direct: nodes.clone().map(|node| node.server.address).collect(),
            announced: nodes.map(|node| node.proxy.address).collect(),
        }
    }

    /// Waits until the primary of a room answers, and gives it.
    pub async fn primary(&self, room: &str) -> usize {
        let route = self.route();
        let answers = async |number: usize| {
            let answer = self.nodes()[number].ask::<String>(&["PING"]).await;
            answer.is_ok_and(|text| text == "PONG")
        };
        let mut found = route.find(room).await;
        eventually!(
            match found {
                Some(number) if answers(number).await => true,
                _ => {
                    found = route.find(room).await;
                    false
                }
            },
            "room {room} has no primary"
        );
        found.unwrap()
    }

    /// Waits until every server runs and replicas have their primary's data.
    pub async fn settled(&self) {
        match self {
            Self::Single(nodes) => {
                eventually!(nodes[0].ask::<String>(&["PING"]).await.is_ok());
            }
            Self::Sentinel(sentinel) => sentinel.settled().await,
            Self::Cluster(cluster) => cluster.settled().await,
        }
    }

    /// Starts a server that was killed; with sentinels, as a replica of whoever is the primary now.
    pub async fn up(&mut self, number: usize) {
        if let Self::Sentinel(sentinel) = self {
            let primary = sentinel.primary().await.filter(|&now| now != number);
            let address = primary.map(|now| sentinel.nodes[now].proxy.address);
            sentinel.nodes[number].server.follow(address);
        }
        self.node_mut(number).server.up().await;
    }
}

/// Finds primaries without holding the servers: for publishers.
#[derive(Debug, Clone)]
pub struct Route {
    pub topology: Topology,
    sentinels: Vec<SocketAddr>,
    direct: Vec<SocketAddr>,
    announced: Vec<SocketAddr>,
}

impl Route {
    /// The number of the room's primary, if there is one.
    pub async fn find(&self, room: &str) -> Option<usize> {
        match self.topology {
            Topology::Single => Some(0),
            Topology::Sentinel => {
                let address = sentinel::primary(&self.sentinels).await?;
                self.announced.iter().position(|&known| known == address)
            }
            Topology::Cluster => cluster::owner(&self.direct, slot(&key(room))).await,
        }
    }

    /// Past the proxies.
    pub fn direct(&self, number: usize) -> SocketAddr {
        self.direct[number]
    }

    /// What a redirection names, past its proxy.
    pub fn past_proxy(&self, announced: &str) -> Option<SocketAddr> {
        let announced: SocketAddr = announced.parse().ok()?;
        let number = self.announced.iter().position(|&known| known == announced);
        number.map(|number| self.direct[number])
    }
}

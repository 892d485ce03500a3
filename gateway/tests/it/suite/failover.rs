//! Primaries that are replaced or lost.

use super::deployment::{Deployment, Topology};
use super::fault::Effect;
use super::world::World;
use crate::support::cluster::slot;

impl World {
    /// Waits until somebody else than `before` is the primary of a room.
    pub async fn promoted(&self, room: usize, before: usize) {
        let route = self.deployment.route();
        let name = &self.rooms[room].name;
        eventually!(
            route
                .find(name)
                .await
                .is_some_and(|node| node != before && self.deployment.nodes()[node].server.runs()),
            "nobody takes over from node {before}"
        );
        self.primary(room).await;
    }

    pub async fn promote_with(&mut self, room: usize) -> Effect {
        let before = self.primary(room).await;
        let quiet = self.quiet().await;
        match &self.deployment {
            Deployment::Single(_) => {}
            Deployment::Sentinel(redis) => redis.replicated().await,
            Deployment::Cluster(redis) => redis.replicated(slot(&self.key(room))).await,
        }
        self.deployment.node_mut(before).server.kill();
        drop(quiet);
        self.promoted(room, before).await;
        self.deployment.up(before).await;
        Effect::default()
    }

    pub async fn promote_without(&mut self, room: usize) -> Effect {
        let before = self.primary(room).await;
        let rooms = self.rooms_of(before).await;
        if self.topology == Topology::Single {
            self.deployment.nodes()[before].server.back_up();
            self.flow(&rooms, 5).await;
            let server = &mut self.deployment.node_mut(before).server;
            server.kill();
            server.restore();
            server.up().await;
        } else {
            self.deployment.nodes()[before].proxy.stall_replication();
            self.flow(&rooms, 5).await;
            self.deployment.node_mut(before).server.kill();
            self.promoted(room, before).await;
            self.deployment.nodes()[before].proxy.open();
            self.deployment.up(before).await;
        }
        Effect::may_lose()
    }

    /// The old primary goes on as soon as another one says that it is it: nodes, publishers and most sentinels do not know yet.
    pub async fn thaw_primary(&mut self, room: usize) -> Effect {
        let before = self.primary(room).await;
        let nodes = self.deployment.nodes();
        let mut others = Vec::new();
        for (number, node) in nodes.iter().enumerate() {
            let role = node.info("replication", "role").await;
            if number != before && role.as_deref() == Some("slave") {
                others.push(number);
            }
        }
        nodes[before].server.signal("STOP");
        eventually!(
            {
                let mut is_any = false;
                for &other in &others {
                    let role = nodes[other].info("replication", "role").await;
                    is_any |= role.as_deref() == Some("master");
                }
                is_any
            },
            "nobody takes over from node {before}"
        );
        nodes[before].server.signal("CONT");
        self.promoted(room, before).await;
        eventually!(
            nodes[before].follows().await,
            "node {before} is not demoted"
        );
        Effect::may_lose()
    }

    /// A primary and its replica are gone; the other rooms live on. Both come back, so that the next round has a whole cluster.
    pub async fn lose_primary(&mut self, room: usize) -> Effect {
        let primary = self.primary(room).await;
        let lost = self.rooms_of(primary).await;
        let mut nodes = vec![primary];
        if let Deployment::Cluster(redis) = &self.deployment {
            nodes.extend(redis.replicas(primary).await);
        }
        for &node in nodes.iter().rev() {
            self.deployment.node_mut(node).server.kill();
        }
        let others = self.all_rooms().into_iter();
        let others: Vec<usize> = others.filter(|room| !lost.contains(room)).collect();
        self.hold(self.size.stop).await;
        self.flow(&others, 10).await;
        for room in others {
            self.arrived(room).await;
        }
        for node in nodes {
            self.deployment.up(node).await;
        }
        Effect::default()
    }
}

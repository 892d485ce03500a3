//! How each fault begins, lasts and ends.

use std::collections::HashSet;
use std::time::Duration;

use super::deployment::{Deployment, Topology};
use super::fault::{Effect, Fault};
use super::world::World;
use crate::support::Proxy;
use crate::support::cluster::slot;
use crate::support::proxy::Direction;
use crate::support::redis::key;

impl World {
    /// Does it, lets it last and ends it.
    pub async fn inject(&mut self, fault: Fault) -> Effect {
        let room = self.random.usize(..self.rooms.len());
        let gateway = self.random.usize(..self.gateways.len());
        let (hold, stop) = (self.size.hold, self.size.stop);
        // Before: the load is there.
        self.flow(&self.all_rooms(), 3).await;
        match fault {
            Fault::GatewayKilled => {
                self.gateways[gateway].kill();
                self.hold(hold).await;
                self.gateways[gateway].up().await;
                Effect {
                    cuts_streams: true,
                    ..Effect::default()
                }
            }
            Fault::GatewayStopped => {
                self.gateways[gateway].signal("STOP");
                self.hold(stop).await;
                self.gateways[gateway].signal("CONT");
                Effect::default()
            }
            Fault::RedisKilled => {
                let node = self.primary(room).await;
                self.deployment.node_mut(node).server.kill();
                // Back before sentinels or a cluster promote somebody.
                self.hold(hold / 4).await;
                self.deployment.up(node).await;
                self.replicas_may_lag()
            }
            Fault::RedisFrozen => {
                let node = self.primary(room).await;
                self.deployment.nodes()[node].server.signal("STOP");
                self.hold(stop).await;
                self.deployment.nodes()[node].server.signal("CONT");
                self.replicas_may_lag()
            }
            Fault::RedisFlushed => {
                for node in self.primaries().await {
                    self.deployment.nodes()[node]
                        .server
                        .call(&["FLUSHALL"])
                        .await;
                }
                Effect::destroys(self.all_rooms())
            }
            Fault::RedisEmptied => {
                let node = self.primary(room).await;
                let server = &mut self.deployment.node_mut(node).server;
                server.kill();
                server.forget();
                self.hold(hold / 4).await;
                self.deployment.up(node).await;
                Effect::destroys(self.all_rooms())
            }
            Fault::PubSubKilled => self.kill_clients("pubsub").await,
            Fault::CommandsKilled => self.kill_clients("normal").await,
            Fault::LinkCut => {
                for _ in 0..3 {
                    self.links(Proxy::cut);
                    self.flow(&self.all_rooms(), 3).await;
                }
                Effect::default()
            }
            Fault::LinkRefused => {
                self.links(Proxy::refuse);
                self.links(Proxy::cut);
                self.hold(hold).await;
                self.opened()
            }
            Fault::LinkStalled => {
                self.links(|link| {
                    link.stall(Direction::ToServer);
                    link.stall(Direction::ToClient);
                });
                self.hold(stop).await;
                self.opened()
            }
            Fault::StalledToServer => {
                self.links(|link| link.stall(Direction::ToServer));
                self.hold(stop).await;
                self.opened()
            }
            Fault::StalledToClient => {
                self.links(|link| link.stall(Direction::ToClient));
                self.hold(stop).await;
                self.opened()
            }
            Fault::LinkFrozen => {
                self.links(Proxy::freeze);
                self.hold(stop).await;
                Effect::default()
            }
            Fault::LinkDelayed => {
                self.links(|link| link.delay(Duration::from_millis(150)));
                self.hold(hold).await;
                self.opened()
            }
            Fault::MessagesDropped => {
                let mut random = self.random.fork();
                self.links(|link| {
                    let mut random = random.fork();
                    link.lose(move |channel, _| channel.contains("sse:room:") && random.bool());
                });
                self.hold(hold).await;
                self.opened()
            }
            Fault::PartialWrites => {
                self.links(Proxy::trickle);
                self.hold(hold).await;
                self.opened()
            }
            Fault::HalfClosed => {
                self.links(Proxy::half_close);
                self.hold(hold).await;
                Effect::default()
            }
            Fault::BufferLimit => self.overrun(room).await,
            Fault::TrimmedUnderSlow => self.trim_under_slow(room).await,
            Fault::KeyDeleted => {
                self.on_primary(room, &["DEL", &self.key(room)]).await;
                Effect::destroys([room])
            }
            Fault::KeyExpired => {
                // The next event by the function would renew it.
                let quiet = self.quiet().await;
                self.on_primary(room, &["PEXPIRE", &self.key(room), "1"])
                    .await;
                self.absent(room).await;
                drop(quiet);
                Effect::destroys([room])
            }
            Fault::KeyEvicted => {
                let node = self.primary(room).await;
                let rooms = self.rooms_of(node).await;
                let set = async |policy: &str, bytes: &str| {
                    let words = ["CONFIG", "SET", "maxmemory-policy", policy];
                    let words = [&words[..], &["maxmemory", bytes]].concat();
                    self.deployment.nodes()[node].server.call(&words).await;
                };
                set("allkeys-random", "1mb").await;
                self.absent(room).await;
                set("noeviction", "0").await;
                Effect::destroys(rooms)
            }
            Fault::KeyReplaced => {
                let quiet = self.quiet().await;
                self.on_primary(room, &["SET", &self.key(room), "something else"])
                    .await;
                drop(quiet);
                self.hold(hold).await;
                self.on_primary(room, &["DEL", &self.key(room)]).await;
                Effect::destroys([room])
            }
            Fault::ClockBack => {
                // As if it had been ahead by this much until now. It has caught up at the end: what is lost while ids run ahead
                // comes again under the same ids, and nobody can tell the one from the other.
                self.add_from_the_future(room, hold).await;
                self.hold(hold).await;
                Effect::default()
            }
            Fault::ClockBackAndDeleted => {
                let quiet = self.quiet().await;
                self.add_from_the_future(room, Duration::from_secs(3600))
                    .await;
                self.arrived(room).await;
                self.on_primary(room, &["DEL", &self.key(room)]).await;
                drop(quiet);
                Effect::destroys([room])
            }
            Fault::PrimaryKilled => {
                let before = self.primary(room).await;
                self.deployment.node_mut(before).server.kill();
                self.promoted(room, before).await;
                self.deployment.up(before).await;
                Effect::may_lose()
            }
            Fault::PromotedWith => self.promote_with(room).await,
            Fault::PromotedWithout => self.promote_without(room).await,
            Fault::PrimaryThawed => self.thaw_primary(room).await,
            Fault::SentinelFailover => {
                if let Deployment::Sentinel(redis) = &self.deployment {
                    redis.fail_over().await;
                }
                Effect::may_lose()
            }
            Fault::ClusterFailover => {
                let slot = slot(&self.key(room));
                if let Deployment::Cluster(redis) = &self.deployment {
                    redis.fail_over(slot).await;
                }
                Effect::default()
            }
            Fault::SlotMoved => {
                let slot = slot(&self.key(room));
                if let Deployment::Cluster(redis) = &self.deployment {
                    let home = redis.owner(slot).await.unwrap();
                    let primaries = self.primaries().await;
                    let away = primaries.into_iter().find(|&node| node != home).unwrap();
                    redis.move_slot(slot, away).await;
                    self.flow(&[room], 5).await;
                    redis.move_slot(slot, home).await;
                }
                Effect::default()
            }
            Fault::PrimaryLost => self.lose_primary(room).await,
        }
    }

    pub fn key(&self, room: usize) -> String {
        key(&self.rooms[room].name)
    }

    pub async fn primary(&self, room: usize) -> usize {
        self.deployment.primary(&self.rooms[room].name).await
    }

    async fn primaries(&self) -> HashSet<usize> {
        let mut nodes = HashSet::new();
        for room in 0..self.rooms.len() {
            nodes.insert(self.primary(room).await);
        }
        nodes
    }

    pub async fn on_primary(&self, room: usize, words: &[&str]) -> redis::Value {
        let node = self.primary(room).await;
        self.deployment.nodes()[node].server.call(words).await
    }

    async fn absent(&self, room: usize) {
        let node = self.primary(room).await;
        let key = self.key(room);
        eventually!(
            self.deployment.nodes()[node]
                .ask::<u8>(&["EXISTS", &key])
                .await
                .is_ok_and(|count| count == 0),
            "{key} stays"
        );
    }

    fn links(&self, mut order: impl FnMut(&Proxy)) {
        for node in self.deployment.nodes() {
            order(&node.proxy);
        }
    }

    pub fn opened(&self) -> Effect {
        self.links(Proxy::open);
        Effect::default()
    }

    /// A server that is away for long may come back to a promoted replica.
    fn replicas_may_lag(&self) -> Effect {
        match self.topology {
            Topology::Single => Effect::default(),
            Topology::Sentinel | Topology::Cluster => Effect::may_lose(),
        }
    }

    async fn kill_clients(&self, kind: &str) -> Effect {
        for _ in 0..3 {
            for node in self.deployment.nodes() {
                node.server.call(&["CLIENT", "KILL", "TYPE", kind]).await;
            }
            self.flow(&self.all_rooms(), 3).await;
        }
        Effect::default()
    }
}

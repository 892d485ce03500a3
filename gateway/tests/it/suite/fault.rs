//! What goes wrong, one thing at a time, and how it ends.

use std::collections::HashSet;
use std::time::Duration;

use super::deployment::{Deployment, Topology};
use super::ledger::parse_id;
use super::publisher::{Way, connect, data};
use super::world::{Room, World};
use crate::support::cluster::slot;
use crate::support::proxy::Direction;
use crate::support::redis::key;
use crate::support::{Client, Proxy};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    GatewayKilled,
    GatewayStopped,
    RedisKilled,
    RedisFrozen,
    RedisFlushed,
    /// Killed, and back without its data.
    RedisEmptied,
    PubSubKilled,
    CommandsKilled,
    LinkCut,
    LinkRefused,
    /// Both ways, new connections too; nothing is closed.
    LinkStalled,
    StalledToServer,
    StalledToClient,
    /// Connections that are open fall silent for good; new ones work.
    LinkFrozen,
    LinkDelayed,
    MessagesDropped,
    PartialWrites,
    HalfClosed,
    BufferLimit,
    TrimmedUnderSlow,
    KeyDeleted,
    KeyExpired,
    KeyEvicted,
    KeyReplaced,
    ClockBack,
    /// The room begins again with lower ids.
    ClockBackAndDeleted,
    /// A replica takes over under load.
    PrimaryKilled,
    /// Its replica has everything.
    PromotedWith,
    /// Its replica lacks the last events; with a single Redis, an older copy comes back.
    PromotedWithout,
    SentinelFailover,
    ClusterFailover,
    SlotMoved,
    PrimaryLost,
}

/// What a fault does beyond an interruption.
#[derive(Debug, Default)]
pub struct Effect {
    /// Rooms in which the test itself made events disappear...
    pub destroyed: HashSet<usize>,
    /// ...for this client only: all others had them.
    pub only: Option<usize>,
    /// Redis may lose what it acknowledged: a replica without the last events takes over.
    pub may_lose: bool,
    /// Streams end: a node did.
    pub cuts_streams: bool,
}

impl Effect {
    fn destroys(rooms: impl IntoIterator<Item = usize>) -> Self {
        Self {
            destroyed: rooms.into_iter().collect(),
            ..Self::default()
        }
    }

    fn may_lose() -> Self {
        Self {
            may_lose: true,
            ..Self::default()
        }
    }
}

impl Fault {
    /// Those that a deployment can have.
    pub fn of(topology: Topology) -> Vec<Self> {
        use Fault::*;
        let mut faults = vec![
            GatewayKilled,
            GatewayStopped,
            RedisKilled,
            RedisFrozen,
            RedisFlushed,
            PubSubKilled,
            CommandsKilled,
            LinkCut,
            LinkRefused,
            LinkStalled,
            StalledToServer,
            StalledToClient,
            LinkFrozen,
            LinkDelayed,
            MessagesDropped,
            PartialWrites,
            HalfClosed,
            BufferLimit,
            TrimmedUnderSlow,
            KeyDeleted,
            KeyExpired,
            KeyEvicted,
            KeyReplaced,
            ClockBack,
            ClockBackAndDeleted,
            PromotedWithout,
        ];
        match topology {
            Topology::Single => faults.push(RedisEmptied),
            Topology::Sentinel => faults.extend([PrimaryKilled, PromotedWith, SentinelFailover]),
            Topology::Cluster => {
                faults.extend([
                    PrimaryKilled,
                    PromotedWith,
                    ClusterFailover,
                    SlotMoved,
                    PrimaryLost,
                ]);
            }
        }
        faults
    }
}

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
                self.from_the_future(room, hold).await;
                self.hold(hold).await;
                Effect::default()
            }
            Fault::ClockBackAndDeleted => {
                let quiet = self.quiet().await;
                self.from_the_future(room, Duration::from_secs(3600)).await;
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

    fn key(&self, room: usize) -> String {
        key(&self.rooms[room].name)
    }

    async fn primary(&self, room: usize) -> usize {
        self.deployment.primary(&self.rooms[room].name).await
    }

    async fn primaries(&self) -> HashSet<usize> {
        let mut nodes = HashSet::new();
        for room in 0..self.rooms.len() {
            nodes.insert(self.primary(room).await);
        }
        nodes
    }

    async fn on_primary(&self, room: usize, words: &[&str]) -> redis::Value {
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

    fn opened(&self) -> Effect {
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

    /// Redis ends a pub/sub connection that takes too little of what it is sent.
    async fn overrun(&self, room: usize) -> Effect {
        let number = self.primary(room).await;
        let node = &self.deployment.nodes()[number];
        let limit = async |limit: &str| {
            let words = ["CONFIG", "SET", "client-output-buffer-limit", limit];
            node.server.call(&words).await;
        };
        let route = self.deployment.route();
        let mut side = String::new();
        for attempt in 0.. {
            side = format!("burst-{attempt}");
            if route.find(&side).await == Some(number) {
                break;
            }
        }
        let mut clients = Vec::new();
        for gateway in &self.gateways {
            let client = Client::of(&[gateway.address], &side).observe(|_| {});
            clients.push(client.open().await);
        }
        let publish = if self.topology == Topology::Cluster {
            "SPUBLISH"
        } else {
            "PUBLISH"
        };
        let log = node.server.directory().join("redis.log");
        let overruns = || {
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            text.matches("overcoming of output buffer limits").count()
        };
        let before = overruns();
        limit("pubsub 64kb 0 0").await;
        node.proxy.stall(Direction::ToClient);
        let mut connection = connect(node.server.address).await.unwrap();
        let payload = "x".repeat(60_000);
        eventually!(
            {
                let mut pipe = redis::pipe();
                for _ in 0..20 {
                    pipe.cmd(publish).arg(key(&side)).arg(&payload).ignore();
                }
                pipe.exec_async(&mut connection).await.unwrap();
                overruns() > before
            },
            "the limit is not reached"
        );
        limit("pubsub 32mb 8mb 60").await;
        self.opened()
    }

    /// An event with an id of the clock in so much time.
    async fn from_the_future(&self, room: usize, ahead: Duration) {
        let facts = ["XINFO", "STREAM", &self.key(room)];
        let last = last_generated(self.on_primary(room, &facts).await);
        let id = format!("{}-0", u128::from(last) + ahead.as_millis());
        let number = self.rooms[room].ledger.book().attempt();
        let data = data(number, Way::Plain);
        self.on_primary(room, &["XADD", &self.key(room), &id, "data", &data])
            .await;
        let acked = parse_id(&id).unwrap();
        self.rooms[room].ledger.book().acknowledge(number, acked);
    }

    /// Waits until all clients of a room have what was acknowledged until now.
    async fn arrived(&self, room: usize) {
        self.arrived_but(room, None).await;
    }

    async fn arrived_but(&self, room: usize, slow: Option<usize>) {
        let Room {
            name,
            ledger,
            watchers,
            ..
        } = &self.rooms[room];
        let end = ledger.book().acked.keys().next_back().copied();
        for (turn, watcher) in watchers.iter().enumerate() {
            eventually!(
                Some(turn) == slow || Some(watcher.view().last) >= end,
                "{name}: {}",
                watcher.client.summary()
            );
        }
    }

    /// A client stands still while what it has yet to read is trimmed.
    async fn trim_under_slow(&self, room: usize) -> Effect {
        let slow = &self.rooms[room].watchers[0].client;
        slow.stall(true);
        self.burst(room, 1000, 3000).await;
        self.arrived_but(room, Some(0)).await;
        self.on_primary(room, &["XTRIM", &self.key(room), "MAXLEN", "20"])
            .await;
        self.flow(&[room], 3).await;
        slow.stall(false);
        Effect {
            only: Some(0),
            ..Effect::destroys([room])
        }
    }

    /// Waits until somebody else than `before` is the primary of a room.
    async fn promoted(&self, room: usize, before: usize) {
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

    async fn promote_with(&mut self, room: usize) -> Effect {
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

    async fn promote_without(&mut self, room: usize) -> Effect {
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

    /// A primary and its replica are gone; the other rooms live on. Both come back, so that the next round has a whole cluster.
    async fn lose_primary(&mut self, room: usize) -> Effect {
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

/// The milliseconds of the last id, of an answer of `XINFO STREAM`.
fn last_generated(answer: redis::Value) -> u64 {
    let facts: std::collections::HashMap<String, redis::Value> =
        redis::from_redis_value(answer).unwrap();
    let id: String = redis::from_redis_value(facts["last-generated-id"].clone()).unwrap();
    parse_id(&id).unwrap().0
}

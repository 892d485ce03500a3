//! Connections and clients that take too little, and a clock that was ahead.

use std::time::Duration;

use super::deployment::Topology;
use super::fault::Effect;
use super::ledger::parse_id;
use super::publisher::{Way, connect, data};
use super::world::{Room, SLOW_READER, World};
use crate::support::Client;
use crate::support::proxy::Direction;
use crate::support::redis::key;

impl World {
    /// Redis ends a pub/sub connection that takes too little of what it is sent.
    pub async fn overrun(&self, room: usize) -> Effect {
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
    pub async fn add_from_the_future(&self, room: usize, ahead: Duration) {
        let facts = ["XINFO", "STREAM", &self.key(room)];
        let last = last_generated(self.on_primary(room, &facts).await);
        let id = format!("{}-0", u128::from(last) + ahead.as_millis());
        let number = self.rooms[room].ledger.book().attempt(true);
        let data = data(number, Way::Plain);
        self.on_primary(room, &["XADD", &self.key(room), &id, "data", &data])
            .await;
        let acked = parse_id(&id).unwrap();
        self.rooms[room].ledger.book().acknowledge(number, acked);
    }

    /// Waits until all clients of a room have what was acknowledged until now.
    pub async fn arrived(&self, room: usize) {
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
    pub async fn trim_under_slow(&self, room: usize) -> Effect {
        let slow = &self.rooms[room].watchers[SLOW_READER].client;
        slow.stall(true);
        self.burst(room, 1000, 3000).await;
        self.arrived_but(room, Some(SLOW_READER)).await;
        self.on_primary(room, &["XTRIM", &self.key(room), "MAXLEN", "20"])
            .await;
        self.flow(&[room], 3).await;
        slow.stall(false);
        Effect {
            only: Some(SLOW_READER),
            ..Effect::destroys([room])
        }
    }
}

/// The milliseconds of the last id, of an answer of `XINFO STREAM`.
fn last_generated(answer: redis::Value) -> u64 {
    let facts: std::collections::HashMap<String, redis::Value> =
        redis::from_redis_value(answer).unwrap();
    let id: String = redis::from_redis_value(facts["last-generated-id"].clone()).unwrap();
    parse_id(&id).unwrap().0
}

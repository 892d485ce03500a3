//! Gateways, rooms, clients and publishers on one deployment, and the course of a round.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tokio::sync::RwLock;
use tokio::task::JoinSet;

use super::churn;
use super::deployment::{Deployment, Topology};
use super::fault::Fault;
use super::ledger::{Ledger, parse_id};
use super::publisher::{Publisher, Way, connect, data, words};
use super::report::{self, Line};
use super::view::View;
use crate::support::{Client, Gateway, Setup};

/// The client in each room that takes little at a time: once its receive buffer was full, the kernel gives it a segment of
/// some 2.6 KB every 200 ms (the persist timer), so that it may be behind for ten seconds on a starved machine.
pub const SLOW_READER: usize = 0;

/// A delivery that takes longer is told of in detail.
pub const SLOW: Duration = Duration::from_secs(1);

/// How much there is of everything.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    rooms: usize,
    clients_per_room: usize,
    /// Between two events of one of a room's three publishers.
    pace: Duration,
    /// Streams that come and go in a second.
    churn: u64,
    /// How long a lasting fault lasts.
    pub hold: Duration,
    /// How long a process stands still.
    pub stop: Duration,
}

impl Size {
    /// For two cores that run other tests too.
    pub const SHORT: Self = Self {
        rooms: 4,
        clients_per_room: 6,
        pace: Duration::from_millis(50),
        churn: 50,
        hold: Duration::from_millis(1500),
        stop: Duration::from_secs(3),
    };

    pub const LONG: Self = Self {
        rooms: 6,
        clients_per_room: 6,
        pace: Duration::from_millis(20),
        churn: 1100,
        hold: Duration::from_secs(3),
        stop: Duration::from_secs(10),
    };
}

/// A client and what it saw.
pub struct Watcher {
    pub client: Arc<Client>,
    pub view: Arc<Mutex<View>>,
    /// It leaves its node now and then, for the other one.
    pub wanders: bool,
    /// Numbers that it was told about, or that were reported already.
    pub settled: std::collections::HashSet<u64>,
}

impl Watcher {
    pub fn view(&self) -> MutexGuard<'_, View> {
        self.view.lock().unwrap()
    }
}

pub struct Room {
    pub name: String,
    pub ledger: Ledger,
    pub watchers: Vec<Watcher>,
    /// How many were attempted before this round.
    pub attempted: u64,
}

/// Everything; ended by `Drop`.
pub struct World {
    pub topology: Topology,
    pub size: Size,
    pub deployment: Deployment,
    pub gateways: Vec<Gateway>,
    pub rooms: Vec<Room>,
    pub random: fastrand::Rng,
    gate: Arc<RwLock<()>>,
    /// Publishers, wanderers and the churn.
    tasks: JoinSet<()>,
    churned: Arc<AtomicU64>,
    lines: Vec<Line>,
}

impl World {
    pub async fn start(topology: Topology, size: Size, random: fastrand::Rng) -> Self {
        let deployment = Deployment::start(topology).await;
        let mut gateways = Vec::new();
        for _ in 0..2 {
            let setup = Setup::redis_by(&deployment.url())
                .set("redis.response_timeout", "1s")
                .set("retention.max_len", "0")
                // Small, so that clients fall behind it.
                .set("stream.log_bytes", "65536")
                .set("stream.send_buffer", "16384");
            gateways.push(setup.start().await);
        }
        let mut world = Self {
            topology,
            size,
            deployment,
            gateways,
            rooms: Vec::new(),
            random,
            gate: Arc::default(),
            tasks: JoinSet::new(),
            churned: Arc::default(),
            lines: Vec::new(),
        };
        world.open_rooms().await;
        world.open_publishers();
        let churn = churn::run(world.addresses(), size.churn, Arc::clone(&world.churned));
        world.tasks.spawn(churn);
        world
    }

    fn addresses(&self) -> Vec<SocketAddr> {
        self.gateways
            .iter()
            .map(|gateway| gateway.address)
            .collect()
    }

    async fn open_rooms(&mut self) {
        let route = self.deployment.route();
        for number in 0..self.size.rooms {
            // In a cluster, on each of the primaries in turn.
            let mut name = String::new();
            for attempt in 0.. {
                name = format!("room-{number}-{attempt}");
                let home = route.find(&name).await;
                if self.topology != Topology::Cluster || home == Some(number % 3) {
                    break;
                }
            }
            let mut watchers = Vec::new();
            for turn in 0..self.size.clients_per_room {
                watchers.push(self.watch(&name, turn).await);
            }
            self.rooms.push(Room {
                name,
                ledger: Ledger::default(),
                watchers,
                attempted: 0,
            });
        }
    }

    async fn watch(&mut self, room: &str, turn: usize) -> Watcher {
        let mut addresses = self.addresses();
        let nodes = addresses.len();
        addresses.rotate_left(turn % nodes);
        let view = Arc::new(Mutex::new(View::default()));
        let seen = Arc::clone(&view);
        let mut options = Client::of(&addresses, room)
            .observe(move |message| seen.lock().unwrap().observe(message));
        if turn == SLOW_READER {
            // Its stall is felt soon.
            options = options.receive_buffer(4096);
        }
        let client = Arc::new(options.open().await);
        let wanders = turn % 3 == 2;
        if wanders {
            let (client, mut random) = (Arc::clone(&client), self.random.fork());
            self.tasks.spawn(async move {
                loop {
                    let stay = Duration::from_millis(random.u64(200..2000));
                    tokio::time::sleep(stay).await;
                    client.cut();
                }
            });
        }
        Watcher {
            client,
            view,
            wanders,
            settled: Default::default(),
        }
    }

    fn open_publishers(&mut self) {
        for room in &self.rooms {
            for way in Way::ALL {
                let publisher = Publisher {
                    room: room.name.clone(),
                    way,
                    route: self.deployment.route(),
                    gateways: self.addresses(),
                    ledger: room.ledger.clone(),
                    gate: Arc::clone(&self.gate),
                    pace: self.size.pace,
                };
                self.tasks.spawn(publisher.run());
            }
        }
    }

    /// Waits until nothing is on its way from a publisher, and keeps it so until the result is dropped.
    pub async fn quiet(&self) -> tokio::sync::OwnedRwLockWriteGuard<()> {
        Arc::clone(&self.gate).write_owned().await
    }

    /// Lets a fault last.
    pub async fn hold(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }

    /// Waits until so many events were acknowledged in each of these rooms from now on.
    pub async fn flow(&self, rooms: &[usize], count: usize) {
        let begin = Instant::now();
        for &room in rooms {
            let Room { name, ledger, .. } = &self.rooms[room];
            eventually!(
                ledger.book().acked_since(begin) >= count,
                "publishing does not go on in {name}: {} of {count}",
                ledger.book().acked_since(begin)
            );
        }
    }

    pub fn all_rooms(&self) -> Vec<usize> {
        (0..self.rooms.len()).collect()
    }

    /// The rooms that this node is the primary of.
    pub async fn rooms_of(&self, node: usize) -> Vec<usize> {
        let mut rooms = Vec::new();
        for (number, room) in self.rooms.iter().enumerate() {
            if self.deployment.primary(&room.name).await == node {
                rooms.push(number);
            }
        }
        rooms
    }

    /// Publishes many larger events at once.
    pub async fn burst(&self, room: usize, count: usize, bytes: usize) {
        let Room { name, ledger, .. } = &self.rooms[room];
        let node = self.deployment.primary(name).await;
        let address = self.deployment.nodes()[node].server.address;
        let mut connection = connect(address).await.unwrap();
        for _ in 0..count.div_ceil(50) {
            let mut pipe = redis::pipe();
            let mut numbers = Vec::new();
            for _ in 0..50 {
                let number = ledger.book().attempt(false);
                let data = format!("{} {:-<bytes$}", data(number, Way::Function), "");
                pipe.add_command(
                    redis::Cmd::new()
                        .arg(words(Way::Function, self.topology, name, &data))
                        .clone(),
                );
                numbers.push(number);
            }
            let ids: Vec<String> = pipe.query_async(&mut connection).await.unwrap();
            for (number, id) in numbers.into_iter().zip(ids) {
                ledger.book().acknowledge(number, parse_id(&id).unwrap());
            }
        }
    }

    /// One fault, what it does to everybody, and the check.
    pub async fn round(&mut self, fault: Fault) {
        let begin = Instant::now();
        let churned = self.churned.load(Ordering::Relaxed);
        let mut connections = Vec::new();
        for room in &mut self.rooms {
            room.attempted = room.ledger.book().attempted();
            for watcher in &room.watchers {
                watcher.view().wait_from(begin);
                connections.push(watcher.client.seen().connections);
            }
        }
        let effect = self.inject(fault).await;
        for room in &self.rooms {
            self.deployment.primary(&room.name).await;
        }
        let healed = Instant::now();
        self.flow(&self.all_rooms(), 10).await;
        self.deployment.settled().await;
        let quiet = self.quiet().await;
        let mut line = self.check(fault, &effect, healed).await;
        let churned = self.churned.load(Ordering::Relaxed) - churned;
        line.churn = churned as f64 / begin.elapsed().as_secs_f64();
        let watchers = self.rooms.iter().flat_map(|room| &room.watchers);
        for (watcher, before) in watchers.zip(connections) {
            let now = watcher.client.seen().connections;
            if !watcher.wanders && !effect.cuts_streams && now != before {
                line.problems
                    .push(format!("a stream was cut: {}", watcher.client.summary()));
            }
        }
        // What comes later belongs to the next round: a reset that comes after everything else does, too.
        for watcher in self.rooms.iter().flat_map(|room| &room.watchers) {
            watcher.view().begin();
        }
        drop(quiet);
        println!(
            "{:?} {fault:?}: {} events, {} lost, {} repeated, {} resets, {} false, {} gone, gap {} ms, after {} ms, churn {:.0}/s, took {} ms",
            self.topology,
            line.events,
            line.lost,
            line.repeated,
            line.resets,
            line.false_resets,
            line.gone,
            line.longest_gap.as_millis(),
            line.slowest_after.as_millis(),
            line.churn,
            begin.elapsed().as_millis(),
        );
        if line.slowest_after > SLOW {
            println!("  slowest: {}", line.slowest);
        }
        for problem in line.problems.iter().take(20) {
            println!("  {problem}");
        }
        self.lines.push(line);
    }

    pub async fn finish(self) {
        report::print(
            self.topology,
            &self.lines,
            self.churned.load(Ordering::Relaxed),
        );
        let wrong = self.lines.iter().filter(|line| !line.problems.is_empty());
        let wrong: Vec<_> = wrong
            .map(|line| {
                let first: Vec<_> = line.problems.iter().take(5).collect();
                format!("{:?}: {first:#?}", line.fault)
            })
            .collect();
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }
}

//! Publishers that go on through everything, and remember exactly what was acknowledged to them. They reach Redis past the
//! proxies: what is cut, stalled or lost on the gateways' links happens to gateways only.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, RedisError};
use tokio::sync::RwLock;
use tokio::time::timeout;

use super::deployment::{Route, Topology};
use super::ledger::{Id, Ledger, parse_id};
use crate::support::gateway::PUBLISH_KEY;
use crate::support::http;
use crate::support::redis::key;

/// What a publisher waits for an answer. An event without one may have been stored.
const PATIENCE: Duration = Duration::from_secs(1);

/// How often it is asked which server is the primary.
const RECHECK: Duration = Duration::from_secs(1);

/// To the primary of the room, as far as is known.
struct Connection {
    node: usize,
    live: MultiplexedConnection,
    checked: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    Function,
    Plain,
    Http,
}

impl Way {
    pub const ALL: [Self; 3] = [Self::Function, Self::Plain, Self::Http];
}

pub struct Publisher {
    pub room: String,
    pub way: Way,
    pub route: Route,
    pub gateways: Vec<SocketAddr>,
    pub ledger: Ledger,
    /// Held for each event; the check takes it whole, so that nothing is on its way.
    pub gate: Arc<RwLock<()>>,
    /// Between two events.
    pub pace: Duration,
}

impl Publisher {
    pub async fn run(self) {
        let mut connection: Option<Connection> = None;
        loop {
            // As a client of sentinels learns that another server is the primary now, while the old one answers still.
            if self.route.topology == Topology::Sentinel
                && let Some(old) = &mut connection
                && old.checked.elapsed() > RECHECK
            {
                old.checked = Instant::now();
                let now = self.route.find(&self.room).await;
                connection.take_if(|old| now.is_some_and(|now| now != old.node));
            }
            {
                let _open = self.gate.read().await;
                let number = self.ledger.book().attempt(self.way == Way::Plain);
                let data = data(number, self.way);
                let id = match self.way {
                    Way::Http => self.post(number, &data).await,
                    Way::Function | Way::Plain => self.call(&mut connection, &data).await,
                };
                if let Some(id) = id {
                    self.ledger.book().acknowledge(number, id);
                }
            }
            // The load, not a wait.
            tokio::time::sleep(self.pace).await;
        }
    }

    async fn call(&self, connection: &mut Option<Connection>, data: &str) -> Option<Id> {
        if connection.is_none() {
            let node = self.route.find(&self.room).await?;
            *connection = Some(Connection {
                node,
                live: connect(self.route.direct(node)).await?,
                checked: Instant::now(),
            });
        }
        let live = &mut connection.as_mut()?.live;
        let words = words(self.way, self.route.topology, &self.room, data);
        let answer = redis::Cmd::new()
            .arg(&words)
            .query_async::<String>(live)
            .await;
        match answer {
            Ok(id) => parse_id(&id),
            Err(error) if error.code() == Some("ASK") => self.ask(&error, &words).await,
            Err(_) => {
                *connection = None;
                None
            }
        }
    }

    /// The slot is on its way, and the key there already.
    async fn ask(&self, error: &RedisError, words: &[String]) -> Option<Id> {
        let (address, _) = error.redirect_node()?;
        let mut connection = connect(self.route.past_proxy(address)?).await?;
        let mut pipe = redis::pipe();
        pipe.cmd("ASKING").ignore();
        pipe.add_command(redis::Cmd::new().arg(words).clone());
        let (id,): (String,) = pipe.query_async(&mut connection).await.ok()?;
        parse_id(&id)
    }

    async fn post(&self, number: u64, data: &str) -> Option<Id> {
        let turn = usize::try_from(number).unwrap() % self.gateways.len();
        let key = format!("Bearer {PUBLISH_KEY}");
        let headers = [
            ("Authorization", key.as_str()),
            ("Content-Type", "text/plain"),
        ];
        let path = format!("/rooms/{}/events", self.room);
        let request = http::try_request(
            self.gateways[turn],
            "POST",
            &path,
            &headers,
            data.as_bytes(),
        );
        let answer = timeout(PATIENCE, request).await.ok()?.ok()?;
        if answer.status != 201 {
            return None;
        }
        parse_id(answer.json()["id"].as_str()?)
    }
}

/// What an event carries: its number first.
pub fn data(number: u64, way: Way) -> String {
    format!("{number} {way:?} {:-<160}", "")
}

/// The command that publishes it.
pub fn words(way: Way, topology: Topology, room: &str, data: &str) -> Vec<String> {
    let key = key(room);
    let sharded = if topology == Topology::Cluster {
        "1"
    } else {
        "0"
    };
    let words = match way {
        Way::Plain => vec!["XADD", &key, "*", "event", "load", "data", data],
        _ => vec![
            "FCALL",
            "sse_publish",
            "1",
            &key,
            "event",
            "load",
            "data",
            data,
            "maxlen",
            "0",
            "sharded",
            sharded,
        ],
    };
    words.into_iter().map(str::to_owned).collect()
}

/// A connection to a server, if it answers.
pub async fn connect(address: SocketAddr) -> Option<MultiplexedConnection> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(PATIENCE))
        .set_response_timeout(Some(PATIENCE));
    let client = redis::Client::open(format!("redis://{address}")).ok()?;
    client
        .get_multiplexed_async_connection_with_config(&config)
        .await
        .ok()
}

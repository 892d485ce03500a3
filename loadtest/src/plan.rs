//! What the clients of a run do: the same plan for each worker process, which takes its share of it.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::target::Target;

/// How clients spread over rooms.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Spread {
    /// As many in each.
    Even,
    /// As 1, 1/2, 1/3, … of the first room's.
    Zipf,
    /// This share, 0 to 1, in the first room; the rest evenly over the others.
    Hot(f64),
}

impl Spread {
    /// The rooms of all clients, by client.
    #[must_use]
    pub fn rooms(self, clients: u64, rooms: u32) -> Vec<u32> {
        let rooms = rooms.max(1);
        let even = |client: u64, rooms: u32| (client % u64::from(rooms)) as u32;
        match self {
            Self::Hot(share) if rooms > 1 => {
                let hot = (clients as f64 * share.clamp(0.0, 1.0)).round() as u64;
                (0..clients)
                    .map(|client| match client.checked_sub(hot) {
                        None => 0,
                        Some(rest) => 1 + even(rest, rooms - 1),
                    })
                    .collect()
            }
            Self::Zipf => {
                let total: f64 = (1..=rooms).map(|rank| 1.0 / f64::from(rank)).sum();
                let (mut room, mut reached) = (0, 1.0 / total);
                (0..clients)
                    .map(|client| {
                        while (client as f64 + 0.5) / clients as f64 > reached && room + 1 < rooms {
                            room += 1;
                            reached += 1.0 / f64::from(room + 1) / total;
                        }
                        room
                    })
                    .collect()
            }
            Self::Even | Self::Hot(_) => (0..clients).map(|client| even(client, rooms)).collect(),
        }
    }
}

/// Clients that leave and come back, as people do.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Churn {
    /// Clients that leave per second, of all workers.
    pub per_second: f64,
    /// Milliseconds until one comes back, with its `Last-Event-ID`.
    pub away_ms: u64,
}

/// What the clients do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// This worker's number, from 0.
    pub worker: u64,
    /// Worker processes.
    pub workers: u64,
    /// What they connect to.
    pub target: Target,
    /// Room names are this and the room's index.
    pub room_prefix: String,
    /// Rooms.
    pub rooms: u32,
    /// Clients, of all workers. Worker w of n has the clients c with c mod n = w.
    pub connections: u64,
    /// Which room each is in.
    pub spread: Spread,
    /// Connections begun per second, of all workers; 0 for as fast as they are answered.
    pub connect_rate: f64,
    /// Connections of one worker that may be under way at once.
    pub connect_window: u64,
    /// Clients that share a connection, over HTTP/2; without it, each has one of its own.
    pub http2: Option<u32>,
    /// Addresses to connect from, taken in turn; none leaves it to the system.
    pub sources: Vec<IpAddr>,
    /// Clients that stop reading once their stream is open: the first ones.
    pub stalled: u64,
    /// Clients that read slowly: the next ones.
    pub slow: u64,
    /// Bytes per second that a slow one reads.
    pub slow_rate: u64,
    /// Whether clients leave and return.
    pub churn: Option<Churn>,
    /// Bytes of an event's data.
    pub payload: usize,
    /// Lines to take as data instead.
    pub samples: Option<String>,
    /// Milliseconds between two ticks.
    pub tick_ms: u64,
}

impl Plan {
    /// The name of a room.
    #[must_use]
    pub fn room(&self, index: u32) -> String {
        format!("{}{index}", self.room_prefix)
    }

    /// This worker's clients: (number, room).
    #[must_use]
    pub fn clients(&self) -> Vec<(u64, u32)> {
        let rooms = self.spread.rooms(self.connections, self.rooms);
        (0..self.connections)
            .zip(rooms)
            .filter(|(client, _)| client % self.workers == self.worker)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(spread: Spread, clients: u64, rooms: u32) -> Vec<usize> {
        let of = spread.rooms(clients, rooms);
        assert_eq!(of.len() as u64, clients);
        (0..rooms)
            .map(|room| of.iter().filter(|&&r| r == room).count())
            .collect()
    }

    #[test]
    fn clients_spread_as_asked() {
        assert_eq!(counts(Spread::Even, 10, 4), [3, 3, 2, 2]);
        assert_eq!(counts(Spread::Hot(0.5), 10, 6), [5, 1, 1, 1, 1, 1]);
        assert_eq!(counts(Spread::Hot(0.5), 3, 1), [3]);
        assert_eq!(counts(Spread::Zipf, 11, 3), [6, 3, 2]);
        assert_eq!(counts(Spread::Zipf, 1_100, 3), [600, 300, 200]);
    }
}

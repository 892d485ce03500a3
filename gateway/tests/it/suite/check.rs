//! The question after each fault: for every client, ids received equal ids acknowledged, in order, none twice; and a
//! `stream.reset` only where something is gone.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use super::fault::{Effect, Fault};
use super::ledger::{Id, number_of, parse_id};
use super::report::Line;
use super::world::{Room, SLOW, SLOW_READER, World};
use crate::support::redis::{ask, key};
use crate::support::{DEADLINE, POLL};

/// Entries of the stream that are read beside those of this round.
const SLACK: u64 = 200;

impl World {
    /// The newest entries of a room's stream: ids and numbers.
    async fn stream(&self, room: &Room) -> Option<BTreeMap<Id, u64>> {
        let node = self.deployment.primary(&room.name).await;
        let count = room.ledger.book().attempted() - room.attempted + SLACK;
        let words = [
            "XREVRANGE",
            &key(&room.name),
            "+",
            "-",
            "COUNT",
            &count.to_string(),
        ];
        let address = self.deployment.nodes()[node].server.address;
        let entries: Vec<(String, HashMap<String, String>)> =
            ask(address, &words, Duration::from_secs(5)).await.ok()?;
        let entry = |(id, fields): (String, HashMap<String, String>)| {
            Some((parse_id(&id)?, number_of(fields.get("data")?)?))
        };
        Some(entries.into_iter().filter_map(entry).collect())
    }

    /// Waits until all clients of a room are at the end of its stream; gives the stream, and who is not.
    async fn arrive(&self, room: &Room) -> (BTreeMap<Id, u64>, Vec<String>) {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let stream = self.stream(room).await.unwrap_or_default();
            let end = stream.keys().next_back().copied();
            let behind: Vec<String> = room
                .watchers
                .iter()
                .enumerate()
                .filter(|(_, watcher)| Some(watcher.view().last) != end)
                .map(|(number, watcher)| {
                    // Not under the view's lock: a client takes the two in the other order.
                    let last = watcher.view().last;
                    format!(
                        "client {number} of {} never comes to {end:?}, it is at {last:?}: {}",
                        room.name,
                        watcher.client.summary()
                    )
                })
                .collect();
            if behind.is_empty() || Instant::now() > deadline {
                return (stream, behind);
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Publishers are quiet, Redis is well.
    pub async fn check(&mut self, fault: Fault, effect: &Effect, healed: Instant) -> Line {
        let mut line = Line {
            fault,
            events: 0,
            clients: 0,
            lost: 0,
            repeated: 0,
            resets: 0,
            false_resets: 0,
            gone: 0,
            longest_gap: Duration::ZERO,
            slowest_after: Duration::ZERO,
            slowest: String::new(),
            churn: 0.0,
            problems: Vec::new(),
        };
        let mut streams = Vec::new();
        for room in &self.rooms {
            let (stream, behind) = self.arrive(room).await;
            line.problems.extend(behind);
            streams.push(stream);
        }
        for (number, (room, stream)) in self.rooms.iter_mut().zip(&streams).enumerate() {
            check_room(number, room, stream, effect, healed, &mut line);
        }
        line
    }
}

fn check_room(
    number: usize,
    room: &mut Room,
    stream: &BTreeMap<Id, u64>,
    effect: &Effect,
    healed: Instant,
    line: &mut Line,
) {
    let name = &room.name;
    let mut book = room.ledger.book();
    line.events += book.acked.len();
    // What Redis acknowledged, or gave to somebody, and has no more.
    let mut gone: BTreeMap<Id, u64> = BTreeMap::new();
    for (id, (event, _)) in &book.acked {
        if stream.get(id) != Some(event) {
            gone.insert(*id, *event);
        }
    }
    let acked_and_gone = gone.len();
    for watcher in &room.watchers {
        for (id, event, _) in &watcher.view().fresh {
            if stream.get(id) != Some(event) {
                gone.insert(*id, *event);
            }
        }
    }
    line.gone += acked_and_gone;
    let destroyed = effect.destroyed.contains(&number);
    if acked_and_gone > 0 && !destroyed && !effect.may_lose {
        line.problems.push(format!(
            "{acked_and_gone} acknowledged events of {name} are gone from Redis, and the fault does not explain it"
        ));
    }

    for (turn, watcher) in room.watchers.iter_mut().enumerate() {
        let who = format!("client {turn} of {name}");
        let view = watcher.view.lock().unwrap();
        line.clients += 1;
        line.repeated += view.repeated.len();
        line.longest_gap = line.longest_gap.max(view.longest_gap);
        // No promise holds for a client that moves between two primaries' nodes with an id that both gave.
        let mut is_misled = false;
        for (id, event, _) in &view.fresh {
            if let Some(other) = stream.get(id).filter(|other| *other != event) {
                line.problems.extend(book.twins_of(*id, *event, *other));
                is_misled |= watcher.wanders && view.arrivals.iter().any(|(_, at)| at == id);
            }
        }
        let repeated = view.repeated.iter().map(|(_, problem)| problem);
        let repeated = repeated.filter(|_| !is_misled);
        let problems = view.problems.iter().chain(repeated);
        line.problems
            .extend(problems.map(|problem| format!("{who}: {problem}")));

        if let Some((connection, ..)) = view.repeated.first() {
            let place = |id: Id| (id, stream.get(&id), gone.get(&id));
            let near = view.arrivals.iter();
            let near = near.filter(|(at, _)| at.abs_diff(*connection) < 3);
            let arrivals: Vec<_> = near.map(|(at, id)| (at, place(*id))).collect();
            let resumed: Vec<_> = view
                .resets
                .iter()
                .filter_map(|reset| reset.through)
                .map(place)
                .collect();
            println!(
                "  {who} was given {} twice on connection {connection}; connections began at (id, its event in Redis, one that is gone) {arrivals:?}, resets went on at {resumed:?}",
                view.repeated.len()
            );
        }
        for (id, event, _) in &view.fresh {
            if *event > book.attempted() {
                line.problems
                    .push(format!("{who}: event {event} was never published"));
            }
            if book.ids.get(event).is_some_and(|acked| acked != id) {
                line.problems.push(format!(
                    "{who}: event {event} came as {id:?} and was acknowledged as {:?}",
                    book.ids[event]
                ));
            }
        }

        let told = |id: &Id| view.resets.iter().any(|reset| reset.covers(*id));
        let expected = stream.iter().chain(&gone);
        let missing: Vec<(Id, u64)> = expected
            .filter(|(_, event)| !view.received.contains_key(event))
            .filter(|(_, event)| !watcher.settled.contains(event))
            .map(|(id, event)| (*id, *event))
            .collect();
        let mut lost = Vec::new();
        for (id, event) in missing {
            watcher.settled.insert(event);
            // What Redis lost before a gateway saw it cannot be told; nor can two events that two primaries gave one id.
            let unknowable = gone.contains_key(&id) && effect.may_lose;
            if !told(&id) && !unknowable {
                lost.push((id, event));
            }
        }
        line.lost += lost.len();
        if !lost.is_empty() && !is_misled {
            let kept = lost
                .iter()
                .filter(|(id, _)| stream.contains_key(id))
                .count();
            let first = lost[0].0;
            let near = |events: &BTreeMap<Id, u64>| {
                let before = events.range(..first).rev().take(3);
                let after = events.range(first..).take(3);
                before
                    .chain(after)
                    .map(|(id, event)| (*id, *event))
                    .collect::<BTreeMap<_, _>>()
            };
            lost.truncate(5);
            line.problems.push(format!(
                "{who}: lacks events without a word, {kept} of them still in Redis, such as {lost:?}; resets: {:?}; near the first are in Redis {:?}, and gone from it {:?}",
                view.resets, near(stream), near(&gone)
            ));
        }

        let explained = if destroyed {
            effect.only.is_none_or(|only| only == turn) || watcher.wanders
        } else {
            !gone.is_empty() && effect.may_lose
        };
        if explained {
            line.resets += view.resets.len();
        } else if !view.resets.is_empty() {
            line.false_resets += view.resets.len();
            line.problems.push(format!(
                "{who}: reset where nothing is gone: {:?}",
                view.resets
            ));
        }

        let mut late: Vec<(u64, Duration)> = Vec::new();
        for (event, acked_at) in book.acked.values().filter(|(_, at)| *at >= healed) {
            if let Some((_, at)) = view.received.get(event) {
                let delay = at.saturating_duration_since(*acked_at);
                if delay > SLOW {
                    late.push((*event, delay));
                }
                // What a slow reader has not taken is on its way.
                if turn != SLOW_READER && delay > line.slowest_after {
                    line.slowest_after = delay;
                    line.slowest = format!(
                        "{who}: event {event}, as {:?}, on connection {}; resets: {:?}",
                        book.ids.get(event),
                        watcher.client.summary(),
                        view.resets
                    );
                }
            }
        }
        if let (Some(first), Some(last)) = (late.first(), late.last()) {
            println!(
                "  {who}: {} came late, from {first:?} to {last:?}",
                late.len()
            );
        }
        drop(view);
    }
    book.acked.clear();
    line.problems.append(&mut book.twins);
}

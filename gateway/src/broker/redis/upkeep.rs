//! What is done in the background: the probe, the verification of rooms, and the trimming of rooms
//! that something else than the publish function writes to.

use std::collections::HashSet;

use protocol::keys::slot;
use protocol::publish::VERSION_FUNCTION_NAME;
use protocol::servers::Address;
use protocol::{EventId, RoomName};
use redis::Value;

use super::commands::{Away, Refusal, To, check, text};
use super::library;
use super::publish::seconds;
use super::rooms::Handle;
use super::{Purpose, Shared};
use crate::broker::Retention;

/// Rooms that one batch verifies.
pub(super) const BATCH: usize = 128;

/// A room, and up to where it is known.
#[derive(Debug, Clone)]
pub(super) struct Suspect {
    pub(super) handle: Handle,
    pub(super) room: RoomName,
    pub(super) head: EventId,
}

/// Gives those of `rooms` that have something after their head, or no stream any more.
pub(super) async fn verify(shared: &Shared, rooms: Vec<Suspect>) -> Result<Vec<Suspect>, Away> {
    if !shared.is_sharded()
        && let Some(found) = verify_together(shared, &rooms).await?
    {
        return Ok(found);
    }
    let parts = rooms.iter().map(|suspect| {
        let key = shared.keys.room(&suspect.room);
        let mut news = redis::cmd("XREAD");
        news.arg("COUNT").arg(1).arg("STREAMS");
        news.arg(&key).arg(suspect.head.to_string());
        let mut exists = redis::cmd("EXISTS");
        exists.arg(&key);
        (slot(key.as_bytes()), vec![news, exists])
    });
    let answers = shared.commands.run_each(Purpose::Verify, parts.collect());
    let mut found = Vec::new();
    for (suspect, answer) in rooms.into_iter().zip(answers.await) {
        // What cannot be asked now is asked in the next pass.
        let Ok(answer) = answer else { continue };
        let [news, exists] = &answer[..] else {
            continue;
        };
        let had = suspect.head != EventId::ZERO;
        let open = match check(news.clone()) {
            Ok(Value::Nil) => had && *exists == Value::Int(0),
            Ok(_) => true,
            Err(Refusal::WrongType) => had,
            Err(_) => false,
        };
        if open {
            found.push(suspect);
        }
    }
    Ok(found)
}

/// All rooms with two commands, which costs the server a quarter: streams without news are passed
/// over. `None` where that does not say which room it is.
async fn verify_together(shared: &Shared, rooms: &[Suspect]) -> Result<Option<Vec<Suspect>>, Away> {
    let keys: Vec<String> = rooms
        .iter()
        .map(|suspect| shared.keys.room(&suspect.room))
        .collect();
    let mut news = redis::cmd("XREAD");
    news.arg("COUNT").arg(1).arg("STREAMS").arg(&keys);
    let mut exist = redis::cmd("EXISTS");
    let mut expected = 0;
    for (suspect, key) in rooms.iter().zip(&keys) {
        news.arg(suspect.head.to_string());
        if suspect.head != EventId::ZERO {
            exist.arg(key);
            expected += 1;
        }
    }
    let mut commands = vec![news];
    if expected > 0 {
        commands.push(exist);
    }
    let to = To::Slot(0);
    let answers = shared
        .commands
        .run(&to, Purpose::Verify, commands, true)
        .await?;
    let mut answers = answers.into_iter();
    let streams = match answers.next().map(check) {
        Some(Ok(Value::Array(streams))) => streams,
        Some(Ok(Value::Nil)) => Vec::new(),
        _ => return Ok(None),
    };
    if expected > 0 && answers.next() != Some(Value::Int(expected)) {
        return Ok(None);
    }
    let with_news: HashSet<&[u8]> = streams
        .iter()
        .filter_map(|stream| match stream {
            Value::Array(parts) => parts.first().and_then(text),
            _ => None,
        })
        .collect();
    let found = rooms.iter().zip(&keys);
    let found = found.filter(|(_, key)| with_news.contains(key.as_bytes()));
    Ok(Some(found.map(|(suspect, _)| suspect.clone()).collect()))
}

/// What a probe found out besides coming back.
#[derive(Debug, Default)]
pub(super) struct Probed {
    /// Why commands fail.
    pub(super) commands: Option<String>,
    /// Why the library is not there.
    pub(super) library: Option<String>,
    /// The server is a replica: the primary has to be found anew.
    pub(super) is_replica: bool,
    /// Slots that are on their way to another server.
    pub(super) moving: Vec<u16>,
}

/// Publishes `nonce` to this node's own probe channel at a server, sees to the function library, and
/// looks whether the server still is what it was.
pub(super) async fn probe(shared: &Shared, server: &Address, channel: &str, nonce: &str) -> Probed {
    let mut publish = redis::cmd(shared.publish_command());
    publish.arg(channel).arg(nonce);
    let mut version = redis::cmd("FCALL_RO");
    version.arg(VERSION_FUNCTION_NAME).arg(0);
    let state = if shared.is_sharded() {
        redis::cmd("CLUSTER").arg("NODES").take()
    } else {
        redis::cmd("ROLE")
    };
    let to = To::Server(server.clone());
    let commands = vec![publish, version, state];
    let answers = match shared
        .commands
        .run(&to, Purpose::Probe, commands, true)
        .await
    {
        Ok(answers) => answers,
        Err(away) => {
            return Probed {
                commands: Some(away.0),
                ..Probed::default()
            };
        }
    };
    let mut answers = answers.into_iter().map(check);
    let mut probed = Probed::default();
    if let Some(Err(refusal)) = answers.next() {
        probed.commands = Some(refusal.to_string());
    }
    let found = answers.next();
    match answers.next() {
        Some(Ok(Value::Array(role))) => {
            probed.is_replica = role.first().and_then(text) == Some(b"slave");
        }
        Some(Ok(nodes)) => {
            let nodes = text(&nodes)
                .map(String::from_utf8_lossy)
                .unwrap_or_default();
            let own = nodes.lines().find(|line| line.contains("myself"));
            probed.moving = own.map(moving).unwrap_or_default();
        }
        // Not allowed: then it is found out by what fails.
        _ => {}
    }
    probed.library = match found {
        // No functions before Redis 7: the script does the same.
        Some(Err(Refusal::Forbidden(text))) if text.contains("unknown command") => None,
        // Nothing can be loaded into a replica, and nothing has to be.
        Some(_) if probed.is_replica => None,
        Some(found) => {
            let loaded = library::put_in_place(shared, &to, found).await;
            loaded.err().map(|error| error.to_string())
        }
        None => None,
    };
    probed
}

/// The slots that a node gives away: `[77->-292f8b36...]` in its line of `CLUSTER NODES`.
fn moving(line: &str) -> Vec<u16> {
    line.split(' ')
        .filter_map(|word| word.strip_prefix('[')?.split_once("->-")?.0.parse().ok())
        .collect()
}

/// What holds one room to its limits.
const TRIM: &str = include_str!("upkeep.lua");

/// Trims rooms that nobody else trims, by length and age, and lets them expire; a longer expiry that a publisher has
/// set stays.
pub(super) async fn trim(shared: &Shared, rooms: Vec<RoomName>) {
    for rooms in rooms.chunks(BATCH) {
        let mut parts = Vec::new();
        for room in rooms {
            let kept = shared.config.retention.of(room);
            if kept == Retention::default() {
                continue;
            }
            let key = shared.keys.room(room);
            let mut trim = redis::cmd("EVAL");
            trim.arg(TRIM).arg(1).arg(&key);
            trim.arg(kept.max_len)
                .arg(seconds(kept.max_age))
                .arg(seconds(kept.expire));
            parts.push((slot(key.as_bytes()), vec![trim]));
        }
        for outcome in shared.commands.run_each(Purpose::Upkeep, parts).await {
            // A room whose server is away is trimmed after its next event.
            for refusal in outcome
                .unwrap_or_default()
                .into_iter()
                .filter_map(|answer| check(answer).err())
            {
                tracing::debug!(%refusal, "A room was not trimmed.");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_that_are_given_away_are_found() {
        let line = "e7d1 127.0.0.1:30001@31001 myself,master - 0 0 1 connected 0-5460 [77->-292f] [93-<-292f]";
        assert_eq!(moving(line), [77]);
        assert!(moving("e7d1 127.0.0.1:30001 myself,slave 07c3 0 0 1 connected").is_empty());
    }
}

//! What is done in the background: the probe, the verification of rooms, and the trimming of rooms
//! that something else than the publish function writes to.

use protocol::publish::VERSION_FUNCTION_NAME;
use protocol::{EventId, RoomName};
use redis::Value;

use super::commands::{Away, Refusal, check};
use super::library;
use super::publish::seconds;
use super::rooms::Handle;
use super::{Purpose, Shared};

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
    let mut commands = Vec::with_capacity(rooms.len() * 2);
    for suspect in &rooms {
        let key = shared.keys.room(&suspect.room);
        let mut news = redis::cmd("XREAD");
        news.arg("COUNT").arg(1).arg("STREAMS");
        news.arg(&key).arg(suspect.head.to_string());
        let mut exists = redis::cmd("EXISTS");
        exists.arg(&key);
        commands.extend([news, exists]);
    }
    let answers = shared.commands.run(Purpose::Verify, commands, true).await?;
    let mut answers = answers.into_iter();
    let mut found = Vec::new();
    for suspect in rooms {
        let (Some(news), Some(exists)) = (answers.next(), answers.next()) else {
            break;
        };
        let had = suspect.head != EventId::ZERO;
        let open = match check(news) {
            Ok(Value::Nil) => had && exists == Value::Int(0),
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

/// What a probe found out besides coming back.
#[derive(Debug)]
pub(super) struct Probed {
    /// Why commands fail.
    pub(super) commands: Option<String>,
    /// Why the library is not there.
    pub(super) library: Option<String>,
}

/// Publishes `nonce` to this node's own probe channel, and sees to the function library.
pub(super) async fn probe(shared: &Shared, nonce: &str) -> Probed {
    let mut publish = redis::cmd("PUBLISH");
    publish
        .arg(shared.keys.probe(&shared.config.node))
        .arg(nonce);
    let mut version = redis::cmd("FCALL_RO");
    version.arg(VERSION_FUNCTION_NAME).arg(0);
    let failed = |reason: String| Probed {
        commands: Some(reason),
        library: None,
    };
    let answers = match shared
        .commands
        .run(Purpose::Probe, vec![publish, version], true)
        .await
    {
        Ok(answers) => answers,
        Err(away) => return failed(away.0),
    };
    let mut answers = answers.into_iter().map(check);
    let commands = match answers.next() {
        Some(Err(refusal)) => Some(format!("{refusal:?}")),
        _ => None,
    };
    let library = match answers.next() {
        // No functions before Redis 7: the script does the same.
        Some(Err(Refusal::Forbidden(text))) if text.contains("unknown command") => None,
        Some(found) => library::put_in_place(shared, found)
            .await
            .err()
            .map(|e| e.to_string()),
        None => None,
    };
    Probed { commands, library }
}

/// Trims rooms that nobody else trims, and lets them expire.
pub(super) async fn trim(shared: &Shared, rooms: Vec<RoomName>) -> Result<(), Away> {
    let retention = shared.config.retention;
    for rooms in rooms.chunks(BATCH) {
        let mut commands = Vec::new();
        for room in rooms {
            let key = shared.keys.room(room);
            if retention.max_len > 0 {
                let mut trim = redis::cmd("XTRIM");
                trim.arg(&key).arg("MAXLEN").arg("~").arg(retention.max_len);
                commands.push(trim);
            }
            if !retention.expire.is_zero() {
                let mut expire = redis::cmd("EXPIRE");
                expire.arg(&key).arg(seconds(retention.expire));
                commands.push(expire);
            }
        }
        if !commands.is_empty() {
            shared.commands.run(Purpose::Upkeep, commands, true).await?;
        }
    }
    Ok(())
}

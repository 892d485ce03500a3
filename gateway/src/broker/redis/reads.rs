//! Reads of streams: which commands, and what their answers say.
//!
//! Facts and entries are read in one transaction, so that they belong to the same instant: a trim
//! between the two would pass for continuity.

use bytes::Bytes;
use protocol::{EventError, EventId, RoomName, envelope};
use redis::{Cmd, Value};

use super::commands::{Away, Refusal, check, text};
use super::{Purpose, Shared};
use crate::broker::sequencer::{BRANCH, Read, Tail};
use crate::hub::{History, HistoryQuery, Item};

/// Entries per page of a range read for live rooms.
pub(super) const PAGE: usize = 256;

/// Why a read gave nothing.
#[derive(Debug, Clone)]
pub(super) enum ReadError {
    /// The server could not be asked.
    Away(String),
    /// The key holds another type.
    WrongType,
}

impl From<Away> for ReadError {
    fn from(away: Away) -> Self {
        Self::Away(away.0)
    }
}

impl From<Refusal> for ReadError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::WrongType => Self::WrongType,
            Refusal::Unknown => Self::Away("a function is missing".into()),
            Refusal::InMotion => Self::Away(refusal.to_string()),
            Refusal::Sse(text) | Refusal::Forbidden(text) | Refusal::Other(text) => {
                Self::Away(text)
            }
        }
    }
}

/// Reads what [`Read`] asks for.
pub(super) async fn tail(shared: &Shared, room: &RoomName, read: Read) -> Result<Tail, ReadError> {
    let key = shared.keys.room(room);
    let limit = PAGE;
    let ranges = match read {
        Read::Head => Vec::new(),
        Read::After(after) => vec![range_after(&key, after, limit)],
        Read::Around(id) => {
            let mut before = redis::cmd("XREVRANGE");
            before.arg(&key).arg(id.to_string()).arg("-");
            before.arg("COUNT").arg(1);
            vec![before, range_after(&key, id, BRANCH)]
        }
    };
    let Some((info, entries)) = transaction(shared, &key, ranges).await? else {
        return Ok(Tail::default());
    };
    let mut tail = Tail {
        exists: true,
        added: info.added,
        length: info.length,
        deleted: info.deleted,
        anchor: None,
        history: info.history(),
    };
    match read {
        Read::Head => {}
        Read::After(after) => {
            let items = items(shared, room, entries)?;
            tail.anchor = items
                .first()
                .filter(|item| item.id() == Some(after))
                .and_then(Item::mark);
            fill_after(&mut tail.history, items, after, limit);
        }
        Read::Around(_) => {
            let mut items = items(shared, room, entries)?;
            // The one itself ends the first range and begins the second.
            items.dedup_by_key(|item| item.id());
            tail.history.items = items;
        }
    }
    Ok(tail)
}

/// Reads a part of a room's history.
pub(super) async fn history(
    shared: &Shared,
    room: &RoomName,
    query: HistoryQuery,
) -> Result<History, ReadError> {
    let key = shared.keys.room(room);
    let range = match query {
        HistoryQuery::Newest { limit } => {
            let mut range = redis::cmd("XREVRANGE");
            range.arg(&key).arg("+").arg("-");
            range.arg("COUNT").arg(limit.saturating_add(1));
            range
        }
        HistoryQuery::After { after, limit } => range_after(&key, after, limit),
    };
    let Some((info, entries)) = transaction(shared, &key, vec![range]).await? else {
        return Ok(History::default());
    };
    let mut history = info.history();
    let mut items = items(shared, room, entries)?;
    match query {
        HistoryQuery::Newest { limit } => {
            history.more = items.len() > limit;
            items.truncate(limit);
            items.reverse();
            history.items = items;
        }
        HistoryQuery::After { after, limit } => fill_after(&mut history, items, after, limit),
    }
    Ok(history)
}

/// From `after` itself, one more than asked, to know whether there is more.
fn range_after(key: &str, after: EventId, limit: usize) -> Cmd {
    let mut range = redis::cmd("XRANGE");
    range.arg(key).arg(after.to_string()).arg("+");
    range.arg("COUNT").arg(limit.saturating_add(2));
    range
}

fn fill_after(history: &mut History, mut items: Vec<Item>, after: EventId, limit: usize) {
    if items.first().and_then(Item::id) == Some(after) {
        history.anchor_found = true;
        items.remove(0);
    }
    history.more = items.len() > limit;
    items.truncate(limit);
    history.items = items;
}

/// The entries of all ranges, one after the other; `None` where there is no such key.
async fn transaction(
    shared: &Shared,
    key: &str,
    ranges: Vec<Cmd>,
) -> Result<Option<(Info, Vec<Value>)>, ReadError> {
    let mut info = redis::cmd("XINFO");
    info.arg("STREAM").arg(key);
    let mut commands = vec![redis::cmd("MULTI"), info];
    commands.extend(ranges);
    commands.push(redis::cmd("EXEC"));
    shared.metrics.range_reads.inc();
    let to = shared.at(key);
    let answers = shared
        .commands
        .run(&to, Purpose::Read, commands, true)
        .await?;
    let answer = answers.into_iter().next_back().unwrap_or(Value::Nil);
    let Value::Array(parts) = check(answer)? else {
        return Err(unreadable());
    };
    let mut parts = parts.into_iter();
    let info = match parts.next() {
        Some(Value::ServerError(error)) if error.details() == Some("no such key") => {
            return Ok(None);
        }
        Some(value) => Info::parse(&check(value)?).ok_or_else(unreadable)?,
        None => return Err(unreadable()),
    };
    let mut entries = Vec::new();
    for range in parts {
        if let Value::Array(list) = check(range)? {
            entries.extend(list);
        }
    }
    Ok(Some((info, entries)))
}

fn unreadable() -> ReadError {
    ReadError::Away("an answer could not be understood".into())
}

/// What `XINFO STREAM` says.
#[derive(Debug, Default)]
pub(super) struct Info {
    /// Entries kept.
    pub(super) length: u64,
    /// The last generated id.
    pub(super) last_id: EventId,
    /// Entries ever added (Redis 7).
    pub(super) added: Option<u64>,
    /// The oldest kept entry.
    pub(super) oldest: Option<EventId>,
    /// The highest id that was ever deleted by `XDEL` (Redis 7).
    deleted: Option<EventId>,
    oldest_is_first: bool,
}

impl Info {
    /// Reads the answer to `XINFO STREAM`.
    pub(super) fn parse(value: &Value) -> Option<Self> {
        let mut info = Self::default();
        let pairs: Vec<(&Value, &Value)> = match value {
            Value::Array(list) => list
                .chunks_exact(2)
                .map(|pair| (&pair[0], &pair[1]))
                .collect(),
            Value::Map(map) => map.iter().map(|(name, value)| (name, value)).collect(),
            _ => return None,
        };
        for (name, value) in pairs {
            match (text(name)?, value) {
                (b"length", Value::Int(n)) => info.length = u64::try_from(*n).ok()?,
                (b"entries-added", Value::Int(n)) => info.added = u64::try_from(*n).ok(),
                (b"last-generated-id", value) => {
                    info.last_id = EventId::parse(text(value)?).ok()?
                }
                (b"max-deleted-entry-id", value) => {
                    info.deleted = EventId::parse(text(value)?).ok();
                }
                (b"first-entry", Value::Array(entry)) => {
                    info.oldest = EventId::parse(text(entry.first()?)?).ok();
                    info.oldest_is_first = entry.get(1).is_some_and(names_no_predecessor);
                }
                _ => {}
            }
        }
        Some(info)
    }

    /// Nothing before the oldest entry was ever stored.
    fn is_whole(&self) -> bool {
        match self.added {
            Some(added) => added == self.length,
            None => self.oldest_is_first,
        }
    }

    fn history(&self) -> History {
        History {
            last_id: self.last_id,
            oldest: self.oldest,
            from_start: self.is_whole() || self.last_id == EventId::ZERO,
            ..History::default()
        }
    }
}

fn names_no_predecessor(fields: &Value) -> bool {
    let Value::Array(fields) = fields else {
        return false;
    };
    fields
        .chunks_exact(2)
        .any(|pair| text(&pair[0]) == Some(b"prev") && text(&pair[1]) == Some(b"0-0"))
}

fn items(shared: &Shared, room: &RoomName, entries: Vec<Value>) -> Result<Vec<Item>, ReadError> {
    let mut items = Vec::with_capacity(entries.len());
    for entry in entries {
        items.push(item(shared, room, entry).ok_or_else(unreadable)?);
    }
    Ok(items)
}

fn item(shared: &Shared, room: &RoomName, entry: Value) -> Option<Item> {
    let Value::Array(parts) = entry else {
        return None;
    };
    let mut parts = parts.into_iter();
    let id = EventId::parse(text(&parts.next()?)?).ok()?;
    let mut fields = Vec::new();
    if let Some(Value::Array(list)) = parts.next() {
        let mut list = list.into_iter();
        while let (Some(name), Some(value)) = (list.next(), list.next()) {
            fields.push((bytes(name)?, bytes(value)?));
        }
    }
    Some(
        match envelope::from_entry(id, &fields, shared.config.max_bytes) {
            Ok(event) => Item::Event(event),
            Err(error) => {
                shared.skipped(room, id, &error);
                Item::Skipped(id)
            }
        },
    )
}

fn bytes(value: Value) -> Option<Bytes> {
    match value {
        Value::BulkString(bytes) => Some(bytes.into()),
        Value::SimpleString(text) => Some(text.into()),
        Value::Int(number) => Some(number.to_string().into()),
        _ => None,
    }
}

/// The word under which a skipped entry is counted.
pub(super) fn reason(error: &EventError) -> &'static str {
    match error {
        EventError::Reserved => "reserved_name",
        EventError::NameCharacter => "name_character",
        EventError::NameTooLong => "name_too_long",
        EventError::NotUtf8 => "not_utf8",
        EventError::TooLarge { .. } => "too_large",
    }
}

//! Disconnects: a stream `<prefix>disconnects` whose entries name users and rooms, such as
//! `XADD sse:disconnects MAXLEN '~' 100000 '*' user ann`. Every node reads it from as far back as permissions may be from, and
//! then looks for news four times a second: one request of two commands, whatever the number of streams.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use protocol::EventId;
use protocol::disconnects::MAX_ENTRIES;
use redis::Value;
use tokio::time::{Instant, MissedTickBehavior};
use tracing::{debug, warn};

use super::commands::{check, text};
use super::reads::Info;
use super::status::Trouble;
use super::{Purpose, Shared};
use crate::broker::{BrokerError, Follower};
use crate::hub::{Disconnect, Whom};

/// Between looks for news.
const POLL: Duration = Duration::from_millis(250);
/// Entries that one read brings.
const PAGE: usize = 1000;
/// Between trims of what is too old to matter.
const TRIM: Duration = Duration::from_secs(600);

/// Writes one; gives the id of its entry.
pub(super) async fn disconnect(shared: &Shared, whom: &Whom) -> Result<EventId, BrokerError> {
    let key = shared.keys.disconnects();
    let (kind, name) = whom.field();
    let mut add = redis::cmd("XADD");
    add.arg(&key).arg("MAXLEN").arg("~").arg(MAX_ENTRIES);
    add.arg("*").arg(kind).arg(name);
    let to = shared.at(&key);
    // Twice is as good as once.
    let answer = shared.commands.one(&to, Purpose::Upkeep, add, true).await?;
    let answer = check(answer)?;
    let id = text(&answer).and_then(|id| EventId::parse(id).ok());
    id.ok_or_else(|| BrokerError::Away("Redis answered XADD with something else".into()))
}

/// Tells `follower` of each, for as long as the runtime lives.
pub(super) async fn follow(shared: Arc<Shared>, follower: Follower) {
    let mut reader = Reader {
        last: None,
        told: false,
        lost: false,
    };
    let mut tick = tokio::time::interval(POLL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut trim = Instant::now();
    loop {
        tick.tick().await;
        let failed = reader.read(&shared, &follower).await.err();
        if failed.is_some() {
            // Whoever answers next may be another server, which has others than the last one had.
            reader.last = None;
        }
        // That Redis is away is told by others.
        let why = failed.and_then(|error| match error {
            BrokerError::Away(_) => None,
            error => Some(error.to_string()),
        });
        if let Some(why) = shared.status.note(Trouble::Disconnects, "", why) {
            warn!(why, "Disconnects cannot be read.");
        }
        if trim <= Instant::now() && reader.last.is_some() {
            trim = Instant::now() + TRIM;
            trim_old(&shared).await;
        }
    }
}

/// As far as the stream was read.
struct Reader {
    last: Option<EventId>,
    /// An entry was skipped, and that was told.
    told: bool,
    /// Entries that matter were trimmed, and that was told.
    lost: bool,
}

impl Reader {
    /// Reads what is new.
    async fn read(&mut self, shared: &Shared, follower: &Follower) -> Result<(), BrokerError> {
        let key = shared.keys.disconnects();
        loop {
            let last = self.last.unwrap_or_else(|| first(shared));
            let mut news = redis::cmd("XREAD");
            news.arg("COUNT").arg(PAGE).arg("STREAMS");
            news.arg(&key).arg(last.to_string());
            let mut info = redis::cmd("XINFO");
            info.arg("STREAM").arg(&key);
            let commands = vec![news, info];
            // Not repeated unseen: a connection that fails is a reason to read everything again.
            let answers = shared
                .commands
                .run(&shared.at(&key), Purpose::Upkeep, commands, false)
                .await?;
            let [news, info] = &answers[..] else {
                return Ok(());
            };
            let (orders, count, end) = self.orders(&check(news.clone()).map_err(refused)?);
            self.last = Some(end.unwrap_or(last));
            if !orders.is_empty() {
                follower(orders);
            }
            if count < PAGE {
                // Without a stream there is nothing, and so it is where its ids have gone back: it is read anew.
                let info = Info::parse(info).unwrap_or_default();
                if end.is_none() && info.last_id < last {
                    self.last = None;
                }
                self.tell_lost(&info, first(shared));
                return Ok(());
            }
        }
    }

    /// Tells once that the stream was trimmed to its length, and not for the age of its entries: nodes that start later do
    /// not know who was disconnected before its oldest one. `first` is the first moment that matters.
    fn tell_lost(&mut self, info: &Info, first: EventId) {
        let (Some(added), Some(oldest)) = (info.added, info.oldest) else {
            return;
        };
        let lost = info.length >= MAX_ENTRIES && added > info.length && oldest > first;
        if lost && !self.lost {
            warn!(
                entries = info.length,
                %oldest,
                "Redis keeps fewer disconnects than matter: tokens from before the older ones may count again, at most for tokens.max_age. A smaller tokens.max_age, or disconnecting rooms instead of their users, needs fewer."
            );
        }
        self.lost = lost;
    }

    /// What entries say, how many there are, and the last one's id.
    fn orders(&mut self, streams: &Value) -> (Vec<Disconnect>, usize, Option<EventId>) {
        let (mut orders, mut count, mut last) = (Vec::new(), 0, None);
        for entry in entries(streams) {
            count += 1;
            let Some((id, fields)) = entry_of(entry) else {
                continue;
            };
            last = Some(id);
            for pair in fields.chunks_exact(2) {
                let field = |value| text(value).and_then(|text| std::str::from_utf8(text).ok());
                let (kind, name) = (field(&pair[0]), field(&pair[1]));
                match Whom::read(kind.unwrap_or_default(), name.unwrap_or_default()) {
                    Ok(whom) => orders.push(Disconnect { whom, at_ms: id.ms }),
                    Err(error) if self.told => debug!(%id, %error, "A disconnect was skipped."),
                    Err(error) => {
                        self.told = true;
                        warn!(%id, %error, "A disconnect was skipped: an entry has user or room, and a name. Others are told at level debug.");
                    }
                }
            }
        }
        (orders, count, last)
    }
}

/// What a server does not allow is not mended by waiting.
fn refused(refusal: super::commands::Refusal) -> BrokerError {
    BrokerError::Refused(refusal.to_string())
}

/// The entries of the one stream that `XREAD` was asked for.
fn entries(streams: &Value) -> &[Value] {
    let stream = match streams {
        Value::Array(streams) => streams.first(),
        _ => None,
    };
    match stream {
        Some(Value::Array(parts)) => match parts.get(1) {
            Some(Value::Array(entries)) => entries,
            _ => &[],
        },
        _ => &[],
    }
}

fn entry_of(entry: &Value) -> Option<(EventId, &[Value])> {
    let Value::Array(parts) = entry else {
        return None;
    };
    let id = EventId::parse(text(parts.first()?)?).ok()?;
    match parts.get(1)? {
        Value::Array(fields) => Some((id, fields)),
        _ => None,
    }
}

/// The first moment that matters.
fn first(shared: &Shared) -> EventId {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let first = now
        .unwrap_or_default()
        .saturating_sub(shared.config.remember);
    EventId::new(u64::try_from(first.as_millis()).unwrap_or(0), 0)
}

async fn trim_old(shared: &Shared) {
    let key = shared.keys.disconnects();
    let mut trim = redis::cmd("XTRIM");
    trim.arg(&key).arg("MINID").arg("~");
    trim.arg(first(shared).to_string());
    let to = shared.at(&key);
    let answer = shared.commands.one(&to, Purpose::Upkeep, trim, true).await;
    if let Ok(Err(refusal)) = answer.map(check) {
        debug!(%refusal, "Old disconnects were not trimmed.");
    }
}

//! What a server has to have, and loses on a restart or a flush: the publish function and the
//! notification flags.

use std::sync::atomic::Ordering::Relaxed;

use protocol::publish::{LIBRARY_VERSION, VERSION_FUNCTION_NAME, library};
use redis::Value;

use super::commands::{Refusal, To, check, text};
use super::{Purpose, Shared};
use crate::broker::BrokerError;

/// Loads the function library, unless a later version is there.
///
/// # Errors
/// The server refuses, or is away.
pub(super) async fn load(shared: &Shared, to: &To) -> Result<(), BrokerError> {
    let mut version = redis::cmd("FCALL_RO");
    version.arg(VERSION_FUNCTION_NAME).arg(0);
    let found = check(
        shared
            .commands
            .one(to, Purpose::Upkeep, version, true)
            .await?,
    );
    put_in_place(shared, to, found).await
}

/// Acts on the answer to the question for the library's version.
///
/// # Errors
/// The server refuses, or is away.
pub(super) async fn put_in_place(
    shared: &Shared,
    to: &To,
    found: Result<Value, Refusal>,
) -> Result<(), BrokerError> {
    match found {
        Ok(Value::Int(version)) if version >= i64::from(LIBRARY_VERSION) => return Ok(()),
        Ok(_) | Err(Refusal::Unknown) => {}
        Err(refusal) => return Err(refusal.into()),
    }
    let mut load = redis::cmd("FUNCTION");
    load.arg("LOAD").arg("REPLACE").arg(library());
    check(shared.commands.one(to, Purpose::Upkeep, load, true).await?)?;
    tracing::info!(
        version = LIBRARY_VERSION,
        "the publish function was loaded into Redis"
    );
    Ok(())
}

/// Whether the server announces what happens to streams.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Notifications {
    /// It does, and did before.
    On,
    /// They were turned on now: what was written before was not announced.
    TurnedOn,
    /// It does not, and why not.
    Off(String),
}

/// Looks at the notification flags, and adds what is missing where that is wanted and allowed.
///
/// # Errors
/// The server is away.
pub(super) async fn notifications(shared: &Shared, to: &To) -> Result<Notifications, BrokerError> {
    const NAME: &str = "notify-keyspace-events";
    let mut get = redis::cmd("CONFIG");
    get.arg("GET").arg(NAME);
    let current = match check(shared.commands.one(to, Purpose::Upkeep, get, true).await?) {
        Ok(Value::Array(pair)) => pair.get(1).and_then(text).map(<[u8]>::to_vec),
        Ok(Value::Map(map)) => map
            .first()
            .and_then(|(_, value)| text(value))
            .map(<[u8]>::to_vec),
        Ok(_) => None,
        Err(Refusal::Forbidden(reason)) => return Ok(Notifications::Off(reason)),
        Err(refusal) => return Err(refusal.into()),
    };
    let current = String::from_utf8_lossy(&current.unwrap_or_default()).into_owned();
    let Some(flags) = protocol::keys::with_notifications(&current) else {
        return Ok(Notifications::On);
    };
    // The others only tell sooner that a room is gone; verification does so too.
    let is_enough = protocol::keys::announces_streams(&current);
    let may_set = shared.config.set_notifications && !shared.refuses_flags.load(Relaxed);
    if !may_set && is_enough {
        return Ok(Notifications::On);
    }
    if !shared.config.set_notifications {
        let reason = format!("{NAME} is '{current}' and redis.set_notifications is false");
        return Ok(Notifications::Off(reason));
    }
    let mut set = redis::cmd("CONFIG");
    set.arg("SET").arg(NAME).arg(&flags);
    match check(shared.commands.one(to, Purpose::Upkeep, set, true).await?) {
        Ok(_) => {
            tracing::info!(
                before = current,
                now = flags,
                "notify-keyspace-events was extended"
            );
            Ok(Notifications::TurnedOn)
        }
        Err(_) if is_enough => {
            shared.refuses_flags.store(true, Relaxed);
            Ok(Notifications::On)
        }
        Err(Refusal::Forbidden(reason) | Refusal::Other(reason)) => Ok(Notifications::Off(reason)),
        Err(refusal) => Err(refusal.into()),
    }
}

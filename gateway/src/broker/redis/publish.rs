//! Publishing: one call of the publish function, which is put in place where it is missing.

use std::time::Duration;

use protocol::publish::{self, PublishArgs};
use protocol::trace::TRACEPARENT;
use protocol::{EventId, RoomName};
use redis::{Cmd, Value};

use super::commands::{Away, Refusal, To, check, text};
use super::{Purpose, Shared};
use crate::broker::{BrokerError, NewEvent, Published};

impl From<Away> for BrokerError {
    fn from(away: Away) -> Self {
        Self::Away(away.0)
    }
}

impl From<Refusal> for BrokerError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::WrongType => Self::WrongType,
            Refusal::Sse(text) => Self::Refused(text),
            Refusal::Unknown => Self::Away("the publish function is missing".into()),
            Refusal::Forbidden(text) | Refusal::Other(text) => Self::Away(text),
        }
    }
}

/// Stores and delivers, or delivers only.
pub(super) async fn publish(
    shared: &Shared,
    room: &RoomName,
    event: &NewEvent,
) -> Result<Published, BrokerError> {
    let key = shared.keys.room(room);
    if event.ephemeral {
        return ephemeral(shared, &key, event).await;
    }
    let arguments = arguments(shared, event);
    // With an idempotency key a second attempt cannot store a second event.
    let repeatable = event.idempotency_key.is_some();
    let call = |word: &str, name: &str| {
        let mut call = redis::cmd(word);
        call.arg(name).arg(1).arg(&key);
        for argument in &arguments {
            call.arg(argument);
        }
        call
    };
    let function = call("FCALL", publish::FUNCTION_NAME);
    let to = shared.at(&key);
    match ask(shared, &to, function.clone(), repeatable).await? {
        Err(Refusal::Unknown) => {
            // A refused load is no reason to refuse the event: the script does the same.
            if super::library::load(shared, &to).await.is_ok() {
                match ask(shared, &to, function, repeatable).await? {
                    Err(Refusal::Unknown) => {}
                    answer => return published(&answer?),
                }
            }
        }
        Err(Refusal::Forbidden(_)) => {}
        answer => return published(&answer?),
    }
    let script = call("EVALSHA", publish::script_sha1());
    match ask(shared, &to, script, repeatable).await? {
        Err(Refusal::Unknown) => {
            let script = call("EVAL", publish::script());
            published(&ask(shared, &to, script, repeatable).await??)
        }
        answer => published(&answer?),
    }
}

async fn ask(
    shared: &Shared,
    to: &To,
    command: Cmd,
    repeatable: bool,
) -> Result<Result<Value, Refusal>, BrokerError> {
    Ok(check(
        shared
            .commands
            .one(to, Purpose::Publish, command, repeatable)
            .await?,
    ))
}

fn arguments(shared: &Shared, event: &NewEvent) -> Vec<Vec<u8>> {
    let retention = &shared.config.retention;
    let trace = event.trace.map(|trace| trace.to_string());
    let extensions: Vec<(&str, &str)> = trace
        .iter()
        .map(|trace| (TRACEPARENT, trace.as_str()))
        .collect();
    PublishArgs {
        event: &event.name,
        data: &event.data,
        max_len: Some(retention.max_len),
        max_age_seconds: Some(seconds(retention.max_age)),
        expire_seconds: Some(seconds(retention.expire)),
        once: event.idempotency_key.as_deref(),
        once_seconds: Some(seconds(shared.config.idempotency_window)),
        max_bytes: Some(shared.config.max_bytes),
        sharded: shared.is_sharded(),
        extensions: &extensions,
        full_reply: true,
    }
    .to_args()
}

/// Whole seconds; a part of one counts as one, because 0 means no limit.
pub(super) fn seconds(duration: Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
}

fn published(answer: &Value) -> Result<Published, BrokerError> {
    let unreadable = || BrokerError::Away("an answer could not be understood".into());
    let Value::Array(parts) = answer else {
        return Err(unreadable());
    };
    let id = parts.first().and_then(text).ok_or_else(unreadable)?;
    Ok(Published {
        id: Some(EventId::parse(id).map_err(|_| unreadable())?),
        repeat: matches!(parts.get(2), Some(Value::Int(1))),
    })
}

async fn ephemeral(shared: &Shared, key: &str, event: &NewEvent) -> Result<Published, BrokerError> {
    let data = String::from_utf8_lossy(&event.data);
    let name = String::from_utf8_lossy(&event.name);
    let mut envelope = if name.is_empty() {
        serde_json::json!({ "data": data })
    } else {
        serde_json::json!({ "event": name, "data": data })
    };
    if let Some(trace) = event.trace {
        envelope[TRACEPARENT] = trace.to_string().into();
    }
    let mut command = redis::cmd(shared.publish_command());
    command.arg(key).arg(envelope.to_string());
    check(
        shared
            .commands
            .one(&shared.at(key), Purpose::Publish, command, false)
            .await?,
    )?;
    Ok(Published {
        id: None,
        repeat: false,
    })
}

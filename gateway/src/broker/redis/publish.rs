//! Publishing: one call of the publish function, which is put in place where it is missing.

use std::time::{Duration, Instant};

use protocol::publish::{self, PublishArgs};
use protocol::trace::TRACEPARENT;
use protocol::{EventId, RoomName};
use redis::{Cmd, Value};

use super::commands::{Away, Refusal, To, check, text};
use super::{Purpose, Shared};
use crate::broker::{BrokerError, NewEvent, Published, Wait};

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
            Refusal::InMotion => Self::Away(refusal.to_string()),
            Refusal::Other(text) if text.starts_with("NOREPLICAS") => Self::Away(format!(
                "fewer replicas are connected to Redis than its min-replicas-to-write: {}",
                text.trim_end_matches('.')
            )),
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
    let to = shared.at(&key);
    let call = Call {
        shared,
        to: &to,
        key: &key,
        once: event
            .idempotency_key
            .as_ref()
            .map(|once| shared.keys.once(room, once)),
        arguments: arguments(shared, room, event),
        wait: event.wait,
    };
    let began = Instant::now();
    let mut published = call.store().await?;
    if let (true, Some(wait), Some(once)) = (published.repeat, event.wait, &call.once) {
        let wait = Wait {
            timeout: wait.timeout.saturating_sub(began.elapsed()),
            ..wait
        };
        published.replicas = Some(again(shared, &to, once, wait).await?);
    }
    Ok(published)
}

/// One publish, whichever way the function is called.
struct Call<'a> {
    shared: &'a Shared,
    to: &'a To,
    key: &'a str,
    /// What remembers the idempotency key. With one, a second attempt cannot store a second event.
    once: Option<String>,
    arguments: Vec<Vec<u8>>,
    wait: Option<Wait>,
}

impl Call<'_> {
    async fn store(&self) -> Result<Published, BrokerError> {
        match self.send("FCALL", publish::FUNCTION_NAME).await? {
            Err(Refusal::Unknown) => {
                // A refused load is no reason to refuse the event: the script does the same.
                if super::library::load(self.shared, self.to).await.is_ok() {
                    match self.send("FCALL", publish::FUNCTION_NAME).await? {
                        Err(Refusal::Unknown) => {}
                        answer => return Ok(answer?),
                    }
                }
            }
            Err(Refusal::Forbidden(_)) => {}
            answer => return Ok(answer?),
        }
        match self.send("EVALSHA", publish::script_sha1()).await? {
            Err(Refusal::Unknown) => Ok(self.send("EVAL", publish::script()).await??),
            answer => Ok(answer?),
        }
    }

    /// Names both keys, so that a server that does not have both, because their slot is on its way, says so.
    async fn send(
        &self,
        word: &str,
        name: &str,
    ) -> Result<Result<Published, Refusal>, BrokerError> {
        let Some(once) = &self.once else {
            return self.ask(word, name, &[self.key]).await;
        };
        match self.ask(word, name, &[self.key, once]).await? {
            Err(Refusal::InMotion) => {}
            answer => return Ok(answer),
        }
        // A key that is at neither end of the way will not be made at its beginning any more: the function looks for
        // it at the end of the way, or is refused.
        match self.remembered(once).await? {
            Some(id) => Ok(Ok(Published {
                id: Some(id),
                repeat: true,
                replicas: None,
            })),
            None => self.ask(word, name, &[self.key]).await,
        }
    }

    /// The id of the event that was stored with the idempotency key, wherever it is remembered.
    async fn remembered(&self, once: &str) -> Result<Option<EventId>, BrokerError> {
        let mut get = redis::cmd("GET");
        get.arg(once);
        let commands = &self.shared.commands;
        let answer = commands.one(self.to, Purpose::Publish, get, true).await?;
        match check(answer)? {
            Value::Nil => Ok(None),
            answer => Ok(Some(event_id(&answer)?)),
        }
    }

    async fn ask(
        &self,
        word: &str,
        name: &str,
        keys: &[&str],
    ) -> Result<Result<Published, Refusal>, BrokerError> {
        let mut call = redis::cmd(word);
        call.arg(name).arg(keys.len()).arg(keys);
        for argument in &self.arguments {
            call.arg(argument);
        }
        let (commands, repeatable) = (&self.shared.commands, self.once.is_some());
        let answers = match self.wait {
            None => {
                commands
                    .run(self.to, Purpose::Publish, vec![call], repeatable)
                    .await?
            }
            Some(wait) => {
                let batch = vec![call, wait_command(wait)];
                commands
                    .run_alone(self.to, Purpose::Publish, batch, repeatable)
                    .await?
            }
        };
        let mut answers = answers.into_iter();
        let stored = match check(answers.next().unwrap_or(Value::Nil)) {
            Ok(answer) => answer,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let mut published = published(&stored)?;
        published.replicas = answers.next().map(acknowledged);
        Ok(Ok(published))
    }
}

/// Waits for what an earlier publish stored. WAIT is about what its own connection wrote, and a repeat wrote nothing:
/// so something harmless is written behind the event, which replicas have only once they have the event.
async fn again(
    shared: &Shared,
    to: &To,
    once: &str,
    wait: Wait,
) -> Result<Result<u64, String>, BrokerError> {
    let mut renew = redis::cmd("EXPIRE");
    renew
        .arg(once)
        .arg(seconds(shared.config.idempotency_window));
    let batch = vec![renew, wait_command(wait)];
    let answers = shared
        .commands
        .run_alone(to, Purpose::Publish, batch, true)
        .await?;
    let mut answers = answers.into_iter();
    if let Some(Err(refusal)) = answers.next().map(check) {
        return Ok(Err(format!(
            "Redis does not let the gateway wait for what it stored before ({refusal})"
        )));
    }
    Ok(acknowledged(answers.next().unwrap_or_default()))
}

fn wait_command(wait: Wait) -> Cmd {
    let mut command = redis::cmd("WAIT");
    // A timeout of 0 would be for ever.
    let timeout = wait.timeout.as_millis().max(1).to_string();
    command.arg(wait.replicas).arg(timeout);
    command
}

/// What WAIT says: how many replicas have everything that the connection wrote.
fn acknowledged(answer: Value) -> Result<u64, String> {
    match check(answer) {
        Ok(Value::Int(replicas)) => Ok(u64::try_from(replicas).unwrap_or(0)),
        Ok(_) => Err("the answer to WAIT could not be understood".to_owned()),
        Err(refusal) => Err(format!("Redis does not let the gateway WAIT ({refusal})")),
    }
}

fn arguments(shared: &Shared, room: &RoomName, event: &NewEvent) -> Vec<Vec<u8>> {
    let retention = event.retention.over(shared.config.retention.of(room));
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
    let Value::Array(parts) = answer else {
        return Err(unreadable());
    };
    let id = parts.first().ok_or_else(unreadable)?;
    Ok(Published {
        id: Some(event_id(id)?),
        repeat: matches!(parts.get(2), Some(Value::Int(1))),
        replicas: None,
    })
}

fn event_id(answer: &Value) -> Result<EventId, BrokerError> {
    let id = text(answer).ok_or_else(unreadable)?;
    EventId::parse(id).map_err(|_| unreadable())
}

fn unreadable() -> BrokerError {
    BrokerError::Away("an answer could not be understood".into())
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
        replicas: None,
    })
}

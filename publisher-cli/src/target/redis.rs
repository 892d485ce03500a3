//! Publishing straight into Redis: one transaction per batch, at the primary of its room.

use std::time::Duration;

use protocol::publish::{DEFAULT_ONCE_SECONDS, FUNCTION_NAME, PublishArgs, script, script_sha1};
use protocol::servers::Address;
use protocol::trace::TRACEPARENT;
use protocol::{Keys, RoomName, keys};
use redis::{Cmd, Value};

use super::{Failure, FailureKind, Progress, Receipt, library};
use crate::cli;
use crate::input::Outgoing;

mod deployment;
mod refusal;
mod server;

pub use deployment::Deployment;
pub use refusal::Refusal;
pub use server::Server;

use server::Together;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// For answers that nothing is waited for.
pub const RESPONSE_TIMEOUT: Duration = Duration::from_secs(10);
/// Events that one transaction carries at most.
pub const BATCH: usize = 128;
/// Obstacles that are cleared away in one try: a function or script that is missing or not allowed, and a room that
/// is served elsewhere.
const OBSTACLES: usize = 8;

/// How the publish function is called on this server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Call {
    Function,
    /// The server has no functions, or does not allow them.
    Script,
}

/// Publishes into Redis.
#[derive(Debug)]
pub struct Publisher {
    deployment: Deployment,
    keys: Keys,
    call: Call,
    ephemeral: bool,
    replicas: Option<cli::Replicas>,
    max_len: Option<u64>,
    max_age_seconds: Option<u64>,
    expire_seconds: Option<u64>,
    once_seconds: u64,
    max_bytes: usize,
}

/// The server to ask for a room.
#[derive(Debug, Clone)]
struct Place {
    address: Address,
    /// Another server has named it, for this once.
    asking: bool,
    /// What remembers idempotency keys is named in each call, so that a server that does not have it says so.
    names_once: bool,
}

impl Publisher {
    /// As the flags say; nothing is sent yet.
    ///
    /// # Errors
    /// The address cannot be used, or a file.
    pub fn from_cli(cli: &cli::Publish) -> Result<Self, Failure> {
        let replicas = cli.replicas();
        let patience = RESPONSE_TIMEOUT + replicas.map_or(Duration::ZERO, |wait| wait.timeout);
        // A key must outlive the tries of the event that it protects.
        let tries = seconds(cli.server.retry_for + CONNECT_TIMEOUT + patience);
        Ok(Self {
            deployment: Deployment::new(&cli.server.config(), patience)?,
            keys: Keys::new(&cli.prefix()),
            call: Call::Function,
            ephemeral: cli.ephemeral,
            replicas,
            max_len: cli.max_len,
            max_age_seconds: cli.max_age.map(seconds),
            expire_seconds: cli.expire.map(seconds),
            once_seconds: DEFAULT_ONCE_SECONDS.max(2 * tries),
            max_bytes: cli.max_bytes,
        })
    }

    /// Tries once to publish events, in order.
    pub async fn publish(&mut self, room: &RoomName, batch: &[Outgoing]) -> Progress {
        let progress = match self.attempt(room, batch).await {
            Ok(progress) => progress,
            Err(failure) => failure.into(),
        };
        if let Some(failure) = &progress.failure
            && matches!(
                failure.kind,
                FailureKind::Unavailable | FailureKind::Unknown
            )
        {
            // Another server may be the primary by now.
            self.deployment.forget();
        }
        progress
    }

    async fn attempt(&mut self, room: &RoomName, batch: &[Outgoing]) -> Result<Progress, Failure> {
        let slot = keys::slot(self.keys.room(room).as_bytes());
        let mut named = None;
        for _ in 0..OBSTACLES {
            let place = match named.take() {
                Some(place) => place,
                None => Place {
                    address: self.deployment.primary_of(slot).await?,
                    asking: false,
                    names_once: true,
                },
            };
            let outcome = if self.ephemeral {
                self.ephemeral(&place, room, batch).await
            } else {
                self.store(&place, room, batch).await
            };
            match outcome {
                Ok(progress) => return Ok(progress),
                Err(Again::Failed(failure)) => return Err(failure),
                Err(Again::Now) => {}
                Err(Again::At(address)) => {
                    named = Some(Place {
                        address,
                        asking: true,
                        names_once: true,
                    });
                }
                Err(Again::Apart) => {
                    if !place.asking || !self.has_left(slot, room, batch).await? {
                        return Err(Refusal::Apart.into());
                    }
                    named = Some(Place {
                        names_once: false,
                        ..place
                    });
                }
            }
        }
        Err(Failure::unavailable(
            "the publish function disappears from Redis again and again, or the room moves",
        ))
    }

    async fn store(
        &mut self,
        place: &Place,
        room: &RoomName,
        batch: &[Outgoing],
    ) -> Result<Progress, Again> {
        let commands = batch
            .iter()
            .map(|event| self.command(place, room, event))
            .collect();
        let together = Together {
            asking: place.asking,
            commands,
            after: self.after(place, room, batch),
        };
        let server = self.deployment.server(&place.address);
        let (values, after) = server.ask_together(together).await.map_err(retried)?;
        let mut progress = Progress::default();
        for (value, event) in values.into_iter().zip(batch) {
            let error = match value {
                Value::ServerError(error) => error,
                value => match receipt(&value, event) {
                    Ok(receipt) => {
                        progress.receipts.push(receipt);
                        continue;
                    }
                    Err(failure) => {
                        progress.failure = Some(failure);
                        return Ok(progress);
                    }
                },
            };
            let refusal = self.deployment.server(&place.address).refusal(&error);
            match refusal {
                // The whole batch again: what was stored is recognised by its key.
                Refusal::Missing => self.provide(place).await?,
                Refusal::Moved { slot, to, once } => return Err(self.moved(slot, to, once)),
                Refusal::Apart if place.names_once => return Err(Again::Apart),
                Refusal::Apart => {
                    progress.failure = Some(Refusal::Apart.into());
                    return Ok(progress);
                }
                Refusal::Failure(failure) if failure.kind == FailureKind::Forbidden => {
                    // A user may have no right to functions, and one to scripts.
                    if self.call == Call::Script {
                        progress.failure = Some(failure);
                        return Ok(progress);
                    }
                    self.call = Call::Script;
                }
                Refusal::Failure(failure) => {
                    progress.failure = Some(failure);
                    return Ok(progress);
                }
                Refusal::NoFunctions => self.call = Call::Script,
            }
            return Err(Again::Now);
        }
        if let Some(wait) = self.replicas {
            // Where nothing could be written behind the events, WAIT would count everyone.
            let refused = after
                .iter()
                .find(|value| matches!(value, Value::ServerError(_)));
            let answer = refused.or(after.last()).cloned().unwrap_or_default();
            self.acknowledged(place, answer, wait, &mut progress);
        }
        Ok(progress)
    }

    /// What waits for replicas, after a batch.
    fn after(&self, place: &Place, room: &RoomName, batch: &[Outgoing]) -> Vec<Cmd> {
        let (Some(wait), Some(last)) = (self.replicas, batch.last()) else {
            return Vec::new();
        };
        // WAIT is about what this connection wrote, and a repeat writes nothing: this is written after what another
        // connection wrote then.
        let mut renew = redis::cmd("EXPIRE");
        renew
            .arg(self.keys.once(room, &last.key))
            .arg(self.once_seconds);
        let mut command = redis::cmd("WAIT");
        command.arg(wait.replicas).arg(wait.millis());
        let asking = place.asking.then(|| redis::cmd("ASKING"));
        asking.into_iter().chain([renew, command]).collect()
    }

    /// Whether the server that a slot leaves has none of these events' idempotency keys. Nobody makes them there any
    /// more: the function need only look for them where the slot goes to.
    async fn has_left(
        &mut self,
        slot: u16,
        room: &RoomName,
        batch: &[Outgoing],
    ) -> Result<bool, Failure> {
        let address = self.deployment.primary_of(slot).await?;
        let ask = |event: &Outgoing| {
            let mut get = redis::cmd("GET");
            get.arg(self.keys.once(room, &event.key));
            get
        };
        let commands = batch.iter().map(ask).collect();
        let server = self.deployment.server(&address);
        let answers = server.ask(commands).await.map_err(retried)?;
        Ok(answers.iter().all(|answer| {
            let Value::ServerError(error) = answer else {
                return false;
            };
            matches!(server.refusal(error), Refusal::Moved { once: true, .. })
        }))
    }

    /// Writes into the receipts what WAIT answered.
    fn acknowledged(
        &mut self,
        place: &Place,
        answer: Value,
        wait: cli::Replicas,
        progress: &mut Progress,
    ) {
        let (replicas, why) = match answer {
            Value::Int(replicas) => (u64::try_from(replicas).unwrap_or(0), None),
            Value::ServerError(error) => {
                let server = self.deployment.server(&place.address);
                let why = match server.refusal(&error) {
                    Refusal::NoFunctions => "this server has no WAIT".to_owned(),
                    refusal => Failure::from(refusal).sentence,
                };
                (0, Some(why))
            }
            _ => (
                0,
                Some("the answer to WAIT cannot be understood".to_owned()),
            ),
        };
        for receipt in &mut progress.receipts {
            receipt.replicas = Some(replicas);
        }
        progress.failure = wait.shortage(&progress.receipts, why.as_deref());
    }

    /// A server has named another one.
    fn moved(&mut self, slot: u16, to: Address, once: bool) -> Again {
        if once && self.deployment.is_cluster() {
            return Again::At(to);
        }
        match self.deployment.moved(slot, to) {
            Ok(()) => Again::Now,
            Err(failure) => Again::Failed(failure),
        }
    }

    /// Puts in place what a call did not find.
    async fn provide(&mut self, place: &Place) -> Result<(), Failure> {
        let server = self.deployment.server(&place.address);
        match self.call {
            Call::Function => {
                // A server that refuses the library may still run the script.
                if library::load(server).await?.is_err() {
                    self.call = Call::Script;
                }
                Ok(())
            }
            Call::Script => {
                let mut load = redis::cmd("SCRIPT");
                load.arg("LOAD").arg(script());
                match server.ask_one(load).await.map_err(retried)? {
                    Value::ServerError(error) => Err(server.refusal(&error).into()),
                    _ => Ok(()),
                }
            }
        }
    }

    fn command(&self, place: &Place, room: &RoomName, event: &Outgoing) -> Cmd {
        let trace = event.trace.parent().map(|trace| trace.to_string());
        let extensions: Vec<_> = trace.iter().map(|text| (TRACEPARENT, &text[..])).collect();
        let args = PublishArgs {
            event: event.event.as_bytes(),
            data: event.data.as_bytes(),
            max_len: self.max_len,
            max_age_seconds: self.max_age_seconds,
            expire_seconds: self.expire_seconds,
            once: Some(&event.key),
            once_seconds: Some(self.once_seconds),
            max_bytes: Some(self.max_bytes),
            sharded: self.deployment.is_cluster(),
            full_reply: true,
            extensions: &extensions,
        };
        let mut command = match self.call {
            Call::Function => redis::cmd("FCALL").arg(FUNCTION_NAME).take(),
            Call::Script => redis::cmd("EVALSHA").arg(script_sha1()).take(),
        };
        let mut keys = vec![self.keys.room(room)];
        if place.names_once {
            keys.push(self.keys.once(room, &event.key));
        }
        command.arg(keys.len()).arg(keys).arg(args.to_args());
        command
    }

    async fn ephemeral(
        &mut self,
        place: &Place,
        room: &RoomName,
        batch: &[Outgoing],
    ) -> Result<Progress, Again> {
        let key = self.keys.room(room);
        // Gateways hear a room's shard channel in a cluster, which PUBLISH does not reach.
        let word = match self.deployment.is_cluster() {
            true => "SPUBLISH",
            false => "PUBLISH",
        };
        let commands = batch.iter().map(|event| {
            let mut command = redis::cmd(word);
            let mut envelope = event.envelope();
            if let Some(trace) = event.trace.parent() {
                envelope[TRACEPARENT] = trace.to_string().into();
            }
            command.arg(&key).arg(envelope.to_string());
            command
        });
        let server = self.deployment.server(&place.address);
        let values = server.ask(commands.collect()).await?;
        let mut progress = Progress::default();
        for value in values {
            if let Value::ServerError(error) = value {
                match server.refusal(&error) {
                    // None was delivered: a batch is for one room.
                    Refusal::Moved { slot, to, once } if progress.receipts.is_empty() => {
                        return Err(self.moved(slot, to, once));
                    }
                    refusal => progress.failure = Some(refusal.into()),
                }
                break;
            }
            progress.receipts.push(Receipt::default());
        }
        Ok(progress)
    }
}

/// What stands in the way of a batch.
enum Again {
    /// It is out of the way.
    Now,
    /// This server is the one to ask, this once.
    At(Address),
    /// This server does not have all of the keys.
    Apart,
    Failed(Failure),
}

impl From<Failure> for Again {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// With idempotency keys it does not matter whether a lost batch was executed.
fn retried(failure: Failure) -> Failure {
    match failure.kind {
        FailureKind::Unknown => Failure::unavailable(failure.sentence),
        _ => failure,
    }
}

fn receipt(value: &Value, event: &Outgoing) -> Result<Receipt, Failure> {
    let unreadable = || Failure::other("an answer of the publish function cannot be understood");
    let Value::Array(parts) = value else {
        return Err(unreadable());
    };
    let Some(Value::BulkString(id)) = parts.first() else {
        return Err(unreadable());
    };
    Ok(Receipt {
        id: Some(String::from_utf8_lossy(id).into_owned()),
        // A random key was ours: it is known only from an earlier try of this event.
        repeat: event.own_key && matches!(parts.get(2), Some(Value::Int(1))),
        replicas: None,
    })
}

/// Whole seconds; a part of one counts as one, because 0 means no limit.
fn seconds(duration: Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
}

//! Publishing straight into Redis: one transaction per batch.

use std::time::{Duration, Instant};

use protocol::publish::{DEFAULT_ONCE_SECONDS, FUNCTION_NAME, PublishArgs, script, script_sha1};
use protocol::trace::TRACEPARENT;
use protocol::{Keys, RoomName};
use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::{
    AsyncConnectionConfig, Client, Cmd, ErrorKind, IntoConnectionInfo, Pipeline, RedisError,
    ServerError, Value,
};

use super::{Failure, FailureKind, Progress, Receipt, library};
use crate::cli;
use crate::input::Outgoing;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(10);
/// Events that one transaction carries at most.
pub const BATCH: usize = 128;
/// A connection that was idle for longer is checked before it is used: servers close idle ones.
const IDLE: Duration = Duration::from_secs(1);

/// One connection, which is opened when it is needed and given up when it fails: later answers
/// could belong to earlier commands.
#[derive(Debug)]
pub struct Connection {
    client: Client,
    open: Option<MultiplexedConnection>,
    used: Instant,
    address: String,
}

impl Connection {
    /// To this server; nothing is sent yet.
    ///
    /// # Errors
    /// The address cannot be used.
    pub fn new(url: &str) -> Result<Self, Failure> {
        let unusable =
            |error: RedisError| Failure::refused(format!("the Redis URL cannot be used: {error}"));
        if url.starts_with("rediss://") {
            return Err(Failure::refused(
                "rediss:// (TLS) is not supported: use redis:// or redis+unix://",
            ));
        }
        let info = url.into_connection_info().map_err(unusable)?;
        // Without the password, for messages.
        let address = info.addr().to_string();
        let info = info.set_tcp_settings(redis::io::tcp::TcpSettings::default().set_nodelay(true));
        Ok(Self {
            client: Client::open(info).map_err(unusable)?,
            open: None,
            used: Instant::now(),
            address,
        })
    }

    /// Sends commands in one go and gives one value for each; a refusal of one is a
    /// [`Value::ServerError`].
    ///
    /// # Errors
    /// There is no connection ([`FailureKind::Unavailable`], [`FailureKind::Forbidden`]), or it
    /// was lost before all answers were there ([`FailureKind::Unknown`]).
    pub async fn ask(&mut self, commands: Vec<Cmd>) -> Result<Vec<Value>, Failure> {
        let mut connection = match self.idle().await {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        let mut pipeline = Pipeline::with_capacity(commands.len());
        for command in commands {
            pipeline.add_command(command);
        }
        let count = pipeline.len();
        let values = connection
            .req_packed_commands(&pipeline, 0, count)
            .await
            .map_err(|error| {
                let sentence = format!(
                    "the connection to Redis at {} was lost: {error}",
                    self.address
                );
                Failure::new(FailureKind::Unknown, sentence)
            })?;
        self.open = Some(connection);
        self.used = Instant::now();
        if values.len() == count {
            Ok(values)
        } else {
            Err(Failure::other("Redis answered with too few values"))
        }
    }

    /// Like [`Connection::ask`], as one transaction. In a mere pipeline the first commands may be
    /// refused and later ones executed, such as when the function is loaded, a script ends or a
    /// replica is promoted in between; repeating the first ones would then change the order.
    ///
    /// If the transaction is refused as a whole, there is one value, which says why. Where MULTI
    /// is not allowed, the commands are executed one by one all the same.
    ///
    /// # Errors
    /// As [`Connection::ask`].
    pub async fn ask_together(&mut self, commands: Vec<Cmd>) -> Result<Vec<Value>, Failure> {
        if commands.len() < 2 {
            return self.ask(commands).await;
        }
        let mut all = vec![redis::cmd("MULTI")];
        all.extend(commands);
        all.push(redis::cmd("EXEC"));
        let mut values = self.ask(all).await?;
        let outcome = values.pop().unwrap_or_default();
        let begun = values.remove(0);
        match (outcome, begun) {
            (Value::Array(results), _) => Ok(results),
            (_, Value::ServerError(_)) => Ok(values),
            (outcome, _) => {
                // The connection may still be inside the transaction.
                self.open = None;
                let refused = |value: &Value| matches!(value, Value::ServerError(_));
                Ok(vec![values.into_iter().find(refused).unwrap_or(outcome)])
            }
        }
    }

    /// Sends one command.
    ///
    /// # Errors
    /// As [`Connection::ask`]; a refusal is a value.
    pub async fn ask_one(&mut self, command: Cmd) -> Result<Value, Failure> {
        let values = self.ask(vec![command]).await?;
        Ok(values.into_iter().next().unwrap_or_default())
    }

    /// The connection of before, if it still works.
    async fn idle(&mut self) -> Option<MultiplexedConnection> {
        let mut connection = self.open.take()?;
        if self.used.elapsed() < IDLE {
            return Some(connection);
        }
        let pong = redis::cmd("PING").exec_async(&mut connection).await;
        pong.ok().map(|()| connection)
    }

    async fn connect(&self) -> Result<MultiplexedConnection, Failure> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(Some(RESPONSE_TIMEOUT));
        let connection = self
            .client
            .get_multiplexed_async_connection_with_config(&config);
        let failed = |error: RedisError| {
            let (kind, what) = match (error.kind(), error.code()) {
                (ErrorKind::AuthenticationFailed, _) | (_, Some("WRONGPASS" | "NOAUTH")) => {
                    (FailureKind::Forbidden, "refuses these credentials")
                }
                _ => (FailureKind::Unavailable, "is not available"),
            };
            Failure::new(kind, format!("Redis at {} {what}: {error}", self.address))
        };
        let mut connection = connection.await.map_err(failed)?;
        // A server that wants a password answers long commands with a protocol error and hangs
        // up, which would look like a lost connection. Other refusals of a PING do not matter.
        match redis::cmd("PING").exec_async(&mut connection).await {
            Err(error) if error.is_io_error() => Err(failed(error)),
            Err(error) if matches!(error.code(), Some("NOAUTH" | "LOADING")) => Err(failed(error)),
            _ => Ok(connection),
        }
    }
}

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
    connection: Connection,
    keys: Keys,
    call: Call,
    ephemeral: bool,
    max_len: Option<u64>,
    max_age_seconds: Option<u64>,
    expire_seconds: Option<u64>,
    once_seconds: u64,
    max_bytes: usize,
}

impl Publisher {
    /// As the flags say; nothing is sent yet.
    ///
    /// # Errors
    /// The address cannot be used.
    pub fn from_cli(cli: &cli::Publish) -> Result<Self, Failure> {
        // A key must outlive the tries of the event that it protects.
        let tries = seconds(cli.server.retry_for + CONNECT_TIMEOUT + RESPONSE_TIMEOUT);
        Ok(Self {
            connection: Connection::new(&cli.server.url())?,
            keys: Keys::new(&cli.prefix()),
            call: Call::Function,
            ephemeral: cli.ephemeral,
            max_len: cli.max_len,
            max_age_seconds: cli.max_age.map(seconds),
            expire_seconds: cli.expire.map(seconds),
            once_seconds: DEFAULT_ONCE_SECONDS.max(2 * tries),
            max_bytes: cli.max_bytes,
        })
    }

    /// Tries once to publish events, in order.
    pub async fn publish(&mut self, room: &RoomName, batch: &[Outgoing]) -> Progress {
        let key = self.keys.room(room);
        if self.ephemeral {
            return self.ephemeral(&key, batch).await;
        }
        // At most: function missing, script missing, and the try that works.
        for _ in 0..4 {
            let progress = match self.store(&key, batch).await {
                Ok(progress) => progress,
                Err(Again::Failed(failure)) => failure.into(),
                Err(Again::Now) => continue,
            };
            return progress;
        }
        Failure::unavailable("the publish function disappears from Redis again and again").into()
    }

    async fn store(&mut self, key: &str, batch: &[Outgoing]) -> Result<Progress, Again> {
        let commands = batch.iter().map(|event| self.command(key, event)).collect();
        let answers = self.connection.ask_together(commands).await;
        let values = answers.map_err(retried)?;
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
            match refusal(&error) {
                // The whole batch again: what was stored is recognised by its key.
                Refusal::Missing => self.provide().await?,
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
        Ok(progress)
    }

    /// Puts in place what a call did not find.
    async fn provide(&mut self) -> Result<(), Failure> {
        match self.call {
            Call::Function => {
                // A server that refuses the library may still run the script.
                if library::load(&mut self.connection).await?.is_err() {
                    self.call = Call::Script;
                }
                Ok(())
            }
            Call::Script => {
                let mut load = redis::cmd("SCRIPT");
                load.arg("LOAD").arg(script());
                match self.connection.ask_one(load).await? {
                    Value::ServerError(error) => Err(refusal(&error).into()),
                    _ => Ok(()),
                }
            }
        }
    }

    fn command(&self, key: &str, event: &Outgoing) -> Cmd {
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
            full_reply: true,
            extensions: &extensions,
            ..PublishArgs::default()
        };
        let mut command = match self.call {
            Call::Function => redis::cmd("FCALL").arg(FUNCTION_NAME).take(),
            Call::Script => redis::cmd("EVALSHA").arg(script_sha1()).take(),
        };
        command.arg(1).arg(key).arg(args.to_args());
        command
    }

    async fn ephemeral(&mut self, key: &str, batch: &[Outgoing]) -> Progress {
        let commands = batch.iter().map(|event| {
            let mut command = redis::cmd("PUBLISH");
            let mut envelope = event.envelope();
            if let Some(trace) = event.trace.parent() {
                envelope[TRACEPARENT] = trace.to_string().into();
            }
            command.arg(key).arg(envelope.to_string());
            command
        });
        let values = match self.connection.ask(commands.collect()).await {
            Ok(values) => values,
            Err(failure) => return failure.into(),
        };
        let mut progress = Progress::default();
        for value in values {
            if let Value::ServerError(error) = value {
                progress.failure = Some(refusal(&error).into());
                break;
            }
            progress.receipts.push(Receipt {
                id: None,
                repeat: false,
            });
        }
        progress
    }
}

/// What stands in the way of a batch.
enum Again {
    /// It is out of the way.
    Now,
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
    })
}

/// What follows from an error reply.
#[derive(Debug)]
pub enum Refusal {
    /// The function or script is not there.
    Missing,
    /// The server knows no functions.
    NoFunctions,
    /// Anything else.
    Failure(Failure),
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Missing => Self::unavailable("the publish function is missing in Redis"),
            Refusal::NoFunctions => Self::other("this server has no functions"),
            Refusal::Failure(failure) => failure,
        }
    }
}

/// Sorts an error reply by what follows from it.
#[must_use]
pub fn refusal(error: &ServerError) -> Refusal {
    let detail = error.details().unwrap_or_default();
    let said = || format!("Redis said: {} {detail}", error.code());
    let unknown = |word: &str| detail.starts_with(word);
    Refusal::Failure(match error.code() {
        "ERR" if unknown("Function not found") => return Refusal::Missing,
        "NOSCRIPT" => return Refusal::Missing,
        "ERR" if unknown("unknown command") => return Refusal::NoFunctions,
        "ERR" => match detail.strip_prefix("sse: ") {
            Some(sentence) => Failure::refused(sentence),
            None => Failure::other(said()),
        },
        "WRONGTYPE" => {
            Failure::other("the room's key in Redis holds something other than a stream")
        }
        "NOPERM" | "NOAUTH" | "WRONGPASS" => Failure::new(FailureKind::Forbidden, said()),
        "LOADING" | "BUSY" | "READONLY" | "MASTERDOWN" | "CLUSTERDOWN" | "TRYAGAIN"
        | "NOREPLICAS" | "MISCONF" | "OOM" => Failure::unavailable(said()),
        _ => Failure::other(said()),
    })
}

/// Whole seconds; a part of one counts as one, because 0 means no limit.
fn seconds(duration: Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
}

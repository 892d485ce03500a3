//! One Redis server: a connection, and commands with their answers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use protocol::servers::{Address, Servers};
use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::{
    AsyncConnectionConfig, Client, Cmd, ErrorKind, Pipeline, RedisError, ServerError, Value,
};

use super::CONNECT_TIMEOUT;
use super::refusal::{Refusal, refusal};
use crate::target::{Failure, FailureKind};

/// A connection that was idle for longer is checked before it is used: servers close idle ones.
const IDLE: Duration = Duration::from_secs(1);

/// Commands that are executed together.
#[derive(Debug)]
pub struct Together {
    /// The room is on its way to this server, which another one has named.
    pub asking: bool,
    /// The transaction.
    pub commands: Vec<Cmd>,
    /// What comes after it, on the same connection.
    pub after: Vec<Cmd>,
}

/// One connection, which is opened when it is needed and given up when it fails: later answers
/// could belong to earlier commands.
#[derive(Debug)]
pub struct Server {
    servers: Arc<Servers>,
    address: Address,
    patience: Duration,
    open: Option<MultiplexedConnection>,
    used: Instant,
}

impl Server {
    /// Nothing is sent yet. An answer may take as long as `patience`.
    #[must_use]
    pub fn new(servers: Arc<Servers>, address: Address, patience: Duration) -> Self {
        Self {
            servers,
            address,
            patience,
            open: None,
            used: Instant::now(),
        }
    }

    /// Sorts an error reply of this server.
    #[must_use]
    pub fn refusal(&self, error: &ServerError) -> Refusal {
        refusal(&self.address, error)
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

    /// Like [`Server::ask`], as one transaction, and the values of what comes after it. In a mere pipeline the first commands may be
    /// refused and later ones executed, such as when the function is loaded, a script ends or a
    /// replica is promoted in between; repeating the first ones would then change the order.
    ///
    /// If the transaction is refused as a whole, there is one value, which says why, and perhaps none of what comes
    /// after. Where MULTI
    /// is not allowed, the commands are executed one by one all the same.
    ///
    /// # Errors
    /// As [`Server::ask`].
    pub async fn ask_together(
        &mut self,
        batch: Together,
    ) -> Result<(Vec<Value>, Vec<Value>), Failure> {
        let Together {
            asking,
            commands,
            after,
        } = batch;
        let alone = commands.len() < 2;
        let (multi, exec) = (redis::cmd("MULTI"), redis::cmd("EXEC"));
        let mut all: Vec<Cmd> = Vec::with_capacity(commands.len() + after.len() + 3);
        all.extend(asking.then(|| redis::cmd("ASKING")));
        all.extend((!alone).then_some(multi));
        all.extend(commands);
        all.extend((!alone).then_some(exec));
        let first = all.len();
        all.extend(after);
        let mut values = self.ask(all).await?;
        let after = values.split_off(first);
        let mut values = values.split_off(usize::from(asking));
        if alone {
            return Ok((values, after));
        }
        let outcome = values.pop().unwrap_or_default();
        let begun = values.remove(0);
        match (outcome, begun) {
            (Value::Array(results), _) => Ok((results, after)),
            (_, Value::ServerError(_)) => Ok((values, after)),
            (outcome, _) => {
                // The connection may still be inside the transaction.
                self.open = None;
                let refused = |value: &Value| matches!(value, Value::ServerError(_));
                let why = values.into_iter().find(refused).unwrap_or(outcome);
                Ok((vec![why], Vec::new()))
            }
        }
    }

    /// Sends one command.
    ///
    /// # Errors
    /// As [`Server::ask`]; a refusal is a value.
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
            .set_response_timeout(Some(self.patience));
        // Passwords and certificates may have been replaced since the last time.
        let info = self.servers.connection_info(&self.address);
        let info = info.map_err(|error| {
            let sentence = format!("Redis at {} cannot be asked: {error}", self.address);
            Failure::unavailable(sentence)
        })?;
        let failed = |error: RedisError| {
            let (kind, what) = match (error.kind(), error.code()) {
                (ErrorKind::AuthenticationFailed, _) | (_, Some("WRONGPASS" | "NOAUTH")) => {
                    (FailureKind::Forbidden, "refuses these credentials")
                }
                _ => (FailureKind::Unavailable, "is not available"),
            };
            Failure::new(kind, format!("Redis at {} {what}: {error}", self.address))
        };
        let client = Client::open(info).map_err(failed)?;
        let connection = client.get_multiplexed_async_connection_with_config(&config);
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

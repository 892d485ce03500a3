//! The way to one server: a few workers take what is queued, send it as one pipeline on one
//! connection, and hand the answers back.
//!
//! Invariant: a worker keeps its connection over batches until it fails or was idle, because a
//! checkout costs a round trip.

use std::sync::Arc;
use std::time::{Duration, Instant};

use deadpool_redis::{Connection, Manager, Pool, PoolError, Runtime, Timeouts};
use parking_lot::Mutex as Lock;
use protocol::servers::{Address, Servers};
use redis::aio::ConnectionLike;
use redis::{AsyncConnectionConfig, Cmd, Pipeline, Value};
use tokio::sync::{Mutex, mpsc, oneshot};

use super::gate::Gate;
use super::{Away, is_demoted};
use crate::broker::MAX_WAIT_TIMEOUT;
use crate::broker::redis::{Purpose, RedisConfig, RedisMetrics};

/// Jobs that one pipeline carries at most, unless they block.
const BATCH: usize = 128;
/// Jobs that wait at most; then callers wait.
const QUEUE: usize = 1024;
/// A connection that was idle for longer is checked before it is used again.
const IDLE: Duration = Duration::from_secs(1);
/// For so long after a failed attempt nobody tries to connect: who asks meanwhile is told what went wrong then.
const PAUSE: Duration = Duration::from_millis(200);

/// Jobs that block at a time, each on a connection to itself, which is opened when it is needed.
const BLOCKING: usize = 32;

/// How jobs share connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Way {
    /// Those that wait together go together.
    Shared,
    /// Each on its own, so that one that blocks its connection holds up no other.
    Alone,
}

struct Job {
    purpose: Purpose,
    commands: Vec<Cmd>,
    repeatable: bool,
    reply: oneshot::Sender<Result<Vec<Value>, Away>>,
}

/// The way to one server; cheap to clone. Its workers end when the last one is dropped.
#[derive(Debug, Clone)]
pub(super) struct Lane {
    jobs: mpsc::Sender<Job>,
    gate: Gate,
}

impl Lane {
    /// Starts the workers; connections are made when they are needed.
    pub(super) fn start(
        address: &Address,
        way: Way,
        config: &RedisConfig,
        metrics: &Arc<RedisMetrics>,
        runtime: &tokio::runtime::Handle,
    ) -> Self {
        let (size, most, patience) = match way {
            Way::Shared => (config.pool_size.max(1), BATCH, Duration::ZERO),
            Way::Alone => (BLOCKING, 1, MAX_WAIT_TIMEOUT),
        };
        let (sender, jobs) = mpsc::channel(QUEUE);
        let jobs = Arc::new(Mutex::new(jobs));
        let pool = Arc::new(Connections {
            address: address.clone(),
            servers: config.servers.clone(),
            size,
            connect_timeout: config.connect_timeout,
            response_timeout: config.response_timeout + patience,
            current: Lock::new(None),
            failed: Lock::new(None),
        });
        for _ in 0..pool.size {
            let worker = Worker {
                pool: pool.clone(),
                most,
                held: None,
                used: Instant::now(),
                metrics: metrics.clone(),
            };
            runtime.spawn(worker.run(jobs.clone()));
        }
        Self {
            jobs: sender,
            gate: Gate::new(),
        }
    }

    /// Sends commands and gives one value for each. While the server answers nothing, reads are told at once that it is
    /// away, but for one, and so are verifications: others wait for them, and they come again by themselves.
    pub(super) async fn ask(
        &self,
        purpose: Purpose,
        commands: Vec<Cmd>,
        repeatable: bool,
    ) -> Result<Vec<Value>, Away> {
        let sent = self.send(purpose, commands, repeatable);
        let answer = match purpose {
            Purpose::Read => {
                let pass = self.gate.enter()?;
                tokio::select! {
                    answer = sent => answer,
                    away = pass.overdue() => return Err(away),
                }
            }
            Purpose::Verify => tokio::select! {
                answer = sent => answer,
                away = self.gate.silence() => return Err(away),
            },
            _ => sent.await,
        };
        match &answer {
            Ok(values) if !values.iter().any(is_demoted) => self.gate.heard(),
            _ => self.gate.failed(),
        }
        answer
    }

    async fn send(
        &self,
        purpose: Purpose,
        commands: Vec<Cmd>,
        repeatable: bool,
    ) -> Result<Vec<Value>, Away> {
        let (reply, answer) = oneshot::channel();
        let job = Job {
            purpose,
            commands,
            repeatable,
            reply,
        };
        let stopped = || Away("the gateway is stopping".into());
        self.jobs.send(job).await.map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }
}

pub(super) fn missing() -> Away {
    Away("an answer is missing".into())
}

/// The pool of a server. It is made anew when the password or a certificate on disk is another.
struct Connections {
    address: Address,
    servers: Arc<Servers>,
    size: usize,
    connect_timeout: Duration,
    response_timeout: Duration,
    current: Lock<Option<(u64, Pool)>>,
    failed: Lock<Option<(Instant, String)>>,
}

impl Connections {
    async fn get(&self) -> Result<Connection, String> {
        if let Some((when, why)) = &*self.failed.lock()
            && when.elapsed() < PAUSE
        {
            return Err(why.clone());
        }
        let connection = self.pool()?.get().await.map_err(|error| plain(&error));
        if let Err(why) = &connection {
            *self.failed.lock() = Some((Instant::now(), why.clone()));
        }
        connection
    }

    fn pool(&self) -> Result<Pool, String> {
        let mut current = self.current.lock();
        let secrets = self.servers.secrets().map_err(|error| error.to_string());
        match (&secrets, &*current) {
            (Ok(secrets), Some((made_with, pool))) if secrets == made_with => {
                return Ok(pool.clone());
            }
            _ => {}
        }
        // Files that are being replaced: what was read before may still do.
        let before = current.as_ref().map(|(_, pool)| pool.clone());
        match secrets.and_then(|secrets| Ok((secrets, self.make()?))) {
            Ok(made) => Ok(current.insert(made).1.clone()),
            Err(why) => before.ok_or(why),
        }
    }

    fn make(&self) -> Result<Pool, String> {
        let info = self.servers.connection_info(&self.address);
        let info = info.map_err(|error| error.to_string())?;
        let connection = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.connect_timeout))
            .set_response_timeout(Some(self.response_timeout));
        let manager = Manager::new_with_config(info, connection);
        Pool::builder(manager.map_err(|error| error.to_string())?)
            .max_size(self.size)
            .timeouts(Timeouts {
                wait: Some(self.response_timeout),
                create: Some(self.connect_timeout),
                recycle: Some(self.response_timeout),
            })
            .runtime(Runtime::Tokio1)
            .build()
            .map_err(|error| error.to_string())
    }

    /// The name of this server leads to another one now.
    fn forget(&self) {
        *self.current.lock() = None;
    }
}

struct Worker {
    pool: Arc<Connections>,
    /// Jobs that one pipeline carries at most.
    most: usize,
    held: Option<Connection>,
    used: Instant,
    metrics: Arc<RedisMetrics>,
}

impl Worker {
    async fn run(mut self, jobs: Arc<Mutex<mpsc::Receiver<Job>>>) {
        let mut batch = Vec::with_capacity(self.most);
        loop {
            if jobs.lock().await.recv_many(&mut batch, self.most).await == 0 {
                return;
            }
            batch.retain(|job| !job.reply.is_closed());
            if self.used.elapsed() > IDLE {
                self.held = None;
            }
            self.batch(&mut batch).await;
            self.used = Instant::now();
        }
    }

    async fn batch(&mut self, batch: &mut Vec<Job>) {
        if batch.is_empty() {
            return;
        }
        let mut outcome = self.attempt(batch).await;
        if let Err(Failure::InFlight(reason)) = &outcome {
            let (again, lost): (Vec<Job>, Vec<Job>) =
                batch.drain(..).partition(|job| job.repeatable);
            for job in lost {
                let _ = job.reply.send(Err(Away(reason.clone())));
            }
            *batch = again;
            if batch.is_empty() {
                return;
            }
            outcome = self.attempt(batch).await;
        }
        match outcome {
            Ok(values) => {
                let mut values = values.into_iter();
                for job in batch.drain(..) {
                    let count = job.commands.len();
                    let answer: Vec<Value> = values.by_ref().take(count).collect();
                    let whole = answer.len() == count;
                    let _ = job
                        .reply
                        .send(if whole { Ok(answer) } else { Err(missing()) });
                }
            }
            Err(Failure::NotSent(reason) | Failure::InFlight(reason)) => {
                for job in batch.drain(..) {
                    let _ = job.reply.send(Err(Away(reason.clone())));
                }
            }
        }
    }

    async fn attempt(&mut self, batch: &[Job]) -> Result<Vec<Value>, Failure> {
        if self.held.is_none() {
            self.held = Some(self.pool.get().await.map_err(Failure::NotSent)?);
        }
        let Some(connection) = &mut self.held else {
            return Err(Failure::NotSent("no connection".into()));
        };
        let mut pipeline = Pipeline::new();
        for job in batch {
            for command in &job.commands {
                pipeline.add_command(command.clone());
            }
            self.metrics.sent(job.purpose, job.commands.len());
        }
        let answers = if self.most == 1 {
            one_by_one(connection, &pipeline).await
        } else {
            let count = pipeline.len();
            connection.req_packed_commands(&pipeline, 0, count).await
        };
        match answers {
            Ok(values) => {
                if values.iter().any(is_readonly) {
                    drop(self.held.take().map(Connection::take));
                    self.pool.forget();
                }
                Ok(values)
            }
            Err(error) => {
                // Not back to the pool: answers may still be on their way.
                drop(self.held.take().map(Connection::take));
                Err(Failure::InFlight(error.to_string()))
            }
        }
    }
}

/// Each command once the one before it has been answered. What follows a refusal is not sent, and answered by nothing: who
/// was refused must not wait for replicas.
async fn one_by_one(
    connection: &mut Connection,
    commands: &Pipeline,
) -> redis::RedisResult<Vec<Value>> {
    let count = commands.len();
    let mut values = Vec::with_capacity(count);
    for command in commands.cmd_iter() {
        let mut single = Pipeline::with_capacity(1);
        single.add_command(command.clone());
        let answer = connection.req_packed_commands(&single, 0, 1).await?;
        let refused = matches!(answer.first(), Some(Value::ServerError(_)));
        values.extend(answer);
        if refused {
            break;
        }
    }
    values.resize(count, Value::Nil);
    Ok(values)
}

/// The server is a replica now: a name that leads to the primary has to be looked up again.
fn is_readonly(value: &Value) -> bool {
    matches!(value, Value::ServerError(error) if error.code() == "READONLY")
}

/// What the server or the network said, without the pool's words around it.
fn plain(error: &PoolError) -> String {
    match error {
        PoolError::Backend(error) => error.to_string(),
        PoolError::Timeout(_) => "it does not answer in time".into(),
        error => error.to_string(),
    }
}

enum Failure {
    NotSent(String),
    InFlight(String),
}

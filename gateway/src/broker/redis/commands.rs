//! Commands and their answers: a few workers take what is queued, send it as one pipeline on one
//! connection, and hand the answers back.
//!
//! Invariant: a worker keeps its connection over batches until it fails or was idle, because a
//! checkout costs a round trip.

use std::sync::Arc;
use std::time::{Duration, Instant};

use deadpool_redis::{Connection, Manager, Pool, PoolError, Runtime, Timeouts};
use opentelemetry::{Context, KeyValue};
use redis::aio::ConnectionLike;
use redis::{Arg, AsyncConnectionConfig, Cmd, ConnectionInfo, Pipeline, ServerError, Value};
use tokio::sync::{Mutex, mpsc, oneshot};

use super::{Purpose, RedisConfig, RedisMetrics};
use crate::trace::{self, Traces};

/// Jobs that one pipeline carries at most.
const BATCH: usize = 128;
/// Jobs that wait at most; then callers wait.
const QUEUE: usize = 1024;
/// A connection that was idle for longer is checked before it is used again.
const IDLE: Duration = Duration::from_secs(1);

/// The server could not be asked, or did not answer; one clause that says why.
#[derive(Debug, Clone)]
pub(super) struct Away(pub(super) String);

struct Job {
    purpose: Purpose,
    commands: Vec<Cmd>,
    repeatable: bool,
    reply: oneshot::Sender<Result<Vec<Value>, Away>>,
}

/// The way to the workers; cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Commands {
    jobs: mpsc::Sender<Job>,
    metrics: Arc<RedisMetrics>,
    traces: Traces,
}

impl Commands {
    /// Starts the workers on the current runtime.
    pub(super) fn start(
        info: ConnectionInfo,
        config: &RedisConfig,
        metrics: &Arc<RedisMetrics>,
        queue: CommandQueue,
    ) -> anyhow::Result<()> {
        let connection = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(config.connect_timeout))
            .set_response_timeout(Some(config.response_timeout));
        let manager = Manager::new_with_config(info, connection)?;
        let workers = config.pool_size.max(1);
        let pool = Pool::builder(manager)
            .max_size(workers)
            .timeouts(Timeouts {
                wait: Some(config.response_timeout),
                create: Some(config.connect_timeout),
                recycle: Some(config.response_timeout),
            })
            .runtime(Runtime::Tokio1)
            .build()?;
        let jobs = Arc::new(Mutex::new(queue.jobs));
        for _ in 0..workers {
            let worker = Worker {
                pool: pool.clone(),
                held: None,
                used: Instant::now(),
                metrics: metrics.clone(),
            };
            tokio::spawn(worker.run(jobs.clone()));
        }
        Ok(())
    }

    /// The two ends of the queue, before there is a runtime.
    pub(super) fn queue(metrics: Arc<RedisMetrics>, traces: Traces) -> (Self, CommandQueue) {
        let (sender, jobs) = mpsc::channel(QUEUE);
        let commands = Self {
            jobs: sender,
            metrics,
            traces,
        };
        (commands, CommandQueue { jobs })
    }

    /// Sends commands and gives one value for each; a refusal is a [`Value::ServerError`].
    /// `repeatable` commands are sent again once if the connection fails under them.
    pub(super) async fn run(
        &self,
        purpose: Purpose,
        commands: Vec<Cmd>,
        repeatable: bool,
    ) -> Result<Vec<Value>, Away> {
        let began = Instant::now();
        let span = self.span(purpose, &commands);
        let (reply, answer) = oneshot::channel();
        let job = Job {
            purpose,
            commands,
            repeatable,
            reply,
        };
        let stopped = || Away("the gateway is stopping".into());
        self.jobs.send(job).await.map_err(|_| stopped())?;
        let answer = answer.await.map_err(|_| stopped())?;
        self.metrics.ended(purpose, answer.is_ok(), began.elapsed());
        if let Some(span) = span {
            let failure = answer.as_ref().err().map(|away| away.0.as_str());
            trace::called(&span, failure);
        }
        answer
    }

    /// A span for commands that are sent on behalf of something that is recorded.
    fn span(&self, purpose: Purpose, commands: &[Cmd]) -> Option<Context> {
        let span = self.traces.call(purpose.label())?;
        let words: Vec<_> = commands.iter().filter_map(word).collect();
        trace::note_in(
            &span,
            [
                KeyValue::new("db.system.name", "redis"),
                KeyValue::new("db.operation.name", words.join(" ")),
            ],
        );
        Some(span)
    }

    /// One command.
    pub(super) async fn one(
        &self,
        purpose: Purpose,
        command: Cmd,
        repeatable: bool,
    ) -> Result<Value, Away> {
        let values = self.run(purpose, vec![command], repeatable).await?;
        values.into_iter().next().ok_or_else(missing)
    }
}

/// The name of a command; never an argument.
fn word(command: &Cmd) -> Option<String> {
    match command.args_iter().next()? {
        Arg::Simple(word) => Some(String::from_utf8_lossy(word).into_owned()),
        _ => None,
    }
}

fn missing() -> Away {
    Away("an answer is missing".into())
}

/// The workers' end of the queue.
pub(super) struct CommandQueue {
    jobs: mpsc::Receiver<Job>,
}

struct Worker {
    pool: Pool,
    held: Option<Connection>,
    used: Instant,
    metrics: Arc<RedisMetrics>,
}

impl Worker {
    async fn run(mut self, jobs: Arc<Mutex<mpsc::Receiver<Job>>>) {
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            if jobs.lock().await.recv_many(&mut batch, BATCH).await == 0 {
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
            let connection = self.pool.get().await;
            self.held = Some(connection.map_err(|error| Failure::NotSent(plain(&error)))?);
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
        let count = pipeline.len();
        match connection.req_packed_commands(&pipeline, 0, count).await {
            Ok(values) => Ok(values),
            Err(error) => {
                // Not back to the pool: answers may still be on their way.
                drop(self.held.take().map(Connection::take));
                Err(Failure::InFlight(error.to_string()))
            }
        }
    }
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

/// Whose fault a refusal is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The key holds another type.
    WrongType,
    /// The publish function's own words.
    Sse(String),
    /// The function or script is not there.
    Unknown,
    /// The server does not have this command, or its use is not allowed.
    Forbidden(String),
    /// Anything else: the server cannot serve this now.
    Other(String),
}

/// Sorts a refusal by what follows from it.
pub(super) fn refusal(error: &ServerError) -> Refusal {
    let detail = error.details().unwrap_or_default();
    let text = || format!("{} {detail}", error.code());
    match error.code() {
        "WRONGTYPE" => Refusal::WrongType,
        "NOSCRIPT" => Refusal::Unknown,
        "NOPERM" => Refusal::Forbidden(text()),
        "ERR" if detail.starts_with("sse: ") => Refusal::Sse(detail["sse: ".len()..].to_owned()),
        "ERR" if detail.starts_with("Function not found") => Refusal::Unknown,
        "ERR" if detail.starts_with("unknown command") => Refusal::Forbidden(text()),
        _ => Refusal::Other(text()),
    }
}

/// `Value`, or the refusal that stands in its place.
pub(super) fn check(value: Value) -> Result<Value, Refusal> {
    match value {
        Value::ServerError(error) => Err(refusal(&error)),
        value => Ok(value),
    }
}

/// The bytes of a string answer.
pub(super) fn text(value: &Value) -> Option<&[u8]> {
    match value {
        Value::BulkString(bytes) => Some(bytes),
        Value::SimpleString(text) => Some(text.as_bytes()),
        Value::Okay => Some(b"OK"),
        _ => None,
    }
}

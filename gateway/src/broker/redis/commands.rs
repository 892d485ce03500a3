//! Commands and their answers: which server they go to, and where they go on when a slot has
//! moved.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use opentelemetry::{Context, KeyValue};
use parking_lot::Mutex;
use protocol::servers::{Address, redirection};
use redis::{Arg, Cmd, Value};

use super::topology::Topology;
use super::{Purpose, RedisConfig, RedisMetrics};
use crate::trace::{self, Traces};

mod gate;
mod lane;
mod refusal;

use lane::{Lane, Way};
pub(super) use refusal::{Refusal, check, text};

/// Servers that one request is sent to at most, one after the other.
const HOPS: usize = 5;
/// Before a request is sent again to a server that cannot serve a slot in motion.
const IN_MOTION: Duration = Duration::from_millis(20);

/// The server could not be asked, or did not answer; one clause that says why.
#[derive(Debug, Clone)]
pub(super) struct Away(pub(super) String);

/// Where a request goes.
#[derive(Debug, Clone)]
pub(super) enum To {
    /// The primary of a slot, wherever it moves.
    Slot(u16),
    /// This server.
    Server(Address),
}

/// The way to all servers; cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Commands {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: RedisConfig,
    topology: Arc<Topology>,
    lanes: Mutex<HashMap<(Address, Way), Lane>>,
    runtime: tokio::runtime::Handle,
    metrics: Arc<RedisMetrics>,
    traces: Traces,
}

/// What a server says instead of an answer.
enum Redirect {
    Moved(u16, Address),
    Ask(Address),
    Again,
}

impl Commands {
    /// Opens nothing; workers are started on `runtime`.
    pub(super) fn new(
        config: RedisConfig,
        topology: Arc<Topology>,
        runtime: tokio::runtime::Handle,
        metrics: Arc<RedisMetrics>,
        traces: Traces,
    ) -> Self {
        let inner = Inner {
            config,
            topology,
            lanes: Mutex::default(),
            runtime,
            metrics,
            traces,
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// Sends commands and gives one value for each; a refusal is a [`Value::ServerError`].
    /// `repeatable` commands are sent again once if the connection fails under them. Those that a
    /// cluster redirects are sent again in any case, because none of them was executed.
    pub(super) async fn run(
        &self,
        to: &To,
        purpose: Purpose,
        commands: Vec<Cmd>,
        repeatable: bool,
    ) -> Result<Vec<Value>, Away> {
        self.run_by(Way::Shared, to, purpose, commands, repeatable)
            .await
    }

    /// The same for commands that block, on a connection to themselves.
    pub(super) async fn run_alone(
        &self,
        to: &To,
        purpose: Purpose,
        commands: Vec<Cmd>,
        repeatable: bool,
    ) -> Result<Vec<Value>, Away> {
        self.run_by(Way::Alone, to, purpose, commands, repeatable)
            .await
    }

    async fn run_by(
        &self,
        way: Way,
        to: &To,
        purpose: Purpose,
        commands: Vec<Cmd>,
        repeatable: bool,
    ) -> Result<Vec<Value>, Away> {
        let began = Instant::now();
        let span = self.span(purpose, &commands);
        let answer = self.follow(way, to, purpose, commands, repeatable).await;
        let metrics = &self.inner.metrics;
        metrics.ended(purpose, answer.is_ok(), began.elapsed());
        if let Some(span) = span {
            let failure = answer.as_ref().err().map(|away| away.0.as_str());
            trace::called(&span, failure);
        }
        answer
    }

    /// One command.
    pub(super) async fn one(
        &self,
        to: &To,
        purpose: Purpose,
        command: Cmd,
        repeatable: bool,
    ) -> Result<Value, Away> {
        let values = self.run(to, purpose, vec![command], repeatable).await?;
        values.into_iter().next().ok_or_else(lane::missing)
    }

    /// Sends repeatable commands for many slots at once, each server its part, and gives what
    /// became of each in the order of `parts`.
    pub(super) async fn run_each(
        &self,
        purpose: Purpose,
        parts: Vec<(u16, Vec<Cmd>)>,
    ) -> Vec<Result<Vec<Value>, Away>> {
        let mut outcomes: Vec<Result<Vec<Value>, Away>> =
            parts.iter().map(|_| Err(lane::missing())).collect();
        let mut by_server: HashMap<Address, Vec<usize>> = HashMap::new();
        for (at, (slot, _)) in parts.iter().enumerate() {
            match self.server_of(&To::Slot(*slot)) {
                Ok(address) => by_server.entry(address).or_default().push(at),
                Err(away) => outcomes[at] = Err(away),
            }
        }
        let asked = by_server.into_iter().map(|(address, members)| {
            let commands: Vec<Cmd> = members
                .iter()
                .flat_map(|&at| parts[at].1.iter().cloned())
                .collect();
            async move {
                let lane = self.lane(&address, Way::Shared);
                (address, members, lane.ask(purpose, commands, true).await)
            }
        });
        let mut astray = Vec::new();
        for (address, members, answer) in join_all(asked).await {
            let mut values = answer.map(Vec::into_iter);
            for at in members {
                let (slot, commands) = &parts[at];
                outcomes[at] = match &mut values {
                    Ok(values) => Ok(values.by_ref().take(commands.len()).collect()),
                    Err(away) => Err(away.clone()),
                };
                if let Ok(values) = &outcomes[at]
                    && redirect(&address, values).is_some()
                {
                    astray.push((at, *slot));
                }
            }
        }
        for (at, slot) in astray {
            let commands = parts[at].1.clone();
            let to = To::Slot(slot);
            outcomes[at] = self.follow(Way::Shared, &to, purpose, commands, true).await;
        }
        outcomes
    }

    async fn follow(
        &self,
        way: Way,
        to: &To,
        purpose: Purpose,
        commands: Vec<Cmd>,
        repeatable: bool,
    ) -> Result<Vec<Value>, Away> {
        let topology = &self.inner.topology;
        let mut address = self.server_of(to)?;
        let mut asking = false;
        let mut hops = 0..HOPS;
        while hops.next().is_some() {
            let batch = if asking {
                ask_each(&commands)
            } else {
                commands.clone()
            };
            let sent = batch.len();
            let lane = self.lane(&address, way);
            let mut values = match lane.ask(purpose, batch, repeatable).await {
                Ok(values) => values,
                Err(away) => {
                    topology.doubt();
                    return Err(away);
                }
            };
            if asking {
                // The last ones answer the commands: one each, or a transaction after its ASKING.
                let every = if sent > commands.len() + 1 { 2 } else { 1 };
                values = values.into_iter().skip(1).step_by(every).collect();
            }
            if values.iter().any(is_demoted) {
                topology.doubt();
            }
            if matches!(to, To::Server(_)) {
                return Ok(values);
            }
            match redirect(&address, &values) {
                None => return Ok(values),
                Some(Redirect::Moved(slot, there)) => {
                    topology.moved(slot, &there);
                    (address, asking) = (there, false);
                }
                Some(Redirect::Ask(there)) => (address, asking) = (there, true),
                Some(Redirect::Again) if hops.is_empty() => return Ok(values),
                Some(Redirect::Again) => tokio::time::sleep(IN_MOTION).await,
            }
        }
        topology.doubt();
        let lost = "the servers of the cluster send each other requests for this room";
        Err(Away(lost.into()))
    }

    fn server_of(&self, to: &To) -> Result<Address, Away> {
        match to {
            To::Slot(slot) => self.inner.topology.primary_of(*slot),
            To::Server(address) => Ok(address.clone()),
        }
    }

    fn lane(&self, address: &Address, way: Way) -> Lane {
        let inner = &self.inner;
        let mut lanes = inner.lanes.lock();
        let key = (address.clone(), way);
        if let Some(lane) = lanes.get(&key) {
            return lane.clone();
        }
        let lane = Lane::start(address, way, &inner.config, &inner.metrics, &inner.runtime);
        lanes.insert(key, lane.clone());
        lane
    }

    /// Forgets servers that serve nothing any more.
    pub(super) fn keep(&self, is_kept: impl Fn(&Address) -> bool) {
        self.inner
            .lanes
            .lock()
            .retain(|(address, _), _| is_kept(address));
    }

    /// A span for commands that are sent on behalf of something that is recorded.
    fn span(&self, purpose: Purpose, commands: &[Cmd]) -> Option<Context> {
        let span = self.inner.traces.call(purpose.label())?;
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
}

/// With `ASKING` before each command, for which alone it holds; before a transaction once.
fn ask_each(commands: &[Cmd]) -> Vec<Cmd> {
    let is_transaction = commands.first().and_then(word).as_deref() == Some("MULTI");
    let mut batch = Vec::with_capacity(2 * commands.len());
    for (at, command) in commands.iter().enumerate() {
        if at == 0 || !is_transaction {
            batch.push(redis::cmd("ASKING"));
        }
        batch.push(command.clone());
    }
    batch
}

/// The first word of the answers that says to go elsewhere. Whatever else is among them was not
/// executed: all commands of a request are for the same slot.
fn redirect(asked: &Address, values: &[Value]) -> Option<Redirect> {
    values.iter().find_map(|value| {
        let Value::ServerError(error) = value else {
            return None;
        };
        let there = || redirection(asked, error.details().unwrap_or_default());
        match error.code() {
            "MOVED" => there().map(|(slot, there)| Redirect::Moved(slot, there)),
            "ASK" => there().map(|(_, there)| Redirect::Ask(there)),
            "TRYAGAIN" => Some(Redirect::Again),
            _ => None,
        }
    })
}

/// The server is not the primary (any more), or not part of a whole cluster.
fn is_demoted(value: &Value) -> bool {
    let codes = ["READONLY", "CLUSTERDOWN", "MASTERDOWN"];
    matches!(value, Value::ServerError(error) if codes.contains(&error.code()))
}

/// The name of a command; never an argument.
fn word(command: &Cmd) -> Option<String> {
    match command.args_iter().next()? {
        Arg::Simple(word) => Some(String::from_utf8_lossy(word).into_owned()),
        _ => None,
    }
}

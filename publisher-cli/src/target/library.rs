//! What a Redis server needs: the publish function, and notifications about streams.

use std::fmt;

use protocol::publish::{LIBRARY_NAME, LIBRARY_VERSION, VERSION_FUNCTION_NAME, library, script};
use redis::Value;

use super::redis::{Deployment, Refusal, Server};
use super::{Failure, FailureKind};

const NOTIFICATIONS: &str = "notify-keyspace-events";

/// What was found and done about the library.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loaded {
    /// It was missing, or an earlier version was there.
    Now {
        /// The earlier version.
        before: Option<i64>,
    },
    /// This version was there.
    Before,
    /// A later version is there, and stays.
    Later(i64),
}

/// Loads the function library, unless this or a later version is there. The inner error is the
/// server's refusal.
///
/// # Errors
/// The server is away.
pub async fn load(server: &mut Server) -> Result<Result<Loaded, Refusal>, Failure> {
    let mut ask = redis::cmd("FCALL_RO");
    ask.arg(VERSION_FUNCTION_NAME).arg(0);
    let before = match server.ask_one(ask).await.map_err(again)? {
        Value::Int(version) if version > i64::from(LIBRARY_VERSION) => {
            return Ok(Ok(Loaded::Later(version)));
        }
        Value::Int(version) if version == i64::from(LIBRARY_VERSION) => {
            return Ok(Ok(Loaded::Before));
        }
        Value::Int(version) => Some(version),
        Value::ServerError(error) => match server.refusal(&error) {
            Refusal::Missing => None,
            other => return Ok(Err(other)),
        },
        _ => None,
    };
    let mut load = redis::cmd("FUNCTION");
    load.arg("LOAD").arg("REPLACE").arg(library());
    match server.ask_one(load).await.map_err(again)? {
        Value::ServerError(error) => Ok(Err(server.refusal(&error))),
        _ => Ok(Ok(Loaded::Now { before })),
    }
}

/// What happened to the notification flags.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Flags {
    Complete(String),
    Extended { before: String, now: String },
    NotAllowed(String),
}

/// What `sse-publish load` did; displays as the lines to print.
#[derive(Debug)]
pub struct Done {
    library: Option<Loaded>,
    flags: Flags,
}

impl fmt::Display for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "function library {LIBRARY_NAME}: ")?;
        match self.library {
            Some(Loaded::Now { before: None }) => {
                writeln!(f, "version {LIBRARY_VERSION} was loaded")?;
            }
            Some(Loaded::Now {
                before: Some(before),
            }) => writeln!(
                f,
                "version {LIBRARY_VERSION} was loaded in place of version {before}"
            )?,
            Some(Loaded::Before) => writeln!(f, "version {LIBRARY_VERSION} was there already")?,
            Some(Loaded::Later(version)) => writeln!(
                f,
                "version {version} is there and stays; this program has version {LIBRARY_VERSION}"
            )?,
            None => writeln!(
                f,
                "this server has no functions (Redis 7 does); the script was loaded instead"
            )?,
        }
        write!(f, "{NOTIFICATIONS}: ")?;
        match &self.flags {
            Flags::Complete(flags) => writeln!(f, "'{flags}' has all that gateways need"),
            Flags::Extended { before, now } => writeln!(f, "was '{before}', is now '{now}'"),
            Flags::NotAllowed(reason) => writeln!(
                f,
                "not set, so gateways look for plain XADDs by polling ({reason})"
            ),
        }
    }
}

/// Does it on every primary; gives the lines to print.
///
/// # Errors
/// A server is away, or refuses the library.
pub async fn put_everywhere(deployment: &mut Deployment) -> Result<String, Failure> {
    let primaries = deployment.primaries().await?;
    let mut lines = String::new();
    for address in &primaries {
        let done = match put_in_place(deployment.server(address)).await {
            Ok(done) => done.to_string(),
            Err(failure) => {
                // It may have become a replica.
                deployment.forget();
                return Err(failure);
            }
        };
        match primaries.len() {
            1 => lines += &done,
            _ => done
                .lines()
                .for_each(|line| lines += &format!("{address}: {line}\n")),
        }
    }
    Ok(lines)
}

/// Loads the library and merges the notification flags with those that are set.
async fn put_in_place(server: &mut Server) -> Result<Done, Failure> {
    let library = match load(server).await? {
        Ok(loaded) => Some(loaded),
        Err(Refusal::NoFunctions) => {
            let mut load = redis::cmd("SCRIPT");
            load.arg("LOAD").arg(script());
            let answer = server.ask_one(load).await.map_err(again)?;
            accepted(server, answer)?;
            None
        }
        Err(refusal) => return Err(refusal.into()),
    };
    let flags = notifications(server).await?;
    Ok(Done { library, flags })
}

async fn notifications(server: &mut Server) -> Result<Flags, Failure> {
    let mut get = redis::cmd("CONFIG");
    get.arg("GET").arg(NOTIFICATIONS);
    let answer = server.ask_one(get).await.map_err(again)?;
    let before = match accepted(server, answer) {
        Ok(value) => redis::from_redis_value::<Vec<String>>(value)
            .ok()
            .and_then(|pair| pair.into_iter().nth(1))
            .unwrap_or_default(),
        Err(failure) if failure.kind == FailureKind::Unavailable => return Err(failure),
        Err(failure) => return Ok(Flags::NotAllowed(failure.sentence)),
    };
    let Some(now) = protocol::keys::with_notifications(&before) else {
        return Ok(Flags::Complete(before));
    };
    let mut set = redis::cmd("CONFIG");
    set.arg("SET").arg(NOTIFICATIONS).arg(&now);
    let answer = server.ask_one(set).await.map_err(again)?;
    match accepted(server, answer) {
        Ok(_) => Ok(Flags::Extended { before, now }),
        Err(failure) if failure.kind == FailureKind::Unavailable => Err(failure),
        Err(failure) => Ok(Flags::NotAllowed(failure.sentence)),
    }
}

fn accepted(server: &Server, value: Value) -> Result<Value, Failure> {
    match value {
        Value::ServerError(error) => Err(match server.refusal(&error) {
            Refusal::NoFunctions => Failure::other("the command is not available"),
            other => other.into(),
        }),
        value => Ok(value),
    }
}

/// All that is done here may be done twice.
fn again(failure: Failure) -> Failure {
    match failure.kind {
        FailureKind::Unknown => Failure::unavailable(failure.sentence),
        _ => failure,
    }
}

//! Asks servers for facts. Nothing is changed, and every wait is bounded.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use protocol::publish::VERSION_FUNCTION_NAME;
use protocol::servers::{Address, Servers, ServersError};
use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::{AsyncConnectionConfig, Client, Cmd, ConnectionInfo, ErrorKind, Pipeline, RedisError};
use redis::{ServerErrorKind, Value};

use super::Wanted;
use super::facts::{
    Facts, Fields, Growing, Library, Right, Role, Sample, Sentinel, Server, Silence,
};
use super::rights::{NEEDS, right};
use crate::config;

/// How often the round trip is measured.
const PINGS: usize = 20;
/// Rooms that are looked at on each server.
const ROOMS: usize = 2_000;
/// Steps of `SCAN`, of a thousand keys each.
const SCANS: usize = 50;
/// The settings that are judged.
const SETTINGS: [&str; 13] = [
    "notify-keyspace-events",
    "maxmemory",
    "maxmemory-policy",
    "appendonly",
    "appendfsync",
    "save",
    "client-output-buffer-limit",
    "tcp-keepalive",
    "timeout",
    "maxclients",
    "min-replicas-to-write",
    "min-replicas-max-lag",
    "cluster-require-full-coverage",
];

impl From<RedisError> for Silence {
    fn from(error: RedisError) -> Self {
        let refused = matches!(error.code(), Some("WRONGPASS" | "NOAUTH" | "NOPERM"))
            || error.kind() == ErrorKind::AuthenticationFailed
            || error.kind() == ErrorKind::Server(ServerErrorKind::NoPerm);
        let text = error.to_string();
        if refused {
            Self::Refused(text)
        } else {
            Self::Away(text)
        }
    }
}

impl From<ServersError> for Silence {
    fn from(error: ServersError) -> Self {
        Self::Refused(error.0)
    }
}

async fn connect(
    info: ConnectionInfo,
    (connect, respond): (Duration, Duration),
) -> Result<MultiplexedConnection, Silence> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(connect))
        .set_response_timeout(Some(respond));
    let client = Client::open(info)?;
    let connection = client.get_multiplexed_async_connection_with_config(&config);
    Ok(connection.await?)
}

/// One value for each command; a refusal is a [`Value::ServerError`].
async fn ask(
    connection: &mut MultiplexedConnection,
    commands: Vec<Cmd>,
) -> Result<Vec<Value>, RedisError> {
    let mut pipeline = Pipeline::with_capacity(commands.len());
    let count = commands.len();
    for command in commands {
        pipeline.add_command(command);
    }
    connection.req_packed_commands(&pipeline, 0, count).await
}

async fn one(connection: &mut MultiplexedConnection, words: &[&str]) -> Result<Value, RedisError> {
    let mut values = ask(connection, vec![command(words)]).await?;
    Ok(values.pop().unwrap_or(Value::Nil))
}

fn command(words: &[&str]) -> Cmd {
    let mut command = Cmd::new();
    for word in words {
        command.arg(*word);
    }
    command
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::BulkString(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
        Value::SimpleString(text) | Value::VerbatimString { text, .. } => Some(text.clone()),
        Value::Okay => Some("OK".into()),
        _ => None,
    }
}

fn said(value: &Value) -> Option<String> {
    match value {
        Value::ServerError(error) => {
            let detail = error.details().unwrap_or_default();
            Some(format!("{} {detail}", error.code()).trim_end().to_owned())
        }
        _ => None,
    }
}

fn number(value: &Value) -> i64 {
    match value {
        Value::Int(number) => *number,
        value => text(value).and_then(|text| text.parse().ok()).unwrap_or(0),
    }
}

/// Names and values that follow each other.
fn pairs(value: &Value) -> Fields {
    let pairs: Vec<(Option<String>, Option<String>)> = match value {
        Value::Array(list) => list
            .chunks_exact(2)
            .map(|pair| (text(&pair[0]), text(&pair[1])))
            .collect(),
        Value::Map(map) => map
            .iter()
            .map(|(name, value)| (text(name), text(value)))
            .collect(),
        _ => Vec::new(),
    };
    Fields(pairs.into_iter().filter_map(|(n, v)| n.zip(v)).collect())
}

/// Asks one server for everything.
pub(super) async fn server(
    servers: &Servers,
    wanted: &Wanted,
    address: Address,
    role: Role,
    redis: &config::Redis,
) -> Server {
    let patience = (redis.connect_timeout, redis.response_timeout);
    let facts = facts(servers, wanted, &address, role, patience).await;
    Server {
        address,
        role,
        facts,
    }
}

async fn facts(
    servers: &Servers,
    wanted: &Wanted,
    address: &Address,
    role: Role,
    patience: (Duration, Duration),
) -> Result<Facts, Silence> {
    let info = servers.connection_info(address)?;
    let mut connection = connect(info.clone(), patience).await?;
    let mut facts = Facts {
        round_trips: round_trips(&mut connection).await?,
        ..Facts::default()
    };
    facts.clock_ahead_ms = clock_ahead_ms(&mut connection).await?;
    let answer = one(&mut connection, &["INFO"]).await?;
    facts.info = Fields::parse(&text(&answer).unwrap_or_default());
    facts.user = match text(&one(&mut connection, &["ACL", "WHOAMI"]).await?) {
        Some(user) => Some(user),
        None => servers.login()?.0,
    };
    facts.settings = settings(&mut connection).await?;
    if facts.mode() == Some("cluster") {
        let answer = one(&mut connection, &["CLUSTER", "INFO"]).await?;
        facts.cluster = Fields::parse(&text(&answer).unwrap_or_default());
    }
    let version = one(&mut connection, &["FCALL_RO", VERSION_FUNCTION_NAME, "0"]).await?;
    facts.library = Some(library(&version));
    facts.rights = rights(&mut connection, wanted, servers.database()).await?;
    if role != Role::Replica {
        facts.rooms = Some(rooms(&mut connection, wanted).await?);
    }
    // A connection with subscriptions is good for nothing else.
    for need in NEEDS {
        if need.is_subscription() && need.applies(wanted) {
            let mut connection = connect(info.clone(), patience).await?;
            let asked = vec![need.command(wanted, servers.database())];
            let answer = ask(&mut connection, asked).await?;
            let answer = answer.first().map_or(Right::Allowed, right);
            facts.rights.push((need.name, answer));
        }
    }
    Ok(facts)
}

async fn round_trips(connection: &mut MultiplexedConnection) -> Result<Vec<Duration>, Silence> {
    let mut times = Vec::with_capacity(PINGS);
    for _ in 0..PINGS {
        let began = Instant::now();
        let answer = one(connection, &["PING"]).await?;
        times.push(began.elapsed());
        // Without a password a server lets everyone in, and refuses each command.
        if let Some(refusal) = said(&answer).filter(|said| said.starts_with("NOAUTH")) {
            return Err(Silence::Refused(refusal));
        }
    }
    times.sort_unstable();
    Ok(times)
}

/// The server read its clock in the middle of the round trip, as well as anyone can tell.
async fn clock_ahead_ms(connection: &mut MultiplexedConnection) -> Result<i64, RedisError> {
    let before = since_epoch_ms();
    let answer = one(connection, &["TIME"]).await?;
    let middle = before + (since_epoch_ms() - before) / 2;
    Ok(match answer {
        Value::Array(parts) if parts.len() == 2 => {
            number(&parts[0]) * 1000 + number(&parts[1]) / 1000 - middle
        }
        // Refused: `rights` tells.
        _ => 0,
    })
}

fn since_epoch_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| i64::try_from(now.as_millis()).unwrap_or(i64::MAX))
}

/// `None` where they are refused.
async fn settings(connection: &mut MultiplexedConnection) -> Result<Option<Fields>, RedisError> {
    let asked = SETTINGS.map(|name| command(&["CONFIG", "GET", name]));
    let answers = ask(connection, asked.to_vec()).await?;
    if answers.iter().any(|answer| said(answer).is_some()) {
        return Ok(None);
    }
    let fields = answers.iter().flat_map(|answer| pairs(answer).0);
    Ok(Some(Fields(fields.collect())))
}

fn library(answer: &Value) -> Library {
    match answer {
        Value::Int(version) => Library::Version(*version),
        Value::ServerError(error)
            if error
                .details()
                .unwrap_or_default()
                .starts_with("Function not found") =>
        {
            Library::Missing
        }
        _ => Library::Refused,
    }
}

async fn rights(
    connection: &mut MultiplexedConnection,
    wanted: &Wanted,
    database: i64,
) -> Result<Vec<(&'static str, Right)>, RedisError> {
    let needs = NEEDS
        .iter()
        .filter(|need| need.applies(wanted) && !need.is_subscription());
    let needs: Vec<_> = needs.collect();
    let commands = needs.iter().map(|need| need.command(wanted, database));
    let answers = ask(connection, commands.collect()).await?;
    let names = needs.iter().map(|need| need.name);
    Ok(names.zip(answers.iter().map(right)).collect())
}

/// Streams under the prefix, as many as the limits allow.
async fn rooms(
    connection: &mut MultiplexedConnection,
    wanted: &Wanted,
) -> Result<Result<Sample, String>, RedisError> {
    let mut pattern = String::new();
    for letter in wanted.prefix.chars() {
        if "*?[]\\^".contains(letter) {
            pattern.push('\\');
        }
        pattern.push(letter);
    }
    pattern.push_str("room:*");
    let mut sample = Sample::default();
    let mut cursor = "0".to_owned();
    for _ in 0..SCANS {
        let words = [
            "SCAN", &cursor, "MATCH", &pattern, "COUNT", "1000", "TYPE", "stream",
        ];
        let answer = one(connection, &words).await?;
        if let Some(refusal) = said(&answer) {
            return Ok(Err(refusal));
        }
        let Value::Array(parts) = answer else {
            return Ok(Err("SCAN could not be understood".into()));
        };
        cursor = parts.first().and_then(text).unwrap_or_else(|| "0".into());
        let keys: Vec<String> = match parts.get(1) {
            Some(Value::Array(keys)) => keys.iter().filter_map(text).collect(),
            _ => Vec::new(),
        };
        if let Some(refusal) = look(connection, keys, wanted, &mut sample).await? {
            return Ok(Err(refusal));
        }
        if cursor == "0" {
            sample.is_whole = true;
            break;
        }
        if sample.looked_at >= ROOMS {
            break;
        }
    }
    sample
        .growing
        .sort_by_key(|room| std::cmp::Reverse(room.length));
    Ok(Ok(sample))
}

/// Lengths and expiries of some streams; gives the refusal where there is one.
async fn look(
    connection: &mut MultiplexedConnection,
    keys: Vec<String>,
    wanted: &Wanted,
    sample: &mut Sample,
) -> Result<Option<String>, RedisError> {
    if keys.is_empty() {
        return Ok(None);
    }
    let commands = keys
        .iter()
        .flat_map(|key| [command(&["TTL", key]), command(&["XLEN", key])]);
    let answers = ask(connection, commands.collect()).await?;
    if let Some(refusal) = answers.iter().find_map(said) {
        return Ok(Some(refusal));
    }
    sample.looked_at += keys.len();
    for (key, answer) in keys.into_iter().zip(answers.chunks_exact(2)) {
        let lasts = number(&answer[0]) == -1;
        let length = u64::try_from(number(&answer[1])).unwrap_or(0);
        sample.lasting += usize::from(lasts);
        // A stream is trimmed in blocks of a hundred entries.
        let limit = wanted.max_len + wanted.max_len / 10 + 100;
        if lasts && wanted.max_len > 0 && length > limit {
            sample.growing.push(Growing { key, length });
        }
    }
    Ok(None)
}

/// Asks one sentinel.
pub(super) async fn sentinel(
    servers: &Servers,
    address: &Address,
    master: &str,
    patience: Duration,
) -> Sentinel {
    let asked = async {
        let info = servers.sentinel_info(address)?;
        let mut connection = connect(info, (patience, patience)).await?;
        let view = one(&mut connection, &["SENTINEL", "MASTER", master]).await?;
        if let Some(refusal) = said(&view) {
            return Err(Silence::Refused(refusal));
        }
        let quorum = one(&mut connection, &["SENTINEL", "CKQUORUM", master]).await?;
        let quorum = match said(&quorum) {
            Some(refusal) => Err(refusal),
            None => Ok(text(&quorum).unwrap_or_default()),
        };
        Ok((pairs(&view), quorum))
    };
    Sentinel {
        address: address.clone(),
        facts: asked.await,
    }
}

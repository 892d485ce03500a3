//! A real `redis-server` on a free port with its own directory.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, FromRedisValue, Value};
use tempfile::TempDir;

use super::port;

/// What is left after a kill.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Persistence {
    /// Nothing.
    None,
    /// Every write that was answered.
    AofAlways,
}

/// The server; killed by `Drop`.
pub struct RedisServer {
    pub address: SocketAddr,
    directory: TempDir,
    persistence: Persistence,
    arguments: Vec<String>,
    variables: Vec<(String, String)>,
    primary: Option<SocketAddr>,
    login: String,
    child: Option<Child>,
}

impl RedisServer {
    /// Without persistence.
    pub async fn start() -> Self {
        Self::start_with(Persistence::None).await
    }

    pub async fn start_with(persistence: Persistence) -> Self {
        let mut server = Self::prepare(persistence);
        server.up().await;
        server
    }

    /// With settings of its own; `login` is what stands before the host in this machine's own URL, such as `:password@`.
    pub async fn start_as(arguments: &[&str], login: &str) -> Self {
        let mut server = Self::prepare(Persistence::None);
        server.arguments = arguments.iter().map(|&text| text.to_owned()).collect();
        login.clone_into(&mut server.login);
        server.up().await;
        server
    }

    /// Has an address, but does not run yet.
    pub fn prepare(persistence: Persistence) -> Self {
        let directory = tempfile::tempdir().unwrap();
        Self {
            address: port::free(),
            directory,
            persistence,
            arguments: Vec::new(),
            variables: Vec::new(),
            primary: None,
            login: String::new(),
            child: None,
        }
    }

    /// Settings for the next start.
    pub fn set(&mut self, arguments: &[&str]) {
        self.arguments
            .extend(arguments.iter().map(|&text| text.to_owned()));
    }

    /// An environment variable for the next start.
    pub fn variable(&mut self, name: &str, value: &str) {
        self.variables.push((name.to_owned(), value.to_owned()));
    }

    /// Whose replica it is from the next start on.
    pub fn follow(&mut self, primary: Option<SocketAddr>) {
        self.primary = primary;
    }

    /// Where it keeps its data.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// What it wrote since it was started, the last lines.
    pub fn log(&self) -> String {
        let text = std::fs::read_to_string(self.directory.path().join("redis.log"));
        let text = text.unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    pub fn runs(&self) -> bool {
        self.child.is_some()
    }

    /// Sends a signal by name: `STOP`, `CONT`.
    pub fn signal(&self, name: &str) {
        signal(self.child.as_ref().unwrap(), name);
    }

    /// Starts (again), on the same port with the same directory.
    pub async fn up(&mut self) {
        assert!(self.child.is_none(), "it runs already");
        let log = std::fs::File::create(self.directory.path().join("redis.log")).unwrap();
        let append = if self.persistence == Persistence::AofAlways {
            "yes"
        } else {
            "no"
        };
        let primary = self.primary.iter().flat_map(|address| {
            [
                "--replicaof".to_owned(),
                address.ip().to_string(),
                address.port().to_string(),
            ]
        });
        let child = Command::new("redis-server")
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .args([
                "--port",
                &self.address.port().to_string(),
                "--bind",
                "127.0.0.1",
            ])
            .args([
                "--save",
                "",
                "--appendonly",
                append,
                "--appendfsync",
                "always",
            ])
            .arg("--dir")
            .arg(self.directory.path())
            .args(&self.arguments)
            .args(primary)
            .stdout(Stdio::from(log.try_clone().unwrap()))
            .stderr(Stdio::from(log))
            .spawn()
            .expect("redis-server is needed: `make test` installs it");
        self.child = Some(child);
        eventually!(
            self.try_call::<String>(&["PING"]).await.is_ok(),
            "redis-server on {}",
            self.address
        );
    }

    /// `SIGKILL`: no farewell, no last write.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Copies the persisted data aside, as a backup or a replica that lags would have it.
    pub fn back_up(&self) {
        self.copy("appendonlydir", "backup");
    }

    /// While it is down: what was backed up takes the place of the data.
    pub fn restore(&self) {
        self.forget();
        self.copy("backup", "appendonlydir");
    }

    /// While it is down: its data are gone.
    pub fn forget(&self) {
        assert!(self.child.is_none(), "it runs");
        std::fs::remove_dir_all(self.directory.path().join("appendonlydir")).unwrap();
    }

    fn copy(&self, from: &str, to: &str) {
        let [from, to] = [from, to].map(|name| self.directory.path().join(name));
        std::fs::create_dir_all(&to).unwrap();
        for file in std::fs::read_dir(from).unwrap() {
            let file = file.unwrap();
            std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
        }
    }

    /// How often a command was called since the server started.
    pub async fn calls(&self, command: &str) -> u64 {
        let text: String = self.try_call(&["INFO", "commandstats"]).await.unwrap();
        let name = format!("cmdstat_{command}:calls=");
        let line = text.lines().find_map(|line| line.strip_prefix(&name));
        line.map_or(0, |rest| rest.split(',').next().unwrap().parse().unwrap())
    }

    pub fn url(&self) -> String {
        format!("redis://{}{}", self.login, self.address)
    }

    pub async fn connection(&self) -> redis::RedisResult<MultiplexedConnection> {
        let patience = Some(Duration::from_secs(10));
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(patience)
            .set_response_timeout(patience);
        redis::Client::open(self.url())?
            .get_multiplexed_async_connection_with_config(&config)
            .await
    }

    /// One command on a connection of its own, as `redis-cli` does it.
    pub async fn try_call<T: FromRedisValue>(&self, words: &[&str]) -> redis::RedisResult<T> {
        let bytes: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
        self.try_call_bytes(&bytes).await
    }

    pub async fn try_call_bytes<T: FromRedisValue>(
        &self,
        words: &[&[u8]],
    ) -> redis::RedisResult<T> {
        let mut connection = self.connection().await?;
        command(words).query_async(&mut connection).await
    }

    #[track_caller]
    pub fn call(&self, words: &[&str]) -> impl Future<Output = Value> {
        let words: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
        async move {
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            self.try_call(&words)
                .await
                .unwrap_or_else(|error| panic!("{words:?}: {error}"))
        }
    }

    /// `FCALL sse_publish` with the event's name and data; gives the id.
    pub async fn publish(&self, room: &str, event: &str, data: &str) -> String {
        let words = [
            "FCALL",
            "sse_publish",
            "1",
            &key(room),
            "event",
            event,
            "data",
            data,
        ];
        self.try_call(&words)
            .await
            .unwrap_or_else(|error| panic!("{words:?}: {error}"))
    }

    /// `XADD` with these fields; gives the id.
    pub async fn xadd(&self, room: &str, fields: &[(&str, &str)]) -> String {
        let key = key(room);
        let mut words = vec!["XADD", &key, "*"];
        words.extend(fields.iter().flat_map(|&(name, value)| [name, value]));
        self.try_call(&words)
            .await
            .unwrap_or_else(|error| panic!("{words:?}: {error}"))
    }

    /// All ids of a room's stream.
    pub async fn ids(&self, room: &str) -> Vec<String> {
        let entries: Vec<(String, Vec<Value>)> = self
            .try_call(&["XRANGE", &key(room), "-", "+"])
            .await
            .unwrap();
        entries.into_iter().map(|(id, _)| id).collect()
    }

    /// Channels with subscribers that belong to a room.
    pub async fn channels(&self) -> Vec<String> {
        self.try_call(&["PUBSUB", "CHANNELS", "sse:room:*"])
            .await
            .unwrap()
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// One command on a connection of its own, given up after `patience`: for servers that may be down or stand still.
pub async fn ask<T: FromRedisValue>(
    address: SocketAddr,
    words: &[&str],
    patience: Duration,
) -> redis::RedisResult<T> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(patience))
        .set_response_timeout(Some(patience));
    let client = redis::Client::open(format!("redis://{address}"))?;
    let mut connection = client
        .get_multiplexed_async_connection_with_config(&config)
        .await?;
    redis::Cmd::new()
        .arg(words)
        .query_async(&mut connection)
        .await
}

/// Sends a signal by name to a process of this test.
pub fn signal(child: &Child, name: &str) {
    let sent = Command::new("kill")
        .args([&format!("-{name}"), &child.id().to_string()])
        .status();
    assert!(sent.unwrap().success(), "kill -{name}");
}

/// The stream key and channel of a room.
pub fn key(room: &str) -> String {
    format!("sse:room:{room}")
}

pub fn command(words: &[&[u8]]) -> redis::Cmd {
    let mut command = redis::Cmd::new();
    for word in words {
        command.arg(*word);
    }
    command
}

//! The binary under test, as a process.

use std::fs::File;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use super::{RedisServer, http, http::Response, port};

/// The key that gateways with Redis accept for publishing.
pub const PUBLISH_KEY: &str = "a-key-for-tests";

/// How to start a gateway.
#[derive(Debug, Clone)]
pub struct Setup {
    arguments: Vec<String>,
    variables: Vec<(String, String)>,
    pub address: SocketAddr,
    pub admin: SocketAddr,
    secured: bool,
}

impl Setup {
    /// Development mode: memory broker, open publishing.
    pub fn memory() -> Self {
        let (address, admin) = (port::free(), port::free());
        let arguments = [
            "--listen",
            &address.to_string(),
            "--admin-listen",
            &admin.to_string(),
        ]
        .map(String::from);
        let setup = Self {
            arguments: arguments.to_vec(),
            variables: Vec::new(),
            address,
            admin,
            secured: false,
        };
        // No jitter: exact bytes are compared. One shard and two are both met by the suite.
        setup
            .set("stream.retry", "2s")
            .set("stream.retry_jitter", "0s")
            .set("shards", "2")
    }

    /// With Redis at this address; publishing over HTTP needs [`PUBLISH_KEY`].
    pub fn redis_at(address: SocketAddr) -> Self {
        Self::redis_by(&format!("redis://{address}"))
    }

    /// The same with an URL.
    pub fn redis_by(url: &str) -> Self {
        let mut setup = Self::memory().arguments(&["--redis", url]);
        setup = setup.arguments(&["--publish-key", PUBLISH_KEY]);
        setup.secured = true;
        // Faults are found sooner than by default, because tests wait for it.
        setup
            .set("redis.verify_interval", "500ms")
            .set("redis.probe_interval", "200ms")
    }

    pub fn redis(server: &RedisServer) -> Self {
        Self::redis_at(server.address)
    }

    pub fn arguments(mut self, arguments: &[&str]) -> Self {
        self.arguments
            .extend(arguments.iter().map(|&argument| argument.to_owned()));
        self
    }

    /// The operators' listener on all addresses of this machine, not on its own one alone.
    pub fn admin_for_others(mut self) -> Self {
        let own = self.admin.to_string();
        let all = format!("0.0.0.0:{}", self.admin.port());
        for argument in &mut self.arguments {
            if *argument == own {
                argument.clone_from(&all);
            }
        }
        self
    }

    pub fn node(self, name: &str) -> Self {
        self.arguments(&["--node", name])
    }

    /// Sets a configuration key by its environment variable: `stream.retry` is
    /// `SSE_STREAM__RETRY`.
    pub fn set(self, key: &str, value: &str) -> Self {
        let name = format!("SSE_{}", key.replace('.', "__").to_ascii_uppercase());
        self.variable(&name, value)
    }

    pub fn variable(mut self, name: &str, value: &str) -> Self {
        self.variables.retain(|(known, _)| known != name);
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    fn command(&self) -> Command {
        let mut command = binary();
        command
            .args(&self.arguments)
            .envs(self.variables.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Runs it to its end; for start-ups that fail.
    pub async fn output(&self) -> Output {
        output(self.command()).await
    }

    /// Starts without waiting.
    pub fn spawn(self) -> Gateway {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("gateway.log");
        let file = File::create(&log).unwrap();
        let child = self
            .command()
            .stdout(Stdio::from(file.try_clone().unwrap()))
            .stderr(Stdio::from(file))
            .spawn();
        let child = Some(child.expect("the gateway's binary"));
        Gateway {
            address: self.address,
            admin: self.admin,
            setup: self,
            child,
            log,
            _directory: directory,
        }
    }

    /// Starts and waits until it is ready.
    pub async fn start(self) -> Gateway {
        let mut gateway = self.spawn();
        gateway.wait_ready().await;
        gateway
    }
}

/// The binary with a clean environment.
pub fn binary() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sse-gateway"));
    command
        .env_clear()
        .envs(std::env::vars().filter(|(name, _)| !name.starts_with("SSE_") && name != "RUST_LOG"));
    command.stdin(Stdio::null());
    command
}

/// Runs a command to its end, but not forever.
pub async fn output(mut command: Command) -> Output {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut command = tokio::process::Command::from(command);
    command.kill_on_drop(true);
    let run = tokio::time::timeout(super::DEADLINE, command.output());
    run.await.expect("it should have ended by itself").unwrap()
}

/// A running gateway; killed by `Drop`, which shows its log when the test fails.
pub struct Gateway {
    pub address: SocketAddr,
    pub admin: SocketAddr,
    setup: Setup,
    child: Option<Child>,
    log: PathBuf,
    _directory: tempfile::TempDir,
}

impl Gateway {
    pub async fn wait_ready(&mut self) {
        eventually!(
            {
                let exited = self.child.as_mut().unwrap().try_wait().unwrap();
                assert!(
                    exited.is_none(),
                    "the gateway ended ({exited:?}):\n{}",
                    self.log()
                );
                self.is_ready().await
            },
            "{}",
            self.log()
        );
    }

    /// Waits until it answers at all.
    pub async fn wait_alive(&self) {
        eventually!(
            self.admin("/livez")
                .await
                .is_ok_and(|answer| answer.status == 200),
            "{}",
            self.log()
        );
    }

    pub async fn is_ready(&self) -> bool {
        self.admin("/readyz")
            .await
            .is_ok_and(|answer| answer.status == 200)
    }

    pub async fn admin(&self, path: &str) -> std::io::Result<Response> {
        http::try_request(self.admin, "GET", path, &[], b"").await
    }

    /// A metric's number, by its name with labels; `None` where there is none, or no answer.
    pub async fn metric(&self, series: &str) -> Option<f64> {
        let text = self.admin("/metrics").await.ok()?.text();
        let mut numbers = text
            .lines()
            .filter_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        numbers.next()?.parse().ok()
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// `SIGKILL`.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Sends a signal by name: `TERM`, `INT`.
    pub fn signal(&self, name: &str) {
        super::redis::signal(self.child.as_ref().unwrap(), name);
    }

    /// Waits for the end and gives the exit code.
    pub async fn wait_exit(&mut self) -> Option<i32> {
        let mut child = self.child.take().unwrap();
        eventually!(
            child.try_wait().unwrap().is_some(),
            "the gateway does not end:\n{}",
            self.log()
        );
        child.wait().unwrap().code()
    }

    /// After a kill: the same again, at the same addresses.
    pub async fn up(&mut self) {
        assert!(self.child.is_none(), "it runs already");
        *self = self.setup.clone().start().await;
    }

    pub async fn get(&self, target: &str) -> Response {
        http::get(self.address, target).await
    }

    /// Publishes over HTTP, with the key where one is needed.
    pub async fn post(&self, room: &str, headers: &[(&str, &str)], body: &[u8]) -> Response {
        let key = format!("Bearer {PUBLISH_KEY}");
        let mut headers = headers.to_vec();
        if self.setup.secured && headers.iter().all(|(name, _)| *name != "Authorization") {
            headers.push(("Authorization", &key));
        }
        http::request(
            self.address,
            "POST",
            &format!("/rooms/{room}/events"),
            &headers,
            body,
        )
        .await
    }

    /// Publishes a named event over HTTP and gives its id.
    pub async fn publish(&self, room: &str, event: &str, data: &str) -> String {
        let body = serde_json::json!({ "event": event, "data": data }).to_string();
        let answer = self
            .post(
                room,
                &[("Content-Type", "application/json")],
                body.as_bytes(),
            )
            .await;
        assert_eq!(answer.status, 201, "{}", answer.text());
        answer.json()["id"].as_str().unwrap().to_owned()
    }

    /// `GET /rooms/{room}`.
    pub async fn room(&self, room: &str) -> serde_json::Value {
        let answer = self.get(&format!("/rooms/{room}")).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()
    }

    /// Entries that this node skipped in a room, whatever the reason.
    pub async fn skipped(&self, room: &str) -> u64 {
        let room = self.room(room).await;
        let reasons = room["skipped"]
            .as_object()
            .unwrap_or_else(|| panic!("no skipped: {room}"));
        reasons.values().filter_map(serde_json::Value::as_u64).sum()
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if self.child.is_some() && std::thread::panicking() {
            eprintln!(
                "--- log of the gateway at {}:\n{}",
                self.address,
                self.log()
            );
        }
        self.kill();
    }
}

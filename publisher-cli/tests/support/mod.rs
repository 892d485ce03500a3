//! A real Redis, the built program, and waiting with a deadline.
#![allow(dead_code, reason = "each test binary uses its part")]

use std::io::Write;
use std::net::TcpListener;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use redis::FromRedisValue;

pub mod cluster;
pub mod sentinel;
pub mod tls;

pub const DEADLINE: Duration = Duration::from_secs(60);

/// Waits for something, with a deadline.
pub fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !done() {
        assert!(Instant::now() < end, "never happened: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A `redis-server` of this test, on a port of its own; killed when dropped.
pub struct Redis {
    process: Child,
    port: u16,
    arguments: Vec<String>,
    directory: tempfile::TempDir,
}

impl Redis {
    pub fn start(arguments: &[&str]) -> Self {
        Self::start_as(|| arguments.iter().map(|&text| text.to_owned()).collect())
    }

    /// With arguments that are made anew if another test has taken a port of theirs.
    pub fn start_as(arguments: impl Fn() -> Vec<String>) -> Self {
        let mut directory = tempfile::tempdir().unwrap();
        loop {
            let port = free_port();
            let arguments = arguments();
            let process = spawn(port, &arguments, directory.path());
            let mut redis = Self {
                process,
                port,
                arguments: arguments.clone(),
                directory,
            };
            // Another test may have taken the port in between.
            if redis.is_up() {
                return redis;
            }
            directory = std::mem::replace(&mut redis.directory, tempfile::tempdir().unwrap());
        }
    }

    fn is_up(&mut self) -> bool {
        let end = Instant::now() + DEADLINE;
        while Instant::now() < end {
            if self.process.try_wait().unwrap().is_some() {
                return false;
            }
            let answer = self
                .client()
                .get_connection()
                .and_then(|mut connection| redis::cmd("INFO").query::<String>(&mut connection));
            let own = format!("process_id:{}", self.process.id());
            match answer {
                Ok(text) if !text.contains(&own) => return false,
                Ok(text) if text.contains("\nloading:0") => return true,
                // It asks for a password, which is as good as an answer.
                Err(error) if error.code() == Some("NOAUTH") => return true,
                _ => std::thread::sleep(Duration::from_millis(5)),
            }
        }
        false
    }

    fn client(&self) -> redis::Client {
        redis::Client::open(self.url()).unwrap()
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// A new connection.
    pub fn connection(&self) -> redis::Connection {
        self.client().get_connection().unwrap()
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Stops it or lets it go on, by `STOP` and `CONT`.
    pub fn signal(&self, name: &str) {
        signal(name, &self.process);
    }

    pub fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Asks it something on a new connection.
    pub fn ask<T: FromRedisValue>(&self, words: &[&str]) -> T {
        self.try_ask(words).unwrap()
    }

    pub fn try_ask<T: FromRedisValue>(&self, words: &[&str]) -> redis::RedisResult<T> {
        let mut connection = self.client().get_connection()?;
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]);
        command.query(&mut connection)
    }

    /// The entries of a room: id, event name, data.
    pub fn entries(&self, room: &str) -> Vec<(String, String, String)> {
        let key = format!("sse:room:{room}");
        let entries: Vec<(String, std::collections::HashMap<String, String>)> =
            self.ask(&["XRANGE", &key, "-", "+"]);
        let field = |fields: &std::collections::HashMap<String, String>, name: &str| {
            fields.get(name).cloned().unwrap_or_default()
        };
        entries
            .into_iter()
            .map(|(id, fields)| (id, field(&fields, "event"), field(&fields, "data")))
            .collect()
    }

    /// Kills all connections between the execution of their commands and the answers to them.
    ///
    /// While the server is kept busy, the next batch of a publisher arrives, and then the order to
    /// kill. Both are executed in one turn of the server's loop, which ends with writing answers.
    pub fn kill_clients_before_they_are_answered(&self) {
        const BUSY: &str =
            "local function now() local t = redis.call('TIME') return t[1] * 1000000 + t[2] end
            local start = now() while now() - start < 30000 do end";
        let mut killer = self.client().get_connection().unwrap();
        let mut other = self.client().get_connection().unwrap();
        let busy = redis::cmd("EVAL").arg(BUSY).arg(0).get_packed_command();
        other.send_packed_command(&busy).unwrap();
        std::thread::sleep(Duration::from_millis(15));
        let kill = ["KILL", "TYPE", "normal", "SKIPME", "yes"];
        let killed: i64 = redis::cmd("CLIENT").arg(&kill).query(&mut killer).unwrap();
        assert!(killed > 0);
    }

    /// Kills it without a word and starts it again in the same directory.
    pub fn crash_and_restart(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        self.process = spawn(self.port, &self.arguments, self.directory.path());
        assert!(self.is_up(), "redis-server did not come back");
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn spawn(port: u16, arguments: &[String], directory: &std::path::Path) -> Child {
    Command::new("redis-server")
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1"])
        .args(["--save", "", "--dir"])
        .arg(directory)
        .args(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("redis-server is needed for these tests")
}

pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// `sse-publish` with these arguments and none of the environment's settings.
pub fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sse-publish"));
    command
        .args(arguments)
        .env_remove("SSE_REDIS__URL")
        .env_remove("SSE_REDIS__PREFIX")
        .env_remove("SSE_REDIS__PASSWORD_FILE")
        .env_remove("SSE_REDIS__CA_FILE")
        .env_remove("SSE_REDIS__CERT_FILE")
        .env_remove("SSE_REDIS__KEY_FILE")
        .env_remove("SSE_REDIS__SENTINEL_USER")
        .env_remove("SSE_REDIS__SENTINEL_PASSWORD")
        .env_remove("SSE_REDIS__SENTINEL_PASSWORD_FILE")
        .env_remove("SSE_PUBLISH_KEY")
        .env_remove("SSE_ADMIN__TOKEN")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// How a run ended.
#[derive(Debug)]
pub struct Run {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl From<Output> for Run {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

/// Sends a signal.
pub fn signal(name: &str, child: &Child) {
    let process = child.id().to_string();
    let sent = Command::new("kill").args(["-s", name, &process]).status();
    assert!(sent.unwrap().success());
}

/// Runs it with this standard input.
pub fn run(arguments: &[&str], input: &[u8]) -> Run {
    start(arguments, input.to_vec()).join().unwrap()
}

/// The same, in the background.
pub fn start(arguments: &[&str], input: Vec<u8>) -> std::thread::JoinHandle<Run> {
    let mut child = command(arguments).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    std::thread::spawn(move || {
        let feeder = std::thread::spawn(move || {
            // It may stop reading at a line that it refuses.
            let _ = stdin.write_all(&input);
        });
        let run = child.wait_with_output().unwrap().into();
        feeder.join().unwrap();
        run
    })
}

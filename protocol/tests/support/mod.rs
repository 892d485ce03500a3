//! What the tests share: a server of their own, and the vectors.
#![allow(dead_code, reason = "each test binary uses its part")]

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use redis::{Connection, RedisResult};
use serde_json::Value;

const DEADLINE: Duration = Duration::from_secs(30);

/// A server of this test; killed when dropped.
pub struct Server {
    process: Child,
    port: u16,
}

impl Server {
    /// On a free port, without persistence.
    pub fn start() -> Self {
        loop {
            let port = {
                let listener = TcpListener::bind("127.0.0.1:0").unwrap();
                listener.local_addr().unwrap().port()
            };
            let process = Command::new("redis-server")
                .args(["--port", &port.to_string(), "--bind", "127.0.0.1"])
                .args(["--save", "", "--appendonly", "no"])
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .expect("redis-server is needed for these tests");
            let mut server = Self { process, port };
            if server.is_up() {
                return server;
            }
        }
    }

    /// False where another process took the port.
    fn is_up(&mut self) -> bool {
        let own = format!("process_id:{}", self.process.id());
        let end = Instant::now() + DEADLINE;
        while Instant::now() < end && self.process.try_wait().unwrap().is_none() {
            let info = self
                .connect()
                .and_then(|mut c| redis::cmd("INFO").query::<String>(&mut c));
            match info {
                Ok(text) => return text.contains(&own),
                Err(_) => std::thread::sleep(Duration::from_millis(5)),
            }
        }
        false
    }

    /// A new connection.
    pub fn connect(&self) -> RedisResult<Connection> {
        redis::Client::open(format!("redis://127.0.0.1:{}", self.port))?.get_connection()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A file of `protocol/vectors`.
pub fn vectors(file: &str) -> Value {
    let path = format!("{}/vectors/{file}", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap();
    serde_json::from_str(&text).unwrap()
}

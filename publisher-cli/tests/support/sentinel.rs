//! A primary with a replica, and a sentinel that wants a password.

use std::process::{Child, Command, Stdio};

use super::{Redis, eventually, free_port};

pub const PASSWORD: &str = "watch";

pub struct Sentinel {
    pub servers: [Redis; 2],
    port: u16,
    process: Child,
    _directory: tempfile::TempDir,
}

impl Sentinel {
    pub fn start() -> Self {
        let fast = ["--repl-diskless-sync-delay", "0"];
        let first = Redis::start(&fast);
        let port = first.port().to_string();
        let second = Redis::start(&[&["--replicaof", "127.0.0.1", &port][..], &fast].concat());
        eventually("the replica follows", || {
            let text: String = first.ask(&["INFO", "replication"]);
            text.contains("state=online")
        });
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("sentinel.conf");
        let own = free_port();
        let text = format!(
            "port {own}\nbind 127.0.0.1\nrequirepass {PASSWORD}\nsentinel monitor main 127.0.0.1 {port} 1\n\
             sentinel down-after-milliseconds main 1000\nsentinel failover-timeout main 5000\n"
        );
        std::fs::write(&file, text).unwrap();
        let process = Command::new("redis-server")
            .arg(&file)
            .arg("--sentinel")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let sentinel = Self {
            servers: [first, second],
            port: own,
            process: process.unwrap(),
            _directory: directory,
        };
        eventually("the sentinel knows the replica", || {
            sentinel
                .ask(&["SENTINEL", "REPLICAS", "main"])
                .is_ok_and(|answer| matches!(answer, redis::Value::Array(list) if list.len() == 1))
        });
        sentinel
    }

    fn ask(&self, words: &[&str]) -> redis::RedisResult<redis::Value> {
        let url = format!("redis://:{PASSWORD}@127.0.0.1:{}", self.port);
        let mut connection = redis::Client::open(url)?.get_connection()?;
        redis::cmd(words[0]).arg(&words[1..]).query(&mut connection)
    }

    pub fn url(&self) -> String {
        format!("redis+sentinel://127.0.0.1:{}/main", self.port)
    }

    /// Makes the replica the primary, and the primary a replica.
    pub fn fail_over(&self) {
        let role = |server: &Redis, role: &str| {
            let text = server.try_ask::<String>(&["INFO", "replication"]);
            text.is_ok_and(|text| text.contains(&format!("role:{role}")))
        };
        eventually("the sentinel begins", || {
            self.ask(&["SENTINEL", "FAILOVER", "main"]).is_ok()
        });
        eventually("both have changed", || {
            role(&self.servers[0], "slave") && role(&self.servers[1], "master")
        });
    }
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

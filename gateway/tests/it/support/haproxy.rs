//! HAProxy with the configuration that this project ships; only the addresses are the test's own.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::{Gateway, http, port};

/// A running HAProxy; killed by `Drop`.
pub struct HaProxy {
    pub address: SocketAddr,
    child: Child,
    log: PathBuf,
    _directory: tempfile::TempDir,
}

impl HaProxy {
    /// `None`, with a line that says so, where HAProxy is not installed: nothing else skips a test.
    pub async fn start(gateways: [&Gateway; 2]) -> Option<Self> {
        let version = Command::new("haproxy").arg("-v").output();
        if version.is_err() {
            eprintln!("SKIPPED: haproxy is not installed (apt-get install haproxy)");
            return None;
        }
        let address = port::free();
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("haproxy.log");
        let out = File::create(&log).unwrap();
        let mut command = Command::new("haproxy");
        command.args(["-db", "-f", "haproxy.cfg"]);
        command.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy"));
        command.env("BIND", address.to_string());
        for (gateway, number) in gateways.iter().zip(1..) {
            let (name, admin) = (format!("GATEWAY_{number}"), gateway.admin.port());
            command.env(format!("{name}_ADMIN_PORT"), admin.to_string());
            command.env(name, gateway.address.to_string());
        }
        command
            .stdin(Stdio::null())
            .stderr(out.try_clone().unwrap());
        let child = command.stdout(out).spawn().unwrap();
        let mut haproxy = Self {
            address,
            child,
            log,
            _directory: directory,
        };
        haproxy.wait().await;
        Some(haproxy)
    }

    async fn wait(&mut self) {
        let log = || std::fs::read_to_string(&self.log).unwrap_or_default();
        eventually!(
            {
                let ended = self.child.try_wait().unwrap();
                assert!(ended.is_none(), "haproxy ended: {}", log());
                let answer = http::try_request(self.address, "GET", "/rooms/probe", &[], b"").await;
                answer.is_ok_and(|answer| answer.status == 200)
            },
            "{}",
            log()
        );
    }
}

impl Drop for HaProxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

//! HAProxy with the configuration that this project ships; only the addresses are the test's own.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::{Gateway, http, port};

/// A running HAProxy; killed by `Drop`.
pub struct HaProxy {
    pub address: SocketAddr,
    child: Child,
    log: std::path::PathBuf,
    _directory: tempfile::TempDir,
}

impl HaProxy {
    /// `None`, with a line that says so, where HAProxy is not installed: nothing else skips a test.
    pub async fn start(gateways: &[&Gateway]) -> Option<Self> {
        let installed = Command::new("haproxy")
            .arg("-v")
            .stdout(Stdio::null())
            .status();
        if installed.is_err() {
            eprintln!("SKIPPED: haproxy is not installed (apt-get install haproxy)");
            return None;
        }
        let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy");
        let shipped =
            std::fs::read_to_string(deploy.join("haproxy.cfg")).expect("deploy/haproxy.cfg");
        let address = port::free();
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("haproxy.cfg");
        std::fs::write(&file, with_addresses(&shipped, address, gateways)).unwrap();
        let log = directory.path().join("haproxy.log");
        let out = std::fs::File::create(&log).unwrap();
        let mut command = Command::new("haproxy");
        // `-C`: error files are named relative to the configuration that is shipped.
        command
            .arg("-db")
            .arg("-C")
            .arg(&deploy)
            .arg("-f")
            .arg(&file)
            .stdin(Stdio::null());
        let child = command
            .stdout(Stdio::from(out.try_clone().unwrap()))
            .stderr(Stdio::from(out))
            .spawn()
            .unwrap();
        let mut haproxy = Self {
            address,
            child,
            log,
            _directory: directory,
        };
        eventually!(
            {
                assert!(
                    haproxy.child.try_wait().unwrap().is_none(),
                    "haproxy ended: {}",
                    haproxy.log()
                );
                http::try_request(address, "GET", "/rooms/probe", &[], b"")
                    .await
                    .is_ok_and(|a| a.status == 200)
            },
            "{}",
            haproxy.log()
        );
        Some(haproxy)
    }

    fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for HaProxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The shipped configuration with our address in `bind`, and our gateways in the `server` lines.
fn with_addresses(shipped: &str, address: SocketAddr, gateways: &[&Gateway]) -> String {
    let mut left = gateways.iter();
    let mut lines = Vec::new();
    for line in shipped.lines() {
        let mut words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        match words.first().map(String::as_str) {
            Some("bind") => words[1] = address.to_string(),
            Some("server") => {
                let Some(gateway) = left.next() else { continue };
                words[2] = gateway.address.to_string();
                if let Some(at) = words.iter().position(|word| word == "port") {
                    words[at + 1] = gateway.admin.port().to_string();
                }
            }
            _ => {
                lines.push(line.to_owned());
                continue;
            }
        }
        lines.push(format!("    {}", words.join(" ")));
    }
    assert!(
        left.next().is_none(),
        "deploy/haproxy.cfg has fewer servers than the test has gateways"
    );
    lines.join("\n") + "\n"
}

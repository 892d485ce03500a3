//! Systems to compare: how each is described, started and stopped.
//!
//! A system is a TOML file: its program, its configuration files, and the requests that subscribe and publish. In
//! commands and files, `@port@`, `@port2@` and `@port3@` are free ports of 127.0.0.1, `@dir@` is a directory of the
//! system's own, `@program@` its program, `@self@` this one, `@gateway@` the gateway, `@redis@` the URL of a Redis
//! server, `@shards@` how many shards a gateway is to have, `@keys@` a directory with `hs256.key` and `es256.pem`, which check
//! the tokens of clients, and with `cert.pem` and `key.pem` for TLS.

mod fill;
mod processes;
mod running;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;

pub use processes::tree;
pub use running::{Running, Surroundings};

use crate::target::Request;

/// The systems that this tool knows, in the order in which they are listed.
const KNOWN: &[(&str, &str)] = &[
    ("gateway", include_str!("../peers/gateway.toml")),
    (
        "gateway-before",
        include_str!("../peers/gateway-before.toml"),
    ),
    (
        "gateway-tokens",
        include_str!("../peers/gateway-tokens.toml"),
    ),
    ("gateway-tls", include_str!("../peers/gateway-tls.toml")),
    ("gateway-redis", include_str!("../peers/gateway-redis.toml")),
    ("floor", include_str!("../peers/floor.toml")),
    ("relay", include_str!("../peers/relay.toml")),
    ("plain", include_str!("../peers/plain.toml")),
    ("nchan", include_str!("../peers/nchan.toml")),
    ("nchan-redis", include_str!("../peers/nchan-redis.toml")),
    ("pushpin", include_str!("../peers/pushpin.toml")),
    ("mercure", include_str!("../peers/mercure.toml")),
    ("subscriber", include_str!("../peers/subscriber.toml")),
    ("redis", include_str!("../peers/redis.toml")),
    ("centrifugo", include_str!("../peers/centrifugo.toml")),
];

/// Why a system cannot be measured.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// No such system.
    #[error("there is no system {0}; known are {known}, or give a file: --peer FILE.toml", known = names().join(", "))]
    Unknown(String),
    /// Its file cannot be read.
    #[error("{0} cannot be read: {1}")]
    File(PathBuf, #[source] io::Error),
    /// Its file is not a system's description.
    #[error("{0} does not describe a system: {1}")]
    Malformed(String, String),
    /// A placeholder that stands for nothing.
    #[error("{system} uses @{name}@, which stands for nothing{hint}")]
    Placeholder {
        /// The system.
        system: String,
        /// The placeholder.
        name: String,
        /// What to do about it.
        hint: &'static str,
    },
    /// Its program is not there.
    #[error("{system} needs the program {program}, which cannot be started ({error}): {install}")]
    Program {
        /// The system.
        system: String,
        /// The program.
        program: String,
        /// Why not.
        error: io::Error,
        /// How to get it.
        install: String,
    },
    /// It ended, or does not answer.
    #[error("{system} {what}; the end of its output: {log}")]
    Start {
        /// The system.
        system: String,
        /// What happened.
        what: &'static str,
        /// Its last lines.
        log: String,
    },
    /// The system refuses a directory, a port or a process.
    #[error("{0} cannot be started: {1}")]
    System(String, #[source] io::Error),
}

/// How one publishes to a system.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct PublishVia {
    /// By a request.
    http: Option<Request>,
    /// The port that takes it: 1 for `@port@`, 2 for `@port2@`, 3 for `@port3@`.
    #[serde(default = "one")]
    port: usize,
    /// In Redis: `function` or `xadd`.
    redis: Option<String>,
}

fn one() -> usize {
    1
}

/// A system.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct System {
    /// Its name, one word.
    #[serde(default)]
    pub name: String,
    /// What it is, and how it is configured.
    pub about: String,
    /// How to get its program.
    install: String,
    program: String,
    command: Vec<String>,
    /// Commands that it needs beside it, started first.
    #[serde(default)]
    companions: Vec<Vec<String>>,
    #[serde(default)]
    env: BTreeMap<String, String>,
    /// Files in its directory: their names and contents.
    #[serde(default)]
    files: BTreeMap<String, String>,
    /// Whether it listens on its port: it is ready then; else as soon as it has written a line.
    #[serde(default = "yes")]
    listens: bool,
    /// Whether it speaks TLS on its port, with the certificate in `@keys@`.
    #[serde(default)]
    tls: bool,
    /// The most streams that may be opening at a time, where it refuses some otherwise.
    pub at_once: Option<u64>,
    subscribe: Request,
    publish: PublishVia,
}

fn yes() -> bool {
    true
}

/// The names of the systems that this tool knows.
#[must_use]
pub fn names() -> Vec<&'static str> {
    KNOWN.iter().map(|(name, _)| *name).collect()
}

impl System {
    /// A system that this tool knows.
    ///
    /// # Errors
    /// There is none of this name.
    pub fn known(name: &str) -> Result<Self, PeerError> {
        let Some((name, text)) = KNOWN.iter().find(|(known, _)| *known == name) else {
            return Err(PeerError::Unknown(name.to_owned()));
        };
        Self::parse(name, text)
    }

    /// A system from a file.
    ///
    /// # Errors
    /// The file cannot be read, or describes none.
    pub fn load(path: &Path) -> Result<Self, PeerError> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| PeerError::File(path.to_owned(), error))?;
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        Self::parse(&name, &text)
    }

    fn parse(name: &str, text: &str) -> Result<Self, PeerError> {
        let malformed = |why: String| PeerError::Malformed(name.to_owned(), why);
        let mut system: Self =
            toml::from_str(text).map_err(|error| malformed(error.to_string()))?;
        if system.name.is_empty() {
            name.clone_into(&mut system.name);
        }
        let in_redis = matches!(system.publish.redis.as_deref(), Some("function" | "xadd"));
        if system.command.is_empty() || system.publish.http.is_some() == in_redis {
            return Err(malformed(
                "it needs a command, and publish.http or publish.redis = \"function\" or \"xadd\""
                    .to_owned(),
            ));
        }
        if !(1..=3).contains(&system.publish.port) {
            return Err(malformed("publish.port is 1, 2 or 3".to_owned()));
        }
        Ok(system)
    }

    /// Whether it needs a Redis server.
    #[must_use]
    pub fn needs_redis(&self) -> bool {
        let texts = self.command.iter().chain(self.companions.iter().flatten());
        let texts = texts.chain(self.env.values());
        self.publish.redis.is_some()
            || texts
                .chain(self.files.values())
                .any(|text| text.contains("@redis"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_known_system_is_described_in_full() {
        for name in names() {
            let system = System::known(name).unwrap();
            assert_eq!(system.name, name);
            assert!(!system.about.is_empty() && !system.install.is_empty());
            let on_redis = ["gateway-redis", "relay", "nchan-redis", "subscriber"];
            assert_eq!(system.needs_redis(), on_redis.contains(&name), "{name}");
        }
        assert!(
            System::known("carrier-pigeon")
                .unwrap_err()
                .to_string()
                .contains("nchan")
        );
    }

    #[test]
    fn a_description_that_lacks_something_is_refused() {
        let lacks = "about = 'a'\ninstall = 'i'\nprogram = 'p'\ncommand = ['p']\n[subscribe]\npath = '/'\n[publish]\n";
        assert!(
            System::parse("x", lacks)
                .unwrap_err()
                .to_string()
                .contains("publish")
        );
        assert!(
            System::parse("x", "colour = 'red'")
                .unwrap_err()
                .to_string()
                .contains("colour")
        );
    }
}

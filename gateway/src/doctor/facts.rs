//! What is known about a deployment, before anyone judges it.

use std::collections::BTreeMap;
use std::time::Duration;

use protocol::servers::Address;

/// `INFO`, `CLUSTER INFO` and `CONFIG GET`: names and values.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Fields(pub(super) BTreeMap<String, String>);

impl Fields {
    /// Reads `name:value` lines.
    pub(super) fn parse(text: &str) -> Self {
        let lines = text.lines().filter_map(|line| line.split_once(':'));
        Self(
            lines
                .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
                .collect(),
        )
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    pub(super) fn number(&self, name: &str) -> Option<u64> {
        self.get(name)?.parse().ok()
    }
}

/// What a server has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Primary,
    Replica,
    /// A node of a cluster that nobody could describe.
    Unknown,
}

/// Whether a user may use a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Right {
    Allowed,
    /// By the user's rules.
    Denied(Denied),
    /// The server does not have the command, or has renamed it.
    Absent,
}

/// What a user's rules lack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Denied {
    Command,
    Key,
    Channel,
}

/// The function library.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Library {
    Version(i64),
    Missing,
    /// The server has no functions, or refuses them: the script does the same.
    Refused,
}

/// A room whose stream has more entries than it should, and no expiry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Growing {
    pub(super) key: String,
    pub(super) length: u64,
}

/// A look at some of the rooms.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Sample {
    /// Streams that were looked at.
    pub(super) looked_at: usize,
    /// Whether these are all.
    pub(super) is_whole: bool,
    /// Streams without an expiry.
    pub(super) lasting: usize,
    /// Those of them that are too long; the longest first.
    pub(super) growing: Vec<Growing>,
}

/// What a server that answers says.
#[derive(Debug, Clone, Default)]
pub(super) struct Facts {
    /// Round trips, ascending.
    pub(super) round_trips: Vec<Duration>,
    /// Its clock minus this machine's, in milliseconds.
    pub(super) clock_ahead_ms: i64,
    /// As the server names it, or as it was told to the server.
    pub(super) user: Option<String>,
    /// Empty where it is refused.
    pub(super) info: Fields,
    /// `CONFIG GET`; `None` where it is refused.
    pub(super) settings: Option<Fields>,
    /// Empty outside of clusters.
    pub(super) cluster: Fields,
    /// By the names in `rights::NEEDS`.
    pub(super) rights: Vec<(&'static str, Right)>,
    pub(super) library: Option<Library>,
    /// The error is the refusal.
    pub(super) rooms: Option<Result<Sample, String>>,
}

impl Facts {
    /// A setting; `None` where settings are not shown.
    pub(super) fn setting(&self, name: &str) -> Option<&str> {
        self.settings.as_ref()?.get(name)
    }

    /// `standalone`, `cluster` or `sentinel`.
    pub(super) fn mode(&self) -> Option<&str> {
        let redis = self.info.get("redis_mode");
        redis.or_else(|| self.info.get("server_mode"))
    }

    pub(super) fn right(&self, name: &str) -> Option<Right> {
        let found = self.rights.iter().find(|(known, _)| *known == name);
        found.map(|(_, right)| *right)
    }
}

/// Why a server says nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Silence {
    /// It cannot be reached; one clause.
    Away(String),
    /// It does not let this user in.
    Refused(String),
}

/// One server.
#[derive(Debug, Clone)]
pub(super) struct Server {
    pub(super) address: Address,
    pub(super) role: Role,
    pub(super) facts: Result<Facts, Silence>,
}

impl Server {
    /// The replicas that it lists.
    pub(super) fn replicas(&self) -> Vec<Address> {
        let Ok(facts) = &self.facts else {
            return Vec::new();
        };
        let numbers = 0..facts.info.number("connected_slaves").unwrap_or(0).min(64);
        let lines = numbers.filter_map(|number| facts.info.get(&format!("slave{number}")));
        lines
            .filter_map(|line| {
                let host = part(line, "ip")?.to_owned();
                Some(Address::Tcp(host, part(line, "port")?.parse().ok()?))
            })
            .collect()
    }
}

/// A part of `name=value,name=value`.
pub(super) fn part<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    let mut parts = line.split(',').filter_map(|part| part.split_once('='));
    parts
        .find(|(known, _)| *known == name)
        .map(|(_, value)| value)
}

/// One sentinel.
#[derive(Debug, Clone)]
pub(super) struct Sentinel {
    pub(super) address: Address,
    /// What `SENTINEL MASTER` and `SENTINEL CKQUORUM` say; the inner error is that no quorum is
    /// reached.
    pub(super) facts: Result<(Fields, Result<String, String>), Silence>,
}

/// All of it.
#[derive(Debug, Clone)]
pub(super) struct Deployment {
    /// Kind and addresses.
    pub(super) name: String,
    pub(super) servers: Vec<Server>,
    pub(super) sentinels: Vec<Sentinel>,
    /// Why the primaries could not be found.
    pub(super) trouble: Option<String>,
}

impl Deployment {
    /// Whether nobody could be asked anything.
    pub(super) fn is_unreachable(&self) -> bool {
        let away = |silence: Option<&Silence>| matches!(silence, Some(Silence::Away(_)));
        let servers = self
            .servers
            .iter()
            .map(|server| server.facts.as_ref().err());
        let sentinels = self.sentinels.iter();
        let sentinels = sentinels.map(|sentinel| sentinel.facts.as_ref().err());
        servers.chain(sentinels).all(away)
    }
}

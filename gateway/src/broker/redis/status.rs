//! Whether the broker works, for readiness.

use std::collections::BTreeMap;

use parking_lot::Mutex;

use crate::broker::BrokerStatus;

/// What can be wrong with a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Trouble {
    /// The servers cannot be found.
    Servers,
    /// Subscriptions.
    Link,
    /// Commands.
    Commands,
    /// The publish function.
    Library,
    /// Keyspace notifications.
    Notifications,
    /// Orders to disconnect.
    Disconnects,
}

impl Trouble {
    fn sentence(self) -> &'static str {
        match self {
            Self::Servers => "the servers of Redis cannot be found",
            Self::Link => "the subscription connection to Redis is down",
            Self::Commands => "commands to Redis fail",
            Self::Library => "the publish function could not be loaded",
            Self::Notifications => "keyspace notifications are off, so rooms are polled",
            Self::Disconnects => "disconnects cannot be read, so revoked tokens count",
        }
    }
}

#[derive(Debug, Default)]
struct Facts {
    live: bool,
    was_live: bool,
    /// By what and by server; why.
    troubles: BTreeMap<(Trouble, String), String>,
    /// What each server is, and what was chosen because of it.
    servers: BTreeMap<String, String>,
}

/// Kept by the driver, read by anyone.
#[derive(Debug, Default)]
pub(super) struct Status(Mutex<Facts>);

impl Status {
    /// Whether events flow.
    pub(super) fn live(&self, live: bool) {
        let mut facts = self.0.lock();
        facts.live = live;
        facts.was_live |= live;
    }

    /// What is wrong with a server, or nothing any more; gives it back where it is new.
    pub(super) fn note(
        &self,
        trouble: Trouble,
        server: &str,
        why: Option<String>,
    ) -> Option<String> {
        let key = (trouble, server.to_owned());
        let mut facts = self.0.lock();
        match why {
            None => {
                facts.troubles.remove(&key);
                None
            }
            Some(why) => {
                let before = facts.troubles.insert(key, why.clone());
                before.is_none().then_some(why)
            }
        }
    }

    /// What a server is; says whether that is new.
    pub(super) fn server(&self, server: &str, what: &str) -> bool {
        let mut facts = self.0.lock();
        let before = facts.servers.insert(server.to_owned(), what.to_owned());
        before.as_deref() != Some(what)
    }

    /// The server is not one of ours any more.
    pub(super) fn forget(&self, server: &str) {
        let mut facts = self.0.lock();
        facts.troubles.retain(|(_, other), _| other != server);
        facts.servers.remove(server);
    }

    /// One sentence each.
    pub(super) fn report(&self) -> BrokerStatus {
        let facts = self.0.lock();
        let troubles = facts.troubles.iter().map(|((trouble, server), why)| {
            let at = if server.is_empty() {
                String::new()
            } else {
                format!(" ({server})")
            };
            format!("{}{at}: {why}", trouble.sentence())
        });
        let mut reasons: Vec<String> = troubles.collect();
        if !facts.live && reasons.is_empty() {
            reasons.push("the first probe through Redis has not come back yet".into());
        }
        let servers = facts.servers.iter();
        BrokerStatus {
            live: facts.live,
            was_live: facts.was_live,
            reasons,
            servers: servers
                .map(|(server, what)| format!("{server}: {what}"))
                .collect(),
        }
    }
}

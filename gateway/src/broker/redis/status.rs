//! Whether the broker works, for readiness.

use parking_lot::Mutex;

use crate::broker::BrokerStatus;

#[derive(Debug, Default)]
struct Facts {
    live: bool,
    was_live: bool,
    link: Option<String>,
    commands: Option<String>,
    library: Option<String>,
    notifications: Option<String>,
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

    /// What is wrong with the subscriptions.
    pub(super) fn link(&self, trouble: Option<String>) {
        self.0.lock().link = trouble;
    }

    /// What is wrong with commands; gives it back where it is new.
    pub(super) fn commands(&self, trouble: Option<String>) -> Option<String> {
        note(&mut self.0.lock().commands, trouble)
    }

    /// The same for the publish function.
    pub(super) fn library(&self, trouble: Option<String>) -> Option<String> {
        note(&mut self.0.lock().library, trouble)
    }

    /// The same for notifications.
    pub(super) fn notifications(&self, trouble: Option<String>) -> Option<String> {
        note(&mut self.0.lock().notifications, trouble)
    }

    /// One sentence each.
    pub(super) fn report(&self) -> BrokerStatus {
        let facts = self.0.lock();
        let mut reasons = Vec::new();
        let mut say = |what: &str, why: &Option<String>| {
            if let Some(why) = why {
                reasons.push(format!("{what}: {why}"));
            }
        };
        say("the subscription connection to Redis is down", &facts.link);
        say("commands to Redis fail", &facts.commands);
        say("the publish function could not be loaded", &facts.library);
        say(
            "keyspace notifications are off, so rooms are polled",
            &facts.notifications,
        );
        if !facts.live && reasons.is_empty() {
            reasons.push("the first probe through Redis has not come back yet".into());
        }
        BrokerStatus {
            live: facts.live,
            was_live: facts.was_live,
            reasons,
        }
    }
}

fn note(fact: &mut Option<String>, trouble: Option<String>) -> Option<String> {
    let is_new = fact.is_none();
    fact.clone_from(&trouble);
    trouble.filter(|_| is_new)
}

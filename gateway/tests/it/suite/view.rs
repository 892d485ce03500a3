//! What one client has seen, judged event by event as it arrives.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::ledger::{Id, number_of, parse_id};
use crate::support::client::Message;

/// What a `stream.reset` said.
#[derive(Debug, Clone)]
pub struct Reset {
    reason: String,
    /// It names a reason and a range.
    whole: bool,
    pub after: Id,
    /// `None`: to wherever the room's new history begins.
    pub through: Option<Id>,
}

impl Reset {
    fn of(message: &Message) -> Self {
        let json: serde_json::Value = serde_json::from_str(&message.data).unwrap_or_default();
        let id = |name: &str| json["lost"][name].as_str().and_then(parse_id);
        let reason = json["reason"].as_str().unwrap_or_default().to_owned();
        Self {
            whole: !reason.is_empty() && json["lost"].is_object(),
            reason,
            after: id("after").unwrap_or_default(),
            through: id("through"),
        }
    }

    /// Whether it says that this one may be gone.
    pub fn covers(&self, id: Id) -> bool {
        match self.through {
            // Where the position itself is not known, nothing before the place where it goes on is sure.
            Some(through) if self.reason == "unknown" => id <= through,
            None => id > self.after,
            Some(through) if through >= self.after => id > self.after && id <= through,
            // Another branch, whose ids may be lower.
            Some(through) => id <= through,
        }
    }
}

#[derive(Debug, Default)]
pub struct View {
    /// The position: of the last event, or where a reset said to go on.
    pub last: Id,
    /// Ids and moments by number, since the beginning.
    pub received: HashMap<u64, (Id, Instant)>,
    /// Since the last check, like the rest.
    pub fresh: Vec<(Id, u64, Instant)>,
    pub resets: Vec<Reset>,
    /// Events that came again: on which connection, and in a sentence.
    pub repeated: Vec<(usize, String)>,
    /// Everything else that is wrong, likewise.
    pub problems: Vec<String>,
    last_at: Option<Instant>,
    pub longest_gap: Duration,
    /// Connections, each with the position that it began at.
    pub arrivals: Vec<(usize, Id)>,
}

impl View {
    pub fn observe(&mut self, message: &Message) {
        if self.arrivals.last().map(|(connection, _)| *connection) != Some(message.connection) {
            self.arrivals.push((message.connection, self.last));
        }
        match message.event.as_str() {
            "stream.reset" => {
                let reset = Reset::of(message);
                if !reset.whole {
                    self.problems
                        .push(format!("a reset without a reason or a range: {message:?}"));
                }
                // After a fork it also says what the client has of the lost branch.
                let id = message.id.as_deref().and_then(|id| id.split('~').next());
                self.last = id.and_then(parse_id).unwrap_or_default();
                self.resets.push(reset);
            }
            name if name.starts_with("stream.") => {}
            _ => self.event(message),
        }
    }

    fn event(&mut self, message: &Message) {
        let Some(id) = message.id.as_deref().and_then(parse_id) else {
            return;
        };
        let Some(number) = number_of(&message.data) else {
            self.problems
                .push(format!("an event that nobody published: {message:?}"));
            return;
        };
        if let Some((before, _)) = self.received.get(&number) {
            let problem = format!(
                "event {number} twice: as {before:?} and as {id:?}, on connection {}, after {:?} and {:?}",
                message.connection, self.last, self.resets
            );
            self.repeated.push((message.connection, problem));
        } else if id <= self.last {
            self.problems
                .push(format!("event {number} as {id:?} after {:?}", self.last));
        }
        self.last = id;
        self.received.insert(number, (id, message.at));
        self.fresh.push((id, number, message.at));
        self.pulse(message.at);
    }

    /// Measures the time since the event before.
    fn pulse(&mut self, now: Instant) {
        if let Some(before) = self.last_at.replace(now) {
            self.longest_gap = self.longest_gap.max(now.saturating_duration_since(before));
        }
    }

    /// Forgets what belongs to one check.
    pub fn begin(&mut self) {
        self.fresh.clear();
        self.resets.clear();
        self.problems.clear();
        self.repeated.clear();
    }

    /// Silence counts from here on.
    pub fn wait_from(&mut self, now: Instant) {
        self.longest_gap = Duration::ZERO;
        self.last_at = Some(now);
    }
}

mod tests {
    use super::*;

    fn message(id: &str, event: &str, data: &str) -> Message {
        Message {
            id: Some(id.to_owned()),
            event: event.to_owned(),
            data: data.to_owned(),
            connection: 1,
            at: Instant::now(),
        }
    }

    #[test]
    fn repeats_and_disorder_are_seen() {
        let mut view = View::default();
        view.observe(&message("5-0", "load", "1 x"));
        view.observe(&message("5-1", "load", "2 x"));
        assert!(view.problems.is_empty(), "{:?}", view.problems);
        view.observe(&message("5-1", "load", "2 x"));
        assert_eq!(view.repeated.len(), 1);
        view.observe(&message("4-0", "load", "3 x"));
        view.observe(&message("6-0", "load", "what is this"));
        view.observe(&message("6-0", "stream.reset", "{}"));
        assert_eq!(view.problems.len(), 3, "{:?}", view.problems);
    }

    #[test]
    fn a_reset_covers_what_it_names() {
        let reset = |after, through| {
            let data =
                format!(r#"{{"reason":"r","lost":{{"after":{after},"through":{through}}}}}"#);
            let mut view = View::default();
            view.observe(&message("0-0", "stream.reset", &data));
            assert!(view.problems.is_empty(), "{:?}", view.problems);
            view.resets.remove(0)
        };
        let some = reset(r#""3-0""#, r#""5-0""#);
        let covered = [2, 3, 4, 5, 6].map(|ms| some.covers((ms, 0)));
        assert_eq!(covered, [false, false, true, true, false]);
        let all_later = reset(r#""3-0""#, "null");
        assert!(all_later.covers((9, 0)) && !all_later.covers((3, 0)));
        let branch = reset(r#""9-0""#, r#""5-0""#);
        assert!(branch.covers((5, 0)) && !branch.covers((6, 0)));
    }
}

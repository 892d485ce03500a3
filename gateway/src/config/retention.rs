//! `[retention]`: limits for rooms by pattern, and how limits are written.

use std::time::Duration;

use super::Retention;
use super::values::{format_duration, parse_duration};
use crate::broker::retention::{self, LONGEST, MOST_EVENTS};
use crate::broker::{RetentionChange, RetentionRules};

impl Retention {
    /// What is kept of which room. Validation has refused what cannot be read.
    #[must_use]
    pub fn rules(&self) -> RetentionRules {
        let rest = retention::Retention {
            max_len: self.max_len,
            max_age: self.max_age,
            expire: self.expire,
        };
        let rooms = self.rooms.iter().filter_map(|line| read_line(line).ok());
        RetentionRules::new(rest, rooms)
    }
}

/// Reads a pattern of rooms and its limits, such as `chat:* max_len=200 expire=7d`.
///
/// # Errors
/// A clause that says what is wrong.
pub(super) fn read_line(line: &str) -> Result<(String, RetentionChange), String> {
    let mut words = line.split_ascii_whitespace();
    let pattern = words
        .next()
        .filter(|pattern| protocol::pattern::is_pattern(pattern))
        .ok_or("which does not begin with a pattern of rooms such as chat:*")?;
    let mut change = RetentionChange::default();
    for word in words {
        let (name, value) = word.split_once('=').unwrap_or((word, ""));
        let twice = match name {
            "max_len" => change.max_len.is_some(),
            "max_age" => change.max_age.is_some(),
            "expire" => change.expire.is_some(),
            _ => {
                return Err(format!(
                    "in which `{word}` is none of max_len=, max_age= and expire="
                ));
            }
        };
        if twice {
            return Err(format!("in which {name} stands twice"));
        }
        set_retention(&mut change, name, value).map_err(|reason| format!("in which {reason}"))?;
    }
    Ok((pattern.to_owned(), change))
}

/// Sets one limit by its name: `max_len`, a number of events, or `max_age` or `expire`, a duration; 0 is no limit.
/// Other names change nothing.
///
/// # Errors
/// A clause that says what is wrong with the value.
pub fn set_retention(change: &mut RetentionChange, name: &str, value: &str) -> Result<(), String> {
    match name {
        "max_len" => {
            let events = value.parse().ok().filter(|events| *events <= MOST_EVENTS);
            let reason = || format!("max_len is `{value}`, not 0 to {MOST_EVENTS}");
            change.max_len = Some(events.ok_or_else(reason)?);
        }
        "max_age" => change.max_age = Some(limit(name, value)?),
        "expire" => change.expire = Some(limit(name, value)?),
        _ => {}
    }
    Ok(())
}

fn limit(name: &str, value: &str) -> Result<Duration, String> {
    let duration = parse_duration(value)
        .ok_or_else(|| format!("{name} is `{value}`, not a duration such as 30s, 5m, 12h or 7d"))?;
    check_limit(name, duration)?;
    Ok(duration)
}

/// Redis takes these in whole seconds: anything less would be no limit at all.
pub(super) fn check_limit(name: &str, limit: Duration) -> Result<(), String> {
    if limit.is_zero() || (Duration::from_secs(1)..=LONGEST).contains(&limit) {
        return Ok(());
    }
    let [limit, longest] = [limit, LONGEST].map(format_duration);
    Err(format!(
        "{name} is {limit}, not 1s to {longest} (0s is no limit)"
    ))
}

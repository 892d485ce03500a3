//! Lines of settings: durations, limits of rooms by pattern.

use crate::broker::RetentionChange;
use crate::broker::retention::{LONGEST, MOST_EVENTS};
use crate::config::read_line as read;
use crate::config::retention::set_retention;
use crate::config::values::{format_duration, parse_duration};

pub fn check(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    if let Some(duration) = parse_duration(text) {
        assert_eq!(parse_duration(&format_duration(duration)), Some(duration));
    }
    let in_range = |change: RetentionChange| {
        assert!(change.max_len.is_none_or(|events| events <= MOST_EVENTS));
        for limit in [change.max_age, change.expire].into_iter().flatten() {
            // Redis counts in seconds: less than one would be no limit.
            assert!(limit.is_zero() || (1..=LONGEST.as_secs()).contains(&limit.as_secs()));
        }
    };
    match read(text) {
        Ok((pattern, change)) => {
            assert!(protocol::pattern::is_pattern(&pattern));
            in_range(change);
            let mut line = pattern.clone();
            let durations = [("max_age", change.max_age), ("expire", change.expire)];
            for (name, limit) in durations {
                if let Some(limit) = limit {
                    line += &format!(" {name}={}", format_duration(limit));
                }
            }
            if let Some(events) = change.max_len {
                line += &format!("\tmax_len={events}");
            }
            assert_eq!(read(&line), Ok((pattern, change)));
        }
        Err(clause) => assert!(!clause.is_empty()),
    }
    let mut change = RetentionChange::default();
    let (name, value) = text.split_once('=').unwrap_or((text, ""));
    if set_retention(&mut change, name, value).is_ok() {
        in_range(change);
    }
}

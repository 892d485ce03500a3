//! Rooms that only grow.

use super::{Finding, Note, Ok, Wanted, Warning};
use crate::doctor::facts::Sample;

/// Names in a sentence.
const NAMED: usize = 3;

/// A plain `XADD` neither trims nor renews the expiry; gateways do both, but only for rooms with
/// subscribers.
pub(super) fn growing(rooms: &Result<Sample, String>, wanted: &Wanted) -> Finding {
    let sample = match rooms {
        Result::Ok(sample) => sample,
        Err(refusal) => {
            let says = format!("whether rooms only grow cannot be seen ({refusal})");
            return Finding::new("rooms", Note, says)
                .remedy("run doctor as a user with +scan +xlen");
        }
    };
    let seen = match (sample.looked_at, sample.is_whole) {
        (0, true) => return Finding::new("rooms", Ok, "there are no rooms yet"),
        (count, true) => format!("all {count} rooms"),
        (count, false) => format!("a sample of {count} rooms"),
    };
    if !sample.growing.is_empty() {
        let named = sample.growing.iter().take(NAMED);
        let named: Vec<String> = named
            .map(|room| format!("{} ({} events)", room.key, room.length))
            .collect();
        let says = format!(
            "of {seen}, {} only grow, because a plain XADD neither trims nor lets them expire: {}",
            sample.growing.len(),
            named.join(", ")
        );
        let remedy = format!(
            "publish with the function or sse-publish, or add MAXLEN '~' {} to the XADD and EXPIRE now and then; for now: XTRIM {} MAXLEN '~' {}",
            wanted.max_len, sample.growing[0].key, wanted.max_len
        );
        return Finding::new("rooms", Warning, says).remedy(remedy);
    }
    if sample.lasting > 0 && wanted.expires {
        let says = format!(
            "of {seen}, {} never expire: nothing has published there by the function",
            sample.lasting
        );
        return Finding::new("rooms", Note, says)
            .remedy("EXPIRE them when they are no longer used");
    }
    Finding::new("rooms", Ok, format!("of {seen}, none only grows"))
}

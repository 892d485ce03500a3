//! What was allowed before its user, or the room, was disconnected is not allowed any more.

use protocol::RoomName;

use super::{By, Grant, Refusal, RefusalKind, Verdict};
use crate::hub::Disconnects;

/// In metrics.
const LABEL: &str = "disconnected";

/// The verdict, unless it stands on a permission from before. A permission without a time of issue counts as one.
pub(super) fn heed(disconnects: &Disconnects, room: &RoomName, verdict: Verdict) -> Verdict {
    let Verdict::Allowed(Grant { by, mut terms }) = verdict else {
        return verdict;
    };
    if matches!(by, By::Token | By::Forward) {
        terms.issued.get_or_insert(0);
        let refuse = match by {
            By::Forward => disconnects.refuse_answer(room, &terms),
            _ => disconnects.refuse(room, &terms),
        };
        if refuse {
            return refused(by);
        }
    }
    Verdict::Allowed(Grant { by, terms })
}

fn refused(by: By) -> Verdict {
    match by {
        // The backend has not been asked since: once it is, it decides.
        By::Forward => Verdict::Away("the backend's answer is from before a disconnect"),
        _ => Verdict::Refused(Refusal::new(
            RefusalKind::Invalid,
            LABEL,
            "the token was issued before its user or this room was disconnected: get a new one",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::{Disconnect, Terms, Whom};

    fn verdict(by: By, user: &str, issued: Option<u64>) -> Verdict {
        let terms = Terms {
            user: Some(user.into()),
            issued,
            ends: None,
        };
        Verdict::Allowed(Grant { by, terms })
    }

    #[test]
    fn what_was_allowed_before_is_refused_and_what_is_asked_again_is_not() {
        let (disconnects, room) = (Disconnects::default(), RoomName::parse("a").unwrap());
        let whom = Whom::read("user", "ann").unwrap();
        let orders = vec![Disconnect {
            whom,
            at_ms: 100_900,
        }];
        assert_eq!(disconnects.note(orders, 100_900).len(), 1);
        let heed = |verdict| heed(&disconnects, &room, verdict);
        for issued in [None, Some(99), Some(100)] {
            let Verdict::Refused(refusal) = heed(verdict(By::Token, "ann", issued)) else {
                panic!("{issued:?} counts");
            };
            assert_eq!((refusal.kind, refusal.label), (RefusalKind::Invalid, LABEL));
            // Not the end of a browser: the backend may let it in.
            let away = heed(verdict(By::Forward, "ann", issued));
            assert!(matches!(away, Verdict::Away(_)), "{away:?}");
        }
        for verdict in [
            verdict(By::Token, "ann", Some(101)),
            verdict(By::Token, "bob", None),
            verdict(By::Key, "ann", None),
        ] {
            assert!(matches!(heed(verdict), Verdict::Allowed(_)));
        }
    }
}

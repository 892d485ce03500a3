//! Publish keys: for backends that publish over HTTP.

use http::{HeaderMap, HeaderValue, header};
use protocol::RoomName;

use super::{Refusal, RefusalKind};

/// Keys that may publish in any room. `Debug` hides them.
#[derive(Clone, Default)]
pub struct PublishKeys(Vec<String>);

/// What a request showed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// A key that may publish here.
    Key,
    /// Something else.
    Other,
    /// Nothing.
    Nothing,
}

impl PublishKeys {
    /// These.
    #[must_use]
    pub fn new(keys: Vec<String>) -> Self {
        Self(keys)
    }

    pub(super) fn find(&self, _room: &RoomName, headers: &HeaderMap) -> Found {
        match headers.get(header::AUTHORIZATION).map(bearer) {
            Some(Some(key)) if self.knows(key) => Found::Key,
            Some(_) => Found::Other,
            None => Found::Nothing,
        }
    }

    /// What to say to whom no rule lets in.
    pub(super) fn refusal(&self, found: Found) -> Refusal {
        if self.0.is_empty() {
            return Refusal::new(
                RefusalKind::Forbidden,
                "not_configured",
                "publishing in this room over HTTP is not configured: set publish.keys, or name the room in access.publish",
            );
        }
        match found {
            Found::Nothing => Refusal::new(
                RefusalKind::Missing,
                "missing",
                "publishing in this room needs `Authorization: Bearer KEY` with one of publish.keys, or a rule in access.publish",
            ),
            Found::Key | Found::Other => Refusal::new(
                RefusalKind::Invalid,
                "unknown_key",
                "the key in `Authorization: Bearer KEY` is none of publish.keys",
            ),
        }
    }

    /// Compares with every key, and every byte: the time taken tells nothing but lengths.
    fn knows(&self, key: &[u8]) -> bool {
        let differs = |a: &[u8], b: &[u8]| {
            a.iter()
                .zip(b)
                .fold(0, |all, (a, b)| std::hint::black_box(all | (a ^ b)))
        };
        self.0.iter().fold(false, |known, one| {
            known | (one.len() == key.len() && differs(one.as_bytes(), key) == 0)
        })
    }
}

impl std::fmt::Debug for PublishKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PublishKeys({})", self.0.len())
    }
}

/// The credentials of `Authorization: Bearer` (RFC 6750, section 2.1).
pub(super) fn bearer(value: &HeaderValue) -> Option<&[u8]> {
    let (scheme, key) = value.as_bytes().split_at_checked(7)?;
    scheme
        .eq_ignore_ascii_case(b"bearer ")
        .then_some(key.trim_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_known_or_the_answer_says_what_to_send() {
        let demo = RoomName::parse("demo").unwrap();
        let with = |value: &'static str| {
            [(header::AUTHORIZATION, HeaderValue::from_static(value))]
                .into_iter()
                .collect::<HeaderMap>()
        };
        let keys = PublishKeys::new(vec!["k1".into(), "key2".into()]);
        for (shown, found, label) in [
            (HeaderMap::new(), Found::Nothing, "missing"),
            (with("Bearer no"), Found::Other, "unknown_key"),
            (with("Basic key2"), Found::Other, "unknown_key"),
            (with("bearer key2"), Found::Key, "unknown_key"),
        ] {
            assert_eq!(keys.find(&demo, &shown), found);
            assert_eq!(keys.refusal(found).label, label);
        }
        let refusal = PublishKeys::default().refusal(Found::Nothing);
        assert_eq!(refusal.kind, RefusalKind::Forbidden);
        assert!(refusal.sentence.contains("publish.keys"));
        assert!(!format!("{keys:?}").contains("key2"));
    }
}

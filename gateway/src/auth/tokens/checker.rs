//! Whether a token counts: who has signed it, and what it says.

use std::collections::HashSet;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use parking_lot::Mutex;
use protocol::token::{Claims, Demands, Key, Rooms, Times, Token, Unmet};
use quick_cache::Weighter;
use quick_cache::sync::Cache;

use super::metrics::TokenMetrics;
use super::{Refusal, RefusalKind};
use crate::hub::Terms;

/// Bytes of all remembered tokens together, about.
const CACHE_BYTES: u64 = 32 << 20;
/// Bytes of one, about: only the size of the cache's own tables follows from it.
const USUAL_BYTES: u64 = 256;
/// Of an entry beside its user and rooms: digest, times, pointers, and the cache's own.
const ENTRY_BYTES: usize = 96;
/// Lists of rooms that tokens share.
const MAX_SHARED: usize = 1024;

/// The first half of the SHA-256 of a token. To pass for a token that counts, another one needs the same 128 bits, and who
/// cannot sign chooses none of the tokens that count.
type Digest = [u8; 16];

/// What is remembered of a token that has counted: little, because every user has one. `nbf` is not in it, because it has
/// passed.
#[derive(Debug, Clone)]
pub(super) struct Good {
    /// Whose it is.
    pub(super) user: Option<Arc<str>>,
    /// `iat`, or when the token was first seen, if that was earlier: no token is made after it was shown, whatever the clock
    /// of its issuer says. In seconds since 1970.
    issued: u32,
    /// `exp`; of a later one than this can hold, the year 2106.
    expires: u32,
    /// Where.
    pub(super) rooms: Arc<Permitted>,
}

impl Good {
    fn times(&self) -> Times {
        Times {
            issued: self.issued.into(),
            not_before: 0,
            expires: self.expires.into(),
        }
    }
}

/// Rooms of a token. Many tokens have the same, and then share it.
#[derive(Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Permitted {
    pub(super) subscribe: Rooms,
    pub(super) publish: Rooms,
}

/// Why a token does not count.
pub(super) enum Unsound {
    /// It never will.
    Refused(Refusal),
    /// It may, once the key with this id is known.
    UnknownKey(String),
}

impl From<Unmet> for Refusal {
    fn from(unmet: Unmet) -> Self {
        invalid(unmet.label, unmet.sentence)
    }
}

impl From<Refusal> for Unsound {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// Keys and demands at one time, and the tokens that were found good by them.
#[derive(Debug)]
pub(super) struct Checker {
    pub(super) demands: Demands,
    keys: Vec<Key>,
    good: Cache<Digest, Good, Weight>,
    shared: Mutex<HashSet<Arc<Permitted>>>,
}

impl Default for Checker {
    fn default() -> Self {
        Self::new(Demands::default(), Vec::new())
    }
}

impl Checker {
    pub(super) fn new(demands: Demands, keys: Vec<Key>) -> Self {
        let items = usize::try_from(CACHE_BYTES / USUAL_BYTES).unwrap_or(usize::MAX);
        Self {
            demands,
            keys,
            good: Cache::with_weighter(items, CACHE_BYTES, Weight),
            shared: Mutex::default(),
        }
    }

    /// Looks at a token at this time, in seconds since 1970.
    pub(super) fn check(
        &self,
        text: &str,
        now: u64,
        metrics: &TokenMetrics,
    ) -> Result<Good, Unsound> {
        let mut key = Digest::default();
        let whole = digest(&SHA256, text.as_bytes());
        key.copy_from_slice(&whole.as_ref()[..size_of::<Digest>()]);
        if let Some(good) = self.good.get(&key) {
            metrics.cached.inc();
            self.check_time(good.times(), now)?;
            return Ok(good);
        }
        metrics.signatures.inc();
        let claims = self.verify(text)?;
        let times = claims.times();
        self.check_time(times, now)?;
        let good = Good {
            issued: u32::try_from(times.issued.min(now)).unwrap_or(u32::MAX),
            expires: u32::try_from(times.expires).unwrap_or(u32::MAX),
            user: claims.user,
            rooms: self.share(Permitted {
                subscribe: claims.subscribe,
                publish: claims.publish,
            }),
        };
        self.good.insert(key, good.clone());
        Ok(good)
    }

    fn check_time(&self, times: Times, now: u64) -> Result<(), Refusal> {
        let checked = self.demands.check_time(times, now);
        checked.map(drop).map_err(Refusal::from)
    }

    /// What a token that counts allows its stream.
    pub(super) fn terms(&self, good: &Good) -> Terms {
        let Times {
            issued, expires, ..
        } = good.times();
        Terms {
            user: good.user.clone(),
            issued: Some(issued),
            ends: Some(expires.min(issued.saturating_add(self.demands.max_age.as_secs()))),
        }
    }

    fn share(&self, rooms: Permitted) -> Arc<Permitted> {
        let mut shared = self.shared.lock();
        if let Some(known) = shared.get(&rooms) {
            return known.clone();
        }
        let rooms = Arc::new(rooms);
        if shared.len() < MAX_SHARED {
            shared.insert(rooms.clone());
        }
        rooms
    }

    fn verify(&self, text: &str) -> Result<Claims, Unsound> {
        let token = Token::split(text)
            .map_err(|error| invalid("malformed", format!("this is no token: {error}")))?;
        if token.critical {
            return Err(invalid(
                "malformed",
                "the token's header has `crit`, and the gateway knows no extensions",
            )
            .into());
        }
        self.find_signer(&token)?;
        let read = Claims::read(&token.payload, &self.demands.claim);
        let claims = read.map_err(|error| invalid("claims", format!("of the token, {error}")))?;
        self.demands.check(&claims).map_err(Refusal::from)?;
        Ok(claims)
    }

    /// A key without an id looks at every token of its algorithm, and a token without one is looked at by every key of its
    /// own.
    fn find_signer(&self, token: &Token<'_>) -> Result<(), Unsound> {
        let Some(algorithm) = protocol::token::algorithm(&token.algorithm) else {
            return Err(invalid(
                "algorithm",
                "the token's `alg` is none that the gateway knows, such as HS256, RS256, ES256 or EdDSA; `none` never counts",
            )
            .into());
        };
        let named = |key: &&Key| key.id.is_some() && key.id == token.key_id;
        let is_named = self.keys.iter().any(|key| named(&key));
        let mut fitting = self.keys.iter().filter(|key| {
            key.algorithm == algorithm && (key.id.is_none() || token.key_id.is_none() || named(key))
        });
        if fitting.any(|key| token.is_signed_by(key)) {
            return Ok(());
        }
        let mut of_algorithm = self.keys.iter().filter(|key| key.algorithm == algorithm);
        match &token.key_id {
            Some(id) if !is_named => Err(Unsound::UnknownKey(id.clone())),
            None if of_algorithm.next().is_none() => Err(Unsound::UnknownKey(String::new())),
            Some(_)
                if !self
                    .keys
                    .iter()
                    .any(|key| named(&key) && key.algorithm == algorithm) =>
            {
                Err(invalid(
                    "algorithm",
                    "the token's `alg` is not what the key with its `kid` is for",
                )
                .into())
            }
            _ => Err(invalid(
                "signature",
                "the token's signature is not of any key of the gateway's",
            )
            .into()),
        }
    }
}

fn invalid(label: &'static str, sentence: impl Into<String>) -> Refusal {
    Refusal::new(RefusalKind::Invalid, label, sentence)
}

/// Bytes of an entry.
#[derive(Debug, Clone)]
struct Weight;

impl Weighter<Digest, Good> for Weight {
    fn weight(&self, _: &Digest, good: &Good) -> u64 {
        let user = good.user.as_ref().map_or(0, |user| user.len());
        // As if nothing were shared.
        let rooms = good.rooms.subscribe.bytes() + good.rooms.publish.bytes();
        (ENTRY_BYTES + user + rooms) as u64
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use protocol::token::Algorithm;

    use super::*;

    #[test]
    fn what_is_remembered_is_bounded() {
        let checker = Checker::default();
        let json = serde_json::json!({"sse": {"subscribe": vec!["x".repeat(60); 64]}});
        let claims = Claims::read(json.to_string().as_bytes(), "sse").unwrap();
        let rooms = checker.share(Permitted {
            subscribe: claims.subscribe.clone(),
            publish: claims.publish.clone(),
        });
        let again = checker.share(Permitted {
            subscribe: claims.subscribe,
            publish: claims.publish,
        });
        assert!(Arc::ptr_eq(&rooms, &again));
        for n in 0..12_000_u32 {
            let mut key = Digest::default();
            key[..4].copy_from_slice(&n.to_be_bytes());
            let good = Good {
                user: None,
                issued: 0,
                expires: 0,
                rooms: rooms.clone(),
            };
            checker.good.insert(key, good);
        }
        let (weight, count) = (checker.good.weight(), checker.good.len());
        assert!(
            weight <= CACHE_BYTES && (1000..12_000).contains(&count),
            "{weight} {count}"
        );
    }

    /// Else it would outlast a disconnect that comes between its first use and its `iat`.
    #[test]
    fn a_token_is_no_younger_than_its_first_use() {
        let secret = [b'x'; 32];
        let key = Key::new(None, Algorithm::HS256, &secret).unwrap();
        let demands = Demands {
            leeway: Duration::from_secs(30),
            max_age: Duration::from_secs(3600),
            ..Demands::default()
        };
        let checker = Checker::new(demands, vec![key]);
        let signer = jsonwebtoken::EncodingKey::from_secret(&secret);
        let claims = serde_json::json!({"sub": "ann", "iat": 1030, "exp": 2000});
        let token =
            jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims, &signer).unwrap();
        for now in [1005, 1010, 1040] {
            let Ok(good) = checker.check(&token, now, &TokenMetrics::default()) else {
                panic!("it counts at {now}");
            };
            assert_eq!(checker.terms(&good).issued, Some(1005), "{now}");
        }
    }

    /// Whatever is changed in a good token, it does not count any more.
    #[test]
    fn every_byte_of_a_token_is_signed() {
        let secret = [b'x'; 32];
        let key = Key::new(None, Algorithm::HS256, &secret).unwrap();
        let demands = Demands {
            max_age: Duration::from_secs(10),
            ..Demands::default()
        };
        let checker = Checker::new(demands, vec![key]);
        let signer = jsonwebtoken::EncodingKey::from_secret(&secret);
        let claims = serde_json::json!({"sub": "ann", "iat": 1, "exp": 3});
        let good =
            jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims, &signer).unwrap();
        let metrics = TokenMetrics::default();
        for (now, counts) in [(0, false), (2, true), (3, false), (1, true)] {
            assert_eq!(checker.check(&good, now, &metrics).is_ok(), counts, "{now}");
        }
        for at in 0..good.len() {
            for other in ["", "A", "B", "_", ".", "=", "é"] {
                let bad = format!("{}{other}{}", &good[..at], &good[at + 1..]);
                assert!(
                    bad == good || checker.check(&bad, 2, &metrics).is_err(),
                    "{at} {other:?}"
                );
            }
        }
    }
}

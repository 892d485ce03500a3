//! Whether a token counts: who has signed it, and what it says.

use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use protocol::token::{Claims, Demands, Key, Token, Unmet};
use quick_cache::Weighter;
use quick_cache::sync::Cache;

use super::metrics::TokenMetrics;
use super::{Refusal, RefusalKind};

/// Bytes of all remembered tokens together, about.
const CACHE_BYTES: u64 = 32 << 20;
/// Bytes of one, about: only the size of the cache's own tables follows from it.
const USUAL_BYTES: u64 = 512;
/// Of an entry beside its claims: digest, pointers, and the cache's own.
const ENTRY_BYTES: u64 = 120;

/// SHA-256 of a token: nobody finds two tokens with the same.
type Digest = [u8; 32];

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
    good: Cache<Digest, Arc<Claims>, Weight>,
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
        }
    }

    /// The claims of a token that counts, the time apart.
    pub(super) fn check(&self, text: &str, metrics: &TokenMetrics) -> Result<Arc<Claims>, Unsound> {
        let mut key = Digest::default();
        key.copy_from_slice(digest(&SHA256, text.as_bytes()).as_ref());
        if let Some(claims) = self.good.get(&key) {
            metrics.cached.inc();
            return Ok(claims);
        }
        metrics.signatures.inc();
        let claims = Arc::new(self.verify(text)?);
        self.good.insert(key, claims.clone());
        Ok(claims)
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

impl Weighter<Digest, Arc<Claims>> for Weight {
    fn weight(&self, _: &Digest, claims: &Arc<Claims>) -> u64 {
        ENTRY_BYTES + claims.bytes() as u64
    }
}

#[cfg(test)]
mod tests {
    use protocol::token::Algorithm;

    use super::*;

    #[test]
    fn what_is_remembered_is_bounded() {
        let checker = Checker::default();
        let json = serde_json::json!({"sse": {"subscribe": vec!["x".repeat(60); 64]}});
        let claims = Claims::read(json.to_string().as_bytes(), "sse").unwrap();
        for n in 0..12_000_u32 {
            let mut key = Digest::default();
            key[..4].copy_from_slice(&n.to_be_bytes());
            checker.good.insert(key, Arc::new(claims.clone()));
        }
        let (weight, count) = (checker.good.weight(), checker.good.len());
        assert!(
            weight <= CACHE_BYTES && (1000..12_000).contains(&count),
            "{weight} {count}"
        );
    }

    /// Whatever is changed in a good token, it does not count any more.
    #[test]
    fn every_byte_of_a_token_is_signed() {
        let secret = [b'x'; 32];
        let key = Key::new(None, Algorithm::HS256, &secret).unwrap();
        let checker = Checker::new(Demands::default(), vec![key]);
        let signer = jsonwebtoken::EncodingKey::from_secret(&secret);
        let claims = serde_json::json!({"sub": "ann", "iat": 1, "exp": 2});
        let good =
            jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims, &signer).unwrap();
        let metrics = TokenMetrics::default();
        assert!(checker.check(&good, &metrics).is_ok());
        for at in 0..good.len() {
            for other in ["", "A", "B", "_", ".", "=", "é"] {
                let bad = format!("{}{other}{}", &good[..at], &good[at + 1..]);
                assert!(
                    bad == good || checker.check(&bad, &metrics).is_err(),
                    "{at} {other:?}"
                );
            }
        }
    }
}

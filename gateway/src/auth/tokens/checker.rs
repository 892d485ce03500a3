//! Whether a token counts: who has signed it, and what it says.

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use protocol::token::{Claims, Key, Token};
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

/// What a token has to say.
#[derive(Debug, Clone, Default)]
pub struct Demands {
    /// What `iss` has to be; empty for anything.
    pub issuer: String,
    /// What `aud` has to name; empty for anything.
    pub audience: String,
    /// What clocks may differ by.
    pub leeway: Duration,
    /// Age from which on it no longer counts.
    pub max_age: Duration,
    /// The claim with the rooms.
    pub claim: String,
}

impl Demands {
    /// What does not depend on the time. `exp` is required, so that every token ends; `iat` is, because age and disconnects
    /// are told by it.
    fn check(&self, claims: &Claims) -> Result<(), Refusal> {
        if claims.expires.is_none() || claims.issued.is_none() {
            return Err(invalid(
                "claims",
                "the token has to say when it was made (`iat`) and when it ends (`exp`)",
            ));
        }
        if !self.issuer.is_empty() && claims.issuer.as_ref() != Some(&self.issuer) {
            return Err(invalid(
                "issuer",
                "the token's `iss` is not tokens.issuer, or it has none",
            ));
        }
        if !self.audience.is_empty() && !claims.audience.contains(&self.audience) {
            return Err(invalid(
                "audience",
                "the token's `aud` does not name tokens.audience, or it has none",
            ));
        }
        Ok(())
    }

    /// Whether it counts at this time, in seconds since 1970; gives when it ends.
    pub(super) fn check_time(&self, claims: &Claims, now: u64) -> Result<u64, Refusal> {
        let leeway = self.leeway.as_secs();
        let (issued, expires) = (claims.issued.unwrap_or(0), claims.expires.unwrap_or(0));
        let too_old = issued.saturating_add(self.max_age.as_secs());
        if now >= expires.saturating_add(leeway) {
            return Err(invalid(
                "expired",
                "the token has expired (`exp`): get another one",
            ));
        }
        if now >= too_old.saturating_add(leeway) {
            return Err(invalid(
                "too_old",
                "the token was made (`iat`) longer ago than tokens.max_age: get another one",
            ));
        }
        // A token from the future would outlive disconnects and tokens.max_age.
        if claims.not_before.unwrap_or(0).max(issued) > now.saturating_add(leeway) {
            return Err(invalid(
                "not_yet",
                "the token does not count yet (`nbf` or `iat` is in the future): are the clocks right?",
            ));
        }
        Ok(expires.min(too_old))
    }
}

/// Why a token does not count.
pub(super) enum Unsound {
    /// It never will.
    Refused(Refusal),
    /// It may, once the key with this id is known.
    UnknownKey(String),
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
        self.demands.check(&claims)?;
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

    const NOW: u64 = 1_800_000_000;

    fn demands() -> Demands {
        Demands {
            leeway: Duration::from_secs(30),
            max_age: Duration::from_secs(1000),
            claim: "sse".into(),
            ..Demands::default()
        }
    }

    fn claims(json: &serde_json::Value) -> Claims {
        Claims::read(json.to_string().as_bytes(), "sse").unwrap()
    }

    #[test]
    fn times_have_a_leeway_and_tokens_an_age() {
        let json =
            |iat: u64, nbf: u64, exp: u64| serde_json::json!({"iat": iat, "nbf": nbf, "exp": exp});
        for ((iat, nbf, exp), outcome) in [
            ((NOW, 0, NOW + 60), Ok(NOW + 60)),
            ((NOW, 0, NOW + 5000), Ok(NOW + 1000)),
            ((NOW - 60, 0, NOW - 29), Ok(NOW - 29)),
            ((NOW - 60, 0, NOW - 30), Err("expired")),
            ((NOW - 1029, 0, NOW + 1), Ok(NOW - 29)),
            ((NOW - 1030, 0, NOW + 1), Err("too_old")),
            ((NOW, NOW + 30, NOW + 60), Ok(NOW + 60)),
            ((NOW, NOW + 31, NOW + 60), Err("not_yet")),
            ((NOW + 31, 0, NOW + 60), Err("not_yet")),
            ((0, 0, u64::MAX), Err("too_old")),
        ] {
            let found = demands().check_time(&claims(&json(iat, nbf, exp)), NOW);
            assert_eq!(
                found.map_err(|refusal| refusal.label),
                outcome,
                "{iat} {nbf} {exp}"
            );
        }
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let secret = [b'x'; 32];
        let key = Key::new(None, Algorithm::HS256, &secret).unwrap();
        let checker = Checker::new(demands(), vec![key]);
        let patterns = vec!["x".repeat(60); 64];
        let metrics = TokenMetrics::default();
        for n in 0..12_000 {
            let claims =
                claims(&serde_json::json!({"sub": n.to_string(), "sse": {"subscribe": patterns}}));
            checker.good.insert(
                [n.to_string().as_bytes(), &[0; 32]].concat()[..32]
                    .try_into()
                    .unwrap(),
                Arc::new(claims),
            );
        }
        assert!(
            checker.good.weight() <= CACHE_BYTES && checker.good.len() > 1000,
            "{}",
            checker.good.len()
        );
        assert!(checker.check("no token", &metrics).is_err());
    }
}

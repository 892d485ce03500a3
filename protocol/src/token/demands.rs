//! What a token has to say before it counts.

use std::time::Duration;

use super::Claims;

/// The times of a token, in seconds since 1970; 0 for what it does not say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Times {
    /// `iat`.
    pub issued: u64,
    /// `nbf`.
    pub not_before: u64,
    /// `exp`.
    pub expires: u64,
}

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
    ///
    /// # Errors
    /// What is not as it has to be.
    pub fn check(&self, claims: &Claims) -> Result<(), Unmet> {
        if claims.expires.is_none() || claims.issued.is_none() {
            return Err(unmet(
                "claims",
                "the token has to say when it was made (`iat`) and when it ends (`exp`)",
            ));
        }
        if !self.issuer.is_empty() && claims.issuer.as_ref() != Some(&self.issuer) {
            return Err(unmet(
                "issuer",
                "the token's `iss` is not tokens.issuer, or it has none",
            ));
        }
        if !self.audience.is_empty() && !claims.audience.contains(&self.audience) {
            return Err(unmet(
                "audience",
                "the token's `aud` does not name tokens.audience, or it has none",
            ));
        }
        Ok(())
    }

    /// Whether it counts at this time, in seconds since 1970; gives when it ends.
    ///
    /// # Errors
    /// It does not.
    pub fn check_time(&self, times: Times, now: u64) -> Result<u64, Unmet> {
        let leeway = self.leeway.as_secs();
        let Times {
            issued,
            not_before,
            expires,
        } = times;
        let too_old = issued.saturating_add(self.max_age.as_secs());
        if now >= expires.saturating_add(leeway) {
            return Err(unmet(
                "expired",
                "the token has expired (`exp`): get another one",
            ));
        }
        if now >= too_old.saturating_add(leeway) {
            return Err(unmet(
                "too_old",
                "the token was made (`iat`) longer ago than tokens.max_age: get another one",
            ));
        }
        // A token from the future would outlive disconnects and tokens.max_age.
        if not_before.max(issued) > now.saturating_add(leeway) {
            return Err(unmet(
                "not_yet",
                "the token does not count yet (`nbf` or `iat` is in the future): are the clocks right?",
            ));
        }
        Ok(expires.min(too_old))
    }
}

/// What a token does not meet. The label is one of a few words, such as `expired`; neither holds a part of the token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unmet {
    /// For metrics.
    pub label: &'static str,
    /// What is wrong and what to do.
    pub sentence: &'static str,
}

fn unmet(label: &'static str, sentence: &'static str) -> Unmet {
    Unmet { label, sentence }
}

#[cfg(test)]
mod tests {
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
            let found = demands().check_time(claims(&json(iat, nbf, exp)).times(), NOW);
            assert_eq!(
                found.map_err(|unmet| unmet.label),
                outcome,
                "{iat} {nbf} {exp}"
            );
        }
    }
}

//! `[access]`, `[tokens]`, `[forward]` and `[tls]`: who may read and write, and how that is known.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Config, values};
use crate::auth::{
    Carriers, Demands, ForwardConfig, JwksConfig, MIN_KEY_BYTES, Mode, Policy, PublishKeys, Rules,
    TokensConfig,
};

/// `[access]`: how permission is given, by room.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Access {
    /// For subscribing, as `pattern how`.
    #[serde(deserialize_with = "values::list")]
    pub subscribe: Vec<String>,
    /// For publishing over HTTP.
    #[serde(deserialize_with = "values::list")]
    pub publish: Vec<String>,
}

/// `[tokens]`: which tokens count. `Debug` hides the keys.
#[derive(Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Tokens {
    /// Keys, as `ALGORITHM KEY` or `kid=ID ALGORITHM KEY`. Secrets.
    #[serde(deserialize_with = "values::list")]
    pub keys: Vec<String>,
    /// Files with keys, as `ALGORITHM PATH`, `kid=ID ALGORITHM PATH` or, for a JSON Web Key Set, `PATH`.
    #[serde(deserialize_with = "values::list")]
    pub key_files: Vec<String>,
    /// A JSON Web Key Set to fetch; empty for none.
    pub jwks_url: String,
    /// Pause between fetches.
    #[serde(with = "values::duration")]
    pub jwks_refresh: Duration,
    /// What `iss` has to be; empty for anything.
    pub issuer: String,
    /// What `aud` has to name; empty for anything.
    pub audience: String,
    /// What clocks may differ by.
    #[serde(with = "values::duration")]
    pub leeway: Duration,
    /// Age at which a token no longer counts, whatever its `exp` says.
    #[serde(with = "values::duration")]
    pub max_age: Duration,
    /// The claim that holds the rooms.
    pub claim: String,
    /// The cookie that holds a token; empty for none.
    pub cookie: String,
    /// The query parameter that holds a token; empty for none.
    pub query: String,
}

/// `[forward]`: the backend that is asked. `Debug` hides the query of its URL.
#[derive(Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Forward {
    /// Where; empty for nowhere.
    pub url: String,
    /// Time for its answer.
    #[serde(with = "values::duration")]
    pub timeout: Duration,
    /// Requests under way at a time.
    pub max_requests: usize,
    /// How long an answer counts that does not say.
    #[serde(with = "values::duration")]
    pub cache: Duration,
    /// Answers that are kept.
    pub cache_entries: usize,
}

/// `[tls]`: encryption of the clients' listener.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// PEM certificate with its chain; empty for no TLS.
    pub cert_file: String,
    /// Its PEM key.
    pub key_file: String,
    /// Signs the certificates of publishers; empty for none.
    pub client_ca_file: String,
}

/// Reads a rule such as `chat:* forward`.
///
/// # Errors
/// A clause that says what is wrong.
pub(super) fn read_rule(line: &str) -> Result<(String, Mode), String> {
    let words: Vec<&str> = line.split_ascii_whitespace().collect();
    let [pattern, how] = words[..] else {
        return Err(
            "which is not a pattern of rooms and open, token or forward, such as `chat:* token`"
                .to_owned(),
        );
    };
    if !protocol::pattern::is_pattern(pattern) {
        return Err(format!(
            "in which `{pattern}` is not a pattern of rooms such as chat:*"
        ));
    }
    let mode = Mode::read(how)
        .ok_or_else(|| format!("in which `{how}` is none of open, token and forward"))?;
    Ok((pattern.to_owned(), mode))
}

fn rules(lines: &[String]) -> Rules {
    Rules::new(lines.iter().filter_map(|line| read_rule(line).ok()))
}

impl Config {
    /// Whether anything says who may subscribe.
    #[must_use]
    pub fn says_who_may_subscribe(&self) -> bool {
        let Access { subscribe, publish } = &self.access;
        !(subscribe.is_empty() && publish.is_empty())
            || self.tokens.is_used()
            || !self.forward.url.is_empty()
    }

    /// Bytes that a publish key has at least. On loopback, where the first steps are made, it is a warning only; in development
    /// mode nothing depends on keys.
    pub(super) fn least_key_bytes(&self) -> usize {
        if self.listen.ip().is_loopback() || self.dev_mode() {
            0
        } else {
            MIN_KEY_BYTES
        }
    }

    /// Who may do what. Validation has refused rules that cannot be read.
    #[must_use]
    pub fn policy(&self) -> Policy {
        let subscribe = if self.says_who_may_subscribe() {
            rules(&self.access.subscribe)
        } else {
            // Validation lets this be on loopback only.
            Rules::open()
        };
        Policy {
            development: self.dev_mode(),
            subscribe,
            publish: rules(&self.access.publish),
            keys: PublishKeys::new(
                &self.publish.keys,
                &self.publish.key_files,
                self.least_key_bytes(),
            ),
            forward: self.forward.config(),
        }
    }
}

impl Forward {
    /// Where to ask.
    ///
    /// # Errors
    /// A clause that says what is wrong with it, without the URL.
    pub(super) fn read_url(&self) -> Result<http::Uri, &'static str> {
        let not_one = "which is not an absolute URL such as http://backend:8000/may";
        let url = url::Url::parse(&self.url).map_err(|_| not_one)?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(not_one);
        }
        // The backend's place for them is the client's `Authorization`.
        if !url.username().is_empty() || url.password().is_some() {
            return Err(
                "which has a user or a password: a secret of the backend's own can stand in the query",
            );
        }
        if url.fragment().is_some() {
            return Err("which has a fragment (#): it is never sent");
        }
        url.as_str().parse().map_err(|_| not_one)
    }

    /// Validation has refused what cannot be used.
    fn config(&self) -> Option<ForwardConfig> {
        Some(ForwardConfig {
            url: self.read_url().ok()?,
            timeout: self.timeout,
            max_requests: self.max_requests,
            cache: self.cache,
            cache_entries: self.cache_entries,
        })
    }
}

impl fmt::Debug for Forward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Forward")
            .field("url", &super::print::hide_query(&self.url))
            .field("timeout", &self.timeout)
            .field("max_requests", &self.max_requests)
            .field("cache", &self.cache)
            .field("cache_entries", &self.cache_entries)
            .finish()
    }
}

impl Tokens {
    /// What decides by them.
    #[must_use]
    pub fn config(&self) -> TokensConfig {
        TokensConfig {
            keys: self.keys.clone(),
            key_files: self.key_files.clone(),
            jwks: (!self.jwks_url.is_empty()).then(|| JwksConfig {
                url: self.jwks_url.clone(),
                refresh: self.jwks_refresh,
            }),
            demands: Demands {
                issuer: self.issuer.clone(),
                audience: self.audience.clone(),
                leeway: self.leeway,
                max_age: self.max_age,
                claim: self.claim.clone(),
            },
            carriers: Carriers {
                cookie: self.cookie.as_str().into(),
                query: self.query.as_str().into(),
            },
        }
    }

    /// Whether any key is named.
    #[must_use]
    pub fn is_used(&self) -> bool {
        !(self.keys.is_empty() && self.key_files.is_empty() && self.jwks_url.is_empty())
    }
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens")
            .field("keys", &self.keys.len())
            .field("key_files", &self.key_files)
            .field("jwks_url", &super::print::hide_query(&self.jwks_url))
            .field("issuer", &self.issuer)
            .field("audience", &self.audience)
            .finish_non_exhaustive()
    }
}

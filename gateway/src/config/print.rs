//! What `print-config` shows, and how secrets are kept out of it and out of `Debug`.

use std::fmt;

use super::{Admin, Config, Publish, Redis};
use crate::auth::without_key;

/// Stands for a secret.
const HIDDEN: &str = "***";

/// The whole configuration as TOML, with secrets hidden.
#[must_use]
pub fn print(config: &Config) -> String {
    let mut shown = config.clone();
    shown.redis.url = hide_password(&shown.redis.url);
    if !shown.redis.sentinel_password.is_empty() {
        HIDDEN.clone_into(&mut shown.redis.sentinel_password);
    }
    for key in &mut shown.publish.keys {
        *key = without_key(key);
    }
    for key in &mut shown.tokens.keys {
        HIDDEN.clone_into(key);
    }
    shown.tokens.jwks_url = hide_query(&shown.tokens.jwks_url);
    shown.forward.url = hide_query(&shown.forward.url);
    if !shown.admin.token.is_empty() {
        HIDDEN.clone_into(&mut shown.admin.token);
    }
    toml::to_string(&shown).unwrap_or_else(|error| format!("# cannot be printed: {error}\n"))
}

/// The URL without its password, and without anything if it cannot be understood.
pub(super) fn hide_password(text: &str) -> String {
    if text.is_empty() {
        return String::new();
    }
    // Several hosts are no URL in the eyes of the standard.
    if let Some((scheme, rest)) = text.split_once("://")
        && matches!(
            scheme,
            "redis+sentinel" | "rediss+sentinel" | "redis+cluster" | "rediss+cluster"
        )
    {
        return match rest.rsplit_once('@') {
            None => text.to_owned(),
            Some((login, hosts)) => {
                let user = login.split(':').next().unwrap_or_default();
                let colon = if login.contains(':') { ":" } else { "" };
                let secret = if colon.is_empty() { "" } else { HIDDEN };
                format!("{scheme}://{user}{colon}{secret}@{hosts}")
            }
        };
    }
    let Ok(mut url) = url::Url::parse(text) else {
        return HIDDEN.to_owned();
    };
    // `ann:secret@localhost` passes for a URL of the scheme `ann`.
    if url.cannot_be_a_base() {
        return HIDDEN.to_owned();
    }
    if url.password().is_some() && url.set_password(Some(HIDDEN)).is_err() {
        return HIDDEN.to_owned();
    }
    // redis+unix:// URLs carry the password in the query.
    if url.query_pairs().any(|(name, _)| name.starts_with("pass")) {
        url.set_query(Some(HIDDEN));
    }
    url.into()
}

/// The same without its query, which may hold a secret under any name.
pub(super) fn hide_query(text: &str) -> String {
    let text = hide_password(text);
    match text.split_once('?') {
        Some((place, _)) => format!("{place}?{HIDDEN}"),
        None => text,
    }
}

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redis")
            .field("url", &hide_password(&self.url))
            .field("prefix", &self.prefix)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admin")
            .field("listen", &self.listen)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Publish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publish")
            .field("keys", &self.keys.len())
            .field("key_files", &self.key_files)
            .field("max_bytes", &self.max_bytes)
            .field("idempotency_window", &self.idempotency_window)
            .finish()
    }
}

//! Settings that can change while the node runs, on SIGHUP. Everything else needs a restart, and is named.

use std::collections::BTreeMap;
use std::fmt;

use tracing::{error, info, warn};

use crate::config::{Config, ConfigError, Limits, Loaded, validate};
use crate::telemetry::LogFilter;

/// Reads the configuration again.
pub type Load = Box<dyn Fn() -> Result<Loaded, ConfigError>>;

/// What a running node changes by.
pub struct Reload {
    load: Load,
    log: LogFilter,
    now: Config,
}

impl fmt::Debug for Reload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reload").finish_non_exhaustive()
    }
}

/// The keys that can change while a node runs.
const LIVE: &[&str] = &[
    "admin.token",
    "admin.token_file",
    "admin.metrics_open",
    "log.level",
    "http.allowed_origins",
    "publish.keys",
    "publish.key_files",
    "access.subscribe",
    "access.publish",
    "forward.url",
    "forward.timeout",
    "forward.max_requests",
    "forward.cache",
    "forward.cache_entries",
    "tokens.keys",
    "tokens.key_files",
    "tokens.jwks_url",
    "tokens.jwks_refresh",
    "tokens.issuer",
    "tokens.audience",
    "tokens.leeway",
    "tokens.max_age",
    "tokens.claim",
    "tokens.cookie",
    "tokens.query",
    "publish.wait_replicas",
    "publish.wait_timeout",
    "limits.streams",
    "limits.streams_per_address",
    "limits.streams_per_user",
    "limits.streams_per_room",
    "limits.opens_per_second",
    "limits.publishes_per_second",
    "limits.refusals_per_second",
];

impl Reload {
    /// A node that runs with `now`, and where it reads what comes next.
    #[must_use]
    pub fn new(load: Load, log: LogFilter, now: Config) -> Self {
        Self { load, log, now }
    }

    /// The log's filter.
    #[must_use]
    pub fn log(&self) -> &LogFilter {
        &self.log
    }

    /// Reads the configuration, gives what may change of it to `apply`, and logs what became of it. One that cannot be used
    /// changes nothing, and neither does one that cannot be used together with what needs a restart: whether others can reach
    /// the node is decided by the address that it listens at, not by the one that it would have.
    pub fn again(&mut self, apply: impl FnOnce(&Config)) {
        let Loaded { config, .. } = match (self.load)() {
            Ok(loaded) => loaded,
            Err(error) => {
                return error!(%error, "The configuration was not reloaded: the node goes on as it was.");
            }
        };
        let changed = changed(&self.now, &config);
        let (live, rest): (Vec<&String>, Vec<&String>) =
            changed.iter().partition(|key| LIVE.contains(&key.as_str()));
        let next = merged(&self.now, &config);
        match validate(&next) {
            Ok(warnings) => warnings.iter().for_each(|warning| warn!("{warning}")),
            Err(error) => {
                return error!(
                    %error,
                    restart = ?rest,
                    "The configuration was not reloaded: it can be used only after a restart, and the node goes on as it was."
                );
            }
        }
        if live.contains(&&"log.level".to_owned())
            && let Err(error) = self.log.set(&next.log.level)
        {
            error!(%error, "The log's filter was not changed.");
        }
        apply(&next);
        info!(changed = ?live, "The configuration was reloaded.");
        if !rest.is_empty() {
            warn!(keys = ?rest, "These settings have changed too, and need a restart.");
        }
        // What needs a restart is named again next time.
        self.now = next;
    }
}

/// The configuration that runs, with the values of [`LIVE`] of the new one.
fn merged(now: &Config, new: &Config) -> Config {
    let mut next = now.clone();
    next.admin.token.clone_from(&new.admin.token);
    next.admin.token_file.clone_from(&new.admin.token_file);
    next.admin.metrics_open = new.admin.metrics_open;
    next.log.level.clone_from(&new.log.level);
    let origins = &mut next.http.allowed_origins;
    origins.clone_from(&new.http.allowed_origins);
    next.publish.keys.clone_from(&new.publish.keys);
    next.publish.key_files.clone_from(&new.publish.key_files);
    next.publish.wait_replicas = new.publish.wait_replicas;
    next.publish.wait_timeout = new.publish.wait_timeout;
    next.access.clone_from(&new.access);
    next.forward.clone_from(&new.forward);
    next.tokens.clone_from(&new.tokens);
    next.limits = Limits {
        rooms: now.limits.rooms,
        ..new.limits.clone()
    };
    next
}

/// The keys whose values differ.
fn changed(old: &Config, new: &Config) -> Vec<String> {
    let (old, new) = (keys(old), keys(new));
    old.into_iter()
        .filter(|(key, value)| new.get(key) != Some(value))
        .map(|(key, _)| key)
        .collect()
}

fn keys(config: &Config) -> BTreeMap<String, toml::Value> {
    let mut keys = BTreeMap::new();
    if let Ok(value) = toml::Value::try_from(config) {
        flatten("", value, &mut keys);
    }
    keys
}

fn flatten(path: &str, value: toml::Value, keys: &mut BTreeMap<String, toml::Value>) {
    match value {
        toml::Value::Table(table) => {
            for (key, value) in table {
                let path = if path.is_empty() {
                    key
                } else {
                    format!("{path}.{key}")
                };
                flatten(&path, value, keys);
            }
        }
        value => {
            keys.insert(path.to_owned(), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::defaults;

    #[test]
    fn every_live_key_is_one() {
        let keys = keys(&defaults());
        for &key in LIVE {
            assert!(keys.contains_key(key), "{key}");
        }
    }

    #[test]
    fn what_needs_a_restart_stays_as_it_is() {
        let (now, mut new) = (defaults(), defaults());
        new.listen = "0.0.0.0:1".parse().unwrap();
        new.dev = Some(true);
        new.redis.url = "redis://other".to_owned();
        new.http.trusted_proxies.push("192.0.2.1".to_owned());
        new.limits.rooms += 1;
        new.limits.streams += 1;
        new.publish.keys.push("secret".to_owned());
        new.publish.max_bytes += 1;
        new.access.publish.push("* open".to_owned());
        new.forward.cache_entries += 1;
        new.tokens.query.push('x');
        let next = merged(&now, &new);
        let taken = changed(&now, &next);
        assert!(!taken.is_empty());
        assert!(taken.iter().all(|key| LIVE.contains(&key.as_str())));
        let left = changed(&next, &new);
        assert!(!left.is_empty());
        assert!(left.iter().all(|key| !LIVE.contains(&key.as_str())));
    }

    #[test]
    fn a_node_that_others_reach_is_not_opened_by_an_address_to_come() {
        let (mut now, new) = (defaults(), defaults());
        now.listen = "0.0.0.0:8080".parse().unwrap();
        now.access.subscribe.push("* token".to_owned());
        assert!(validate(&now).is_ok() && validate(&new).is_ok());
        let error = validate(&merged(&now, &new)).unwrap_err().to_string();
        assert!(error.contains("0.0.0.0:8080"), "{error}");
    }

    #[test]
    fn what_differs_is_named() {
        let (old, mut new) = (defaults(), defaults());
        assert!(changed(&old, &new).is_empty());
        new.publish.keys.push("k".to_owned());
        new.stream.history_page += 1;
        assert_eq!(changed(&old, &new), ["publish.keys", "stream.history_page"]);
    }
}

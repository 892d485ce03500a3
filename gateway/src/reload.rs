//! Settings that can change while the node runs, on SIGHUP. Everything else needs a restart, and is named.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use parking_lot::RwLock;
use tracing::{error, info, warn};

use crate::config::{Config, ConfigError, Limits, Loaded};
use crate::telemetry::LogFilter;

/// A setting that can change. Cloning shares it.
#[derive(Debug)]
pub struct Live<T>(Arc<RwLock<Arc<T>>>);

impl<T> Live<T> {
    /// Begins with this value.
    #[must_use]
    pub fn new(value: T) -> Self {
        Self(Arc::new(RwLock::new(Arc::new(value))))
    }

    /// The value now.
    #[must_use]
    pub fn get(&self) -> Arc<T> {
        self.0.read().clone()
    }

    /// Another one from now on.
    pub fn set(&self, value: T) {
        *self.0.write() = Arc::new(value);
    }
}

impl<T: Default> Default for Live<T> {
    fn default() -> Self {
        Self::new(T::default())
    }
}

impl<T> Clone for Live<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

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

    /// Reads the configuration, gives it to `apply`, and logs what became of it. One that cannot be used changes
    /// nothing.
    pub fn again(&mut self, apply: impl FnOnce(&Config)) {
        let Loaded { config, warnings } = match (self.load)() {
            Ok(loaded) => loaded,
            Err(error) => {
                return error!(%error, "The configuration was not reloaded: the node goes on as it was.");
            }
        };
        for warning in warnings {
            warn!("{warning}");
        }
        let changed = changed(&self.now, &config);
        let (live, rest): (Vec<&String>, Vec<&String>) =
            changed.iter().partition(|key| LIVE.contains(&key.as_str()));
        if live.contains(&&"log.level".to_owned())
            && let Err(error) = self.log.set(&config.log.level)
        {
            error!(%error, "The log's filter was not changed.");
        }
        apply(&config);
        info!(changed = ?live, "The configuration was reloaded.");
        if !rest.is_empty() {
            warn!(keys = ?rest, "These settings have changed too, and need a restart.");
        }
        // What needs a restart is named again next time.
        let admin = &config.admin;
        self.now.admin.token.clone_from(&admin.token);
        self.now.admin.token_file.clone_from(&admin.token_file);
        self.now.admin.metrics_open = admin.metrics_open;
        self.now.log.level.clone_from(&config.log.level);
        let origins = &mut self.now.http.allowed_origins;
        origins.clone_from(&config.http.allowed_origins);
        self.now.publish.keys.clone_from(&config.publish.keys);
        let files = &mut self.now.publish.key_files;
        files.clone_from(&config.publish.key_files);
        self.now.access.clone_from(&config.access);
        self.now.forward.clone_from(&config.forward);
        self.now.tokens.clone_from(&config.tokens);
        self.now.publish.wait_replicas = config.publish.wait_replicas;
        self.now.publish.wait_timeout = config.publish.wait_timeout;
        self.now.limits = Limits {
            rooms: self.now.limits.rooms,
            ..config.limits.clone()
        };
    }
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
    fn what_differs_is_named() {
        let (old, mut new) = (defaults(), defaults());
        assert!(changed(&old, &new).is_empty());
        new.publish.keys.push("k".to_owned());
        new.stream.history_page += 1;
        assert_eq!(changed(&old, &new), ["publish.keys", "stream.history_page"]);
    }
}

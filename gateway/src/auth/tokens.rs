//! JSON Web Tokens: which counts, and what it allows.
//!
//! A token that was found good is remembered by its digest until keys or settings change, so that a storm of reconnects
//! costs no signatures; times and rooms are looked at each time. Invariant: what is remembered was signed by a key that
//! counts now. Whatever changes the keys begins with an empty memory.

use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use prometheus::Registry;
use protocol::token::Key;
use tokio::runtime::Handle;
use tokio::task::AbortHandle;
use tracing::{error, info, warn};

use super::{Action, Asked, By, Grant, Refusal, RefusalKind, Verdict, unix_now};
use crate::fetch::Fetch;
use crate::live::Live;

mod carriers;
mod checker;
mod jwks;
mod metrics;
mod sources;

pub use carriers::Carriers;
pub use jwks::JwksConfig;
pub use protocol::token::Demands;
pub use sources::{check_lines, read_files, read_keys};

use checker::{Checker, Good, Unsound};
use jwks::{Jwks, Looked};
use metrics::TokenMetrics;

/// Of a key that may be on its way.
const NOT_YET: &str = "the key that signed the token is not known yet to tokens.jwks_url";

/// Which tokens count. `Debug` hides the keys.
#[derive(Clone, Default)]
pub struct TokensConfig {
    /// Keys, as `ALGORITHM KEY` or `kid=ID ALGORITHM KEY`. Secrets.
    pub keys: Vec<String>,
    /// Files with keys, as `ALGORITHM PATH`, `kid=ID ALGORITHM PATH`, or `PATH` of a JSON Web Key Set.
    pub key_files: Vec<String>,
    /// A set to fetch.
    pub jwks: Option<JwksConfig>,
    /// What a token has to say.
    pub demands: Demands,
    /// Where a token may be.
    pub carriers: Carriers,
}

impl TokensConfig {
    fn is_used(&self) -> bool {
        !(self.keys.is_empty() && self.key_files.is_empty() && self.jwks.is_none())
    }
}

impl std::fmt::Debug for TokensConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokensConfig")
            .field("keys", &self.keys.len())
            .field("key_files", &self.key_files)
            .field("demands", &self.demands)
            .finish_non_exhaustive()
    }
}

/// Decides by tokens.
#[derive(Debug)]
pub struct Tokens(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    setup: Live<Setup>,
    sources: Mutex<Sources>,
    metrics: TokenMetrics,
}

/// All that a decision needs, at one time.
#[derive(Debug, Default)]
struct Setup {
    used: bool,
    carriers: Carriers,
    checker: Checker,
    jwks: Option<Arc<Jwks>>,
}

/// Where keys come from, and what each place had last.
#[derive(Debug, Default)]
struct Sources {
    config: TokensConfig,
    inline: Vec<Key>,
    files: Vec<Key>,
    fetched: Vec<Key>,
    jwks: Option<(Arc<Jwks>, Task)>,
    watch: Option<Task>,
    /// Tasks so far, and the numbers of those that may still write: one that was told to end may be in the middle of it.
    made: u64,
    fetcher: u64,
    watcher: u64,
}

/// A task that ends with what it is for.
#[derive(Debug)]
struct Task(AbortHandle);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Tokens {
    /// Decides by these keys. A set that has to be fetched is fetched on this runtime; that it cannot be had now is only
    /// logged.
    ///
    /// # Errors
    /// A sentence: a key or its file cannot be used, or the metrics' names are taken.
    pub fn start(
        config: TokensConfig,
        handle: &Handle,
        registry: &Registry,
    ) -> Result<Self, String> {
        let metrics = TokenMetrics::register(registry).map_err(|error| error.to_string())?;
        let tokens = Self(Arc::new(Shared {
            setup: Live::new(Setup::default()),
            sources: Mutex::default(),
            metrics,
        }));
        tokens.apply(config, handle)?;
        Ok(tokens)
    }

    /// Decides by other keys from now on, or by the same, read again.
    ///
    /// # Errors
    /// A sentence; then nothing has changed.
    pub fn apply(&self, config: TokensConfig, handle: &Handle) -> Result<(), String> {
        let shared = &self.0;
        // Before the files are read: what changes meanwhile is read again.
        let stamps = sources::stamps(&config.key_files);
        let (inline, files) = (read_keys(&config.keys)?, read_files(&config.key_files)?);
        let mut sources = shared.sources.lock();
        if sources.config.jwks != config.jwks {
            let jwks = config.jwks.as_ref();
            sources.made += 1;
            sources.jwks = jwks.map(|jwks| shared.fetch(jwks, sources.made, handle));
            sources.fetched.clear();
            sources.fetcher = sources.made;
        }
        sources.made += 1;
        sources.watcher = sources.made;
        sources.watch = (!config.key_files.is_empty()).then(|| {
            let (shared, lines) = (Arc::downgrade(shared), config.key_files.clone());
            let work = watch_files(shared, sources.watcher, lines, stamps);
            Task(handle.spawn(work).abort_handle())
        });
        sources.config = config;
        (sources.inline, sources.files) = (inline, files);
        shared.build(&sources);
        Ok(())
    }

    /// Whether there are keys, or may come to be.
    #[must_use]
    pub fn are_used(&self) -> bool {
        self.0.setup.get().used
    }

    /// Seconds that clocks may differ by.
    pub(super) fn leeway(&self) -> u64 {
        self.0.setup.get().checker.demands.leeway.as_secs()
    }

    /// The query parameter that may hold a token; empty for none.
    #[must_use]
    pub fn query_parameter(&self) -> Arc<str> {
        self.0.setup.get().carriers.query.clone()
    }

    /// Decides on a request in a room that needs a token. Waits only where a key has to be fetched.
    pub(super) async fn decide(&self, asked: &Asked<'_>) -> Verdict {
        let setup = self.0.setup.get();
        if !setup.used {
            return Verdict::Refused(not_configured(asked));
        }
        let text = match setup.carriers.find(asked.headers, asked.query) {
            Ok(Some(text)) => text,
            Ok(None) => {
                return Verdict::Refused(Refusal::new(
                    RefusalKind::Missing,
                    "missing",
                    format!(
                        "{} needs a token: {}",
                        doing(asked),
                        setup.carriers.advice()
                    ),
                ));
            }
            Err(refusal) => return Verdict::Refused(refusal),
        };
        match self.check(&setup, &text).await {
            Ok(good) => allow(asked, &setup.checker, &good),
            Err(verdict) => verdict,
        }
    }

    /// Looks at a token.
    async fn check(&self, setup: &Setup, text: &str) -> Result<Good, Verdict> {
        let (metrics, now) = (&self.0.metrics, unix_now());
        let key_id = match setup.checker.check(text, now, metrics) {
            Ok(good) => return Ok(good),
            Err(Unsound::Refused(refusal)) => return Err(Verdict::Refused(refusal)),
            Err(Unsound::UnknownKey(key_id)) => key_id,
        };
        let Some(jwks) = &setup.jwks else {
            return Err(Verdict::Refused(unknown_key()));
        };
        match jwks.look_for(&key_id).await {
            Looked::Again => {}
            Looked::NotThere => return Err(Verdict::Refused(unknown_key())),
            Looked::Away => return Err(Verdict::Away(NOT_YET)),
        }
        match self.0.setup.get().checker.check(text, now, metrics) {
            Ok(good) => Ok(good),
            Err(Unsound::Refused(refusal)) => Err(Verdict::Refused(refusal)),
            Err(Unsound::UnknownKey(_)) if jwks.is_not_there(key_id) => {
                Err(Verdict::Refused(unknown_key()))
            }
            Err(Unsound::UnknownKey(_)) => Err(Verdict::Away(NOT_YET)),
        }
    }
}

impl Shared {
    /// Begins to fetch a set.
    fn fetch(
        self: &Arc<Self>,
        config: &JwksConfig,
        number: u64,
        handle: &Handle,
    ) -> (Arc<Jwks>, Task) {
        let fetch = Fetch::new(jwks::TIMEOUT, jwks::MAX_BYTES).unwrap_or_else(|error| {
            warn!(%error, "There are no system certificates: tokens.jwks_url can be fetched without TLS only.");
            Fetch::without_roots(jwks::TIMEOUT, jwks::MAX_BYTES)
        });
        let (jwks, shared) = (Arc::new(Jwks::default()), Arc::downgrade(self));
        let give = move |keys| replace_fetched(&shared, number, keys);
        let work = jwks
            .clone()
            .run(fetch, config.clone(), self.metrics.clone(), give);
        (jwks, Task(handle.spawn(work).abort_handle()))
    }

    fn build(&self, sources: &Sources) {
        let config = &sources.config;
        let keys = [&sources.inline, &sources.files, &sources.fetched];
        let keys: Vec<Key> = keys.into_iter().flatten().cloned().collect();
        self.metrics
            .keys
            .set(keys.len().try_into().unwrap_or(i64::MAX));
        self.setup.set(Setup {
            used: config.is_used(),
            carriers: config.carriers.clone(),
            checker: Checker::new(config.demands.clone(), keys),
            jwks: sources.jwks.as_ref().map(|(jwks, _)| jwks.clone()),
        });
    }
}

/// Takes what the task with this number has fetched.
fn replace_fetched(shared: &Weak<Shared>, number: u64, keys: Vec<Key>) {
    if let Some(shared) = shared.upgrade() {
        let mut sources = shared.sources.lock();
        if sources.fetcher == number {
            sources.fetched = keys;
            shared.build(&sources);
        }
    }
}

/// Takes what the task with this number has read.
fn replace_files(shared: &Weak<Shared>, number: u64, keys: Vec<Key>) {
    if let Some(shared) = shared.upgrade() {
        let mut sources = shared.sources.lock();
        if sources.watcher == number {
            sources.files = keys;
            shared.build(&sources);
        }
    }
}

/// Reads key files again when they change from what they were when these stamps were taken. A look a second costs a call of
/// the system for each.
async fn watch_files(
    shared: Weak<Shared>,
    number: u64,
    lines: Vec<String>,
    mut seen: Vec<sources::Stamp>,
) {
    const PAUSE: Duration = Duration::from_secs(1);
    let mut complaint = None;
    loop {
        tokio::time::sleep(PAUSE).await;
        let now = sources::stamps(&lines);
        // After a failure it is tried again: the file may have been in the middle of being written.
        if now == seen && complaint.is_none() {
            continue;
        }
        seen = now;
        match read_files(&lines) {
            Ok(keys) => {
                complaint = None;
                info!(keys = keys.len(), "The keys for tokens were read again.");
                replace_files(&shared, number, keys);
            }
            Err(error) => {
                if let Some(shared) = shared.upgrade() {
                    shared.metrics.file_errors.inc();
                }
                if complaint.as_ref() != Some(&error) {
                    error!(%error, "The keys for tokens were not read again: the old ones count.");
                    complaint = Some(error);
                }
            }
        }
    }
}

/// What a good token allows here.
fn allow(asked: &Asked<'_>, checker: &Checker, good: &Good) -> Verdict {
    let rooms = match asked.action {
        Action::Subscribe => &good.rooms.subscribe,
        Action::Publish => &good.rooms.publish,
    };
    if !rooms.fit(asked.room) {
        return Verdict::Refused(Refusal::new(
            RefusalKind::Forbidden,
            "room",
            format!(
                "{} needs a token that names the room, in the list `{}` of its claim `{}`",
                doing(asked),
                asked.action.label(),
                checker.demands.claim
            ),
        ));
    }
    Verdict::Allowed(Grant {
        by: By::Token,
        terms: checker.terms(good),
    })
}

/// Where there are no keys at all.
pub(super) fn not_configured(asked: &Asked<'_>) -> Refusal {
    let sentence = format!(
        "{} needs a token, and the gateway has no keys for tokens: set tokens.key_files, or name the room in access.{}",
        doing(asked),
        asked.action.label()
    );
    Refusal::new(RefusalKind::Forbidden, "not_configured", sentence)
}

fn doing(asked: &Asked<'_>) -> String {
    match asked.action {
        Action::Subscribe => format!("subscribing to {}", asked.room),
        Action::Publish => format!("publishing in {}", asked.room),
    }
}

fn unknown_key() -> Refusal {
    Refusal::new(
        RefusalKind::Invalid,
        "unknown_kid",
        "the token names a key (`kid`) that the gateway does not have, or names none and none is for its `alg`: see [tokens]",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(path: &std::path::Path) -> TokensConfig {
        TokensConfig {
            key_files: vec![format!("HS256 {}", path.display())],
            ..TokensConfig::default()
        }
    }

    fn keys(tokens: &Tokens) -> i64 {
        tokens.0.metrics.keys.get()
    }

    #[tokio::test]
    async fn a_source_that_was_replaced_writes_no_more() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        std::fs::write(&path, [b'x'; 32]).unwrap();
        let handle = Handle::current();
        let tokens = Tokens::start(files(&path), &handle, &Registry::new()).unwrap();
        let jwks = |url: &str| TokensConfig {
            jwks: Some(JwksConfig {
                url: url.into(),
                refresh: Duration::from_secs(3600),
            }),
            ..files(&path)
        };
        tokens.apply(jwks("http://127.0.0.1:9/a"), &handle).unwrap();
        let (fetcher, watcher) = {
            let sources = tokens.0.sources.lock();
            (sources.fetcher, sources.watcher)
        };
        let shared = Arc::downgrade(&tokens.0);
        let stale =
            || read_files(&[files(&path).key_files, files(&path).key_files].concat()).unwrap();
        replace_fetched(&shared, fetcher, stale());
        assert_eq!(keys(&tokens), 3);
        replace_files(&shared, watcher, stale());
        assert_eq!(keys(&tokens), 4);
        tokens.apply(jwks("http://127.0.0.1:9/b"), &handle).unwrap();
        assert_eq!(keys(&tokens), 1);
        replace_fetched(&shared, fetcher, stale());
        replace_files(&shared, watcher, stale());
        assert_eq!(keys(&tokens), 1);
        tokens.apply(files(&path), &handle).unwrap();
        replace_fetched(&shared, fetcher + 1, stale());
        assert_eq!(keys(&tokens), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn files_that_change_while_they_are_read_are_read_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        std::fs::write(&path, [b'x'; 32]).unwrap();
        let config = files(&path);
        let tokens = Tokens::start(config.clone(), &Handle::current(), &Registry::new()).unwrap();
        let (shared, number) = {
            let mut sources = tokens.0.sources.lock();
            sources.watch = None;
            sources.files.clear();
            tokens.0.build(&sources);
            (Arc::downgrade(&tokens.0), sources.watcher)
        };
        assert_eq!(keys(&tokens), 0);
        // As it was before somebody wrote it.
        let watch = watch_files(shared, number, config.key_files, vec![None]);
        let _ = tokio::time::timeout(Duration::from_secs(5), watch).await;
        assert_eq!(keys(&tokens), 1);
    }
}

//! Who may subscribe to a room, and who may publish in it over HTTP. Knows requests by their headers, and nothing of
//! connections: `http` asks, and turns a verdict into an answer.
//!
//! Invariant: nothing is read from a room for a request, or stored in it, before [`Auth::decide`] has allowed it.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::HeaderMap;
use prometheus::{IntGauge, Registry, register_int_gauge_with_registry};
use protocol::RoomName;

use crate::hub::{Disconnects, Terms};
use crate::live::Live;

mod disconnects;
mod forward;
mod key_line;
mod keys;
mod rules;
mod tokens;

pub use forward::{Forward, ForwardConfig, ForwardMetrics};
pub use keys::{MIN_KEY_BYTES, PublishKeys, bearer, is_short, without_key};
pub use rules::{Mode, Rules};
pub use tokens::{
    Carriers, Demands, JwksConfig, Tokens, TokensConfig, check_lines, read_files, read_keys,
};

/// Files with keys are read again this often: a secret that an orchestrator replaces counts without a signal.
const FILES_INTERVAL: Duration = Duration::from_secs(1);

/// What a request wants to do in a room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// Streams, history, and what is known of the room.
    Subscribe,
    /// Publishing.
    Publish,
}

impl Action {
    /// In metrics, in the log, and for the backend that is asked.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Subscribe => "subscribe",
            Self::Publish => "publish",
        }
    }
}

/// A request, as far as permission depends on it.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// What for.
    pub action: Action,
    /// Where.
    pub room: &'a RoomName,
    /// Of the request.
    pub headers: &'a HeaderMap,
    /// Of the request's target, without the question mark.
    pub query: &'a str,
    /// Who asks: behind trusted proxies the one whom they name.
    pub client: Option<IpAddr>,
    /// The client has shown a certificate that lets it publish.
    pub certified: bool,
}

/// Because of what a request was allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// Development mode: anyone may do anything.
    Development,
    /// A rule that lets anyone.
    Open,
    /// A publish key, or a certificate that stands for one.
    Key,
    /// A token.
    Token,
    /// The user's backend.
    Forward,
}

/// A request that was allowed.
#[derive(Debug, Clone)]
pub struct Grant {
    /// Because of what.
    pub by: By,
    /// On what terms its stream stays open.
    pub terms: Terms,
}

impl Grant {
    /// For nobody in particular and without an end.
    #[must_use]
    pub fn open(by: By) -> Self {
        Self {
            by,
            terms: Terms::default(),
        }
    }
}

/// Why a request is not allowed. The label is in metrics, the sentence in the answer; neither holds a secret.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{sentence}")]
pub struct Refusal {
    /// What the client can do about it.
    pub kind: RefusalKind,
    /// One word for metrics, such as `expired`.
    pub label: &'static str,
    /// What is wrong and what to do.
    pub sentence: String,
}

/// What a client can do about a refusal (RFC 9110, sections 15.5.2 and 15.5.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusalKind {
    /// 401: it showed nothing.
    Missing,
    /// 401: what it showed does not count (RFC 6750, section 3.1: `invalid_token`).
    Invalid,
    /// 403: what it showed counts, and allows less.
    Forbidden,
}

impl Refusal {
    /// One.
    #[must_use]
    pub fn new(kind: RefusalKind, label: &'static str, sentence: impl Into<String>) -> Self {
        Self {
            kind,
            label,
            sentence: sentence.into(),
        }
    }
}

/// What becomes of a request.
#[derive(Debug, Clone)]
pub enum Verdict {
    /// Go on.
    Allowed(Grant),
    /// Never, unless it shows something else.
    Refused(Refusal),
    /// Whoever decides cannot be asked now: a stream's client comes back later, others are answered 503.
    Away(&'static str),
}

/// Who may do what. Cloning is not needed: it lives in an `Arc`, shared by all shards.
#[derive(Debug)]
pub struct Auth {
    policy: Live<Policy>,
    disconnects: Disconnects,
    forward: Option<Forward>,
    tokens: Option<Tokens>,
    /// Files with publish keys that cannot be used now.
    faulty_files: Option<IntGauge>,
}

/// What can change while the node runs.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    /// Development mode: nothing is asked.
    pub development: bool,
    /// For subscribing.
    pub subscribe: Rules,
    /// For publishing.
    pub publish: Rules,
    /// Who may publish whatever the rules say.
    pub keys: PublishKeys,
    /// The backend that is asked.
    pub forward: Option<ForwardConfig>,
}

impl Auth {
    /// Decides by this policy.
    #[must_use]
    pub fn new(policy: Policy) -> Self {
        Self {
            policy: Live::new(policy),
            disconnects: Disconnects::default(),
            forward: None,
            tokens: None,
            faulty_files: None,
        }
    }

    /// Counts the files with publish keys that cannot be used.
    ///
    /// # Errors
    /// The name is taken.
    pub fn counting(self, registry: &Registry) -> prometheus::Result<Self> {
        let faulty_files = register_int_gauge_with_registry!(
            "sse_gateway_publish_key_files_unusable",
            "Files of publish.key_files that cannot be used now; their last keys count meanwhile.",
            registry
        )?;
        Ok(Self {
            faulty_files: Some(faulty_files),
            ..self
        })
    }

    /// Refuses what was issued before these.
    #[must_use]
    pub fn heeding(self, disconnects: Disconnects) -> Self {
        Self {
            disconnects,
            ..self
        }
    }

    /// Asks the backend by this. Without it, whoever has to be asked is away.
    #[must_use]
    pub fn forwarding(mut self, forward: Forward) -> Self {
        forward.apply(self.policy.get().forward.as_ref());
        self.forward = Some(forward);
        self
    }

    /// Decides by these tokens too.
    #[must_use]
    pub fn with_tokens(mut self, tokens: Tokens) -> Self {
        self.tokens = Some(tokens);
        self
    }

    /// Decides by tokens, where it does.
    #[must_use]
    pub fn tokens(&self) -> Option<&Tokens> {
        self.tokens.as_ref()
    }

    /// Another policy from now on. Streams that are open stay.
    pub fn apply(&self, mut policy: Policy) {
        policy.keys.inherit(&self.policy.get().keys);
        self.count_faults(&policy.keys);
        if let Some(forward) = &self.forward {
            forward.apply(policy.forward.as_ref());
        }
        self.policy.set(policy);
    }

    fn count_faults(&self, keys: &PublishKeys) {
        if let Some(gauge) = &self.faulty_files {
            gauge.set(i64::try_from(keys.faults()).unwrap_or(i64::MAX));
        }
    }

    /// Reads files with publish keys again and again, for ever. Not to run beside [`Auth::apply`] in another thread.
    pub async fn watch_files(&self) {
        loop {
            tokio::time::sleep(FILES_INTERVAL).await;
            let policy = self.policy.get();
            if !policy.keys.has_files() {
                continue;
            }
            let read = policy.clone();
            let keys = tokio::task::spawn_blocking(move || read.keys.again()).await;
            // Another policy has come meanwhile: it has read them itself.
            if let Ok(Some(keys)) = keys
                && Arc::ptr_eq(&policy, &self.policy.get())
            {
                self.count_faults(&keys);
                self.policy.set(Policy {
                    keys,
                    ..(*policy).clone()
                });
            }
        }
    }

    /// Whether a request to publish shows a key, or a certificate that stands for one, that counts in its room.
    #[must_use]
    pub fn has_key(&self, asked: &Asked<'_>) -> bool {
        let keys = &self.policy.get().keys;
        asked.certified || keys.find(asked.room, asked.headers) == keys::Found::Key
    }

    /// Decides on a request.
    pub async fn decide(&self, asked: &Asked<'_>) -> Verdict {
        let verdict = self.judge(asked).await;
        disconnects::heed(&self.disconnects, asked.room, verdict)
    }

    /// Looks again at a permission that was given a while ago: whether it has ended, or was taken back since.
    #[must_use]
    pub fn still(&self, room: &RoomName, grant: &Grant) -> Verdict {
        let leeway = self.tokens.as_ref().map_or(0, Tokens::leeway);
        let verdict = Verdict::Allowed(grant.clone());
        disconnects::heed(&self.disconnects, room, ended(verdict, unix_now(), leeway))
    }

    async fn judge(&self, asked: &Asked<'_>) -> Verdict {
        let policy = self.policy.get();
        let publishing = asked.action == Action::Publish;
        // A key is looked at first, so that its holder may do more than a visitor.
        let key = publishing.then(|| policy.keys.find(asked.room, asked.headers));
        if matches!(key, Some(keys::Found::Key)) || (publishing && asked.certified) {
            return Verdict::Allowed(Grant::open(By::Key));
        }
        if policy.development {
            return Verdict::Allowed(Grant::open(By::Development));
        }
        let rules = match asked.action {
            Action::Subscribe => &policy.subscribe,
            Action::Publish => &policy.publish,
        };
        match rules.of(asked.room) {
            Mode::Open => Verdict::Allowed(Grant::open(By::Open)),
            Mode::Token => self.by_token(asked, &policy, key).await,
            Mode::Forward => match (&self.forward, key) {
                // A key that counts elsewhere is nothing that the backend may see.
                (_, Some(found @ keys::Found::Elsewhere)) => {
                    Verdict::Refused(policy.keys.refusal(found))
                }
                (Some(forward), _) => {
                    let hold = |terms: &Terms| !self.disconnects.refuse_answer(asked.room, terms);
                    forward.decide(asked, &hold).await
                }
                (None, _) => Verdict::Away("there is no backend to ask for permission"),
            },
        }
    }

    /// By a token; who publishes and shows none is told of keys too.
    async fn by_token(
        &self,
        asked: &Asked<'_>,
        policy: &Policy,
        key: Option<keys::Found>,
    ) -> Verdict {
        let verdict = match &self.tokens {
            Some(tokens) => tokens.decide(asked).await,
            None => Verdict::Refused(tokens::not_configured(asked)),
        };
        let (Verdict::Refused(refusal), Some(found)) = (&verdict, key) else {
            return verdict;
        };
        let by_key = policy.keys.refusal(found);
        match refusal.label {
            "not_configured" => Verdict::Refused(by_key),
            "missing" | "malformed" if by_key.label != "not_configured" => Verdict::Refused(by_key),
            _ => verdict,
        }
    }
}

/// The verdict, unless what it stands on has ended: so long after its end as a stream may stay open.
fn ended(verdict: Verdict, now: u64, leeway: u64) -> Verdict {
    match verdict {
        Verdict::Allowed(Grant { by, terms })
            if terms
                .ends
                .is_some_and(|end| now >= end.saturating_add(leeway)) =>
        {
            match by {
                By::Forward => Verdict::Away("the backend's answer has ended since"),
                _ => Verdict::Refused(Refusal::new(
                    RefusalKind::Invalid,
                    "expired",
                    "the token has ended while the request was on its way: get a new one",
                )),
            }
        }
        verdict => verdict,
    }
}

/// The time of now, as tokens count it: seconds since 1970.
#[must_use]
pub fn unix_now() -> u64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_permission_ends_as_late_as_a_stream() {
        let verdict = |by, ends| {
            let mut grant = Grant::open(by);
            grant.terms.ends = ends;
            Verdict::Allowed(grant)
        };
        for by in [By::Token, By::Forward, By::Key] {
            assert!(matches!(
                ended(verdict(by, None), u64::MAX, 0),
                Verdict::Allowed(_)
            ));
            assert!(matches!(
                ended(verdict(by, Some(100)), 129, 30),
                Verdict::Allowed(_)
            ));
        }
        let late = ended(verdict(By::Token, Some(100)), 130, 30);
        assert!(matches!(&late, Verdict::Refused(refusal) if refusal.label == "expired"));
        // The backend may say otherwise by now.
        let late = ended(verdict(By::Forward, Some(100)), 130, 30);
        assert!(matches!(late, Verdict::Away(_)));
    }
}

//! Publishing through a gateway: one request per event, in order, on one connection.

use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use http_body_util::Full;
use protocol::RoomName;
use protocol::trace::TRACEPARENT;
use tokio::time::timeout;

use super::{Failure, FailureKind, Progress, Receipt};
use crate::cli;
use crate::gateway::{Gateway, Lost};
use crate::input::Outgoing;

const RESPONSE_TIMEOUT: Duration = Duration::from_secs(15);

/// Publishes over HTTP.
#[derive(Debug)]
pub struct Publisher {
    gateway: Gateway,
    /// What follows the path, with a question mark, or nothing.
    query: String,
    replicas: Option<cli::Replicas>,
}

impl Publisher {
    /// To this gateway; nothing is sent yet.
    ///
    /// # Errors
    /// Address, key or certificates cannot be used.
    pub fn new(url: &str, cli: &cli::Publish) -> Result<Self, Failure> {
        Ok(Self {
            gateway: Gateway::new(url, &cli.tls, cli.key().as_deref(), "--key")?,
            query: query(cli),
            replicas: cli.replicas(),
        })
    }

    /// Tries once to publish events, in order.
    pub async fn publish(&mut self, room: &RoomName, batch: &[Outgoing]) -> Progress {
        let mut progress = Progress::default();
        for event in batch {
            match self.one(room, event).await {
                Ok((receipt, shortage)) => {
                    progress.receipts.push(receipt);
                    if shortage.is_some() {
                        progress.failure = shortage;
                        break;
                    }
                }
                Err(failure) => {
                    progress.failure = Some(failure);
                    break;
                }
            }
        }
        progress
    }

    async fn one(
        &mut self,
        room: &RoomName,
        event: &Outgoing,
    ) -> Result<(Receipt, Option<Failure>), Failure> {
        let mut envelope = event.envelope();
        if event.ephemeral {
            envelope["ephemeral"] = true.into();
        }
        let path = format!("/rooms/{room}/events{}", self.query);
        let mut request = self.gateway.post(&path);
        if !event.ephemeral {
            request = request.header("idempotency-key", &event.key);
        }
        if let Some(trace) = event.trace.parent() {
            request = request.header(TRACEPARENT, trace.to_string());
        }
        let request = request
            .body(Full::new(Bytes::from(envelope.to_string())))
            .map_err(|error| Failure::refused(format!("no request can be made of it: {error}")))?;
        let wait = self.replicas.map(|wait| wait.timeout);
        let patience = RESPONSE_TIMEOUT + wait.unwrap_or_default();
        let answer = timeout(patience, self.gateway.exchange(request)).await;
        let late = Lost {
            sent: true,
            reason: "it did not answer in time".to_owned(),
        };
        let (status, body) = answer
            .unwrap_or(Err(late))
            .map_err(|lost| failure(lost, event))?;
        self.judge(status, &body, event)
    }

    /// The receipt, and what it lacks of what was asked for.
    fn judge(
        &self,
        status: StatusCode,
        body: &[u8],
        event: &Outgoing,
    ) -> Result<(Receipt, Option<Failure>), Failure> {
        let json: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
        let member = |name: &str| json[name].as_str().map(str::to_owned);
        if status.is_success() {
            let id = member("id");
            if id.is_none() && !event.ephemeral {
                let sentence = format!(
                    "{} answered {status} without an id: is it a gateway?",
                    self.gateway.base()
                );
                return Err(Failure::other(sentence));
            }
            let receipt = Receipt {
                id,
                // A random key was ours: it is known only from an earlier try of this event.
                repeat: event.own_key && status == StatusCode::OK,
                replicas: json["replicas"]
                    .as_u64()
                    .filter(|_| self.replicas.is_some()),
            };
            let why = match receipt.replicas {
                Some(_) => member("replicas_error"),
                None => Some("the gateway does not say".to_owned()),
            };
            let shortage = self
                .replicas
                .and_then(|wait| wait.shortage(std::slice::from_ref(&receipt), why.as_deref()));
            return Ok((receipt, shortage));
        }
        let kind = match status.as_u16() {
            401 | 403 => FailureKind::Forbidden,
            400 | 404 | 405 | 411 | 413 | 414 | 415 | 422 | 431 => FailureKind::Refused,
            // 503: nothing was published. The others may come from a proxy that lost the answer.
            503 | 429 => FailureKind::Unavailable,
            408 | 500 | 502 | 504 => again(event),
            _ => FailureKind::Other,
        };
        let said = member("error").map(|error| format!(": {error}"));
        let sentence = format!(
            "{} answered {status}{}",
            self.gateway.base(),
            said.unwrap_or_default()
        );
        Err(Failure::new(kind, sentence))
    }
}

/// What the flags ask for beside the event.
fn query(cli: &cli::Publish) -> String {
    let millis = |time: Duration| format!("{}ms", time.as_millis());
    let wait = cli.replicas();
    let pairs = [
        ("max_len", cli.max_len.map(|events| events.to_string())),
        ("max_age", cli.max_age.map(millis)),
        ("expire", cli.expire.map(millis)),
        ("replicas", wait.map(|wait| wait.replicas.to_string())),
        ("wait", wait.map(|wait| millis(wait.timeout))),
    ];
    let mut query = String::new();
    for (name, value) in pairs {
        if let Some(value) = value {
            let mark = if query.is_empty() { '?' } else { '&' };
            query += &format!("{mark}{name}={value}");
        }
    }
    query
}

/// Whether an event whose answer was lost may be sent again.
fn again(event: &Outgoing) -> FailureKind {
    if event.ephemeral {
        FailureKind::Unknown
    } else {
        FailureKind::Unavailable
    }
}

fn failure(lost: Lost, event: &Outgoing) -> Failure {
    if lost.sent {
        let sentence = format!("the gateway's answer was lost: {}", lost.reason);
        Failure::new(again(event), sentence)
    } else {
        Failure::unavailable(format!("the gateway is not available: {}", lost.reason))
    }
}

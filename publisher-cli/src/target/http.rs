//! Publishing through a gateway: one request per event, in order, on one connection.

use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use protocol::RoomName;
use protocol::trace::TRACEPARENT;
use tokio::time::timeout;

use super::{Failure, FailureKind, Progress, Receipt};
use crate::cli;
use crate::input::Outgoing;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(15);
/// The most bytes of an answer that are read.
const MAX_ANSWER_BYTES: usize = 64 * 1024;

/// Publishes over HTTP.
#[derive(Debug)]
pub struct Publisher {
    client: Client<HttpConnector, Full<Bytes>>,
    base: String,
    authorization: Option<HeaderValue>,
    /// What follows the path, with a question mark, or nothing.
    query: String,
    replicas: Option<cli::Replicas>,
}

impl Publisher {
    /// To this gateway; nothing is sent yet.
    ///
    /// # Errors
    /// Address or key cannot be used.
    pub fn new(url: &str, cli: &cli::Publish) -> Result<Self, Failure> {
        let uri: Uri = url
            .parse()
            .map_err(|error| Failure::refused(format!("'{url}' is not a URL: {error}")))?;
        let plain = uri.scheme_str() == Some("http")
            && uri.query().is_none()
            && uri.authority().is_some_and(|to| !to.as_str().contains('@'));
        if !plain {
            return Err(Failure::refused(format!(
                "'{url}' is not http://HOST[:PORT][/PREFIX] (TLS is not supported, and the key goes into --key)"
            )));
        }
        let authorization = cli
            .key()
            .map(|key| HeaderValue::from_str(&format!("Bearer {key}")))
            .transpose()
            .map_err(|_| Failure::refused("the key has characters that cannot be in a header"))?
            .map(|mut value| {
                value.set_sensitive(true);
                value
            });
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        connector.set_nodelay(true);
        Ok(Self {
            client: Client::builder(TokioExecutor::new()).build(connector),
            base: url.trim_end_matches('/').to_owned(),
            authorization,
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
        &self,
        room: &RoomName,
        event: &Outgoing,
    ) -> Result<(Receipt, Option<Failure>), Failure> {
        let mut envelope = event.envelope();
        if event.ephemeral {
            envelope["ephemeral"] = true.into();
        }
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(format!("{}/rooms/{room}/events{}", self.base, self.query))
            .header(CONTENT_TYPE, "application/json");
        if !event.ephemeral {
            request = request.header("idempotency-key", &event.key);
        }
        if let Some(trace) = event.trace.parent() {
            request = request.header(TRACEPARENT, trace.to_string());
        }
        if let Some(value) = &self.authorization {
            request = request.header(AUTHORIZATION, value);
        }
        let request = request
            .body(Full::new(Bytes::from(envelope.to_string())))
            .map_err(|error| Failure::refused(format!("no request can be made of it: {error}")))?;
        let wait = self.replicas.map(|wait| wait.timeout);
        let patience = RESPONSE_TIMEOUT + wait.unwrap_or_default();
        let (status, body) = match timeout(patience, self.exchange(request)).await {
            Ok(answer) => answer.map_err(|lost| lost.failure(event))?,
            Err(_) => return Err(Lost::on_the_way("it did not answer in time").failure(event)),
        };
        self.judge(status, &body, event)
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> Result<(StatusCode, Bytes), Lost> {
        let answer = self.client.request(request).await.map_err(|error| Lost {
            sent: !error.is_connect(),
            reason: root(&error),
        })?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MAX_ANSWER_BYTES)
            .collect()
            .await
            .map_err(|error| Lost::on_the_way(&root(&*error)))?;
        Ok((status, body.to_bytes()))
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
                    self.base
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
            408 | 500 | 502 | 504 => Lost::kind(event),
            _ => FailureKind::Other,
        };
        let said = member("error").map(|error| format!(": {error}"));
        let sentence = format!(
            "{} answered {status}{}",
            self.base,
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

/// No whole answer came.
struct Lost {
    sent: bool,
    reason: String,
}

impl Lost {
    fn on_the_way(reason: &str) -> Self {
        Self {
            sent: true,
            reason: reason.to_owned(),
        }
    }

    /// Whether an event whose answer was lost may be sent again.
    fn kind(event: &Outgoing) -> FailureKind {
        if event.ephemeral {
            FailureKind::Unknown
        } else {
            FailureKind::Unavailable
        }
    }

    fn failure(self, event: &Outgoing) -> Failure {
        if self.sent {
            let sentence = format!("the gateway's answer was lost: {}", self.reason);
            Failure::new(Self::kind(event), sentence)
        } else {
            Failure::unavailable(format!("the gateway is not available: {}", self.reason))
        }
    }
}

/// The innermost cause: what says most.
pub fn root(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

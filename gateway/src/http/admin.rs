//! The operators' listener: `/livez`, `/readyz`, `/metrics`, `/log` and `/disconnects`.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus::{Registry, TextEncoder};
use serde::Deserialize;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;
use tracing::{info, trace, warn};

use super::body::Answer;
use super::error::{self, Failure};
use crate::broker::{Broker, BrokerError, BrokerStatus};
use crate::drain::{Lifecycle, Phase};
use crate::hub::Whom;
use crate::telemetry::LogFilter;

mod gate;

pub use gate::{Gate, GateRules};

/// Bytes of a request's body: a filter for the log, or whom to disconnect.
const MAX_BODY: usize = 4096;
/// Time for it.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// What the operators' listener reads.
#[derive(Clone)]
pub struct Admin {
    /// Whether the node is ready.
    pub readiness: Readiness,
    /// All metrics.
    pub registry: Registry,
    /// What is logged.
    pub log: LogFilter,
    /// Who may ask.
    pub gate: Gate,
}

/// Whom to disconnect.
#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Named {
    User(String),
    Room(String),
}

/// What readiness depends on. Cloning shares it.
#[derive(Clone)]
pub struct Readiness {
    /// Whether events flow.
    pub broker: Arc<dyn Broker>,
    /// Whether the process is on its way to the end.
    pub lifecycle: Lifecycle,
    /// Unready whenever the broker is away, not only before it was reached.
    pub strict: bool,
}

impl Readiness {
    /// Whether the node is ready now.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        judge(&self.broker.status(), self.lifecycle.phase(), self.strict).0
    }

    fn answer(&self) -> Response<Answer> {
        readiness(&self.broker.status(), self.lifecycle.phase(), self.strict)
    }
}

/// Serves one connection; `certified` is whether its client has shown an operator's certificate.
pub async fn serve(admin: Admin, socket: impl AsyncRead + AsyncWrite + Unpin, certified: bool) {
    let service = service_fn(|request: Request<Incoming>| {
        let admin = admin.clone();
        async move {
            let answer = admin.answer(request, certified).await;
            let mut response = answer.unwrap_or_else(Failure::into_response);
            let headers = response.headers_mut();
            for (name, value) in FIXED {
                headers.insert(name, HeaderValue::from_static(value));
            }
            Ok::<_, Infallible>(response)
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .title_case_headers(true)
        .serve_connection(TokioIo::new(socket), service);
    if let Err(error) = connection.await {
        trace!(%error, "An admin connection ended.");
    }
}

/// In every answer: none is a page, and no page may read it as one.
const FIXED: [(header::HeaderName, &str); 2] = [
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; frame-ancestors 'none'",
    ),
];

impl Admin {
    async fn answer(
        &self,
        request: Request<Incoming>,
        certified: bool,
    ) -> Result<Response<Answer>, Failure> {
        let (parts, body) = request.into_parts();
        self.gate.pass(&parts, certified)?;
        let methods = match parts.uri.path() {
            "/log" => "GET, HEAD, PUT",
            "/disconnects" => "POST",
            _ => "GET, HEAD",
        };
        let method = &parts.method;
        if !methods.split(", ").any(|one| one == method.as_str()) {
            return Err(Failure::method(methods));
        }
        match parts.uri.path() {
            "/livez" => Ok(error::json(StatusCode::OK, &json!({ "status": "ok" }))),
            "/readyz" => Ok(self.readiness.answer()),
            "/metrics" => Ok(self.metrics()),
            "/log" if method == Method::PUT => self.set_log(&read(body).await?),
            "/log" => Ok(self.log()),
            "/disconnects" => self.disconnect(&read(body).await?).await,
            _ => Err(Failure::not_found(
                "there is nothing at this path: try /livez, /readyz, /metrics, /log or /disconnects",
            )),
        }
    }

    /// What is logged.
    fn log(&self) -> Response<Answer> {
        error::json(StatusCode::OK, &json!({ "level": self.log.get() }))
    }

    /// Another filter from now on: `curl -X PUT -d debug http://…/log`.
    fn set_log(&self, body: &[u8]) -> Result<Response<Answer>, Failure> {
        let level = String::from_utf8_lossy(body).trim().to_owned();
        let set = self.log.set(&level);
        set.map_err(|error| Failure::bad(error.to_string()))?;
        info!(level, "The log's filter was changed.");
        Ok(self.log())
    }

    /// Closes the streams of a user or a room, on every node: `curl -d '{"user":"ann"}' http://…/disconnects`.
    async fn disconnect(&self, body: &[u8]) -> Result<Response<Answer>, Failure> {
        let named: Named = serde_json::from_slice(body).map_err(|error| {
            Failure::bad(format!(
                "the body is not {{\"user\": NAME}} or {{\"room\": ROOM}}: {error}"
            ))
        })?;
        let whom = match &named {
            Named::User(user) => Whom::read("user", user),
            Named::Room(room) => Whom::read("room", room),
        };
        let whom = whom.map_err(|error| Failure::bad(error.to_string()))?;
        let id = self.readiness.broker.disconnect(whom).await;
        let id = id.map_err(|error| match error {
            BrokerError::Away(_) => Failure::away(format!("{error}: try again")),
            BrokerError::Refused(_) | BrokerError::WrongType => Failure::new(
                StatusCode::CONFLICT,
                format!("Redis does not take the order: {error}"),
            ),
        })?;
        Ok(error::json(
            StatusCode::CREATED,
            &json!({ "id": id.to_string() }),
        ))
    }

    fn metrics(&self) -> Response<Answer> {
        match TextEncoder::new().encode_to_string(&self.registry.gather()) {
            Ok(text) => {
                let mut response = Response::new(Answer::Whole(Bytes::from(text)));
                let kind = HeaderValue::from_static(prometheus::TEXT_FORMAT);
                response.headers_mut().insert(header::CONTENT_TYPE, kind);
                response
            }
            Err(error) => {
                warn!(%error, "The metrics cannot be written.");
                Failure::new(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    "the metrics cannot be written: see the log",
                )
                .into_response()
            }
        }
    }
}

/// The body of a request, within its bounds.
async fn read(body: Incoming) -> Result<Bytes, Failure> {
    match timeout(BODY_TIMEOUT, Limited::new(body, MAX_BODY).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(_)) => Err(Failure::bad(format!(
            "the body broke off, or is over {MAX_BODY} bytes"
        ))),
        Err(_) => Err(Failure::new(
            StatusCode::REQUEST_TIMEOUT,
            "the request body did not arrive in time",
        )),
    }
}

/// Ready from the first moment that events flow until the process is told to stop. A broker that
/// goes away later leaves the node ready, and degraded: streams stay open, and a load balancer
/// that finds every node unready would end them all.
fn judge(broker: &BrokerStatus, phase: Phase, strict: bool) -> (bool, &'static str) {
    if phase > Phase::Running {
        (false, phase.label())
    } else if !broker.was_live {
        (false, "starting")
    } else if !broker.live {
        (!strict, "degraded")
    } else if !broker.reasons.is_empty() {
        (true, "degraded")
    } else {
        (true, "ok")
    }
}

/// The same, with its reasons.
fn readiness(broker: &BrokerStatus, phase: Phase, strict: bool) -> Response<Answer> {
    let (ready, status) = judge(broker, phase, strict);
    let mut reasons = broker.reasons.clone();
    if phase > Phase::Running {
        reasons.insert(0, "the node is stopping".to_owned());
    }
    if reasons.is_empty() && !broker.live {
        reasons.push("the broker does not answer".to_owned());
    }
    let code = if ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    error::json(
        code,
        &json!({ "ready": ready, "status": status, "reasons": reasons, "servers": broker.servers }),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(live: bool, was_live: bool, phase: Phase, strict: bool) -> (u16, String) {
        let broker = BrokerStatus {
            servers: Vec::new(),
            live,
            was_live,
            reasons: Vec::new(),
        };
        let response = readiness(&broker, phase, strict);
        let Answer::Whole(body) = response.body() else {
            panic!("no body")
        };
        let body: serde_json::Value = serde_json::from_slice(body).unwrap();
        assert_eq!(body["ready"], response.status() == 200);
        assert_eq!(
            body["reasons"].as_array().unwrap().is_empty(),
            live && phase == Phase::Running
        );
        (
            response.status().as_u16(),
            body["status"].as_str().unwrap().to_owned(),
        )
    }

    #[test]
    fn readiness_is_a_latch() {
        use Phase::{Running, Unready};
        assert_eq!(
            status(false, false, Running, false),
            (503, "starting".into())
        );
        assert_eq!(status(true, true, Running, false), (200, "ok".into()));
        assert_eq!(
            status(false, true, Running, false),
            (200, "degraded".into())
        );
        assert_eq!(status(false, true, Running, true), (503, "degraded".into()));
        assert_eq!(status(true, true, Unready, false), (503, "unready".into()));
        assert_eq!(
            status(false, true, Phase::Draining, false),
            (503, "draining".into())
        );
    }
}

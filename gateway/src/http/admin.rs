//! The operators' listener: `/livez`, `/readyz`, `/metrics` and `/log`.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus::{Registry, TextEncoder};
use serde_json::json;
use tokio::net::TcpStream;
use tracing::{info, trace, warn};

use super::body::Answer;
use super::error::{self, Failure};
use crate::broker::{Broker, BrokerStatus};
use crate::drain::{Lifecycle, Phase};
use crate::telemetry::LogFilter;

/// Bytes of a filter for the log.
const MAX_LOG_FILTER: usize = 4096;

/// What the operators' listener reads.
#[derive(Clone)]
pub struct Admin {
    /// Whether the node is ready.
    pub readiness: Readiness,
    /// All metrics.
    pub registry: Registry,
    /// What is logged.
    pub log: LogFilter,
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

/// Serves one connection.
pub async fn serve(admin: Admin, socket: TcpStream) {
    let service = service_fn(|request: Request<Incoming>| {
        let admin = admin.clone();
        async move {
            let response = match request.uri().path() {
                "/log" => admin.log(request).await,
                _ => admin.answer(&request),
            };
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

impl Admin {
    fn answer<B>(&self, request: &Request<B>) -> Response<Answer> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return Failure::method("GET, HEAD").into_response();
        }
        match request.uri().path() {
            "/livez" => error::json(StatusCode::OK, &json!({ "status": "ok" })),
            "/readyz" => self.readiness.answer(),
            "/metrics" => self.metrics(),
            _ => Failure::not_found(
                "there is nothing at this path: try /livez, /readyz, /metrics or /log",
            )
            .into_response(),
        }
    }

    /// What is logged, and another filter from now on: `curl -X PUT -d debug http://…/log`.
    async fn log(&self, request: Request<Incoming>) -> Response<Answer> {
        match *request.method() {
            Method::GET | Method::HEAD => {}
            Method::PUT => {
                let Ok(level) = Limited::new(request.into_body(), MAX_LOG_FILTER)
                    .collect()
                    .await
                else {
                    return Failure::new(
                        StatusCode::BAD_REQUEST,
                        "the body is not a level or filter such as debug, or info,gateway::broker=debug",
                    )
                    .into_response();
                };
                let level = String::from_utf8_lossy(&level.to_bytes()).trim().to_owned();
                if let Err(error) = self.log.set(&level) {
                    return Failure::new(StatusCode::BAD_REQUEST, error.to_string())
                        .into_response();
                }
                info!(level, "The log's filter was changed.");
            }
            _ => return Failure::method("GET, HEAD, PUT").into_response(),
        }
        error::json(StatusCode::OK, &json!({ "level": self.log.get() }))
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

//! HTTP: what every request goes through, whatever its path is (see `routes.rs`). Streams leave HTTP at once (see
//! `connection.rs`); everything else is an ordinary request and answer.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, Version, header};
use hyper::body::Body;
use opentelemetry::context::FutureExt;

use crate::auth::Auth;
use crate::broker::Broker;
use crate::config::AllowedOrigin;
use crate::drain::{Lifecycle, Phase};
use crate::hub::{Node, ShardHandle};
use crate::live::Live;
use crate::trace::{self, Traces};

pub mod admin;
mod body;
mod connection;
mod cors;
pub mod demo;
pub mod encoding;
mod error;
mod framing;
mod history;
mod http2;
pub mod listener;
pub mod metrics;
mod own_machine;
mod peer;
mod permission;
mod proxies;
mod proxy_protocol;
mod publish;
mod rates;
mod routes;
mod socket;
mod status;
mod stream;
mod subscribe;
mod target;
pub mod tls;

use body::Answer;
use cors::Caller;
use metrics::{HttpMetrics, Route};
use peer::Peer;
use stream::Opening;

pub use connection::{Protocols, serve};
pub use proxies::TrustedProxies;
pub use publish::PublishRules;
pub use rates::Rates;

/// Settings of the clients' side.
#[derive(Debug, Clone)]
pub struct HttpConfig {
    /// Name of this node.
    pub node: String,
    /// Empty, or begins with a slash and does not end with one.
    pub path_prefix: String,
    /// Other origins that may use the gateway.
    pub allowed_origins: Live<Vec<AllowedOrigin>>,
    /// Time for a whole request head.
    pub head_timeout: Duration,
    /// Time for a whole request body.
    pub body_timeout: Duration,
    /// An answer of which the client takes nothing for so long is given up.
    pub answer_timeout: Duration,
    /// Size of a request head.
    pub max_head_bytes: usize,
    /// How often clients may ask.
    pub rates: Rates,
    /// How many streams are let in.
    pub limits: Live<StreamLimits>,
    /// Who may say for whom it asks.
    pub proxies: TrustedProxies,
    /// What clients may speak.
    pub protocols: Protocols,
    /// Streams are logged with their client's address.
    pub access: bool,
    /// The demo page is served.
    pub demo: bool,
    /// Development mode that nobody asked for: only requests from this machine are answered.
    pub own_machine: Live<bool>,
    /// How much may be published at a time.
    pub publish: Live<PublishRules>,
}

/// How many streams a node lets in; 0 for no limit.
#[derive(Debug, Clone, Copy, Default)]
pub struct StreamLimits {
    /// Connections of this node, streams and others.
    pub connections: usize,
    /// Streams of one client address.
    pub per_address: usize,
}

/// What every request of one shard needs.
#[derive(Clone)]
pub struct Site {
    /// Settings.
    pub config: Arc<HttpConfig>,
    /// Who may do what.
    pub auth: Arc<Auth>,
    /// Takes events, and gives history.
    pub broker: Arc<dyn Broker>,
    /// All shards.
    pub node: Node,
    /// This shard: takes sockets.
    pub shard: ShardHandle,
    /// Counts.
    pub metrics: Arc<HttpMetrics>,
    /// Whether the process is on its way to the end.
    pub lifecycle: Lifecycle,
    /// Spans.
    pub traces: Traces,
}

/// What becomes of a request.
enum Outcome {
    Answer(Response<Answer>),
    Stream(Opening),
}

impl From<Response<Answer>> for Outcome {
    fn from(response: Response<Answer>) -> Self {
        Self::Answer(response)
    }
}

/// Answers one request, or says that it is a stream.
async fn answer<B>(site: &Rc<Site>, peer: &Peer, request: Request<B>) -> Outcome
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let began = Instant::now();
    let (mut parts, body) = request.into_parts();
    let mut body = std::pin::pin!(body);
    let caller = framing::judge(parts.version, &parts.headers).and_then(|()| {
        if *site.config.own_machine.get() {
            own_machine::judge(&parts.uri, &parts.headers)?;
        }
        let allowed = site.config.allowed_origins.get();
        let tls = site.config.protocols.tls.is_some();
        Caller::judge(&parts.method, &parts.uri, &parts.headers, &allowed, tls)
    });
    let unknown;
    let peer = match &caller {
        Ok(caller) if caller.is_anonymous() => {
            cors::drop_credentials(&mut parts.headers);
            unknown = Peer {
                certified: false,
                ..peer.clone()
            };
            &unknown
        }
        _ => peer,
    };
    let mut route = Route::Other;
    let span = site
        .traces
        .request(&parts.method, || publish::traceparent(&parts.headers));
    let outcome = match &caller {
        Ok(caller) => {
            let work = routes::dispatch(site, peer, &parts, body.as_mut(), caller, &mut route);
            work.with_context(span.clone().unwrap_or_default()).await
        }
        Err(refusal) => Err(refusal.clone()),
    };
    let mut response = match outcome {
        Ok(Outcome::Stream(mut opening)) => {
            site.metrics.stream_opened();
            if let Some(span) = &span {
                trace::answered(span, &parts.method, route.template(), StatusCode::OK);
            }
            opening.trace = span;
            return Outcome::Stream(opening);
        }
        Ok(Outcome::Answer(response)) => response,
        Err(failure) => failure.into_response(),
    };
    if let Some(span) = &span {
        trace::answered(span, &parts.method, route.template(), response.status());
    }
    site.metrics
        .answered(route, response.status(), began.elapsed());
    let headers = response.headers_mut();
    headers
        .entry(header::VARY)
        .or_insert(HeaderValue::from_static("Accept, Origin"));
    // Who keeps connections, a publisher or a proxy, goes elsewhere before this one is cut. HTTP/2 says so by itself.
    if site.lifecycle.phase() > Phase::Running && parts.version < Version::HTTP_2 {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    if let Ok(caller) = caller {
        caller.allow(&mut response);
    }
    drop(span);
    // Who waits to be asked for the body, who took too long over it and who asks too often is not waited for.
    let is_waited_for = !parts.headers.contains_key(header::EXPECT)
        && !matches!(
            response.status(),
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS
        );
    if parts.version == Version::HTTP_2 && is_waited_for {
        body::skip(body).await;
    }
    Outcome::Answer(response)
}

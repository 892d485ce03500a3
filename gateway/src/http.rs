//! HTTP: paths, and what answers them. Streams are recognised here and leave HTTP at once (see
//! `connection.rs`); everything else is an ordinary request and answer.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderValue, Method, Request, Response, StatusCode, Version, header};
use hyper::body::Body;
use opentelemetry::KeyValue;
use opentelemetry::context::FutureExt;
use percent_encoding::percent_decode_str;
use protocol::RoomName;

use crate::auth::{Action, Auth, Grant, Verdict};
use crate::broker::Broker;
use crate::config::AllowedOrigin;
use crate::drain::{Lifecycle, Phase};
use crate::hub::{Limit, Node, ShardHandle};
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
mod socket;
mod status;
mod stream;
mod subscribe;
pub mod tls;

use body::Answer;
use cors::Caller;
use error::Failure;
use metrics::{HttpMetrics, Route};
use peer::Peer;
use stream::Opening;
use subscribe::{Accept, Wish};

pub use connection::{Protocols, serve};
pub use proxies::TrustedProxies;
pub use publish::PublishRules;
pub use rates::Rates;

/// A subscriber's body is read and ignored up to this size.
const MAX_SUBSCRIBE_BODY: usize = 64 * 1024;

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

/// What a path names, the prefix taken off.
#[derive(Debug, PartialEq, Eq)]
enum Target {
    Page(String),
    Room(RoomName),
    Events(RoomName),
}

impl Target {
    fn read(path: &str, prefix: &str) -> Result<Self, Failure> {
        let unknown = || {
            Failure::not_found(
                "there is nothing at this path: try /rooms/{room}/events or /rooms/{room}",
            )
        };
        let rest = path
            .strip_prefix(prefix)
            .and_then(|rest| rest.strip_prefix('/'))
            .ok_or_else(unknown)?;
        let Some(room) = rest.strip_prefix("rooms/") else {
            return Ok(Self::Page(rest.to_owned()));
        };
        match room.split_once('/') {
            None => Ok(Self::Room(room_name(room)?)),
            Some((room, "events")) => Ok(Self::Events(room_name(room)?)),
            Some(_) => Err(unknown()),
        }
    }

    fn methods(&self) -> &'static str {
        match self {
            Self::Events(_) => "GET, HEAD, POST, OPTIONS",
            Self::Page(_) | Self::Room(_) => "GET, HEAD, OPTIONS",
        }
    }
}

fn room_name(segment: &str) -> Result<RoomName, Failure> {
    let mut escapes = segment.split('%').skip(1).map(str::as_bytes);
    if !escapes.all(|rest| rest.len() >= 2 && rest[..2].iter().all(u8::is_ascii_hexdigit)) {
        return Err(Failure::not_found(
            "the room in this path has a bad percent-encoding",
        ));
    }
    let text = percent_decode_str(segment).decode_utf8_lossy();
    RoomName::parse(&text)
        .map_err(|error| Failure::not_found(format!("there is no such room: {error}")))
}

/// Answers one request, or says that it is a stream.
async fn answer<B>(site: &Rc<Site>, peer: &Peer, request: Request<B>) -> Outcome
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let began = Instant::now();
    let (mut parts, body) = request.into_parts();
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
            let work = dispatch(site, peer, &parts, body, caller, &mut route);
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
    Outcome::Answer(response)
}

async fn dispatch<B>(
    site: &Rc<Site>,
    peer: &Peer,
    parts: &Parts,
    body: B,
    caller: &Caller,
    route: &mut Route,
) -> Result<Outcome, Failure>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let target = Target::read(parts.uri.path(), &site.config.path_prefix)?;
    if parts.method == Method::OPTIONS {
        *route = Route::Options;
        return Ok(cors::options(target.methods()).into());
    }
    let get = matches!(parts.method, Method::GET | Method::HEAD);
    if !get && (parts.method != Method::POST || !matches!(target, Target::Events(_))) {
        return Err(Failure::method(target.methods()));
    }
    match target {
        Target::Page(path) => {
            *route = Route::Demo;
            page(site, &path).map(Outcome::from)
        }
        Target::Room(room) => {
            *route = Route::Room;
            not_too_often(site, peer, parts)?;
            permission::require(site, peer, parts, &room, Action::Subscribe).await?;
            let info = site.broker.room_info(room.clone()).await?;
            let subscribers = site.node.subscribers(&room).await;
            let body = status::answer(&room, &site.config.node, subscribers, &info);
            Ok(error::json(StatusCode::OK, &body).into())
        }
        Target::Events(room) => match Accept::read(&parts.headers) {
            Accept::Json if get => {
                *route = Route::History;
                not_too_often(site, peer, parts)?;
                permission::require(site, peer, parts, &room, Action::Subscribe).await?;
                let query = history::query(parts.uri.query().unwrap_or_default())?;
                let history = site.broker.history(room, query).await?;
                Ok(error::json(StatusCode::OK, &history::answer(&history, query)).into())
            }
            accept if get || accept == Accept::Stream => {
                *route = Route::Stream;
                if parts.method == Method::HEAD {
                    not_too_often(site, peer, parts)?;
                    permission::require(site, peer, parts, &room, Action::Subscribe).await?;
                    return Ok(stream::head_only().into());
                }
                let limits = *site.config.limits.get();
                // A node that is full, or is asked too often, lets nobody in, and asks nobody.
                let client = peer.client(&site.config.proxies, &parts.headers);
                let (refused, grant) = if is_full(site, limits.connections) {
                    (Some(Limit::Streams), None)
                } else if site.config.rates.open(client).is_err() {
                    (Some(Limit::Rate), None)
                } else {
                    match permission::decide(site, peer, parts, &room, Action::Subscribe).await {
                        Verdict::Allowed(grant) => (None, Some(grant)),
                        Verdict::Refused(refusal) => return Err(refusal.into()),
                        Verdict::Away(_) => (Some(Limit::Permission), None),
                    }
                };
                // Read to its end, so that it is not taken for the next request.
                publish::read_body(body, MAX_SUBSCRIBE_BODY, site.config.body_timeout).await?;
                let wish = Wish::read(&parts.headers, parts.uri.query().unwrap_or_default());
                let mut opening = Opening::new(room, wish, parts.version, caller);
                opening.refused = refused;
                opening.terms = grant.map(|grant| grant.terms).unwrap_or_default();
                opening.per_address = limits.per_address;
                opening.client = client;
                Ok(Outcome::Stream(opening))
            }
            _ => {
                *route = Route::Publish;
                let answer = match permission::require_publisher(site, peer, parts, &room).await {
                    Ok(grant) => post(site, peer, room, &grant, parts, body).await,
                    Err(failure) => Err(failure),
                };
                site.metrics.published(match &answer {
                    Ok(response) => response.status(),
                    Err(failure) => failure.status,
                });
                answer.map(Outcome::from)
            }
        },
    }
}

/// Whether the node holds as many connections as it may.
fn is_full(site: &Site, most: usize) -> bool {
    most > 0 && site.node.streams() + site.metrics.connections() > most
}

/// Reading what is stored counts like opening a stream.
fn not_too_often(site: &Site, peer: &Peer, parts: &Parts) -> Result<(), Failure> {
    let client = peer.client(&site.config.proxies, &parts.headers);
    let open = site.config.rates.open(client);
    open.map_err(|wait| Failure::too_often("limits.opens_per_second", wait))
}

async fn post<B>(
    site: &Site,
    peer: &Peer,
    room: RoomName,
    grant: &Grant,
    parts: &Parts,
    body: B,
) -> Result<Response<Answer>, Failure>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let client = peer.client(&site.config.proxies, &parts.headers);
    let rates = &site.config.rates;
    let rate = rates.publish(grant, &parts.headers, peer.certified, client);
    rate.map_err(|wait| Failure::too_often("limits.publishes_per_second", wait))?;
    let rules = site.config.publish.get();
    let token = site.auth.tokens().map(|tokens| tokens.query_parameter());
    let query = parts.uri.query().unwrap_or_default();
    let options = publish::Options::read(query, token.as_deref().unwrap_or_default())?;
    options.check(grant.by)?;
    let mut event = publish::read_event(
        &parts.headers,
        body,
        rules.max_bytes,
        site.config.body_timeout,
    )
    .await?;
    // The body may have taken its time: what was taken back meanwhile counts no more.
    permission::still(site, &room, grant)?;
    options.apply(&mut event, rules.wait)?;
    let own = |key: String| publish::own_key(&key, grant, client);
    event.idempotency_key = event.idempotency_key.map(own);
    // Not recorded here: the caller's own span goes with the event.
    event.trace = trace::parent().or(event.trace);
    let name = room.clone();
    let published = site.broker.publish(room, event).await?;
    trace::note(|| {
        let id = published.id.map(|id| id.to_string());
        [
            KeyValue::new("messaging.operation.type", "send"),
            KeyValue::new("messaging.destination.name", name.to_string()),
            KeyValue::new("messaging.message.id", id.unwrap_or_default()),
        ]
    });
    // Subscribers first: the shard has its turn before the answer is written.
    let _ = tokio::task::spawn_local(tokio::task::yield_now()).await;
    let status = match (published.id, published.repeat) {
        (None, _) => StatusCode::ACCEPTED,
        (Some(_), true) => StatusCode::OK,
        (Some(_), false) => StatusCode::CREATED,
    };
    Ok(error::json(status, &publish::answer(&published)))
}

fn page(site: &Site, path: &str) -> Result<Response<Answer>, Failure> {
    let asset = if site.config.demo {
        demo::asset(path)
    } else {
        None
    };
    let asset = asset.ok_or_else(|| {
        Failure::not_found(
            "there is nothing at this path: try /rooms/{room}/events or /rooms/{room}",
        )
    })?;
    let mut response = Response::new(Answer::Whole(Bytes::from_static(asset.body.as_bytes())));
    for (name, value) in [
        (header::CONTENT_TYPE, asset.content_type),
        (
            header::CONTENT_SECURITY_POLICY,
            demo::CONTENT_SECURITY_POLICY,
        ),
        (header::CACHE_CONTROL, "no-cache"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
    ] {
        response
            .headers_mut()
            .insert(name, HeaderValue::from_static(value));
    }
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        let room = |name| RoomName::parse(name).unwrap();
        let read =
            |path, prefix| Target::read(path, prefix).map_err(|failure| failure.status.as_u16());
        assert_eq!(
            read("/rooms/demo/events", ""),
            Ok(Target::Events(room("demo")))
        );
        assert_eq!(
            read("/live/rooms/a%3Ab", "/live"),
            Ok(Target::Room(room("a:b")))
        );
        assert_eq!(read("/", ""), Ok(Target::Page(String::new())));
        assert_eq!(
            read("/live/demo/app.js", "/live"),
            Ok(Target::Page("demo/app.js".into()))
        );
        for bad in [
            "/rooms/",
            "/rooms//events",
            "/rooms/./events",
            "/rooms/%2e%2E",
            "/rooms/a%2",
            "/rooms/a%zz/events",
            "/rooms/a%2fb",
            "/rooms/a%ff",
            "/rooms/a/other",
            "/rooms/a/events/",
            "/rooms/a b",
            "*",
            "",
        ] {
            assert_eq!(read(bad, ""), Err(404), "{bad}");
        }
        assert_eq!(read("/rooms/a", "/live"), Err(404));
        assert_eq!(read("/liverooms/a", "/live"), Err(404));
        assert_eq!(read("/live", "/live"), Err(404));
    }
}

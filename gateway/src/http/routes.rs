//! What answers each path: streams, history, rooms, publishing, the demo page.

use std::rc::Rc;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderValue, Method, Response, StatusCode, header};
use hyper::body::Body;
use opentelemetry::KeyValue;
use protocol::RoomName;

use super::body::Answer;
use super::cors::{self, Caller};
use super::error::{self, Failure};
use super::metrics::Route;
use super::peer::Peer;
use super::stream::{self, Opening};
use super::subscribe::{Accept, Wish};
use super::target::Target;
use super::{Outcome, Site, demo, history, permission, publish, status};
use crate::auth::{Action, Grant, Verdict};
use crate::hub::Limit;
use crate::trace;

/// A subscriber's body is read and ignored up to this size.
const MAX_SUBSCRIBE_BODY: usize = 64 * 1024;

/// Answers a request whose caller is known, or says that it is a stream. `route` becomes what it is in metrics and traces.
///
/// # Errors
/// What it is refused with.
pub(super) async fn dispatch<B>(
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
                    match permission::decide(site, peer, parts, &room, Action::Subscribe).await? {
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

/// Publishes.
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

/// A file of the demo page, where there is one.
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

//! Asks for permission, and turns a refusal into an answer.

use http::request::Parts;
use http::{HeaderValue, StatusCode, header};
use protocol::RoomName;

use super::Site;
use super::error::Failure;
use super::peer::Peer;
use crate::auth::{Action, Asked, Grant, Refusal, RefusalKind, Verdict};

/// Decides on a request in a room, unless the very same was refused again and again just now.
///
/// # Errors
/// 429 for that: the answer would be the same, so that it ends a browser no more than the 401 or 403 before it.
pub(super) async fn decide(
    site: &Site,
    peer: &Peer,
    parts: &Parts,
    room: &RoomName,
    action: Action,
) -> Result<Verdict, Failure> {
    let asked = asked(site, peer, parts, room, action);
    let rates = &site.config.rates;
    rates.ask(&asked).map_err(|wait| {
        site.metrics.refused(action, "too_often");
        Failure::too_often("limits.refusals_per_second", wait)
    })?;
    let verdict = site.auth.decide(&asked).await;
    if let Verdict::Refused(refusal) = &verdict {
        site.metrics.refused(action, refusal.label);
        rates.refuse(&asked);
    }
    Ok(verdict)
}

fn asked<'a>(
    site: &Site,
    peer: &Peer,
    parts: &'a Parts,
    room: &'a RoomName,
    action: Action,
) -> Asked<'a> {
    Asked {
        action,
        room,
        headers: &parts.headers,
        query: parts.uri.query().unwrap_or_default(),
        client: peer.client(&site.config.proxies, &parts.headers),
        certified: peer.certified,
    }
}

/// [`require`] for publishing: who is refused again and again is not decided on for a while, so that it takes neither the
/// node's time nor the backend's. Whoever has a key passes all the same.
///
/// # Errors
/// 401, 403, 429 or 503.
pub(super) async fn require_publisher(
    site: &Site,
    peer: &Peer,
    parts: &Parts,
    room: &RoomName,
) -> Result<Grant, Failure> {
    let asked = asked(site, peer, parts, room, Action::Publish);
    let rates = &site.config.rates;
    if let Err(wait) = rates.after_refusals(asked.client)
        && !site.auth.has_key(&asked)
    {
        return Err(Failure::too_often("limits.opens_per_second", wait));
    }
    let answer = require(site, peer, parts, room, Action::Publish).await;
    if let Err(failure) = &answer
        && matches!(
            failure.status,
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN
        )
    {
        rates.refused(asked.client);
    }
    answer
}

/// The same for what is no stream: who cannot be decided on is answered 503.
///
/// # Errors
/// 401, 403, 429 or 503.
pub(super) async fn require(
    site: &Site,
    peer: &Peer,
    parts: &Parts,
    room: &RoomName,
    action: Action,
) -> Result<Grant, Failure> {
    granted(decide(site, peer, parts, room, action).await?)
}

/// Looks again at a permission to publish, once the body is there.
///
/// # Errors
/// 401 or 503: it has ended or was taken back.
pub(super) fn still(site: &Site, room: &RoomName, grant: &Grant) -> Result<(), Failure> {
    let verdict = site.auth.still(room, grant);
    if let Verdict::Refused(refusal) = &verdict {
        site.metrics.refused(Action::Publish, refusal.label);
    }
    granted(verdict).map(drop)
}

fn granted(verdict: Verdict) -> Result<Grant, Failure> {
    match verdict {
        Verdict::Allowed(grant) => Ok(grant),
        Verdict::Refused(refusal) => Err(refusal.into()),
        Verdict::Away(reason) => Err(Failure::away(format!("{reason}: try again later"))),
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        let challenge = match refusal.kind {
            RefusalKind::Missing => "Bearer",
            RefusalKind::Invalid => "Bearer error=\"invalid_token\"",
            RefusalKind::Forbidden => return Self::new(StatusCode::FORBIDDEN, refusal.sentence),
        };
        Self::new(StatusCode::UNAUTHORIZED, refusal.sentence).with(
            header::WWW_AUTHENTICATE,
            HeaderValue::from_static(challenge),
        )
    }
}

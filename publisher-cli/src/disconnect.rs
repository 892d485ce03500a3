//! `sse-publish disconnect`: has all gateways close the streams of a user or a room.

use bytes::Bytes;
use http_body_util::Full;
use protocol::{Keys, disconnects, keys};
use redis::Value;
use tokio::time::timeout;

use crate::cli::Disconnect;
use crate::gateway::Gateway;
use crate::target::redis::{Deployment, RESPONSE_TIMEOUT, Refusal};
use crate::target::{Failure, FailureKind, Retry};

/// Servers that are asked one after the other, while a slot moves.
const HOPS: usize = 5;

/// Gives the order, and the line to print: its id.
///
/// # Errors
/// Nobody takes it.
pub async fn disconnect(cli: &Disconnect) -> Result<String, Failure> {
    let retry = Retry::new(cli.server.retry_for);
    let id = match &cli.url {
        Some(url) => {
            let token = cli.token();
            let mut gateway = Gateway::new(url, &cli.tls, token.as_deref(), "--token")?;
            retry.run(async || ask(&mut gateway, cli).await).await?
        }
        None => {
            let mut servers = Deployment::new(&cli.server.config(), RESPONSE_TIMEOUT)?;
            retry.run(async || add(&mut servers, cli).await).await?
        }
    };
    Ok(format!("{id}\n"))
}

/// Straight into Redis. An order that is given twice is as good as one.
async fn add(servers: &mut Deployment, cli: &Disconnect) -> Result<String, Failure> {
    let added = attempt(servers, cli).await;
    added.map_err(|failure| match failure.kind {
        FailureKind::Unavailable | FailureKind::Unknown => {
            // Another server may be the primary by now.
            servers.forget();
            Failure::unavailable(failure.sentence)
        }
        _ => failure,
    })
}

async fn attempt(servers: &mut Deployment, cli: &Disconnect) -> Result<String, Failure> {
    let key = Keys::new(&cli.prefix()).disconnects();
    let (kind, name) = cli.field();
    let slot = keys::slot(key.as_bytes());
    let mut named = None;
    for _ in 0..HOPS {
        let asking = named.is_some();
        let address = match named.take() {
            Some(address) => address,
            None => servers.primary_of(slot).await?,
        };
        let mut add = redis::cmd("XADD");
        add.arg(&key)
            .arg("MAXLEN")
            .arg("~")
            .arg(disconnects::MAX_ENTRIES);
        add.arg("*").arg(kind).arg(name);
        let mut commands = vec![add];
        if asking {
            commands.insert(0, redis::cmd("ASKING"));
        }
        let server = servers.server(&address);
        let answer = server.ask(commands).await?.pop().unwrap_or_default();
        let refusal = match answer {
            Value::ServerError(error) => server.refusal(&error),
            Value::BulkString(id) => return Ok(String::from_utf8_lossy(&id).into_owned()),
            _ => return Err(Failure::other("Redis answered XADD with something else")),
        };
        match refusal {
            Refusal::Moved { to, once: true, .. } if servers.is_cluster() => named = Some(to),
            Refusal::Moved { slot, to, .. } => servers.moved(slot, to)?,
            refusal => return Err(refusal.into()),
        }
    }
    Err(Failure::unavailable(
        "the servers of the cluster send each other this request",
    ))
}

/// Through the admin listener of a gateway.
async fn ask(gateway: &mut Gateway, cli: &Disconnect) -> Result<String, Failure> {
    let (kind, name) = cli.field();
    let body = serde_json::json!({ kind: name }).to_string();
    let request = gateway
        .post("/disconnects")
        .body(Full::new(Bytes::from(body)))
        .map_err(|error| Failure::refused(format!("no request can be made of it: {error}")))?;
    let answer = timeout(RESPONSE_TIMEOUT, gateway.exchange(request)).await;
    let at = gateway.base();
    let away = |why: &str| Failure::unavailable(format!("{at} does not answer: {why}"));
    let (status, body) = answer
        .map_err(|_| away("not in time"))?
        .map_err(|lost| away(&lost.reason))?;
    let json: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
    if let (true, Some(id)) = (status.is_success(), json["id"].as_str()) {
        return Ok(id.to_owned());
    }
    let kind = match status.as_u16() {
        401 | 403 => FailureKind::Forbidden,
        408 | 429 | 500 | 502..=504 => FailureKind::Unavailable,
        400 | 413 | 422 => FailureKind::Refused,
        _ => FailureKind::Other,
    };
    let said = json["error"].as_str();
    let said = said.map_or("is it the admin listener of a gateway?", |said| said);
    Err(Failure::new(
        kind,
        format!("{at} answered {status}: {said}"),
    ))
}

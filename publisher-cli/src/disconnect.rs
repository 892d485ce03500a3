//! `sse-publish disconnect`: has all gateways close the streams of a user or a room.

use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use http::{Request, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use protocol::{Keys, disconnects, keys};
use redis::Value;
use tokio::time::timeout;

use crate::cli::Disconnect;
use crate::target::http::root;
use crate::target::redis::{Deployment, RESPONSE_TIMEOUT, Refusal};
use crate::target::{Failure, FailureKind, Retry};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The most bytes of an answer that are read.
const MAX_ANSWER_BYTES: usize = 64 * 1024;
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
            let client = Admin::new(url, cli)?;
            retry.run(async || client.ask(cli).await).await?
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

/// The admin listener of a gateway.
struct Admin {
    client: Client<HttpConnector, Full<Bytes>>,
    target: Uri,
    authorization: Option<HeaderValue>,
}

impl Admin {
    fn new(url: &str, cli: &Disconnect) -> Result<Self, Failure> {
        let target: Option<Uri> = format!("{}/disconnects", url.trim_end_matches('/'))
            .parse()
            .ok();
        let target = target.filter(|uri| {
            uri.scheme_str() == Some("http")
                && uri.query().is_none()
                && uri.authority().is_some_and(|to| !to.as_str().contains('@'))
        });
        let target = target.ok_or_else(|| {
            Failure::refused("--url is not http://HOST[:PORT] (the token goes into --token)")
        })?;
        let authorization = cli
            .token()
            .map(|token| HeaderValue::from_str(&format!("Bearer {token}")))
            .transpose()
            .map_err(|_| Failure::refused("the token has characters that cannot be in a header"))?
            .map(|mut value| {
                value.set_sensitive(true);
                value
            });
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        Ok(Self {
            client: Client::builder(TokioExecutor::new()).build(connector),
            target,
            authorization,
        })
    }

    async fn ask(&self, cli: &Disconnect) -> Result<String, Failure> {
        let (kind, name) = cli.field();
        let body = serde_json::json!({ kind: name }).to_string();
        let mut request = Request::post(&self.target).header(CONTENT_TYPE, "application/json");
        if let Some(value) = &self.authorization {
            request = request.header(AUTHORIZATION, value);
        }
        let request = request
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| Failure::refused(format!("no request can be made of it: {error}")))?;
        let away =
            |why: &str| Failure::unavailable(format!("{} does not answer: {why}", self.target));
        let exchange = async {
            let answer = self.client.request(request).await;
            let answer = answer.map_err(|error| away(&root(&error)))?;
            let status = answer.status();
            let body = Limited::new(answer.into_body(), MAX_ANSWER_BYTES).collect();
            let body = body.await.map_err(|error| away(&root(&*error)))?;
            Ok((status, body.to_bytes()))
        };
        let (status, body) = timeout(RESPONSE_TIMEOUT, exchange)
            .await
            .unwrap_or_else(|_| Err(away("not in time")))?;
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
        let sentence = format!("{} answered {status}: {said}", self.target);
        Err(Failure::new(kind, sentence))
    }
}

//! Requests to a gateway, over HTTP/1.1 with or without TLS, one at a time.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use http::{Request, StatusCode, Uri, request};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use protocol::servers::{ServersError, TlsFiles, tls_error};
use rustls::{AlertDescription, CertificateError, ClientConfig, RootCertStore};

use crate::cli;
use crate::target::Failure;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The most bytes of an answer that are read.
const MAX_ANSWER_BYTES: usize = 64 * 1024;

/// One of its listeners, and what is shown there. `Debug` shows no secret.
#[derive(Debug)]
pub struct Gateway {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    /// `None` without TLS.
    tls: Option<TlsFiles>,
    base: String,
    authorization: Option<HeaderValue>,
}

impl Gateway {
    /// At this address; nothing is sent yet. `secret` is what to show there, and `flag` where the user says it.
    ///
    /// # Errors
    /// Address, secret or certificates cannot be used.
    pub fn new(
        url: &str,
        tls: &cli::Tls,
        secret: Option<&str>,
        flag: &str,
    ) -> Result<Self, Failure> {
        let uri: Option<Uri> = url.parse().ok();
        let uri = uri.filter(|uri| {
            uri.query().is_none() && uri.authority().is_some_and(|to| !to.as_str().contains('@'))
        });
        let files = tls.files();
        let tls = match uri.as_ref().and_then(Uri::scheme_str) {
            Some("https") => Some(files),
            Some("http") if files.is_empty() => None,
            Some("http") => {
                let sentence = "certificates are given, but --url is without TLS: write https://";
                return Err(Failure::refused(sentence));
            }
            _ => {
                return Err(Failure::refused(format!(
                    "--url is not https://HOST[:PORT][/PREFIX], or the same with http:// (a secret goes into {flag})"
                )));
            }
        };
        let authorization = secret
            .map(|secret| HeaderValue::from_str(&format!("Bearer {secret}")))
            .transpose()
            .map_err(|_| {
                Failure::refused(format!(
                    "what {flag} says has characters that cannot be in a header"
                ))
            })?
            .map(|mut value| {
                value.set_sensitive(true);
                value
            });
        Ok(Self {
            client: client(tls.as_ref()).map_err(|error| Failure::refused(error.0))?,
            tls,
            base: url.trim_end_matches('/').to_owned(),
            authorization,
        })
    }

    /// Its address, for messages.
    #[must_use]
    pub fn base(&self) -> &str {
        &self.base
    }

    /// A request with JSON for this path.
    #[must_use]
    pub fn post(&self, path: &str) -> request::Builder {
        let request = Request::post(format!("{}{path}", self.base));
        let request = request.header(CONTENT_TYPE, "application/json");
        match &self.authorization {
            Some(value) => request.header(AUTHORIZATION, value),
            None => request,
        }
    }

    /// Sends one, and reads its answer.
    ///
    /// # Errors
    /// No whole answer came. Certificates are read again then, for the next one: they may have been replaced.
    pub async fn exchange(
        &mut self,
        request: Request<Full<Bytes>>,
    ) -> Result<(StatusCode, Bytes), Lost> {
        let answer = self.attempt(request).await;
        if let (Err(_), Some(files)) = (&answer, &self.tls) {
            // While they cannot be read, those from before count.
            if let Ok(client) = client(Some(files)) {
                self.client = client;
            }
        }
        answer
    }

    async fn attempt(&self, request: Request<Full<Bytes>>) -> Result<(StatusCode, Bytes), Lost> {
        let answer = self.client.request(request).await;
        let answer = answer.map_err(|error| self.lost(&error, !error.is_connect()))?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MAX_ANSWER_BYTES).collect();
        let body = body.await.map_err(|error| self.lost(&*error, true))?;
        Ok((status, body.to_bytes()))
    }

    fn lost(&self, error: &(dyn Error + 'static), sent: bool) -> Lost {
        let shows = self.tls.as_ref().is_some_and(|tls| tls.cert.is_some());
        let Some(error) = tls_error(error) else {
            let reason = match &self.tls {
                None if is_no_http(error) => {
                    "it is no HTTP: write https://, if this is its port with TLS".to_owned()
                }
                _ => root(error),
            };
            return Lost { sent, reason };
        };
        Lost {
            // By TLS 1.3 a client hears of its own certificate after its first request, which nobody reads then.
            sent: sent && !is_refusal(error),
            reason: explain(error, shows),
        }
    }
}

/// No whole answer came.
#[derive(Debug)]
pub struct Lost {
    /// Whether the request may have been understood.
    pub sent: bool,
    /// One clause.
    pub reason: String,
}

fn client(
    tls: Option<&TlsFiles>,
) -> Result<Client<HttpsConnector<HttpConnector>, Full<Bytes>>, ServersError> {
    let config = match tls {
        Some(files) => files.config()?,
        // Never used: the system's certificates would take a while to read.
        None => ClientConfig::builder()
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth(),
    };
    let mut connector = HttpConnector::new();
    connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
    connector.set_nodelay(true);
    connector.enforce_http(false);
    let mut connector = HttpsConnector::from((connector, Arc::new(config)));
    if tls.is_some() {
        connector.enforce_https();
    }
    Ok(Client::builder(TokioExecutor::new()).build(connector))
}

/// Whether what came is no HTTP.
fn is_no_http(error: &(dyn Error + 'static)) -> bool {
    std::iter::successors(Some(error), |&error| error.source())
        .filter_map(|error| error.downcast_ref::<hyper::Error>())
        .any(hyper::Error::is_parse)
}

/// Whether the server ended the handshake.
fn is_refusal(error: &rustls::Error) -> bool {
    use AlertDescription as Alert;
    matches!(
        error,
        rustls::Error::AlertReceived(
            Alert::CertificateRequired
                | Alert::HandshakeFailure
                | Alert::BadCertificate
                | Alert::UnsupportedCertificate
                | Alert::CertificateRevoked
                | Alert::CertificateExpired
                | Alert::CertificateUnknown
                | Alert::UnknownCA
                | Alert::DecryptError
        )
    )
}

/// What is wrong, and what to do. `shows` says whether there is a certificate of our own.
fn explain(error: &rustls::Error, shows: bool) -> String {
    use CertificateError as Bad;
    match error {
        // A bad signature is that of another authority with the same name.
        rustls::Error::InvalidCertificate(Bad::UnknownIssuer | Bad::BadSignature) => {
            "nobody who is trusted here has signed its certificate: name the file with its CA in --ca-file".to_owned()
        }
        rustls::Error::InvalidCertificate(Bad::NotValidForName | Bad::NotValidForNameContext { .. }) => {
            "its certificate is for other names than the host in --url: write one of those".to_owned()
        }
        rustls::Error::InvalidCertificate(Bad::Expired | Bad::ExpiredContext { .. }) => {
            "its certificate has expired: replace it there".to_owned()
        }
        rustls::Error::InvalidCertificate(_) => {
            format!("its certificate cannot be accepted: {error}")
        }
        rustls::Error::InvalidMessage(_) => {
            "it does not speak TLS there: write http://, or its port with TLS".to_owned()
        }
        error if is_refusal(error) && shows => {
            format!("it does not take the certificate of --cert-file: {error}")
        }
        error if is_refusal(error) => {
            format!("it wants to see a certificate: give --cert-file and --key-file ({error})")
        }
        error => error.to_string(),
    }
}

/// The innermost cause: what says most.
fn root(error: &(dyn Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |&error| error.source());
    causes.last().unwrap_or(error).to_string()
}

//! Requests of the gateway's own, to a user's backend or key server: over HTTP/1.1, with or without TLS, each with a time
//! and a size that its answer must keep to.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_rustls::builderstates::WantsSchemes;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use protocol::servers::tls_error;
use tokio_rustls::rustls::{self, CertificateError, ClientConfig, RootCertStore};

/// Silent connections that are kept for the next request, to each server.
const IDLE_CONNECTIONS: usize = 64;
/// How long they are kept.
const IDLE_TIME: Duration = Duration::from_secs(30);

/// Sends requests. Cloning shares the connections. Works on whatever runtime it is called on; connections live on the runtime
/// that made them.
#[derive(Debug, Clone)]
pub struct Fetch {
    client: Client<HttpsConnector<HttpConnector>, Empty<Bytes>>,
    timeout: Duration,
    max_bytes: usize,
}

/// Why there is no answer: one clause, without secrets.
#[derive(Debug, Clone, thiserror::Error)]
pub enum FetchError {
    /// It took too long.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    /// The connection failed.
    #[error("{0}")]
    Failed(String),
    /// The answer has a larger body than is allowed, or broke off.
    #[error("the answer's body is over {0} bytes, or broke off")]
    Body(usize),
}

impl Fetch {
    /// With the system's certificates of now, or those of `SSL_CERT_FILE` and `SSL_CERT_DIR`. Answers have to be there within `timeout`, with at most `max_bytes` of body.
    ///
    /// # Errors
    /// The system's certificates cannot be read.
    pub fn new(timeout: Duration, max_bytes: usize) -> std::io::Result<Self> {
        let connector = HttpsConnectorBuilder::new().with_native_roots()?;
        Ok(Self::with(connector, timeout, max_bytes))
    }

    /// The same without certificates: trusts no server over https, and reaches others.
    #[must_use]
    pub fn without_roots(timeout: Duration, max_bytes: usize) -> Self {
        let tls = ClientConfig::builder().with_root_certificates(RootCertStore::empty());
        let connector = HttpsConnectorBuilder::new().with_tls_config(tls.with_no_client_auth());
        Self::with(connector, timeout, max_bytes)
    }

    fn with(
        connector: HttpsConnectorBuilder<WantsSchemes>,
        timeout: Duration,
        max_bytes: usize,
    ) -> Self {
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIME)
            .pool_max_idle_per_host(IDLE_CONNECTIONS)
            .build(connector.https_or_http().enable_http1().build());
        Self {
            client,
            timeout,
            max_bytes,
        }
    }

    /// Sends one, and reads the answer to its end.
    ///
    /// # Errors
    /// There is none.
    pub async fn send(
        &self,
        request: Request<Empty<Bytes>>,
    ) -> Result<Response<Bytes>, FetchError> {
        let work = async {
            let answer = self.client.request(request).await;
            let answer = answer.map_err(|error| FetchError::Failed(why(&error)))?;
            let (parts, body) = answer.into_parts();
            let body = Limited::new(body, self.max_bytes).collect().await;
            let body = body.map_err(|_| FetchError::Body(self.max_bytes))?;
            Ok(Response::from_parts(parts, body.to_bytes()))
        };
        let answer = tokio::time::timeout(self.timeout, work).await;
        answer.unwrap_or(Err(FetchError::Timeout(self.timeout)))
    }
}

/// What is wrong, and what to do where the certificate is what cannot be trusted.
fn why(error: &(dyn std::error::Error + 'static)) -> String {
    use CertificateError as Bad;
    let Some(rustls::Error::InvalidCertificate(bad)) = tls_error(error) else {
        return causes(error);
    };
    let clause = match bad {
        // A bad signature is that of another authority with the same name.
        Bad::UnknownIssuer | Bad::BadSignature => {
            "nobody who is trusted here has signed the server's certificate: add its CA to the system's certificates, or name \
             a file with it in SSL_CERT_FILE, and restart"
        }
        Bad::NotValidForName | Bad::NotValidForNameContext { .. } => {
            "the server's certificate is for other names than the URL's host"
        }
        Bad::Expired | Bad::ExpiredContext { .. } => "the server's certificate has expired",
        _ => return causes(error),
    };
    clause.to_owned()
}

/// The error and what it comes from: hyper says little by itself.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

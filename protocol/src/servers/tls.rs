//! Certificates and keys in files, for the TLS of a client.

use std::error::Error;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use redis::ClientTlsConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use super::{ServersError, read};

/// Where they are; PEM.
#[derive(Debug, Clone, Default)]
pub struct TlsFiles {
    /// Certificates that sign the servers' ones; the system's where there is none.
    pub ca: Option<PathBuf>,
    /// The certificate chain that is shown to the servers.
    pub cert: Option<PathBuf>,
    /// The private key of `cert`.
    pub key: Option<PathBuf>,
}

impl TlsFiles {
    /// Whether there is nothing that TLS would be needed for.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ca.is_none() && self.cert.is_none() && self.key.is_none()
    }

    /// Whether there is a certificate without its key, or a key without its certificate.
    #[must_use]
    pub fn is_half(&self) -> bool {
        self.cert.is_some() != self.key.is_some()
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &PathBuf> {
        [&self.ca, &self.cert, &self.key].into_iter().flatten()
    }

    /// The certificates that servers must be signed by; `None` for the system's.
    pub(super) fn roots(&self) -> Result<Option<Vec<u8>>, ServersError> {
        self.ca.as_deref().map(read).transpose()
    }

    /// The client's certificate and key.
    pub(super) fn client(&self) -> Result<Option<ClientTlsConfig>, ServersError> {
        match (&self.cert, &self.key) {
            (Some(cert), Some(key)) => Ok(Some(ClientTlsConfig {
                client_cert: read(cert)?,
                client_key: read(key)?,
            })),
            _ => Ok(None),
        }
    }

    /// All of it for rustls. Blocks for files.
    ///
    /// # Errors
    /// A file cannot be read or understood.
    pub fn config(&self) -> Result<ClientConfig, ServersError> {
        let bad = |what: &str, error: &dyn std::fmt::Display| {
            ServersError(format!("{what} cannot be used: {error}"))
        };
        let mut roots = RootCertStore::empty();
        match self.roots()? {
            Some(pem) => {
                for certificate in CertificateDer::pem_slice_iter(&pem) {
                    let certificate =
                        certificate.map_err(|error| bad("the CA certificate", &error))?;
                    roots
                        .add(certificate)
                        .map_err(|error| bad("the CA certificate", &error))?;
                }
                if roots.is_empty() {
                    return Err(bad("the CA certificate", &"its file has none in PEM"));
                }
            }
            None => {
                let found = rustls_native_certs::load_native_certs();
                roots.add_parsable_certificates(found.certs);
            }
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| bad("TLS", &error))?
            .with_root_certificates(roots);
        let Some(client) = self.client()? else {
            return Ok(config.with_no_client_auth());
        };
        let chain = CertificateDer::pem_slice_iter(&client.client_cert)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| bad("the client certificate", &error))?;
        let key = PrivateKeyDer::from_pem_slice(&client.client_key)
            .map_err(|error| bad("the client's key", &error))?;
        config
            .with_client_auth_cert(chain, key)
            .map_err(|error| bad("the client certificate", &error))
    }
}

/// What TLS itself complains of, where an error of a connection comes from that.
#[must_use]
pub fn tls_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref() {
            return Some(error);
        }
        // `source` leaves out what an I/O error is made of.
        let inner = error.downcast_ref().and_then(io::Error::get_ref);
        if let Some(found) = inner.and_then(|inner| tls_error(inner)) {
            return Some(found);
        }
        cause = error.source();
    }
    None
}

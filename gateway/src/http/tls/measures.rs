//! What operators see of the certificates that listeners show.

use prometheus::{IntCounter, IntGauge, Opts, Registry};
use tokio_rustls::rustls::pki_types::CertificateDer;
use x509_parser::parse_x509_certificate;

use super::Tls;

const LISTENER: &str = "listener";

/// The numbers of one listener.
#[derive(Debug, Clone)]
pub(super) struct Measures {
    expires: IntGauge,
    failures: IntCounter,
}

impl Measures {
    /// `section` is what the listener's settings begin with.
    pub(super) fn new(section: &str) -> prometheus::Result<Self> {
        let listener = if section == "tls" { "clients" } else { section };
        let expires = Opts::new(
            "sse_gateway_tls_certificate_expires_timestamp_seconds",
            "When the certificate that a listener shows ends, in seconds since 1970; 0 where it speaks no TLS.",
        );
        let failures = Opts::new(
            "sse_gateway_tls_certificate_failures_total",
            "Times that a listener's certificate, or what belongs to it, was to be read again and could not be used.",
        );
        Ok(Self {
            expires: IntGauge::with_opts(expires.const_label(LISTENER, listener))?,
            failures: IntCounter::with_opts(failures.const_label(LISTENER, listener))?,
        })
    }

    /// This one is shown from now on.
    pub(super) fn shows(&self, certificate: &CertificateDer<'_>) {
        let read = parse_x509_certificate(certificate);
        let ends = read.map(|(_, read)| read.validity().not_after.timestamp());
        self.expires.set(ends.unwrap_or(0));
    }

    /// The files could not be used.
    pub(super) fn failed(&self) {
        self.failures.inc();
    }
}

/// Registers the numbers of both listeners; `None` is one without TLS.
///
/// # Errors
/// The names are taken.
pub fn register(
    registry: &Registry,
    clients: Option<&Tls>,
    admin: Option<&Tls>,
) -> prometheus::Result<()> {
    for (section, tls) in [("tls", clients), ("admin", admin)] {
        let measures = match tls {
            Some(tls) => tls.0.measures.clone(),
            None => Measures::new(section)?,
        };
        registry.register(Box::new(measures.expires))?;
        registry.register(Box::new(measures.failures))?;
    }
    Ok(())
}

//! How a gateway is reached over https.

use std::path::PathBuf;

use clap::Args;
use protocol::servers::TlsFiles;

/// Flags about certificates, for a gateway.
#[derive(Debug, Args)]
pub struct Tls {
    /// PEM file with the certificates that sign the gateway's, for https:// [default: the system's]
    #[arg(long, value_name = "FILE", requires = "url")]
    pub ca_file: Option<PathBuf>,
    /// PEM file with the certificate to show to the gateway
    #[arg(long, value_name = "FILE", requires_all = ["url", "key_file"])]
    pub cert_file: Option<PathBuf>,
    /// PEM file with its private key
    #[arg(long, value_name = "FILE", requires = "cert_file")]
    pub key_file: Option<PathBuf>,
}

impl Tls {
    /// Where the certificates and the key are.
    #[must_use]
    pub fn files(&self) -> TlsFiles {
        TlsFiles {
            ca: self.ca_file.clone(),
            cert: self.cert_file.clone(),
            key: self.key_file.clone(),
        }
    }
}

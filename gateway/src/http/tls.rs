//! TLS: the certificate that a listener shows, and who may show one to it.
//!
//! Files are looked at again, at most once a second, when a client comes: a new certificate counts from the next
//! handshake on, and open connections keep the one they began with. Tickets let clients come back without a full
//! handshake (RFC 8446, section 2.2), except where they may show certificates of their own: each handshake looks whether
//! such a one still counts.

use std::fmt;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use tokio_rustls::rustls::{RootCertStore, ServerConfig};
use tokio_rustls::server::TlsStream;
use tracing::{error, info};

use crate::live::Live;

mod line;
mod measures;

pub(super) use line::TlsLine;
pub use measures::register;

use measures::Measures;

/// Time between two looks at the files.
const LOOK: Duration = Duration::from_secs(1);
/// In ALPN (RFC 7301).
const HTTP2: &[u8] = b"h2";
const HTTP1: &[u8] = b"http/1.1";

/// The files of one listener.
#[derive(Debug, Clone)]
pub struct TlsFiles {
    /// What the settings begin with: `tls` or `admin`.
    pub section: &'static str,
    /// The certificate and its chain, in PEM.
    pub cert: PathBuf,
    /// Its key, in PEM.
    pub key: PathBuf,
    /// Who signs the certificates of clients, in PEM; `None` asks for none.
    pub client_ca: Option<PathBuf>,
}

/// Files that cannot be used; one sentence.
#[derive(Debug, thiserror::Error)]
#[error("{section}.{setting} {path} cannot be used: {reason}", path = path.display())]
pub struct TlsError {
    section: &'static str,
    setting: &'static str,
    path: PathBuf,
    reason: String,
}

impl TlsFiles {
    fn error(&self, setting: &'static str, path: &Path, reason: impl ToString) -> TlsError {
        TlsError {
            section: self.section,
            setting,
            path: path.to_owned(),
            reason: reason.to_string(),
        }
    }

    fn certificates(
        &self,
        setting: &'static str,
        path: &Path,
    ) -> Result<Vec<CertificateDer<'static>>, TlsError> {
        let found =
            CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        let found = found.map_err(|error| self.error(setting, path, error))?;
        if found.is_empty() {
            return Err(self.error(setting, path, "there is no certificate in it"));
        }
        Ok(found)
    }

    /// The first certificate is what clients are shown.
    fn read(&self, http2: bool, measures: &Measures) -> Result<ServerConfig, TlsError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let chain = self.certificates("cert_file", &self.cert)?;
        let shown = chain[0].clone();
        let key = PrivateKeyDer::from_pem_file(&self.key)
            .map_err(|error| self.error("key_file", &self.key, error))?;
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|error| self.error("cert_file", &self.cert, error))?;
        let builder = match &self.client_ca {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let mut roots = RootCertStore::empty();
                for certificate in self.certificates("client_ca_file", path)? {
                    roots
                        .add(certificate)
                        .map_err(|error| self.error("client_ca_file", path, error))?;
                }
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                        .allow_unauthenticated()
                        .build()
                        .map_err(|error| self.error("client_ca_file", path, error))?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let mut config = builder
            .with_single_cert(chain, key)
            .map_err(|error| self.error("key_file", &self.key, error))?;
        if self.client_ca.is_some() {
            // Who comes back by a ticket is not asked for a certificate again: one that has expired since would count.
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.send_tls13_tickets = 0;
        } else {
            config.ticketer = aws_lc_rs::Ticketer::new()
                .map_err(|error| self.error("key_file", &self.key, error))?;
        }
        if http2 {
            config.alpn_protocols.push(HTTP2.to_vec());
        }
        config.alpn_protocols.push(HTTP1.to_vec());
        measures.shows(&shown);
        Ok(config)
    }

    fn stamps(&self) -> Stamps {
        let ca = self.client_ca.as_deref();
        [Some(&*self.cert), Some(&*self.key), ca].map(|path| {
            let data = std::fs::metadata(path?).ok()?;
            let changed = (data.ctime(), data.ctime_nsec());
            Some((data.dev(), data.ino(), changed, data.len()))
        })
    }
}

/// Which files they are, when they or the permission to read them were changed, and how long they are.
type Stamps = [Option<(u64, u64, (i64, i64), u64)>; 3];

/// The last look at the files.
struct Looked {
    at: Instant,
    stamps: Stamps,
    /// Why they could not be used: they are read again until they can be.
    failure: Option<String>,
}

/// What a listener needs for TLS. Cloning shares it.
#[derive(Clone)]
pub struct Tls(Arc<Shown>);

struct Shown {
    files: TlsFiles,
    http2: bool,
    config: Live<Arc<ServerConfig>>,
    looked: Mutex<Looked>,
    measures: Measures,
}

impl Shown {
    fn look(&self, looked: &mut Looked) {
        let stamps = self.files.stamps();
        let changed = std::mem::replace(&mut looked.stamps, stamps) != stamps;
        if !changed && looked.failure.is_none() {
            return;
        }
        let section = self.files.section;
        match self.files.read(self.http2, &self.measures) {
            Ok(config) => {
                self.config.set(Arc::new(config));
                looked.failure = None;
                info!(section, "The certificate was read again.");
            }
            Err(error) => {
                self.measures.failed();
                let failure = Some(error.to_string());
                if changed || looked.failure != failure {
                    error!(%error, section, "The certificate was not replaced: the node goes on with the one it has.");
                }
                looked.failure = failure;
            }
        }
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Tls").field(&self.0.files).finish()
    }
}

impl Tls {
    /// Reads the files; `http2` is offered where it is spoken.
    ///
    /// # Errors
    /// One of them cannot be used, or the key is not that of the certificate.
    pub fn load(files: TlsFiles, http2: bool) -> Result<Self, TlsError> {
        let stamps = files.stamps();
        let measures = Measures::new(files.section)
            .map_err(|error| files.error("cert_file", &files.cert, error))?;
        let config = Arc::new(files.read(http2, &measures)?);
        Ok(Self(Arc::new(Shown {
            files,
            http2,
            config: Live::new(config),
            looked: Mutex::new(Looked {
                at: Instant::now(),
                stamps,
                failure: None,
            }),
            measures,
        })))
    }

    /// What counts now. Files that cannot be used change nothing, and are logged once.
    fn config(&self) -> Arc<ServerConfig> {
        let shown = &*self.0;
        // Whoever finds another shard looking goes on with what there is.
        if let Some(mut looked) = shown.looked.try_lock()
            && looked.at.elapsed() >= LOOK
        {
            looked.at = Instant::now();
            shown.look(&mut looked);
        }
        Arc::clone(&shown.config.get())
    }

    /// Shakes hands.
    ///
    /// # Errors
    /// The client does not speak TLS, or not as we do, or its certificate does not count.
    pub async fn accept(&self, socket: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        TlsAcceptor::from(self.config()).accept(socket).await
    }
}

/// Whether the client and we have settled on HTTP/2.
pub(super) fn is_http2(stream: &TlsStream<TcpStream>) -> bool {
    stream.get_ref().1.alpn_protocol() == Some(HTTP2)
}

/// Whether the client has shown a certificate that counts.
#[must_use]
pub fn is_certified(stream: &TlsStream<TcpStream>) -> bool {
    let shown = stream.get_ref().1.peer_certificates();
    shown.is_some_and(|chain| !chain.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes a certificate and its key.
    fn sign(files: &TlsFiles) {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let certificate = params.self_signed(&key).unwrap();
        std::fs::write(&files.cert, certificate.pem()).unwrap();
        std::fs::write(&files.key, key.serialize_pem()).unwrap();
    }

    fn load(directory: &Path) -> Tls {
        let files = TlsFiles {
            section: "tls",
            cert: directory.join("cert.pem"),
            key: directory.join("key.pem"),
            client_ca: None,
        };
        sign(&files);
        Tls::load(files, false).unwrap()
    }

    /// What the next client is shown, as if a second had gone by.
    fn next(tls: &Tls) -> Arc<ServerConfig> {
        tls.0.looked.lock().at -= LOOK;
        tls.config()
    }

    #[test]
    fn files_that_could_not_be_read_are_read_again() {
        let directory = tempfile::tempdir().unwrap();
        let tls = load(directory.path());
        let first = next(&tls);
        assert!(Arc::ptr_eq(&first, &next(&tls)), "nothing has changed");
        sign(&tls.0.files);
        // As where the read failed for a reason that is not the files': too many open files.
        {
            let mut looked = tls.0.looked.lock();
            looked.stamps = tls.0.files.stamps();
            looked.failure = Some("too many open files".to_owned());
        }
        let second = next(&tls);
        assert!(!Arc::ptr_eq(&first, &second));
        assert!(Arc::ptr_eq(&second, &next(&tls)), "it can be used");
    }

    /// Those who put back what was there keep its time, and certificates are often of one length.
    #[test]
    fn files_of_the_same_time_and_length_are_other_files() {
        let directory = tempfile::tempdir().unwrap();
        let tls = load(directory.path());
        let first = next(&tls);
        let key = std::fs::File::open(&tls.0.files.key).unwrap();
        let time = key.metadata().unwrap().modified().unwrap();
        let text = std::fs::read(&tls.0.files.key).unwrap();
        // Another inode; and then the same one, which may be read from now on.
        let other = directory.path().join("other.pem");
        std::fs::write(&other, text).unwrap();
        std::fs::File::options()
            .write(true)
            .open(&other)
            .and_then(|other| other.set_modified(time))
            .unwrap();
        std::fs::rename(&other, &tls.0.files.key).unwrap();
        let second = next(&tls);
        assert!(!Arc::ptr_eq(&first, &second));
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(&tls.0.files.key, mode).unwrap();
        assert!(!Arc::ptr_eq(&second, &next(&tls)));
    }
}

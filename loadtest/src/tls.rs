//! TLS of this tool's side: what it asks of a server's certificate, and connections that two threads share.

use std::fs;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, ClientConnection, Connection, DigitallySignedStruct, RootCertStore,
    SignatureScheme,
};
use serde::{Deserialize, Serialize};

/// In ALPN (RFC 7301).
const HTTP1: &[u8] = b"http/1.1";
const HTTP2: &[u8] = b"h2";

/// How a server is spoken to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tls {
    /// The name or address that its certificate has to have.
    pub name: String,
    /// PEM certificates that sign the server's, or its own; `None` for those of the system.
    pub ca_file: Option<PathBuf>,
}

/// Why a server cannot be spoken to.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// There are no certificates to trust.
    #[error("the certificates in {0} cannot be used: {1}")]
    Roots(String, String),
    /// No certificate can have this name.
    #[error("{0} is not a name that a certificate can have")]
    Name(String),
    /// The settings do not fit together.
    #[error("TLS cannot be used: {0}")]
    Config(#[from] rustls::Error),
}

/// Makes the sessions of connections.
#[derive(Debug, Clone)]
pub struct Connector {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl Tls {
    /// Reads the certificates; `http2` says which protocol is asked for.
    ///
    /// # Errors
    /// They cannot be read, or the name cannot be one.
    pub fn connector(&self, http2: bool) -> Result<Connector, TlsError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(self.verifier(provider)?))
            .with_no_client_auth();
        // Every client is somebody else: none continues the session of another one.
        config.resumption = Resumption::disabled();
        config
            .alpn_protocols
            .push(if http2 { HTTP2 } else { HTTP1 }.to_vec());
        let name = ServerName::try_from(self.name.clone());
        Ok(Connector {
            config: Arc::new(config),
            name: name.map_err(|_| TlsError::Name(self.name.clone()))?,
        })
    }

    /// A session for one connection that speaks HTTP/1.1.
    ///
    /// # Errors
    /// As [`Tls::connector`].
    pub fn session(&self) -> Result<Connection, TlsError> {
        Ok(self.connector(false)?.session()?.into())
    }

    fn verifier(&self, provider: Arc<CryptoProvider>) -> Result<Verifier, TlsError> {
        let (mut roots, mut named) = (RootCertStore::empty(), Vec::new());
        let from = match &self.ca_file {
            None => {
                let found = rustls_native_certs::load_native_certs().certs;
                roots.add_parsable_certificates(found);
                "the system's store".to_owned()
            }
            Some(file) => {
                let from = file.display().to_string();
                let bad = |why: String| TlsError::Roots(from.clone(), why);
                let pem = fs::read(file).map_err(|error| bad(error.to_string()))?;
                for certificate in CertificateDer::pem_slice_iter(&pem) {
                    let certificate = certificate.map_err(|error| bad(error.to_string()))?;
                    roots
                        .add(certificate.clone())
                        .map_err(|error| bad(error.to_string()))?;
                    named.push(certificate);
                }
                from
            }
        };
        let signed = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .map_err(|error| TlsError::Roots(from, error.to_string()))?;
        Ok(Verifier { named, signed })
    }
}

impl Connector {
    /// A session for one connection, not begun yet.
    ///
    /// # Errors
    /// The settings do not fit together.
    pub fn session(&self) -> Result<ClientConnection, rustls::Error> {
        ClientConnection::new(self.config.clone(), self.name.clone())
    }
}

/// Takes certificates that are signed by those of the file, and those of the file themselves: one that `openssl req -x509`
/// has made signs itself and says that it signs others, which no server's may, and is what one tries things with.
#[derive(Debug)]
struct Verifier {
    named: Vec<CertificateDer<'static>>,
    signed: Arc<WebPkiServerVerifier>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        shown: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        stapled: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if self.named.contains(shown) {
            return Ok(ServerCertVerified::assertion());
        }
        self.signed
            .verify_server_cert(shown, between, name, stapled, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.signed
            .verify_tls12_signature(message, shown, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.signed
            .verify_tls13_signature(message, shown, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.signed.supported_verify_schemes()
    }
}

/// A blocking connection, with TLS or without. One thread may read while another one writes.
pub struct Duplex {
    socket: TcpStream,
    session: Option<Mutex<Connection>>,
}

impl Duplex {
    /// Shakes hands where there is a session.
    ///
    /// # Errors
    /// The other side goes away, or speaks otherwise, or its certificate does not count.
    pub fn new(mut socket: TcpStream, session: Option<Connection>) -> io::Result<Self> {
        let session = match session {
            None => None,
            Some(mut session) => {
                while session.is_handshaking() {
                    session.complete_io(&mut socket)?;
                }
                Some(Mutex::new(session))
            }
        };
        Ok(Self { socket, session })
    }

    /// The connection itself.
    #[must_use]
    pub fn socket(&self) -> &TcpStream {
        &self.socket
    }
}

/// A session that panicked while it was held fails by itself.
fn lock(session: &Mutex<Connection>) -> MutexGuard<'_, Connection> {
    session.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Read for &Duplex {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(session) = &self.session else {
            return (&self.socket).read(buffer);
        };
        let mut bytes = [0; 16 * 1024];
        loop {
            match lock(session).reader().read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => return read,
            }
            // Without the lock, or nobody could write meanwhile.
            let got = (&self.socket).read(&mut bytes)?;
            let (mut session, mut left) = (lock(session), &bytes[..got]);
            loop {
                session.read_tls(&mut left)?;
                session.process_new_packets().map_err(io::Error::other)?;
                if left.is_empty() {
                    break;
                }
            }
            while session.wants_write() {
                session.write_tls(&mut &self.socket)?;
            }
        }
    }
}

impl Write for &Duplex {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(session) = &self.session else {
            return (&self.socket).write(bytes);
        };
        let mut session = lock(session);
        let taken = session.writer().write(bytes)?;
        while session.wants_write() {
            session.write_tls(&mut &self.socket)?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

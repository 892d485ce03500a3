//! Certificates of an authority, and a Redis that takes TLS connections of known clients only.

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

use super::{Redis, free_port};

/// `ca.pem`, and what it has signed: `server` for 127.0.0.1, `other` for another name, and `client`, each with `.pem` and
/// `.key`.
pub struct Certificates(tempfile::TempDir);

impl Certificates {
    pub fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: String| {
            std::fs::write(directory.path().join(name), text).unwrap();
        };
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
            .distinguished_name
            .push(DnType::CommonName, "an authority");
        write("ca.pem", params.self_signed(&key).unwrap().pem());
        let issuer = Issuer::new(params, key);
        let subjects = [
            ("server", "127.0.0.1"),
            ("other", "events.example.com"),
            ("client", "publisher"),
        ];
        for (name, subject) in subjects {
            let key = KeyPair::generate().unwrap();
            let mut params = CertificateParams::new(vec![subject.to_owned()]).unwrap();
            params.distinguished_name.push(DnType::CommonName, name);
            let certificate = params.signed_by(&key, &issuer).unwrap();
            write(&format!("{name}.pem"), certificate.pem());
            write(&format!("{name}.key"), key.serialize_pem());
        }
        Self(directory)
    }

    /// One of its files, or one of the test's own.
    pub fn file(&self, name: &str) -> String {
        self.0.path().join(name).to_str().unwrap().to_owned()
    }
}

pub struct Tls {
    pub redis: Redis,
    port: u16,
    certificates: Certificates,
}

impl Tls {
    pub fn start() -> Self {
        let certificates = Certificates::new();
        let file = |name: &str| certificates.file(name);
        let redis = Redis::start_as(|| {
            let port = free_port().to_string();
            let words = [
                ["--tls-port", &port],
                ["--tls-ca-cert-file", &file("ca.pem")],
                ["--tls-cert-file", &file("server.pem")],
                ["--tls-key-file", &file("server.key")],
            ];
            words.concat().into_iter().map(str::to_owned).collect()
        });
        let port: Vec<String> = redis.ask(&["CONFIG", "GET", "tls-port"]);
        Self {
            redis,
            port: port[1].parse().unwrap(),
            certificates,
        }
    }

    pub fn url(&self) -> String {
        format!("rediss://127.0.0.1:{}", self.port)
    }

    /// See [`Certificates`].
    pub fn file(&self, name: &str) -> String {
        self.certificates.file(name)
    }
}

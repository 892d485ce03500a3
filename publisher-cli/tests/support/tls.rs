//! A Redis that takes TLS connections of known clients only.

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

use super::{Redis, free_port};

pub struct Tls {
    pub redis: Redis,
    port: u16,
    directory: tempfile::TempDir,
}

impl Tls {
    pub fn start() -> Self {
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
        for (name, subject) in [("server", "127.0.0.1"), ("client", "publisher")] {
            let key = KeyPair::generate().unwrap();
            let mut params = CertificateParams::new(vec![subject.to_owned()]).unwrap();
            params.distinguished_name.push(DnType::CommonName, name);
            let certificate = params.signed_by(&key, &issuer).unwrap();
            write(&format!("{name}.pem"), certificate.pem());
            write(&format!("{name}.key"), key.serialize_pem());
        }
        let file = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
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
            directory,
        }
    }

    pub fn url(&self) -> String {
        format!("rediss://127.0.0.1:{}", self.port)
    }

    /// `ca.pem`, `client.pem`, `client.key`, or a file of the test's own.
    pub fn file(&self, name: &str) -> String {
        self.directory
            .path()
            .join(name)
            .to_str()
            .unwrap()
            .to_owned()
    }
}

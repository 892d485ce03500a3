//! Keys, tokens and a certificate of a comparison's own, as files that systems and clients are given.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rcgen::{CertificateParams, KeyPair};
use serde_json::json;
use tempfile::TempDir;

/// How long tokens count, in seconds: longer than any comparison.
const LIFETIME: u64 = 7 * 86_400;

/// A directory with `hs256.key` (a secret), `es256.pem` (a public key), `cert.pem` and `key.pem` (a certificate for
/// 127.0.0.1 that has signed itself), and files of tokens. It goes with its owner.
pub(super) struct Credentials {
    directory: TempDir,
    hs256: EncodingKey,
    es256: EncodingKey,
}

impl Credentials {
    /// Makes all but the tokens.
    pub(super) fn new() -> io::Result<Self> {
        let directory = tempfile::Builder::new()
            .prefix("sse-loadtest-keys-")
            .tempdir()?;
        let write = |name: &str, text: &str| fs::write(directory.path().join(name), text);
        let secret: String = std::iter::repeat_with(fastrand::alphanumeric)
            .take(48)
            .collect();
        write("hs256.key", &secret)?;
        let pair = KeyPair::generate().map_err(io::Error::other)?;
        write("es256.pem", &pair.public_key_pem())?;
        let es256 =
            EncodingKey::from_ec_pem(pair.serialize_pem().as_bytes()).map_err(io::Error::other)?;
        let shown = KeyPair::generate().map_err(io::Error::other)?;
        let certificate = CertificateParams::new(["127.0.0.1".to_owned()])
            .and_then(|params| params.self_signed(&shown))
            .map_err(io::Error::other)?;
        write("cert.pem", &certificate.pem())?;
        write("key.pem", &shown.serialize_pem())?;
        Ok(Self {
            hs256: EncodingKey::from_secret(secret.as_bytes()),
            es256,
            directory,
        })
    }

    pub(super) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// A file with so many tokens, each of a user of its own, who may subscribe to the rooms of runs. The file of
    /// before is given again: who shows its tokens once more shows known ones.
    pub(super) fn tokens(&self, algorithm: Algorithm, count: u64) -> io::Result<PathBuf> {
        let file = self
            .directory
            .path()
            .join(format!("{algorithm:?}-{count}.tokens"));
        if file.exists() {
            return Ok(file);
        }
        let key = match algorithm {
            Algorithm::HS256 => &self.hs256,
            _ => &self.es256,
        };
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs());
        let mut text = String::new();
        for user in 0..count {
            let claims = json!({
                "sub": format!("user-{user:06}"),
                "iat": now,
                "exp": now + LIFETIME,
                "sse": { "subscribe": ["load-*", "probe"] },
            });
            let token = jsonwebtoken::encode(&Header::new(algorithm), &claims, key);
            text.push_str(&token.map_err(io::Error::other)?);
            text.push('\n');
        }
        fs::write(&file, text)?;
        Ok(file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jsonwebtoken::{DecodingKey, Validation, decode};

    #[test]
    fn tokens_are_signed_by_the_keys_beside_them() {
        let made = Credentials::new().unwrap();
        let read = |name: &str| fs::read(made.directory().join(name)).unwrap();
        let keys = [
            (
                Algorithm::HS256,
                DecodingKey::from_secret(&read("hs256.key")),
            ),
            (
                Algorithm::ES256,
                DecodingKey::from_ec_pem(&read("es256.pem")).unwrap(),
            ),
        ];
        for (algorithm, key) in keys {
            let file = made.tokens(algorithm, 3).unwrap();
            let text = fs::read_to_string(&file).unwrap();
            let users = crate::target::tokens(&text).into_iter().map(|token| {
                let valid = Validation::new(algorithm);
                let claims = decode::<serde_json::Value>(&token, &key, &valid).unwrap();
                claims.claims["sub"].as_str().unwrap().to_owned()
            });
            let expected = ["user-000000", "user-000001", "user-000002"];
            assert_eq!(users.collect::<Vec<_>>(), expected);
            // Known tokens are what caches are measured by.
            assert_eq!(made.tokens(algorithm, 3).unwrap(), file);
            assert_eq!(fs::read_to_string(&file).unwrap(), text);
        }
        let directory = made.directory().to_owned();
        drop(made);
        assert!(!directory.exists());
    }
}

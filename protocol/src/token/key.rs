//! Keys that sign tokens, each for one algorithm: a token that names another one is not looked at by it, so that
//! nobody signs with a public key as if it were a secret (RFC 8725, section 3.1).

use base64::Engine;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use jsonwebtoken::jwk::{
    AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, KeyOperations, PublicKeyUse,
};
use jsonwebtoken::{AlgorithmFamily, DecodingKey};
use serde_json::Value;

use super::{ALGORITHMS, Algorithm, algorithm, algorithm_name};

/// The shortest RSA modulus, in bytes (RFC 7518, sections 3.3 and 3.5).
const MIN_RSA_BYTES: usize = 256;
/// Before a secret in base64.
const BASE64: &str = "base64:";
/// Keys that are taken from one set.
const MAX_KEYS: usize = 64;

/// A key that tokens are checked by. `Debug` hides it.
#[derive(Clone)]
pub struct Key {
    /// `kid`: tokens that name another one are not looked at by it.
    pub id: Option<String>,
    /// What it signs by, and nothing else.
    pub algorithm: Algorithm,
    key: DecodingKey,
}

/// `kid=ID ALGORITHM REST`, where the part before the algorithm may be left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyLine<'a> {
    /// Of the key.
    pub id: Option<&'a str>,
    /// Of the key; `None` where the line is a path alone.
    pub algorithm: Option<Algorithm>,
    /// The key, or the path of its file.
    pub rest: &'a str,
}

/// Where a set of keys is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeySource {
    /// A file of the operator's.
    File,
    /// Another server: it shows what it has to anyone, so that none of it is a secret.
    Url,
}

impl<'a> KeyLine<'a> {
    /// Reads a line.
    ///
    /// # Errors
    /// A clause that says what is wrong. It quotes nothing that may be part of a key.
    pub fn read(line: &'a str) -> Result<Self, String> {
        let line = line.trim();
        let word = |text: &'a str| {
            let end = text
                .find(|c: char| c.is_ascii_whitespace())
                .unwrap_or(text.len());
            (&text[..end], text[end..].trim_start())
        };
        let (first, more) = word(line);
        let (id, line) = match first.strip_prefix("kid=") {
            Some("") => return Err("has an empty kid".into()),
            Some(id) => (Some(id), more),
            None => (None, line),
        };
        let (name, rest) = word(line);
        match algorithm(name) {
            Some(_) if rest.is_empty() => Err(format!("has nothing after {name}")),
            Some(known) => Ok(Self {
                id,
                algorithm: Some(known),
                rest,
            }),
            None if id.is_none()
                && (rest.is_empty() || line.starts_with(['/', '.']))
                && !line.is_empty() =>
            {
                Ok(Self {
                    id,
                    algorithm: None,
                    rest: line,
                })
            }
            None => {
                let names = ALGORITHMS.map(|(name, _)| name).join(", ");
                Err(format!(
                    "does not begin with an algorithm, one of {names}, or with `kid=ID` and one"
                ))
            }
        }
    }
}

impl Key {
    /// A key from what is written in a setting or a file: a secret, or a public key in PEM.
    ///
    /// # Errors
    /// A clause that says why it is none. It quotes nothing of it.
    pub fn new(id: Option<&str>, algorithm: Algorithm, text: &[u8]) -> Result<Self, String> {
        let key = match algorithm.family() {
            AlgorithmFamily::Hmac => DecodingKey::from_secret(&read_secret(algorithm, text)?),
            family => public_key(family, text)?,
        };
        Self::checked(id.map(str::to_owned), algorithm, key)
    }

    /// What checks signatures.
    pub(super) fn verifier(&self) -> &DecodingKey {
        &self.key
    }

    fn checked(id: Option<String>, algorithm: Algorithm, key: DecodingKey) -> Result<Self, String> {
        let bytes = || key.try_get_as_bytes().unwrap_or_default().len();
        let name = algorithm_name(algorithm);
        match (algorithm, key.family()) {
            (_, family) if family != algorithm.family() => {
                return Err(format!("is not for {name}"));
            }
            // An uncompressed point: a byte, and two coordinates (SEC 1, section 2.3.3).
            (Algorithm::ES256, _) if bytes() != 65 => {
                return Err("is not of the curve P-256, which ES256 needs".into());
            }
            (Algorithm::ES384, _) if bytes() != 97 => {
                return Err("is not of the curve P-384, which ES384 needs".into());
            }
            (Algorithm::EdDSA, _) if bytes() != 32 => {
                return Err("is not of the curve Ed25519".into());
            }
            (_, AlgorithmFamily::Hmac) if bytes() < secret_bytes(algorithm) => {
                return Err(short(algorithm));
            }
            (_, AlgorithmFamily::Rsa) if modulus_bytes(&key) < MIN_RSA_BYTES => {
                return Err("is not an RSA key of at least 2048 bits".into());
            }
            _ => {}
        }
        Ok(Self { id, algorithm, key })
    }

    /// A key of a set (RFC 7517); `None` for what does not sign tokens, or not as the gateway knows.
    fn of_set(value: &Value, source: KeySource) -> Result<Option<Self>, String> {
        let symmetric = value["kty"] == "oct";
        let Ok(jwk) = serde_json::from_value::<Jwk>(value.clone()) else {
            return Ok(None);
        };
        let common = &jwk.common;
        let signs = common
            .public_key_use
            .as_ref()
            .is_none_or(|one| *one == PublicKeyUse::Signature)
            && common
                .key_operations
                .as_ref()
                .is_none_or(|all| all.contains(&KeyOperations::Verify));
        if !signs {
            return Ok(None);
        }
        if symmetric && source == KeySource::Url {
            return Err("has a secret (`kty` is `oct`), and whoever can fetch it could sign: it has to have public keys only".into());
        }
        let algorithm = match (common.key_algorithm, &jwk.algorithm) {
            (Some(KeyAlgorithm::UNKNOWN_ALGORITHM), _) => return Ok(None),
            (Some(named), _) => match Algorithm::try_from(named) {
                Ok(algorithm) => algorithm,
                Err(_) => return Ok(None),
            },
            // What it is for follows from what it is. Of RSA it is what nearly everyone means.
            (None, AlgorithmParameters::RSA(_)) => Algorithm::RS256,
            (None, AlgorithmParameters::EllipticCurve(of)) if of.curve == EllipticCurve::P256 => {
                Algorithm::ES256
            }
            (None, AlgorithmParameters::EllipticCurve(of)) if of.curve == EllipticCurve::P384 => {
                Algorithm::ES384
            }
            (None, AlgorithmParameters::OctetKeyPair(of)) if of.curve == EllipticCurve::Ed25519 => {
                Algorithm::EdDSA
            }
            (None, AlgorithmParameters::OctetKey(_)) => {
                return Err(
                    "has a secret without `alg`, which has to be HS256, HS384 or HS512".into(),
                );
            }
            _ => return Ok(None),
        };
        let Ok(key) = DecodingKey::from_jwk(&jwk) else {
            return Err("has a key that is not base64url".into());
        };
        let key = Self::checked(common.key_id.clone(), algorithm, key);
        key.map(Some)
            .map_err(|error| format!("has a key that {error}"))
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Key")
            .field("id", &self.id)
            .field("algorithm", &self.algorithm)
            .finish_non_exhaustive()
    }
}

/// The keys of a JSON Web Key Set (RFC 7517, section 5), or of one that stands alone. Those that are for something else
/// are left out. Of a set from a URL those that cannot be used are left out too, and `complain` is told of each: it is
/// another's set, and one bad key of it is no reason to refuse the tokens of all others.
///
/// # Errors
/// A clause that says what is wrong with it. It quotes nothing of it.
pub fn read_set(
    text: &[u8],
    source: KeySource,
    mut complain: impl FnMut(&str),
) -> Result<Vec<Key>, String> {
    let set: Value = serde_json::from_slice(text).map_err(|_| "is not JSON".to_owned())?;
    let keys = match &set["keys"] {
        Value::Array(keys) => &keys[..],
        _ if set.get("kty").is_some() => std::slice::from_ref(&set),
        _ => return Err("is not a JSON Web Key Set: it has no list `keys`".into()),
    };
    let mut found = Vec::new();
    for key in keys {
        match (Key::of_set(key, source), source) {
            (Ok(key), _) => found.extend(key),
            (Err(error), KeySource::Url) => complain(&error),
            (Err(error), KeySource::File) => return Err(error),
        }
    }
    match found.len() {
        0 => Err("has no key that signs tokens".into()),
        1..=MAX_KEYS => Ok(found),
        _ => Err(format!("has more than {MAX_KEYS} keys")),
    }
}

/// The secret of an HMAC, as it is written: text, `base64:` and the secret in base64, or in a file any bytes. A line's
/// end is not part of it.
///
/// # Errors
/// A clause that says why it is none, such as too short (RFC 7518, section 3.2). It quotes nothing of it.
pub fn read_secret(algorithm: Algorithm, text: &[u8]) -> Result<Vec<u8>, String> {
    let is_text = text
        .iter()
        .all(|b| b.is_ascii_graphic() || b.is_ascii_whitespace());
    let trimmed = if is_text { text.trim_ascii() } else { text };
    // Everybody has the public key: as a secret it would let everybody sign.
    if memchr::memmem::find(trimmed, b"-----BEGIN").is_some()
        || (trimmed.starts_with(b"{") && memchr::memmem::find(trimmed, b"\"kty\"").is_some())
    {
        return Err(format!(
            "is a key in PEM or JSON, and {} needs a secret",
            algorithm_name(algorithm)
        ));
    }
    let secret = match trimmed.strip_prefix(BASE64.as_bytes()) {
        None => trimmed.to_vec(),
        Some(rest) => {
            let rest: Vec<u8> = rest
                .iter()
                .copied()
                .filter(|b| !b.is_ascii_whitespace() && *b != b'=')
                .collect();
            let decoded = STANDARD_NO_PAD
                .decode(&rest)
                .or_else(|_| URL_SAFE_NO_PAD.decode(&rest));
            decoded.map_err(|_| format!("is not base64 after `{BASE64}`"))?
        }
    };
    if secret.len() < secret_bytes(algorithm) {
        return Err(short(algorithm));
    }
    Ok(secret)
}

/// The fewest bytes of a secret: those of the hash.
fn secret_bytes(algorithm: Algorithm) -> usize {
    match algorithm {
        Algorithm::HS384 => 48,
        Algorithm::HS512 => 64,
        _ => 32,
    }
}

fn short(algorithm: Algorithm) -> String {
    let (name, bytes) = (algorithm_name(algorithm), secret_bytes(algorithm));
    format!(
        "is shorter than the {bytes} bytes that {name} needs (RFC 7518, section 3.2): make one with `openssl rand -base64 {bytes}`"
    )
}

fn public_key(family: AlgorithmFamily, text: &[u8]) -> Result<DecodingKey, String> {
    let text = String::from_utf8_lossy(text).replace("\\n", "\n");
    if text.contains("PRIVATE KEY-----") {
        return Err("is a private key: give the public one (openssl pkey -in FILE -pubout)".into());
    }
    if text.contains("CERTIFICATE-----") {
        return Err(
            "is a certificate: give its public key (openssl x509 -in FILE -noout -pubkey)".into(),
        );
    }
    let read = match family {
        AlgorithmFamily::Rsa => DecodingKey::from_rsa_pem,
        AlgorithmFamily::Ec => DecodingKey::from_ec_pem,
        AlgorithmFamily::Ed => DecodingKey::from_ed_pem,
        AlgorithmFamily::Hmac => return Err("is not a secret".into()),
    };
    let kind = match family {
        AlgorithmFamily::Rsa => "an RSA",
        AlgorithmFamily::Ec => "an elliptic curve",
        _ => "an Ed25519",
    };
    read(text.trim().as_bytes()).map_err(|_| format!("is not {kind} public key in PEM"))
}

/// 0 for what is none.
fn modulus_bytes(key: &DecodingKey) -> usize {
    let Ok(Jwk {
        algorithm: AlgorithmParameters::RSA(of),
        ..
    }) = Jwk::from_decoding_key(key, None)
    else {
        return 0;
    };
    let modulus = URL_SAFE_NO_PAD.decode(of.n).unwrap_or_default();
    modulus.iter().skip_while(|byte| **byte == 0).count()
}

#[cfg(test)]
mod tests;

//! Makes tokens, good and bad.

use std::time::{SystemTime, UNIX_EPOCH};

use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header};
use rcgen::{
    KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA256,
};
use serde_json::Value;

pub const SECRET: &str = "0123456789abcdef0123456789abcdef";

pub fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs()
}

/// Someone who signs by one algorithm.
#[derive(Clone)]
pub struct Signer {
    pub name: &'static str,
    algorithm: Algorithm,
    key: EncodingKey,
    /// PEM; `None` for a secret.
    pub public: Option<String>,
}

const NAMES: [&str; 12] = [
    "HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256",
    "ES384", "EdDSA",
];

impl Signer {
    /// With a new key, unless it is a secret.
    pub fn of(name: &'static str) -> Self {
        let pair = |of| KeyPair::generate_for(of).unwrap();
        let algorithm: Algorithm = name.parse().unwrap();
        let (key, public) = match &name[..2] {
            "HS" => (EncodingKey::from_secret(SECRET.repeat(2).as_bytes()), None),
            "ES" => {
                let pair = pair(if name == "ES256" {
                    &PKCS_ECDSA_P256_SHA256
                } else {
                    &PKCS_ECDSA_P384_SHA384
                });
                (
                    EncodingKey::from_ec_pem(pair.serialize_pem().as_bytes()).unwrap(),
                    Some(pair.public_key_pem()),
                )
            }
            "Ed" => {
                let pair = pair(&PKCS_ED25519);
                (
                    EncodingKey::from_ed_pem(pair.serialize_pem().as_bytes()).unwrap(),
                    Some(pair.public_key_pem()),
                )
            }
            _ => {
                let pair = pair(&PKCS_RSA_SHA256);
                (
                    EncodingKey::from_rsa_pem(pair.serialize_pem().as_bytes()).unwrap(),
                    Some(pair.public_key_pem()),
                )
            }
        };
        Self {
            name,
            algorithm,
            key,
            public,
        }
    }

    /// One for each algorithm.
    pub fn all() -> Vec<Self> {
        NAMES.into_iter().map(Self::of).collect()
    }

    /// The same key, otherwise used.
    pub fn with_algorithm(&self, name: &'static str) -> Self {
        Self {
            name,
            algorithm: name.parse().unwrap(),
            ..self.clone()
        }
    }

    pub fn secret(&self) -> String {
        SECRET.repeat(2)
    }

    pub fn sign(&self, kid: Option<&str>, claims: &Value) -> String {
        let mut header = Header::new(self.algorithm);
        header.kid = kid.map(str::to_owned);
        jsonwebtoken::encode(&header, claims, &self.key).unwrap()
    }

    /// For a set.
    pub fn jwk(&self, kid: &str) -> Value {
        let of_public =
            |key: Result<DecodingKey, _>| Jwk::from_decoding_key(&key?, Some(self.algorithm));
        let jwk = match (&self.public, self.name) {
            (None, _) => Jwk::from_encoding_key(&self.key, self.algorithm),
            (Some(pem), "EdDSA") => of_public(DecodingKey::from_ed_pem(pem.as_bytes())),
            (Some(pem), "ES256" | "ES384") => of_public(DecodingKey::from_ec_pem(pem.as_bytes())),
            (Some(pem), _) => of_public(DecodingKey::from_rsa_pem(pem.as_bytes())),
        };
        let mut jwk = jwk.unwrap();
        jwk.common.key_id = Some(kid.to_owned());
        serde_json::to_value(jwk).unwrap()
    }
}

/// By the secret that most tests use.
pub fn hs256(claims: &Value) -> String {
    hmac(SECRET.as_bytes(), None, claims)
}

pub fn hmac(secret: &[u8], kid: Option<&str>, claims: &Value) -> String {
    let mut header = Header::new(Algorithm::HS256);
    header.kid = kid.map(str::to_owned);
    jsonwebtoken::encode(&header, claims, &EncodingKey::from_secret(secret)).unwrap()
}

/// With a header that libraries do not make.
pub fn sign_by_hand(header: &[u8], claims: &Value) -> String {
    let message = format!(
        "{}.{}",
        base64url(header),
        base64url(claims.to_string().as_bytes())
    );
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key, Algorithm::HS256).unwrap();
    format!("{message}.{signature}")
}

/// RFC 4648, section 5, without padding.
pub fn base64url(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let at = |index: usize| u32::from(three.get(index).copied().unwrap_or(0));
        let bits = at(0) << 16 | at(1) << 8 | at(2);
        for place in 0..=three.len() {
            let six = bits >> (18 - 6 * place) & 63;
            text.push(char::from(ALPHABET[six as usize]));
        }
    }
    text
}

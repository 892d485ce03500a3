//! Makes a token.

use jsonwebtoken::{AlgorithmFamily, EncodingKey, Header};
use protocol::token::{
    Algorithm, Claims, MAX_BYTES, PUBLISH, SUBSCRIBE, Token, algorithm_name, read_secret,
};
use serde_json::{Map, Value, json};

use super::{about, read_file};
use crate::cli::Make;
use crate::target::Failure;

/// A token, or what `--json` shows, with a line's end. `now` is in seconds since 1970.
pub(super) fn make(make: &Make, now: u64) -> Result<String, Failure> {
    let text = read_file(&make.key_file)?;
    let key = signing_key(make.alg, &text).map_err(|error| about(&make.key_file, &error))?;
    let expires = now.saturating_add(make.expires.as_secs());
    if expires <= now {
        return Err(Failure::refused("--expires is less than a second"));
    }
    let mut claims = Map::new();
    for (name, value) in [
        ("iss", &make.issuer),
        ("sub", &make.user),
        ("aud", &make.audience),
    ] {
        if let Some(value) = value {
            claims.insert(name.to_owned(), value.as_str().into());
        }
    }
    claims.insert("iat".to_owned(), now.into());
    claims.insert("exp".to_owned(), expires.into());
    let rooms = json!({ SUBSCRIBE: make.subscribe, PUBLISH: make.publish });
    if claims.insert(make.claim.clone(), rooms).is_some() {
        return Err(Failure::refused(format!(
            "--claim {} has another meaning",
            make.claim
        )));
    }
    let mut header = Header::new(make.alg);
    header.kid.clone_from(&make.kid);
    let token = jsonwebtoken::encode(&header, &Value::Object(claims), &key).map_err(|_| {
        let kind = format!("is not a private key for {}", algorithm_name(make.alg));
        about(&make.key_file, &kind)
    })?;
    check(&token, &make.claim)?;
    Ok(if make.json {
        format!("{}\n", json!({ "token": token, "expires": expires }))
    } else {
        format!("{token}\n")
    })
}

/// What no gateway would take is not made.
fn check(token: &str, claim: &str) -> Result<(), Failure> {
    if token.len() > MAX_BYTES {
        return Err(Failure::refused(format!(
            "the token would be over {MAX_BYTES} bytes, which gateways refuse"
        )));
    }
    let split = Token::split(token).map_err(Failure::other)?;
    Claims::read(&split.payload, claim)
        .map(drop)
        .map_err(Failure::refused)
}

/// Reads a private key in PEM.
type Read = fn(&[u8]) -> jsonwebtoken::errors::Result<EncodingKey>;

fn signing_key(algorithm: Algorithm, text: &[u8]) -> Result<EncodingKey, String> {
    let (read, what): (Read, &str) = match algorithm.family() {
        AlgorithmFamily::Hmac => {
            return read_secret(algorithm, text).map(|secret| EncodingKey::from_secret(&secret));
        }
        AlgorithmFamily::Rsa => (EncodingKey::from_rsa_pem, "an RSA"),
        AlgorithmFamily::Ec => (EncodingKey::from_ec_pem, "an elliptic curve"),
        AlgorithmFamily::Ed => (EncodingKey::from_ed_pem, "an Ed25519"),
    };
    let pem = String::from_utf8_lossy(text);
    if pem.contains("PUBLIC KEY-----") {
        return Err("is a public key: tokens are signed with the private one".into());
    }
    if pem.contains("EC PRIVATE KEY-----") {
        return Err(
            "is in an older form: openssl pkcs8 -topk8 -nodes -in FILE makes a key of today's"
                .into(),
        );
    }
    if pem.contains("ENCRYPTED") {
        return Err("is encrypted: openssl pkey -in FILE decrypts it".into());
    }
    read(text).map_err(|_| format!("is not {what} private key in PEM"))
}

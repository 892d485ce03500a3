//! JSON Web Tokens (RFC 7519, signed as RFC 7515 says): their parts, the keys that sign them, and the claims that name
//! rooms. The gateway checks tokens by it, and `sse-publish token` makes and explains them by it.
//!
//! Nothing here decides: a [`Token`] is taken apart, not believed, until [`Token::is_signed_by`] says so.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

mod claims;
mod demands;
mod key;

pub use claims::{Claims, Rooms};
pub use demands::{Demands, Times, Unmet};
pub use key::{Key, KeyLine, KeySource, read_secret, read_set};

/// How tokens are signed (RFC 7518, section 3.1, and RFC 8037).
pub use jsonwebtoken::Algorithm;

/// Larger tokens are not looked at, in bytes.
pub const MAX_BYTES: usize = 8192;
/// Patterns of rooms that a token may name for subscribing, and again for publishing.
pub const MAX_PATTERNS: usize = 64;
/// The longest user (`sub`), in bytes.
pub const MAX_USER_BYTES: usize = 256;
/// The claim with the rooms, where none is configured.
pub const DEFAULT_CLAIM: &str = "sse";
/// In that claim: patterns of rooms to subscribe to.
pub const SUBSCRIBE: &str = "subscribe";
/// In that claim: patterns of rooms to publish in.
pub const PUBLISH: &str = "publish";

/// All algorithms. `none` is not one (RFC 8725, section 3.1).
pub const ALGORITHMS: [(&str, Algorithm); 12] = [
    ("HS256", Algorithm::HS256),
    ("HS384", Algorithm::HS384),
    ("HS512", Algorithm::HS512),
    ("RS256", Algorithm::RS256),
    ("RS384", Algorithm::RS384),
    ("RS512", Algorithm::RS512),
    ("PS256", Algorithm::PS256),
    ("PS384", Algorithm::PS384),
    ("PS512", Algorithm::PS512),
    ("ES256", Algorithm::ES256),
    ("ES384", Algorithm::ES384),
    ("EdDSA", Algorithm::EdDSA),
];

/// The algorithm of this name; case counts (RFC 7515, section 4.1.1).
#[must_use]
pub fn algorithm(name: &str) -> Option<Algorithm> {
    let mut all = ALGORITHMS.iter();
    all.find(|(one, _)| *one == name).map(|(_, known)| *known)
}

/// The name of an algorithm.
#[must_use]
pub fn algorithm_name(algorithm: Algorithm) -> &'static str {
    let mut all = ALGORITHMS.iter();
    all.find(|(_, one)| *one == algorithm)
        .map_or("unknown", |(name, _)| name)
}

/// A token, taken apart: nothing in it counts yet.
#[derive(Clone)]
pub struct Token<'a> {
    /// `alg` as it is written.
    pub algorithm: String,
    /// `kid`: which key has signed it.
    pub key_id: Option<String>,
    /// `crit`: it wants to be refused by whoever does not know some extension (RFC 7515, section 4.1.11).
    pub critical: bool,
    /// The header, for people.
    pub header: Map<String, Value>,
    /// The claims, as JSON.
    pub payload: Vec<u8>,
    message: &'a str,
    signature: &'a str,
}

impl<'a> Token<'a> {
    /// Takes one apart.
    ///
    /// # Errors
    /// A clause that says why this is no token. It quotes nothing of it.
    pub fn split(text: &'a str) -> Result<Self, &'static str> {
        let (message, signature) = text.rsplit_once('.').ok_or(NOT_THREE)?;
        let (header, payload) = message.split_once('.').ok_or(NOT_THREE)?;
        if payload.contains('.') {
            return Err(NOT_THREE);
        }
        let decode = |part: &str| URL_SAFE_NO_PAD.decode(part);
        let header = decode(header).map_err(|_| "its header is not base64url")?;
        let payload = decode(payload).map_err(|_| "its claims are not base64url")?;
        let header: Map<String, Value> =
            serde_json::from_slice(&header).map_err(|_| "its header is not a JSON object")?;
        let text = |name: &str| match header.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(_) => Err("`alg` or `kid` in its header is not a string"),
        };
        Ok(Self {
            algorithm: text("alg")?.ok_or("its header has no `alg`")?,
            key_id: text("kid")?,
            critical: header.contains_key("crit"),
            header,
            payload,
            message,
            signature,
        })
    }

    /// Whether this key has signed it, by the algorithm that the key is for.
    #[must_use]
    pub fn is_signed_by(&self, key: &Key) -> bool {
        let message = self.message.as_bytes();
        let signed =
            jsonwebtoken::crypto::verify(self.signature, message, key.verifier(), key.algorithm);
        self.algorithm == algorithm_name(key.algorithm) && signed.unwrap_or(false)
    }
}

/// A token may open every room: it is not shown.
impl std::fmt::Debug for Token<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Token")
            .field("algorithm", &self.algorithm)
            .finish_non_exhaustive()
    }
}

const NOT_THREE: &str = "it does not have three parts with dots between them";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn algorithms_have_the_names_of_the_standard() {
        for (name, known) in ALGORITHMS {
            assert_eq!(name.parse::<Algorithm>().unwrap(), known);
            assert_eq!(
                (algorithm(name), algorithm_name(known)),
                (Some(known), name)
            );
        }
        for name in ["none", "hs256", "ES512", ""] {
            assert_eq!(algorithm(name), None, "{name}");
        }
    }

    #[test]
    fn a_token_has_three_parts_of_base64url() {
        let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
        let (header, claims) = (part(r#"{"alg":"HS256","kid":"a"}"#), part("{}"));
        let text = format!("{header}.{claims}.c2ln");
        let token = Token::split(&text).unwrap();
        assert_eq!(
            (&token.algorithm[..], token.key_id.as_deref()),
            ("HS256", Some("a"))
        );
        assert!(!format!("{token:?}").contains(&claims));
        for (text, word) in [
            (String::new(), "three parts"),
            ("a.b".into(), "three parts"),
            ("a.b.c.d.e".into(), "three parts"),
            (format!("!.{claims}."), "header is not base64url"),
            (format!("{header}=.{claims}."), "header is not base64url"),
            (format!("{header}.a+b."), "claims are not base64url"),
            (format!("{}.{claims}.", part("[]")), "not a JSON object"),
            (format!("{}.{claims}.", part("{}")), "no `alg`"),
            (
                format!("{}.{claims}.", part(r#"{"alg":1}"#)),
                "not a string",
            ),
            (
                format!("{}.{claims}.", part(r#"{"alg":"HS256","kid":1}"#)),
                "not a string",
            ),
        ] {
            assert!(Token::split(&text).unwrap_err().contains(word), "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn nothing_is_too_strange_to_be_read(
            bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200),
            text in "[a-zA-Z0-9_.=-]{0,80}",
            json in r#"\{("(sse|sub|exp|keys|kty|n|x|y|crv|k)":(1e9|-1|"[A-Za-z0-9*:]{0,9}"|\[[0-9]?\]|\{\}|null),?){0,5}\}"#,
        ) {
            let _ = Token::split(&text);
            let _ = KeyLine::read(&text);
            for bytes in [&bytes[..], json.as_bytes()] {
                let _ = Claims::read(bytes, "sse");
                let _ = read_set(bytes, KeySource::Url, |_| {});
                for (_, algorithm) in ALGORITHMS {
                    let _ = Key::new(None, algorithm, bytes);
                }
            }
        }
    }
}

//! `sse-publish token`: what is made can be explained, and what is wrong is named.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::path::PathBuf;

use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_RSA_SHA256};
use serde_json::Value;
use support::{Run, run};

const SECRET: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

struct Keys(tempfile::TempDir);

impl Keys {
    fn new() -> Self {
        let keys = Self(tempfile::tempdir().unwrap());
        keys.write("secret", &format!("{SECRET}\n"));
        for (name, of) in [
            ("rsa", &PKCS_RSA_SHA256),
            ("p256", &PKCS_ECDSA_P256_SHA256),
            ("p384", &PKCS_ECDSA_P384_SHA384),
        ] {
            let pair = KeyPair::generate_for(of).unwrap();
            keys.write(name, &pair.serialize_pem());
            keys.write(&format!("{name}.pub"), &pair.public_key_pem());
        }
        // As `openssl genpkey -algorithm ED25519` writes it (RFC 8410, section 10.3).
        keys.write(
            "ed",
            "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n-----END PRIVATE KEY-----\n",
        );
        keys.write(
            "ed.pub",
            "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PUBLIC KEY-----\n",
        );
        keys
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.file(name), text).unwrap();
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// `token make`, with the algorithm and the name of the key first.
    fn make(&self, algorithm: &str, key: &str, more: &[&str]) -> Run {
        let file = self.file(key);
        let first = [
            "token",
            "make",
            "--alg",
            algorithm,
            "--key-file",
            file.to_str().unwrap(),
        ];
        run(&[&first[..], more].concat(), b"")
    }

    /// The token alone.
    fn token(&self, algorithm: &str, key: &str, more: &[&str]) -> String {
        let made = self.make(algorithm, key, more);
        assert_eq!((made.code, made.stderr.as_str()), (Some(0), ""), "{made:?}");
        made.stdout.trim_end().to_owned()
    }

    /// `token explain --json` of what is on standard input.
    fn explain(&self, token: &str, more: &[&str]) -> (Option<i32>, Value) {
        let explained = run(
            &[&["token", "explain", "--json", "-"], more].concat(),
            token.as_bytes(),
        );
        let json = serde_json::from_str(&explained.stdout);
        (
            explained.code,
            json.unwrap_or_else(|error| panic!("{error}: {explained:?}")),
        )
    }
}

#[track_caller]
fn assert_refused(run: &Run, code: i32, word: &str) {
    assert_eq!(run.code, Some(code), "{run:?}");
    let last = run.stderr.lines().last().unwrap_or_default();
    assert!(
        last.starts_with("sse-publish: ") && last.contains(word),
        "no {word:?} in {run:?}"
    );
    assert!(!run.stderr.contains(SECRET), "{run:?}");
}

#[test]
fn what_is_made_by_any_algorithm_counts() {
    let keys = Keys::new();
    for (algorithm, private, public) in [
        ("HS256", "secret", "secret"),
        ("HS384", "secret", "secret"),
        ("HS512", "secret", "secret"),
        ("RS256", "rsa", "rsa.pub"),
        ("PS512", "rsa", "rsa.pub"),
        ("ES256", "p256", "p256.pub"),
        ("ES384", "p384", "p384.pub"),
        ("EdDSA", "ed", "ed.pub"),
    ] {
        let token = keys.token(
            algorithm,
            private,
            &["--kid", "k1", "--subscribe", "chat:*"],
        );
        for file in [private, public] {
            let file = keys.file(file);
            let (code, found) = keys.explain(&token, &["--key-file", file.to_str().unwrap()]);
            assert_eq!(code, Some(0), "{found}");
            assert_eq!(found["header"]["alg"], algorithm);
            assert_eq!(found["header"]["kid"], "k1");
            assert_eq!(found["signature"], "counts");
            assert_eq!(found["counts"], true);
        }
        let forged = format!("{}A", &token[..token.len() - 1]);
        let file = keys.file(public);
        if forged != token {
            let (code, found) = keys.explain(&forged, &["--key-file", file.to_str().unwrap()]);
            assert_eq!(
                (code, &found["counts"]),
                (Some(77), &Value::Bool(false)),
                "{found}"
            );
        }
    }
}

#[test]
fn a_token_says_what_it_was_made_with() {
    let keys = Keys::new();
    let flags = [
        "--user",
        "ann",
        "--subscribe",
        "chat:*",
        "--subscribe",
        "news",
        "--publish",
        "chat:1",
        "--issuer",
        "me",
        "--audience",
        "you",
        "--claim",
        "https://example.com/rooms",
        "--expires",
        "2d",
        "--json",
    ];
    let made = keys.make("HS256", "secret", &flags);
    let made: Value = serde_json::from_str(&made.stdout).unwrap();
    let token = made["token"].as_str().unwrap();
    let claim = ["--claim", "https://example.com/rooms"];
    let (code, found) = keys.explain(token, &claim);
    assert_eq!(code, Some(0), "{found}");
    let claims = &found["claims"];
    assert_eq!(claims["sub"], "ann");
    assert_eq!(claims["exp"], made["expires"]);
    assert_eq!(
        claims["exp"].as_u64().unwrap() - claims["iat"].as_u64().unwrap(),
        2 * 86_400
    );
    assert_eq!(
        claims["https://example.com/rooms"],
        serde_json::json!({"subscribe": ["chat:*", "news"], "publish": ["chat:1"]})
    );
    let words = run(&[&["token", "explain", token], &claim[..]].concat(), b"");
    for part in [
        "user         \"ann\"\n",
        "issuer       \"me\"\n",
        "audience     \"you\"\n",
        "subscribe    chat:* news\n",
        "publish      chat:1\n",
        "GMT, in ",
        "signature    not looked at",
        "verdict      it counts, if the signature does\n",
    ] {
        assert!(
            words.stdout.contains(part),
            "no {part:?} in {}",
            words.stdout
        );
    }
    // Another gateway, which listens to another claim and wants another issuer.
    let other = run(&["token", "explain", token, "--issuer", "someone"], b"");
    assert_refused(&other, 77, "`iss`");
    assert!(
        other.stdout.contains("subscribe    no rooms\n"),
        "{other:?}"
    );
    assert!(
        other
            .stdout
            .contains("other claims \"https://example.com/rooms\"\n"),
        "{other:?}"
    );
    assert!(other.stdout.contains("verdict      refused: "), "{other:?}");
}

#[test]
fn what_gateways_refuse_is_said_and_77() {
    let keys = Keys::new();
    let token = keys.token("HS256", "secret", &["--expires", "1h"]);
    for (flags, word) in [
        (&["--audience", "you"][..], "`aud`"),
        (
            &["--key-file", "p256.pub", "--alg", "ES256"],
            "no key of --key-file",
        ),
    ] {
        let flags: Vec<String> = flags
            .iter()
            .map(|flag| {
                if flag.ends_with(".pub") {
                    keys.file(flag).display().to_string()
                } else {
                    (*flag).to_owned()
                }
            })
            .collect();
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        assert_refused(
            &run(&[&["token", "explain", &token], &flags[..]].concat(), b""),
            77,
            word,
        );
    }
    // {"alg":"none"} and {}.
    let none = run(&["token", "explain", "eyJhbGciOiJub25lIn0.e30."], b"");
    assert_refused(&none, 77, "never take it");
    // {"alg":"HS256"}, and {"exp":1,"iat":0}.
    let expired = run(
        &[
            "token",
            "explain",
            "eyJhbGciOiJIUzI1NiJ9.eyJleHAiOjEsImlhdCI6MH0.c2ln",
        ],
        b"",
    );
    assert_refused(&expired, 77, "expired");
    assert!(
        expired.stdout.contains("Thu, 01 Jan 1970 00:00:01 GMT, "),
        "{expired:?}"
    );
    // {"sse":[]}
    assert_refused(
        &run(
            &[
                "token",
                "explain",
                "eyJhbGciOiJIUzI1NiJ9.eyJzc2UiOltdfQ.c2ln",
            ],
            b"",
        ),
        77,
        "`sse`",
    );
    assert_refused(&run(&["token", "explain", "hello"], b""), 64, "no token");
    assert_refused(&run(&["token", "explain"], b"\n"), 64, "no token");
}

#[test]
fn keys_that_do_not_sign_are_named() {
    let keys = Keys::new();
    keys.write("short", "hello");
    for (algorithm, key, word) in [
        ("HS256", "short", "32 bytes"),
        ("HS256", "p256.pub", "needs a secret"),
        ("ES256", "p256.pub", "public key"),
        ("ES256", "p384", "not a private key for ES256"),
        ("ES256", "rsa", "elliptic curve"),
        ("RS256", "secret", "RSA private key"),
    ] {
        assert_refused(&keys.make(algorithm, key, &[]), 64, word);
    }
    assert_refused(&keys.make("HS256", "nowhere", &[]), 1, "cannot be read");
    for (flags, word) in [
        (&["--subscribe", "a b"][..], "chat:*"),
        (&["--expires", "0"], "--expires"),
        (&["--claim", "exp"], "another meaning"),
        (&["--user", ""], "`sub`"),
    ] {
        assert_refused(&keys.make("HS256", "secret", flags), 64, word);
    }
    assert_refused(&keys.make("none", "secret", &[]), 64, "HS256, HS384");
}

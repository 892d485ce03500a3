use super::*;

/// The public key of RFC 7517, appendix A.1, and others of these sizes.
const EC: &str = r#"{"kty":"EC","crv":"P-256","x":"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4","y":"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM"}"#;
const RSA: &str = r#"{"kty":"RSA","n":"0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw","e":"AQAB"}"#;
const ED: &str =
    r#"{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#;
const PEM: &str = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=\n-----END PUBLIC KEY-----\n";

#[test]
fn a_line_names_the_key_the_algorithm_and_where_it_is() {
    let read = |line| KeyLine::read(line).map(|line| (line.id, line.algorithm, line.rest));
    let es = Some(Algorithm::ES256);
    assert_eq!(read("ES256 /run/key.pem"), Ok((None, es, "/run/key.pem")));
    assert_eq!(read(" kid=a  ES256  a b "), Ok((Some("a"), es, "a b")));
    assert_eq!(read("jwks.json"), Ok((None, None, "jwks.json")));
    assert_eq!(
        read("/run/my keys.json"),
        Ok((None, None, "/run/my keys.json"))
    );
    for bad in [
        "",
        "ES256",
        "kid= ES256 a",
        "kid=a secret",
        "es256 secret",
        "none secret",
    ] {
        let error = KeyLine::read(bad).unwrap_err();
        assert!(!error.contains("secret"), "{bad}: {error}");
    }
}

#[test]
fn secrets_are_long_and_no_public_keys() {
    let long = "0123456789abcdef0123456789abcdef";
    let secret = |text: &str| read_secret(Algorithm::HS256, text.as_bytes());
    assert_eq!(secret(&format!("{long}\n")).unwrap(), long.as_bytes());
    let bytes = read_secret(Algorithm::HS256, &[[0xff; 31].as_slice(), b"\n"].concat());
    assert_eq!(
        bytes.unwrap().len(),
        32,
        "bytes that are no text are taken as they are"
    );
    for encoded in [
        "base64://///////////////////////////////////////////w==",
        "base64:_____________________________________________w",
    ] {
        assert_eq!(secret(encoded).unwrap(), [0xff; 34], "{encoded}");
    }
    for (text, word) in [
        ("short", "32 bytes"),
        ("base64:c2hvcnQ=", "32 bytes"),
        ("base64:!", "not base64"),
        (PEM, "PEM or JSON"),
        (EC, "PEM or JSON"),
    ] {
        assert!(secret(text).unwrap_err().contains(word), "{text}");
    }
    for (algorithm, bytes) in [(Algorithm::HS384, 48), (Algorithm::HS512, 64)] {
        assert!(read_secret(algorithm, &vec![b'x'; bytes - 1]).is_err());
        assert!(Key::new(None, algorithm, &vec![b'x'; bytes]).is_ok());
    }
}

#[test]
fn public_keys_are_of_their_algorithm() {
    assert!(Key::new(None, Algorithm::EdDSA, PEM.as_bytes()).is_ok());
    let line = PEM.replace('\n', "\\n");
    assert!(Key::new(None, Algorithm::EdDSA, line.as_bytes()).is_ok());
    let private = PEM.replace("PUBLIC", "PRIVATE");
    let certificate = PEM.replace("PUBLIC KEY", "CERTIFICATE");
    for (algorithm, text, word) in [
        (Algorithm::ES256, PEM, "elliptic curve"),
        (Algorithm::RS256, PEM, "RSA"),
        (Algorithm::EdDSA, &private, "private key"),
        (Algorithm::EdDSA, &certificate, "certificate"),
        (Algorithm::PS256, "nothing", "RSA"),
    ] {
        let error = Key::new(None, algorithm, text.as_bytes()).unwrap_err();
        assert!(error.contains(word), "{algorithm:?}: {error}");
    }
}

#[test]
fn a_key_of_a_set_is_pinned_to_what_it_is() {
    let with = |key: &str, more: &str| format!("{},{more}}}", &key[..key.len() - 1]);
    let small = RSA.replace("0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W", "");
    let secret = r#"{"kty":"oct","k":"MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY"}"#;
    let hs = with(secret, r#""alg":"HS256""#);
    let read = |keys: &[&str], source| -> Result<Vec<Algorithm>, String> {
        let set = format!(r#"{{"keys":[{}]}}"#, keys.join(","));
        let mut complaint = Ok(());
        let found = read_set(set.as_bytes(), source, |error| {
            complaint = Err(error.to_owned())
        });
        complaint?;
        Ok(found?.into_iter().map(|key| key.algorithm).collect())
    };
    let url = |keys: &[&str]| read(keys, KeySource::Url);
    use Algorithm::{ES256, EdDSA, HS256, PS512, RS256};
    assert_eq!(url(&[EC, RSA, ED]), Ok(vec![ES256, RS256, EdDSA]));
    assert_eq!(url(&[&with(RSA, r#""alg":"PS512""#)]), Ok(vec![PS512]));
    assert_eq!(read(&[&hs], KeySource::File), Ok(vec![HS256]));
    // What is for something else is left out.
    let others = [
        with(EC, r#""use":"enc""#),
        with(EC, r#""key_ops":["sign"]"#),
        with(RSA, r#""alg":"RSA-OAEP""#),
        with(RSA, r#""alg":"none""#),
        r#"{"kty":"EC","crv":"secp256k1","x":"","y":""}"#.to_owned(),
        "7".to_owned(),
    ];
    let mut all: Vec<&str> = others.iter().map(String::as_str).collect();
    assert!(url(&all).unwrap_err().contains("no key that signs"));
    all.push(EC);
    assert_eq!(url(&all), Ok(vec![ES256]));
    for (keys, source, word) in [
        (&[&hs[..]][..], KeySource::Url, "`oct`"),
        (&[secret], KeySource::File, "without `alg`"),
        (
            &[&with(EC, r#""alg":"RS256""#)],
            KeySource::Url,
            "not for RS256",
        ),
        (
            &[&with(EC, r#""alg":"HS256""#)],
            KeySource::Url,
            "not for HS256",
        ),
        (&[&with(EC, r#""alg":"ES384""#)], KeySource::Url, "P-384"),
        (&[&small], KeySource::Url, "2048"),
        (&[&EC.replace("MKBC", "!!!!")], KeySource::Url, "base64url"),
    ] {
        let error = read(keys, source).unwrap_err();
        assert!(error.contains(word), "{keys:?}: {error}");
    }
    let one = |text: &str| read_set(text.as_bytes(), KeySource::File, |_| {});
    assert_eq!(one(EC).unwrap().len(), 1);
    assert!(one("{}").is_err() && one("<html>").is_err());
    // A bad key of another's set is left out.
    let set = format!(r#"{{"keys":[{hs},{EC}]}}"#);
    let mut complaints = 0;
    let found = read_set(set.as_bytes(), KeySource::Url, |_| complaints += 1).unwrap();
    assert_eq!((found.len(), complaints), (1, 1));
}

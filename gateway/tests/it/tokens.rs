//! Who may do what by a token: each kind of token with its answer, for each thing that can be asked.

mod keys;
mod places;
mod signer;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::http::{self, Response};
use crate::support::{Client, Gateway, Setup};
use signer::{SECRET, Signer, hs256, now};

const ROOM: &str = "chat:1";

/// What can be asked of a room.
const SUBSCRIBING: [&str; 4] = ["stream", "history", "room", "head"];
const PUBLISHING: &str = "publish";

/// A gateway with this key beside others, in which every room needs a token.
fn setup(keys: &str) -> Setup {
    Setup::memory()
        .set("dev", "false")
        .set("tokens.keys", keys)
        .set("access.publish", "* token")
}

/// Asks; of a stream only the head is read when it is let in.
async fn ask(gateway: &Gateway, what: &str, query: &str, headers: &[(&str, &str)]) -> Response {
    let (method, path, accept) = match what {
        "stream" => ("GET", "/events", "text/event-stream"),
        "history" => ("GET", "/events", "application/json"),
        "room" => ("GET", "", "*/*"),
        "head" => ("HEAD", "/events", "*/*"),
        _ => ("POST", "/events", "*/*"),
    };
    let target = format!("/rooms/{ROOM}{path}?{query}");
    let headers = [&[("Accept", accept)], headers].concat();
    if what != "stream" {
        if what != PUBLISHING {
            return http::request(gateway.address, method, &target, &headers, b"").await;
        }
        // With a cookie and without an origin, anything but JSON could be a form of another site.
        let headers = [&headers[..], &[("Content-Type", "application/json")]].concat();
        let body = br#"{"data":"hi"}"#;
        return http::request(gateway.address, method, &target, &headers, body).await;
    }
    let mut request = format!("GET {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n");
    for (name, value) in headers {
        request += &format!("{name}: {value}\r\n");
    }
    let mut socket = TcpStream::connect(gateway.address).await.unwrap();
    let sent = socket.write_all(format!("{request}\r\n").as_bytes()).await;
    let mut answer = Vec::new();
    while !(answer.starts_with(b"HTTP/1.1 200 ") && answer.windows(4).any(|w| w == b"\r\n\r\n")) {
        match socket.read_buf(&mut answer).await {
            Ok(0) | Err(_) => break,
            Ok(_) => {}
        }
    }
    assert!(!answer.is_empty(), "no answer: {sent:?}");
    http::complete(&answer)
}

async fn with_token(gateway: &Gateway, what: &str, token: &str) -> Response {
    let value = format!("Bearer {token}");
    ask(gateway, what, "", &[("Authorization", &value)]).await
}

/// The same answer for everything that can be asked.
#[track_caller]
fn assert_answer(name: &str, what: &str, answer: &Response, status: u16, word: &str) {
    let text = answer.text();
    assert_eq!(answer.status, status, "{name}, {what}: {text}");
    if status == 401 {
        assert!(
            answer
                .header("www-authenticate")
                .is_some_and(|value| value.starts_with("Bearer")),
            "{name}"
        );
    }
    if what != "head" && status >= 400 {
        let error = answer.error();
        assert!(error.contains(word), "{name}, {what}: {error}");
        assert!(
            !error.contains("eyJ"),
            "{name}: a part of the token is shown: {error}"
        );
    }
}

/// Good for everything.
fn claims() -> Value {
    json!({
        "sub": "ann", "iat": now(), "exp": now() + 3600, "iss": "me", "aud": ["x", "you"],
        "sse": {"subscribe": ["chat:*"], "publish": ["chat:*"]}
    })
}

fn changed(change: impl FnOnce(&mut Value)) -> String {
    let mut claims = claims();
    change(&mut claims);
    hs256(&claims)
}

fn without(name: &str) -> String {
    changed(|claims| drop(claims.as_object_mut().unwrap().remove(name)))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_algorithm_counts_with_its_key_and_no_other() {
    let directory = tempfile::tempdir().unwrap();
    let signers = Signer::all();
    let (mut inline, mut files) = (Vec::new(), Vec::new());
    for signer in &signers {
        match &signer.public {
            None => inline.push(format!("kid={0} {0} {1}", signer.name, signer.secret())),
            Some(pem) => {
                let path = directory.path().join(signer.name);
                std::fs::write(&path, pem).unwrap();
                files.push(format!("kid={0} {0} {1}", signer.name, path.display()));
            }
        }
    }
    let gateway = setup(&inline.join(","))
        .set("tokens.key_files", &files.join(","))
        .start()
        .await;
    for signer in &signers {
        for kid in [Some(signer.name), None] {
            let token = signer.sign(kid, &claims());
            for what in SUBSCRIBING {
                let answer = with_token(&gateway, what, &token).await;
                assert_answer(signer.name, what, &answer, 200, "");
            }
            let answer = with_token(&gateway, PUBLISHING, &token).await;
            assert_answer(signer.name, PUBLISHING, &answer, 201, "");
        }
        // A key of the same kind, but for another algorithm.
        let other = signers
            .iter()
            .find(|other| other.name != signer.name)
            .unwrap();
        let token = signer.sign(Some(other.name), &claims());
        let answer = with_token(&gateway, "history", &token).await;
        assert_answer(signer.name, "history", &answer, 401, "`alg`");
    }
    let counted = |by: &str| format!("sse_gateway_tokens_checked_total{{by=\"{by}\"}}");
    assert_eq!(gateway.metric("sse_gateway_token_keys").await, Some(12.0));
    // Each was checked once, and known the other four times.
    assert_eq!(gateway.metric(&counted("cache")).await, Some(24.0 * 4.0));
    assert_eq!(
        gateway.metric(&counted("signature")).await,
        Some(24.0 + 12.0)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn each_bad_token_has_its_answer() {
    let rsa = Signer::of("RS256");
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("rsa.pem");
    let pem = rsa.public.clone().unwrap();
    std::fs::write(&path, &pem).unwrap();
    let gateway = setup(&format!("kid=hs HS256 {SECRET}"))
        .set(
            "tokens.key_files",
            &format!("kid=rs RS256 {}", path.display()),
        )
        .set("tokens.issuer", "me")
        .set("tokens.audience", "you")
        .start()
        .await;
    let good = hs256(&claims());
    for what in SUBSCRIBING {
        assert_answer(
            "good",
            what,
            &with_token(&gateway, what, &good).await,
            200,
            "",
        );
    }
    assert_answer(
        "good",
        PUBLISHING,
        &with_token(&gateway, PUBLISHING, &good).await,
        201,
        "",
    );

    let part = signer::base64url;
    let [header, body, signature] = [0, 1, 2].map(|at| good.split('.').nth(at).unwrap());
    let none = format!("{}.{body}.", part(br#"{"alg":"none","typ":"JWT"}"#));
    let cut = &good[..good.len() - 4];
    let elsewhere = format!(
        "{header}.{}.{signature}",
        part(claims().to_string().replace("ann", "bob").as_bytes())
    );
    let critical = signer::sign_by_hand(br#"{"alg":"HS256","crit":["x"]}"#, &claims());
    let with_public_key = |kid: Option<&str>| signer::hmac(pem.as_bytes(), kid, &claims());
    let large = changed(|claims| claims["more"] = "x".repeat(9000).into());
    let rooms = |rooms: Value| changed(|claims| claims["sse"] = rooms);
    let many = json!({"subscribe": vec!["a"; 65], "publish": []});
    let both = |list: Value| rooms(json!({"subscribe": list, "publish": list}));
    let time = |name: &str, time: u64| changed(|claims| claims[name] = time.into());
    let table: Vec<(&str, String, u16, &str)> = vec![
        ("nothing", String::new(), 401, "needs a token"),
        ("words", "hello".into(), 401, "three parts"),
        ("dots", "..".into(), 401, "header"),
        (
            "not base64",
            format!("{header}.{body}!.{signature}"),
            401,
            "base64url",
        ),
        (
            "padded",
            format!("{header}=.{body}.{signature}"),
            401,
            "base64url",
        ),
        ("five parts", format!("{good}.a.b"), 401, "three parts"),
        ("none", none, 401, "`none` never counts"),
        (
            "no signature",
            format!("{header}.{body}."),
            401,
            "signature",
        ),
        ("half a signature", cut.into(), 401, "signature"),
        (
            "a signature that is not base64",
            format!("{header}.{body}.!"),
            401,
            "signature",
        ),
        ("other claims", elsewhere, 401, "signature"),
        (
            "another secret",
            signer::hmac(&[b'x'; 64], Some("hs"), &claims()),
            401,
            "signature",
        ),
        (
            "HMAC by the public key",
            with_public_key(None),
            401,
            "signature",
        ),
        (
            "HMAC by the public key, named",
            with_public_key(Some("rs")),
            401,
            "`alg`",
        ),
        (
            "HMAC by the public key, as the secret's",
            with_public_key(Some("hs")),
            401,
            "signature",
        ),
        (
            "another RSA key",
            Signer::of("RS256").sign(Some("rs"), &claims()),
            401,
            "signature",
        ),
        (
            "RSA by another hash",
            rsa.with_algorithm("RS512").sign(None, &claims()),
            401,
            "`kid`",
        ),
        (
            "unknown kid",
            signer::hmac(SECRET.as_bytes(), Some("new"), &claims()),
            401,
            "`kid`",
        ),
        ("crit", critical, 401, "`crit`"),
        ("too large", large, 401, "8192 bytes"),
        ("expired", time("exp", now() - 31), 401, "expired"),
        ("too old", time("iat", now() - 31 * 86_400), 401, "max_age"),
        ("not yet", time("nbf", now() + 60), 401, "not count yet"),
        (
            "from the future",
            time("iat", now() + 60),
            401,
            "not count yet",
        ),
        ("without exp", without("exp"), 401, "`exp`"),
        ("without iat", without("iat"), 401, "`iat`"),
        (
            "another iss",
            changed(|claims| claims["iss"] = "you".into()),
            401,
            "`iss`",
        ),
        ("without iss", without("iss"), 401, "`iss`"),
        (
            "another aud",
            changed(|claims| claims["aud"] = "me".into()),
            401,
            "`aud`",
        ),
        ("without aud", without("aud"), 401, "`aud`"),
        (
            "exp is text",
            changed(|claims| claims["exp"] = "soon".into()),
            401,
            "`exp`",
        ),
        (
            "sub is a number",
            changed(|claims| claims["sub"] = 7.into()),
            401,
            "`sub`",
        ),
        ("sse is a list", rooms(json!(["chat:*"])), 401, "`sse`"),
        (
            "a list is text",
            rooms(json!({"subscribe": "*"})),
            401,
            "`subscribe`",
        ),
        (
            "a pattern is a number",
            rooms(json!({"publish": [1]})),
            401,
            "`publish`",
        ),
        (
            "a pattern that no room fits",
            both(json!(["chat:*", "a b"])),
            401,
            "pattern",
        ),
        ("an empty pattern", both(json!([""])), 401, "pattern"),
        ("many patterns", rooms(many), 401, "more than 64"),
        ("without rooms", without("sse"), 403, "`sse`"),
        ("no rooms", both(json!([])), 403, "`sse`"),
        (
            "other rooms",
            both(json!(["news:*", "chat:2", "chat"])),
            403,
            "chat:1",
        ),
    ];
    for (name, token, status, word) in table {
        for what in SUBSCRIBING.into_iter().chain([PUBLISHING]) {
            let answer = with_token(&gateway, what, &token).await;
            assert_answer(name, what, &answer, status, word);
        }
    }
    // What is allowed for the one is not for the other.
    let reader = rooms(json!({"subscribe": ["*"]}));
    let writer = rooms(json!({"publish": ["chat:1"]}));
    for (token, may_read) in [(reader, true), (writer, false)] {
        for what in SUBSCRIBING {
            let status = if may_read { 200 } else { 403 };
            let answer = with_token(&gateway, what, &token).await;
            assert_answer("one way", what, &answer, status, "`subscribe`");
        }
        let status = if may_read { 403 } else { 201 };
        let answer = with_token(&gateway, PUBLISHING, &token).await;
        assert_answer("one way", PUBLISHING, &answer, status, "`publish`");
    }
    // Larger than any head may be.
    let huge = "x".repeat(100_000);
    for what in SUBSCRIBING.into_iter().chain([PUBLISHING]) {
        let answer = with_token(&gateway, what, &huge).await;
        assert_eq!(answer.status, 431, "{what}");
    }
    for what in ["stream", PUBLISHING] {
        let good = with_token(&gateway, what, &good).await;
        assert!(good.status < 300, "it goes on: {}", good.text());
    }
    let refused = |reason: &str| {
        format!("sse_gateway_http_refused_total{{action=\"publish\",reason=\"{reason}\"}}")
    };
    for reason in [
        "expired",
        "too_old",
        "not_yet",
        "room",
        "unknown_kid",
        "signature",
        "issuer",
    ] {
        assert!(gateway.metric(&refused(reason)).await.is_some(), "{reason}");
    }
    assert!(!gateway.log().contains("eyJ"), "a token is in the log");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_let_in_by_the_cookie_that_a_browser_sends() {
    let gateway = setup(&format!("HS256 {SECRET}")).start().await;
    let token = hs256(&claims());
    let client = Client::of(&[gateway.address], ROOM)
        .header("Cookie", &format!("theme=dark; sse_token={token}"))
        .open()
        .await;
    assert_eq!(with_token(&gateway, PUBLISHING, &token).await.status, 201);
    client.wait_events(1).await;
    // Publishers by token do not say what rooms keep.
    let bearer = format!("Bearer {token}");
    let answer = ask(
        &gateway,
        PUBLISHING,
        "max_len=1",
        &[("Authorization", &bearer)],
    )
    .await;
    assert_eq!(answer.status, 403, "{}", answer.text());
}

//! Keys that are replaced while the gateway runs: in files, in its configuration, and at a key server.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;

use super::*;
use crate::support::Authority;

const FETCHES: &str = "sse_gateway_jwks_fetches_total{outcome=\"success\"}";
const FAILURES: &str = "sse_gateway_jwks_fetches_total{outcome=\"failure\"}";

async fn status(gateway: &Gateway, token: &str) -> u16 {
    with_token(gateway, "history", token).await.status
}

/// A key server. It counts requests, and answers with what it has now; without anything it hangs up.
struct KeyServer {
    url: String,
    set: Arc<Mutex<Option<String>>>,
    asked: Arc<AtomicUsize>,
    tls: Arc<Mutex<Option<Arc<ServerConfig>>>>,
    task: JoinHandle<()>,
}

impl KeyServer {
    async fn start(keys: &[Value]) -> Self {
        Self::start_as("http", None, keys).await
    }

    /// With TLS.
    async fn secure(config: Arc<ServerConfig>, keys: &[Value]) -> Self {
        Self::start_as("https", Some(config), keys).await
    }

    async fn start_as(scheme: &str, tls: Option<Arc<ServerConfig>>, keys: &[Value]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (set, asked) = (Arc::new(Mutex::new(None)), Arc::new(AtomicUsize::new(0)));
        let tls = Arc::new(Mutex::new(tls));
        let (answers, count, config) = (set.clone(), asked.clone(), tls.clone());
        let task = tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let config = config.lock().clone();
                match config.map(TlsAcceptor::from) {
                    None => answer(socket, &answers, &count).await,
                    Some(acceptor) => {
                        if let Ok(stream) = acceptor.accept(socket).await {
                            answer(stream, &answers, &count).await;
                        }
                    }
                }
            }
        });
        let server = Self {
            url: format!("{scheme}://{address}/jwks.json"),
            set,
            asked,
            tls,
            task,
        };
        server.has(keys);
        server
    }

    /// Shows another certificate from now on.
    fn shows(&self, config: Arc<ServerConfig>) {
        *self.tls.lock() = Some(config);
    }

    fn has(&self, keys: &[Value]) {
        *self.set.lock() = Some(json!({ "keys": keys }).to_string());
    }

    fn says(&self, answer: Option<&str>) {
        *self.set.lock() = answer.map(str::to_owned);
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

impl Drop for KeyServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Reads one request, and answers it with what there is.
async fn answer(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    set: &Mutex<Option<String>>,
    asked: &AtomicUsize,
) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") && stream.read_buf(&mut head).await.unwrap_or(0) > 0 {}
    assert!(head.starts_with(b"GET /jwks.json HTTP/1.1\r\n"));
    asked.fetch_add(1, Ordering::SeqCst);
    let body = set.lock().clone();
    if let Some(body) = body {
        let length = body.len();
        let head =
            format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n");
        let _ = stream.write_all(format!("{head}{body}").as_bytes()).await;
        let _ = stream.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_key_at_the_key_server_counts_at_once_and_a_removed_one_no_more() {
    let (old, new, stranger) = (
        Signer::of("ES256"),
        Signer::of("EdDSA"),
        Signer::of("ES384"),
    );
    let server = KeyServer::start(&[old.jwk("old")]).await;
    let gateway = Setup::memory()
        .set("dev", "false")
        .set("tokens.jwks_url", &server.url)
        .start()
        .await;
    let old_token = old.sign(Some("old"), &claims());
    assert_eq!(status(&gateway, &old_token).await, 200);
    assert_eq!(server.asked(), 1);
    // Both: the unknown `kid` has the set fetched.
    server.has(&[old.jwk("old"), new.jwk("new")]);
    let new_token = new.sign(Some("new"), &claims());
    assert_eq!(status(&gateway, &new_token).await, 200);
    assert_eq!(status(&gateway, &old_token).await, 200);
    assert_eq!(server.asked(), 2);
    // Floods of unknown ones do not: the server was asked a moment ago.
    let mut seen = Vec::new();
    for n in 0..40 {
        let token = stranger.sign(Some(&n.to_string()), &claims());
        seen.push(status(&gateway, &token).await);
    }
    assert!(server.asked() <= 4, "{} requests", server.asked());
    assert!(seen.iter().all(|status| *status == 503), "{seen:?}");
    assert_eq!(status(&gateway, &new_token).await, 200);
    assert!(gateway.metric(FETCHES).await >= Some(2.0));
    let updated = gateway
        .metric("sse_gateway_jwks_updated_timestamp_seconds")
        .await;
    assert!(updated.is_some_and(|at| at > 1.7e9), "{updated:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_set_is_fetched_again_and_what_it_no_longer_has_counts_no_more() {
    let (old, new) = (Signer::of("RS256"), Signer::of("ES384"));
    let server = KeyServer::start(&[old.jwk("old")]).await;
    let gateway = Setup::memory()
        .set("dev", "false")
        .set("tokens.jwks_url", &server.url)
        .set("tokens.jwks_refresh", "1s")
        .start()
        .await;
    let old_token = old.sign(Some("old"), &claims());
    assert_eq!(status(&gateway, &old_token).await, 200);
    server.has(&[new.jwk("new")]);
    // For a minute it may be on its way, for all that the node knows.
    eventually!(status(&gateway, &old_token).await == 503);
    assert_eq!(
        status(&gateway, &new.sign(Some("new"), &claims())).await,
        200
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_key_server_is_away_the_old_set_counts_and_nobody_is_refused_for_an_unknown_key()
{
    let (old, new) = (Signer::of("ES256"), Signer::of("ES256"));
    let server = KeyServer::start(&[old.jwk("old")]).await;
    server.says(None);
    let gateway = Setup::memory()
        .set("dev", "false")
        .set("tokens.jwks_url", &server.url)
        .set("tokens.jwks_refresh", "1s")
        .start()
        .await;
    let (old_token, new_token) = (
        old.sign(Some("old"), &claims()),
        new.sign(Some("new"), &claims()),
    );
    // It was never there: a stream is told to come back, and anything else gets 503.
    assert_eq!(status(&gateway, &old_token).await, 503);
    let bearer = format!("Bearer {old_token}");
    let headers = [
        ("Authorization", &bearer[..]),
        ("Accept", "text/event-stream"),
    ];
    let path = format!("/rooms/{ROOM}/events");
    let stream = http::request(gateway.address, "GET", &path, &headers, b"").await;
    let text = stream.text();
    assert!(
        stream.status == 200 && text.contains("retry: ") && text.contains("stream.close"),
        "{text}"
    );
    eventually!(gateway.metric(FAILURES).await >= Some(1.0));
    server.has(&[old.jwk("old")]);
    eventually!(status(&gateway, &old_token).await == 200);
    // Gone again, and then worse than gone.
    let secret = Signer::of("HS256").jwk("new");
    for answer in [
        None,
        Some("<html>"),
        Some("{\"keys\":[]}"),
        Some(&json!({"keys": [secret]}).to_string()[..]),
    ] {
        server.says(answer);
        let before = gateway.metric(FAILURES).await;
        eventually!(gateway.metric(FAILURES).await > before);
        assert_eq!(status(&gateway, &old_token).await, 200, "{answer:?}");
        assert_eq!(status(&gateway, &new_token).await, 503, "{answer:?}");
        let by_secret = Signer::of("HS256").sign(Some("new"), &claims());
        assert_eq!(status(&gateway, &by_secret).await, 503, "{answer:?}");
    }
    // A secret beside a public key is left out.
    server.has(&[secret, old.jwk("old"), new.jwk("new")]);
    eventually!(status(&gateway, &new_token).await == 200);
    let by_secret = Signer::of("HS256").sign(None, &claims());
    assert!(status(&gateway, &by_secret).await >= 400);
    let log = gateway.log();
    assert!(log.contains("`kty` is `oct`"), "{log}");
    assert!(!log.contains(SECRET) && !log.contains("eyJ"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_server_with_tls_is_believed_by_its_authority_only() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    authority.sign("misnamed", "login.example.com");
    let (old, new, foreign) = (
        Signer::of("ES256"),
        Signer::of("EdDSA"),
        Signer::of("ES384"),
    );
    let server = KeyServer::secure(authority.server_config("server"), &[old.jwk("old")]).await;
    let gateway = Setup::memory()
        .set("dev", "false")
        .set("tokens.jwks_url", &server.url)
        .set("tokens.jwks_refresh", "1s")
        .variable("SSL_CERT_FILE", &authority.file("ca.pem"))
        .start()
        .await;
    let (by_old, by_new, by_foreign) = (
        old.sign(Some("old"), &claims()),
        new.sign(Some("new"), &claims()),
        foreign.sign(Some("foreign"), &claims()),
    );
    eventually!(status(&gateway, &by_old).await == 200, "{}", gateway.log());
    server.has(&[old.jwk("old"), new.jwk("new")]);
    eventually!(status(&gateway, &by_new).await == 200, "{}", gateway.log());
    // Others in its place are told nothing, and what they have counts nothing.
    for (config, sentence) in [
        (
            stranger.server_config("server"),
            "nobody who is trusted here has signed the server's certificate",
        ),
        (
            authority.server_config("misnamed"),
            "the server's certificate is for other names than the URL's host",
        ),
    ] {
        server.shows(config);
        server.has(&[foreign.jwk("foreign")]);
        let before = gateway.metric(FAILURES).await;
        // The second one began after all that this changed.
        eventually!(gateway.metric(FAILURES).await >= before.map(|count| count + 2.0));
        let asked = server.asked();
        assert_eq!(status(&gateway, &by_old).await, 200);
        assert_eq!(status(&gateway, &by_new).await, 200);
        assert_eq!(status(&gateway, &by_foreign).await, 503);
        assert_eq!(server.asked(), asked);
        let log = gateway.log();
        assert_eq!(log.matches(sentence).count(), 1, "{log}");
        assert!(!log.contains("eyJ"), "{log}");
        server.has(&[old.jwk("old"), new.jwk("new")]);
        server.shows(authority.server_config("server"));
        let again = "The keys of tokens.jwks_url can be fetched again.";
        eventually!(gateway.log().contains(again), "{}", gateway.log());
        let fetched = gateway.metric(FETCHES).await;
        eventually!(gateway.metric(FETCHES).await > fetched);
    }
    server.has(&[new.jwk("new")]);
    eventually!(status(&gateway, &by_old).await == 503);
    assert_eq!(status(&gateway, &by_new).await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn key_files_are_read_again_when_they_change() {
    let directory = tempfile::tempdir().unwrap();
    let (key, set) = (
        directory.path().join("key"),
        directory.path().join("set.json"),
    );
    let (one, two) = (Signer::of("ES256"), Signer::of("EdDSA"));
    std::fs::write(&key, SECRET).unwrap();
    std::fs::write(&set, json!({"keys": [one.jwk("a")]}).to_string()).unwrap();
    let setup = Setup::memory().set("dev", "false").set(
        "tokens.key_files",
        &format!("HS256 {}, {}", key.display(), set.display()),
    );
    let gateway = setup.clone().start().await;
    let by_secret = hs256(&claims());
    let (by_one, by_two) = (
        one.sign(Some("a"), &claims()),
        two.sign(Some("a"), &claims()),
    );
    assert_eq!(status(&gateway, &by_secret).await, 200);
    assert_eq!(status(&gateway, &by_one).await, 200);
    assert_eq!(status(&gateway, &by_two).await, 401);
    std::fs::write(&set, json!({"keys": [two.jwk("a")]}).to_string()).unwrap();
    eventually!(status(&gateway, &by_two).await == 200, "{}", gateway.log());
    assert_eq!(status(&gateway, &by_one).await, 401);
    // What cannot be used changes nothing, and is logged once.
    let errors = "sse_gateway_token_key_file_errors_total";
    std::fs::write(&key, "short").unwrap();
    eventually!(gateway.metric(errors).await >= Some(3.0));
    assert_eq!(status(&gateway, &by_secret).await, 200);
    let log = gateway.log();
    assert_eq!(log.matches("the old ones count").count(), 1, "{log}");
    // Nor does it make the node look ill.
    let healthcheck = setup.clone().arguments(&["healthcheck"]).output().await;
    assert!(healthcheck.status.success(), "{healthcheck:?}");
    let check = setup.arguments(&["check-config"]).output().await;
    assert_eq!(check.status.code(), Some(64), "{check:?}");
    assert!(log.contains("32 bytes"), "{log}");
    std::fs::remove_file(&key).unwrap();
    eventually!(gateway.log().contains("cannot be read"));
    assert_eq!(status(&gateway, &by_secret).await, 200);
    std::fs::write(&key, SECRET.replace('0', "x")).unwrap();
    eventually!(status(&gateway, &by_secret).await == 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_replaces_keys_and_settings() {
    let file = |keys: &str, claim: &str| {
        format!(
            "[tokens]\nkeys = [{keys}]\nclaim = \"{claim}\"\n[access]\npublish = [\"* token\"]\n"
        )
    };
    let (one, two) = (
        format!("\"HS256 {SECRET}\""),
        format!("\"HS256 {}\"", "y".repeat(32)),
    );
    let mut config = tempfile::Builder::new().suffix(".toml").tempfile().unwrap();
    config.write_all(file(&one, "sse").as_bytes()).unwrap();
    let path = config.path().to_str().unwrap().to_owned();
    let gateway = Setup::memory()
        .set("dev", "false")
        .arguments(&["--config", &path])
        .start()
        .await;
    let (by_one, by_two) = (
        hs256(&claims()),
        signer::hmac("y".repeat(32).as_bytes(), None, &claims()),
    );
    assert_eq!(status(&gateway, &by_one).await, 200);
    assert_eq!(status(&gateway, &by_two).await, 401);
    std::fs::write(&path, file(&format!("{one}, {two}"), "sse")).unwrap();
    gateway.signal("HUP");
    eventually!(status(&gateway, &by_two).await == 200, "{}", gateway.log());
    assert_eq!(status(&gateway, &by_one).await, 200);
    std::fs::write(&path, file("\"HS256 short\"", "sse")).unwrap();
    gateway.signal("HUP");
    eventually!(gateway.log().contains("line 1 of tokens.keys"));
    assert_eq!(status(&gateway, &by_one).await, 200);
    std::fs::write(&path, file(&two, "rooms")).unwrap();
    gateway.signal("HUP");
    eventually!(status(&gateway, &by_one).await == 401);
    assert_eq!(
        status(&gateway, &by_two).await,
        403,
        "the claim has another name"
    );
    assert!(!gateway.log().contains("short\"") && !gateway.log().contains("yyyy"));
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_cannot_be_used_are_named_at_the_start() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("key.pem");
    let public = Signer::of("ES256").public.unwrap();
    std::fs::write(&path, &public).unwrap();
    let file = |before: &str| format!("{before} {}", path.display());
    for (key, value, word) in [
        ("tokens.keys", "HS256 too-short".to_owned(), "32 bytes"),
        ("tokens.keys", format!("HS256 {public}"), "needs a secret"),
        (
            "tokens.keys",
            format!("none {SECRET}"),
            "does not begin with an algorithm",
        ),
        ("tokens.keys", format!("RS256 {public}"), "RSA public key"),
        ("tokens.key_files", file("HS256"), "needs a secret"),
        ("tokens.key_files", file("ES384"), "P-384"),
        ("tokens.key_files", file(""), "not JSON"),
        (
            "tokens.key_files",
            "ES256 /no/such/file".to_owned(),
            "cannot be read",
        ),
        ("tokens.jwks_url", "ftp://host/".to_owned(), "http://"),
        (
            "tokens.jwks_url",
            "http://ann:secret@host/".to_owned(),
            "without user and password",
        ),
        ("tokens.cookie", "a b".to_owned(), "cookie"),
        ("tokens.query", "max_len".to_owned(), "something else"),
        ("tokens.claim", String::new(), "claim"),
        ("tokens.leeway", "2h".to_owned(), "1h"),
    ] {
        let output = Setup::memory().set(key, &value).output().await;
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(64), "{key} {value}: {error}");
        assert!(
            error.contains(word) && error.trim().lines().count() == 1,
            "{value}: {error}"
        );
        for secret in ["too-short", SECRET, "BEGIN PUBLIC", "secret@"] {
            assert!(!error.contains(secret), "{error}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_server_without_tls_needs_no_system_certificates() {
    let signer = Signer::of("ES256");
    let server = KeyServer::start(&[signer.jwk("a")]).await;
    let gateway = Setup::memory()
        .set("dev", "false")
        .set("tokens.jwks_url", &server.url)
        .variable("SSL_CERT_FILE", "/no/such/file")
        .variable("SSL_CERT_DIR", "/no/such/directory")
        .start()
        .await;
    let token = signer.sign(Some("a"), &claims());
    eventually!(status(&gateway, &token).await == 200, "{}", gateway.log());
    let log = gateway.log();
    assert!(log.contains("There are no system certificates"), "{log}");
}

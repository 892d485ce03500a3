//! The operators' listener: who may ask it, and that no page may.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::authority::Authority;
use crate::support::gateway::{binary, output};
use crate::support::http::{self, Response};
use crate::support::{Gateway, Setup};

const OPEN: [&str; 2] = ["/livez", "/readyz"];
const CLOSED: [&str; 4] = ["/metrics", "/log", "/disconnects", "/none"];

async fn ask(gateway: &Gateway, method: &str, path: &str, headers: &[(&str, &str)]) -> Response {
    http::request(gateway.admin, method, path, headers, b"").await
}

async fn statuses(gateway: &Gateway, paths: &[&str], headers: &[(&str, &str)]) -> Vec<u16> {
    let mut statuses = Vec::new();
    for path in paths {
        statuses.push(ask(gateway, "GET", path, headers).await.status);
    }
    statuses
}

#[tokio::test(flavor = "multi_thread")]
async fn on_this_machines_own_address_nothing_is_needed_and_pages_change_nothing() {
    let gateway = Setup::memory().start().await;
    assert_eq!(statuses(&gateway, &OPEN, &[]).await, [200, 200]);
    assert_eq!(statuses(&gateway, &CLOSED, &[]).await, [200, 200, 405, 404]);
    for headers in [
        &[("Origin", "http://evil.example")][..],
        &[("Origin", "null")],
        &[("Sec-Fetch-Site", "cross-site")],
        &[("Sec-Fetch-Site", "same-site")],
    ] {
        for (method, path, body) in [
            ("PUT", "/log", &b"off"[..]),
            ("POST", "/disconnects", br#"{"user":"ann"}"#),
        ] {
            let answer = http::request(gateway.admin, method, path, headers, body).await;
            assert_eq!(answer.status, 403, "{headers:?} {path}");
            assert!(answer.error().contains("pages"), "{}", answer.text());
        }
    }
    assert_eq!(gateway.admin("/log").await.unwrap().json()["level"], "info");
    // A page whose name leads here asks by that name.
    let rebound = "GET /metrics HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n";
    let answer = http::exchange(gateway.admin, rebound.as_bytes())
        .await
        .unwrap();
    assert_eq!(http::complete(&answer).status, 403);
    let local = format!(
        "GET /metrics HTTP/1.1\r\nHost: localhost:{}\r\nConnection: close\r\n\r\n",
        gateway.admin.port()
    );
    let answer = http::exchange(gateway.admin, local.as_bytes())
        .await
        .unwrap();
    assert_eq!(http::complete(&answer).status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn elsewhere_all_but_health_is_refused_until_a_token_is_set() {
    let gateway = Setup::memory().admin_for_others().start().await;
    assert_eq!(statuses(&gateway, &OPEN, &[]).await, [200, 200]);
    let bearer = [("Authorization", "Bearer ")];
    for headers in [&[][..], &bearer] {
        assert_eq!(statuses(&gateway, &CLOSED, headers).await, [403; 4]);
    }
    let answer = ask(&gateway, "GET", "/metrics", &[]).await;
    assert!(answer.error().contains("admin.token"), "{}", answer.text());
    let setup = Setup::memory().admin_for_others();
    let open = setup.set("admin.metrics_open", "true").start().await;
    assert_eq!(statuses(&open, &CLOSED, &[]).await, [200, 403, 403, 403]);
    // Its own health check needs nothing.
    let mut command = binary();
    command.args(["healthcheck", "--admin-listen", &gateway.admin.to_string()]);
    assert_eq!(output(command).await.status.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_token_opens_and_is_replaced_without_a_restart() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "t0ken-one\n").unwrap();
    let setup = Setup::memory().admin_for_others();
    let path = file.path().to_str().unwrap();
    let gateway = setup.set("admin.token_file", path).start().await;
    let with = |token: &str| format!("Bearer {token}");
    let log = async |token: &str| {
        let headers = [("Authorization", &with(token)[..])];
        ask(&gateway, "GET", "/log", &headers).await
    };
    assert_eq!(log("t0ken-one").await.status, 200);
    let none = ask(&gateway, "GET", "/log", &[]).await;
    assert_eq!(
        (none.status, none.header("www-authenticate")),
        (401, Some("Bearer"))
    );
    for wrong in ["t0ken-two", "t0ken-on", "t0ken-one2", ""] {
        let answer = log(wrong).await;
        assert_eq!(answer.status, 401, "{wrong}");
        assert_eq!(
            answer.header("www-authenticate"),
            Some("Bearer error=\"invalid_token\"")
        );
        assert!(!answer.text().contains("t0ken"), "{}", answer.text());
    }
    assert_eq!(statuses(&gateway, &OPEN, &[]).await, [200, 200]);
    std::fs::write(file.path(), "t0ken-two").unwrap();
    assert_eq!(log("t0ken-one").await.status, 401);
    assert_eq!(log("t0ken-two").await.status, 200);
    // Nothing is open because a file is gone.
    for bad in [Some("\n"), None] {
        match bad {
            Some(text) => std::fs::write(file.path(), text).unwrap(),
            None => std::fs::remove_file(file.path()).unwrap(),
        }
        assert_eq!(log("").await.status, 503);
    }
    for secret in ["t0ken-one", "t0ken-two"] {
        assert!(!gateway.log().contains(secret), "{}", gateway.log());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_counts_on_this_machine_too_and_is_never_shown() {
    let gateway = Setup::memory().set("admin.token", "t0ken").start().await;
    assert_eq!(statuses(&gateway, &CLOSED, &[]).await, [401; 4]);
    let headers = [("Authorization", "Bearer t0ken")];
    assert_eq!(
        statuses(&gateway, &CLOSED, &headers).await,
        [200, 200, 405, 404]
    );
    let run = async |arguments: &[&str]| {
        let mut command = binary();
        command.args(arguments).env("SSE_ADMIN__TOKEN", "t0ken");
        let output = output(command).await;
        let text = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(text).unwrap())
    };
    let (_, printed) = run(&["print-config"]).await;
    assert!(!printed.contains("t0ken"), "{printed}");
    let (code, checked) = run(&["check-config"]).await;
    assert_eq!(code, Some(0), "{checked}");
    assert!(!checked.contains("t0ken"), "{checked}");
    let mut command = binary();
    command.args(["check-config", "--admin-listen", "0.0.0.0:9080"]);
    let warned = output(command).await;
    let text = String::from_utf8([warned.stdout, warned.stderr].concat()).unwrap();
    assert!(text.contains("there is no admin.token"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_answer_is_taken_for_another_type_and_every_page_says_what_it_may_load() {
    let gateway = Setup::memory().start().await;
    for path in OPEN.iter().chain(&CLOSED) {
        let answer = ask(&gateway, "GET", path, &[]).await;
        assert_eq!(
            answer.header("x-content-type-options"),
            Some("nosniff"),
            "{path}"
        );
        let policy = answer.header("content-security-policy").unwrap();
        assert!(policy.contains("default-src 'none'"), "{path}: {policy}");
    }
    let page = gateway.get("/").await;
    let text = page.text();
    // Whatever the page names is a page's part too.
    let named = text.split('"').filter(|part| {
        [".js", ".css", ".svg", ".html"]
            .iter()
            .any(|end| part.ends_with(end))
    });
    let mut paths = vec!["/".to_owned()];
    paths.extend(named.map(|part| format!("/{}", part.trim_start_matches('/'))));
    assert!(paths.len() > 1, "{text}");
    for path in &paths {
        let answer = gateway.get(path).await;
        assert_eq!(answer.status, 200, "{path}");
        let policy = answer.header("content-security-policy").unwrap_or_default();
        assert!(policy.contains("default-src 'none'"), "{path}: {policy}");
        assert_eq!(
            answer.header("x-content-type-options"),
            Some("nosniff"),
            "{path}"
        );
    }
    for path in ["/none", "/rooms/demo", "/rooms/a b"] {
        let answer = gateway.get(&path.replace(' ', "%20")).await;
        assert_eq!(
            answer.header("x-content-type-options"),
            Some("nosniff"),
            "{path}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_that_say_nothing_are_refused() {
    let gateway = Setup::memory().start().await;
    let long = format!("{{\"user\":\"{}\"}}", "x".repeat(5000));
    let name = format!("{{\"user\":\"{}\"}}", "x".repeat(257));
    for body in [
        "",
        "{}",
        "[]",
        "{\"user\":7}",
        "{\"user\":\"\"}",
        "{\"room\":\"a b\"}",
        "{\"node\":\"n1\"}",
        "{\"user\":\"ann\",\"room\":\"a\"}",
        &long,
        &name,
    ] {
        let answer =
            http::request(gateway.admin, "POST", "/disconnects", &[], body.as_bytes()).await;
        assert_eq!(answer.status, 400, "{body}: {}", answer.text());
        assert!(!answer.error().is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_stands_for_the_token_and_the_health_check_speaks_tls() {
    let authority = Authority::new();
    let setup = Setup::memory()
        .admin_for_others()
        .set("admin.cert_file", &authority.file("server.pem"))
        .set("admin.key_file", &authority.file("server.key"))
        .set("admin.client_ca_file", &authority.file("ca.pem"));
    let gateway = setup.spawn();
    let healthy = async |certificate: &str| {
        let mut command = binary();
        command.args(["healthcheck", "--admin-listen", &gateway.admin.to_string()]);
        command.env("SSE_ADMIN__CERT_FILE", authority.file(certificate));
        command.env("SSE_ADMIN__KEY_FILE", authority.file("server.key"));
        output(command).await.status.code() == Some(0)
    };
    eventually!(healthy("server.pem").await, "{}", gateway.log());
    // Another one's certificate is not this gateway's, though the same authority has signed it.
    assert!(!healthy("client.pem").await);
    for (client, status) in [(None, "403"), (Some("client"), "200")] {
        let connected = authority
            .connect(gateway.admin, client, &["http/1.1"])
            .await;
        let mut stream = connected.unwrap();
        let request = b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        stream.write_all(request).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        let text = String::from_utf8_lossy(&answer);
        assert!(
            text.starts_with(&format!("HTTP/1.1 {status} ")),
            "{client:?}: {text}"
        );
    }
}

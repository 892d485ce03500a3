//! Starts that fail, in one sentence and with the right exit code; and the commands around it.

use std::process::Output;

use crate::support::gateway::{binary, output};
use crate::support::{Gateway, Setup};

/// One sentence, and nothing that looks like a crash.
#[track_caller]
fn assert_refused(output: &Output, code: i32, names: &str) {
    let (out, error) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert_eq!(output.status.code(), Some(code), "{out}{error}");
    assert!(error.contains(names), "it does not name {names:?}: {error}");
    assert_eq!(
        error.trim().lines().count(),
        1,
        "more than one line: {error}"
    );
    for crash in ["panicked", "RUST_BACKTRACE", "stack backtrace"] {
        assert!(!error.contains(crash), "{error}");
    }
}

async fn run(arguments: &[&str]) -> Output {
    let mut command = binary();
    command.args(arguments);
    output(command).await
}

fn file(text: &str) -> tempfile::NamedTempFile {
    let file = tempfile::Builder::new().suffix(".toml").tempfile().unwrap();
    std::fs::write(file.path(), text).unwrap();
    file
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_flags_and_values_are_64() {
    assert_refused(&run(&["--colour", "red"]).await, 64, "--colour");
    assert_refused(&run(&["--listen", "nowhere"]).await, 64, "nowhere");
    assert_refused(
        &run(&["--redis", "http://127.0.0.1"]).await,
        64,
        "http://127.0.0.1",
    );
    assert_refused(
        &run(&["--config", "/no/such/file.toml"]).await,
        64,
        "/no/such/file.toml",
    );
    assert_refused(
        &Setup::memory()
            .set("stream.heartbeat", "soon")
            .output()
            .await,
        64,
        "heartbeat",
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_key_in_the_file_is_64() {
    let file = file("[stream]\nheartbeet = \"5s\"\n");
    let path = file.path().to_str().unwrap();
    for arguments in [&["--config", path][..], &["check-config", "--config", path]] {
        assert_refused(&run(arguments).await, 64, "stream.heartbeet");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_variable_is_one_warning() {
    let gateway = Setup::memory()
        .variable("SSE_GATEWAY_PORT", "tcp://10.0.0.1:80")
        .variable("SSE_STREAM__NO", "1");
    let gateway = gateway.start().await;
    for name in ["SSE_GATEWAY_PORT", "SSE_STREAM__NO"] {
        let log = gateway.log();
        assert_eq!(
            log.lines().filter(|line| line.contains(name)).count(),
            1,
            "{log}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_in_use_is_1_also_by_another_gateway() {
    let first = Setup::memory().start().await;
    let taken = |listen: String, admin: String| async move {
        let mut command = binary();
        command.args(["--listen", &listen, "--admin-listen", &admin]);
        output(command).await
    };
    let free = Setup::memory();
    let refused = taken(first.address.to_string(), free.admin.to_string()).await;
    assert_refused_at_run(&refused, &first.address.to_string());
    let refused = taken(free.address.to_string(), first.admin.to_string()).await;
    assert_refused_at_run(&refused, &first.admin.to_string());
    assert_eq!(first.get("/rooms/demo").await.status, 200);
}

/// Log lines may come before it, but the last line says it.
#[track_caller]
fn assert_refused_at_run(output: &Output, names: &str) {
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(
        error
            .trim()
            .lines()
            .last()
            .unwrap_or_default()
            .contains(names),
        "{error}"
    );
    assert!(
        !error.contains("panicked") && !error.contains("backtrace"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn check_config_says_yes() {
    let file = file("node = \"n7\"\n[stream]\nheartbeat = \"5s\"\n");
    let checked = run(&["check-config", "--config", file.path().to_str().unwrap()]).await;
    assert_eq!(
        checked.status.code(),
        Some(0),
        "{}",
        String::from_utf8_lossy(&checked.stderr)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn print_config_merges_the_layers_and_hides_secrets() {
    let file = file(
        "node = \"from-file\"\n[stream]\nheartbeat = \"5s\"\n[http]\npath_prefix = \"/file\"\n",
    );
    let mut command = binary();
    command.args([
        "print-config",
        "--config",
        file.path().to_str().unwrap(),
        "--node",
        "from-flag",
    ]);
    command.args(["--publish-key", "a-secret-key"]);
    command
        .env(
            "SSE_REDIS__URL",
            "redis://user:0012-secret@127.0.0.1:6379/3",
        )
        .env("SSE_HTTP__PATH_PREFIX", "/env");
    let printed = output(command).await;
    assert_eq!(
        printed.status.code(),
        Some(0),
        "{}",
        String::from_utf8_lossy(&printed.stderr)
    );
    let text = String::from_utf8(printed.stdout).unwrap();
    assert!(!text.contains("secret"), "{text}");
    for shown in ["from-flag", "/env", "5s", "127.0.0.1:6379"] {
        assert!(text.contains(shown), "no {shown}: {text}");
    }
    assert!(
        !text.contains("from-file") && !text.contains("/file"),
        "{text}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_are_not_in_the_log() {
    let setup = Setup::memory().variable("SSE_REDIS__URL", "redis://user:hunter2@127.0.0.1:1/0");
    let gateway = setup
        .arguments(&["--publish-key", "a-secret-key", "--log", "debug"])
        .spawn();
    gateway.wait_alive().await;
    eventually!(
        gateway.log().contains("Redis"),
        "it should say that it cannot reach Redis: {}",
        gateway.log()
    );
    assert!(
        !gateway.log().contains("hunter2") && !gateway.log().contains("a-secret-key"),
        "{}",
        gateway.log()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn development_mode_says_how_to_try_it() {
    let setup = Setup::memory().arguments(&["--log-format", "text"]);
    let gateway = setup.start().await;
    let told = |gateway: &Gateway| {
        let log = gateway.log();
        let address = gateway.address.to_string();
        log.contains(&address) && log.contains("curl") && log.contains("--redis")
    };
    eventually!(told(&gateway), "{}", gateway.log());
    let page = gateway.get("/").await;
    assert_eq!(page.status, 200);
    assert!(
        page.header("content-type")
            .unwrap()
            .starts_with("text/html")
    );
    assert!(
        page.text().contains("EventSource") || page.text().contains("<script"),
        "{}",
        page.text()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_admin_listener_answers_and_clients_do_not_reach_it() {
    let gateway = Setup::memory().start().await;
    let metrics = gateway.admin("/metrics").await.unwrap();
    assert_eq!(metrics.status, 200);
    assert!(
        metrics
            .header("content-type")
            .unwrap()
            .starts_with("text/plain")
    );
    assert!(
        metrics.text().contains("sse_gateway_"),
        "{}",
        metrics.text()
    );
    for path in ["/metrics", "/readyz", "/livez"] {
        assert_eq!(gateway.get(path).await.status, 404, "{path}");
    }
}

//! What the people who run it use: health, metrics, reloading, the log, the service manager.

use std::collections::BTreeSet;
use std::os::unix::net::UnixDatagram;

use crate::support::gateway::{binary, output};
use crate::support::{Client, Gateway, RedisServer, Setup, http};

#[tokio::test(flavor = "multi_thread")]
async fn a_health_check_needs_nothing_but_the_binary() {
    let mut gateway = Setup::memory().start().await;
    let ask = async |gateway: &Gateway, ready: bool| {
        let mut command = binary();
        command.args(["healthcheck", "--admin-listen", &gateway.admin.to_string()]);
        if ready {
            command.arg("--ready");
        }
        output(command).await
    };
    for ready in [false, true] {
        let answer = ask(&gateway, ready).await;
        assert_eq!(answer.status.code(), Some(0));
    }
    gateway.kill();
    let answer = ask(&gateway, false).await;
    let error = String::from_utf8(answer.stderr).unwrap();
    assert_eq!(answer.status.code(), Some(1));
    assert!(
        error.contains("admin.listen") && error.trim().lines().count() == 1,
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_health_check_reads_no_key_files() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("keys");
    std::fs::write(&file, "some-key\n").unwrap();
    let path = file.to_str().unwrap();
    let setup = Setup::memory().set("publish.key_files", path);
    let gateway = setup.clone().start().await;
    std::fs::remove_file(&file).unwrap();
    for (subcommand, code) in [("healthcheck", 0), ("check-config", 64)] {
        let mut command = binary();
        command
            .args([subcommand, "--admin-listen", &gateway.admin.to_string()])
            .env("SSE_PUBLISH__KEY_FILES", path);
        let answer = output(command).await;
        assert_eq!(answer.status.code(), Some(code), "{answer:?}");
    }
    let start = setup.output().await;
    assert_eq!(start.status.code(), Some(64), "{start:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn sighup_changes_keys_and_drops_no_stream() {
    let file = tempfile::Builder::new().suffix(".toml").tempfile().unwrap();
    let write = |key: &str, page: &str| {
        let text = format!("[publish]\nkeys = [\"{key}\"]\n[stream]\nhistory_page = {page}\n");
        std::fs::write(file.path(), text).unwrap();
    };
    write("first", "256");
    let path = file.path().to_str().unwrap();
    let gateway = Setup::memory().arguments(&["--config", path]).start().await;
    let client = Client::of(&[gateway.address], "demo").open().await;
    let publish = async |key: &str| {
        let header = format!("Bearer {key}");
        let answer = gateway
            .post("demo", &[("Authorization", &header)], b"hi")
            .await;
        answer.status
    };
    assert_eq!(
        (publish("first").await, publish("second").await),
        (201, 401)
    );
    write("second", "128");
    gateway.signal("HUP");
    eventually!(publish("second").await == 201, "{}", gateway.log());
    assert_eq!(publish("first").await, 401);
    assert!(
        gateway.log().contains("stream.history_page"),
        "what needs a restart is named"
    );
    // One that cannot be used changes nothing.
    std::fs::write(file.path(), "[publish]\nkeyz = 1\n").unwrap();
    gateway.signal("HUP");
    eventually!(gateway.log().contains("keyz"), "{}", gateway.log());
    assert_eq!(publish("second").await, 201);
    client.wait_events(3).await;
    assert_eq!(client.seen().connections, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn sighup_opens_nothing_by_what_needs_a_restart() {
    let file = tempfile::Builder::new().suffix(".toml").tempfile().unwrap();
    let write = |first: &str, level: &str| {
        let text =
            format!("{first}\n[access]\nsubscribe = [\"* token\"]\n[log]\nlevel = \"{level}\"\n");
        std::fs::write(file.path(), text).unwrap();
    };
    write("", "info");
    let path = file.path().to_str().unwrap();
    let gateway = Setup::memory().arguments(&["--config", path]).start().await;
    let refused = async |gateway: &Gateway| {
        let read = gateway.get("/rooms/demo").await.status;
        (read, gateway.post("demo", &[], b"hi").await.status)
    };
    assert_eq!(refused(&gateway).await, (403, 403));
    write("dev = true", "debug");
    gateway.signal("HUP");
    eventually!(gateway.log().contains("was reloaded"), "{}", gateway.log());
    assert!(gateway.log().contains("need a restart"));
    assert_eq!(refused(&gateway).await, (403, 403));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_can_be_turned_up_while_it_runs() {
    let gateway = Setup::memory().start().await;
    let put = async |level: &str| {
        let request = format!(
            "PUT /log HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{level}",
            level.len()
        );
        http::complete(
            &http::exchange(gateway.admin, request.as_bytes())
                .await
                .unwrap(),
        )
    };
    assert_eq!(gateway.admin("/log").await.unwrap().json()["level"], "info");
    assert_eq!(put("inof").await.status, 400);
    let answer = put("debug").await;
    assert_eq!(
        (answer.status, answer.json()["level"].as_str()),
        (200, Some("debug"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_service_manager_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager
        .set_read_timeout(Some(crate::support::DEADLINE))
        .unwrap();
    let told = || {
        let mut buffer = [0; 256];
        let got = manager.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..got]).into_owned()
    };
    let setup = Setup::memory().variable("NOTIFY_SOCKET", path.to_str().unwrap());
    let mut gateway = setup.start().await;
    assert_eq!(told(), "READY=1");
    gateway.signal("HUP");
    assert!(told().starts_with("RELOADING=1\nMONOTONIC_USEC="));
    assert_eq!(told(), "READY=1");
    gateway.signal("TERM");
    assert_eq!(told(), "STOPPING=1");
    for phase in ["unready", "draining", "closing", "stopped"] {
        assert_eq!(told(), format!("STATUS={phase}"));
    }
    assert_eq!(gateway.wait_exit().await, Some(0));
}

/// Names and types in the text format.
fn families(metrics: &str) -> BTreeSet<(String, String)> {
    let types = metrics
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE "));
    let pairs = types.filter_map(|line| line.split_once(' '));
    pairs
        .map(|(name, kind)| (name.to_owned(), kind.to_owned()))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_metric_is_documented_and_every_documented_metric_is_there() {
    let redis = RedisServer::start().await;
    let setup = Setup::redis(&redis).set("metrics.room_classes", "chat=chat:*");
    let gateway = setup.start().await;
    let document = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/metrics.md");
    let document = std::fs::read_to_string(document).unwrap();
    // | `name` | type | labels | meaning |
    let rows = document.lines().filter_map(|line| line.strip_prefix("| `"));
    let mut documented: BTreeSet<_> = rows
        .filter_map(|row| {
            let (name, rest) = row.split_once("` | ")?;
            let (kind, _) = rest.split_once(" | ")?;
            Some((name.to_owned(), kind.to_owned()))
        })
        .collect();
    let metrics = gateway.admin("/metrics").await.unwrap().text();
    if !metrics.contains("sse_gateway_memory_limit_bytes") {
        eprintln!("not looked at: memory has no limit here");
        documented.retain(|(name, _)| !name.starts_with("sse_gateway_memory_"));
    }
    assert_eq!(families(&metrics), documented);
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_count_what_happens() {
    let redis = RedisServer::start().await;
    let mut gateway = Setup::redis(&redis).set("drain.delay", "2s").start().await;
    let client = Client::of(&[gateway.address], "demo").open().await;
    let id = gateway.publish("demo", "chat", "hi").await;
    client.wait_id(&id).await;
    let metrics = async |gateway: &Gateway| gateway.admin("/metrics").await.unwrap().text();
    let text = metrics(&gateway).await;
    for line in [
        "sse_gateway_streams_open 1",
        "sse_gateway_deliveries_total 1",
        "sse_gateway_redis_up 1",
        "sse_gateway_redis_events_total{path=\"function\"} 1",
        "sse_gateway_http_requests_total{route=\"publish\",status=\"2xx\"} 1",
        "sse_gateway_event_lag_seconds_count 1",
        "sse_gateway_subscribe_seconds_count 1",
        "sse_gateway_phase{phase=\"running\"} 1",
    ] {
        assert!(text.lines().any(|found| found == line), "no {line}: {text}");
    }
    gateway.signal("TERM");
    eventually!(
        metrics(&gateway)
            .await
            .contains("sse_gateway_phase{phase=\"unready\"} 1"),
        "{}",
        gateway.log()
    );
    assert_eq!(gateway.wait_exit().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_leave_a_line_each_where_the_log_is_to_have_them() {
    let setup = Setup::memory()
        .set("log.access", "true")
        .arguments(&["--log-format", "json"]);
    let gateway = setup.start().await;
    let client = Client::of(&[gateway.address], "demo").open().await;
    let id = gateway.publish("demo", "chat", "a secret").await;
    client.wait_id(&id).await;
    drop(client);
    let lines = || {
        let log = gateway.log();
        let lines = log
            .lines()
            .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        lines
            .filter(|line| line["target"] == "access")
            .collect::<Vec<_>>()
    };
    eventually!(lines().len() == 2, "{}", gateway.log());
    let (opened, ended) = (&lines()[0], &lines()[1]);
    assert_eq!(
        (opened["room"].as_str(), ended["room"].as_str()),
        (Some("demo"), Some("demo"))
    );
    assert_eq!(ended["reason"], "client");
    assert_eq!(ended["last"], id.as_str());
    assert_eq!(ended["events"], 1);
    assert!(ended["bytes"].as_u64().unwrap() > 100 && ended["client"].is_string());
    assert!(!gateway.log().contains("a secret"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_to_be_json_is_json_line_by_line() {
    // A configuration that has much to say: development mode, and an unknown variable.
    let setup = Setup::memory().variable("SSE_STREAM__NO", "1");
    let mut gateway = setup.arguments(&["--log-format", "json"]).start().await;
    gateway.signal("TERM");
    assert_eq!(gateway.wait_exit().await, Some(0));
    let log = gateway.log();
    let parsed = log.lines().map(|line| {
        let line: serde_json::Value =
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        line
    });
    let lines: Vec<_> = parsed.collect();
    let served = lines
        .iter()
        .find(|line| line["message"] == "The node serves.");
    let served = served.unwrap_or_else(|| panic!("{log}"));
    assert_eq!(served["listen"], gateway.address.to_string());
    assert_eq!(served["admin"], gateway.admin.to_string());
    assert_eq!(served["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(served["development"], true);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_fails_says_so_in_json_too() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let mut command = binary();
    command.args(["--log-format", "json", "--listen", &address]);
    let answer = output(command).await;
    assert_eq!(answer.status.code(), Some(1));
    let error = String::from_utf8(answer.stderr).unwrap();
    let line: serde_json::Value = serde_json::from_str(&error).unwrap();
    assert_eq!(line["level"], "ERROR");
    assert!(
        line["message"].as_str().unwrap().contains(&address),
        "{line}"
    );
}

/// Whether anyone may publish is one question, and whether there is a page another one.
#[tokio::test(flavor = "multi_thread")]
async fn the_demo_page_has_a_switch_of_its_own() {
    for (dev, demo, page, published) in [
        ("false", "true", 200, 401),
        ("false", "auto", 404, 401),
        ("true", "false", 404, 201),
        ("true", "auto", 200, 201),
    ] {
        let setup = Setup::memory().set("dev", dev).set("http.demo", demo);
        let gateway = setup.set("publish.keys", "a-key").start().await;
        for path in ["/", "/demo/stream.js"] {
            assert_eq!(
                gateway.get(path).await.status,
                page,
                "dev {dev}, demo {demo}: {path}"
            );
        }
        assert_eq!(
            gateway.post("x", &[], b"hi").await.status,
            published,
            "dev {dev}, demo {demo}"
        );
    }
}

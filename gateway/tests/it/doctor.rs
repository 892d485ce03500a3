//! `sse-gateway doctor` against real servers in several states.

use serde_json::Value;

use crate::support::cluster::RedisCluster;
use crate::support::gateway::{binary, output};
use crate::support::redis::key;
use crate::support::sentinel::RedisSentinel;
use crate::support::{RedisServer, Setup, port};

/// What it prints with `--json`, and its exit code.
struct Diagnosis {
    findings: Vec<Value>,
    code: i32,
    text: String,
}

async fn examine(url: &str, arguments: &[&str]) -> Diagnosis {
    let mut command = binary();
    command
        .args(["doctor", "--json", "--redis", url])
        .args(arguments);
    let output = output(command).await;
    let text = String::from_utf8(output.stdout).unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(error, "", "{text}");
    Diagnosis {
        findings: serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}")),
        code: output.status.code().unwrap(),
        text,
    }
}

impl Diagnosis {
    /// Levels of a check, over all servers.
    fn levels(&self, check: &str) -> Vec<&str> {
        let found = self
            .findings
            .iter()
            .filter(|finding| finding["check"] == check);
        found
            .map(|finding| finding["level"].as_str().unwrap())
            .collect()
    }

    #[track_caller]
    fn assert(&self, check: &str, level: &str, part: &str) {
        let fits = |finding: &&Value| {
            let says = format!("{} {}", finding["says"], finding["do"]);
            finding["check"] == check && finding["level"] == level && says.contains(part)
        };
        let found = self.findings.iter().find(fits);
        assert!(
            found.is_some(),
            "no {level} {check} with {part}: {}",
            self.text
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fresh_server_has_no_problem_and_is_left_as_it_was() {
    let redis = RedisServer::start().await;
    let found = examine(&redis.url(), &[]).await;
    assert_eq!(found.code, 0, "{}", found.text);
    found.assert("function", "note", "the first gateway loads it");
    found.assert("notifications", "note", "a gateway adds");
    found.assert("persistence", "warning", "nothing is on disk");
    found.assert("rights", "ok", "may do all");
    assert_eq!(redis.call(&["DBSIZE"]).await, redis::Value::Int(0));
    let functions = redis.call(&["FUNCTION", "LIST"]).await;
    assert_eq!(functions, redis::Value::Array(Vec::new()));
    let flags: Vec<String> = redis
        .try_call(&["CONFIG", "GET", "notify-keyspace-events"])
        .await
        .unwrap();
    assert_eq!(flags[1], "");
    // A gateway puts in place what was missing.
    let _gateway = Setup::redis(&redis).start().await;
    let found = examine(&redis.url(), &[]).await;
    assert_eq!(found.levels("function"), ["ok"], "{}", found.text);
    assert_eq!(found.levels("notifications"), ["ok"], "{}", found.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_deletes_rooms_is_a_problem() {
    let arguments = ["--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"];
    let redis = RedisServer::start_as(&arguments, "").await;
    let found = examine(&redis.url(), &[]).await;
    assert_eq!(found.code, 1, "{}", found.text);
    found.assert(
        "eviction",
        "problem",
        "CONFIG SET maxmemory-policy noeviction",
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_is_a_problem_and_never_shown() {
    let redis = RedisServer::start_as(&["--requirepass", "s3cret"], ":s3cret@").await;
    for login in ["", ":wr0ng@"] {
        let found = examine(&format!("redis://{login}{}", redis.address), &[]).await;
        assert_eq!(found.code, 1, "{}", found.text);
        assert_eq!(found.levels("login"), ["problem"], "{}", found.text);
        assert!(!found.text.contains("wr0ng"), "{}", found.text);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_there_and_nothing_to_check_have_their_codes() {
    let found = examine(&format!("redis://{}", port::free()), &[]).await;
    assert_eq!(found.code, 69, "{}", found.text);
    found.assert("reach", "problem", "does not answer");
    for arguments in [&["doctor"][..], &["doctor", "--redis", "http://a"]] {
        let mut command = binary();
        command.args(arguments);
        let output = output(command).await;
        assert_eq!(output.status.code(), Some(64));
        assert!(output.stdout.is_empty());
        assert_eq!(String::from_utf8(output.stderr).unwrap().lines().count(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_documented_user_is_enough_and_a_poor_one_is_told_what_it_lacks() {
    let documented = include_str!("../../../deploy/redis/users.acl");
    let file = tempfile::NamedTempFile::new().unwrap();
    let others = "user default on nopass ~* &* +@all\nuser poor on >change-me ~other:* resetchannels +@all -xrange\n";
    std::fs::write(file.path(), others.to_owned() + documented).unwrap();
    let arguments = ["--aclfile", file.path().to_str().unwrap()];
    let redis = RedisServer::start_as(&arguments, "").await;
    let url = |user: &str| format!("redis://{user}:change-me@{}", redis.address);
    let found = examine(&url("sse-gateway"), &[]).await;
    assert_eq!(found.code, 0, "{}", found.text);
    assert_eq!(found.levels("rights"), ["ok"], "{}", found.text);
    found.assert(
        "notifications",
        "warning",
        "CONFIG SET notify-keyspace-events Ktxeg",
    );
    let found = examine(&url("poor"), &[]).await;
    assert_eq!(found.code, 1, "{}", found.text);
    found.assert("rights", "problem", "ACL SETUSER poor");
    found.assert("rights", "problem", "+xrange");
    found.assert("rights", "problem", "~sse:*");
    found.assert("rights", "problem", "&sse:*");
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_without_config_or_functions_are_described() {
    let without = ["CONFIG", "FCALL", "FCALL_RO", "FUNCTION"];
    let without = without.map(|word| ["--rename-command", word, ""]);
    let redis = RedisServer::start_as(&without.concat(), "").await;
    let found = examine(&redis.url(), &[]).await;
    assert_eq!(found.code, 0, "{}", found.text);
    found.assert("ways", "ok", "by a script");
    found.assert("function", "note", "use a script instead");
    found.assert("notifications", "note", "CONFIG GET is refused");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_room_that_only_grows_is_named() {
    let redis = RedisServer::start().await;
    for _ in 0..150 {
        redis.xadd("grows", &[("data", "x")]).await;
        redis.xadd("expires", &[("data", "x")]).await;
    }
    redis.call(&["EXPIRE", &key("expires"), "100"]).await;
    let mut command = binary();
    command.args(["doctor", "--json", "--redis", &redis.url()]);
    command.env("SSE_RETENTION__MAX_LEN", "10");
    let output = output(command).await;
    let text = String::from_utf8(output.stdout).unwrap();
    let found: Vec<Value> = serde_json::from_str(&text).unwrap();
    let rooms = found
        .iter()
        .find(|finding| finding["check"] == "rooms")
        .unwrap();
    assert_eq!(rooms["level"], "warning", "{text}");
    let says = rooms["says"].as_str().unwrap();
    assert!(says.contains("of all 2 rooms, 1 only grow"), "{says}");
    assert!(says.contains("sse:room:grows (150 events)"), "{says}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_is_examined_node_by_node() {
    let mut cluster = RedisCluster::start().await;
    let found = examine(&cluster.url(), &[]).await;
    assert_eq!(found.code, 0, "{}", found.text);
    assert_eq!(found.levels("reach"), ["ok"; 6], "{}", found.text);
    assert_eq!(found.levels("rights"), ["ok"; 6], "{}", found.text);
    assert_eq!(found.levels("cluster"), ["ok"], "{}", found.text);
    found.assert("ways", "ok", "shard channels");
    found.assert("ephemeral", "note", "SPUBLISH");
    // By the URL of a single server.
    let single = format!("redis://{}", cluster.nodes[0].server.address);
    let found = examine(&single, &[]).await;
    found.assert("role", "problem", "redis+cluster://");
    // One part without anyone to take over.
    cluster.nodes[3].server.kill();
    cluster.nodes[0].server.kill();
    eventually!(
        examine(&cluster.url(), &[])
            .await
            .levels("cluster")
            .contains(&"problem"),
        "{}",
        examine(&cluster.url(), &[]).await.text
    );
    assert_eq!(examine(&cluster.url(), &[]).await.code, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn sentinels_and_their_servers_are_examined() {
    let sentinels = RedisSentinel::start().await;
    eventually!(
        {
            let found = examine(&sentinels.url(), &[]).await;
            found.code == 0
                && found.levels("quorum") == ["ok"; 3]
                && found.levels("reach") == ["ok"; 3]
        },
        "{}",
        examine(&sentinels.url(), &[]).await.text
    );
    let found = examine(&sentinels.url(), &[]).await;
    found.assert("sentinels", "ok", "3 of the 3");
    found.assert("replication", "ok", "follows its primary");
}

#[tokio::test(flavor = "multi_thread")]
async fn people_get_lines_and_a_summary() {
    let redis = RedisServer::start().await;
    let mut command = binary();
    command.args(["doctor", "--redis", &redis.url()]);
    let output = output(command).await;
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let (summary, lines) = lines.split_last().unwrap();
    assert!(summary.starts_with("0 problems, 1 warning, "), "{text}");
    let address = redis.address.to_string();
    for line in lines {
        let level = line.split_whitespace().next().unwrap();
        assert!(["ok", "note", "warning"].contains(&level), "{line}");
        let is_ours = line.contains(&address) || line.contains("this configuration");
        assert!(is_ours && !line.contains('\x1b'), "{line}");
    }
}

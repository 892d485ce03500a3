//! The built program with Redis Cluster, Sentinel and TLS.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::io::Write;
use std::process::{Child, ChildStdin};

use support::cluster::Cluster;
use support::sentinel::{self, Sentinel};
use support::tls::Tls;
use support::{Redis, Run, command, eventually, run, start};

fn ok(run: &Run) -> &str {
    assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""), "{run:?}");
    &run.stdout
}

fn data(redis: &Redis, room: &str) -> Vec<String> {
    let entries = redis.entries(room);
    entries.into_iter().map(|entry| entry.2).collect()
}

/// A publisher that is given its lines one by one.
struct Typed {
    child: Child,
    stdin: ChildStdin,
}

impl Typed {
    fn start(arguments: &[&str]) -> Self {
        let mut child = command(arguments).spawn().unwrap();
        let stdin = child.stdin.take().unwrap();
        Self { child, stdin }
    }

    fn line(&mut self, text: &str) {
        self.stdin
            .write_all(format!("{text}\n").as_bytes())
            .unwrap();
    }

    fn finish(self) -> Run {
        drop(self.stdin);
        self.child.wait_with_output().unwrap().into()
    }
}

/// What a subscriber of a shard channel hears.
struct Subscriber(redis::Connection);

impl Subscriber {
    fn of(redis: &Redis, room: &str) -> Self {
        let mut connection = redis.connection();
        let mut subscribe = redis::cmd("SSUBSCRIBE");
        subscribe.arg(format!("sse:room:{room}"));
        let bytes = subscribe.get_packed_command();
        connection.send_packed_command(&bytes).unwrap();
        connection.recv_response().unwrap();
        connection
            .set_read_timeout(Some(support::DEADLINE))
            .unwrap();
        Self(connection)
    }

    fn next(&mut self) -> String {
        let message = self.0.recv_response().unwrap();
        let parts: Vec<String> = redis::from_redis_value(message).unwrap();
        parts[2].clone()
    }
}

#[test]
fn a_cluster_gets_each_room_at_its_primary() {
    let cluster = Cluster::start();
    let url = cluster.url();
    let line = |n: usize| format!("{{\"room\":\"r{}\",\"data\":\"{n}\"}}\n", n % 30);
    let input: String = (0..300).map(line).collect();
    let printed = run(&["demo", "--redis", &url], input.as_bytes());
    assert!(ok(&printed).starts_with("published 300 events"));
    let mut owners = [0; 3];
    for room in 0..30 {
        let name = format!("r{room}");
        let owner = cluster.owner(&name);
        owners[owner] += 1;
        let expected: Vec<String> = (0..10).map(|n| (n * 30 + room).to_string()).collect();
        assert_eq!(data(&cluster.nodes[owner], &name), expected);
    }
    assert!(owners.iter().all(|&rooms| rooms > 0), "{owners:?}");
}

#[test]
fn a_cluster_s_subscribers_hear_shard_channels() {
    let cluster = Cluster::start();
    let url = cluster.url();
    let mut subscriber = Subscriber::of(&cluster.nodes[cluster.owner("demo")], "demo");
    let to = ["demo", "--redis", &url, "--data"];
    ok(&run(&[&to[..], &["gone", "--ephemeral"]].concat(), b""));
    assert_eq!(subscriber.next(), "{\"data\":\"gone\"}");
    let id = run(&[&to[..], &["kept", "--event", "chat"]].concat(), b"");
    let message = subscriber.next();
    assert!(
        message.starts_with(&format!("SSE/1 {} ", ok(&id).trim_end())),
        "{message}"
    );
}

#[test]
fn load_is_for_every_primary() {
    let cluster = Cluster::start();
    let done = run(&["load", "--redis", &cluster.url()], b"");
    assert_eq!(ok(&done).lines().count(), 6, "{done:?}");
    for node in &cluster.nodes {
        let from = format!("127.0.0.1:{}: function library sse: version", node.port());
        assert!(done.stdout.contains(&from), "{done:?}");
        let version = i64::from(protocol::publish::LIBRARY_VERSION);
        assert_eq!(node.ask::<i64>(&["FCALL_RO", "sse_version", "0"]), version);
        let flags: Vec<String> = node.ask(&["CONFIG", "GET", "notify-keyspace-events"]);
        assert!(
            flags[1].contains('K') && flags[1].contains('t'),
            "{flags:?}"
        );
    }
}

#[test]
fn a_slot_that_moves_loses_and_doubles_nothing() {
    let cluster = Cluster::start();
    let url = cluster.url();
    let input: String = (0..600).map(|n| format!("{n}\n")).collect();
    let flags = ["demo", "--redis", &url, "--rate", "600", "--max-len", "0"];
    let publisher = start(&flags, input.into_bytes());
    let length = |node: usize| data(&cluster.nodes[node], "demo").len();
    for round in 0..3 {
        let from = cluster.owner("demo");
        let to = (from + 1) % 3;
        eventually("some are published here", || length(from) > 100 * round);
        let moving = cluster.begin_move("demo", to);
        moving.finish();
    }
    let done = publisher.join().unwrap();
    assert_eq!(done.code, Some(0), "{done:?}");
    let found = data(&cluster.nodes[cluster.owner("demo")], "demo");
    let expected: Vec<String> = (0..600).map(|n| n.to_string()).collect();
    assert_eq!(found, expected);
}

#[test]
fn a_room_that_is_new_goes_where_its_slot_is_on_its_way_to() {
    let cluster = Cluster::start();
    let url = cluster.url();
    let to = (cluster.owner("demo") + 1) % 3;
    let moving = cluster.begin_move("demo", to);
    // One alone, and several in a transaction: both are redirected by ASK.
    ok(&run(&["demo", "--redis", &url, "--data", "0"], b""));
    ok(&run(&["demo", "--redis", &url], b"1\n2\n3\n"));
    moving.finish();
    assert_eq!(data(&cluster.nodes[to], "demo"), ["0", "1", "2", "3"]);
}

/// The function looks for the idempotency key, which may already be there: Redis refuses that from within a function.
#[test]
fn a_room_that_is_on_its_way_is_tried_again() {
    let cluster = Cluster::start();
    let url = cluster.url();
    let event = ["demo", "--redis", &url, "--data", "x", "--idempotency-key"];
    ok(&run(&[&event[..], &["first"]].concat(), b""));
    let (from, to) = (cluster.owner("demo"), (cluster.owner("demo") + 1) % 3);
    let moving = cluster.begin_move("demo", to);
    let second = [&event[..], &["second"]].concat();
    let late = run(&[&second[..], &["--retry-for", "100ms"]].concat(), b"");
    assert_eq!(late.code, Some(69), "{late:?}");
    assert_eq!(cluster.nodes[from].entries("demo").len(), 1);
    moving.finish();
    ok(&run(&second, b""));
    assert_eq!(cluster.nodes[to].entries("demo").len(), 2);
}

#[test]
fn a_single_server_of_a_cluster_is_told_from_it() {
    let cluster = Cluster::start();
    let other = (cluster.owner("demo") + 1) % 3;
    let url = cluster.nodes[other].url();
    let run = run(&["demo", "--redis", &url, "--data", "x"], b"");
    assert_eq!(run.code, Some(64), "{run:?}");
    assert!(run.stderr.contains("write redis+cluster://"), "{run:?}");
}

#[test]
fn a_failover_by_sentinel_is_followed() {
    let sentinel = Sentinel::start();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), format!("{}\n", sentinel::PASSWORD)).unwrap();
    let (url, file) = (sentinel.url(), file.path().to_str().unwrap());
    let flags = ["demo", "--redis", &url, "--sentinel-password-file", file];
    let [old, new] = &sentinel.servers;
    let mut publisher = Typed::start(&flags);
    publisher.line("before");
    eventually("it is published, and replicated", || {
        old.entries("demo").len() == 1 && new.entries("demo").len() == 1
    });
    sentinel.fail_over();
    publisher.line("after");
    let done = publisher.finish();
    assert_eq!(done.code, Some(0), "{done:?}");
    assert_eq!(data(new, "demo"), ["before", "after"]);
    let wrong = ["--retry-for", "0s", "--data", "x"];
    let refused = run(&[&["demo", "--redis", &url], &wrong[..]].concat(), b"");
    assert_eq!(refused.code, Some(77), "{refused:?}");
}

#[test]
fn tls_needs_the_right_files() {
    let tls = Tls::start();
    let (url, ca) = (tls.url(), tls.file("ca.pem"));
    let (cert, key) = (tls.file("client.pem"), tls.file("client.key"));
    let to = ["demo", "--redis", &url, "--retry-for", "0s", "--data", "x"];
    let with_ca = [&to[..], &["--redis-ca-file", &ca]].concat();
    let client = ["--redis-cert-file", &cert, "--redis-key-file", &key];
    ok(&run(&[&with_ca[..], &client].concat(), b""));
    let environment = command(&to[..])
        .env("SSE_REDIS__CA_FILE", &ca)
        .env("SSE_REDIS__CERT_FILE", &cert)
        .env("SSE_REDIS__KEY_FILE", &key)
        .output();
    ok(&environment.unwrap().into());
    assert_eq!(tls.redis.entries("demo").len(), 2);
    // The server is not trusted; the client is not known.
    let untrusted = [&to[..], &client].concat();
    for flags in [&untrusted, &with_ca] {
        let run = run(flags, b"");
        assert_eq!(run.code, Some(69), "{run:?}");
        assert_eq!(run.stderr.lines().count(), 1, "{run:?}");
    }
    let half = [&with_ca[..], &client[..2]].concat();
    assert_eq!(run(&half, b"").code, Some(64));
    assert_eq!(tls.redis.entries("demo").len(), 2);
}

#[test]
fn a_password_that_is_replaced_is_read_again() {
    let redis = Redis::start(&[]);
    let file = tempfile::NamedTempFile::new().unwrap();
    let change = |password: &str| {
        std::fs::write(file.path(), format!("{password}\n")).unwrap();
        let rule = format!(">{password}");
        redis.ask::<()>(&[
            "ACL", "SETUSER", "app", "reset", "on", &rule, "+@all", "~*", "&*",
        ]);
    };
    change("first");
    let url = format!("redis://app@127.0.0.1:{}", redis.port());
    let path = file.path().to_str().unwrap();
    let mut publisher = Typed::start(&["demo", "--redis", &url, "--redis-password-file", path]);
    publisher.line("before");
    eventually("it is published", || redis.entries("demo").len() == 1);
    change("second");
    redis.ask::<i64>(&["CLIENT", "KILL", "USER", "app"]);
    publisher.line("after");
    let done = publisher.finish();
    assert_eq!(done.code, Some(0), "{done:?}");
    assert_eq!(data(&redis, "demo"), ["before", "after"]);
}

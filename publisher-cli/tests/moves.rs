//! Idempotency keys in a cluster while a slot is on its way from one primary to another: the keys of a room go one by one.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use support::cluster::Cluster;
use support::{Redis, Run, run};

const STREAM: &str = "sse:room:demo";

fn once(key: &str) -> String {
    format!("{{{STREAM}}}:once:{key}")
}

fn carry(from: &Redis, to: &Redis, key: &str) {
    let port = to.port().to_string();
    let words = ["MIGRATE", "127.0.0.1", &port, key, "0", "60000"];
    assert_eq!(from.ask::<String>(&words), "OK", "{key}");
}

/// Publishes with this idempotency key, and gives up soon.
fn publish(cluster: &Cluster, key: &str) -> Run {
    let url = cluster.url();
    let words = [
        "demo",
        "--redis",
        &url,
        "--data",
        "x",
        "--retry-for",
        "50ms",
    ];
    run(&[&words[..], &["--idempotency-key", key]].concat(), b"")
}

/// How many entries the room has, at both ends of the way.
fn entries(nodes: [&Redis; 2]) -> usize {
    let length = |node: &Redis| {
        let mut connection = node.connection();
        redis::pipe()
            .cmd("ASKING")
            .ignore()
            .cmd("XLEN")
            .arg(STREAM)
            .query::<(usize,)>(&mut connection)
    };
    nodes
        .into_iter()
        .filter_map(|node| Some(length(node).ok()?.0))
        .sum()
}

#[test]
fn a_repeat_is_not_stored_again_whichever_key_has_moved() {
    for stream_first in [true, false] {
        let cluster = Cluster::start();
        let id = publish(&cluster, "k");
        assert_eq!(id.code, Some(0), "{id:?}");
        let from = cluster.owner("demo");
        let to = (from + 1) % 3;
        let ends = [&cluster.nodes[from], &cluster.nodes[to]];
        let moving = cluster.begin_move("demo", to);
        let mut keys = [STREAM.to_owned(), once("k")];
        if !stream_first {
            keys.reverse();
        }
        let same = |stage: &str| {
            let again = publish(&cluster, "k");
            assert_eq!(
                (again.code, &again.stdout),
                (Some(0), &id.stdout),
                "{stage}"
            );
        };
        same("both are there still");
        carry(ends[0], ends[1], &keys[0]);
        let apart = publish(&cluster, "k");
        assert_eq!(apart.code, Some(69), "{apart:?}");
        assert!(apart.stderr.contains("on its way"), "{apart:?}");
        assert_eq!(entries(ends), 1, "{} has moved", keys[0]);
        carry(ends[0], ends[1], &keys[1]);
        same("both have moved");
        moving.finish();
        same("the slot has moved");
        assert_eq!(entries(ends), 1);
    }
}

/// One that is new is stored where the stream is already, while others of the room have not come there yet.
#[test]
fn a_new_event_does_not_wait_for_other_keys_to_move() {
    let cluster = Cluster::start();
    let old = publish(&cluster, "old");
    let from = cluster.owner("demo");
    let to = (from + 1) % 3;
    let ends = [&cluster.nodes[from], &cluster.nodes[to]];
    let moving = cluster.begin_move("demo", to);
    carry(ends[0], ends[1], STREAM);
    let new = publish(&cluster, "new");
    assert_eq!(new.code, Some(0), "{new:?}");
    let again = publish(&cluster, "new");
    assert_eq!(again.stdout, new.stdout, "{again:?}");
    // Several together, of which one is known only where the slot comes from.
    let url = cluster.url();
    let lines = |keys: [&str; 2]| {
        let line = |key: &str| format!("{{\"data\":\"x\",\"idempotency_key\":\"{key}\"}}\n");
        let input: String = keys.into_iter().map(line).collect();
        let words = ["demo", "--redis", &url, "--json", "--retry-for", "50ms"];
        run(&words, input.as_bytes())
    };
    assert_eq!(lines(["newer", "old"]).code, Some(69));
    // The first of them may be stored by then, or not: the other one is not again.
    assert!([2, 3].contains(&entries(ends)));
    let both = lines(["newer", "newest"]);
    assert_eq!(both.code, Some(0), "{both:?}");
    moving.finish();
    assert_eq!(publish(&cluster, "old").stdout, old.stdout);
    assert_eq!(entries(ends), 4);
}

/// What is written behind a repeat, for replicas to be waited for, goes where the event went.
#[test]
fn replicas_are_waited_for_where_the_slot_goes_to() {
    let cluster = Cluster::start();
    let url = cluster.url();
    let moving = cluster.begin_move("demo", (cluster.owner("demo") + 1) % 3);
    for input in ["0\n", "1\n2\n"] {
        let words = [
            "demo",
            "--redis",
            &url,
            "--replicas",
            "1",
            "--retry-for",
            "0s",
        ];
        let flags = ["--replica-timeout", "10ms"];
        let run = run(&[&words[..], &flags].concat(), input.as_bytes());
        assert!(!run.stderr.contains("on its way"), "{run:?}");
        assert!(run.stderr.contains("0 of 1 replicas"), "{run:?}");
    }
    moving.finish();
}

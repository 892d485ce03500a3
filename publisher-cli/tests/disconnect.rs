//! `sse-publish disconnect`, against Redis, a cluster and an admin listener.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;

use support::cluster::Cluster;
use support::{Redis, run};

type Entries = Vec<(String, HashMap<String, String>)>;

fn entry(name: &str, value: &str) -> HashMap<String, String> {
    HashMap::from([(name.to_owned(), value.to_owned())])
}

#[test]
fn an_order_is_an_entry_and_its_id_is_printed() {
    let redis = Redis::start(&[]);
    let url = redis.url();
    let user = run(&["disconnect", "--user", "ann b", "--redis", &url], b"");
    let room = ["disconnect", "--room", "chat:1", "--redis", &url];
    let room = run(&[&room[..], &["--prefix", "live:"]].concat(), b"");
    assert_eq!(
        (user.code, room.code),
        (Some(0), Some(0)),
        "{user:?} {room:?}"
    );
    let entries: Entries = redis.ask(&["XRANGE", "sse:disconnects", "-", "+"]);
    assert_eq!(
        entries,
        [(user.stdout.trim().to_owned(), entry("user", "ann b"))]
    );
    let entries: Entries = redis.ask(&["XRANGE", "live:disconnects", "-", "+"]);
    assert_eq!(
        entries,
        [(room.stdout.trim().to_owned(), entry("room", "chat:1"))]
    );
}

#[test]
fn what_names_nobody_or_two_is_refused() {
    for args in [
        &["disconnect"][..],
        &["disconnect", "--user", ""],
        &["disconnect", "--user", &"x".repeat(257)],
        &["disconnect", "--room", "a b"],
        &["disconnect", "--user", "ann", "--room", "a"],
        &["disconnect", "--user", "ann", "--token", "t"],
        &[
            "disconnect",
            "--user",
            "ann",
            "--url",
            "http://h",
            "--prefix",
            "x:",
        ],
        &["disconnect", "--user", "ann", "--url", "ftp://h"],
        &["disconnect", "--user", "ann", "--url", "http://t@h"],
    ] {
        assert_eq!(run(args, b"").code, Some(64), "{args:?}");
    }
    let away = ["disconnect", "--user", "ann", "--retry-for", "0s"];
    let redis = run(
        &[&away[..], &["--redis", "redis://127.0.0.1:1"]].concat(),
        b"",
    );
    let http = run(&[&away[..], &["--url", "http://127.0.0.1:1"]].concat(), b"");
    assert_eq!(
        (redis.code, http.code),
        (Some(69), Some(69)),
        "{redis:?} {http:?}"
    );
}

#[test]
fn a_user_of_redis_that_may_not_is_told() {
    let redis = Redis::start(&[]);
    let rights = ["on", ">p", "~sse:room:*", "-@all", "+ping", "+xadd"];
    let words = [&["ACL", "SETUSER", "backend"][..], &rights].concat();
    let _: String = redis.ask(&words);
    let url = redis.url().replace("//", "//backend:p@");
    let refused = run(&["disconnect", "--user", "ann", "--redis", &url], b"");
    assert_eq!(refused.code, Some(77), "{refused:?}");
    let _: String = redis.ask(&["ACL", "SETUSER", "backend", "~sse:disconnects"]);
    let allowed = run(&["disconnect", "--user", "ann", "--redis", &url], b"");
    assert_eq!(allowed.code, Some(0), "{allowed:?}");
}

#[test]
fn in_a_cluster_it_goes_to_the_primary_of_the_stream() {
    let cluster = Cluster::start();
    let order = run(
        &["disconnect", "--user", "ann", "--redis", &cluster.url()],
        b"",
    );
    assert_eq!(order.code, Some(0), "{order:?}");
    let words = ["XLEN", "sse:disconnects"];
    let holders = cluster
        .nodes
        .iter()
        .map(|node| node.try_ask::<u64>(&words).unwrap_or(0));
    assert_eq!(holders.sum::<u64>(), 1);
}

#[test]
fn an_admin_listener_is_shown_the_token() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let served = std::thread::spawn(move || {
        let mut requests = Vec::new();
        for (status, body) in [
            ("503 Service Unavailable", "{\"error\":\"try again\"}"),
            ("201 Created", "{\"id\":\"7-0\"}"),
            ("401 Unauthorized", "{\"error\":\"not the token\"}"),
        ] {
            let (mut stream, _) = listener.accept().unwrap();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let (mut head, mut length) = (String::new(), 0);
            while !head.ends_with("\r\n\r\n") {
                let begin = head.len();
                assert!(reader.read_line(&mut head).unwrap() > 0, "{head}");
                if let Some(value) = head[begin..].strip_prefix("content-length: ") {
                    length = value.trim().parse().unwrap();
                }
            }
            let mut content = vec![0; length];
            reader.read_exact(&mut content).unwrap();
            requests.push((head, String::from_utf8(content).unwrap()));
            let size = body.len();
            let head = format!("HTTP/1.1 {status}\r\nconnection: close\r\n");
            let text = format!("{head}content-length: {size}\r\n\r\n{body}");
            stream.write_all(text.as_bytes()).unwrap();
        }
        requests
    });
    let flags = [
        "disconnect",
        "--room",
        "chat:1",
        "--url",
        &url,
        "--token",
        "s3cret",
    ];
    let first = run(&flags, b"");
    assert_eq!(
        (first.code, first.stdout.as_str()),
        (Some(0), "7-0\n"),
        "{first:?}"
    );
    let second = run(&flags, b"");
    assert_eq!(second.code, Some(77), "{second:?}");
    assert!(second.stderr.ends_with(": not the token\n"), "{second:?}");
    assert!(!second.stderr.contains("s3cret"), "{second:?}");
    for (head, body) in served.join().unwrap() {
        assert!(head.starts_with("POST /disconnects HTTP/1.1\r\n"), "{head}");
        assert!(head.contains("authorization: Bearer s3cret\r\n"), "{head}");
        assert_eq!(body, "{\"room\":\"chat:1\"}");
    }
}

//! The built program against a real Redis.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::io::{BufRead, BufReader, Write};

use support::{Redis, Run, eventually, run, start};

fn ok(run: &Run) -> &str {
    assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""), "{run:?}");
    &run.stdout
}

/// One sentence on standard error, and this exit code.
fn refused(run: &Run, code: i32, word: &str) {
    assert_eq!(run.code, Some(code), "{run:?}");
    let last = run.stderr.lines().last().unwrap_or_default();
    assert!(last.starts_with("sse-publish: "), "{run:?}");
    assert!(last.contains(word), "no {word:?} in {run:?}");
}

fn lines(count: usize) -> Vec<u8> {
    (0..count)
        .flat_map(|n| format!("{n}\n").into_bytes())
        .collect()
}

/// The room has 0, 1, 2, … in order, and the program printed the ids that are there.
fn whole(redis: &Redis, room: &str, count: usize, run: &Run) {
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    let entries = redis.entries(room);
    let numbers: Vec<usize> = entries.iter().map(|e| e.2.parse().unwrap()).collect();
    assert_eq!(numbers.len(), count);
    assert!(numbers.iter().copied().eq(0..count));
    let printed: Vec<serde_json::Value> = run
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(printed.len(), count);
    for (line, entry) in printed.iter().zip(&entries) {
        assert_eq!(
            line,
            &serde_json::json!({"room": room, "id": entry.0, "repeat": false})
        );
    }
}

#[test]
fn one_event() {
    let redis = Redis::start(&[]);
    let url = redis.url();
    let arguments = ["demo", "--event", "chat", "--data", "{\"m\":\"hi\"}"];
    let run = run(&[&arguments[..], &["--redis", &url]].concat(), b"");
    let id = ok(&run).trim_end().to_owned();
    let entry = (id, "chat".to_owned(), "{\"m\":\"hi\"}".to_owned());
    assert_eq!(redis.entries("demo"), [entry]);
    let left: i64 = redis.ask(&["TTL", "sse:room:demo"]);
    assert!((1..=86_400).contains(&left));
}

#[test]
fn options_reach_the_function() {
    let redis = Redis::start(&[]);
    let url = redis.url();
    let to = ["--redis", &url, "--prefix", "app:", "--max-len", "0"];
    ok(&run(
        &[&["r", "--data", "", "--expire", "2h"], &to[..]].concat(),
        b"",
    ));
    let left: i64 = redis.ask(&["TTL", "app:room:r"]);
    assert!((3_600..=7_200).contains(&left));
    ok(&run(
        &[
            &["r", "--data", "", "--expire", "0s", "--max-age", "1d"],
            &to[..],
        ]
        .concat(),
        b"",
    ));
    assert_eq!(redis.ask::<i64>(&["TTL", "app:room:r"]), -1);
    assert_eq!(redis.ask::<i64>(&["XLEN", "app:room:r"]), 2);
    // Trimming is rough: whole nodes of the stream go.
    let redis_flags = ["r", "--redis", &url, "--max-len", "100"];
    ok(&run(&redis_flags, &lines(1_000)));
    assert!(redis.ask::<i64>(&["XLEN", "sse:room:r"]) < 300);
}

#[test]
fn many_lines_in_order() {
    let redis = Redis::start(&[]);
    let url = redis.url();
    let flags = ["demo", "--redis", &url, "--max-len", "0"];
    let run1 = run(&[&flags[..], &["--json"]].concat(), &lines(5_000));
    whole(&redis, "demo", 5_000, &run1);
    let run2 = run(&[&flags[..], &["--event", "n"]].concat(), b"last");
    assert!(ok(&run2).starts_with("published 1 event; last id "));
    assert_eq!(redis.entries("demo").last().unwrap().1, "n");
    assert_eq!(ok(&run(&flags, b"")), "published 0 events\n");
    ok(&run(
        &[&flags[..], &["--rate", "100000"]].concat(),
        &lines(300),
    ));
    assert_eq!(redis.entries("demo").len(), 5_301);
}

#[test]
fn lines_are_json_or_text() {
    let redis = Redis::start(&[]);
    let url = redis.url();
    let input = "{\"event\":\"a\",\"data\":\"one\\ntwo\"}\n \n{\"data\":{\"b\": 1.50,  \"a\": \"x  y\"}}\r\nplain text\n[1]";
    let flags = ["demo", "--redis", &url, "--event", "dflt"];
    ok(&run(&flags, input.as_bytes()));
    let found = |room: &str| -> Vec<(String, String)> {
        let entries = redis.entries(room);
        entries.into_iter().map(|e| (e.1, e.2)).collect()
    };
    let expected = [
        ("a", "one\ntwo"),
        ("dflt", "{\"b\":1.50,\"a\":\"x  y\"}"),
        ("dflt", "plain text"),
        ("dflt", "[1]"),
    ];
    let owned = |list: &[(&str, &str)]| -> Vec<(String, String)> {
        list.iter()
            .map(|(e, d)| (e.to_string(), d.to_string()))
            .collect()
    };
    assert_eq!(found("demo"), owned(&expected));
    ok(&run(
        &["text", "--redis", &url, "--format", "text"],
        b"{\"data\":1}\n\nx\n",
    ));
    assert_eq!(
        found("text"),
        owned(&[("", "{\"data\":1}"), ("", ""), ("", "x")])
    );
    refused(
        &run(&["json", "--redis", &url, "--format", "json"], b"x\n"),
        64,
        "line 1",
    );
    assert_eq!(found("json"), []);
}

#[test]
fn an_idempotency_key_stores_once() {
    let redis = Redis::start(&[]);
    let url = redis.url();
    let flags = ["demo", "--redis", &url, "--idempotency-key", "k", "--json"];
    let line = |run: &Run| serde_json::from_str::<serde_json::Value>(ok(run)).unwrap();
    let first = line(&run(&[&flags[..], &["--data", "x"]].concat(), b""));
    let second = line(&run(&[&flags[..], &["--data", "x"]].concat(), b""));
    assert_eq!(
        (&first["repeat"], &second["repeat"]),
        (&false.into(), &true.into())
    );
    assert_eq!(first["id"], second["id"]);
    let input = b"a\n{\"data\":\"b\",\"idempotency_key\":\"own\"}\nc\n";
    for _ in 0..2 {
        ok(&run(&flags, input));
    }
    let plain = run(&flags[..5], input);
    assert!(ok(&plain).starts_with("published 3 events, of which 3 repeats; last id "));
    let data: Vec<String> = redis.entries("demo").into_iter().map(|e| e.2).collect();
    assert_eq!(data, ["x", "a", "b", "c"]);
}

#[test]
fn what_breaks_a_rule_is_refused_and_not_stored() {
    let redis = Redis::start(&[]);
    let url = redis.url();
    let long = "x".repeat(257);
    let at = |arguments: &[&str], input: &[u8]| {
        run(&[arguments, &["--redis", &url][..]].concat(), input)
    };
    let cases: [(&[&str], &[u8], &str); 22] = [
        (&["a b", "--data", "x"], b"", "letters"),
        (&["..", "--data", "x"], b"", "'..'"),
        (&["", "--data", "x"], b"", "at least one"),
        (&[&long, "--data", "x"], b"", "128"),
        (&["r", "--data", "x", "--event", "stream.x"], b"", "stream."),
        (&["r", "--data", "x", "--event", "a\nb"], b"", "CR, LF"),
        (&["r", "--data", "x", "--event", &long], b"", "256"),
        (
            &["r", "--data", "xxx", "--max-bytes", "2"],
            b"",
            "limit of 2",
        ),
        (
            &["r", "--data", "x", "--idempotency-key", ""],
            b"",
            "1 to 256",
        ),
        (
            &["r", "--data", "x", "--idempotency-key", &long],
            b"",
            "1 to 256",
        ),
        (
            &["r", "--ephemeral", "--data", "x", "--max-len", "1"],
            b"",
            "--max-len",
        ),
        (&["r", "--frob"], b"", "--frob"),
        (&["r", "--data", "x", "--rate", "2"], b"", "--rate"),
        (&["r", "--event", "stream.x"], b"", "stream."),
        (
            &["r"],
            b"\xff\n",
            "line 1: event name and data must be UTF-8",
        ),
        (&["r"], b"{\"data\":\"x\",\"id\":1}", "`id`"),
        (&["r"], b"{\"event\":\"x\"}", "`data`"),
        (&["r"], b"{\"data\":", "EOF"),
        (&["r"], b"{\"data\":1,\"data\":2}", "duplicate"),
        (&["r"], b"{\"event\":\"stream.x\",\"data\":1}", "stream."),
        (
            &["r", "--ephemeral"],
            b"{\"idempotency_key\":\"x\",\"data\":1}",
            "ephemeral",
        ),
        (&["r", "--max-bytes", "1"], &[b'x'; 5000], "more than"),
    ];
    for (arguments, input, word) in cases {
        refused(&at(arguments, input), 64, word);
    }
    refused(
        &run(&["r", "--redis", "http://x", "--data", "x"], b""),
        64,
        "Redis URL",
    );
    for (flags, word) in [
        (["--redis", "redis+cluster://x/1"], "database 0"),
        (["--redis", "redis+sentinel://x"], "name of the primary"),
        (["--redis-password-file", "/no/such"], "/no/such"),
        (["--redis-ca-file", "ca.pem"], "rediss://"),
    ] {
        let run = run(&[&["r", "--data", "x"][..], &flags].concat(), b"");
        refused(&run, 64, word);
    }
    assert_eq!(redis.ask::<i64>(&["DBSIZE"]), 0);
    let half = at(&["r"], b"one\ntwo\n{\"x\":1}\nfour\n");
    refused(&half, 64, "line 3");
    assert!(half.stdout.starts_with("published 2 events"));
    assert_eq!(redis.entries("r").len(), 2);
}

#[test]
fn refusals_of_the_server_have_their_codes() {
    let redis = Redis::start(&[]);
    let url = redis.url();
    let mine = ["--data", "x", "--redis", &url];
    redis.ask::<()>(&["SET", "sse:room:w", "x"]);
    refused(
        &run(&[&["w"], &mine[..]].concat(), b""),
        1,
        "other than a stream",
    );
    redis.ask::<()>(&["ACL", "SETUSER", "u", "on", ">p", "~*", "&*", "+@read"]);
    let user = url.replace("redis://", "redis://u:p@");
    refused(
        &run(&["r", "--data", "x", "--redis", &user], b""),
        77,
        "NOPERM",
    );
    refused(&run(&["load", "--redis", &user], b""), 77, "NOPERM");
    let wrong = url.replace("redis://", "redis://u:wrong@");
    let run1 = run(&["r", "--data", "x", "--redis", &wrong], b"");
    refused(&run1, 77, "credentials");
    assert!(!run1.stderr.contains("wrong@"));
    redis.ask::<()>(&["CONFIG", "SET", "requirepass", "secret"]);
    refused(&run(&[&["r"], &mine[..]].concat(), b""), 77, "NOAUTH");
    let closed = ["r", "--data", "x", "--redis", "redis://127.0.0.1:1"];
    for patience in ["0s", "200ms"] {
        refused(
            &run(&[&closed[..], &["--retry-for", patience]].concat(), b""),
            69,
            "not available",
        );
    }
}

#[test]
fn an_ephemeral_event_is_not_stored() {
    let redis = Redis::start(&[]);
    let url = redis.url();
    let mut connection = redis::Client::open(url.as_str())
        .unwrap()
        .get_connection()
        .unwrap();
    let mut channel = connection.as_pubsub();
    channel.subscribe("sse:room:demo").unwrap();
    let flags = ["demo", "--redis", &url, "--ephemeral", "--json"];
    let first = run(
        &[&flags[..], &["--event", "typing", "--data", "ann"]].concat(),
        b"",
    );
    assert_eq!(
        ok(&first),
        "{\"room\":\"demo\",\"id\":null,\"repeat\":false}\n"
    );
    ok(&run(&flags, b"plain\n"));
    let mut heard = || {
        channel
            .get_message()
            .unwrap()
            .get_payload::<String>()
            .unwrap()
    };
    assert_eq!(heard(), "{\"event\":\"typing\",\"data\":\"ann\"}");
    assert_eq!(heard(), "{\"data\":\"plain\"}");
    assert_eq!(redis.ask::<i64>(&["DBSIZE"]), 0);
}

#[test]
fn killed_connections_lose_and_double_nothing() {
    const COUNT: usize = 30_000;
    let redis = Redis::start(&[]);
    let flags = ["demo", "--redis", &redis.url(), "--max-len", "0", "--json"];
    let publisher = start(&flags, lines(COUNT));
    let (mut rounds, mut seen) = (0, 0);
    eventually("the kills", || {
        let length: i64 = redis.ask(&["XLEN", "sse:room:demo"]);
        if length > seen {
            seen = length;
            rounds += 1;
            redis.kill_clients_before_they_are_answered();
        }
        rounds == 10
    });
    whole(&redis, "demo", COUNT, &publisher.join().unwrap());
}

#[test]
fn a_server_that_crashes_with_its_data_loses_and_doubles_nothing() {
    const COUNT: usize = 20_000;
    let mut redis = Redis::start(&["--appendonly", "yes", "--appendfsync", "always"]);
    let flags = ["demo", "--redis", &redis.url(), "--max-len", "0", "--json"];
    let publisher = start(&flags, lines(COUNT));
    for reached in (500..COUNT as i64 / 2).step_by(1_500) {
        eventually("progress", || {
            redis.ask::<i64>(&["XLEN", "sse:room:demo"]) >= reached
        });
        // A batch is stored and not answered, so that its repeat needs the keys on disk.
        redis.kill_clients_before_they_are_answered();
        redis.crash_and_restart();
    }
    whole(&redis, "demo", COUNT, &publisher.join().unwrap());
}

#[test]
fn functions_that_disappear_are_loaded_again() {
    const COUNT: usize = 20_000;
    let redis = Redis::start(&[]);
    let flags = ["demo", "--redis", &redis.url(), "--max-len", "0", "--json"];
    let publisher = start(&flags, lines(COUNT));
    for reached in [100, 4_000, 8_000] {
        eventually("progress", || {
            redis.ask::<i64>(&["XLEN", "sse:room:demo"]) >= reached
        });
        redis.ask::<()>(&["FUNCTION", "FLUSH"]);
    }
    whole(&redis, "demo", COUNT, &publisher.join().unwrap());
}

#[test]
fn the_order_stays_while_functions_come_and_go() {
    const COUNT: usize = 20_000;
    let redis = Redis::start(&[]);
    let flags = ["demo", "--redis", &redis.url(), "--max-len", "0"];
    ok(&run(&["load", "--redis", &redis.url()], b""));
    let library: Vec<u8> = redis.ask(&["FUNCTION", "DUMP"]);
    let restore = redis::cmd("FUNCTION").arg("RESTORE").arg(&library).take();
    let mut other = redis.connection();
    // A batch has more bytes than the server reads in one go: others have their turn in between.
    let line = |n: usize| format!("{n} {}\n", "x".repeat(800)).into_bytes();
    let publisher = start(&flags, (0..COUNT).flat_map(line).collect());
    let mut seen = 0;
    while !publisher.is_finished() {
        let length = redis.ask::<i64>(&["XLEN", "sse:room:demo"]);
        if length > seen {
            seen = length;
            redis.ask::<()>(&["FUNCTION", "FLUSH"]);
            // Refused if the publisher was faster.
            let _: redis::RedisResult<()> = restore.query(&mut other);
        }
    }
    ok(&publisher.join().unwrap());
    let entries = redis.entries("demo");
    let numbers = entries
        .iter()
        .map(|entry| entry.2.split_once(' ').unwrap().0.parse::<usize>().unwrap());
    assert!(numbers.eq(0..COUNT), "lost, doubled or out of order");
}

#[test]
fn a_server_without_transactions_is_enough() {
    let redis = Redis::start(&[
        "--rename-command",
        "MULTI",
        "",
        "--rename-command",
        "EXEC",
        "",
    ]);
    let run = run(&["demo", "--redis", &redis.url(), "--json"], &lines(300));
    whole(&redis, "demo", 300, &run);
}

#[test]
fn lines_may_name_their_rooms() {
    let redis = Redis::start(&[]);
    let flags = ["a", "--redis", &redis.url(), "--json"];
    let input = b"1\n{\"room\":\"b\",\"data\":2}\n{\"room\":\"b\",\"data\":3}\n4\n";
    let rooms: Vec<serde_json::Value> = ok(&run(&flags, input))
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["room"].clone())
        .collect();
    assert_eq!(rooms, ["a", "b", "b", "a"]);
    let data = |room: &str| -> Vec<String> {
        let entries = redis.entries(room);
        entries.into_iter().map(|entry| entry.2).collect()
    };
    assert_eq!(
        (data("a"), data("b")),
        (vec!["1".into(), "4".into()], vec!["2".into(), "3".into()])
    );
    refused(&run(&flags, b"{\"room\":\"..\",\"data\":1}"), 64, "line 1");
    // What follows a failure is not published, in whichever room.
    redis.ask::<()>(&["SET", "sse:room:w", "x"]);
    let stopped = run(&flags, b"5\n{\"room\":\"w\",\"data\":6}\n7\n");
    refused(&stopped, 1, "line 2");
    let last: serde_json::Value =
        serde_json::from_str(stopped.stdout.lines().last().unwrap()).unwrap();
    assert!(
        last["error"]
            .as_str()
            .unwrap()
            .contains("other than a stream")
    );
    assert_eq!(data("a"), ["1", "4", "5"]);
}

#[test]
fn a_signal_ends_it_with_a_count() {
    let redis = Redis::start(&[]);
    let mut child = support::command(&["demo", "--redis", &redis.url(), "--json"])
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(&lines(3)).unwrap();
    let mut answers = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(answers.by_ref().take(3).filter(Result::is_ok).count(), 3);
    support::signal("INT", &child);
    let sentence = "interrupted: published 3 events";
    let last = answers.next().unwrap().unwrap();
    assert_eq!(last, format!("{{\"error\":\"{sentence}\"}}"));
    let run: Run = child.wait_with_output().unwrap().into();
    refused(&run, 130, sentence);
    drop(stdin);

    let away = ["demo", "--redis", "redis://127.0.0.1:1", "--data", "x"];
    let mut child = support::command(&away).spawn().unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap()).lines();
    let trouble = stderr.next().unwrap().unwrap();
    assert!(trouble.contains("trying again"), "{trouble}");
    support::signal("TERM", &child);
    let last = stderr.next().unwrap().unwrap();
    assert!(
        last.contains("published 0 events, and perhaps the next 1"),
        "{last}"
    );
    assert_eq!(child.wait().unwrap().code(), Some(130));
}

#[test]
fn a_server_without_functions_runs_the_script() {
    let mut flags = Vec::new();
    for name in ["FCALL", "FCALL_RO", "FUNCTION"] {
        flags.extend(["--rename-command", name, ""]);
    }
    let redis = Redis::start(&flags);
    let url = redis.url();
    let load = run(&["load", "--redis", &url], b"");
    assert!(ok(&load).contains("script was loaded"));
    redis.ask::<()>(&["SCRIPT", "FLUSH"]);
    let run = run(&["demo", "--redis", &url, "--json"], &lines(300));
    whole(&redis, "demo", 300, &run);
}

#[test]
fn load_keeps_what_is_later_and_what_is_set() {
    let redis = Redis::start(&["--notify-keyspace-events", "Eg"]);
    let url = redis.url();
    let load = || run(&["load", "--redis", &url], b"");
    let first = load();
    let version = format!(
        "version {} was loaded\n",
        protocol::publish::LIBRARY_VERSION
    );
    assert!(ok(&first).contains(&version), "{first:?}");
    let flags: Vec<String> = redis.ask(&["CONFIG", "GET", "notify-keyspace-events"]);
    assert!("EgKtxe".chars().all(|flag| flags[1].contains(flag)));
    assert!(ok(&load()).contains("was there already"));
    let later = "#!lua name=sse\nredis.register_function{function_name='sse_version', flags={'no-writes'}, callback=function() return 99 end}";
    redis.ask::<()>(&["FUNCTION", "LOAD", "REPLACE", later]);
    assert!(ok(&load()).contains("version 99 is there and stays"));
    assert_eq!(redis.ask::<i64>(&["FCALL_RO", "sse_version", "0"]), 99);
    let earlier = later.replace("99", "0");
    redis.ask::<()>(&["FUNCTION", "LOAD", "REPLACE", &earlier]);
    assert!(ok(&load()).contains("in place of version 0"));
}

#[test]
fn a_reader_that_leaves_is_no_failure() {
    let redis = Redis::start(&[]);
    let mut child = support::command(&["demo", "--redis", &redis.url(), "--json"])
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(&lines(500)).unwrap();
    drop(stdin);
    let run: Run = child.wait_with_output().unwrap().into();
    ok(&run);
    assert_eq!(redis.entries("demo").len(), 500);
}

#[test]
fn completions_are_printed() {
    let script = run(&["completions", "bash"], b"");
    assert!(ok(&script).contains("--idempotency-key"));
}

#[test]
fn replicas_are_waited_for_and_missed() {
    let primary = Redis::start(&["--repl-diskless-sync-delay", "0"]);
    let port = primary.port().to_string();
    let replica = Redis::start(&["--replicaof", "127.0.0.1", &port]);
    eventually("the replica follows", || {
        let text: String = primary.ask(&["INFO", "replication"]);
        text.contains("state=online")
    });
    let url = primary.url();
    let to = ["demo", "--redis", &url, "--replicas"];
    let flags = ["1", "--replica-timeout", "10s", "--json"];
    let run1 = run(&[&to[..], &flags].concat(), b"one\ntwo\n");
    assert_eq!(replica.entries("demo").len(), 2);
    for line in ok(&run1).lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(line["replicas"], 1, "{line}");
    }
    replica.signal("STOP");
    let flags = ["1", "--replica-timeout", "50ms", "--idempotency-key", "k"];
    let one = [&to[..], &flags, &["--data", "x"]].concat();
    for _ in 0..2 {
        let short = run(&one, b"");
        let entries = primary.entries("demo");
        assert_eq!(entries.len(), 3, "stored once");
        let id = &entries[2].0;
        assert_eq!(short.stdout, format!("{id}\n"));
        refused(
            &short,
            69,
            &format!("the event {id} is stored, but 0 of 1 replicas"),
        );
    }
    // How many lines are published with the first one depends on how soon they come; the rest is not.
    let many = run(&[&to[..], &flags[..3], &["--json"]].concat(), &lines(1_000));
    let stored = primary.entries("demo").len() - 3;
    let printed: Vec<&str> = many.stdout.lines().collect();
    assert_eq!((many.code, printed.len()), (Some(69), stored + 1));
    assert!(printed[0].contains("\"replicas\":0") && printed[stored].contains("\"error\""));
    assert!((1..1_000).contains(&stored), "{stored}");
    replica.signal("CONT");
    let again = [&to[..], &["1", "--idempotency-key", "k", "--data", "x"]].concat();
    let again = run(&[&again[..], &["--replica-timeout", "10s"]].concat(), b"");
    assert_eq!(ok(&again).trim_end(), primary.entries("demo")[2].0);
    let more = run(
        &[&to[..], &["2", "--replica-timeout", "5ms", "--data", "x"]].concat(),
        b"",
    );
    refused(&more, 69, "1 of 2 replicas");
}

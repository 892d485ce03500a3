//! The built program against a gateway that loses answers on purpose.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc;

use support::run;

/// A request as it arrived.
#[derive(Debug)]
struct Request {
    line: String,
    headers: Vec<(String, String)>,
    body: serde_json::Value,
}

impl Request {
    fn read(reader: &mut impl BufRead) -> Option<Self> {
        let mut next = || {
            let mut line = String::new();
            reader.read_line(&mut line).ok()?;
            Some(line.trim_end().to_owned())
        };
        let line = next()?;
        let mut headers = Vec::new();
        while let Some((name, value)) = next()?.split_once(": ") {
            headers.push((name.to_ascii_lowercase(), value.to_owned()));
        }
        if line.is_empty() {
            return None;
        }
        let request = Self {
            line,
            headers,
            body: serde_json::Value::Null,
        };
        let mut body = vec![0; request.header("content-length")?.parse().ok()?];
        reader.read_exact(&mut body).ok()?;
        let body = serde_json::from_slice(&body).ok()?;
        Some(Self { body, ..request })
    }

    fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|header| header.0 == name);
        found.map(|header| header.1.as_str())
    }
}

/// Gives these answers in turn, an empty one by hanging up; sends on what it was asked.
fn gateway(answers: &[(&'static str, &'static str)]) -> (String, mpsc::Receiver<Request>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (sender, requests) = mpsc::channel();
    let answers = answers.to_vec();
    std::thread::spawn(move || {
        let mut answers = answers.into_iter();
        while let Ok((stream, _)) = listener.accept() {
            serve(stream, &mut answers, &sender);
        }
    });
    (url, requests)
}

fn serve(
    mut stream: TcpStream,
    answers: &mut impl Iterator<Item = (&'static str, &'static str)>,
    sender: &mpsc::Sender<Request>,
) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    while let Some(request) = Request::read(&mut reader) {
        let _ = sender.send(request);
        let Some((status, body)) = answers.next().filter(|answer| !answer.0.is_empty()) else {
            return;
        };
        let length = body.len();
        let text = format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\n\r\n{body}");
        stream.write_all(text.as_bytes()).unwrap();
    }
}

const CREATED: (&str, &str) = ("201 Created", "{\"id\":\"5-0\"}");
const LOST: (&str, &str) = ("", "");

#[test]
fn a_request_says_everything() {
    let (url, requests) = gateway(&[CREATED]);
    let prefixed = format!("{url}/live/");
    let flags = ["a:b@c", "--url", &prefixed, "--key", "s3cret"];
    let event = ["--event", "chat", "--data", "{\"m\":1}"];
    let more = ["--idempotency-key", "k 1"];
    let run = run(&[&flags[..], &event, &more].concat(), b"");
    assert_eq!(
        (run.code, run.stdout.as_str()),
        (Some(0), "5-0\n"),
        "{run:?}"
    );
    let request = requests.recv().unwrap();
    assert_eq!(request.line, "POST /live/rooms/a:b@c/events HTTP/1.1");
    assert_eq!(request.header("authorization"), Some("Bearer s3cret"));
    assert_eq!(request.header("idempotency-key"), Some("k 1"));
    assert_eq!(request.header("content-type"), Some("application/json"));
    assert_eq!(
        request.body,
        serde_json::json!({"event": "chat", "data": "{\"m\":1}"})
    );
}

#[test]
fn limits_and_replicas_go_into_the_query() {
    let some = ("201 Created", "{\"id\":\"5-0\",\"replicas\":1}");
    let none = (
        "201 Created",
        "{\"id\":\"6-0\",\"replicas\":0,\"replicas_error\":\"no WAIT\"}",
    );
    let (url, requests) = gateway(&[some, some, none, CREATED]);
    let limits = ["--max-len", "0", "--max-age", "1h", "--expire", "0s"];
    let wait = ["--replicas", "1", "--replica-timeout", "20ms"];
    let to = ["demo", "--url", &url, "--json"];
    let first = run(&[&to[..], &limits, &wait].concat(), b"one\ntwo\nthree\n");
    assert_eq!(first.code, Some(69), "{first:?}");
    let last = first.stderr.lines().last().unwrap();
    assert!(
        last.contains("event 6-0 is stored") && last.ends_with("(no WAIT)"),
        "{last}"
    );
    assert_eq!(
        first
            .stdout
            .lines()
            .filter(|line| line.contains("\"replicas\":1"))
            .count(),
        2
    );
    let request = requests.recv().unwrap();
    let query = "?max_len=0&max_age=3600000ms&expire=0ms&replicas=1&wait=20ms";
    assert_eq!(
        request.line,
        format!("POST /rooms/demo/events{query} HTTP/1.1")
    );
    // A gateway that knows nothing of replicas.
    let old = run(&[&to[..], &wait, &["--data", "x"]].concat(), b"");
    assert_eq!(old.code, Some(69), "{old:?}");
    assert!(old.stderr.contains("does not say"), "{old:?}");
}

#[test]
fn lost_and_late_answers_are_retried_with_the_same_key() {
    let busy = ("503 Service Unavailable", "{\"error\":\"Redis is away\"}");
    let again = ("200 OK", "{\"id\":\"6-0\"}");
    let (url, requests) = gateway(&[LOST, busy, again, CREATED, LOST, CREATED]);
    let run = run(&["demo", "--url", &url, "--json"], b"one\ntwo\nthree\n");
    assert_eq!(run.code, Some(0), "{run:?}");
    let line = |id: &str| format!("{{\"room\":\"demo\",\"id\":\"{id}\",\"repeat\":false}}\n");
    assert_eq!(run.stdout, line("6-0") + &line("5-0") + &line("5-0"));
    let seen: Vec<Request> = requests.try_iter().collect();
    let data: Vec<&str> = seen
        .iter()
        .filter_map(|r| r.body["data"].as_str())
        .collect();
    assert_eq!(data, ["one", "one", "one", "two", "three", "three"]);
    let key = |n: usize| seen[n].header("idempotency-key").unwrap();
    assert!(key(0) == key(1) && key(1) == key(2) && key(4) == key(5));
    assert!(key(2) != key(3) && key(3) != key(4) && key(0).len() > 32);
}

#[test]
fn refusals_are_not_retried_and_have_their_codes() {
    for (status, code) in [
        ("400 Bad Request", 64),
        ("404 Not Found", 64),
        ("413 Content Too Large", 64),
        ("401 Unauthorized", 77),
        ("403 Forbidden", 77),
        ("409 Conflict", 1),
        ("308 Permanent Redirect", 1),
    ] {
        let (url, requests) = gateway(&[(status, "{\"error\":\"the reason\"}"), CREATED]);
        let run = run(&["demo", "--url", &url, "--data", "x"], b"");
        assert_eq!(run.code, Some(code), "{run:?}");
        assert!(run.stderr.ends_with(": the reason\n"), "{run:?}");
        assert_eq!(requests.try_iter().count(), 1);
    }
    let (url, _requests) = gateway(&[("200 OK", "<html>")]);
    let run1 = run(&["demo", "--url", &url, "--data", "x"], b"");
    assert_eq!(run1.code, Some(1), "{run1:?}");
}

#[test]
fn a_gateway_that_stays_away_is_unavailable() {
    let busy = ("503 Service Unavailable", "{\"error\":\"Redis is away\"}");
    let (url, _requests) = gateway(&[busy; 100]);
    for url in [url.as_str(), "http://127.0.0.1:1"] {
        let flags = ["demo", "--url", url, "--data", "x", "--retry-for", "300ms"];
        assert_eq!(run(&flags, b"").code, Some(69));
    }
}

#[test]
fn an_ephemeral_event_is_sent_once() {
    let (url, requests) = gateway(&[("202 Accepted", "{\"id\":null}"), LOST, CREATED]);
    let flags = ["demo", "--url", &url, "--ephemeral", "--data", "x"];
    let first = run(&flags, b"");
    assert_eq!(
        (first.code, first.stdout.as_str()),
        (Some(0), ""),
        "{first:?}"
    );
    let request = requests.recv().unwrap();
    assert_eq!(
        request.body,
        serde_json::json!({"data": "x", "ephemeral": true})
    );
    assert_eq!(request.header("idempotency-key"), None);
    // Its answer is lost: it may have been delivered.
    assert_eq!(run(&flags, b"").code, Some(69));
    assert_eq!(requests.try_iter().count(), 1);
}

#[test]
fn addresses_and_keys_that_cannot_be_used_are_refused() {
    for url in [
        "h:80",
        "ftp://h",
        "http://u:p@h",
        "http://h/?x",
        "http://",
        "",
    ] {
        let run = run(&["demo", "--url", url, "--data", "x"], b"");
        assert_eq!(run.code, Some(64), "{url}: {run:?}");
    }
    for flag in [
        ["--key", "a\nb"],
        ["--idempotency-key", "ä"],
        ["--ca-file", "ca.pem"],
    ] {
        let flags = ["demo", "--url", "http://127.0.0.1:1", "--data", "x"];
        let run = run(&[&flags[..], &flag].concat(), b"");
        assert_eq!(run.code, Some(64), "{run:?}");
    }
}

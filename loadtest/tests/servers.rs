//! The servers to compare with do what they are for: every event to every subscriber, in order.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

use loadtest::report::model::Report;

const TOOL: &str = env!("CARGO_BIN_EXE_sse-loadtest");

/// A process that ends with the test.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts a server, and gives its address.
fn serve(arguments: &[&str]) -> (Process, String) {
    let mut child = Command::new(TOOL)
        .arg("serve")
        .args(arguments)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    let address = line
        .trim()
        .strip_prefix("listening on ")
        .unwrap()
        .to_owned();
    (Process(child), address)
}

fn redis() -> (Process, u16) {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let mut child = Command::new("redis-server")
        .args([
            "--port",
            &port.to_string(),
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--appendonly",
            "no",
        ])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let ready = lines
        .map_while(Result::ok)
        .any(|line| line.contains("Ready to accept connections"));
    assert!(ready, "redis-server did not start");
    (Process(child), port)
}

fn run(address: &str, more: &[&str]) -> Report {
    run_at("100", address, more)
}

/// So many events a second.
fn run_at(rate: &str, address: &str, more: &[&str]) -> Report {
    let output = Command::new(TOOL)
        .args([
            "run",
            "--url",
            &format!("http://{address}"),
            "-c",
            "60",
            "-r",
            "6",
            "--rate",
            rate,
        ])
        .args(["-d", "1s", "--patience", "10s", "--quiet", "--json"])
        .args(more)
        .output()
        .unwrap();
    let report: Report =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
    assert_eq!(output.status.code(), Some(0), "{:?}", report.checking);
    report
}

#[test]
fn the_floor_delivers_and_one_that_stalls_disturbs_nobody() {
    let (_floor, address) = serve(&["floor"]);
    let report = run(&address, &[]);
    assert_eq!(report.delivering.received, report.publishing.accepted * 10);
    // What a stalled client's sockets cannot take is dropped for it alone. They hold some three events, and as many come
    // for each of the others in 450 ms, which is how long a loaded machine may keep those from reading.
    let report = run_at("40", &address, &["--stalled", "6", "--size", "64K"]);
    assert_eq!(report.delivering.received, report.publishing.accepted * 9);
}

#[test]
fn the_floor_reads_requests_in_pieces_and_several_at_once() {
    let (_floor, address) = serve(&["floor"]);
    let mut reader = TcpStream::connect(&address).unwrap();
    reader.write_all(b"GET /rooms/a/events HT").unwrap();
    reader.write_all(b"TP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut text = String::new();
    read_until(&mut reader, &mut text, "\n\n\r\n");
    let mut publisher = TcpStream::connect(&address).unwrap();
    let post = "POST /rooms/a/events HTTP/1.1\r\nContent-Length: 3\r\n\r\n";
    publisher
        .write_all(format!("{post}one{post}t").as_bytes())
        .unwrap();
    read_until(&mut reader, &mut text, "data: one\n\n\r\n");
    publisher.write_all(b"wo").unwrap();
    read_until(&mut reader, &mut text, "data: two\n\n\r\n");
}

fn read_until(stream: &mut TcpStream, text: &mut String, end: &str) {
    let mut buffer = [0; 1_024];
    while !text.ends_with(end) {
        let got = stream.read(&mut buffer).unwrap();
        assert_ne!(got, 0, "{text}");
        text.push_str(std::str::from_utf8(&buffer[..got]).unwrap());
    }
}

#[test]
fn the_plain_server_delivers() {
    let (_plain, address) = serve(&["plain"]);
    let report = run(&address, &[]);
    assert_eq!(report.delivering.received, report.publishing.accepted * 10);
}

#[test]
fn the_relay_delivers_what_redis_gives_it() {
    let (_redis, port) = redis();
    let url = format!("redis://127.0.0.1:{port}");
    let (_relay, address) = serve(&["floor", "--redis", &url]);
    let report = run(&address, &["--redis", &url]);
    assert_eq!(report.delivering.received, report.publishing.accepted * 10);
    assert_eq!(
        report.redis.unwrap().commands["fcall"],
        report.publishing.accepted
    );
}

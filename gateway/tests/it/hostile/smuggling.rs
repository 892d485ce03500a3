//! Requests that a proxy and the gateway might cut in different places. Each is refused, or read in the one way that the
//! standard gives it; what is inside of its body is never a request.

use super::*;

/// Hidden in a body.
const HIDDEN: &str =
    "POST /rooms/smuggled/events HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi";
/// Sent behind: where an answer is out of step, it is answered wrongly or twice.
const CANARY: &str = "GET /rooms/canary HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

/// How a request may be answered.
#[derive(Clone, Copy, PartialEq)]
enum Fate {
    /// 400 or its like, and the connection is closed: nothing behind it is read.
    Refused,
    /// Answered, and so is what follows it.
    Read(u16),
    /// Answered, and the connection is closed.
    Last(u16),
}

fn chunk(text: &str) -> String {
    format!("{:x}\r\n{text}\r\n", text.len())
}

fn post(headers: &str, body: &str) -> String {
    format!("POST /rooms/target/events HTTP/1.1\r\nHost: a\r\n{headers}\r\n{body}")
}

fn cases() -> Vec<(&'static str, String, Fate)> {
    use Fate::{Last, Read, Refused};
    let whole = format!("{}0\r\n\r\n", chunk(HIDDEN));
    let length = HIDDEN.len();
    let chunked = "Transfer-Encoding: chunked\r\n";
    vec![
        // Without tricks: the measure for what follows.
        (
            "length",
            post(&format!("Content-Length: {length}\r\n"), HIDDEN),
            Read(201),
        ),
        ("chunked", post(chunked, &whole), Read(201)),
        (
            "two lengths",
            post(
                &format!("Content-Length: 2\r\nContent-Length: {length}\r\n"),
                HIDDEN,
            ),
            Refused,
        ),
        (
            "two lengths in one",
            post(&format!("Content-Length: 2, {length}\r\n"), HIDDEN),
            Refused,
        ),
        (
            "a length with a sign",
            post(&format!("Content-Length: +{length}\r\n"), HIDDEN),
            Refused,
        ),
        (
            "a length below zero",
            post("Content-Length: -1\r\n", HIDDEN),
            Refused,
        ),
        (
            "a length in hexadecimal",
            post("Content-Length: 0x2\r\n", HIDDEN),
            Refused,
        ),
        (
            "a length of nothing",
            post("Content-Length: \r\n", HIDDEN),
            Refused,
        ),
        (
            "a length beyond 64 bits",
            post("Content-Length: 18446744073709551618\r\n", HIDDEN),
            Refused,
        ),
        // RFC 9112, section 6.1: chunked counts, and the connection is closed.
        (
            "length and chunked",
            post(&format!("Content-Length: 5\r\n{chunked}"), &whole),
            Last(201),
        ),
        (
            "chunked and length",
            post(&format!("{chunked}Content-Length: 5\r\n"), &whole),
            Last(201),
        ),
        (
            "chunked and two lengths",
            post(
                &format!("Content-Length: 5\r\n{chunked}Content-Length: 9\r\n"),
                &whole,
            ),
            Last(201),
        ),
        (
            "identity",
            post(
                "Transfer-Encoding: identity\r\nContent-Length: 2\r\n",
                HIDDEN,
            ),
            Refused,
        ),
        (
            "chunked before another",
            post("Transfer-Encoding: chunked, identity\r\n", &whole),
            Refused,
        ),
        (
            "chunked and another line",
            post(&format!("{chunked}Transfer-Encoding: identity\r\n"), &whole),
            Refused,
        ),
        (
            "a coding nobody knows",
            post("Transfer-Encoding: xchunked\r\n", &whole),
            Refused,
        ),
        (
            "a coding in quotes",
            post("Transfer-Encoding: \"chunked\"\r\n", &whole),
            Refused,
        ),
        (
            "a vertical tab",
            post("Transfer-Encoding: \x0bchunked\r\n", &whole),
            Refused,
        ),
        (
            "codings before chunked",
            post("Transfer-Encoding: identity, chunked\r\n", &whole),
            Refused,
        ),
        (
            "gzip before chunked",
            post("Transfer-Encoding: gzip, chunked\r\n", &whole),
            Refused,
        ),
        (
            "chunked twice",
            post(&format!("{chunked}{chunked}"), &whole),
            Refused,
        ),
        (
            "a space before the colon",
            post(
                &format!("Content-Length: {length}\r\nTransfer-Encoding : chunked\r\n"),
                &whole,
            ),
            Refused,
        ),
        (
            "a space before the name",
            post(
                &format!("Content-Length: {length}\r\n Transfer-Encoding: chunked\r\n"),
                &whole,
            ),
            Refused,
        ),
        (
            "a line that is continued",
            post(
                &format!("X: a\r\n b\r\nContent-Length: {length}\r\n"),
                HIDDEN,
            ),
            Refused,
        ),
        (
            "a value on the next line",
            post("Transfer-Encoding:\r\n chunked\r\n", &whole),
            Refused,
        ),
        (
            "a bare CR in a value",
            post(
                &format!("X: a\rContent-Length: 2\r\nContent-Length: {length}\r\n"),
                HIDDEN,
            ),
            Refused,
        ),
        ("a bare CR behind a name", post("X\r: a\r\n", ""), Refused),
        (
            "a name without a colon",
            post("Content-Length 2\r\n", HIDDEN),
            Refused,
        ),
        (
            "a NUL in a value",
            post(&format!("X: \0\r\nContent-Length: {length}\r\n"), HIDDEN),
            Refused,
        ),
        (
            "two hosts",
            post(&format!("Host: b\r\nContent-Length: {length}\r\n"), HIDDEN),
            Refused,
        ),
        (
            "no host",
            format!("GET /rooms/target HTTP/1.1\r\nContent-Length: {length}\r\n\r\n{HIDDEN}"),
            Refused,
        ),
        (
            "a host that is none",
            format!("GET /rooms/target HTTP/1.1\r\nHost: a/b\r\n\r\n{HIDDEN}"),
            Refused,
        ),
        (
            "a whole URI and no host",
            format!("GET http://a/rooms/target HTTP/1.1\r\n\r\n{HIDDEN}"),
            Refused,
        ),
        // It knows no Host; the connection ends by itself.
        (
            "no host in the version before",
            "GET /rooms/target HTTP/1.0\r\n\r\n".to_owned(),
            Last(200),
        ),
        (
            "the same host twice",
            post(&format!("Host: a\r\nContent-Length: {length}\r\n"), HIDDEN),
            Refused,
        ),
        (
            "a chunk's size with a sign",
            post(chunked, &format!("+{whole}")),
            Refused,
        ),
        (
            "a chunk's size with a prefix",
            post(chunked, &format!("0x{whole}")),
            Refused,
        ),
        (
            "a chunk without a size",
            post(chunked, &format!("\r\n{whole}")),
            Refused,
        ),
        (
            "a chunk's size beyond 64 bits",
            post(chunked, &format!("10000000000000002\r\nhi\r\n{whole}")),
            Refused,
        ),
        (
            "a chunk that goes on behind its size",
            post(chunked, &format!("2\r\nhi there\r\n{whole}")),
            Refused,
        ),
        (
            "a bare LF behind a size",
            post(chunked, &format!("2\nhi\r\n0\r\n\r\n{HIDDEN}")),
            Refused,
        ),
        (
            "a bare LF in an extension",
            post(chunked, &format!("2;x\nhi\r\n0\r\n\r\n{HIDDEN}")),
            Refused,
        ),
        (
            "a bare LF behind a chunk",
            post(chunked, &format!("2\r\nhi\n0\r\n\r\n{HIDDEN}")),
            Refused,
        ),
        // Allowed, and ignored (RFC 9112, section 7.1.1).
        (
            "a chunk's extension",
            post(chunked, "2;name=\"a;b\"\r\nhi\r\n0;x\r\n\r\n"),
            Read(201),
        ),
        (
            "trailers that name another length",
            post(
                chunked,
                "2\r\nhi\r\n0\r\nContent-Length: 99\r\nHost: b\r\n\r\n",
            ),
            Read(201),
        ),
        (
            "extensions without end",
            post(
                chunked,
                &format!("2;{}\r\nhi\r\n0\r\n\r\n", "x".repeat(40_000)),
            ),
            Refused,
        ),
        // What a body is for, GET or not, is not the next request.
        (
            "a GET with a body",
            format!(
                "GET /rooms/target HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{HIDDEN}"
            ),
            Read(200),
        ),
        (
            "a refused path with a body",
            format!(
                "POST /rooms/%00/events HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{HIDDEN}"
            ),
            Read(404),
        ),
        (
            "a refused method with a body",
            format!("PUT /rooms/target HTTP/1.1\r\nHost: a\r\n{chunked}\r\n{whole}"),
            Read(405),
        ),
        (
            "a refused origin with a body",
            format!(
                "POST /rooms/target/events HTTP/1.1\r\nHost: a\r\nOrigin: https://b.example\r\nContent-Length: {length}\r\n\r\n{HIDDEN}"
            ),
            Read(403),
        ),
        (
            "chunked by the version before",
            format!("POST /rooms/target/events HTTP/1.0\r\nHost: a\r\n{chunked}\r\n{whole}"),
            Refused,
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_is_hidden_in_another() {
    let scene = Scene::begin(Setup::memory()).await;
    let mut wrong = Vec::new();
    for (name, request, fate) in cases() {
        // In one piece, and in two that are cut inside of the head: the gateway must see the same.
        for cut in [0, request.len() / 3] {
            let bytes = request.clone() + CANARY;
            let mut socket = connect(scene.address()).await;
            let (first, second) = bytes.as_bytes().split_at(cut);
            socket.write_all(first).await.unwrap();
            // It may be refused before all of it is sent.
            let _ = socket.write_all(second).await;
            let answer = String::from_utf8_lossy(&rest(&mut socket).await).into_owned();
            // HTTP/1.0 is answered as such.
            let found = statuses(&answer.replace("HTTP/1.0 ", "HTTP/1.1 "));
            let sound = match fate {
                Fate::Refused => {
                    // The answer may be lost where the connection is closed while more is on its way.
                    matches!(found[..], [] | [400..=499 | 501])
                }
                Fate::Read(status) => found == [status, 200],
                Fate::Last(status) => found == [status],
            };
            if !sound {
                wrong.push(format!("{name}, cut at {cut}: {found:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    let history = "/rooms/smuggled/events?limit=1000";
    let accept = [("Accept", "application/json")];
    let history = http::request(scene.address(), "GET", history, &accept, b"").await;
    assert_eq!(history.json()["events"], serde_json::json!([]));
    scene.end().await;
}

/// Lines may end with LF alone (RFC 9112, section 2.2): a head is then still one head.
#[tokio::test(flavor = "multi_thread")]
async fn bare_line_feeds_end_lines_and_nothing_else() {
    let scene = Scene::begin(Setup::memory()).await;
    let head = "POST /rooms/target/events HTTP/1.1\nHost: a\nContent-Length: ";
    let request = format!("{head}{}\n\n{HIDDEN}{CANARY}", HIDDEN.len());
    let answer = say(scene.address(), request.as_bytes()).await;
    assert_eq!(statuses(&answer), [201, 200], "{answer}");
    assert_eq!(scene.gateway.room("smuggled").await["length"], 0);
    scene.end().await;
}

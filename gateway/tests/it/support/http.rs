//! One HTTP request over a raw socket. Knows only what tests need, and fails loudly.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::parse::Dechunker;

/// An answer; header names are lower-case.
#[derive(Debug, Clone)]
pub struct Response {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Response {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {:?}", self.text()))
    }

    /// The sentence of an error answer.
    #[track_caller]
    pub fn error(&self) -> String {
        let json = self.json();
        let sentence = json["error"]
            .as_str()
            .unwrap_or_else(|| panic!("no \"error\" in {json}"));
        assert!(sentence.contains(' '), "not a sentence: {sentence:?}");
        sentence.to_owned()
    }

    /// Takes a head (up to and including the blank line) apart.
    #[track_caller]
    pub fn parse_head(head: &str) -> Self {
        let mut lines = head.trim_end().split("\r\n");
        let mut status = lines.next().unwrap().splitn(3, ' ');
        assert_eq!(status.next().unwrap().get(..7), Some("HTTP/1."), "{head:?}");
        let status = status
            .next()
            .and_then(|s| s.parse().ok())
            .unwrap_or_else(|| panic!("no status: {head:?}"));
        let split = |line: &str| {
            let (name, value) = line
                .split_once(':')
                .unwrap_or_else(|| panic!("no header: {line:?}"));
            (name.to_ascii_lowercase(), value.trim().to_owned())
        };
        Self {
            status,
            headers: lines.map(split).collect(),
            body: Vec::new(),
        }
    }
}

/// Sends one request with `Connection: close` and reads the answer to its end.
pub async fn request(
    address: SocketAddr,
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Response {
    try_request(address, method, target, headers, body)
        .await
        .unwrap_or_else(|error| panic!("{method} {target} at {address}: {error}"))
}

pub async fn get(address: SocketAddr, target: &str) -> Response {
    request(address, "GET", target, &[], b"").await
}

pub async fn try_request(
    address: SocketAddr,
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> std::io::Result<Response> {
    let mut head =
        format!("{method} {target} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    if !body.is_empty() || method == "POST" {
        head.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    head.push_str("\r\n");
    let answer = exchange(address, &[head.as_bytes(), body].concat()).await?;
    if answer.is_empty() {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    Ok(complete(&answer))
}

/// Sends bytes as they are and reads until the peer closes.
pub async fn exchange(address: SocketAddr, bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let work = async {
        let mut socket = TcpStream::connect(address).await?;
        // A server may answer and close before it has read everything (413, 431).
        let sent = socket.write_all(bytes).await;
        let mut answer = Vec::new();
        match socket.read_to_end(&mut answer).await {
            Ok(_) => {}
            Err(_) if !answer.is_empty() => {}
            Err(error) => return Err(error),
        }
        if answer.is_empty() {
            sent?;
        }
        Ok(answer)
    };
    timeout(Duration::from_secs(20), work)
        .await
        .map_err(|_| std::io::Error::from(std::io::ErrorKind::TimedOut))?
}

/// A whole answer, dechunked.
pub fn complete(answer: &[u8]) -> Response {
    let end = answer.windows(4).position(|w| w == b"\r\n\r\n");
    let end =
        end.unwrap_or_else(|| panic!("no end of head: {:?}", String::from_utf8_lossy(answer))) + 4;
    let mut response = Response::parse_head(std::str::from_utf8(&answer[..end]).unwrap());
    response.body = answer[end..].to_vec();
    if response
        .header("transfer-encoding")
        .is_some_and(|value| value.eq_ignore_ascii_case("chunked"))
    {
        let mut dechunker = Dechunker::default();
        dechunker.feed(&answer[end..]);
        response.body = dechunker.chunks.concat();
    } else if let Some(length) = response
        .header("content-length")
        .and_then(|value| value.parse().ok())
    {
        // The answer to HEAD names a length and has no body.
        response.body.truncate(length);
    }
    response
}

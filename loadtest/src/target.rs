//! What is put under load: where its streams are, and how one publishes to them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::tls::Tls;

/// A request as a template. `{room}` stands for the room's name, `{data}` for an event's data as it
/// is, `{json}` for the data as a JSON string with its quotation marks, `{escaped}` for the same without, `{url}` for the data percent-encoded,
/// `{token}` for the token of the client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// The method.
    #[serde(default = "get")]
    pub method: String,
    /// The path with its query.
    pub path: String,
    /// Headers beside `Host` and `Content-Length`.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// The body.
    #[serde(default)]
    pub body: String,
}

fn get() -> String {
    "GET".to_owned()
}

impl Request {
    /// The path with its query.
    #[must_use]
    pub fn path(&self, with: With<'_>) -> String {
        with.fill(&self.path)
    }

    /// The headers beside `Host` and `Content-Length`.
    pub fn headers<'a>(&'a self, with: With<'a>) -> impl Iterator<Item = (&'a str, String)> {
        let headers = self.headers.iter();
        headers.map(move |(name, value)| (name.as_str(), with.fill(value)))
    }

    /// Whether a token is part of it.
    #[must_use]
    pub fn has_token(&self) -> bool {
        let mut texts = self.headers.values().chain([&self.path, &self.body]);
        texts.any(|text| text.contains("{token}"))
    }

    /// The bytes of the request, for HTTP/1.1 with a connection that is kept.
    #[must_use]
    pub fn render(&self, host: SocketAddr, with: With<'_>) -> Vec<u8> {
        let body = with.fill(&self.body);
        let path = self.path(with);
        let mut head = format!("{} {path} HTTP/1.1\r\nHost: {host}\r\n", self.method);
        for (name, value) in self.headers(with) {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if self.method != "GET" {
            head.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        head.push_str("\r\n");
        head.push_str(&body);
        head.into_bytes()
    }
}

/// What the placeholders of a request stand for.
#[derive(Debug, Clone, Copy, Default)]
pub struct With<'a> {
    /// The room's name.
    pub room: &'a str,
    /// An event's data.
    pub data: &'a str,
    /// The client's token.
    pub token: &'a str,
}

impl With<'_> {
    fn fill(self, template: &str) -> String {
        let mut out = template.replace("{room}", self.room);
        if out.contains("{token}") {
            out = out.replace("{token}", self.token);
        }
        if out.contains("{json}") || out.contains("{escaped}") {
            let json = serde_json::Value::from(self.data).to_string();
            out = out.replace("{escaped}", &json[1..json.len() - 1]);
            out = out.replace("{json}", &json);
        }
        if out.contains("{url}") {
            let data = self.data.as_bytes();
            let encoded: String = url::form_urlencoded::byte_serialize(data).collect();
            out = out.replace("{url}", &encoded);
        }
        out.replace("{data}", self.data)
    }
}

/// How events are published.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Publish {
    /// By a request to one of the addresses.
    Http {
        /// The request.
        request: Request,
        /// Where to; the addresses of the streams, where there are none.
        addresses: Vec<SocketAddr>,
        /// How they are spoken to; `None` without TLS.
        tls: Option<Tls>,
    },
    /// By the publish function, in Redis.
    Function {
        /// The server's URL.
        redis: String,
    },
    /// By a plain `XADD`.
    Xadd {
        /// The server's URL.
        redis: String,
    },
}

/// A system under load.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// The addresses that clients connect to, taken in turn.
    pub addresses: Vec<SocketAddr>,
    /// How a client subscribes.
    pub subscribe: Request,
    /// How events are published.
    pub publish: Publish,
    /// A file with the tokens of clients, one a line: each shows that of its number, from the first line again after
    /// the last one. It is a file, so that no token is among the arguments of a process.
    pub tokens: Option<PathBuf>,
    /// How its addresses are spoken to; `None` without TLS.
    pub tls: Option<Tls>,
}

/// The tokens of a file, by line.
#[must_use]
pub fn tokens(text: &str) -> Vec<String> {
    let lines = text.lines().map(str::trim);
    lines
        .filter(|line| !line.is_empty())
        .map(str::to_owned)
        .collect()
}

//! What is put under load: where its streams are, and how one publishes to them.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// A request as a template. `{room}` stands for the room's name, `{data}` for an event's data as it
/// is, `{json}` for the data as a JSON string with its quotation marks, `{escaped}` for the same without, `{url}` for the data percent-encoded.
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
    /// The bytes of the request, for HTTP/1.1 with a connection that is kept.
    #[must_use]
    pub fn render(&self, host: SocketAddr, room: &str, data: &str) -> Vec<u8> {
        let body = fill(&self.body, room, data);
        let mut head = format!(
            "{} {} HTTP/1.1\r\nHost: {host}\r\n",
            self.method,
            fill(&self.path, room, data)
        );
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {}\r\n", fill(value, room, data)));
        }
        if self.method != "GET" {
            head.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        head.push_str("\r\n");
        head.push_str(&body);
        head.into_bytes()
    }
}

fn fill(template: &str, room: &str, data: &str) -> String {
    let mut out = template.replace("{room}", room);
    if out.contains("{json}") || out.contains("{escaped}") {
        let json = serde_json::Value::from(data).to_string();
        out = out.replace("{escaped}", &json[1..json.len() - 1]);
        out = out.replace("{json}", &json);
    }
    if out.contains("{url}") {
        let encoded: String = url::form_urlencoded::byte_serialize(data.as_bytes()).collect();
        out = out.replace("{url}", &encoded);
    }
    out.replace("{data}", data)
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
}

//! What is printed at the start: where the node listens and, in development mode, what to try.

use std::fmt::Write;
use std::net::SocketAddr;

use crate::config::Config;
use crate::healthcheck;

/// The text, for the addresses that were really taken.
#[must_use]
pub fn text(config: &Config, clients: SocketAddr, admin: SocketAddr) -> String {
    let site = format!(
        "http://{}{}",
        healthcheck::reachable(clients),
        config.http.path_prefix
    );
    let mut text = format!(
        "sse-gateway {} ({}) listens on http://{clients}{}, for metrics and health on http://{admin}\n",
        env!("CARGO_PKG_VERSION"),
        config.node,
        config.http.path_prefix,
    );
    if config.dev_mode() {
        let events = if config.redis.url.is_empty() {
            "events live in this process, and "
        } else {
            ""
        };
        // Writing into a string cannot fail.
        let _ = write!(
            text,
            "development mode: {events}anyone may publish\n\n\
             \x20 watch a room    curl -N {site}/rooms/demo/events\n\
             \x20 publish to it   curl -d '{{\"event\":\"chat\",\"data\":\"hi\"}}' {site}/rooms/demo/events\n"
        );
        if config.demo() {
            let _ = writeln!(text, "  open the page   {site}/");
        }
        text.push('\n');
    }
    if config.redis.url.is_empty() {
        let _ = write!(
            text,
            "redis-cli and other nodes need a Redis: start with --redis redis://127.0.0.1:6379, then\n\
             \x20 redis-cli FCALL sse_publish 1 {}room:demo event chat data hi\n\n",
            config.redis.prefix
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_real_ports_and_what_to_type() {
        let mut config = crate::config::defaults();
        config.http.path_prefix = "/live".to_owned();
        let addresses = (
            "127.0.0.1:4321".parse().unwrap(),
            "127.0.0.1:5321".parse().unwrap(),
        );
        let text = |config: &Config| super::text(config, addresses.0, addresses.1);
        config.http.demo = Some(false);
        assert!(!text(&config).contains("open the page"));
        config.http.demo = None;
        let text = text(&config);
        for part in [
            "curl -N http://127.0.0.1:4321/live/rooms/demo/events\n",
            "' http://127.0.0.1:4321/live/rooms/demo/events\n",
            "http://127.0.0.1:4321/live/\n",
            "http://127.0.0.1:5321",
            "--redis redis://127.0.0.1:6379",
            "redis-cli FCALL sse_publish 1 sse:room:demo event chat data hi\n",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
        assert_eq!(
            healthcheck::reachable("[::]:80".parse().unwrap()).to_string(),
            "[::1]:80"
        );
    }
}

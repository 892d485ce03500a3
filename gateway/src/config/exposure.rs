//! What a configuration opens to whom, in plain words: for `check-config` and `doctor`.

use std::net::SocketAddr;

use super::Config;
use crate::auth::Mode;

/// One thing that somebody may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exposure {
    /// What: an address, or an action and a pattern of rooms.
    pub what: String,
    /// Who may, in a clause without secrets.
    pub who: String,
    /// Anyone at all may, from outside of this machine.
    pub is_wide: bool,
}

/// Everything that the configuration opens, and what it leaves closed.
#[must_use]
pub fn exposure(config: &Config) -> Vec<Exposure> {
    let reachable = !config.listen.ip().is_loopback();
    let tls = if config.tls.cert_file.is_empty() {
        "without TLS"
    } else {
        "with TLS"
    };
    let mut all = vec![Exposure {
        what: format!("clients at {}", config.listen),
        who: format!("{}, {tls}", reach(config.listen)),
        is_wide: false,
    }];
    let policy = config.policy();
    for (action, rules, key) in [
        ("subscribe", &policy.subscribe, false),
        ("publish over HTTP", &policy.publish, true),
    ] {
        let may = |mode| {
            if policy.development {
                "anyone: development mode".to_owned()
            } else {
                who(config, mode, key)
            }
        };
        let line = |rooms: &str, mode| Exposure {
            what: format!("{action} {rooms}"),
            who: may(mode),
            is_wide: reachable && (mode == Mode::Open || policy.development),
        };
        let patterns: Vec<(&str, Mode)> = rules.iter().collect();
        if policy.development {
            all.push(line("*", Mode::Open));
            continue;
        }
        all.extend(patterns.iter().map(|(pattern, mode)| line(pattern, *mode)));
        if patterns.iter().all(|(pattern, _)| *pattern != "*") {
            let rest = if patterns.is_empty() {
                "*"
            } else {
                "every other room"
            };
            all.push(line(rest, Mode::Token));
        }
    }
    all.push(Exposure {
        what: "publish through Redis".to_owned(),
        who: "whoever Redis lets: its own users (ACL) decide".to_owned(),
        is_wide: false,
    });
    all.push(admin(config));
    all
}

fn reach(address: SocketAddr) -> &'static str {
    if address.ip().is_loopback() {
        "this machine, and who comes through a proxy on it"
    } else {
        "whoever can reach the address"
    }
}

fn who(config: &Config, mode: Mode, publishing: bool) -> String {
    let publish = &config.publish;
    let keyed = publishing && !(publish.keys.is_empty() && publish.key_files.is_empty());
    let certified = publishing && !config.tls.client_ca_file.is_empty();
    let mut ways = Vec::new();
    match mode {
        Mode::Open => return "anyone".to_owned(),
        Mode::Forward => ways.push("whom the backend of forward.url lets in"),
        Mode::Token if config.tokens.is_used() => {
            ways.push("who shows a token that names the room")
        }
        Mode::Token => {}
    }
    if keyed {
        ways.push("who has one of publish.keys that names the room");
    }
    if certified {
        ways.push("who shows a certificate of tls.client_ca_file");
    }
    if ways.is_empty() {
        return "nobody: there is no key for tokens".to_owned();
    }
    ways.join(", or ")
}

fn admin(config: &Config) -> Exposure {
    let (admin, address) = (&config.admin, config.admin_addr());
    let has_token = !(admin.token.is_empty() && admin.token_file.is_empty());
    let rest = match (
        has_token,
        address.ip().is_loopback(),
        admin.client_ca_file.is_empty(),
    ) {
        (true, _, true) => "the rest with the token",
        (true, _, false) => "the rest with the token or a certificate",
        (false, true, _) => "the rest without a token",
        (false, false, false) => "the rest with a certificate",
        (false, false, true) => "the rest is refused: there is no admin.token",
    };
    let open = if admin.metrics_open {
        "health and metrics"
    } else {
        "health"
    };
    Exposure {
        what: format!("operators at {address}"),
        who: format!("{}: {open} for all of them, {rest}", reach(address)),
        is_wide: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(edit: impl FnOnce(&mut Config)) -> Vec<String> {
        let mut config = crate::config::defaults();
        config.dev = Some(false);
        config.listen = "0.0.0.0:8080".parse().unwrap();
        edit(&mut config);
        let all = exposure(&config).into_iter();
        all.map(|one| {
            format!(
                "{}{}: {}",
                if one.is_wide { "!" } else { "" },
                one.what,
                one.who
            )
        })
        .collect()
    }

    #[test]
    fn each_rule_is_a_line_and_so_is_the_rest() {
        let lines = lines(|config| {
            config.access.subscribe = vec!["news:* open".into(), "chat:* forward".into()];
            config.forward.url = "http://backend/secret".into();
            config.publish.keys = vec!["hunter2".into()];
            config.admin.metrics_open = true;
        });
        assert_eq!(
            lines,
            [
                "clients at 0.0.0.0:8080: whoever can reach the address, without TLS",
                "!subscribe news:*: anyone",
                "subscribe chat:*: whom the backend of forward.url lets in",
                "subscribe every other room: nobody: there is no key for tokens",
                "publish over HTTP *: who has one of publish.keys that names the room",
                "publish through Redis: whoever Redis lets: its own users (ACL) decide",
                "operators at 127.0.0.1:9080: this machine, and who comes through a proxy on it: health and metrics for all of them, \
                 the rest without a token",
            ]
        );
    }

    #[test]
    fn development_mode_opens_everything() {
        let lines = lines(|config| {
            config.dev = Some(true);
            config.access.subscribe = vec!["chat:* token".into()];
        });
        assert_eq!(
            lines[1..3],
            [
                "!subscribe *: anyone: development mode",
                "!publish over HTTP *: anyone: development mode"
            ]
        );
    }
}

//! Who may read and write, and what that means for an address that others reach.

use super::{Config, ConfigError, rule};
use crate::auth::{MIN_KEY_BYTES, Mode, is_short};
use crate::config::access::read_rule;
use crate::config::print::hide_query;

/// Rules by room: each is looked at for each request.
const MAX_RULES: usize = 64;

/// Checks them; what is risky but allowed comes back as warnings.
///
/// # Errors
/// The first rule that is broken.
pub(super) fn check(config: &Config) -> Result<Vec<String>, ConfigError> {
    forward(config)?;
    rules(config)?;
    start(config)?;
    admin(config)?;
    Ok(warnings(config))
}

fn forward(config: &Config) -> Result<(), ConfigError> {
    let forward = &config.forward;
    if forward.url.is_empty() {
        return Ok(());
    }
    forward.read_url().map(drop).map_err(|reason| {
        let shown = hide_query(&forward.url);
        ConfigError::Rule(format!("forward.url is `{shown}`, {reason}"))
    })
}

fn rules(config: &Config) -> Result<(), ConfigError> {
    for (key, lines) in [
        ("access.subscribe", &config.access.subscribe),
        ("access.publish", &config.access.publish),
    ] {
        rule(lines.len() <= MAX_RULES, || {
            format!("{key} has {} rules, more than {MAX_RULES}", lines.len())
        })?;
        for line in lines {
            let (_, mode) = read_rule(line)
                .map_err(|reason| ConfigError::Rule(format!("{key} has `{line}`, {reason}")))?;
            rule(
                mode != Mode::Forward || !config.forward.url.is_empty(),
                || format!("{key} has `{line}`, and there is no forward.url to ask"),
            )?;
        }
    }
    Ok(())
}

/// Nobody opens a gateway to others without saying so.
fn start(config: &Config) -> Result<(), ConfigError> {
    let listen = config.listen;
    let reachable = !listen.ip().is_loopback() && config.dev != Some(true);
    rule(!reachable || config.says_who_may_subscribe(), || {
        format!(
            "listen is {listen}, which others can reach, and nothing says who may subscribe: set access.subscribe \
             (SSE_ACCESS__SUBSCRIBE=\"* open\" lets anyone), tokens.key_files, or --dev to try it"
        )
    })
}

fn admin(config: &Config) -> Result<(), ConfigError> {
    let admin = &config.admin;
    rule(
        admin.token.is_empty() || admin.token_file.is_empty(),
        || "admin.token and admin.token_file are both set: one of them is enough".to_owned(),
    )?;
    rule(admin.token.bytes().all(|c| c.is_ascii_graphic()), || {
        "admin.token has characters that cannot be in a header: printable ASCII without blanks"
            .to_owned()
    })
}

fn admin_warning(config: &Config) -> Option<String> {
    let (admin, address) = (&config.admin, config.admin_addr());
    let shown =
        !admin.token.is_empty() || !admin.token_file.is_empty() || !admin.client_ca_file.is_empty();
    let refused = if admin.metrics_open {
        "all but /livez, /readyz and /metrics is refused"
    } else {
        "all but /livez and /readyz is refused, /metrics too"
    };
    (!address.ip().is_loopback() && !shown).then(|| {
        format!("admin.listen is {address}, which others can reach, and there is no admin.token: {refused}")
    })
}

fn warnings(config: &Config) -> Vec<String> {
    let (listen, publish) = (config.listen, &config.publish);
    let alone = config.redis.url.is_empty();
    let reachable = !listen.ip().is_loopback();
    let mut warnings = Vec::new();
    let dev = config.dev_mode();
    if dev && reachable {
        warnings.push(format!(
            "development mode on {listen}: anyone who can reach it may subscribe and publish"
        ));
    }
    if dev && (publish.has_keys() || config.says_who_may_subscribe()) {
        warnings.push(
            "development mode: anyone may subscribe and publish, whatever [access], [tokens] and publish.keys say"
                .to_owned(),
        );
    }
    if !dev && !config.says_who_may_subscribe() {
        warnings.push(format!(
            "nothing says who may subscribe: anyone who can reach {listen}, through a proxy on this machine too, may read every room"
        ));
    }
    if !dev && alone {
        warnings.push(
            "there is no redis.url: events live in this process only, and are gone when it ends"
                .to_owned(),
        );
    }
    warnings.extend(admin_warning(config));
    for (at, _) in publish
        .keys
        .iter()
        .enumerate()
        .filter(|(_, line)| is_short(line))
    {
        warnings.push(format!(
            "publish.keys, key {} has less than {MIN_KEY_BYTES} bytes: whoever tries finds it, so take a long random one (openssl rand -hex 32)",
            at + 1
        ));
    }
    let retention = &config.retention;
    if retention.max_len == 0 && retention.max_age.is_zero() && retention.expire.is_zero() {
        warnings.push("[retention] sets no limit at all: rooms only ever grow".to_owned());
    }
    warnings
}

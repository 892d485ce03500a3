//! What a server is, and what the gateway does because of it.

use protocol::publish::VERSION_FUNCTION_NAME;
use protocol::servers::Address;

use super::commands::{Refusal, To, check, text};
use super::{Purpose, Shared};

/// One line: product, version, role in a deployment, and the ways chosen; `None` where the server
/// does not answer.
pub(super) async fn ask(shared: &Shared, server: &Address) -> Option<String> {
    let mut info = redis::cmd("INFO");
    info.arg("server");
    let mut version = redis::cmd("FCALL_RO");
    version.arg(VERSION_FUNCTION_NAME).arg(0);
    let to = To::Server(server.clone());
    let commands = vec![info, version];
    let answers = shared
        .commands
        .run(&to, Purpose::Upkeep, commands, true)
        .await
        .ok()?;
    let mut answers = answers.into_iter().map(check);
    let info = match answers.next()? {
        Ok(info) => String::from_utf8_lossy(text(&info)?).into_owned(),
        Err(_) => String::new(),
    };
    let has_functions = match answers.next()? {
        Ok(_) | Err(Refusal::Unknown) => true,
        Err(_) => false,
    };
    Some(sentence(&info, has_functions, shared.is_sharded()))
}

fn sentence(info: &str, has_functions: bool, is_sharded: bool) -> String {
    let field = |name: &str| {
        let mut lines = info.lines().filter_map(|line| line.split_once(':'));
        let found = lines.find(|(field, _)| *field == name);
        found.map(|(_, value)| value.trim().to_owned())
    };
    let product = match (
        field("server_name"),
        field("valkey_version"),
        field("redis_version"),
    ) {
        (Some(name), Some(version), _) => format!("{name} {version}"),
        (_, Some(version), _) => format!("Valkey {version}"),
        (_, None, Some(version)) => format!("Redis {version}"),
        (_, None, None) => "a server that does not tell its version".to_owned(),
    };
    let publish = if has_functions {
        "a function"
    } else {
        "a script (it has no functions, or refuses them)"
    };
    let channels = if is_sharded {
        "shard channels"
    } else {
        "channels"
    };
    let strange = match field("redis_mode")
        .or_else(|| field("server_mode"))
        .as_deref()
    {
        Some("cluster") if !is_sharded => {
            "; it belongs to a Redis Cluster: write redis+cluster:// in redis.url"
        }
        Some("sentinel") => {
            "; it is a sentinel: write redis+sentinel://host:port/name in redis.url"
        }
        Some("standalone") if is_sharded => {
            "; it belongs to no Redis Cluster: write redis:// in redis.url"
        }
        _ => "",
    };
    format!("{product}: events are published by {publish}, live on {channels}{strange}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_are_told_apart() {
        let valkey = "redis_version:7.2.4\r\nserver_name:valkey\r\nvalkey_version:8.0.1\r\n";
        assert!(sentence(valkey, true, false).starts_with("valkey 8.0.1: "));
        let old = sentence(
            "redis_version:6.2.1\r\nredis_mode:standalone\r\n",
            false,
            false,
        );
        assert!(
            old.starts_with("Redis 6.2.1: events are published by a script"),
            "{old}"
        );
        let member = sentence(
            "redis_version:7.0.15\r\nredis_mode:cluster\r\n",
            true,
            false,
        );
        assert!(member.contains("redis+cluster://"), "{member}");
    }
}

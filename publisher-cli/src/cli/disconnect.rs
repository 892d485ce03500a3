//! Flags of `disconnect`.

use clap::{ArgGroup, Args};
use protocol::RoomName;

use super::{Server, Tls, room, variable};

/// The most bytes of a user's name, as gateways take it.
const MAX_USER_BYTES: usize = 256;

/// Whom, and by which way.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("whom").args(["user", "room"]).required(true)))]
pub struct Disconnect {
    /// The user whose streams are closed, in all rooms: the `sub` of tokens, or whom a backend names
    #[arg(long, value_name = "USER", value_parser = user)]
    pub user: Option<String>,
    /// The room whose streams are closed
    #[arg(long, value_name = "ROOM", value_parser = room)]
    pub room: Option<RoomName>,
    /// Where Redis is.
    #[command(flatten)]
    pub server: Server,
    /// What Redis keys begin with [default: sse:]
    #[arg(long, value_name = "PREFIX")]
    pub prefix: Option<String>,
    /// Through the admin listener of a gateway, such as http://127.0.0.1:9080 or https://10.0.0.1:9080, instead of Redis
    #[arg(long, value_name = "URL", conflicts_with_all = ["redis", "prefix", "redis_password_file", "redis_ca_file", "redis_cert_file", "redis_key_file", "sentinel_user", "sentinel_password_file"])]
    pub url: Option<String>,
    /// What the admin listener wants to see; SSE_ADMIN__TOKEN stands for it
    #[arg(long, value_name = "TOKEN", requires = "url")]
    pub token: Option<String>,
    /// How to trust it, and what to show to it.
    #[command(flatten)]
    pub tls: Tls,
}

impl Disconnect {
    /// As entries and requests name it: `user` or `room`, and the name.
    #[must_use]
    pub fn field(&self) -> (&'static str, &str) {
        match (&self.user, &self.room) {
            (_, Some(room)) => ("room", room.as_str()),
            (user, None) => ("user", user.as_deref().unwrap_or_default()),
        }
    }

    /// The prefix: the flag, else the environment, else the default.
    #[must_use]
    pub fn prefix(&self) -> String {
        let from_environment = || variable("SSE_REDIS__PREFIX");
        let prefix = self.prefix.clone().or_else(from_environment);
        prefix.unwrap_or_else(|| protocol::keys::DEFAULT_PREFIX.into())
    }

    /// The token for the admin listener: the flag, else the environment.
    #[must_use]
    pub fn token(&self) -> Option<String> {
        self.token.clone().or_else(|| variable("SSE_ADMIN__TOKEN"))
    }
}

fn user(text: &str) -> Result<String, String> {
    if (1..=MAX_USER_BYTES).contains(&text.len()) {
        Ok(text.to_owned())
    } else {
        Err(format!("a user is 1 to {MAX_USER_BYTES} bytes"))
    }
}

//! Where Redis is, and how to log in there.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use protocol::servers::ServersConfig;

use super::{duration, variable};

/// Flags that say where Redis is and how long to wait for it.
#[derive(Debug, Args)]
pub struct Server {
    /// Redis to use [default: redis://127.0.0.1:6379]
    #[arg(long, value_name = "URL")]
    pub redis: Option<String>,
    /// How long to go on trying while the server is not available; 0s is not at all
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration)]
    pub retry_for: Duration,
    /// How to log in, and to whom.
    #[command(flatten)]
    pub login: Login,
}

/// Flags about files and users, for Redis and its sentinels.
#[derive(Debug, Args)]
pub struct Login {
    /// File with the password for Redis
    #[arg(long, value_name = "FILE")]
    pub redis_password_file: Option<PathBuf>,
    /// PEM file with the certificates that sign those of the servers [default: the system's]
    #[arg(long, value_name = "FILE")]
    pub redis_ca_file: Option<PathBuf>,
    /// PEM file with the certificate to show to the servers
    #[arg(long, value_name = "FILE")]
    pub redis_cert_file: Option<PathBuf>,
    /// PEM file with its private key
    #[arg(long, value_name = "FILE")]
    pub redis_key_file: Option<PathBuf>,
    /// ACL user of the sentinels
    #[arg(long, value_name = "NAME")]
    pub sentinel_user: Option<String>,
    /// File with the password of the sentinels
    #[arg(long, value_name = "FILE")]
    pub sentinel_password_file: Option<PathBuf>,
}

impl Server {
    /// The flag, else the environment, else the default.
    #[must_use]
    pub fn url(&self) -> String {
        let from_environment = || variable("SSE_REDIS__URL");
        let url = self.redis.clone().or_else(from_environment);
        url.unwrap_or_else(|| "redis://127.0.0.1:6379".into())
    }

    /// All of it; each setting is the flag, else the environment.
    #[must_use]
    pub fn config(&self) -> ServersConfig {
        let file = |flag: &Option<PathBuf>, name| {
            let from_environment = || variable(name).map(PathBuf::from);
            flag.clone().or_else(from_environment)
        };
        let login = &self.login;
        // A flag stands for either: what the environment says of the other one is not meant.
        let sentinel_password_file = file(
            &login.sentinel_password_file,
            "SSE_REDIS__SENTINEL_PASSWORD_FILE",
        );
        let sentinel_password = match login.sentinel_password_file {
            None => variable("SSE_REDIS__SENTINEL_PASSWORD"),
            Some(_) => None,
        };
        let user = || variable("SSE_REDIS__SENTINEL_USER");
        ServersConfig {
            url: self.url(),
            password_file: file(&login.redis_password_file, "SSE_REDIS__PASSWORD_FILE"),
            ca_file: file(&login.redis_ca_file, "SSE_REDIS__CA_FILE"),
            cert_file: file(&login.redis_cert_file, "SSE_REDIS__CERT_FILE"),
            key_file: file(&login.redis_key_file, "SSE_REDIS__KEY_FILE"),
            sentinel_user: login.sentinel_user.clone().or_else(user),
            sentinel_password,
            sentinel_password_file,
        }
    }
}

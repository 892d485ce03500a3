//! Where Redis is: one server, Sentinel or Cluster; how to log in there, and which server is the
//! primary of a room.
//!
//! Passwords and certificates that stand in files are read again for each connection, so that
//! short-lived ones can be replaced while the programs run.

use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

use redis::{
    Client, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, RedisConnectionInfo,
    TlsCertificates,
};

mod layout;
mod locate;
mod parse;
mod tls;

pub use layout::{Layout, Primary};
#[cfg(fuzzing)]
pub use locate::layout as layout_of;
pub use locate::{Locator, redirection};
pub use tls::{TlsFiles, tls_error};

/// Port of a Redis server unless the URL says otherwise.
pub const DEFAULT_PORT: u16 = 6379;
/// Port of a sentinel unless the URL says otherwise.
pub const DEFAULT_SENTINEL_PORT: u16 = 26379;

/// What is wrong with an address, a file or a deployment; one clause without secrets.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ServersError(pub String);

/// What users write. `Debug` shows no secret.
#[derive(Clone, Default)]
pub struct ServersConfig {
    /// One of `redis://`, `rediss://`, `redis+unix://`, `redis+sentinel://host,host/master`,
    /// `redis+cluster://host,host`; with `rediss+` for TLS.
    pub url: String,
    /// Holds the password of the URL's user.
    pub password_file: Option<PathBuf>,
    /// PEM certificates that sign the servers' ones; the system's where there is none.
    pub ca_file: Option<PathBuf>,
    /// PEM certificate chain that is shown to the servers.
    pub cert_file: Option<PathBuf>,
    /// PEM private key of `cert_file`.
    pub key_file: Option<PathBuf>,
    /// ACL user of the sentinels.
    pub sentinel_user: Option<String>,
    /// Password of the sentinels.
    pub sentinel_password: Option<String>,
    /// Holds the password of the sentinels.
    pub sentinel_password_file: Option<PathBuf>,
}

impl fmt::Debug for ServersConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServersConfig").finish_non_exhaustive()
    }
}

/// One server.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Address {
    /// A host, without brackets, and a port.
    Tcp(String, u16),
    /// A socket of this machine.
    Unix(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(host, port) if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp(host, port) => write!(f, "{host}:{port}"),
            Self::Unix(path) => path.display().fmt(f),
        }
    }
}

/// How the servers belong together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// One server, or a name that always leads to the primary.
    Single,
    /// Sentinels say which server is the primary.
    Sentinel {
        /// The name under which the sentinels know the primary.
        master: String,
    },
    /// A Redis Cluster.
    Cluster,
}

/// A user and where its password is.
#[derive(Clone, Default)]
struct Login {
    user: Option<String>,
    password: Option<String>,
    file: Option<PathBuf>,
}

impl Login {
    /// The password, from the file where there is one.
    fn password(&self) -> Result<Option<String>, ServersError> {
        match &self.file {
            Some(file) => {
                let text = read(file)?;
                let text = String::from_utf8(text)
                    .map_err(|_| ServersError(format!("{} is not UTF-8", file.display())))?;
                Ok(Some(text.trim_end_matches(['\r', '\n']).to_owned()))
            }
            None => Ok(self.password.clone()),
        }
    }
}

fn read(file: &Path) -> Result<Vec<u8>, ServersError> {
    std::fs::read(file)
        .map_err(|error| ServersError(format!("cannot read {}: {error}", file.display())))
}

/// A deployment of Redis: its kind, where to begin, and how to log in. `Debug` shows no secret.
#[derive(Clone)]
pub struct Servers {
    kind: Kind,
    known: Vec<Address>,
    login: Login,
    sentinel_login: Login,
    tls: Option<TlsFiles>,
    database: i64,
}

impl fmt::Debug for Servers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Servers")
            .field("kind", &self.kind)
            .field("known", &self.known)
            .finish_non_exhaustive()
    }
}

/// For messages: kind and addresses, no secrets.
impl fmt::Display for Servers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::Single => write!(f, "Redis at ")?,
            Kind::Sentinel { master } => write!(f, "Redis `{master}` by sentinels at ")?,
            Kind::Cluster => write!(f, "Redis Cluster at ")?,
        }
        for (at, address) in self.known.iter().enumerate() {
            let comma = if at > 0 { ", " } else { "" };
            write!(f, "{comma}{address}")?;
        }
        Ok(())
    }
}

impl Servers {
    /// Reads what the user wrote; opens nothing.
    ///
    /// # Errors
    /// The URL is not one, or settings contradict each other.
    pub fn new(config: &ServersConfig) -> Result<Self, ServersError> {
        let mut servers = parse::url(&config.url)?;
        if config.password_file.is_some() && servers.login.password.is_some() {
            let twice = "the password stands both in the URL and in a password file: leave one out";
            return Err(ServersError(twice.into()));
        }
        servers.login.file.clone_from(&config.password_file);
        if config.sentinel_password.is_some() && config.sentinel_password_file.is_some() {
            let twice = "the sentinels' password is given twice, as text and as a file";
            return Err(ServersError(twice.into()));
        }
        servers.sentinel_login = Login {
            user: config.sentinel_user.clone(),
            password: config.sentinel_password.clone(),
            file: config.sentinel_password_file.clone(),
        };
        let files = TlsFiles {
            ca: config.ca_file.clone(),
            cert: config.cert_file.clone(),
            key: config.key_file.clone(),
        };
        if files.is_half() {
            let half = "a client certificate needs its key, and a key its certificate";
            return Err(ServersError(half.into()));
        }
        match &mut servers.tls {
            Some(tls) => *tls = files,
            None if files.is_empty() => {}
            None => {
                let plain = "certificates are given, but the URL is one without TLS: write rediss://, \
                             rediss+sentinel:// or rediss+cluster://";
                return Err(ServersError(plain.into()));
            }
        }
        Ok(servers)
    }

    /// How the servers belong together.
    #[must_use]
    pub fn kind(&self) -> &Kind {
        &self.kind
    }

    /// Whether channels are shard channels.
    #[must_use]
    pub fn is_cluster(&self) -> bool {
        self.kind == Kind::Cluster
    }

    /// The addresses of the URL: the server, the sentinels, or some nodes of the cluster.
    #[must_use]
    pub fn known(&self) -> &[Address] {
        &self.known
    }

    /// The database number; 0 in a cluster.
    #[must_use]
    pub fn database(&self) -> i64 {
        self.database
    }

    /// User and password of now.
    ///
    /// # Errors
    /// The password file cannot be read.
    pub fn login(&self) -> Result<(Option<String>, Option<String>), ServersError> {
        Ok((self.login.user.clone(), self.login.password()?))
    }

    /// Stands for the password and the certificates of now: another number, other secrets.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn secrets(&self) -> Result<u64, ServersError> {
        let mut hasher = DefaultHasher::new();
        let tls = self.tls.iter().flat_map(TlsFiles::all);
        for file in tls.chain(&self.login.file) {
            read(file)?.hash(&mut hasher);
        }
        Ok(hasher.finish())
    }

    /// What a TLS client needs; `None` for connections without TLS. Blocks for files.
    ///
    /// # Errors
    /// A file cannot be read or understood.
    pub fn tls(&self) -> Result<Option<rustls::ClientConfig>, ServersError> {
        self.tls.as_ref().map(TlsFiles::config).transpose()
    }

    /// How to connect to a server of the deployment, with the password and the certificates of
    /// now.
    ///
    /// # Errors
    /// A file cannot be read or understood.
    pub fn connection_info(&self, address: &Address) -> Result<ConnectionInfo, ServersError> {
        self.info(address, &self.login, self.database)
    }

    /// The same for a sentinel.
    ///
    /// # Errors
    /// A file cannot be read or understood.
    pub fn sentinel_info(&self, address: &Address) -> Result<ConnectionInfo, ServersError> {
        self.info(address, &self.sentinel_login, 0)
    }

    fn info(
        &self,
        address: &Address,
        login: &Login,
        database: i64,
    ) -> Result<ConnectionInfo, ServersError> {
        let addr = match (address, &self.tls) {
            (Address::Unix(path), _) => ConnectionAddr::Unix(path.clone()),
            (Address::Tcp(host, port), None) => ConnectionAddr::Tcp(host.clone(), *port),
            (Address::Tcp(host, port), Some(_)) => ConnectionAddr::TcpTls {
                host: host.clone(),
                port: *port,
                insecure: false,
                tls_params: None,
            },
        };
        let mut redis = RedisConnectionInfo::default().set_db(database);
        if let Some(user) = &login.user {
            redis = redis.set_username(user);
        }
        if let Some(password) = login.password()? {
            redis = redis.set_password(password);
        }
        let unusable = |error: redis::RedisError| ServersError(error.to_string());
        let info = addr
            .into_connection_info()
            .map_err(unusable)?
            .set_redis_settings(redis)
            .set_tcp_settings(redis::io::tcp::TcpSettings::default().set_nodelay(true));
        let Some(files) = &self.tls else {
            return Ok(info);
        };
        let client_tls = files.client()?;
        let root_cert = files.roots()?;
        if client_tls.is_none() && root_cert.is_none() {
            return Ok(info);
        }
        let certificates = TlsCertificates {
            client_tls,
            root_cert,
        };
        let client = Client::build_with_tls(info, certificates).map_err(unusable)?;
        Ok(client.get_connection_info().clone())
    }
}

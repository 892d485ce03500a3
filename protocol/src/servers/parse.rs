//! URLs of deployments.

use percent_encoding::percent_decode_str;
use redis::{ConnectionAddr, IntoConnectionInfo};

use super::tls::TlsFiles;
use super::{Address, DEFAULT_PORT, DEFAULT_SENTINEL_PORT, Kind, Login, Servers, ServersError};

/// Reads a URL; messages never repeat it, because it may hold a password.
pub(super) fn url(url: &str) -> Result<Servers, ServersError> {
    let Some((scheme, rest)) = url.split_once("://") else {
        return Err(unknown());
    };
    match scheme {
        "redis+sentinel" => sentinel(rest, None),
        "rediss+sentinel" => sentinel(rest, Some(TlsFiles::default())),
        "redis+cluster" => cluster(rest, None),
        "rediss+cluster" => cluster(rest, Some(TlsFiles::default())),
        "redis" | "rediss" | "valkey" | "valkeys" | "unix" | "redis+unix" | "valkey+unix" => {
            single(url, rest)
        }
        _ => Err(unknown()),
    }
}

fn unknown() -> ServersError {
    ServersError(
        "it begins with none of redis://, rediss://, redis+unix://, redis+sentinel:// and redis+cluster://"
            .into(),
    )
}

fn single(url: &str, rest: &str) -> Result<Servers, ServersError> {
    if rest
        .split(['/', '?'])
        .next()
        .is_some_and(|hosts| hosts.contains(','))
    {
        let several = "it names several servers: write redis+sentinel:// or redis+cluster://";
        return Err(ServersError(several.into()));
    }
    let info = url
        .into_connection_info()
        .map_err(|error| ServersError(error.to_string()))?;
    let (address, tls) = match info.addr() {
        ConnectionAddr::Tcp(host, port) => (Address::Tcp(host.clone(), *port), None),
        ConnectionAddr::TcpTls { insecure: true, .. } => {
            let open = "#insecure is not supported: name the CA of the server's certificate";
            return Err(ServersError(open.into()));
        }
        ConnectionAddr::TcpTls { host, port, .. } => {
            (Address::Tcp(host.clone(), *port), Some(TlsFiles::default()))
        }
        ConnectionAddr::Unix(path) => (Address::Unix(path.clone()), None),
        _ => return Err(unknown()),
    };
    let settings = info.redis_settings();
    Ok(Servers {
        kind: Kind::Single,
        known: vec![address],
        login: Login {
            user: settings.username().map(str::to_owned),
            password: settings.password().map(str::to_owned),
            file: None,
        },
        sentinel_login: Login::default(),
        tls,
        database: settings.db(),
    })
}

fn sentinel(rest: &str, tls: Option<TlsFiles>) -> Result<Servers, ServersError> {
    let (login, hosts, path) = parts(rest, DEFAULT_SENTINEL_PORT)?;
    let mut path = path.trim_matches('/').splitn(2, '/');
    let master = decoded(path.next().unwrap_or_default())?;
    if master.is_empty() {
        let missing = "the name of the primary is missing after the sentinels: redis+sentinel://host:26379/mymaster";
        return Err(ServersError(missing.into()));
    }
    let database = match path.next() {
        None | Some("") => 0,
        Some(number) => number
            .parse()
            .map_err(|_| ServersError(format!("`{number}` is not a database number")))?,
    };
    Ok(Servers {
        kind: Kind::Sentinel { master },
        known: hosts,
        login,
        sentinel_login: Login::default(),
        tls,
        database,
    })
}

fn cluster(rest: &str, tls: Option<TlsFiles>) -> Result<Servers, ServersError> {
    let (login, hosts, path) = parts(rest, DEFAULT_PORT)?;
    if !matches!(path.trim_matches('/'), "" | "0") {
        return Err(ServersError("a cluster has database 0 only".into()));
    }
    Ok(Servers {
        kind: Kind::Cluster,
        known: hosts,
        login,
        sentinel_login: Login::default(),
        tls,
        database: 0,
    })
}

/// User and password, hosts, and what follows them.
fn parts(rest: &str, port: u16) -> Result<(Login, Vec<Address>, &str), ServersError> {
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    if path.contains('@') {
        let slash = "its password has a / ? or # in it: write %2F, %3F or %23 instead";
        return Err(ServersError(slash.into()));
    }
    if path.contains(['?', '#']) {
        let query = "it has a query or a fragment, which these URLs do not have";
        return Err(ServersError(query.into()));
    }
    let (login, hosts) = match authority.rsplit_once('@') {
        Some((login, hosts)) => (credentials(login)?, hosts),
        None => (Login::default(), authority),
    };
    let hosts = hosts
        .split(',')
        .map(|text| host(text.trim(), port))
        .collect::<Result<Vec<_>, _>>()?;
    Ok((login, hosts, path))
}

fn credentials(text: &str) -> Result<Login, ServersError> {
    let (user, password) = match text.split_once(':') {
        Some((user, password)) => (user, Some(decoded(password)?)),
        None => (text, None),
    };
    let user = decoded(user)?;
    Ok(Login {
        user: (!user.is_empty()).then_some(user),
        password: password.filter(|password| !password.is_empty()),
        file: None,
    })
}

fn decoded(text: &str) -> Result<String, ServersError> {
    percent_decode_str(text)
        .decode_utf8()
        .map(std::borrow::Cow::into_owned)
        .map_err(|_| ServersError("a percent-encoded part is not UTF-8".into()))
}

/// `host`, `host:port`, `[v6]` or `[v6]:port`.
fn host(text: &str, default_port: u16) -> Result<Address, ServersError> {
    let bad = || {
        ServersError(format!(
            "`{text}` is not a host with a port such as redis-1:6379"
        ))
    };
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']').ok_or_else(bad)?;
            (
                host,
                rest.strip_prefix(':')
                    .or(rest.is_empty().then_some(""))
                    .ok_or_else(bad)?,
            )
        }
        None => text.split_once(':').unwrap_or((text, "")),
    };
    let port = match port {
        "" if text.ends_with(':') => return Err(bad()),
        "" => default_port,
        port => port.parse().map_err(|_| bad())?,
    };
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
    if host.is_empty() || !host.chars().all(is_plain) {
        return Err(bad());
    }
    Ok(Address::Tcp(host.to_owned(), port))
}

#[cfg(test)]
mod tests {

    #[test]
    fn every_kind_of_url_is_read() {
        for (url, shown, database) in [
            ("redis://h", "Redis at h:6379", 0),
            ("redis://u:p%40@[::1]:7000/3", "Redis at [::1]:7000", 3),
            ("rediss://h:7000", "Redis at h:7000", 0),
            (
                "redis+unix:///run/redis.sock",
                "Redis at /run/redis.sock",
                0,
            ),
            (
                "redis+sentinel://u:p@a,b:1/main/2",
                "Redis `main` by sentinels at a:26379, b:1",
                2,
            ),
            (
                "rediss+sentinel://[::1]:5/m",
                "Redis `m` by sentinels at [::1]:5",
                0,
            ),
            (
                "redis+cluster://:secret@a:1,b:2,c/",
                "Redis Cluster at a:1, b:2, c:6379",
                0,
            ),
        ] {
            let servers = super::url(url).unwrap();
            assert_eq!(servers.to_string(), shown, "{url}");
            assert_eq!(servers.database(), database, "{url}");
            assert_eq!(servers.tls.is_some(), url.starts_with("rediss"), "{url}");
            assert!(!format!("{servers:?}").contains("secret"));
        }
        let servers = super::url("redis+cluster://a%3Ab:p%40ss@h").unwrap();
        let login = servers.login().unwrap();
        assert_eq!(login, (Some("a:b".into()), Some("p@ss".into())));
    }

    #[test]
    fn what_is_no_deployment_is_refused_without_its_secret() {
        for url in [
            "",
            "h:6379",
            "http://secret@h",
            "redis://:secret@a,b",
            "redis+sentinel://:secret@h",
            "redis+sentinel://:secret@h/m/x",
            "redis+cluster://:secret@h/1",
            "redis+cluster://:secret@h:x",
            "redis+cluster://:secret@",
            "redis+cluster://:secret@a,,b",
            "redis+cluster://:secret@a?b=c",
            "redis+cluster://:secret/x@a",
            "redis+sentinel://u:1/secret/x@a/m",
            "rediss://:secret@h#insecure",
        ] {
            let error = super::url(url).unwrap_err().to_string();
            assert!(!error.contains("secret"), "{url}: {error}");
        }
    }
}

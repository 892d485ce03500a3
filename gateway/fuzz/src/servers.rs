//! URLs of deployments. No message and no `Debug` output may hold a password.

use protocol::servers::{Servers, ServersConfig};

pub fn check(bytes: &[u8]) {
    let Ok(url) = std::str::from_utf8(bytes) else {
        return;
    };
    let config = ServersConfig {
        url: url.to_owned(),
        ..ServersConfig::default()
    };
    match Servers::new(&config) {
        Ok(servers) => {
            let (shown, debug) = (servers.to_string(), format!("{servers:?}"));
            assert!(!servers.known().is_empty() && !shown.is_empty());
            let scheme = url.split("://").next().unwrap_or_default();
            assert_eq!(servers.is_cluster(), scheme.ends_with("+cluster"));
            assert_eq!(Servers::new(&config).unwrap().known(), servers.known());
            let (_, password) = servers.login().unwrap();
            // A name that says the same is no leak.
            if let Some(password) = password.filter(|password| password.starts_with("secret")) {
                // As URLs are read: tabs and line ends in them are nobody's.
                let url = url.replace(['\t', '\r', '\n'], "");
                let elsewhere = url.matches("secret").count() > 1;
                assert!(elsewhere || !shown.contains(&password) && !debug.contains(&password));
            }
        }
        Err(error) => {
            // The part that is for a password: behind a colon, before the last `@`.
            let Some((_, rest)) = url.split_once("://") else {
                return;
            };
            let Some((login, behind)) = rest.rsplit_once('@') else {
                return;
            };
            let Some((user, password)) = login.split_once(':') else {
                return;
            };
            let once = !user.contains("secret") && !behind.contains("secret");
            if password.starts_with("secret") && once {
                let error = error.to_string();
                assert!(!error.contains("secret"), "{error}");
            }
        }
    }
}

//! Asks a running gateway on this machine how it is: for container health checks and scripts, without curl.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

mod tls;

/// Time for everything.
const PATIENCE: Duration = Duration::from_secs(2);
/// As much of an answer as is read.
const MOST: u64 = 16 * 1024;

/// Asks `path` of the admin listener at `address`; its answer's body, if that is 200. Over TLS where the listener has a
/// certificate: the one that stands first in the file `cert` is what it has to show.
///
/// # Errors
/// One sentence: nobody answers, or not well.
pub fn ask(address: SocketAddr, path: &str, cert: Option<&Path>) -> Result<String, String> {
    let address = reachable(address);
    let scheme = if cert.is_some() { "https" } else { "http" };
    let answer = exchange(address, path, cert).map_err(|error| {
        format!("no gateway answers at {scheme}://{address}{path} ({error}): is admin.listen the same as the gateway's?")
    })?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    match head.split(' ').nth(1) {
        Some("200") => Ok(body.to_owned()),
        status => Err(format!(
            "{scheme}://{address}{path} answers {}: {}",
            status.unwrap_or("nothing that is HTTP"),
            body.trim()
        )),
    }
}

fn exchange(address: SocketAddr, path: &str, cert: Option<&Path>) -> std::io::Result<String> {
    let socket = TcpStream::connect_timeout(&address, PATIENCE)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.set_write_timeout(Some(PATIENCE))?;
    match cert {
        None => speak(socket, address, path),
        Some(cert) => speak(tls::wrap(socket, address.ip(), cert)?, address, path),
    }
}

fn speak(mut wire: impl Read + Write, address: SocketAddr, path: &str) -> std::io::Result<String> {
    write!(
        wire,
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
    )?;
    wire.flush()?;
    let mut answer = Vec::new();
    wire.take(MOST).read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// The address to go to for one that is listened on: nobody can go to 0.0.0.0.
#[must_use]
pub fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_there_is_one_sentence() {
        // Port 1 is nobody's.
        let error = ask("0.0.0.0:1".parse().unwrap(), "/livez", None).unwrap_err();
        assert!(
            error.contains("127.0.0.1:1/livez") && !error.contains('\n'),
            "{error}"
        );
    }
}

//! The header of the PROXY protocol, versions 1 and 2, by which a proxy that does not speak HTTP names its client
//! (haproxy.org, "The PROXY protocol"). It comes before everything else, TLS included.
//!
//! Invariant: not a byte after the header is taken from the socket.

use std::io::{self, ErrorKind, Read};
use std::net::{IpAddr, TcpStream};

use ppp::{PartialResult, v1, v2};
use tokio::net::TcpStream as Watched;

/// The longest header of version 1, by its specification.
const MOST_TEXT: usize = 107;
/// The longest header of version 2 that is read: addresses of IPv6, and 484 bytes of extensions.
const MOST_BYTES: usize = 536;

/// Why there is no header.
#[derive(Debug, thiserror::Error)]
pub(super) enum HeaderError {
    /// The connection ended, or broke.
    #[error("{0}")]
    Broken(#[from] io::Error),
    /// Something else came, or more than we read.
    #[error(
        "a trusted proxy began without a PROXY header that can be read: turn it on there, or http.proxy_protocol off here"
    )]
    Malformed,
}

/// What the bytes so far are.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Parsed {
    /// A header of so many bytes, and whom it names: nobody where the proxy speaks for itself.
    Whole(usize, Option<IpAddr>),
    /// The beginning of one.
    Part,
    /// None.
    Malformed,
}

pub(super) fn parse(bytes: &[u8]) -> Parsed {
    let begins = |prefix: &[u8]| bytes.iter().zip(prefix).all(|(a, b)| a == b);
    if begins(v1::PROTOCOL_PREFIX.as_bytes()) {
        parse_text(bytes)
    } else if begins(v2::PROTOCOL_PREFIX) {
        parse_binary(bytes)
    } else {
        Parsed::Malformed
    }
}

/// Version 1: one line.
fn parse_text(bytes: &[u8]) -> Parsed {
    let line = &bytes[..bytes.len().min(MOST_TEXT)];
    let Some(end) = line.windows(2).position(|pair| pair == b"\r\n") else {
        return if bytes.len() < MOST_TEXT {
            Parsed::Part
        } else {
            Parsed::Malformed
        };
    };
    let line = &bytes[..end + 2];
    let named = match v1::Header::try_from(line).map(|header| header.addresses) {
        Ok(v1::Addresses::Tcp4(ip)) => Some(IpAddr::V4(ip.source_address)),
        Ok(v1::Addresses::Tcp6(ip)) => Some(IpAddr::V6(ip.source_address)),
        Ok(v1::Addresses::Unknown) => None,
        Err(_) => return Parsed::Malformed,
    };
    Parsed::Whole(line.len(), named.map(|address| address.to_canonical()))
}

/// Version 2: a length says where it ends.
fn parse_binary(bytes: &[u8]) -> Parsed {
    let parsed = v2::Header::try_from(bytes);
    if parsed.is_incomplete() {
        return if bytes.len() < MOST_BYTES {
            Parsed::Part
        } else {
            Parsed::Malformed
        };
    }
    let Ok(header) = parsed else {
        return Parsed::Malformed;
    };
    let named = match header.addresses {
        // What asks is the proxy itself, for its own health check.
        _ if header.command == v2::Command::Local => None,
        v2::Addresses::IPv4(ip) => Some(IpAddr::V4(ip.source_address)),
        v2::Addresses::IPv6(ip) => Some(IpAddr::V6(ip.source_address)),
        v2::Addresses::Unspecified | v2::Addresses::Unix(_) => None,
    };
    let length = header.header.len();
    if length > MOST_BYTES {
        return Parsed::Malformed;
    }
    Parsed::Whole(length, named.map(|address| address.to_canonical()))
}

/// Reads the header, and says whom it names. Waits as long as it takes.
///
/// # Errors
/// There is none.
pub(super) async fn read(
    mut socket: TcpStream,
) -> Result<(TcpStream, Option<IpAddr>), HeaderError> {
    let mut header = Vec::new();
    let mut buffer = [0; MOST_BYTES];
    loop {
        let room = MOST_BYTES - header.len();
        let got = match socket.peek(&mut buffer[..room]) {
            Ok(0) => return Err(io::Error::from(ErrorKind::UnexpectedEof).into()),
            Ok(got) => got,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                let watched = Watched::from_std(socket)?;
                watched.readable().await?;
                socket = watched.into_std()?;
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        let known = header.len();
        header.extend_from_slice(&buffer[..got]);
        // What is taken is there: reading it does not block.
        match parse(&header) {
            Parsed::Malformed => return Err(HeaderError::Malformed),
            Parsed::Part => socket.read_exact(&mut buffer[..got])?,
            Parsed::Whole(length, named) => {
                socket.read_exact(&mut buffer[..length - known])?;
                return Ok((socket, named));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use super::*;

    /// Version 2: command, family and protocol, and what follows the length.
    fn binary(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [
            v2::PROTOCOL_PREFIX,
            &[0x20 | command, family],
            &length,
            rest,
        ]
        .concat()
    }

    fn ipv4(address: [u8; 4]) -> Vec<u8> {
        [&address[..], &[10, 0, 0, 1], &[0x30, 0x39, 0, 80]].concat()
    }

    fn ipv6(address: &str) -> Vec<u8> {
        let address: Ipv6Addr = address.parse().unwrap();
        [&address.octets()[..], &[0; 16], &[0x30, 0x39, 0, 80]].concat()
    }

    fn headers() -> Vec<(Vec<u8>, Option<IpAddr>)> {
        let named = |text: &str| Some(text.parse().unwrap());
        let text = |text: &str| text.as_bytes().to_vec();
        vec![
            (
                text("PROXY TCP4 198.51.100.1 10.0.0.1 56324 443\r\n"),
                named("198.51.100.1"),
            ),
            (
                text("PROXY TCP6 2001:db8::1 fd00::1 56324 443\r\n"),
                named("2001:db8::1"),
            ),
            (
                text("PROXY TCP6 ::ffff:198.51.100.1 fd00::1 1 443\r\n"),
                named("198.51.100.1"),
            ),
            (text("PROXY UNKNOWN\r\n"), None),
            (text("PROXY UNKNOWN ffff::1 ffff::2 65535 65535\r\n"), None),
            (
                binary(1, 0x11, &ipv4([198, 51, 100, 1])),
                named("198.51.100.1"),
            ),
            (binary(1, 0x21, &ipv6("2001:db8::1")), named("2001:db8::1")),
            // With an extension: PP2_TYPE_ALPN, "h2".
            (
                binary(
                    1,
                    0x11,
                    &[&ipv4([198, 51, 100, 1])[..], &[1, 0, 2, b'h', b'2']].concat(),
                ),
                named("198.51.100.1"),
            ),
            (binary(0, 0x11, &ipv4([198, 51, 100, 1])), None),
            (binary(0, 0, &[]), None),
            (binary(1, 0, &[]), None),
        ]
    }

    #[test]
    fn a_header_names_its_client_whatever_follows() {
        for (header, named) in headers() {
            let whole = Parsed::Whole(header.len(), named);
            let shown = String::from_utf8_lossy(&header).into_owned();
            for rest in [
                "",
                "GET / HTTP/1.1\r\n\r\n",
                "PROXY TCP4 192.0.2.1 192.0.2.1 1 1\r\n",
            ] {
                assert_eq!(
                    parse(&[&header, rest.as_bytes()].concat()),
                    whole,
                    "{shown:?}"
                );
            }
            for end in 1..header.len() {
                assert_eq!(
                    parse(&header[..end]),
                    Parsed::Part,
                    "{shown:?}, {end} bytes"
                );
            }
        }
    }

    #[test]
    fn anything_else_is_none() {
        let long = binary(
            1,
            0x11,
            &[&ipv4([1; 4])[..], &[4, 2, 88], &[0; 600]].concat(),
        );
        for bytes in [
            &b"GET / HTTP/1.1\r\n\r\n"[..],
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00",
            b"\r\n\r\nGET",
            b"proxy TCP4 198.51.100.1 10.0.0.1 56324 443\r\n",
            b"PROXY TCP4 198.51.100.256 10.0.0.1 56324 443\r\n",
            b"PROXY TCP4 2001:db8::1 10.0.0.1 56324 443\r\n",
            b"PROXY TCP4 198.51.100.1 10.0.0.1 56324 65536\r\n",
            b"PROXY UDP4 198.51.100.1 10.0.0.1 56324 443\r\n",
            b"PROXY TCP4 198.51.100.1\r\n",
            &[b"PROXY UNKNOWN ", &[b'x'; 200][..], b"\r\n"].concat(),
            &[b"PROXY UNKNOWN ", &[b'x'; 600][..]].concat(),
            &binary(3, 0x11, &ipv4([1; 4])),
            &binary(1, 0x51, &ipv4([1; 4])),
            &binary(1, 0x21, &ipv4([1; 4])),
            &long,
        ] {
            let shown = String::from_utf8_lossy(bytes);
            assert_eq!(parse(bytes), Parsed::Malformed, "{shown:?}");
        }
    }
}

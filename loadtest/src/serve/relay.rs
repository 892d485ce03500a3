//! A bare Redis subscriber in the loop of the floor: it reads messages, and nothing else.

use std::io::{self, Read, Write};

use bytes::Bytes;
use memchr::memchr;
use mio::net::TcpStream;
use protocol::envelope::{self, ChannelMessage};

use super::ServeError;

const PREFIX: &str = "sse:room:";

/// A pub/sub connection (RESP2).
pub(super) struct Relay {
    socket: TcpStream,
    /// What was read and not taken yet.
    input: Vec<u8>,
    taken: usize,
    /// Commands to send.
    output: Vec<u8>,
}

impl Relay {
    /// Connects to `redis://HOST:PORT`.
    pub(super) fn connect(url: &str) -> Result<Self, ServeError> {
        let bad = || ServeError::Redis(format!("{url} is not a URL like redis://127.0.0.1:6379"));
        let url = url::Url::parse(url).map_err(|_| bad())?;
        let host = url.host_str().ok_or_else(bad)?;
        let socket = std::net::TcpStream::connect((host, url.port().unwrap_or(6379)))
            .map_err(|error| ServeError::Redis(error.to_string()))?;
        socket.set_nodelay(true)?;
        socket.set_nonblocking(true)?;
        Ok(Self {
            socket: TcpStream::from_std(socket),
            input: Vec::new(),
            taken: 0,
            output: Vec::new(),
        })
    }

    pub(super) fn socket(&mut self) -> &mut TcpStream {
        &mut self.socket
    }

    /// Subscribes to a room with the next flush.
    pub(super) fn subscribe(&mut self, room: &str) {
        let channel = format!("{PREFIX}{room}");
        let command = format!(
            "*2\r\n$9\r\nSUBSCRIBE\r\n${}\r\n{channel}\r\n",
            channel.len()
        );
        self.output.extend_from_slice(command.as_bytes());
    }

    pub(super) fn flush(&mut self) -> Result<(), ServeError> {
        while !self.output.is_empty() {
            match self.socket.write(&self.output) {
                Ok(sent) => drop(self.output.drain(..sent)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(ServeError::Redis(error.to_string())),
            }
        }
        Ok(())
    }

    /// Reads what there is.
    pub(super) fn read(&mut self) -> Result<(), ServeError> {
        self.input.drain(..self.taken);
        self.taken = 0;
        loop {
            let length = self.input.len();
            self.input.resize(length + 64 * 1024, 0);
            let got = self.socket.read(&mut self.input[length..]);
            self.input
                .truncate(length + got.as_ref().map_or(0, |got| *got));
            match got {
                Ok(0) => return Err(ServeError::Redis("the connection was closed".to_owned())),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(ServeError::Redis(error.to_string())),
            }
        }
    }

    /// The next message: its room and its event's data. Confirmations of subscriptions are passed over.
    pub(super) fn next_message(&mut self) -> Result<Option<(String, Vec<u8>)>, ServeError> {
        loop {
            let Some((kind, channel, data, length)) = message(&self.input[self.taken..])? else {
                return Ok(None);
            };
            let found = (kind == b"message").then(|| {
                let room = String::from_utf8_lossy(channel);
                let room = room.strip_prefix(PREFIX).unwrap_or(&room).to_owned();
                (room, data_of(data))
            });
            self.taken += length;
            if found.is_some() {
                return Ok(found);
            }
        }
    }
}

fn data_of(message: &[u8]) -> Vec<u8> {
    match envelope::decode(&Bytes::copy_from_slice(message)) {
        Ok(ChannelMessage::Stored(event) | ChannelMessage::Ephemeral(event)) => event.data.to_vec(),
        _ => message.to_vec(),
    }
}

type Message<'a> = (&'a [u8], &'a [u8], &'a [u8], usize);

/// `*3`, kind, channel, and a message or a number; `None` while it is not complete.
fn message(bytes: &[u8]) -> Result<Option<Message<'_>>, ServeError> {
    let mut rest = bytes;
    let Some(line) = line(&mut rest) else {
        return Ok(None);
    };
    if line != b"*3" {
        return Err(ServeError::Redis(
            String::from_utf8_lossy(line).into_owned(),
        ));
    }
    let parts = [part(&mut rest), part(&mut rest), part(&mut rest)];
    let [Some(kind), Some(channel), Some(data)] = parts else {
        return Ok(None);
    };
    Ok(Some((kind, channel, data, bytes.len() - rest.len())))
}

fn part<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let head = line(rest)?;
    match head.split_first()? {
        (b'$', length) => {
            let length: usize = std::str::from_utf8(length).ok()?.parse().ok()?;
            let data = rest.get(..length)?;
            *rest = rest.get(length + 2..)?;
            Some(data)
        }
        _ => Some(head),
    }
}

fn line<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let end = memchr(b'\n', rest)?;
    let line = rest[..end].strip_suffix(b"\r")?;
    *rest = &rest[end + 1..];
    Some(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_read_once_they_are_complete() {
        let bytes = b"*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$5\r\na\r\nbc\r\n*3\r\n$9\r\nsubscribe\r\n$1\r\nd\r\n:1\r\n";
        let complete = 35;
        for end in 0..complete {
            assert!(message(&bytes[..end]).unwrap().is_none(), "{end}");
        }
        let (kind, channel, data, length) = message(bytes).unwrap().unwrap();
        assert_eq!(
            (kind, channel, data),
            (
                b"message".as_slice(),
                b"c".as_slice(),
                b"a\r\nbc".as_slice()
            )
        );
        let (kind, channel, data, _) = message(&bytes[length..]).unwrap().unwrap();
        assert_eq!(
            (kind, channel, data),
            (b"subscribe".as_slice(), b"d".as_slice(), b":1".as_slice())
        );
        assert!(message(b"-ERR no\r\n").is_err());
    }
}

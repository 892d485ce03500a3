//! A bare Redis subscriber in the loop of the floor: it reads messages, and nothing else.

use std::io::{self, Read, Write};

use memchr::memchr;
use mio::net::TcpStream;

use super::ServeError;

const PREFIX: &str = "sse:room:";

/// Bytes of the buffer that messages are read into; it grows for a greater one.
const BUFFER: usize = 256 * 1024;

/// A pub/sub connection (RESP2).
pub(super) struct Relay {
    socket: TcpStream,
    /// What was read is at `begin..end`.
    input: Vec<u8>,
    begin: usize,
    end: usize,
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
            input: vec![0; BUFFER],
            begin: 0,
            end: 0,
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

    /// Sends what it can; the rest goes with the next flush.
    pub(super) fn flush(&mut self) -> Result<(), ServeError> {
        while !self.output.is_empty() {
            match self.socket.write(&self.output) {
                Ok(sent) => drop(self.output.drain(..sent)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(ServeError::Redis(error.to_string())),
            }
        }
        Ok(())
    }

    /// Reads what there is, and hands over the room and the data of each message. Confirmations of subscriptions
    /// are passed over.
    pub(super) fn read(&mut self, mut each: impl FnMut(&str, &[u8])) -> Result<(), ServeError> {
        loop {
            if self.begin == self.end {
                (self.begin, self.end) = (0, 0);
            } else if self.end == self.input.len() {
                self.input.copy_within(self.begin..self.end, 0);
                (self.begin, self.end) = (0, self.end - self.begin);
                if self.end == self.input.len() {
                    self.input.resize(2 * self.end, 0);
                }
            }
            match self.socket.read(&mut self.input[self.end..]) {
                Ok(0) => return Err(ServeError::Redis("the connection was closed".to_owned())),
                Ok(got) => self.end += got,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(ServeError::Redis(error.to_string())),
            }
            while let Some((kind, channel, data, length)) =
                message(&self.input[self.begin..self.end])?
            {
                let room = std::str::from_utf8(channel).ok();
                if kind == b"message"
                    && let Some(room) = room.and_then(|channel| channel.strip_prefix(PREFIX))
                {
                    each(room, data_of(data));
                }
                self.begin += length;
            }
        }
    }
}

/// The data of a message of the publish function, which follows an empty line; any other message is data.
fn data_of(message: &[u8]) -> &[u8] {
    let head = message
        .starts_with(b"SSE/1 ")
        .then(|| memchr::memmem::find(message, b"\n\n"));
    match head.flatten() {
        Some(end) => &message[end + 2..],
        None => message,
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

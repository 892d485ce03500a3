//! An open stream over TLS: once its request has been read, the shard has the socket and the session.

use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;

use mio::net::TcpStream;
use tokio_rustls::rustls::ServerConnection;
use tokio_rustls::server::TlsStream;

use crate::hub::{Call, READS_AT_ONCE, Transport};

/// The most bytes that are encrypted before they are written: one record (RFC 8446, section 5.1).
const AT_ONCE: usize = 16 * 1024;

/// The session of one stream, and its socket.
pub(in crate::http) struct TlsLine {
    socket: TcpStream,
    session: ServerConnection,
}

impl TlsLine {
    /// Takes it out of the runtime.
    ///
    /// # Errors
    /// The runtime does not let the socket go.
    pub(in crate::http) fn new(stream: TlsStream<tokio::net::TcpStream>) -> io::Result<Self> {
        let (socket, mut session) = stream.into_inner();
        session.set_buffer_limit(Some(AT_ONCE));
        let mut line = Self {
            socket: TcpStream::from_std(socket.into_std()?),
            session,
        };
        line.drop_plaintext();
        Ok(line)
    }

    /// Bytes after the request are nobody's.
    fn drop_plaintext(&mut self) {
        let mut scratch = [0; 2048];
        while let Ok(1..) = self.session.reader().read(&mut scratch) {}
    }
}

impl Transport for TlsLine {
    fn begin(&mut self, _: Call) {}

    fn socket(&mut self) -> Option<&mut TcpStream> {
        Some(&mut self.socket)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let bytes = &bytes[..bytes.len().min(AT_ONCE)];
        match self.session.writer().write(bytes)? {
            // It holds as much as it may.
            0 => Err(ErrorKind::WouldBlock.into()),
            taken => Ok(taken),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        while self.session.wants_write() {
            match self.session.write_tls(&mut self.socket) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn drain_input(&mut self) -> bool {
        for _ in 0..READS_AT_ONCE {
            match self.session.read_tls(&mut self.socket) {
                Ok(0) => return false,
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return true,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(_) => return false,
            }
            match self.session.process_new_packets() {
                Ok(state) if !state.peer_has_closed() => self.drop_plaintext(),
                _ => return false,
            }
        }
        false
    }

    fn peer(&self) -> Option<SocketAddr> {
        self.socket.peer_addr().ok()
    }

    /// The mark of a complete answer is HTTP's, and is among the bytes. TLS has an end of its own, so that nobody
    /// takes this one for an attack (RFC 8446, section 6.1). What the socket does not take at once is lost.
    fn finish(&mut self, rest: &[u8], _: bool) {
        if rest.is_empty() || matches!(self.write(rest), Ok(taken) if taken == rest.len()) {
            self.session.send_close_notify();
        }
        let _ = self.flush();
    }
}

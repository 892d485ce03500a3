//! The bytes of one connection, with TLS or without.

use std::io::{self, ErrorKind, Read, Write};

use mio::net::TcpStream;
use rustls::ClientConnection;

use super::socket;
use crate::tls::Connector;

/// A connection that never blocks.
#[derive(Debug)]
pub(super) struct Line {
    socket: TcpStream,
    session: Option<Box<ClientConnection>>,
}

impl Line {
    pub(super) fn new(socket: TcpStream, tls: Option<&Connector>) -> io::Result<Self> {
        let session = tls.map(Connector::session).transpose();
        Ok(Self {
            socket,
            session: session.map_err(io::Error::other)?.map(Box::new),
        })
    }

    pub(super) fn socket(&mut self) -> &mut TcpStream {
        &mut self.socket
    }

    /// Whether a read that did not fill its buffer has emptied the socket. One record of TLS says nothing of the next.
    pub(super) fn is_drained_by_short_reads(&self) -> bool {
        self.session.is_none()
    }

    pub(super) fn reset_on_close(&self) {
        socket::reset_on_close(&self.socket);
    }
}

impl Read for Line {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(session) = &mut self.session else {
            return self.socket.read(buffer);
        };
        loop {
            match session.reader().read(buffer) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                read => return read,
            }
            session.read_tls(&mut self.socket)?;
            let processed = session.process_new_packets();
            // The next messages of the handshake, with the request behind them; or why it was ended.
            let sent = send(session, &mut self.socket);
            processed.map_err(io::Error::other)?;
            sent?;
        }
    }
}

impl Write for Line {
    /// Before the handshake is through, the bytes wait for its end.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(session) = &mut self.session else {
            return self.socket.write(bytes);
        };
        let taken = session.writer().write(bytes)?;
        send(session, &mut self.socket)?;
        match taken {
            0 if !bytes.is_empty() => Err(ErrorKind::WouldBlock.into()),
            taken => Ok(taken),
        }
    }

    /// Sends what there is as far as the socket takes it.
    fn flush(&mut self) -> io::Result<()> {
        match &mut self.session {
            Some(session) => send(session, &mut self.socket),
            None => Ok(()),
        }
    }
}

/// What the socket does not take now goes once it is writable again.
fn send(session: &mut ClientConnection, socket: &mut TcpStream) -> io::Result<()> {
    while session.wants_write() {
        match session.write_tls(socket) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

//! Transports as TLS and HTTP/2 have them, over a socket, for the tests of the shard.

use std::cell::RefCell;
use std::io::{self, ErrorKind, Write};
use std::net::SocketAddr;
use std::rc::Rc;

use bytes::Bytes;

use super::super::{Call, Transport};

/// Like TLS: takes more than its socket does, and keeps it.
pub(super) struct Holding {
    socket: mio::net::TcpStream,
    held: Vec<u8>,
}

const MOST_HELD: usize = 5000;

impl Holding {
    pub(super) fn new(socket: std::net::TcpStream) -> Self {
        Self {
            socket: mio::net::TcpStream::from_std(socket),
            held: Vec::new(),
        }
    }
}

impl Transport for Holding {
    fn begin(&mut self, _: Call) {}

    fn socket(&mut self) -> Option<&mut mio::net::TcpStream> {
        Some(&mut self.socket)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        assert!(self.held.is_empty(), "written to before it was flushed");
        let taken = bytes.len().min(MOST_HELD);
        self.held.extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        while !self.held.is_empty() {
            let sent = self.socket.write(&self.held)?;
            self.held.drain(..sent);
        }
        Ok(())
    }

    fn drain_input(&mut self) -> bool {
        let mut byte = [0];
        !matches!(io::Read::read(&mut self.socket, &mut byte), Ok(0))
    }

    fn peer(&self) -> Option<SocketAddr> {
        None
    }

    fn finish(&mut self, _: &[u8], _: bool) {}
}

/// Like HTTP/2: one slice at a time, which something else takes later and then calls.
#[derive(Clone)]
pub(super) struct Calling(Rc<RefCell<Slot>>);

struct Slot {
    socket: std::net::TcpStream,
    slice: Bytes,
    wanted: bool,
    call: Option<Call>,
}

impl Calling {
    pub(super) fn new(socket: std::net::TcpStream) -> Self {
        let slot = Slot {
            socket,
            slice: Bytes::new(),
            wanted: false,
            call: None,
        };
        Self(Rc::new(RefCell::new(slot)))
    }

    /// What takes the slice.
    pub(super) fn pump(&self) {
        let slot = &mut *self.0.borrow_mut();
        if let Ok(sent) = slot.socket.write(&slot.slice) {
            let _ = slot.slice.split_to(sent);
        }
        if slot.slice.is_empty() && std::mem::take(&mut slot.wanted) {
            slot.call.as_ref().unwrap().ready();
        }
    }
}

impl Transport for Calling {
    fn begin(&mut self, call: Call) {
        self.0.borrow_mut().call = Some(call);
    }

    fn socket(&mut self) -> Option<&mut mio::net::TcpStream> {
        None
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let slot = &mut *self.0.borrow_mut();
        if !slot.slice.is_empty() {
            slot.wanted = true;
            return Err(ErrorKind::WouldBlock.into());
        }
        let taken = &bytes[..bytes.len().min(MOST_HELD)];
        slot.slice = slot.call.as_ref().unwrap().share(taken);
        assert_eq!(slot.slice, taken);
        Ok(taken.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn drain_input(&mut self) -> bool {
        true
    }

    fn peer(&self) -> Option<SocketAddr> {
        None
    }

    fn finish(&mut self, _: &[u8], _: bool) {}
}

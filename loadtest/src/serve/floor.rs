//! The physical limit of one core: one thread, one epoll, one `write` per delivery, and nothing else.
//!
//! A subscriber whose socket is full loses whole events, which a real server may not do; what is on its stream stays
//! well-formed. With a [`Relay`] the events come from Redis instead of HTTP.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::TcpListener as StdListener;

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use protocol::EventId;
use protocol::sse::encode;
use slab::Slab;
use socket2::SockRef;

use super::ServeError;
use super::relay::Relay;
use super::request;

const LISTENER: Token = Token(usize::MAX - 1);
const RELAY: Token = Token(usize::MAX - 2);
const NO_ROOM: u32 = u32::MAX;
const HEAD: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-store\r\n\
    Transfer-Encoding: chunked\r\n\r\n2F\r\nevent: stream.open\nretry: 3000\ndata: {\"id\":0}\n\n\r\n";
const CREATED: &[u8] = b"HTTP/1.1 201 Created\r\nContent-Length: 2\r\n\r\n{}";
/// As the gateway's.
const SEND_BUFFER: usize = 64 * 1024;
const NOT_SENT: u32 = 16 * 1024;

/// A connection: no buffer, for there are ten thousand of it.
struct Connection {
    socket: TcpStream,
    room: u32,
    /// Its place among the room's subscribers.
    place: u32,
}

struct Floor {
    poll: Poll,
    listener: TcpListener,
    relay: Option<Relay>,
    connections: Slab<Connection>,
    names: HashMap<String, u32>,
    /// Subscribers by room.
    rooms: Vec<Vec<u32>>,
    /// Requests that came in part.
    begun: HashMap<usize, Vec<u8>>,
    /// What is left of an event that a socket took in part.
    rest: HashMap<usize, Vec<u8>>,
    buffer: Vec<u8>,
    event: Vec<u8>,
    frame: Vec<u8>,
    number: u64,
}

/// Serves until the system fails.
pub(super) fn serve(listener: StdListener, relay: Option<Relay>) -> Result<(), ServeError> {
    // Accepted sockets inherit these.
    let options = SockRef::from(&listener);
    options.set_tcp_nodelay(true)?;
    options.set_send_buffer_size(SEND_BUFFER)?;
    #[cfg(target_os = "linux")]
    options.set_tcp_notsent_lowat(NOT_SENT)?;
    let mut floor = Floor {
        poll: Poll::new()?,
        listener: TcpListener::from_std(listener),
        relay,
        connections: Slab::new(),
        names: HashMap::new(),
        rooms: Vec::new(),
        begun: HashMap::new(),
        rest: HashMap::new(),
        buffer: vec![0; 64 * 1024],
        event: Vec::new(),
        frame: Vec::new(),
        number: 0,
    };
    floor.serve()
}

impl Floor {
    fn serve(&mut self) -> Result<(), ServeError> {
        let registry = self.poll.registry();
        registry.register(&mut self.listener, LISTENER, Interest::READABLE)?;
        if let Some(relay) = &mut self.relay {
            registry.register(relay.socket(), RELAY, Interest::READABLE)?;
        }
        let mut events = Events::with_capacity(1_024);
        loop {
            match self.poll.poll(&mut events, None) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                    return Err(error.into());
                }
                _ => {}
            }
            for event in &events {
                match event.token() {
                    LISTENER => self.accept(),
                    RELAY => self.take_messages()?,
                    Token(key) => {
                        let closed = event.is_read_closed() || event.is_error();
                        self.ready(key, event.is_writable(), closed);
                    }
                }
            }
            if let Some(relay) = &mut self.relay {
                relay.flush()?;
            }
        }
    }

    fn accept(&mut self) {
        // Without descriptors the rest waits for the next connection.
        loop {
            let mut socket = match self.listener.accept() {
                Ok((socket, _)) => socket,
                // The client went before it was accepted.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
                Err(_) => return,
            };
            let entry = self.connections.vacant_entry();
            let interest = Interest::READABLE | Interest::WRITABLE;
            let token = Token(entry.key());
            if self
                .poll
                .registry()
                .register(&mut socket, token, interest)
                .is_ok()
            {
                entry.insert(Connection {
                    socket,
                    room: NO_ROOM,
                    place: 0,
                });
            }
        }
    }

    fn ready(&mut self, key: usize, writable: bool, closed: bool) {
        if writable && !self.rest.is_empty() {
            self.write_rest(key);
        }
        loop {
            let Some(connection) = self.connections.get_mut(key) else {
                return;
            };
            match connection.socket.read(&mut self.buffer) {
                Ok(0) => return self.close(key),
                Ok(got) => {
                    let buffer = std::mem::take(&mut self.buffer);
                    match self.begun.remove(&key) {
                        None => self.requests(key, &buffer[..got]),
                        Some(begun) => self.requests(key, &[&begun, &buffer[..got]].concat()),
                    }
                    self.buffer = buffer;
                    if got < self.buffer.len() && !closed {
                        return;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => return self.close(key),
            }
        }
    }

    fn requests(&mut self, key: usize, mut bytes: &[u8]) {
        while let Some(request) = request::read(bytes) {
            if request.is_post {
                let room = self.room(request.room);
                self.publish(room, request.body);
                if let Some(connection) = self.connections.get_mut(key) {
                    // A publisher whose buffer is full of answers reads none.
                    let _ = connection.socket.write(CREATED);
                }
            } else {
                self.subscribe(key, request.room);
            }
            bytes = &bytes[request.length..];
        }
        if !bytes.is_empty() {
            self.begun.insert(key, bytes.to_vec());
        }
    }

    fn room(&mut self, name: &str) -> u32 {
        if let Some(&room) = self.names.get(name) {
            return room;
        }
        let room = self.rooms.len() as u32;
        self.names.insert(name.to_owned(), room);
        self.rooms.push(Vec::new());
        if let Some(relay) = &mut self.relay {
            relay.subscribe(name);
        }
        room
    }

    fn subscribe(&mut self, key: usize, name: &str) {
        let room = self.room(name);
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        if connection.room != NO_ROOM || connection.socket.write(HEAD).is_err() {
            return;
        }
        connection.room = room;
        let subscribers = &mut self.rooms[room as usize];
        connection.place = subscribers.len() as u32;
        subscribers.push(key as u32);
    }

    /// Writes one event to each subscriber of a room.
    fn publish(&mut self, room: u32, data: &[u8]) {
        self.number += 1;
        self.event.clear();
        let id = EventId::new(self.number, 0);
        encode::event(&mut self.event, Some(id), b"", data);
        self.frame.clear();
        // Writing into a vector cannot fail.
        let _ = write!(self.frame, "{:X}\r\n", self.event.len());
        self.frame.extend_from_slice(&self.event);
        self.frame.extend_from_slice(b"\r\n");
        for &key in &self.rooms[room as usize] {
            let key = key as usize;
            if !self.rest.is_empty() && self.rest.contains_key(&key) {
                continue;
            }
            // A socket that is gone is closed when the poll says so.
            if let Ok(sent) = self.connections[key].socket.write(&self.frame)
                && sent < self.frame.len()
            {
                self.rest.insert(key, self.frame[sent..].to_vec());
            }
        }
    }

    fn write_rest(&mut self, key: usize) {
        let (Some(rest), Some(connection)) =
            (self.rest.get_mut(&key), self.connections.get_mut(key))
        else {
            return;
        };
        while let Ok(sent) = connection.socket.write(rest) {
            rest.drain(..sent);
            if rest.is_empty() {
                self.rest.remove(&key);
                return;
            }
        }
    }

    fn take_messages(&mut self) -> Result<(), ServeError> {
        let Some(mut relay) = self.relay.take() else {
            return Ok(());
        };
        let read = relay.read(|room, data| {
            if let Some(&room) = self.names.get(room) {
                self.publish(room, data);
            }
        });
        self.relay = Some(relay);
        read
    }

    fn close(&mut self, key: usize) {
        self.begun.remove(&key);
        self.rest.remove(&key);
        let Some(connection) = self.connections.try_remove(key) else {
            return;
        };
        if connection.room == NO_ROOM {
            return;
        }
        let subscribers = &mut self.rooms[connection.room as usize];
        subscribers.swap_remove(connection.place as usize);
        if let Some(&moved) = subscribers.get(connection.place as usize) {
            self.connections[moved as usize].place = connection.place;
        }
    }
}

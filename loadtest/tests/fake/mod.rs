//! An event-stream server with one fault.

pub mod secure;
pub mod shared;

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What goes wrong; with a number, at this event of the first room and for its first client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    None,
    Lose(u64),
    StopAfter(u64),
    Repeat(u64),
    Reorder(u64),
    Delay(u64),
    Garble(u64),
    Alien(u64),
    BreakChunk(u64),
    Reset(u64),
    /// The second client gets 503.
    Refuse,
    /// The second client gets a page.
    NotAStream,
    /// Every publish is answered after 100 ms.
    SlowPublish,
    /// Every publish is answered 401.
    RefusePublish,
    /// Who does not say `token-N` in room N gets 401.
    Tokens,
}

#[derive(Default)]
struct State {
    /// Subscribers of each room, in the order in which they came.
    rooms: HashMap<String, Vec<TcpStream>>,
    /// Events of each room so far.
    counts: HashMap<String, u64>,
    streams: u64,
    held: Option<Vec<u8>>,
}

/// The server; its threads end with the process.
pub struct Server {
    port: u16,
}

impl Server {
    pub fn start(fault: Fault) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(Mutex::new(State::default()));
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let state = state.clone();
                std::thread::spawn(move || serve(stream, fault, &state));
            }
        });
        Self { port }
    }

    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}

fn serve(mut stream: TcpStream, fault: Fault, state: &Mutex<State>) {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4_096];
    loop {
        while let Some((head, body, length)) = request(&bytes) {
            let room = head.split('/').nth(2).unwrap_or_default().to_owned();
            if head.starts_with("POST") {
                if fault == Fault::SlowPublish {
                    std::thread::sleep(Duration::from_millis(100));
                }
                if fault == Fault::RefusePublish {
                    let _ = stream
                        .write_all(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\n{}");
                    bytes.drain(..length);
                    continue;
                }
                let body = body.to_vec();
                publish(&mut state.lock().unwrap(), fault, &room, &body);
                let _ = stream.write_all(b"HTTP/1.1 201 Created\r\nContent-Length: 2\r\n\r\n{}");
            } else {
                subscribe(&mut state.lock().unwrap(), fault, &room, &head, &stream);
            }
            bytes.drain(..length);
        }
        match stream.read(&mut buffer) {
            Ok(got) if got > 0 => bytes.extend_from_slice(&buffer[..got]),
            _ => return,
        }
    }
}

fn request(bytes: &[u8]) -> Option<(String, &[u8], usize)> {
    let end = memchr::memmem::find(bytes, b"\r\n\r\n")? + 4;
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("Content-Length: ")?.parse().ok());
    let body = bytes.get(end..end + length.unwrap_or(0))?;
    Some((head, body, end + body.len()))
}

fn subscribe(state: &mut State, fault: Fault, room: &str, asked: &str, mut stream: &TcpStream) {
    state.streams += 1;
    let number = room.rsplit('-').next().unwrap_or_default();
    let token = format!("token-{number}\r\n");
    let head = match fault {
        Fault::Refuse if state.streams == 2 => {
            "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nfull"
        }
        Fault::Tokens if !asked.contains(&token) => {
            "HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n"
        }
        Fault::NotAStream if state.streams == 2 => {
            "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 4\r\n\r\n<br>"
        }
        _ => {
            "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\nb\r\nretry: 20\n\n\r\n"
        }
    };
    let _ = stream.write_all(head.as_bytes());
    if head.contains("event-stream") {
        let subscriber = stream.try_clone().unwrap();
        state
            .rooms
            .entry(room.to_owned())
            .or_default()
            .push(subscriber);
    }
}

fn publish(state: &mut State, fault: Fault, room: &str, data: &[u8]) {
    let count = state.counts.entry(room.to_owned()).or_default();
    *count += 1;
    let number = *count;
    let data = String::from_utf8_lossy(data).into_owned();
    let event = chunk(&format!("id: {number}\ndata: {data}\n\n"));
    let held = &mut state.held;
    for (at, stream) in state
        .rooms
        .entry(room.to_owned())
        .or_default()
        .iter_mut()
        .enumerate()
    {
        let bytes = if at == 0 && room.ends_with("-0") {
            spoil(fault, number, &data, &event, held)
        } else {
            event.clone()
        };
        let _ = stream.write_all(&bytes);
    }
}

fn spoil(
    fault: Fault,
    number: u64,
    data: &str,
    event: &[u8],
    held: &mut Option<Vec<u8>>,
) -> Vec<u8> {
    match fault {
        Fault::Lose(at) if at == number => Vec::new(),
        Fault::StopAfter(at) if number > at => Vec::new(),
        Fault::Repeat(at) if at == number => event.repeat(2),
        Fault::Reorder(at) if at == number => {
            *held = Some(event.to_vec());
            Vec::new()
        }
        Fault::Reorder(at) if at + 1 == number => [event, &held.take().unwrap()].concat(),
        Fault::Delay(at) if at == number => {
            std::thread::sleep(Duration::from_millis(300));
            event.to_vec()
        }
        Fault::Garble(at) if at == number => {
            chunk(&format!("data: {}\n\n", data.replace("xyz", "xxz")))
        }
        Fault::Alien(at) if at == number => {
            let alien = chunk(&format!(
                "data: {}\n\n",
                data.replace("sselt:0:", "sselt:1:")
            ));
            [event, &alien].concat()
        }
        Fault::BreakChunk(at) if at == number => b"zz\r\n".to_vec(),
        Fault::Reset(at) if at == number => chunk("event: stream.reset\ndata: {}\n\n"),
        _ => event.to_vec(),
    }
}

fn chunk(text: &str) -> Vec<u8> {
    format!("{:x}\r\n{text}\r\n", text.len()).into_bytes()
}

//! HTTP/2 in front of a server that has none.

use std::future::poll_fn;
use std::io;
use std::net::TcpListener as StdListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::{Request, Response as Answer};
use loadtest::worker::response::{Part, Response};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::spawn_local;

/// An address that takes both HTTP/2 with prior knowledge and HTTP/1.1; its thread ends with the process.
pub struct Front {
    port: u16,
    connections: Arc<AtomicUsize>,
}

impl Front {
    /// Takes connections, and hands on what is in them to a server's address. The request of this number, from 0, closes
    /// its connection.
    pub fn start(server: &str, fatal: usize) -> Self {
        let listener = StdListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        listener.set_nonblocking(true).unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let (server, count) = (server.to_owned(), connections.clone());
        let asked = Arc::new(AtomicUsize::new(0));
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            let serving = async {
                let listener = TcpListener::from_std(listener).unwrap();
                while let Ok((client, _)) = listener.accept().await {
                    // Whoever goes away in the middle of it has its reasons.
                    spawn_local(connect(
                        client,
                        server.clone(),
                        count.clone(),
                        asked.clone(),
                        fatal,
                    ));
                }
            };
            runtime.block_on(tokio::task::LocalSet::new().run_until(serving));
        });
        Self { port, connections }
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Connections that spoke HTTP/2.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

async fn connect(
    mut client: TcpStream,
    server: String,
    count: Arc<AtomicUsize>,
    asked: Arc<AtomicUsize>,
    fatal: usize,
) -> io::Result<()> {
    let mut first = [0; 3];
    client.peek(&mut first).await?;
    if &first != b"PRI" {
        let mut server = TcpStream::connect(server).await?;
        copy_bidirectional(&mut client, &mut server).await?;
        return Ok(());
    }
    count.fetch_add(1, Ordering::Relaxed);
    let shaken = h2::server::handshake(client).await;
    let mut connection = shaken.map_err(io::Error::other)?;
    while let Some(Ok((request, respond))) = connection.accept().await {
        if asked.fetch_add(1, Ordering::Relaxed) == fatal {
            break;
        }
        spawn_local(answer(request, respond, server.clone()));
    }
    Ok(())
}

async fn answer(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    server: String,
) -> io::Result<()> {
    let mut server = TcpStream::connect(server).await?;
    let mut head = format!("{} {} HTTP/1.1\r\n", request.method(), request.uri().path());
    for (name, value) in request.headers() {
        head.push_str(&format!("{name}: {}\r\n", value.to_str().unwrap()));
    }
    server.write_all(format!("{head}\r\n").as_bytes()).await?;
    let (mut reading, mut buffer) = (Response::default(), [0; 16 * 1024]);
    let mut stream: Option<SendStream<Bytes>> = None;
    loop {
        let gone = poll_fn(|context| match &mut stream {
            Some(stream) => stream.poll_reset(context).map(drop),
            None => std::task::Poll::Pending,
        });
        let got = tokio::select! {
            got = server.read(&mut buffer) => got?,
            () = gone => return Ok(()),
        };
        let (mut body, mut end) = (Vec::new(), got == 0);
        let fed = reading.feed(&buffer[..got], |part| match part {
            Part::Head {
                status,
                event_stream,
            } => {
                let kind = if event_stream {
                    "text/event-stream"
                } else {
                    "text/html"
                };
                let head = Answer::builder().status(status);
                let head = head.header("content-type", kind).body(()).unwrap();
                stream = respond.send_response(head, false).ok();
            }
            Part::Body(bytes) => body.extend_from_slice(bytes),
            Part::End => end = true,
        });
        let Some(stream) = &mut stream else {
            return Ok(());
        };
        // A client that is gone needs nothing.
        let _ = stream.send_data(body.into(), end);
        if fed.is_err() {
            stream.send_reset(Reason::INTERNAL_ERROR);
        }
        if end || fed.is_err() {
            return Ok(());
        }
    }
}

//! An HTTP/2 client: one connection, many requests.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

/// A connection.
pub struct Http2 {
    sender: SendRequest<Full<Bytes>>,
    authority: String,
    connection: JoinHandle<()>,
    socket: Option<std::net::TcpStream>,
}

impl Http2 {
    /// With prior knowledge.
    pub async fn connect(address: SocketAddr) -> Self {
        let socket = std::net::TcpStream::connect(address).unwrap();
        socket.set_nonblocking(true).unwrap();
        let again = socket.try_clone().unwrap();
        let mut client = Self::over(TcpStream::from_std(socket).unwrap()).await;
        client.socket = Some(again);
        client
    }

    /// The connection is lost, with all that was on it.
    pub fn cut(&self) {
        let socket = self.socket.as_ref().unwrap();
        socket.shutdown(std::net::Shutdown::Both).unwrap();
    }

    pub async fn over(io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Self {
        let builder = http2::Builder::new(TokioExecutor::new());
        let (sender, connection) = builder.handshake(TokioIo::new(io)).await.unwrap();
        let connection = tokio::spawn(async {
            let _ = connection.await;
        });
        Self {
            sender,
            authority: "gateway".to_owned(),
            connection,
            socket: None,
        }
    }

    /// Whether the gateway has ended the connection.
    pub fn has_ended(&self) -> bool {
        self.connection.is_finished()
    }

    pub fn send(
        &self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> impl Future<Output = hyper::Result<Response<Incoming>>> + use<> {
        let uri = format!("http://{}{target}", self.authority);
        let mut request = Request::builder().method(method).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let body = Full::new(Bytes::copy_from_slice(body));
        let mut sender = self.sender.clone();
        async move {
            sender.ready().await?;
            sender.send_request(request.body(body).unwrap()).await
        }
    }

    /// A request, and the whole of its answer.
    pub async fn request(
        &self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Response<Bytes> {
        let answer = self.send(method, target, headers, body).await.unwrap();
        let (head, body) = answer.into_parts();
        Response::from_parts(head, body.collect().await.unwrap().to_bytes())
    }

    /// An event stream that is read as it comes.
    pub async fn stream(&self, target: &str, headers: &[(&str, &str)]) -> Stream {
        let answer = self.send("GET", target, headers, b"").await.unwrap();
        assert_eq!(answer.status(), 200);
        Stream::read(answer)
    }

    /// The same, opened: `stream.open` is there.
    pub async fn open(&self, room: &str) -> Stream {
        let stream = self.stream(&format!("/rooms/{room}/events"), &[]).await;
        stream.wait("event: stream.open\n").await;
        stream
    }
}

impl Drop for Http2 {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

/// The body of an event stream. Dropped, it is taken back (`RST_STREAM`).
pub struct Stream {
    pub headers: hyper::HeaderMap,
    seen: Arc<Mutex<Seen>>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Seen {
    text: String,
    end: Option<Result<(), String>>,
}

impl Stream {
    pub fn read(answer: Response<Incoming>) -> Self {
        let (head, mut body) = answer.into_parts();
        let seen = Arc::<Mutex<Seen>>::default();
        let shared = seen.clone();
        let task = tokio::spawn(async move {
            let end = loop {
                match body.frame().await {
                    None => break Ok(()),
                    Some(Err(error)) => break Err(format!("{error:?}")),
                    Some(Ok(frame)) => {
                        let text = String::from_utf8(frame.into_data().unwrap().to_vec()).unwrap();
                        shared.lock().unwrap().text.push_str(&text);
                    }
                }
            };
            shared.lock().unwrap().end = Some(end);
        });
        Self {
            headers: head.headers,
            seen,
            task,
        }
    }

    pub fn text(&self) -> String {
        self.seen.lock().unwrap().text.clone()
    }

    /// How the body ended, if it has.
    pub fn end(&self) -> Option<Result<(), String>> {
        self.seen.lock().unwrap().end.clone()
    }

    pub async fn wait(&self, part: &str) {
        eventually!(self.text().contains(part), "no {part:?}: {}", self.text());
    }

    /// The data of the events in order, without the gateway's own.
    pub fn data(&self) -> Vec<String> {
        let text = self.text();
        let events = text
            .split("\n\n")
            .filter(|event| !event.contains("event: stream."));
        let data = events.filter_map(|event| event.split_once("data: "));
        data.map(|(_, data)| data.to_owned()).collect()
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

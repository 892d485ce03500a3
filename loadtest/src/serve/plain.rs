//! What an engineer would write in an afternoon: a hyper response body per connection over a broadcast channel
//! per room.

use std::cell::RefCell;
use std::collections::HashMap;
use std::convert::Infallible;
use std::net::TcpListener as StdListener;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body_util::{BodyExt, Either, Full};
use hyper::body::{Body, Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use protocol::sse::encode;
use tokio::net::TcpListener;
use tokio::sync::broadcast::{self, Sender};

use super::{ServeError, request};

/// Events that a slow client may be behind.
const CAPACITY: usize = 1_024;

type Rooms = Rc<RefCell<HashMap<String, Sender<Bytes>>>>;
type Receiving = Pin<Box<dyn Future<Output = (Option<Bytes>, broadcast::Receiver<Bytes>)>>>;

/// The events of a room, from now on.
struct Events {
    first: Option<Bytes>,
    next: Receiving,
}

fn receive(mut events: broadcast::Receiver<Bytes>) -> Receiving {
    Box::pin(async move {
        loop {
            match events.recv().await {
                Ok(event) => return (Some(event), events),
                Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => return (None, events),
            }
        }
    })
}

impl Body for Events {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Ok(Frame::data(first))));
        }
        let (event, events) = ready!(self.next.as_mut().poll(context));
        self.next = receive(events);
        Poll::Ready(event.map(|event| Ok(Frame::data(event))))
    }
}

/// Serves until the system fails.
pub(super) fn serve(listener: StdListener) -> Result<(), ServeError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(tokio::task::LocalSet::new().run_until(async move {
        let (listener, rooms) = (TcpListener::from_std(listener)?, Rooms::default());
        loop {
            let (socket, _) = listener.accept().await?;
            // Latency matters more than packets.
            let _ = socket.set_nodelay(true);
            let rooms = rooms.clone();
            tokio::task::spawn_local(async move {
                let service = service_fn(|request| answer(request, rooms.clone()));
                // A client that goes away is no error of the server.
                let _ = http1::Builder::new()
                    .serve_connection(TokioIo::new(socket), service)
                    .await;
            });
        }
    }))
}

async fn answer(
    request: Request<Incoming>,
    rooms: Rooms,
) -> Result<Response<Either<Events, Full<Bytes>>>, hyper::Error> {
    let room = request::room(request.uri().path()).to_owned();
    if request.method() == Method::POST {
        let data = request.into_body().collect().await?.to_bytes();
        let mut event = Vec::with_capacity(data.len() + 16);
        encode::event(&mut event, None, b"", &data);
        if let Some(sender) = rooms.borrow().get(&room) {
            // Without subscribers there is nobody to tell.
            let _ = sender.send(event.into());
        }
        return Ok(Response::new(Either::Right(Full::from("{}"))));
    }
    let mut rooms = rooms.borrow_mut();
    let sender = rooms
        .entry(room)
        .or_insert_with(|| broadcast::channel(CAPACITY).0);
    let mut response = Response::new(Either::Left(Events {
        first: Some(Bytes::from_static(
            b"event: stream.open\nretry: 3000\ndata: {}\n\n",
        )),
        next: receive(sender.subscribe()),
    }));
    let headers = response.headers_mut();
    headers.insert(
        "content-type",
        http::HeaderValue::from_static("text/event-stream"),
    );
    headers.insert("cache-control", http::HeaderValue::from_static("no-store"));
    Ok(response)
}

//! The origin that Pushpin asks: it holds every request as a stream on the channel of its room.

use std::convert::Infallible;
use std::net::TcpListener as StdListener;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

use super::{ServeError, request};

/// Serves until the system fails.
pub(super) fn serve(listener: StdListener) -> Result<(), ServeError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async move {
        let listener = TcpListener::from_std(listener)?;
        loop {
            let (socket, _) = listener.accept().await?;
            tokio::spawn(async move {
                // Pushpin closes its connections as it likes.
                let _ = http1::Builder::new()
                    .serve_connection(TokioIo::new(socket), service_fn(hold))
                    .await;
            });
        }
    })
}

async fn hold(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let room = request::room(request.uri().path());
    let mut response = Response::new(Full::from("event: open\ndata: {}\n\n"));
    let headers = response.headers_mut();
    let values = [
        ("content-type", "text/event-stream"),
        ("grip-hold", "stream"),
        ("grip-channel", room),
    ];
    for (name, value) in values {
        if let Ok(value) = http::HeaderValue::from_str(value) {
            headers.insert(name, value);
        }
    }
    Ok(response)
}

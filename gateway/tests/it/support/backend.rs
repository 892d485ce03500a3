//! A backend that is asked for permission: a real HTTP server, which counts, and holds answers back on demand.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use ::http::{HeaderMap, Request, Response};
use bytes::Bytes;
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::port;

/// What it answers.
#[derive(Debug, Clone)]
pub struct Reply {
    status: u16,
    headers: Vec<(&'static str, &'static str)>,
}

impl Reply {
    pub fn status(status: u16) -> Self {
        Self {
            status,
            headers: Vec::new(),
        }
    }

    pub fn with(mut self, name: &'static str, value: &'static str) -> Self {
        self.headers.push((name, value));
        self
    }
}

type Judge = dyn Fn(&HeaderMap) -> Reply + Send + Sync;

#[derive(Debug)]
struct State {
    requests: AtomicUsize,
    now: AtomicUsize,
    most: AtomicUsize,
    seen: Mutex<Vec<HeaderMap>>,
    held: watch::Sender<bool>,
}

/// Ended by `Drop`, with its connections.
pub struct Backend {
    pub address: SocketAddr,
    state: Arc<State>,
    _task: JoinSet<()>,
}

impl Backend {
    pub async fn start(judge: impl Fn(&HeaderMap) -> Reply + Send + Sync + 'static) -> Self {
        Self::start_at(port::free(), judge).await
    }

    pub async fn start_at(
        address: SocketAddr,
        judge: impl Fn(&HeaderMap) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let state = Arc::new(State {
            requests: AtomicUsize::new(0),
            now: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
            seen: Mutex::default(),
            held: watch::channel(false).0,
        });
        let mut task = JoinSet::new();
        task.spawn(accept(listener, state.clone(), Arc::new(judge)));
        Self {
            address,
            state,
            _task: task,
        }
    }

    pub fn url(&self) -> String {
        format!("http://{}/may?by=gateway", self.address)
    }

    /// Requests wait for their answer from now on...
    pub fn hold(&self) {
        self.state.held.send_replace(true);
    }

    /// ...until now.
    pub fn release(&self) {
        self.state.held.send_replace(false);
    }

    /// Requests so far.
    pub fn requests(&self) -> usize {
        self.state.requests.load(Ordering::SeqCst)
    }

    /// Requests that wait for their answer.
    pub fn now(&self) -> usize {
        self.state.now.load(Ordering::SeqCst)
    }

    /// The most that ever waited at a time.
    pub fn most(&self) -> usize {
        self.state.most.load(Ordering::SeqCst)
    }

    /// The headers of the newest request.
    pub fn newest(&self) -> HeaderMap {
        self.state.seen.lock().unwrap().last().unwrap().clone()
    }
}

async fn accept(listener: TcpListener, state: Arc<State>, judge: Arc<Judge>) {
    let mut connections = JoinSet::new();
    while let Ok((socket, _)) = listener.accept().await {
        let (state, judge) = (state.clone(), judge.clone());
        let service = service_fn(move |request: Request<Incoming>| {
            let (state, judge) = (state.clone(), judge.clone());
            async move { Ok::<_, std::convert::Infallible>(answer(&state, &*judge, &request).await) }
        });
        connections.spawn(async move {
            let _ = http1::Builder::new()
                .serve_connection(TokioIo::new(socket), service)
                .await;
        });
    }
}

/// One that is under way; also where the other end gives it up.
struct Now<'a>(&'a State);

impl Drop for Now<'_> {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, Ordering::SeqCst);
    }
}

async fn answer(
    state: &State,
    judge: &Judge,
    request: &Request<Incoming>,
) -> Response<Empty<Bytes>> {
    state.requests.fetch_add(1, Ordering::SeqCst);
    let now = state.now.fetch_add(1, Ordering::SeqCst) + 1;
    let _now = Now(state);
    state.most.fetch_max(now, Ordering::SeqCst);
    state.seen.lock().unwrap().push(request.headers().clone());
    let _ = state.held.subscribe().wait_for(|held| !held).await;
    let reply = judge(request.headers());
    let mut response = Response::builder().status(reply.status);
    for (name, value) in reply.headers {
        response = response.header(name, value);
    }
    response.body(Empty::new()).unwrap()
}

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
use rcgen::{CertifiedKey, KeyPair};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

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
        Self::serve(address, None, judge).await
    }

    /// With TLS, by this certificate.
    pub async fn start_tls(
        certificate: &CertifiedKey<KeyPair>,
        judge: impl Fn(&HeaderMap) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let key = PrivateKeyDer::try_from(certificate.signing_key.serialize_der()).unwrap();
        let config = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.cert.der().clone()], key)
            .unwrap();
        let tls = TlsAcceptor::from(Arc::new(config));
        Self::serve(port::free(), Some(tls), judge).await
    }

    async fn serve(
        address: SocketAddr,
        tls: Option<TlsAcceptor>,
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
        task.spawn(accept(listener, tls, state.clone(), Arc::new(judge)));
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

async fn accept(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    state: Arc<State>,
    judge: Arc<Judge>,
) {
    let mut connections = JoinSet::new();
    while let Ok((socket, _)) = listener.accept().await {
        let (state, judge) = (state.clone(), judge.clone());
        let service = service_fn(move |request: Request<Incoming>| {
            let (state, judge) = (state.clone(), judge.clone());
            async move { Ok::<_, std::convert::Infallible>(answer(&state, &*judge, &request).await) }
        });
        let (http, tls) = (http1::Builder::new(), tls.clone());
        connections.spawn(async move {
            let _ = match tls {
                None => http.serve_connection(TokioIo::new(socket), service).await,
                Some(tls) => match tls.accept(socket).await {
                    Ok(socket) => http.serve_connection(TokioIo::new(socket), service).await,
                    Err(_) => return,
                },
            };
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

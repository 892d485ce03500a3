//! The shards' threads: what each is made of, and how clients come to them.

use std::io;
use std::net::TcpListener;
use std::rc::Rc;
use std::sync::Arc;

use tokio::runtime::{Handle, RuntimeMetrics};
use tokio::sync::{mpsc, oneshot};
use tokio::task::LocalSet;
use tracing::{debug, error};

use super::SOCKETS_CAPACITY;
use crate::auth::Auth;
use crate::broker::Broker;
use crate::drain::{Lifecycle, Phase};
use crate::http::encoding::ChunkedEncoder;
use crate::http::listener::{self, Accepted};
use crate::http::metrics::HttpMetrics;
use crate::http::{self, HttpConfig, Site};
use crate::hub::{HubConfig, Node, Shard, ShardId, Supply};
use crate::trace::Traces;

/// What a shard's thread is handed.
pub(super) enum Handed {
    /// A client.
    Client(Accepted),
    /// The task of accepting clients.
    Acceptor(Acceptor),
}

/// Accepts clients on the first shard's thread, which spares a node with one shard every hand-over, and hands
/// them out evenly.
pub(super) struct Acceptor {
    listener: TcpListener,
    shards: Vec<mpsc::Sender<Handed>>,
}

impl Acceptor {
    pub(super) fn new(listener: TcpListener, shards: Vec<mpsc::Sender<Handed>>) -> Self {
        Self { listener, shards }
    }

    /// Accepts until the node closes; then the listener is closed too.
    async fn accept(self, lifecycle: Lifecycle, serve: impl Fn(Accepted)) -> io::Result<()> {
        let Self { listener, shards } = self;
        let mut turn = 0;
        let accepting = listener::accept(listener, |client| {
            turn = (turn + 1) % shards.len();
            let other = if turn == 0 {
                serve(client);
                None
            } else {
                Some((shards[turn].clone(), client))
            };
            async move {
                if let Some((shard, client)) = other {
                    // A shard that has ended ends the process.
                    let _ = shard.send(Handed::Client(client)).await;
                }
            }
        });
        tokio::select! {
            result = accepting => result,
            () = lifecycle.reached(Phase::Closing) => Ok(()),
        }
    }
}

/// What one shard's thread is made of.
pub(super) struct Parts {
    pub(super) id: ShardId,
    pub(super) hub: HubConfig,
    pub(super) encoder: ChunkedEncoder,
    pub(super) http: Arc<HttpConfig>,
    pub(super) auth: Arc<Auth>,
    pub(super) broker: Arc<dyn Broker>,
    pub(super) node: Node,
    pub(super) metrics: Arc<HttpMetrics>,
    pub(super) lifecycle: Lifecycle,
    pub(super) traces: Traces,
    pub(super) fault: mpsc::Sender<ShardId>,
}

/// Reports the end of a shard's thread, a panic included.
struct Watch(ShardId, mpsc::Sender<ShardId>);

impl Drop for Watch {
    fn drop(&mut self) {
        // Full: another shard has reported already.
        let _ = self.1.try_send(self.0);
    }
}

impl Parts {
    /// Starts the thread; returns where it takes sockets once it does, and what its runtime counts.
    pub(super) async fn start(
        self,
        inlet: mpsc::Receiver<Supply>,
    ) -> io::Result<(mpsc::Sender<Handed>, RuntimeMetrics)> {
        let (sockets, queue) = mpsc::channel(SOCKETS_CAPACITY);
        let (ready, is_ready) = oneshot::channel();
        std::thread::Builder::new()
            .name(format!("shard-{}", self.id))
            .spawn(move || {
                let _watch = Watch(self.id, self.fault.clone());
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build();
                match runtime {
                    Ok(runtime) => {
                        LocalSet::new().block_on(&runtime, self.work(inlet, queue, ready))
                    }
                    Err(error) => drop(ready.send(Err(error))),
                }
            })?;
        let runtime = is_ready
            .await
            .unwrap_or_else(|_| Err(io::Error::other("its thread ended at once")))?;
        Ok((sockets, runtime))
    }

    async fn work(
        self,
        inlet: mpsc::Receiver<Supply>,
        mut queue: mpsc::Receiver<Handed>,
        ready: oneshot::Sender<io::Result<RuntimeMetrics>>,
    ) {
        let Self {
            id,
            hub,
            encoder,
            http,
            auth,
            broker,
            node,
            metrics,
            lifecycle,
            traces,
            fault,
        } = self;
        let shard = match Shard::new(id, hub, broker.clone(), Rc::new(encoder), &node) {
            Ok(shard) => shard,
            Err(error) => return drop(ready.send(Err(error))),
        };
        let site = Rc::new(Site {
            config: http,
            auth,
            broker,
            node,
            shard: shard.handle(),
            metrics,
            lifecycle: lifecycle.clone(),
            traces,
        });
        // Nobody waits any more only when the process is ending.
        let _ = ready.send(Ok(Handle::current().metrics()));
        let serve = move |client| {
            tokio::task::spawn_local(http::serve(site.clone(), client));
        };
        let sockets = async {
            while let Some(handed) = queue.recv().await {
                match handed {
                    Handed::Client(client) => serve(client),
                    Handed::Acceptor(acceptor) => {
                        let accepting = acceptor.accept(lifecycle.clone(), serve.clone());
                        let fault = fault.clone();
                        tokio::task::spawn_local(async move {
                            if let Err(error) = accepting.await {
                                error!(%error, "Clients cannot be accepted.");
                                // Full: another fault has been reported already.
                                let _ = fault.try_send(id);
                            }
                        });
                    }
                }
            }
            // The listener is closed; streams and requests go on.
            std::future::pending::<()>().await;
        };
        tokio::select! {
            result = shard.run(inlet) => match result {
                Ok(()) => debug!(shard = id, "A shard has ended: the broker is gone."),
                Err(error) => error!(shard = id, %error, "A shard has failed."),
            },
            () = sockets => {}
        }
    }
}

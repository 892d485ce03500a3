//! One shard's driver: the only task that waits. It takes turns between sweeps, the broker's
//! messages, sockets that became ready, reads that ended and the tick.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use mio::{Events, Poll, Registry};
use opentelemetry::context::FutureExt;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{Notify, mpsc};

use super::node::Command;
use super::state::{Read, State, TICK};
use super::{
    Encoder, History, HistoryError, HubConfig, Node, ShardId, Subscription, Supply, Upstream,
};

/// Writes in one turn, before anything else gets a look: about a millisecond.
const SWEEP_BUDGET: usize = 128;
/// Broker messages in one turn.
const SUPPLY_BUDGET: usize = 64;
/// Calls of transports in one turn.
const CALLS_BUDGET: usize = 1024;
/// Socket events in one turn.
const EVENTS_BUDGET: usize = 1024;

/// One worker's rooms, streams and their sockets. Lives on one thread.
pub struct Shard {
    handle: ShardHandle,
    poll: Poll,
    commands: mpsc::UnboundedReceiver<Command>,
}

/// Hands streams to the shard of this thread.
#[derive(Clone)]
pub struct ShardHandle {
    id: ShardId,
    state: Rc<RefCell<State>>,
    work: Rc<Notify>,
}

type Ended = (Read, Result<Arc<History>, HistoryError>);

/// Lets the thread's runtime watch the shard's epoll.
fn watch(poll: &Poll) -> io::Result<AsyncFd<Registry>> {
    let registry = poll.registry().try_clone()?;
    // SAFETY: `register_with_interest` asks that `as_raw_fd` returns the same descriptor every
    // time, open for as long as the `AsyncFd` owns the value. A cloned `Registry` owns a duplicate
    // of the epoll's descriptor, returns just that one, and closes it only when it is dropped,
    // which the `AsyncFd` does after deregistering it.
    #[allow(unsafe_code)]
    let watched = unsafe { AsyncFd::register_with_interest(registry, Interest::READABLE) };
    watched.map_err(|error| io::Error::other(error.to_string()))
}

impl ShardHandle {
    /// Which shard this is.
    #[must_use]
    pub fn id(&self) -> ShardId {
        self.id
    }

    /// Takes over an event stream: from here on the shard owns the socket.
    pub fn adopt(&self, subscription: Subscription) {
        self.state.borrow_mut().adopt(subscription);
        self.work.notify_one();
    }
}

impl Shard {
    /// Makes a shard of `node`, with an epoll of its own.
    ///
    /// # Errors
    /// When the kernel gives no epoll, or the node has no such shard to make.
    pub fn new(
        id: ShardId,
        config: HubConfig,
        upstream: Arc<dyn Upstream>,
        encoder: Rc<dyn Encoder>,
        node: &Node,
    ) -> io::Result<Self> {
        let poll = Poll::new()?;
        let registry = poll.registry().try_clone()?;
        let (commands, reports) = node
            .side(id)
            .ok_or_else(|| io::Error::other("this shard exists already"))?;
        let state = State::new(id, config, upstream, encoder, registry, reports);
        let handle = ShardHandle {
            id,
            work: state.calls.work.clone(),
            state: Rc::new(RefCell::new(state)),
        };
        Ok(Self {
            handle,
            poll,
            commands,
        })
    }

    /// For whoever has sockets to hand over.
    #[must_use]
    pub fn handle(&self) -> ShardHandle {
        self.handle.clone()
    }

    /// Works until the inlet closes. Needs a `LocalSet` on a current-thread runtime.
    ///
    /// # Errors
    /// When the epoll cannot be watched or polled.
    pub async fn run(mut self, mut inlet: mpsc::Receiver<Supply>) -> io::Result<()> {
        let watch = watch(&self.poll)?;
        let mut events = Events::with_capacity(EVENTS_BUDGET);
        let (ended_sender, mut ended) = mpsc::unbounded_channel::<Ended>();
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let state = self.handle.state.clone();
        let work = self.handle.work.clone();
        let mut batch = Vec::with_capacity(SUPPLY_BUDGET);
        loop {
            let swept = state.borrow_mut().sweep(SWEEP_BUDGET);
            let called = state.borrow_mut().answer_calls(CALLS_BUDGET);
            let more = state.borrow_mut().heartbeats() || swept || called;
            start_reads(&state, &ended_sender);
            let idle = async {
                if more {
                    tokio::task::yield_now().await;
                } else {
                    work.notified().await;
                }
            };
            tokio::select! {
                guard = watch.readable() => {
                    let mut guard = guard?;
                    self.poll.poll(&mut events, Some(Duration::ZERO))?;
                    if events.is_empty() {
                        guard.clear_ready();
                    }
                    let mut state = state.borrow_mut();
                    for event in &events {
                        let readable = event.is_readable() || event.is_read_closed() || event.is_error();
                        state.ready(event.token().0, readable, event.is_writable());
                    }
                }
                _ = tick.tick() => state.borrow_mut().tick(),
                received = inlet.recv_many(&mut batch, SUPPLY_BUDGET) => {
                    if received == 0 {
                        return Ok(());
                    }
                    let mut state = state.borrow_mut();
                    batch.drain(..).for_each(|supply| state.supply(supply));
                }
                Some((read, result)) = ended.recv() => state.borrow_mut().history(&read, result),
                Some(command) = self.commands.recv() => match command {
                    Command::Subscribers(room, answer) => {
                        // Whoever asked may have gone.
                        let _ = answer.send(state.borrow().room_subscribers(&room));
                    }
                    Command::Drain(spread) => state.borrow_mut().begin_drain(spread),
                    Command::Disconnect(orders) => state.borrow_mut().disconnect(&orders),
                },
                () = idle => {}
            }
        }
    }
}

fn start_reads(state: &Rc<RefCell<State>>, ended: &mpsc::UnboundedSender<Ended>) {
    let (reads, upstream) = {
        let mut state = state.borrow_mut();
        if state.reads.is_empty() {
            return;
        }
        (std::mem::take(&mut state.reads), state.upstream.clone())
    };
    for mut read in reads {
        let history = upstream.history(read.room.clone(), read.query);
        let trace = read.trace.take().unwrap_or_default();
        let ended = ended.clone();
        tokio::task::spawn_local(async move {
            let result = history.with_context(trace).await;
            // The shard has ended: nobody waits for the answer.
            let _ = ended.send((read, result));
        });
    }
}

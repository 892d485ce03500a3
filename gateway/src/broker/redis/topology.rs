//! Which server is the primary of what, as far as is known now.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use protocol::servers::{Address, Kind, Layout, Locator, Servers, ServersError};
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use super::commands::Away;

/// Between looks at a cluster; its servers also say themselves where a slot is.
const LOOK: Duration = Duration::from_secs(1);
/// Between questions to sentinels. While a node is with a primary that another one has replaced, it hands on what will be
/// lost, and misses what will stay.
const ASK_SENTINELS: Duration = Duration::from_millis(250);
/// The same, at least, while something is in doubt.
const DOUBT: Duration = Duration::from_millis(50);

/// What a look found.
pub(super) type Found = Result<Arc<Layout>, ServersError>;

/// The layout, and who keeps it true.
#[derive(Debug)]
pub(super) struct Topology {
    servers: Arc<Servers>,
    layout: RwLock<Option<Arc<Layout>>>,
    /// Slots of which a server has said that they are elsewhere.
    moves: AtomicU64,
    /// Why it is not known.
    trouble: Mutex<Option<String>>,
    doubted: Notify,
    changes: mpsc::UnboundedSender<Found>,
}

impl Topology {
    /// The layout of one server is known at once. What is found later goes to `changes`.
    pub(super) fn new(servers: Arc<Servers>, changes: mpsc::UnboundedSender<Found>) -> Self {
        let layout = match servers.kind() {
            Kind::Single => Some(Arc::new(Layout::single(servers.known()[0].clone()))),
            Kind::Sentinel { .. } | Kind::Cluster => None,
        };
        Self {
            servers,
            layout: RwLock::new(layout),
            moves: AtomicU64::new(0),
            trouble: Mutex::default(),
            doubted: Notify::new(),
            changes,
        }
    }

    /// The layout; `None` until someone could be asked.
    pub(super) fn layout(&self) -> Option<Arc<Layout>> {
        self.layout.read().clone()
    }

    /// The server that serves a slot.
    pub(super) fn primary_of(&self, slot: u16) -> Result<Address, Away> {
        let layout = self.layout.read();
        match &*layout {
            Some(layout) => match layout.primary_of(slot) {
                Some(address) => Ok(address.clone()),
                None => Err(Away(format!("no server of the cluster serves slot {slot}"))),
            },
            None => {
                let why = self.trouble.lock().clone();
                Err(Away(
                    why.unwrap_or_else(|| "the servers are not known yet".into()),
                ))
            }
        }
    }

    /// Something does not fit: looks again soon.
    pub(super) fn doubt(&self) {
        self.doubted.notify_one();
    }

    /// A server has said where a slot is served now.
    pub(super) fn moved(&self, slot: u16, address: &Address) {
        let mut layout = self.layout.write();
        if let Some(known) = &*layout
            && known.primary_of(slot) != Some(address)
        {
            self.moves.fetch_add(1, Ordering::SeqCst);
            let now = Arc::new(known.moved(slot, address.clone()));
            *layout = Some(now.clone());
            let _ = self.changes.send(Ok(now));
        }
        drop(layout);
        self.doubt();
    }

    /// Keeps the layout true for as long as anyone wants to know. Every look is reported, because
    /// someone may wait for the next one.
    pub(super) async fn watch(self: Arc<Self>, patience: Duration) {
        if *self.servers.kind() == Kind::Single {
            return;
        }
        let pause = if self.servers.is_cluster() {
            LOOK
        } else {
            ASK_SENTINELS
        };
        let mut locator = Locator::new(self.servers.clone(), patience);
        loop {
            let began = Instant::now();
            let moves = self.moves.load(Ordering::SeqCst);
            let found = locator.locate().await;
            let found = match found {
                // What a server said meanwhile is more recent than what was asked for before.
                Ok(_) if self.moves.load(Ordering::SeqCst) != moves => {
                    tokio::time::sleep_until(began + DOUBT).await;
                    continue;
                }
                Ok(layout) => {
                    *self.trouble.lock() = None;
                    let layout = Arc::new(layout);
                    *self.layout.write() = Some(layout.clone());
                    Ok(layout)
                }
                Err(error) => {
                    *self.trouble.lock() = Some(error.to_string());
                    Err(error)
                }
            };
            let failed = found.is_err();
            if self.changes.send(found).is_err() {
                return;
            }
            tokio::time::sleep_until(began + DOUBT).await;
            if !failed {
                let next = tokio::time::timeout_at(began + pause, self.doubted.notified());
                let _ = next.await;
            }
        }
    }
}

//! Equal reads that are under way at the same time share one.

use std::collections::HashMap;
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared, WeakShared};
use parking_lot::Mutex;
use protocol::RoomName;

use crate::hub::{History, HistoryError, HistoryQuery};

type Key = (RoomName, HistoryQuery);
type Outcome = Result<Arc<History>, HistoryError>;
type Flight = Shared<BoxFuture<'static, Outcome>>;
type Table = Mutex<HashMap<Key, (u64, WeakShared<BoxFuture<'static, Outcome>>)>>;

/// Reads under way. Whoever waits drives the read; when nobody waits any more, it ends.
#[derive(Debug, Default)]
pub(super) struct Flights {
    table: Arc<Table>,
    serial: std::sync::atomic::AtomicU64,
}

/// Takes a read out of the table, however it ends.
struct Landing {
    table: Arc<Table>,
    key: Key,
    serial: u64,
}

impl Drop for Landing {
    fn drop(&mut self) {
        let mut table = self.table.lock();
        if table
            .get(&self.key)
            .is_some_and(|(serial, _)| *serial == self.serial)
        {
            table.remove(&self.key);
        }
    }
}

impl Flights {
    /// Joins the read for `key` that is under way, or begins `read`.
    pub(super) fn share(
        &self,
        key: Key,
        read: impl Future<Output = Outcome> + Send + 'static,
    ) -> BoxFuture<'static, Outcome> {
        let under_way = self
            .table
            .lock()
            .get(&key)
            .and_then(|(_, flight)| flight.upgrade());
        if let Some(flight) = under_way {
            return flight.boxed();
        }
        let serial = self
            .serial
            .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let landing = Landing {
            table: self.table.clone(),
            key: key.clone(),
            serial,
        };
        let flight: Flight = async move {
            let _landing = landing;
            read.await
        }
        .boxed()
        .shared();
        if let Some(weak) = flight.downgrade() {
            self.table.lock().insert(key, (serial, weak));
        }
        flight.boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[tokio::test]
    async fn equal_reads_share_one_and_later_ones_read_again() {
        let (flights, reads) = (Flights::default(), Arc::new(AtomicUsize::new(0)));
        let key = (
            RoomName::parse("demo").unwrap(),
            HistoryQuery::Newest { limit: 3 },
        );
        let read = || {
            let reads = reads.clone();
            flights.share(key.clone(), async move {
                reads.fetch_add(1, Ordering::Relaxed);
                tokio::task::yield_now().await;
                Ok(Arc::new(History::default()))
            })
        };
        let (a, b) = (read(), read());
        drop(read());
        assert!(tokio::join!(a, b).0.is_ok());
        assert_eq!(reads.load(Ordering::Relaxed), 1);
        assert!(flights.table.lock().is_empty());
        drop(read());
        assert!(flights.table.lock().is_empty(), "nobody waits for it");
        assert!(read().await.is_ok());
        assert_eq!(reads.load(Ordering::Relaxed), 2);
    }
}

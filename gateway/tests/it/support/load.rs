//! A publisher that goes on through everything.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::task::JoinHandle;

use super::RedisServer;
use super::redis::key;

/// Publishes into a room, two of three events by the function and one by a plain `XADD`, until
/// told to stop. What could not be published, or nobody knows of, is judged by the stream alone.
pub struct Load {
    stop: Arc<AtomicBool>,
    published: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Load {
    pub fn start(redis: &RedisServer, room: &str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let published = Arc::new(AtomicUsize::new(0));
        let task = tokio::spawn(run(
            redis.url(),
            key(room),
            Arc::clone(&stop),
            Arc::clone(&published),
        ));
        Self {
            stop,
            published,
            task,
        }
    }

    /// How many were acknowledged so far.
    pub fn published(&self) -> usize {
        self.published.load(Ordering::SeqCst)
    }

    /// Waits until this many more were acknowledged.
    pub async fn wait_more(&self, count: usize) {
        let goal = self.published() + count;
        eventually!(
            self.published() >= goal,
            "only {} of {goal} were published",
            self.published()
        );
    }

    pub async fn stop(self) {
        self.stop.store(true, Ordering::SeqCst);
        self.task.await.unwrap();
    }
}

async fn run(url: String, key: String, stop: Arc<AtomicBool>, published: Arc<AtomicUsize>) {
    let mut connection = None;
    for number in 0u64.. {
        if stop.load(Ordering::SeqCst) {
            return;
        }
        // About 300 events a second: the load, not a wait.
        tokio::time::sleep(Duration::from_millis(3)).await;
        if connection.is_none() {
            let client = redis::Client::open(url.as_str()).unwrap();
            connection = client.get_multiplexed_async_connection().await.ok();
        }
        let Some(live) = &mut connection else {
            continue;
        };
        let data = number.to_string();
        let mut command = redis::Cmd::new();
        if number % 3 == 2 {
            command.arg(&["XADD", &key, "*", "event", "load", "data", &data]);
        } else {
            command.arg(&[
                "FCALL",
                "sse_publish",
                "1",
                &key,
                "event",
                "load",
                "data",
                &data,
                "maxlen",
                "0",
            ]);
        }
        match command.query_async::<String>(live).await {
            Ok(_) => {
                published.fetch_add(1, Ordering::SeqCst);
            }
            Err(_) => connection = None,
        }
    }
}

//! A bare subscriber with the redis crate: it reads messages and drops them.

use futures_util::StreamExt;
use redis::aio::PubSub;

use super::{ServeError, say};

/// Channels in one `SUBSCRIBE`.
const BATCH: usize = 512;

/// Subscribes to `sse:room:{prefix}0` and so on, and reads until Redis is gone.
pub(super) fn serve(url: &str, rooms: u32, prefix: &str) -> Result<(), ServeError> {
    let failed = |error: redis::RedisError| ServeError::Redis(error.to_string());
    let client = redis::Client::open(url).map_err(failed)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async move {
        let mut subscriber: PubSub = client.get_async_pubsub().await.map_err(failed)?;
        let channels: Vec<String> = (0..rooms)
            .map(|room| format!("sse:room:{prefix}{room}"))
            .collect();
        for batch in channels.chunks(BATCH) {
            subscriber.subscribe(batch).await.map_err(failed)?;
        }
        say("ready")?;
        let mut messages = subscriber.into_on_message();
        while messages.next().await.is_some() {}
        Ok(())
    })
}

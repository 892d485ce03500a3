//! Streams that come and go, each in a room of its own, while everything else happens.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::{MissedTickBehavior, interval, timeout};

/// Rooms that are subscribed and left, in turn: so many that each was given up at Redis before it is wanted again.
const ROOMS: u64 = 100_000;
/// A gateway that stands still does not answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// Visits under way, with those that wait for a gateway that stands still.
const AT_ONCE: usize = 4096;

/// Opens and leaves `rate` streams a second, and later what a busy machine could not do in time, up to a second's; counts
/// those that were let in.
pub async fn run(gateways: Vec<SocketAddr>, rate: u64, opened: Arc<AtomicU64>) {
    let gateways: Arc<[SocketAddr]> = gateways.into();
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let mut ticks = interval(Duration::from_millis(10));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let begin = Instant::now();
    let mut number = 0;
    loop {
        ticks.tick().await;
        let due = u64::try_from(begin.elapsed().as_millis()).unwrap() * rate / 1000;
        number = number.max(due.saturating_sub(rate));
        while number < due {
            let place = Arc::clone(&places).acquire_owned().await.unwrap();
            let (gateways, opened) = (Arc::clone(&gateways), Arc::clone(&opened));
            tokio::spawn(async move {
                if visit(&gateways, number).await {
                    opened.fetch_add(1, Ordering::Relaxed);
                }
                drop(place);
            });
            number += 1;
        }
    }
}

/// Tries each gateway, as a client does whose node is gone.
async fn visit(gateways: &[SocketAddr], number: u64) -> bool {
    for attempt in 0..gateways.len() {
        let turn = (usize::try_from(number).unwrap() + attempt) % gateways.len();
        if let Ok(Ok(true)) = timeout(PATIENCE, open(gateways[turn], number % ROOMS)).await {
            return true;
        }
    }
    false
}

/// Whether a stream begins.
async fn open(address: SocketAddr, room: u64) -> std::io::Result<bool> {
    let mut socket = TcpStream::connect(address).await?;
    // Ends with a reset: a thousand a second would use up all ports otherwise.
    socket2::SockRef::from(&socket).set_linger(Some(Duration::ZERO))?;
    let request = format!(
        "GET /rooms/churn-{room}/events HTTP/1.1\r\nHost: churn\r\nAccept: text/event-stream\r\n\r\n"
    );
    socket.write_all(request.as_bytes()).await?;
    let mut answer = Vec::with_capacity(1024);
    while socket.read_buf(&mut answer).await? > 0 {
        if answer.windows(11).any(|part| part == b"stream.open") {
            return Ok(true);
        }
    }
    Ok(false)
}

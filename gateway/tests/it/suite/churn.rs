//! Streams that come and go in rooms of their own while everything else happens.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{MissedTickBehavior, interval, timeout};

/// Rooms that are subscribed and left.
const ROOMS: u64 = 200;
/// A gateway that stands still does not answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// Opens and leaves about `rate` streams a second; counts those that got their first bytes.
pub async fn run(gateways: Vec<SocketAddr>, rate: u64, opened: Arc<AtomicU64>) {
    const TICKS: u64 = 50;
    let mut ticks = interval(Duration::from_millis(1000 / TICKS));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut due = 0;
    for number in 0.. {
        if due == 0 {
            ticks.tick().await;
            due = (rate / TICKS).max(1);
        }
        due -= 1;
        let turn = usize::try_from(number).unwrap() % gateways.len();
        let (address, opened) = (gateways[turn], Arc::clone(&opened));
        tokio::spawn(async move {
            if let Ok(Ok(1..)) = timeout(PATIENCE, visit(address, number % ROOMS)).await {
                opened.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
}

async fn visit(address: SocketAddr, room: u64) -> std::io::Result<usize> {
    let mut socket = TcpStream::connect(address).await?;
    // Ends with a reset: a thousand a second would use up all ports otherwise.
    socket2::SockRef::from(&socket).set_linger(Some(Duration::ZERO))?;
    let request = format!(
        "GET /rooms/churn-{room}/events HTTP/1.1\r\nHost: churn\r\nAccept: text/event-stream\r\n\r\n"
    );
    socket.write_all(request.as_bytes()).await?;
    socket.read(&mut [0; 512]).await
}

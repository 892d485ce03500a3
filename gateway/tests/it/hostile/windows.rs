//! Clients that ask, and do not take the answer: over HTTP/2 they give no window for it, over HTTP/1 they do not read.

use tokio::io::AsyncRead;

use super::http2::*;
use super::*;
use crate::support::Authority;

const STREAMS: u32 = 50;

/// The history of a room, as JSON.
fn history(stream: u32, room: &str) -> Vec<u8> {
    let mut fields = fields(GET, &format!("/rooms/{room}/events?limit=1000"));
    // `accept`, entry 19 of the static table.
    fields.extend([0x0f, 4, 16]);
    fields.extend(b"application/json");
    frame(HEADERS, END_STREAM | END_HEADERS, stream, &fields)
}

/// The next frame: its kind, flags and stream, and how long it is.
async fn next(socket: &mut (impl AsyncRead + Unpin)) -> (u8, u8, u32, usize) {
    let reading = async {
        let mut head = [0; 9];
        socket.read_exact(&mut head).await.unwrap();
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        let mut payload = vec![0; length];
        socket.read_exact(&mut payload).await.unwrap();
        (head[3], head[4], stream, length)
    };
    tokio::time::timeout(DEADLINE, reading).await.unwrap()
}

/// So many events of 32 KB.
async fn fill(scene: &Scene, room: &str, events: usize) {
    let data = "x".repeat(32_000);
    for _ in 0..events {
        scene.gateway.publish(room, "bulk", &data).await;
    }
}

/// Waits until all of these streams are reset.
async fn all_reset(socket: &mut TcpStream, mut streams: Vec<u32>) {
    while !streams.is_empty() {
        let (kind, _, stream, _) = next(socket).await;
        if kind == RST_STREAM {
            streams.retain(|other| *other != stream);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_without_a_window_are_given_up() {
    let scene = Scene::begin(Setup::memory().set("stream.lag_timeout", "300ms")).await;
    fill(&scene, "kept", 4).await;
    // SETTINGS_INITIAL_WINDOW_SIZE: nothing at all, a byte, a part of a slice, and less than the whole answer.
    for window in [0, 1, 5000, 100_000] {
        let mut socket = hello(&scene, &[(4, window)]).await;
        let requests: Vec<u8> = streams(STREAMS)
            .flat_map(|stream| history(stream, "kept"))
            .collect();
        socket.write_all(&requests).await.unwrap();
        all_reset(&mut socket, streams(STREAMS).collect()).await;
        // The connection is not to blame.
        let next = 2 * STREAMS + 1;
        let window = frame(WINDOW_UPDATE, 0, 0, &[0, 0x10, 0, 0]);
        let more = frame(WINDOW_UPDATE, 0, next, &[0, 0x10, 0, 0]);
        let request = [window, history(next, "kept"), more].concat();
        socket.write_all(&request).await.unwrap();
        assert_eq!(whole(&mut socket, next).await, (0, true));
    }
    scene.end().await;
}

/// Reads to the end of an answer: bytes beyond those of its events, and whether it is whole.
async fn whole(socket: &mut TcpStream, of: u32) -> (usize, bool) {
    let mut bytes = 0;
    loop {
        let (kind, flags, stream, length) = next(socket).await;
        if stream != of {
            continue;
        }
        match kind {
            DATA => bytes += length,
            RST_STREAM => return (bytes, false),
            _ => {}
        }
        if flags & END_STREAM != 0 {
            return (bytes / (5 * 32_000), bytes > 4 * 32_000);
        }
    }
}

/// Who gives its window bit by bit takes its time, and gets everything.
#[tokio::test(flavor = "multi_thread")]
async fn small_windows_are_enough() {
    let scene = Scene::begin(Setup::memory()).await;
    fill(&scene, "kept", 2).await;
    let mut socket = hello(&scene, &[(4, 3000)]).await;
    socket.write_all(&history(1, "kept")).await.unwrap();
    let mut bytes = 0;
    loop {
        let (kind, flags, stream, length) = next(&mut socket).await;
        assert_ne!(kind, RST_STREAM);
        if kind != DATA || stream != 1 {
            continue;
        }
        bytes += length;
        if flags & END_STREAM != 0 {
            break;
        }
        if length > 0 {
            let more = u32::try_from(length).unwrap().to_be_bytes();
            let [all, own] = [0, 1].map(|stream| frame(WINDOW_UPDATE, 0, stream, &more));
            socket.write_all(&[all, own].concat()).await.unwrap();
        }
    }
    assert!(bytes > 2 * 32_000, "{bytes}");
    scene.end().await;
}

/// Streams that are refused, or told to end, do not wait for a window for their last words.
#[tokio::test(flavor = "multi_thread")]
async fn streams_that_end_without_a_window_end() {
    for clean in [false, true] {
        let setup = Setup::memory()
            .set("limits.streams_per_address", "10")
            .set("http.unclean_close", &(!clean).to_string())
            .set("drain.spread", "0s")
            .set("drain.grace", "10m");
        let mut gateway = setup.start().await;
        let mut socket = TcpStream::connect(gateway.address).await.unwrap();
        let settings = frame(4, 0, 0, &[0, 4, 0, 0, 0, 0]);
        let requests = streams(STREAMS).flat_map(|stream| get(stream, "/rooms/a/events"));
        let requests: Vec<u8> = requests.collect();
        let start = [
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            &settings[..],
            &requests,
        ]
        .concat();
        socket.write_all(&start).await.unwrap();
        let mut reset = 0;
        while reset < STREAMS - 10 {
            reset += u32::from(next(&mut socket).await.0 == RST_STREAM);
        }
        // Those that were let in are told to go, and the node does not wait for them.
        gateway.signal("TERM");
        while reset < STREAMS {
            reset += u32::from(next(&mut socket).await.0 == RST_STREAM);
        }
        assert_eq!(gateway.wait_exit().await, Some(0));
    }
}

/// Over HTTP/1 the connection ends. The client has it open all the time.
#[tokio::test(flavor = "multi_thread")]
async fn who_reads_no_answer_is_closed() {
    let authority = Authority::new();
    for secure in [false, true] {
        let setup = Setup::memory()
            .set("stream.lag_timeout", "300ms")
            .set("stream.send_buffer", "4096");
        let gateway = if secure {
            authority.secure(setup)
        } else {
            setup
        }
        .start()
        .await;
        let data = "x".repeat(60_000);
        let ended = async || {
            let ended = "sse_gateway_http_connections_ended_total";
            gateway.metric(ended).await.unwrap()
        };
        let post = format!(
            "POST /rooms/kept/events HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{data}",
            data.len()
        );
        let ask = "GET /rooms/kept/events?limit=1000 HTTP/1.1\r\nHost: a\r\nAccept: application/json\r\n\r\n";
        // More than the kernels of both ends hold.
        let bytes = post.repeat(15) + &ask.repeat(20);
        let before = ended().await;
        let socket = TcpStream::connect(gateway.address).await.unwrap();
        if secure {
            let mut stream = authority.connect_over(socket, None, &[]).await.unwrap();
            let _ = stream.write_all(bytes.as_bytes()).await;
            let _ = stream.flush().await;
            eventually!(ended().await > before, "{}", gateway.log());
        } else {
            let mut stream = socket;
            let _ = stream.write_all(bytes.as_bytes()).await;
            eventually!(ended().await > before, "{}", gateway.log());
        }
    }
}

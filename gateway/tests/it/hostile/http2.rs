//! Frames of HTTP/2 that no browser sends. Written by hand: a library would not send them.

use super::*;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
pub(super) const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
pub(super) const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
pub(super) const END_STREAM: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;
/// Not a type that anyone knows.
const UNKNOWN: u8 = 0xfa;

/// RFC 9113, section 4.1.
pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// A request without a body, in the static table's terms (RFC 7541, appendix A).
pub(super) fn fields(method: u8, path: &str) -> Vec<u8> {
    // :method, :scheme http, :authority a, :path
    let mut fields = vec![method, 0x86, 0x01, 1, b'a', 0x04];
    fields.push(u8::try_from(path.len()).unwrap());
    fields.extend(path.as_bytes());
    fields
}

pub(super) const GET: u8 = 0x82;
const POST: u8 = 0x83;

pub(super) fn get(stream: u32, path: &str) -> Vec<u8> {
    let flags = END_STREAM | END_HEADERS;
    frame(HEADERS, flags, stream, &fields(GET, path))
}

/// The identifiers of a client's streams.
pub(super) fn streams(count: u32) -> impl Iterator<Item = u32> {
    (0..count).map(|number| 2 * number + 1)
}

/// A connection that has said hello, with these settings.
pub(super) async fn hello(scene: &Scene, settings: &[(u16, u32)]) -> TcpStream {
    let mut payload = Vec::new();
    for (name, value) in settings {
        payload.extend(name.to_be_bytes());
        payload.extend(value.to_be_bytes());
    }
    let mut socket = connect(scene.address()).await;
    let settings = frame(SETTINGS, 0, 0, &payload);
    socket
        .write_all(&[PREFACE, &settings].concat())
        .await
        .unwrap();
    socket
}

/// Reads frames until the answer to this stream has come, by its head, its reset, or the end of the connection. `true`: its
/// status is 200.
async fn is_answered_well(socket: &mut TcpStream, stream: u32) -> bool {
    let reading = async {
        loop {
            let mut head = [0; 9];
            if socket.read_exact(&mut head).await.is_err() {
                return false;
            }
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let mut payload = vec![0; length as usize];
            socket.read_exact(&mut payload).await.unwrap();
            if head[5..] == stream.to_be_bytes() && [HEADERS, RST_STREAM].contains(&head[3]) {
                // Entry 8 of the static table.
                return head[3] == HEADERS && payload[0] == 0x88;
            }
        }
    };
    tokio::time::timeout(DEADLINE, reading).await.unwrap()
}

/// Sends what is made until the gateway takes no more: it has closed the connection (`true`), or does not read on.
async fn flood(socket: &mut TcpStream, pieces: impl Iterator<Item = Vec<u8>>) -> bool {
    for piece in pieces {
        let sending = tokio::time::timeout(Duration::from_secs(2), socket.write_all(&piece));
        match sending.await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return true,
            Err(_) => return false,
        }
    }
    false
}

/// Sends pieces of the attack, in many connections one after the other; the process keeps nothing of them.
async fn attack(scene: &Scene, name: &str, piece: &[u8], pieces: usize, is_cut: bool) {
    let once = async || {
        let mut socket = hello(scene, &[]).await;
        let cut = flood(&mut socket, std::iter::repeat_n(piece.to_vec(), pieces)).await;
        if is_cut {
            // What was sent last may still be on its way.
            let cut = cut || {
                let reading = tokio::time::timeout(DEADLINE, rest(&mut socket));
                reading.await.is_ok()
            };
            assert!(cut, "{name}: the connection is still open");
        }
        // While it stands.
        scene.unharmed().await;
        drop(socket);
    };
    once().await;
    scene.over().await;
    let before = scene.memory().await;
    for _ in 0..3 {
        once().await;
    }
    scene.over().await;
    let more = scene.memory().await - before;
    assert!(more < SLACK, "{name}: {more} bytes more");
}

#[tokio::test(flavor = "multi_thread")]
async fn floods_of_frames() {
    let scene = Scene::begin(Setup::memory()).await;
    let begun = frame(HEADERS, 0, 1, &fields(GET, "/rooms/a"));
    let mut continued = frame(CONTINUATION, 0, 1, &[]).repeat(1000);
    attack(
        &scene,
        "CONTINUATION",
        &[begun.clone(), continued].concat(),
        20,
        true,
    )
    .await;
    // An indexed field of the static table, again and again.
    continued = frame(CONTINUATION, 0, 1, &[0x90; 16_000]);
    attack(
        &scene,
        "full CONTINUATION",
        &[begun, continued.repeat(20)].concat(),
        20,
        true,
    )
    .await;
    let settings = frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0xff, 0xff]).repeat(1000);
    attack(&scene, "SETTINGS", &settings, 200, true).await;
    let ping = frame(PING, 0, 0, &[7; 8]).repeat(1000);
    attack(&scene, "PING", &ping, 200, true).await;
    let priority = frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 9]).repeat(1000);
    attack(&scene, "PRIORITY", &priority, 200, true).await;
    let unknown = frame(UNKNOWN, 0xff, 1, &[0; 100]).repeat(100);
    attack(&scene, "unknown", &unknown, 200, true).await;
    let window = frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]).repeat(1000);
    attack(&scene, "WINDOW_UPDATE", &window, 100, true).await;
    scene.end().await;
}

/// Frames that come as fast as they are taken, on more connections than there are shards: each has its turn, and no more.
#[tokio::test(flavor = "multi_thread")]
async fn pings_that_go_on_and_on() {
    let scene = Scene::begin(Setup::memory()).await;
    let ping = frame(PING, 0, 0, &[7; 8]).repeat(1000);
    let mut floods = Vec::new();
    for _ in 0..8 {
        let (mut read, mut write) = hello(&scene, &[]).await.into_split();
        let ping = ping.clone();
        floods.push(tokio::spawn(async move {
            while write.write_all(&ping).await.is_ok() {}
        }));
        floods.push(tokio::spawn(async move {
            let mut answers = vec![0; 1 << 16];
            while read.read(&mut answers).await.is_ok_and(|got| got > 0) {}
        }));
    }
    for _ in 0..4 {
        scene.unharmed().await;
    }
    for flood in floods {
        flood.abort();
    }
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_end_the_connection() {
    let scene = Scene::begin(Setup::memory()).await;
    let window = frame(WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff]);
    let mut two = get(1, "/rooms/a");
    two.extend(get(1, "/rooms/a"));
    for (name, bytes) in [
        ("a window of nothing", frame(WINDOW_UPDATE, 0, 0, &[0; 4])),
        ("a window beyond its bound", window.repeat(2)),
        ("a frame that is too large", frame(DATA, 0, 1, &[0; 70_000])),
        ("data of no stream", frame(DATA, 0, 0, b"x")),
        ("data of an idle stream", frame(DATA, 0, 1, b"x")),
        ("a stream of the server's", get(2, "/rooms/a")),
        ("a stream twice", two),
        ("a half of SETTINGS", frame(SETTINGS, 0, 0, &[0; 3])),
        ("a PING of the wrong size", frame(PING, 0, 0, &[0; 7])),
        (
            "a window over 31 bits",
            frame(SETTINGS, 0, 0, &[0, 4, 0xff, 0xff, 0xff, 0xff]),
        ),
        (
            "CONTINUATION of nothing",
            frame(CONTINUATION, END_HEADERS, 1, &[]),
        ),
        (
            "HEADERS amid HEADERS",
            [frame(HEADERS, 0, 1, &[GET]), get(3, "/")].concat(),
        ),
        (
            "an index of no field",
            frame(
                HEADERS,
                END_STREAM | END_HEADERS,
                1,
                &[0xff, 0xff, 0xff, 0x7f],
            ),
        ),
        (
            "a name without end",
            frame(
                HEADERS,
                END_STREAM | END_HEADERS,
                1,
                &[0x40, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff],
            ),
        ),
    ] {
        let mut socket = hello(&scene, &[]).await;
        let _ = socket.write_all(&bytes).await;
        // It is read to its end: the gateway closes it.
        let answer = rest(&mut socket).await;
        assert!(answer.len() < 2000, "{name}: {} bytes", answer.len());
    }
    scene.end().await;
}

/// CVE-2023-44487: requests that are taken back at once.
#[tokio::test(flavor = "multi_thread")]
async fn rapid_reset() {
    let scene = Scene::begin(Setup::memory()).await;
    for path in ["/rooms/a", "/rooms/a/events"] {
        let once = async || {
            let mut socket = hello(&scene, &[]).await;
            let requests = streams(50_000).map(|stream| {
                [
                    get(stream, path),
                    frame(RST_STREAM, 0, stream, &[0, 0, 0, 8]),
                ]
                .concat()
            });
            let mut requests: Vec<u8> = requests.flatten().collect();
            let pieces = std::iter::from_fn(|| {
                let most = requests.len().min(60_000);
                (most > 0).then(|| requests.drain(..most).collect())
            });
            assert!(flood(&mut socket, pieces).await || !rest(&mut socket).await.is_empty());
            scene.unharmed().await;
        };
        once().await;
        scene.over().await;
        let before = scene.memory().await;
        for _ in 0..3 {
            once().await;
        }
        scene.over().await;
        let more = scene.memory().await - before;
        assert!(more < SLACK, "{path}: {more} bytes more");
    }
    scene.end().await;
}

/// A proxy carries the requests of many clients: what some of them take back, or get wrong, is not the others' fault.
#[tokio::test(flavor = "multi_thread")]
async fn proxies_may_reset_more() {
    for (trusted, answered) in [("", false), ("127.0.0.1", true)] {
        let scene = Scene::begin(Setup::memory().set("http.trusted_proxies", trusted)).await;
        let reset = |stream| frame(RST_STREAM, 0, stream, &[0, 0, 0, 8]);
        let taken_back: Vec<u8> = streams(30)
            .flat_map(|stream| [get(stream, "/rooms/a"), reset(stream)].concat())
            .collect();
        // The length of a body that does not come: `content-length`, entry 28 of the static table.
        let head = [&fields(GET, "/rooms/a"), &[0x0f, 13, 1, b'5'][..]].concat();
        let flags = END_STREAM | END_HEADERS;
        let wrong: Vec<u8> = streams(200)
            .flat_map(|stream| frame(HEADERS, flags, stream, &head))
            .collect();
        for (bytes, next) in [(taken_back, 61), (wrong, 401)] {
            let mut socket = hello(&scene, &[]).await;
            let request = [bytes, get(next, "/rooms/a")].concat();
            let _ = socket.write_all(&request).await;
            let found = is_answered_well(&mut socket, next).await;
            assert_eq!(found, answered, "{trusted:?}, stream {next}");
        }
        scene.end().await;
    }
}

/// A body of frames with nothing in them has no size, but it has a time.
#[tokio::test(flavor = "multi_thread")]
async fn empty_data() {
    let scene = Scene::begin(Setup::memory().set("http.body_timeout", "2s")).await;
    let once = async || {
        let mut socket = hello(&scene, &[]).await;
        let mut head = frame(HEADERS, END_HEADERS, 1, &fields(POST, "/rooms/b/events"));
        head.extend(frame(DATA, 0, 1, b"x"));
        socket.write_all(&head).await.unwrap();
        let piece = frame(DATA, 0, 1, &[]).repeat(1000);
        flood(&mut socket, std::iter::repeat_n(piece, 300)).await;
        scene.unharmed().await;
    };
    once().await;
    scene.over().await;
    let before = scene.memory().await;
    for _ in 0..3 {
        once().await;
    }
    scene.over().await;
    let more = scene.memory().await - before;
    assert!(more < SLACK, "{more} bytes more");
    assert_eq!(scene.gateway.room("b").await["length"], 0);
    scene.end().await;
}

/// A field of 4 KB, put into the table once, and named so often, in a byte each.
fn unpacks(times: usize) -> Vec<u8> {
    // Literal with indexing: `x`, and 3,900 letters, in a length of several bytes (RFC 7541, section 5.1).
    let mut block = fields(GET, "/rooms/a");
    block.extend([0x40, 1, b'x', 0x7f, 0xbd, 0x1d]);
    block.extend([b'y'; 3900]);
    block.resize(block.len() + times, 0xbe);
    block
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_that_unpack_to_much_more() {
    let scene = Scene::begin(Setup::memory()).await;
    let flags = END_STREAM | END_HEADERS;
    // Written by hand, it is a request like any other, as long as the head is within its limit.
    let mut socket = hello(&scene, &[]).await;
    let small = frame(HEADERS, flags, 1, &unpacks(2));
    let large = frame(HEADERS, flags, 3, &unpacks(10_000));
    socket.write_all(&small).await.unwrap();
    assert!(is_answered_well(&mut socket, 1).await);
    socket.write_all(&large).await.unwrap();
    assert!(!is_answered_well(&mut socket, 3).await);
    drop(socket);
    let once = async || {
        let mut socket = hello(&scene, &[]).await;
        let block = unpacks(10_000);
        let heads = streams(100).map(|stream| frame(HEADERS, flags, stream, &block));
        flood(&mut socket, heads).await;
        scene.unharmed().await;
    };
    once().await;
    scene.over().await;
    let before = scene.memory().await;
    for _ in 0..3 {
        once().await;
    }
    scene.over().await;
    let more = scene.memory().await - before;
    assert!(more < SLACK, "{more} bytes more");
    scene.end().await;
}

/// Streams whose windows are never opened: what is due to them waits in the room, not in queues.
#[tokio::test(flavor = "multi_thread")]
async fn streams_without_a_window() {
    let setup = Setup::memory().set("stream.lag_timeout", "2s");
    let scene = Scene::begin(setup).await;
    let data = "x".repeat(4000);
    let once = async || {
        let mut sockets = Vec::new();
        for _ in 0..4 {
            // SETTINGS_INITIAL_WINDOW_SIZE
            let mut socket = hello(&scene, &[(4, 0)]).await;
            let requests: Vec<u8> = streams(250)
                .flat_map(|stream| get(stream, "/rooms/flood/events"))
                .collect();
            socket.write_all(&requests).await.unwrap();
            sockets.push(socket);
        }
        eventually!(scene.gateway.room("flood").await["subscribers"] == 1000);
        // In queues it would be 800 MB.
        for _ in 0..200 {
            scene.gateway.publish("flood", "bulk", &data).await;
        }
        scene.unharmed().await;
        eventually!(scene.gateway.room("flood").await["subscribers"] == 0);
        drop(sockets);
        scene.over().await;
    };
    once().await;
    once().await;
    let before = scene.memory().await;
    for _ in 0..8 {
        once().await;
    }
    // Of 4 KB for each of these streams, 32 MB would be left.
    let more = scene.memory().await - before;
    assert!(more < 2.0 * SLACK, "{more} bytes more");
    scene.end().await;
}

/// More than a connection may have open at a time is refused, one by one; the others go on.
#[tokio::test(flavor = "multi_thread")]
async fn more_streams_than_a_connection_may_have() {
    let scene = Scene::begin(Setup::memory().set("http.http2_streams", "100")).await;
    let mut socket = hello(&scene, &[]).await;
    let requests: Vec<u8> = streams(5000)
        .flat_map(|stream| get(stream, "/rooms/a/events"))
        .collect();
    flood(&mut socket, std::iter::once(requests)).await;
    scene.unharmed().await;
    let subscribers = scene.gateway.room("a").await["subscribers"].as_u64();
    assert!(subscribers.unwrap() <= 100, "{subscribers:?}");
    drop(socket);
    scene.end().await;
}

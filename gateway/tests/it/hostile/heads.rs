//! Heads that come slowly, never end, or are too large.

use super::*;

/// As many as a test may open where others run beside it.
const HALF_OPEN: usize = 1000;

fn setup() -> Setup {
    Setup::memory().set("http.head_timeout", "2s")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_slow_heads() {
    let scene = Scene::begin(setup()).await;
    let begun = b"GET /rooms/a/events HTTP/1.1\r\nHost: a\r\nX-Slow: ";
    let sockets = connect_many(scene.address(), HALF_OPEN, begun).await;
    scene.unharmed().await;
    drip(sockets, &scene).await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_connections_that_say_nothing_and_leave_no_trace() {
    let scene = Scene::begin(setup()).await;
    // Once for what the process keeps, then for what it must not keep.
    let attack = async || {
        let mut sockets = connect_many(scene.address(), HALF_OPEN / 2, b"").await;
        // One byte is the least that makes the gateway read a head; with its buffers it is some 20 KB for each of these.
        sockets.extend(connect_many(scene.address(), HALF_OPEN / 2, b"G").await);
        eventually!(scene.connections().await >= (HALF_OPEN / 2) as f64);
        scene.unharmed().await;
        for socket in &mut sockets {
            let answer = rest(socket).await;
            assert!(
                answer.is_empty() || answer.starts_with(b"HTTP/1.1 408"),
                "{:?}",
                String::from_utf8_lossy(&answer)
            );
        }
        scene.over().await;
        drop(sockets);
    };
    attack().await;
    let (memory, files) = (scene.memory().await, scene.files().await);
    for _ in 0..3 {
        attack().await;
    }
    let more = scene.memory().await - memory;
    assert!(more < SLACK, "{more} bytes more");
    eventually!(
        scene.files().await <= files + 2.0,
        "{files} files before, {} now",
        scene.files().await
    );
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_with_too_much_in_them() {
    let scene = Scene::begin(setup()).await;
    let head = |headers: String| format!("GET /rooms/a HTTP/1.1\r\nHost: a\r\n{headers}\r\n");
    let long = "x".repeat(20_000);
    let bombs = [
        // Under the size, over the count.
        head("a: b\r\n".repeat(500)),
        head("a: b\r\n".repeat(20_000)),
        head(format!("x: {long}\r\n")),
        head(format!("{long}: x\r\n")),
        head(format!("Cookie: {}\r\n", "a=b; ".repeat(10_000))),
    ];
    for bomb in bombs {
        let answer = say(scene.address(), bomb.as_bytes()).await;
        assert_eq!(statuses(&answer), [431], "{}: {answer}", &bomb[..60]);
    }
    let target =
        |path: String| format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    for (path, status) in [
        (format!("/rooms/{}", "a".repeat(10_000)), &[404][..]),
        (format!("/rooms/a?{}", "x=y&".repeat(2_500)), &[200]),
        (format!("/rooms/{}", "%41".repeat(3_000)), &[404]),
        (format!("/rooms/{long}"), &[414, 431]),
        (format!("/rooms/a?{}", "x".repeat(100_000)), &[414, 431]),
    ] {
        let answer = say(scene.address(), target(path).as_bytes()).await;
        let statuses = statuses(&answer);
        assert!(
            statuses.len() == 1 && status.contains(&statuses[0]),
            "{status:?}: {answer}"
        );
    }
    scene.end().await;
}

/// A head that never ends is given up by its size long before its time is over.
#[tokio::test(flavor = "multi_thread")]
async fn endless_heads_take_no_memory() {
    let scene = Scene::begin(Setup::memory()).await;
    let attack = async |count: usize| {
        for _ in 0..count {
            let mut socket = connect(scene.address()).await;
            socket
                .write_all(b"GET / HTTP/1.1\r\nHost: a\r\nX: ")
                .await
                .unwrap();
            // 8 MB, if it were read.
            let chunk = vec![b'x'; 64 * 1024];
            for _ in 0..128 {
                if socket.write_all(&chunk).await.is_err() {
                    break;
                }
            }
            let answer = String::from_utf8_lossy(&rest(&mut socket).await).into_owned();
            assert!(answer.is_empty() || statuses(&answer) == [431], "{answer}");
        }
    };
    attack(10).await;
    let before = scene.memory().await;
    attack(20).await;
    let more = scene.memory().await - before;
    assert!(more < SLACK, "{more} bytes more");
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_http_at_all() {
    let setup = setup().set("http.http2", "false");
    let scene = Scene::begin(setup).await;
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    let hello = b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03";
    let zeros = [0; 4096];
    for noise in [
        &preface[..],
        hello,
        &zeros,
        b"\r\n\r\n\r\n\r\nGET\r\n\r\n",
        b"GET /rooms/a\0 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /rooms/a HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n",
        b"GET /rooms/a HTTP/1.1\r\nHost: a\r\nX\0: b\r\n\r\n",
        b"GET /rooms/a HTTP/9.9\r\nHost: a\r\n\r\n",
        b"GET /rooms/a\r\n\r\n",
        b"G\xffT /rooms/a HTTP/1.1\r\nHost: a\r\n\r\n",
        b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        b"TRACE /rooms/a HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        b"GET http://a:1/rooms/%00 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    ] {
        let answer = say(scene.address(), noise).await;
        let statuses = statuses(&answer);
        assert!(
            statuses.len() <= 1 && statuses.iter().all(|status| (400..500).contains(status)),
            "{:?}: {answer}",
            String::from_utf8_lossy(noise)
        );
    }
    scene.end().await;
}

//! Requests behind requests.

use super::*;

/// A stream's answer does not end, so nothing behind its request is ever answered, or done.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_behind_a_stream_is_done() {
    let scene = Scene::begin(Setup::memory()).await;
    let behind = "POST /rooms/behind/events HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi";
    let streams = [
        "GET /rooms/a/events HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
        "POST /rooms/a/events HTTP/1.1\r\nHost: a\r\nAccept: text/event-stream\r\nContent-Length: 3\r\n\r\nabc".to_owned(),
        "POST /rooms/a/events HTTP/1.1\r\nHost: a\r\nAccept: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n".to_owned(),
    ];
    let mut open = Vec::new();
    for stream in streams {
        for count in [1, 100] {
            let mut socket = connect(scene.address()).await;
            let bytes = stream.clone() + &behind.repeat(count);
            socket.write_all(bytes.as_bytes()).await.unwrap();
            open.push(socket);
        }
    }
    eventually!(scene.gateway.room("a").await["subscribers"] == open.len());
    scene.gateway.publish("a", "chat", "one").await;
    for socket in &mut open {
        let mut text = Vec::new();
        eventually!(
            {
                let _ = socket.try_read_buf(&mut text);
                text.windows(9).any(|window| window == b"data: one")
            },
            "{}",
            String::from_utf8_lossy(&text)
        );
        let text = String::from_utf8(text).unwrap();
        assert_eq!(statuses(&text), [200], "{text}");
    }
    // Who goes on to talk is read a little of, and then closed.
    for socket in &mut open {
        let noise = behind.repeat(12_000);
        let talking = async {
            let sent = socket.write_all(noise.as_bytes()).await;
            sent.is_ok().then_some(rest(socket).await)
        };
        let heard = tokio::time::timeout(DEADLINE, talking).await.unwrap();
        let heard = String::from_utf8(heard.unwrap_or_default()).unwrap();
        assert!(statuses(&heard).is_empty(), "{heard}");
    }
    assert_eq!(scene.gateway.room("behind").await["length"], 0);
    drop(open);
    scene.end().await;
}

/// Thousands of requests in one go are answered in their order, and hold nobody else up.
#[tokio::test(flavor = "multi_thread")]
async fn many_requests_at_once() {
    let scene = Scene::begin(Setup::memory()).await;
    let mut sockets = Vec::new();
    const COUNT: usize = 2000;
    for _ in 0..4 {
        let mut socket = connect(scene.address()).await;
        let mut requests = String::new();
        for number in 0..COUNT {
            let path = if number % 2 == 0 {
                "/rooms/a"
            } else {
                "/nowhere"
            };
            let last = if number + 1 == COUNT {
                "Connection: close\r\n"
            } else {
                ""
            };
            requests += &format!("GET {path} HTTP/1.1\r\nHost: a\r\n{last}\r\n");
        }
        sockets.push(tokio::spawn(async move {
            let (mut read, mut write) = socket.split();
            let mut answers = Vec::new();
            let reading = read.read_to_end(&mut answers);
            let both = async { tokio::join!(write.write_all(requests.as_bytes()), reading) };
            let (sent, _) = tokio::time::timeout(DEADLINE, both).await.unwrap();
            sent.unwrap();
            String::from_utf8(answers).unwrap()
        }));
    }
    scene.unharmed().await;
    for socket in sockets {
        let found = statuses(&socket.await.unwrap());
        let expected: Vec<_> = (0..COUNT)
            .map(|n| if n % 2 == 0 { 200 } else { 404 })
            .collect();
        assert_eq!(found, expected);
    }
    scene.end().await;
}

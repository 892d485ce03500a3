//! Bodies that come slowly, never end, or are larger than they said.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn slow_bodies() {
    let scene = Scene::begin(Setup::memory().set("http.body_timeout", "2s")).await;
    let mut sockets = Vec::new();
    for head in [
        "POST /rooms/a/events HTTP/1.1\r\nHost: a\r\nContent-Length: 60000\r\n\r\n",
        "POST /rooms/a/events HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nffff\r\n",
        "POST /rooms/a/events HTTP/1.1\r\nHost: a\r\nAccept: text/event-stream\r\nContent-Length: 60000\r\n\r\n",
    ] {
        sockets.extend(connect_many(scene.address(), 100, head.as_bytes()).await);
    }
    scene.unharmed().await;
    drip(sockets, &scene).await;
    assert_eq!(scene.gateway.room("a").await["length"], 0);
    scene.end().await;
}

/// Whatever is announced or sent, no more of it is kept than an event may have.
#[tokio::test(flavor = "multi_thread")]
async fn bodies_without_end() {
    let scene = Scene::begin(Setup::memory()).await;
    let piece = "x".repeat(0x4000);
    let endless = format!("4000\r\n{piece}\r\n").repeat(64);
    let attack = async || {
        for (head, body) in [
            ("Transfer-Encoding: chunked\r\n", endless.clone()),
            (
                "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n",
                endless.clone(),
            ),
            (
                "Accept: text/event-stream\r\nTransfer-Encoding: chunked\r\n",
                endless.clone(),
            ),
            ("Content-Length: 9000000000\r\n", piece.clone()),
            (
                "Content-Length: 9000000000\r\nExpect: 100-continue\r\n",
                String::new(),
            ),
        ] {
            let request = format!("POST /rooms/a/events HTTP/1.1\r\nHost: a\r\n{head}\r\n{body}");
            let answer = say(scene.address(), request.as_bytes()).await;
            // Who is still sending may find the connection closed before the answer is read.
            assert!(
                answer.is_empty() || statuses(&answer) == [413],
                "{head}: {answer}"
            );
        }
    };
    attack().await;
    let before = scene.memory().await;
    for _ in 0..20 {
        attack().await;
    }
    let more = scene.memory().await - before;
    assert!(more < SLACK, "{more} bytes more");
    assert_eq!(scene.gateway.room("a").await["length"], 0);
    scene.end().await;
}

/// Tiny chunks cost the sender 6 bytes and the gateway must not pay many times as much for each.
#[tokio::test(flavor = "multi_thread")]
async fn bodies_of_tiny_chunks() {
    let scene = Scene::begin(Setup::memory()).await;
    let body = "1\r\nx\r\n".repeat(60_000) + "0\r\n\r\n";
    let request = format!(
        "POST /rooms/a/events HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n{body}"
    );
    let answers = (0..8).map(|_| {
        let (request, address) = (request.clone(), scene.address());
        tokio::spawn(async move { say(address, request.as_bytes()).await })
    });
    let answers: Vec<_> = answers.collect();
    scene.unharmed().await;
    for answer in answers {
        let answer = answer.await.unwrap();
        assert_eq!(statuses(&answer), [201], "{answer}");
    }
    scene.end().await;
}

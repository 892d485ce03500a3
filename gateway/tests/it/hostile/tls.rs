//! Clients that do not get as far as a request, where there is TLS.

use super::*;
use crate::support::{Authority, Http2};

const EACH: usize = 250;

/// Handshake, version 3.1, 512 bytes: a ClientHello of 508 bytes, version 3.3, and no more of it.
const HALF: &[u8] = b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03";

#[tokio::test(flavor = "multi_thread")]
async fn hellos_that_are_none_or_never_end() {
    let authority = Authority::new();
    let setup = Setup::memory().set("http.head_timeout", "3s");
    let gateway = authority.secure(setup).start().await;
    let good = authority.connect(gateway.address, None, &["h2"]).await;
    let good = Http2::over(good.unwrap()).await;
    let tab = good.open("demo").await;
    let still_works = async |text: &str| {
        let began = Instant::now();
        let answer = good.request("POST", "/rooms/demo/events", &[], text.as_bytes());
        assert_eq!(answer.await.status(), 201);
        tab.wait(&format!("data: {text}\n\n")).await;
        assert!(began.elapsed() < PATIENCE);
    };
    still_works("before").await;
    let attack = async || {
        // What is no hello is refused at once, in plain.
        for garbage in [
            &b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"[..],
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            &[0; 4096],
            &[0xff; 4096],
            b"\x16\x03\x01\xff\xff\x01",
            b"\x16\x03\x01\0\x04\x02\0\0\0",
            b"\x17\x03\x03\0\x05hello",
            b"\x80\x2e\x01\x03\x01",
        ] {
            for socket in &mut connect_many(gateway.address, 20, garbage).await {
                let answer = rest(socket).await;
                assert!(answer.len() < 100, "{answer:?}");
            }
        }
        // What never ends is given up.
        let mut waiting = connect_many(gateway.address, EACH, b"").await;
        waiting.extend(connect_many(gateway.address, EACH, HALF).await);
        waiting.extend(connect_many(gateway.address, EACH, &HALF[..1]).await);
        still_works("meanwhile").await;
        for socket in &mut waiting {
            assert!(rest(socket).await.len() < 100);
        }
    };
    attack().await;
    let memory = gateway.metric("process_resident_memory_bytes").await;
    attack().await;
    attack().await;
    let more = gateway
        .metric("process_resident_memory_bytes")
        .await
        .unwrap()
        - memory.unwrap();
    assert!(more < SLACK, "{more} bytes more");
    still_works("after").await;
    assert_eq!(tab.end(), None);
    eventually!(gateway.metric("process_open_fds").await.unwrap() < 100.0);
}

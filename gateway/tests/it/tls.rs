//! TLS on the clients' listener: streams that leave hyper with their session, certificates that change, and those
//! that clients show.

use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::HandshakeKind;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::version::{TLS12, TLS13};

use crate::support::gateway::{binary, output};
use crate::support::{Authority, Gateway, Setup};

type Tls = TlsStream<TcpStream>;

const STREAM: &[u8] = b"GET /rooms/demo/events HTTP/1.1\r\nHost: x\r\n\r\n";

async fn read_until(stream: &mut Tls, end: &str) -> String {
    let mut text = Vec::new();
    let reading = async {
        while !text.ends_with(end.as_bytes()) {
            assert_ne!(stream.read_buf(&mut text).await.unwrap(), 0, "{end:?}");
        }
    };
    let read = tokio::time::timeout(crate::support::DEADLINE, reading).await;
    let last = text.len().saturating_sub(300);
    read.unwrap_or_else(|_| panic!("no {end:?}: {}", String::from_utf8_lossy(&text[last..])));
    String::from_utf8(text).unwrap()
}

/// One request on a connection of its own, and the answer to its end.
async fn ask(
    authority: &Authority,
    gateway: &Gateway,
    client: Option<&str>,
    request: &str,
) -> String {
    let mut stream = authority
        .connect(gateway.address, client, &[])
        .await
        .unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    String::from_utf8(answer).unwrap()
}

fn post(data: &str) -> String {
    let length = data.len();
    format!(
        "POST /rooms/demo/events HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{data}"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_over_tls_is_like_any_other() {
    let authority = Authority::new();
    let gateway = authority.secure(Setup::memory()).start().await;
    let mut stream = authority.connect(gateway.address, None, &[]).await.unwrap();
    // After another request on its connection, with bytes behind it that are nobody's.
    stream
        .write_all(b"GET /rooms/demo HTTP/1.1\r\nHost: x\r\n\r\n")
        .await
        .unwrap();
    read_until(&mut stream, "}").await;
    stream
        .write_all(&[STREAM, b"surplus"].concat())
        .await
        .unwrap();
    let head = read_until(&mut stream, "\n\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && head.contains("event: stream.open\n"));
    stream.write_all(b"more of it").await.unwrap();
    for data in ["one", "two"] {
        let answer = ask(&authority, &gateway, None, &post(data)).await;
        assert!(answer.starts_with("HTTP/1.1 201 "), "{answer}");
        let event = read_until(&mut stream, "\n\n\r\n").await;
        assert!(event.ends_with(&format!("data: {data}\n\n\r\n")), "{event}");
    }
    let open = "sse_gateway_streams_open";
    assert_eq!(gateway.metric(open).await, Some(1.0));
    // A close that says so is a client that went.
    stream.shutdown().await.unwrap();
    eventually!(gateway.metric(open).await == Some(0.0));
}

/// What the session has encrypted and the socket does not take yet is not lost, and not sent twice.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_gets_everything() {
    let authority = Authority::new();
    let setup = authority
        .secure(Setup::memory())
        .set("stream.send_buffer", "4096")
        .set("stream.log_bytes", "131072");
    let gateway = setup.set("publish.max_bytes", "100000").start().await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let socket = socket.connect(gateway.address).await.unwrap();
    let mut stream = authority.connect_over(socket, None, &[]).await.unwrap();
    stream.write_all(STREAM).await.unwrap();
    read_until(&mut stream, "\n\n\r\n").await;
    // Sizes around those of records, and more than the room log holds.
    let sizes = [
        1, 16_383, 16_384, 16_385, 99_000, 32_768, 50_000, 7, 90_000, 90_000,
    ];
    for (number, size) in sizes.iter().enumerate() {
        let letter = char::from(b'a' + number as u8).to_string();
        let answer = ask(&authority, &gateway, None, &post(&letter.repeat(*size))).await;
        assert!(answer.starts_with("HTTP/1.1 201 "), "{answer}");
    }
    let text = read_until(&mut stream, "j\n\n\r\n").await;
    let data: Vec<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("data: "))
        .collect();
    assert_eq!(data.len(), sizes.len());
    for (number, (data, size)) in data.iter().zip(sizes).enumerate() {
        let letter = char::from(b'a' + number as u8).to_string();
        assert!(
            *data == letter.repeat(size),
            "{number}: {} bytes",
            data.len()
        );
    }
}

/// The certificate that the gateway shows.
async fn shown(authority: &Authority, gateway: &Gateway) -> Vec<u8> {
    let stream = authority.connect(gateway.address, None, &[]).await.unwrap();
    stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_replaced_under_open_streams() {
    let authority = Authority::new();
    let gateway = authority.secure(Setup::memory()).start().await;
    let mut stream = authority.connect(gateway.address, None, &[]).await.unwrap();
    stream.write_all(STREAM).await.unwrap();
    read_until(&mut stream, "\n\n\r\n").await;
    let first = shown(&authority, &gateway).await;
    // The year 4096, if the authority does not say otherwise.
    let expires = async |listener: &str| {
        let series = "sse_gateway_tls_certificate_expires_timestamp_seconds";
        gateway
            .metric(&format!("{series}{{listener=\"{listener}\"}}"))
            .await
    };
    assert_eq!(expires("clients").await, Some(67_090_118_400.0));
    assert_eq!(expires("admin").await, Some(0.0));
    authority.sign("server", "127.0.0.1");
    eventually!(
        shown(&authority, &gateway).await != first,
        "{}",
        gateway.log()
    );
    let second = shown(&authority, &gateway).await;
    // Files that cannot be used change nothing, and are told once.
    std::fs::write(authority.path("server.key"), "no key").unwrap();
    let errors = || {
        let log = gateway.log();
        log.lines()
            .filter(|line| line.contains("was not replaced"))
            .count()
    };
    eventually!(
        {
            assert_eq!(shown(&authority, &gateway).await, second);
            errors() == 1
        },
        "{}",
        gateway.log()
    );
    let failures = "sse_gateway_tls_certificate_failures_total{listener=\"clients\"}";
    eventually!(
        {
            // It is tried again when somebody comes.
            assert_eq!(shown(&authority, &gateway).await, second);
            gateway.metric(failures).await >= Some(2.0)
        },
        "{}",
        gateway.log()
    );
    assert_eq!(errors(), 1);
    authority.sign("server", "127.0.0.1");
    eventually!(
        shown(&authority, &gateway).await != second,
        "{}",
        gateway.log()
    );
    // In between, the new certificate may have been met with the old key.
    assert!((1..=2).contains(&errors()), "{}", gateway.log());
    assert!(!gateway.log().contains("PRIVATE KEY"));
    ask(&authority, &gateway, None, &post("hi")).await;
    let event = read_until(&mut stream, "\n\n\r\n").await;
    assert!(event.ends_with("data: hi\n\n\r\n"), "{event}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_shows_a_certificate_may_publish() {
    let (authority, other) = (Authority::new(), Authority::new());
    let setup = authority
        .secure(Setup::memory())
        .set("dev", "false")
        .set("access.subscribe", "* open")
        .set("tls.client_ca_file", &authority.file("ca.pem"));
    let gateway = setup.start().await;
    for (client, status) in [(None, "403"), (Some("client"), "201"), (None, "403")] {
        let answer = ask(&authority, &gateway, client, &post("hi")).await;
        assert_eq!(
            answer.split(' ').nth(1),
            Some(status),
            "{client:?}: {answer}"
        );
    }
    // Nobody else's certificate is taken for one, not even for a look.
    std::fs::copy(other.path("client.pem"), authority.path("other.pem")).unwrap();
    std::fs::copy(other.path("client.key"), authority.path("other.key")).unwrap();
    let stream = authority.connect(gateway.address, Some("other"), &[]).await;
    // In TLS 1.3 the client has done its part before it is refused.
    if let Ok(mut stream) = stream {
        let _ = stream.write_all(post("hi").as_bytes()).await;
        let mut answer = Vec::new();
        assert!(stream.read_to_end(&mut answer).await.is_err(), "{answer:?}");
    }
    let dropped = "sse_gateway_http_connections_dropped_total{reason=\"tls\"}";
    eventually!(gateway.metric(dropped).await == Some(1.0));
}

/// A ticket would stand for a certificate that has expired since.
#[tokio::test(flavor = "multi_thread")]
async fn who_may_show_a_certificate_shows_it_every_time() {
    let authority = Authority::new();
    for (with_ca, last) in [(false, HandshakeKind::Resumed), (true, HandshakeKind::Full)] {
        let mut setup = authority.secure(Setup::memory());
        if with_ca {
            setup = setup.set("tls.client_ca_file", &authority.file("ca.pem"));
        }
        let gateway = setup.start().await;
        for versions in [&[&TLS12][..], &[&TLS13]] {
            let client = authority.client_config(Some("client"), &[], versions);
            let connector = TlsConnector::from(Arc::new(client));
            let mut kinds = Vec::new();
            for _ in 0..2 {
                let socket = TcpStream::connect(gateway.address).await.unwrap();
                let name = ServerName::try_from("127.0.0.1").unwrap();
                let mut stream = connector.connect(name, socket).await.unwrap();
                stream.write_all(post("hi").as_bytes()).await.unwrap();
                // Tickets come with the answer.
                let mut answer = Vec::new();
                stream.read_to_end(&mut answer).await.unwrap();
                kinds.push(stream.get_ref().1.handshake_kind().unwrap());
            }
            assert_eq!(kinds, [HandshakeKind::Full, last], "{with_ca} {versions:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn other_bytes_and_unfinished_handshakes_end() {
    let authority = Authority::new();
    let setup = authority.secure(Setup::memory());
    let gateway = setup.set("http.head_timeout", "300ms").start().await;
    let dropped = "sse_gateway_http_connections_dropped_total{reason=\"tls\"}";
    let mut plain = TcpStream::connect(gateway.address).await.unwrap();
    plain.write_all(STREAM).await.unwrap();
    let mut answer = Vec::new();
    plain.read_to_end(&mut answer).await.unwrap();
    // An alert (RFC 8446, section 6).
    assert_eq!(answer.first(), Some(&21), "{answer:?}");
    eventually!(gateway.metric(dropped).await == Some(1.0));
    // Half a handshake, and none at all.
    for bytes in [&b"\x16\x03\x01\x02\x00\x01"[..], b""] {
        let mut half = TcpStream::connect(gateway.address).await.unwrap();
        half.write_all(bytes).await.unwrap();
        let reading = half.read_to_end(&mut answer);
        let ended = tokio::time::timeout(crate::support::DEADLINE, reading).await;
        assert!(ended.is_ok(), "{bytes:?}");
    }
    eventually!(gateway.metric(dropped).await == Some(1.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_cannot_be_used_are_one_sentence() {
    let authority = Authority::new();
    let setup = || authority.secure(Setup::memory());
    authority.sign("another", "127.0.0.1");
    for (key, file, part) in [
        ("tls.cert_file", "nowhere.pem", "nowhere.pem"),
        ("tls.cert_file", "server.key", "no certificate"),
        ("tls.key_file", "another.key", "tls.key_file"),
        ("tls.client_ca_file", "nowhere.pem", "tls.client_ca_file"),
    ] {
        let output = setup().set(key, &authority.file(file)).output().await;
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(
            output.status.code() == Some(64) && text.contains(part),
            "{key} {file}: {text}"
        );
    }
    let output = setup().set("tls.key_file", "").output().await;
    assert_eq!(output.status.code(), Some(64));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("TLS needs both"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_may_have_tls_of_their_own() {
    let authority = Authority::new();
    let setup = Setup::memory()
        .set("admin.cert_file", &authority.file("server.pem"))
        .set("admin.key_file", &authority.file("server.key"));
    let gateway = setup.spawn();
    let mut answer = String::new();
    eventually!(
        {
            if let Ok(mut stream) = authority
                .connect(gateway.admin, None, &["h2", "http/1.1"])
                .await
            {
                let request = format!(
                    "GET /livez HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n",
                    gateway.admin
                );
                stream.write_all(request.as_bytes()).await.unwrap();
                answer.clear();
                stream.read_to_string(&mut answer).await.unwrap();
            }
            answer.starts_with("HTTP/1.1 200 ")
        },
        "{}",
        gateway.log()
    );
    // The program's own health check knows the certificate by its file, and takes no other.
    let other = Authority::new();
    for (cert, code) in [(&authority, 0), (&other, 1)] {
        let mut command = binary();
        command
            .args(["healthcheck", "--admin-listen", &gateway.admin.to_string()])
            .env("SSE_ADMIN__CERT_FILE", cert.file("server.pem"))
            .env("SSE_ADMIN__KEY_FILE", cert.file("server.key"));
        let said = output(command).await;
        assert_eq!(said.status.code(), Some(code), "{said:?}");
    }
}

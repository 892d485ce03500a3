//! The built program against gateways that speak TLS.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, mpsc};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{
    RootCertStore, ServerConfig, ServerConnection, StreamOwned, SupportedProtocolVersion,
};
use support::tls::Certificates;
use support::{Run, run};

/// How it speaks TLS, with `server.pem`, or another certificate.
fn config(
    certificates: &Certificates,
    name: &str,
    wants_clients: bool,
    version: &'static SupportedProtocolVersion,
) -> Arc<ServerConfig> {
    let chain = |name: &str| {
        CertificateDer::pem_file_iter(certificates.file(name))
            .unwrap()
            .map(Result::unwrap)
            .collect::<Vec<_>>()
    };
    let key = PrivateKeyDer::from_pem_file(certificates.file(&format!("{name}.key"))).unwrap();
    let builder = ServerConfig::builder_with_protocol_versions(&[version]);
    let builder = if wants_clients {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(chain("ca.pem"));
        let verifier = WebPkiClientVerifier::builder(Arc::new(roots));
        builder.with_client_cert_verifier(verifier.build().unwrap())
    } else {
        builder.with_no_client_auth()
    };
    let config = builder.with_single_cert(chain(&format!("{name}.pem")), key);
    Arc::new(config.unwrap())
}

/// A gateway that takes everything. Sends on the head of what it was asked.
fn gateway(config: Arc<ServerConfig>) -> (String, mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    let (sender, heads) = mpsc::channel();
    std::thread::spawn(move || {
        while let Ok((socket, _)) = listener.accept() {
            let connection = ServerConnection::new(config.clone()).unwrap();
            let mut stream = BufReader::new(StreamOwned::new(connection, socket));
            while let Some(head) = take(&mut stream) {
                let _ = sender.send(head);
                let answer = "HTTP/1.1 201 Created\r\ncontent-length: 12\r\n\r\n{\"id\":\"5-0\"}";
                stream.get_mut().write_all(answer.as_bytes()).unwrap();
            }
            linger(&stream.get_ref().sock);
        }
    });
    (url, heads)
}

/// The head of a request; its body is read too.
fn take(stream: &mut impl BufRead) -> Option<String> {
    let (mut head, mut length) = (String::new(), 0);
    while !head.ends_with("\r\n\r\n") {
        let begin = head.len();
        stream.read_line(&mut head).ok().filter(|&read| read > 0)?;
        if let Some(value) = head[begin..].strip_prefix("content-length: ") {
            length = value.trim().parse().unwrap();
        }
    }
    stream.read_exact(&mut vec![0; length]).ok()?;
    Some(head)
}

/// Closes it once the client has read why: a reset could overtake that.
fn linger(mut socket: &TcpStream) {
    let _ = socket.shutdown(Shutdown::Write);
    let _ = std::io::copy(&mut socket, &mut std::io::sink());
}

const TLS12: &SupportedProtocolVersion = &rustls::version::TLS12;
const TLS13: &SupportedProtocolVersion = &rustls::version::TLS13;

/// Both ways to a gateway.
fn both(url: &str, flags: &[&str]) -> [Run; 2] {
    let patience = ["--url", url, "--retry-for", "0s"];
    [
        &["demo", "--data", "x"][..],
        &["disconnect", "--user", "ann"],
    ]
    .map(|what| run(&[what, &patience, flags].concat(), b""))
}

/// One sentence on standard error with these words, and this exit code.
fn refused(run: &Run, code: i32, words: &str) {
    assert_eq!(run.code, Some(code), "{run:?}");
    assert_eq!((run.stdout.as_str(), run.stderr.lines().count()), ("", 1));
    assert!(run.stderr.contains(words), "no {words:?} in {run:?}");
}

#[test]
fn a_gateway_is_trusted_by_its_authority() {
    let certificates = Certificates::new();
    let ca = certificates.file("ca.pem");
    for version in [TLS12, TLS13] {
        let (url, heads) = gateway(config(&certificates, "server", false, version));
        for done in both(&url, &["--ca-file", &ca]) {
            assert_eq!(
                (done.code, done.stdout.as_str()),
                (Some(0), "5-0\n"),
                "{done:?}"
            );
        }
        let heads: Vec<String> = heads.try_iter().collect();
        assert!(
            heads[0].starts_with("POST /rooms/demo/events HTTP/1.1\r\n"),
            "{heads:?}"
        );
        assert!(
            heads[1].starts_with("POST /disconnects HTTP/1.1\r\n"),
            "{heads:?}"
        );
    }
}

#[test]
fn many_events_share_a_connection() {
    let certificates = Certificates::new();
    let (url, heads) = gateway(config(&certificates, "server", false, TLS13));
    let prefixed = format!("{url}/live/");
    let flags = [
        "demo",
        "--url",
        &prefixed,
        "--ca-file",
        &certificates.file("ca.pem"),
        "--key",
        "s3cret",
    ];
    // It takes one connection at a time: a second one would wait for ever.
    let done = run(&flags, b"one\ntwo\nthree\n");
    assert_eq!(done.code, Some(0), "{done:?}");
    let heads: Vec<String> = heads.try_iter().collect();
    assert_eq!(heads.len(), 3);
    for head in heads {
        assert!(
            head.starts_with("POST /live/rooms/demo/events HTTP/1.1\r\n"),
            "{head}"
        );
        assert!(
            head.contains("\r\nauthorization: Bearer s3cret\r\n"),
            "{head}"
        );
    }
}

#[test]
fn one_that_nobody_vouches_for_is_told_nothing() {
    let (certificates, others) = (Certificates::new(), Certificates::new());
    let (ours, ca) = (certificates.file("ca.pem"), others.file("ca.pem"));
    let (url, heads) = gateway(config(&certificates, "server", false, TLS13));
    for flags in [&[][..], &["--ca-file", &ca]] {
        for run in both(&url, flags) {
            refused(&run, 69, "name the file with its CA in --ca-file");
        }
    }
    let (misnamed, more) = gateway(config(&certificates, "other", false, TLS13));
    for run in both(&misnamed, &["--ca-file", &ours]) {
        refused(&run, 69, "for other names than the host in --url");
    }
    assert_eq!(heads.try_iter().chain(more.try_iter()).count(), 0);
}

#[test]
fn a_gateway_that_asks_is_shown_a_certificate() {
    let (certificates, others) = (Certificates::new(), Certificates::new());
    let ca = certificates.file("ca.pem");
    for version in [TLS12, TLS13] {
        let (url, heads) = gateway(config(&certificates, "server", true, version));
        let with = |certificates: &Certificates| {
            let (cert, key) = (
                certificates.file("client.pem"),
                certificates.file("client.key"),
            );
            both(
                &url,
                &["--ca-file", &ca, "--cert-file", &cert, "--key-file", &key],
            )
        };
        for run in both(&url, &["--ca-file", &ca]) {
            refused(&run, 69, "give --cert-file and --key-file");
        }
        for run in with(&others) {
            refused(&run, 69, "does not take the certificate of --cert-file");
        }
        assert_eq!(heads.try_iter().count(), 0);
        for run in with(&certificates) {
            assert_eq!(
                (run.code, run.stdout.as_str()),
                (Some(0), "5-0\n"),
                "{run:?}"
            );
        }
    }
}

#[test]
fn an_ephemeral_event_is_tried_again_while_no_certificate_is_taken() {
    let certificates = Certificates::new();
    let ca = certificates.file("ca.pem");
    let (url, _heads) = gateway(config(&certificates, "server", true, TLS13));
    // Its request was never read: another try delivers nothing twice.
    let flags = [
        "demo",
        "--url",
        &url,
        "--ca-file",
        &ca,
        "--retry-for",
        "300ms",
    ];
    let run = run(&[&flags[..], &["--ephemeral", "--data", "x"]].concat(), b"");
    assert_eq!(run.code, Some(69), "{run:?}");
    assert!(
        run.stderr.starts_with("sse-publish: trying again: "),
        "{run:?}"
    );
}

#[test]
fn certificates_that_are_replaced_are_read_again() {
    let (certificates, others) = (Certificates::new(), Certificates::new());
    let (url, heads) = gateway(config(&certificates, "server", false, TLS13));
    let file = certificates.file("trusted.pem");
    std::fs::copy(others.file("ca.pem"), &file).unwrap();
    let flags = ["demo", "--url", &url, "--ca-file", &file, "--data", "x"];
    let mut child = support::command(&flags).spawn().unwrap();
    let mut told = String::new();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    stderr.read_line(&mut told).unwrap();
    assert!(told.contains("trying again: "), "{told}");
    std::fs::copy(certificates.file("ca.pem"), &file).unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(heads.try_iter().count(), 1);
}

#[test]
fn what_cannot_be_used_is_refused_before_anything_is_sent() {
    let certificates = Certificates::new();
    let (ca, cert, key) = (
        certificates.file("ca.pem"),
        certificates.file("client.pem"),
        certificates.file("client.key"),
    );
    let empty = certificates.file("empty.pem");
    std::fs::write(&empty, "").unwrap();
    let away = certificates.file("away.pem");
    for (url, flags, words) in [
        ("http://h", &["--ca-file", &ca][..], "write https://"),
        ("https://h", &["--ca-file", &away], "cannot read"),
        ("https://h", &["--ca-file", &empty], "the CA certificate"),
        ("https://h", &["--ca-file", &key], "the CA certificate"),
        ("https://h", &["--cert-file", &cert], "--key-file"),
        ("https://h", &["--key-file", &key], "--cert-file"),
        (
            "https://h",
            &["--cert-file", &cert, "--key-file", &cert],
            "the client's key",
        ),
        ("https://u:p@h", &[], "a secret goes into"),
    ] {
        for run in both(url, flags) {
            refused(&run, 64, words);
        }
    }
}

#[test]
fn a_gateway_without_tls_is_told_from_one_that_is_away() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        while let Ok((mut socket, _)) = listener.accept() {
            let _ = socket.read(&mut [0; 1024]);
            let _ = socket.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
            linger(&socket);
        }
    });
    for run in both(&url, &[]) {
        refused(&run, 69, "does not speak TLS there: write http://");
    }
}

#[test]
fn a_port_with_tls_is_told_from_a_gateway_without() {
    let certificates = Certificates::new();
    let (url, heads) = gateway(config(&certificates, "server", false, TLS13));
    for run in both(&url.replace("https", "http"), &[]) {
        refused(&run, 69, "write https://");
    }
    assert_eq!(heads.try_iter().count(), 0);
}

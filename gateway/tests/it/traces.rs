//! Traces: one event from its publisher through Redis to every node, as a collector sees it.

use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::support::authority::Authority;
use crate::support::collector::{Collector, Span};
use crate::support::gateway::PUBLISH_KEY;
use crate::support::{Client, Gateway, RedisServer, Setup};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLER: &str = "00f067aa0ba902b7";

fn traced(setup: Setup, collector: &Collector) -> Setup {
    setup
        .variable("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.url())
        .variable("OTEL_BSP_SCHEDULE_DELAY", "20")
        // What begins here is not recorded, what the caller records is.
        .variable("OTEL_TRACES_SAMPLER", "parentbased_always_off")
}

fn of_trace(collector: &Collector) -> Vec<Span> {
    let mut spans = collector.spans();
    spans.retain(|span| span.trace_id == TRACE);
    spans
}

async fn publish(gateway: &Gateway, parent: &str) -> String {
    let key = format!("Bearer {PUBLISH_KEY}");
    let headers = [("Authorization", &key[..]), ("traceparent", parent)];
    let answer = gateway.post("demo", &headers, b"secret data").await;
    assert_eq!(answer.status, 201);
    answer.json()["id"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_trace_follows_an_event_to_every_node() {
    let (collector, redis) = (Collector::start(), RedisServer::start().await);
    let start = async |node: &str| {
        let setup = traced(Setup::redis(&redis).node(node), &collector);
        setup.start().await
    };
    let (a, b) = (start("a").await, start("b").await);
    let mut clients = Vec::new();
    for address in [a.address, a.address, b.address] {
        clients.push(Client::of(&[address], "demo").open().await);
    }
    // Neither of these is recorded by anyone.
    publish(&a, "nonsense").await;
    publish(&a, &format!("00-{TRACE}-{CALLER}-00")).await;
    let id = publish(&a, &format!("00-{TRACE}-{CALLER}-01")).await;
    for client in &clients {
        client.wait_events(3).await;
    }
    eventually!(of_trace(&collector).len() >= 4, "{:?}", collector.spans());
    let spans = of_trace(&collector);
    let one = |name: &str, instance: &str| {
        let mut found = spans
            .iter()
            .filter(|span| span.name == name && span.instance() == instance);
        let span = found.next().unwrap_or_else(|| panic!("{name}: {spans:#?}"));
        assert!(found.next().is_none(), "{name} twice: {spans:#?}");
        span
    };
    let request = one("POST /rooms/{room}/events", "a");
    assert_eq!((request.kind, &request.parent[..]), (2, CALLER));
    assert_eq!(request.get("http.response.status_code"), "201");
    assert_eq!(request.get("messaging.message.id"), id);
    assert_eq!(request.resource["service.name"], "sse-gateway");
    let call = one("redis publish", "a");
    assert_eq!((call.kind, &call.parent), (3, &request.span_id));
    assert_eq!(call.get("db.operation.name"), "FCALL");
    for (node, streams) in [("a", "2"), ("b", "1")] {
        let deliver = one("deliver demo", node);
        assert_eq!((deliver.kind, &deliver.parent), (5, &request.span_id));
        assert_eq!(deliver.get("sse.streams"), streams, "{deliver:?}");
        assert_eq!(deliver.get("messaging.message.id"), id);
    }
    assert_eq!(collector.spans().len(), 4, "{:#?}", collector.spans());
    assert!(
        !format!("{:?}", collector.spans()).contains("secret"),
        "no payload, no key"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resume_is_one_span_with_the_reads_that_it_waited_for() {
    let (collector, redis) = (Collector::start(), RedisServer::start().await);
    let setup = Setup::redis(&redis).node("a").set("log.access", "true");
    let setup = setup.set("log.format", "json");
    let gateway = traced(setup, &collector).start().await;
    let id = redis.xadd("demo", &[("data", "x")]).await;
    redis.xadd("demo", &[("data", "y")]).await;
    let parent = format!("00-{TRACE}-{CALLER}-01");
    let resumed = async |position: &str| {
        let client = Client::of(&[gateway.address], "demo")
            .header("traceparent", &parent)
            .last_event_id(position)
            .open()
            .await;
        let name = "GET /rooms/{room}/events";
        let spans = || of_trace(&collector).into_iter().filter(|s| s.name == name);
        eventually!(spans().count() == 1, "{:#?}", collector.spans());
        (client, spans().next().unwrap())
    };
    let (client, span) = resumed(&id).await;
    client.wait_events(1).await;
    assert_eq!((span.kind, &span.parent[..]), (2, CALLER));
    assert_eq!(span.get("sse.resume.source"), "broker");
    assert_eq!(span.get("sse.resume.events"), "1");
    let read = of_trace(&collector)
        .into_iter()
        .find(|read| read.name == "redis read" && read.parent == span.span_id);
    let read = read.expect("the read of the history");
    assert_eq!(read.get("db.operation.name"), "MULTI XINFO XREVRANGE EXEC");
    drop(client);
    eventually!(
        gateway.log().contains("A stream ended."),
        "{}",
        gateway.log()
    );
    let lines: Vec<serde_json::Value> = gateway
        .log()
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .filter(|line: &serde_json::Value| line["target"] == "access")
        .collect();
    assert_eq!(lines.len(), 2, "{}", gateway.log());
    for line in lines {
        assert_eq!(line["trace_id"], TRACE, "{line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_method_that_a_client_made_up_is_in_no_span() {
    let collector = Collector::start();
    let gateway = traced(Setup::memory(), &collector).start().await;
    let parent = format!("00-{TRACE}-{CALLER}-01");
    let method = "INVENTED".repeat(500);
    let headers = [("traceparent", &parent[..])];
    let path = "/rooms/demo";
    let answer = crate::support::http::request(gateway.address, &method, path, &headers, b"").await;
    assert_eq!(answer.status, 405);
    eventually!(of_trace(&collector).len() == 1, "{:#?}", collector.spans());
    let span = &of_trace(&collector)[0];
    assert_eq!(span.name, "HTTP *");
    assert_eq!(span.get("http.request.method"), "_OTHER");
    assert!(!format!("{span:?}").contains("INVENTED"));
}

/// Ends TLS before a collector; lets in who shows a certificate of the authority.
async fn secured(authority: &Authority, collector: SocketAddr) -> String {
    let acceptor = TlsAcceptor::from(authority.mutual_config("server"));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let mut outside = acceptor.accept(socket).await?;
                let mut inside = TcpStream::connect(collector).await?;
                tokio::io::copy_bidirectional(&mut outside, &mut inside).await
            });
        }
    });
    format!("https://{address}")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_behind_tls_has_to_be_believed() {
    let (collector, authority) = (Collector::start(), Authority::new());
    let url = secured(&authority, collector.address).await;
    let setup = || {
        let setup =
            traced(Setup::memory(), &collector).variable("OTEL_EXPORTER_OTLP_ENDPOINT", &url);
        setup.set("drain.spread", "0s")
    };
    let [ca, chain, key] = ["ca.pem", "client.pem", "client.key"].map(|name| authority.file(name));
    let parent = format!("00-{TRACE}-{CALLER}-01");
    // By the system's certificates: this one is not among them.
    let mut stranger = setup().start().await;
    publish(&stranger, &parent).await;
    stranger.signal("TERM");
    assert_eq!(stranger.wait_exit().await, Some(0), "{}", stranger.log());
    assert!(collector.spans().is_empty());
    assert!(
        stranger.log().contains("UnknownIssuer"),
        "{}",
        stranger.log()
    );
    let known = setup()
        .variable("OTEL_EXPORTER_OTLP_CERTIFICATE", &ca)
        .variable("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", &chain)
        .variable("OTEL_EXPORTER_OTLP_CLIENT_KEY", &key)
        .start()
        .await;
    publish(&known, &parent).await;
    eventually!(!of_trace(&collector).is_empty(), "{}", known.log());
    for (name, value, word) in [
        (
            "OTEL_EXPORTER_OTLP_CERTIFICATE",
            "/nowhere/ca.pem",
            "No such file",
        ),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", &key, "no CERTIFICATE"),
        ("OTEL_EXPORTER_OTLP_CLIENT_KEY", &key, "come together"),
    ] {
        let gateway = setup().variable(name, value).start().await;
        publish(&gateway, &parent).await;
        assert!(gateway.log().contains(word), "{}", gateway.log());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_away_is_no_reason_not_to_serve() {
    for (name, value, word) in [
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf", "4317"),
        ("OTEL_TRACES_EXPORTER", "zipkin", "zipkin"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "99999999999999999", "1000000"),
        (
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            "http://u:secret@ h:4317",
            "http://HOST",
        ),
        (
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            "https://u:secret@127.0.0.1:9",
            "",
        ),
        ("OTEL_BSP_SCHEDULE_DELAY", "20", ""),
    ] {
        let setup = Setup::memory()
            .variable("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
            .variable(name, value)
            .set("drain.spread", "0s");
        let mut gateway = setup.start().await;
        let client = Client::of(&[gateway.address], "demo").open().await;
        let answer = gateway.post("demo", &[], b"hi").await;
        assert_eq!(answer.status, 201);
        client.wait_events(1).await;
        assert!(gateway.log().contains(word), "{}", gateway.log());
        assert!(!gateway.log().contains("secret"), "{}", gateway.log());
        gateway.signal("TERM");
        assert_eq!(gateway.wait_exit().await, Some(0), "{}", gateway.log());
    }
}

//! An OpenTelemetry collector of one test: takes spans by OTLP over gRPC, and keeps them.
#![allow(dead_code, reason = "each test binary uses its part")]
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use tonic::codegen::Service;

/// A span as it arrived.
#[derive(Debug, Clone)]
pub struct Span {
    pub name: String,
    /// `SpanKind` in the protocol: 2 is a server, 3 a client, 4 a producer, 5 a consumer.
    pub kind: i32,
    pub trace_id: String,
    pub span_id: String,
    /// Empty for the first one of a trace.
    pub parent: String,
    pub nanoseconds: u64,
    pub failed: bool,
    pub attributes: BTreeMap<String, String>,
    /// `service.name`, `service.instance.id` and so on.
    pub resource: BTreeMap<String, String>,
}

impl Span {
    /// An attribute, empty where there is none.
    pub fn get(&self, name: &str) -> &str {
        self.attributes.get(name).map_or("", String::as_str)
    }

    /// The node or program that made it.
    pub fn instance(&self) -> &str {
        let instance = self.resource.get("service.instance.id");
        instance.map_or("", String::as_str)
    }
}

#[derive(Debug, Clone, Default)]
struct Kept(Arc<Mutex<Vec<Span>>>);

/// Listens until the test's process ends.
#[derive(Debug)]
pub struct Collector {
    pub address: SocketAddr,
    kept: Kept,
}

impl Collector {
    pub fn start() -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let kept = Kept::default();
        let service = TraceServiceServer::new(kept.clone());
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                loop {
                    let (socket, _) = listener.accept().await.unwrap();
                    let service = service.clone();
                    let answer = service_fn(move |request| service.clone().call(request));
                    tokio::spawn(
                        http2::Builder::new(TokioExecutor::new())
                            .serve_connection(TokioIo::new(socket), answer),
                    );
                }
            });
        });
        Self { address, kept }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// All spans so far.
    pub fn spans(&self) -> Vec<Span> {
        self.kept.0.lock().unwrap().clone()
    }
}

#[tonic::async_trait]
impl TraceService for Kept {
    async fn export(
        &self,
        request: tonic::Request<ExportTraceServiceRequest>,
    ) -> Result<tonic::Response<ExportTraceServiceResponse>, tonic::Status> {
        let mut kept = self.0.lock().unwrap();
        for group in request.into_inner().resource_spans {
            let resource = group
                .resource
                .map(|r| map(r.attributes))
                .unwrap_or_default();
            for span in group.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                kept.push(Span {
                    name: span.name,
                    kind: span.kind,
                    trace_id: hex(&span.trace_id),
                    span_id: hex(&span.span_id),
                    parent: hex(&span.parent_span_id),
                    nanoseconds: span.end_time_unix_nano - span.start_time_unix_nano,
                    failed: span.status.is_some_and(|status| status.code == 2),
                    attributes: map(span.attributes),
                    resource: resource.clone(),
                });
            }
        }
        Ok(tonic::Response::new(ExportTraceServiceResponse::default()))
    }
}

fn map(attributes: Vec<KeyValue>) -> BTreeMap<String, String> {
    let text = |value: Option<AnyValue>| match value.and_then(|value| value.value) {
        Some(Value::StringValue(text)) => text,
        Some(Value::IntValue(number)) => number.to_string(),
        other => format!("{other:?}"),
    };
    attributes
        .into_iter()
        .map(|pair| (pair.key, text(pair.value)))
        .collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

//! Traces: the events of a publisher carry its span, and a collector hears of it.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../../protocol/tests/support/collector.rs"]
mod collector;
mod support;

use collector::Collector;
use support::{Redis, Run, command};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

fn publish(redis: &Redis, variables: &[(&str, &str)]) -> Run {
    let arguments = ["demo", "--data", "secret", "--redis", &redis.url()];
    let output = command(&arguments).envs(variables.iter().copied()).output();
    output.unwrap().into()
}

/// The field of the last entry of the room.
fn carried(redis: &Redis) -> Option<String> {
    type Entry = (String, Vec<(String, String)>);
    let mut entries: Vec<Entry> =
        redis.ask(&["XREVRANGE", "sse:room:demo", "+", "-", "COUNT", "1"]);
    let (_, fields) = entries.pop()?;
    let mut fields = fields.into_iter();
    fields.find_map(|(name, value)| (name == "traceparent").then_some(value))
}

#[test]
fn an_event_carries_the_span_that_published_it() {
    let (redis, collector) = (Redis::start(&[]), Collector::start());
    let run = publish(
        &redis,
        &[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.url()),
            ("OTEL_SERVICE_NAME", "shop"),
            ("TRACEPARENT", PARENT),
        ],
    );
    assert_eq!((run.code, &run.stderr[..]), (Some(0), ""), "{run:?}");
    // It has arrived: the program waits for it.
    let spans = collector.spans();
    assert_eq!(spans.len(), 1, "{spans:#?}");
    let span = &spans[0];
    assert_eq!((&span.name[..], span.kind), ("publish demo", 4));
    assert_eq!(
        (&span.trace_id[..], &span.parent[..]),
        (TRACE, &PARENT[36..52])
    );
    assert_eq!(span.resource["service.name"], "shop");
    assert_eq!(span.get("messaging.message.id"), run.stdout.trim());
    assert!(!format!("{span:?}").contains("secret"));
    let carried = carried(&redis).unwrap();
    assert_eq!(carried, format!("00-{TRACE}-{}-01", span.span_id));
}

#[test]
fn without_a_collector_the_given_trace_is_passed_on() {
    let redis = Redis::start(&[]);
    assert_eq!(publish(&redis, &[("TRACEPARENT", PARENT)]).code, Some(0));
    assert_eq!(carried(&redis).as_deref(), Some(PARENT));
    assert_eq!(publish(&redis, &[("TRACEPARENT", "x")]).code, Some(0));
    assert_eq!(carried(&redis), None);
    let away = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9");
    let run = publish(&redis, &[away]);
    assert_eq!(run.code, Some(0), "{run:?}");
    assert!(run.stderr.contains("spans were lost"), "{run:?}");
    let http = ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf");
    let run = publish(&redis, &[away, http]);
    assert_eq!(run.code, Some(0), "{run:?}");
    assert!(run.stderr.contains("4317"), "{run:?}");
}

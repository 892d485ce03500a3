//! Traces to an OpenTelemetry collector: OTLP over gRPC, as the standard variables say
//! (<https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/>). Without any of them that
//! names a collector nothing is recorded.
//!
//! | variable | |
//! |---|---|
//! | `OTEL_EXPORTER_OTLP_ENDPOINT`, `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT` | the collector, such as `http://127.0.0.1:4317`, or with `https` |
//! | `OTEL_EXPORTER_OTLP_CERTIFICATE` | file with the CA of a collector at `https`; the system's CAs without it |
//! | `OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE`, `OTEL_EXPORTER_OTLP_CLIENT_KEY` | files that are shown to it |
//! | `OTEL_TRACES_EXPORTER` | `otlp` exports to the endpoint, or to `http://localhost:4317`; `none` does not |
//! | `OTEL_SDK_DISABLED` | `true`: no traces |
//! | `OTEL_TRACES_SAMPLER`, `OTEL_TRACES_SAMPLER_ARG` | which traces are recorded that begin here |
//! | `OTEL_SERVICE_NAME`, `OTEL_RESOURCE_ATTRIBUTES` | who says it |
//! | `OTEL_EXPORTER_OTLP_HEADERS`, `…_TIMEOUT`, `OTEL_BSP_…` | as the specification has them |

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use opentelemetry::trace::{
    SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState, TracerProvider,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_otlp::tonic_types::transport::{Certificate, ClientTlsConfig, Identity};
use opentelemetry_otlp::{SpanExporter, WithExportConfig, WithTonicConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::resource::{EnvResourceDetector, ResourceDetector};
use opentelemetry_sdk::trace::{self, SdkTracer, SdkTracerProvider};

use crate::TraceParent;

/// How long the last spans may take to leave.
const SHUTDOWN: Duration = Duration::from_secs(2);

/// Why there are no traces although they are asked for; one sentence.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OtlpError {
    /// Another exporter than OTLP.
    #[error("OTEL_TRACES_EXPORTER={0}: traces are exported by otlp, or by none")]
    Exporter(String),
    /// Another protocol than gRPC.
    #[error("{name}={value}: traces are sent by grpc, to which collectors listen on port 4317")]
    Protocol {
        /// The variable.
        name: String,
        /// What it says.
        value: String,
    },
    /// A number that the exporter could not work with.
    #[error("{name} is {least} to {most}")]
    Number {
        /// The variable.
        name: &'static str,
        /// The least that it may be.
        least: u64,
        /// The most.
        most: u64,
    },
    /// A file of a certificate or a key. Which one is not repeated: somebody may have put the key itself there.
    #[error("{name} has to name a file that can be used: {error}")]
    File {
        /// The variable.
        name: String,
        /// What is wrong with it.
        error: String,
    },
    /// A certificate without its key, or a key without its certificate.
    #[error(
        "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE and OTEL_EXPORTER_OTLP_CLIENT_KEY come together"
    )]
    Half,
    /// The exporter cannot be made. What of is not repeated: there may be a password in it.
    #[error(
        "the OTEL_EXPORTER_OTLP_ variables cannot be used: an endpoint is http://HOST:PORT or https://HOST:PORT, headers are name=value,name=value, certificates and keys are PEM, and where the system has no CAs, OTEL_EXPORTER_OTLP_CERTIFICATE names one"
    )]
    Build,
}

/// Who says it.
#[derive(Debug, Clone, Copy)]
pub struct Service<'a> {
    /// `service.name`, unless the environment has another.
    pub name: &'static str,
    /// `service.version`.
    pub version: &'static str,
    /// `service.instance.id`.
    pub instance: &'a str,
}

/// The export of spans, in batches, by a thread of its own. Cloning shares it.
#[derive(Debug, Clone)]
pub struct Otlp {
    provider: SdkTracerProvider,
    failure: Failure,
}

/// Why the last batch was lost, if it was.
type Failure = Arc<Mutex<Option<String>>>;

/// Remembers how exports end: the provider tells nobody.
#[derive(Debug)]
struct Watched<E> {
    exporter: E,
    failure: Failure,
}

impl<E: trace::SpanExporter> trace::SpanExporter for Watched<E> {
    async fn export(&self, batch: Vec<trace::SpanData>) -> OTelSdkResult {
        let done = self.exporter.export(batch).await;
        let failure = done.as_ref().err().map(ToString::to_string);
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = failure;
        done
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

impl Otlp {
    /// Begins to export, where the environment asks for it. Blocks for files. Needs a tokio runtime that keeps running until
    /// [`Otlp::shutdown`] is over.
    ///
    /// # Errors
    /// It is asked for and cannot be done.
    pub fn start(service: Service<'_>) -> Result<Option<Self>, OtlpError> {
        if !is_wanted(variable)? {
            return Ok(None);
        }
        check_numbers(variable)?;
        // Not built, so that its own variables are left to it.
        let exporter = SpanExporter::builder()
            .with_tonic()
            .with_protocol(opentelemetry_otlp::Protocol::Grpc);
        let exporter = match tls(variable)? {
            Some(tls) => exporter.with_tls_config(tls),
            None => exporter,
        };
        let exporter = exporter.build().map_err(|_| OtlpError::Build)?;
        let failure = Failure::default();
        let provider = SdkTracerProvider::builder()
            .with_resource(resource(service))
            .with_batch_exporter(Watched {
                exporter,
                failure: failure.clone(),
            })
            .build();
        Ok(Some(Self { provider, failure }))
    }

    /// Makes spans.
    #[must_use]
    pub fn tracer(&self, scope: &'static str) -> SdkTracer {
        self.provider.tracer(scope)
    }

    /// Sends what is left; later spans are dropped. Blocks for up to two seconds: not for a thread that the runtime
    /// needs.
    ///
    /// # Errors
    /// The collector did not take all; one sentence.
    pub fn shutdown(&self) -> Result<(), String> {
        let done = self.provider.shutdown_with_timeout(SHUTDOWN);
        let failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        match failure.clone() {
            Some(failure) => Err(failure),
            None => done.map_err(|error| error.to_string()),
        }
    }
}

/// A context whose spans are children of the one that `parent` names.
#[must_use]
pub fn remote(parent: TraceParent) -> Context {
    Context::new().with_remote_span_context(SpanContext::new(
        TraceId::from_bytes(parent.trace_id),
        SpanId::from_bytes(parent.span_id),
        TraceFlags::new(parent.flags),
        true,
        TraceState::NONE,
    ))
}

/// Names the span of a context, for events that it publishes. `None` unless it is recorded.
#[must_use]
pub fn traceparent(context: &Context) -> Option<TraceParent> {
    let span = context.span();
    let span = span.span_context();
    (span.is_valid() && span.is_sampled()).then(|| TraceParent {
        trace_id: span.trace_id().to_bytes(),
        span_id: span.span_id().to_bytes(),
        flags: span.trace_flags().to_u8(),
    })
}

fn variable(name: &str) -> Option<String> {
    let value = std::env::var(name).ok()?;
    Some(value.trim().to_owned()).filter(|value| !value.is_empty())
}

fn is_wanted(variable: impl Fn(&str) -> Option<String>) -> Result<bool, OtlpError> {
    let disabled = variable("OTEL_SDK_DISABLED");
    if disabled.is_some_and(|value| value.eq_ignore_ascii_case("true")) {
        return Ok(false);
    }
    let endpoint = of_traces("ENDPOINT", &variable);
    let wanted = match variable("OTEL_TRACES_EXPORTER").as_deref() {
        None => endpoint.is_some(),
        Some("otlp") => true,
        Some("none") => false,
        Some(other) => return Err(OtlpError::Exporter(other.to_owned())),
    };
    match of_traces("PROTOCOL", &variable) {
        Some((name, value)) if wanted && value != "grpc" => {
            Err(OtlpError::Protocol { name, value })
        }
        _ => Ok(wanted),
    }
}

/// What is said of traces, or of all signals; the variable that says it first.
fn of_traces(name: &str, variable: impl Fn(&str) -> Option<String>) -> Option<(String, String)> {
    let names = ["TRACES_", ""].map(|signal| format!("OTEL_EXPORTER_OTLP_{signal}{name}"));
    let mut found = names.into_iter().filter_map(|name| {
        let value = variable(&name)?;
        Some((name, value))
    });
    found.next()
}

/// What a collector at `https` is believed by, and what it is shown; `None` for one that is not there.
fn tls(variable: impl Fn(&str) -> Option<String>) -> Result<Option<ClientTlsConfig>, OtlpError> {
    let endpoint = of_traces("ENDPOINT", &variable).map(|(_, endpoint)| endpoint);
    let is_https = endpoint.is_some_and(|endpoint| match endpoint.split_once("://") {
        Some((scheme, _)) => scheme.eq_ignore_ascii_case("https"),
        None => {
            let insecure = of_traces("INSECURE", &variable);
            !insecure.is_some_and(|(_, value)| value.eq_ignore_ascii_case("true"))
        }
    });
    if !is_https {
        return Ok(None);
    }
    let file = |name: &str, what: &str| {
        let Some((name, path)) = of_traces(name, &variable) else {
            return Ok(None);
        };
        let error = match std::fs::read_to_string(&path) {
            // What has none would be taken, and nobody believed.
            Ok(pem) if pem.contains(&format!("{what}-----")) => return Ok(Some(pem)),
            Ok(_) => format!("it has no {what} in PEM"),
            Err(error) => error.to_string(),
        };
        Err(OtlpError::File { name, error })
    };
    let tls = match file("CERTIFICATE", "CERTIFICATE")? {
        Some(pem) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem)),
        None => ClientTlsConfig::new().with_native_roots(),
    };
    match (
        file("CLIENT_CERTIFICATE", "CERTIFICATE")?,
        file("CLIENT_KEY", "PRIVATE KEY")?,
    ) {
        (None, None) => Ok(Some(tls)),
        (Some(chain), Some(key)) => Ok(Some(tls.identity(Identity::from_pem(chain, key)))),
        _ => Err(OtlpError::Half),
    }
}

/// The least and the most that variables may say, beyond which the exporter would panic, spin or never send.
const NUMBERS: [(&str, u64, u64); 4] = [
    ("OTEL_BSP_MAX_QUEUE_SIZE", 1, 1_000_000),
    ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", 1, 1_000_000),
    ("OTEL_BSP_SCHEDULE_DELAY", 1, 3_600_000),
    ("OTEL_BSP_EXPORT_TIMEOUT", 1, 3_600_000),
];

/// What is no number is left to the exporter, which takes its default then.
fn check_numbers(variable: impl Fn(&str) -> Option<String>) -> Result<(), OtlpError> {
    for (name, least, most) in NUMBERS {
        let digits = variable(name).filter(|text| text.bytes().all(|b| b.is_ascii_digit()));
        let fits = |text: String| text.parse().is_ok_and(|n| (least..=most).contains(&n));
        if !digits.is_none_or(fits) {
            return Err(OtlpError::Number { name, least, most });
        }
    }
    Ok(())
}

/// What the environment says comes last, and so wins.
fn resource(service: Service<'_>) -> Resource {
    let environment: [Box<dyn ResourceDetector>; 1] = [Box::new(EnvResourceDetector::new())];
    let resource = Resource::builder_empty()
        .with_service_name(service.name)
        .with_attributes([
            KeyValue::new("service.version", service.version),
            KeyValue::new("service.instance.id", service.instance.to_owned()),
        ])
        .with_detectors(&environment);
    match variable("OTEL_SERVICE_NAME") {
        Some(name) => resource.with_service_name(name).build(),
        None => resource.build(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(variables: &[(&str, &str)]) -> Result<bool, OtlpError> {
        is_wanted(|name| {
            let found = variables.iter().find(|(wanted, _)| *wanted == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn the_environment_decides() {
        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4317");
        assert_eq!(wanted(&[]), Ok(false));
        assert_eq!(wanted(&[endpoint]), Ok(true));
        assert_eq!(wanted(&[("OTEL_TRACES_EXPORTER", "otlp")]), Ok(true));
        let none = ("OTEL_TRACES_EXPORTER", "none");
        let http = ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf");
        assert_eq!(wanted(&[endpoint, none, http]), Ok(false));
        assert_eq!(
            wanted(&[endpoint, ("OTEL_SDK_DISABLED", "True")]),
            Ok(false)
        );
        let text = |variables: &[_]| wanted(variables).unwrap_err().to_string();
        assert!(text(&[endpoint, http]).contains("port 4317"));
        assert!(text(&[("OTEL_TRACES_EXPORTER", "zipkin")]).contains("zipkin"));
        let grpc = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "grpc");
        assert_eq!(wanted(&[endpoint, http, grpc]), Ok(true));
    }

    #[test]
    fn tls_follows_the_scheme_and_says_what_is_missing() {
        let tls = |variables: &[(&str, &str)]| {
            tls(|name| {
                let found = variables.iter().find(|(wanted, _)| *wanted == name);
                found.map(|(_, value)| (*value).to_owned())
            })
        };
        let at = |endpoint| ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint);
        let missing = ("OTEL_EXPORTER_OTLP_CERTIFICATE", "-----BEGIN not a path");
        // Read where there is TLS only.
        for (endpoint, insecure, is_tls) in [
            ("http://c:4317", "false", false),
            ("https://c:4317", "true", true),
            ("HTTPS://c:4317", "", true),
            ("c:4317", "", true),
            ("c:4317", "True", false),
        ] {
            let insecure = ("OTEL_EXPORTER_OTLP_INSECURE", insecure);
            let found = tls(&[at(endpoint), insecure, missing]);
            assert_eq!(found.is_err(), is_tls, "{endpoint}");
            if let Err(error) = found {
                let text = error.to_string();
                assert!(
                    text.contains("OTLP_CERTIFICATE") && !text.contains("BEGIN"),
                    "{text}"
                );
            }
        }
        assert!(tls(&[missing]).unwrap().is_none());
        let own = ("OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE", "/nowhere");
        let text = tls(&[at("https://c"), missing, own])
            .unwrap_err()
            .to_string();
        assert!(text.contains("TRACES_CERTIFICATE"), "{text}");
    }

    #[test]
    fn numbers_that_nobody_can_work_with_are_refused() {
        for (text, sound) in [
            ("20", true),
            ("five", true),
            ("0", false),
            ("99999999999999999", false),
            ("99999999999999999999999", false),
        ] {
            let checked = check_numbers(|name| {
                let wanted = name == "OTEL_BSP_SCHEDULE_DELAY";
                wanted.then(|| text.to_owned())
            });
            assert_eq!(checked.is_ok(), sound, "{text}");
        }
    }

    #[test]
    fn a_parent_goes_in_and_comes_out() {
        let text = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let parent = TraceParent::parse(text.as_bytes()).unwrap();
        assert_eq!(traceparent(&remote(parent)), Some(parent));
        let unsampled = TraceParent { flags: 0, ..parent };
        assert_eq!(traceparent(&remote(unsampled)), None);
        assert_eq!(traceparent(&Context::new()), None);
    }
}

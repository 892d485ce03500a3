//! Logs: to standard error, as text for people or as JSON for programs.

use std::io::{IsTerminal, stderr};

use std::fmt;

use tracing::{Event, Subscriber};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::FmtContext;
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, registry, reload};

use crate::config::LogFormat;
use crate::trace;

/// Why logging cannot start; one sentence.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TelemetryError {
    /// The filter cannot be read.
    #[error(
        "`{0}` is neither a level (error, warn, info, debug, trace, off) nor a filter such as info,gateway=debug"
    )]
    Filter(String),
    /// Something else in this process logs already.
    #[error("logging was started twice")]
    Twice,
    /// Logging has ended.
    #[error("there is no log any more")]
    Gone,
}

/// What is logged, while it can be changed. Cloning shares it.
#[derive(Debug, Clone)]
pub struct LogFilter(reload::Handle<EnvFilter, Registry>);

impl LogFilter {
    /// The filter now.
    #[must_use]
    pub fn get(&self) -> String {
        let filter = self.0.with_current(ToString::to_string);
        filter.unwrap_or_default()
    }

    /// Another one from now on.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn set(&self, level: &str) -> Result<(), TelemetryError> {
        let filter = filter(level)?;
        self.0.reload(filter).map_err(|_| TelemetryError::Gone)
    }
}

/// Whether lines are JSON.
#[must_use]
pub fn is_json(format: LogFormat) -> bool {
    match format {
        LogFormat::Auto => !stderr().is_terminal(),
        LogFormat::Text => false,
        LogFormat::Json => true,
    }
}

/// Starts logging for the whole process.
///
/// # Errors
///
/// A filter that cannot be read, or a second start.
pub fn init(level: &str, format: LogFormat) -> Result<LogFilter, TelemetryError> {
    let (terminal, json) = (stderr().is_terminal(), is_json(format));
    let (filter, handle) = reload::Layer::new(filter(level)?);
    let lines = tracing_subscriber::fmt::layer().with_writer(stderr);
    let lines = if json {
        lines
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .map_event_format(WithTrace)
            .boxed()
    } else {
        lines
            .with_ansi(terminal && !no_color())
            .with_target(false)
            .boxed()
    };
    let started = registry().with(filter).with(lines).try_init();
    started.map_err(|_| TelemetryError::Twice)?;
    Ok(LogFilter(handle))
}

/// JSON lines with the ids of the trace that the work at hand belongs to, where that is recorded.
struct WithTrace<F>(F);

impl<S, N, F> FormatEvent<S, N> for WithTrace<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let Some(trace) = trace::parent() else {
            return self.0.format_event(context, writer, event);
        };
        let mut line = String::new();
        self.0
            .format_event(context, Writer::new(&mut line), event)?;
        let object = line.trim_end().trim_end_matches('}');
        let ids = format_args!(
            r#""trace_id":"{:032x}","span_id":"{:016x}""#,
            u128::from_be_bytes(trace.trace_id),
            u64::from_be_bytes(trace.span_id),
        );
        writeln!(writer, "{object},{ids}}}")
    }
}

/// Whether colours are unwanted: <https://no-color.org>, where any value but the empty one counts.
#[must_use]
pub fn no_color() -> bool {
    std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
}

/// Reads a level or a filter.
///
/// # Errors
///
/// It cannot be read, or it is a bare word that is no level: `EnvFilter` would take `--log inof`
/// for the name of a module, and log nothing.
pub fn filter(level: &str) -> Result<EnvFilter, TelemetryError> {
    let wrong = || TelemetryError::Filter(level.to_owned());
    let sound = |part: &str| {
        part.contains(['=', '[', ':']) || (!part.is_empty() && part.parse::<LevelFilter>().is_ok())
    };
    if !level.split(',').all(sound) {
        return Err(wrong());
    }
    EnvFilter::builder().parse(level).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_and_filters_are_read() {
        for level in [
            "info",
            "DEBUG",
            "off",
            "warn,gateway::broker=debug",
            "gateway[span]=trace",
            "gateway::hub",
        ] {
            assert!(filter(level).is_ok(), "{level}");
        }
    }

    #[test]
    fn mistakes_are_refused() {
        for level in ["inof", "", "info,", "gateway=loud", "info debug"] {
            assert_eq!(
                filter(level).err(),
                Some(TelemetryError::Filter(level.to_owned())),
                "{level}"
            );
        }
    }
}

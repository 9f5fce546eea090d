//! The log: each event is a line on stderr, as text on a terminal and as JSON elsewhere.
//!
//! A line has the time (UTC), the level, the message, the target, and the fields of the event and of
//! its spans, outermost first. If a name occurs twice, the innermost value wins. An event is always
//! one line: control characters are escaped, so that no client or server can forge log lines or send
//! control sequences to a terminal. Lines are written synchronously; one that cannot be written is
//! lost.

mod line;

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::{self, IsTerminal, Write};
use std::panic::PanicHookInfo;

use chrono::Utc;
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Subscriber};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::{LookupSpan, Registry};
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::{Log, LogFormat, LogLevel};
use line::{Fields, Style, render};

/// A handle to the log, which can change its level.
#[derive(Debug, Clone)]
pub struct LogHandle {
    filter: reload::Handle<Targets, Registry>,
}

/// Why the log cannot be initialised or changed.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error("the log is already initialised")]
    Init(#[source] tracing_subscriber::util::TryInitError),
    #[error("cannot change the log level")]
    Level(#[source] reload::Error),
}

/// Initialises the log and logs panics from now on. Fails if called twice in a process.
pub fn init(config: &Log) -> Result<LogHandle, LogError> {
    let stderr = io::stderr();
    let style = match (config.format, stderr.is_terminal()) {
        (LogFormat::Json, _) | (LogFormat::Auto, false) => Style::Json,
        // https://no-color.org
        (_, terminal) => Style::Text {
            colour: terminal && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty()),
        },
    };
    let (filter, handle) = reload::Layer::new(filter(config.level));
    tracing_subscriber::registry()
        .with(filter)
        .with(Lines { style, out: io::stderr })
        .try_init()
        .map_err(LogError::Init)?;
    std::panic::set_hook(Box::new(log_panic));
    Ok(LogHandle { filter: handle })
}

impl LogHandle {
    /// Changes the level.
    pub fn set_level(&self, level: LogLevel) -> Result<(), LogError> {
        self.filter.reload(filter(level)).map_err(LogError::Level)
    }
}

/// Returns `level` for pgsteward, and at most the listed levels for libraries. Below them libraries
/// log noise or secrets: tokio-postgres logs statements with their parameters at debug.
fn filter(level: LogLevel) -> Targets {
    let level = match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    let libraries = [
        ("tokio_postgres", LevelFilter::INFO),
        ("postgres", LevelFilter::INFO),
        ("hyper", LevelFilter::WARN),
        ("hyper_util", LevelFilter::WARN),
        ("tokio", LevelFilter::WARN),
        ("tokio_util", LevelFilter::WARN),
        ("tokio_cron_scheduler", LevelFilter::WARN),
        ("rustls", LevelFilter::WARN),
        ("mio", LevelFilter::WARN),
    ];
    let pinned = libraries.map(|(target, most)| (target, most.min(level)));
    Targets::new().with_default(level).with_targets(pinned)
}

fn log_panic(panic: &PanicHookInfo<'_>) {
    let payload = panic.payload();
    let text = payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    let payload = text.unwrap_or("not a string");
    let location = panic.location().map(ToString::to_string).unwrap_or_default();
    let thread = std::thread::current();
    let thread = thread.name().unwrap_or("unnamed");
    let backtrace = Backtrace::capture();
    if backtrace.status() == BacktraceStatus::Captured {
        tracing::error!(payload, location, thread, %backtrace, "panic");
    } else {
        tracing::error!(payload, location, thread, "panic");
    }
}

/// Writes each event in one call, so that the lines of several threads do not mix.
struct Lines<O> {
    style: Style,
    out: fn() -> O,
}

impl<S, O> Layer<S> for Lines<O>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    O: Write + 'static,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        if let Some(span) = context.span(id) {
            let mut fields = Fields::default();
            attributes.record(&mut fields);
            span.extensions_mut().insert(fields);
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        if let Some(span) = context.span(id)
            && let Some(fields) = span.extensions_mut().get_mut::<Fields>()
        {
            values.record(fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Fields::default();
        for span in context.event_scope(event).into_iter().flat_map(|scope| scope.from_root()) {
            if let Some(of_span) = span.extensions().get::<Fields>() {
                fields.extend(of_span);
            }
        }
        // A span may have a field `message`. The message of the line is that of the event.
        fields.take_message();
        event.record(&mut fields);
        let line = render(self.style, Utc::now(), event.metadata(), fields);
        // There is nowhere to report a failed write.
        let _ = (self.out)().write_all(line.as_bytes());
    }
}

/// Formats an error with its causes, separated by colons.
pub fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source())
        .map(|cause| format!(": {cause}"));
    error.to_string() + &causes.collect::<String>()
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use chrono::DateTime;
    use serde_json::Value;

    use super::line::{VALUE_MAX_BYTES, harmful};
    use super::*;

    thread_local! {
        static WRITTEN: Arc<Mutex<Vec<u8>>> = Arc::default();
    }

    struct Memory;

    impl Write for Memory {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            WRITTEN.with(|written| written.lock().unwrap().extend_from_slice(bytes));
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Returns what `act` logs in a style at a level. `act` may change the level.
    fn logged(style: Style, level: LogLevel, act: impl FnOnce(&LogHandle)) -> String {
        WRITTEN.with(|written| written.lock().unwrap().clear());
        let (filter, handle) = reload::Layer::new(filter(level));
        let subscriber =
            tracing_subscriber::registry().with(filter).with(Lines { style, out: || Memory });
        tracing::subscriber::with_default(subscriber, || act(&LogHandle { filter: handle }));
        WRITTEN.with(|written| String::from_utf8(written.lock().unwrap().clone()).unwrap())
    }

    const TEXT: Style = Style::Text { colour: false };

    #[derive(Debug, thiserror::Error)]
    #[error("cannot connect")]
    struct Outer(#[source] io::Error);

    #[test]
    fn json_is_flat_with_the_fields_of_spans_and_the_chain_of_errors() {
        let line = logged(Style::Json, LogLevel::Info, |_| {
            let _outer =
                tracing::info_span!("run", job = "vacuum", target = "main", rows = 1).entered();
            let inner =
                tracing::info_span!("batch", rows = 2, late = tracing::field::Empty).entered();
            inner.record("late", true);
            let error = Outer(io::Error::other("no route"));
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                seconds = 0.5,
                "run {}",
                "failed"
            );
        });
        let value: Value = serde_json::from_str(&line).unwrap();
        let expected = serde_json::json!({
            "time": value["time"], "level": "warn", "message": "run failed", "target": "pgsteward::telemetry::log::tests",
            "job": "vacuum", "field_target": "main", "rows": 2, "late": true,
            "error": "cannot connect: no route", "seconds": 0.5,
        });
        assert_eq!(value, expected);
        let time = DateTime::parse_from_rfc3339(value["time"].as_str().unwrap()).unwrap();
        assert!((Utc::now() - time.to_utc()).num_seconds().abs() < 60);
        assert!(line.starts_with(r#"{"time":"#) && line.matches('\n').count() == 1, "{line}");
        assert_eq!(line.matches("\"rows\"").count(), 1, "no name twice: {line}");
    }

    #[test]
    fn an_event_is_always_one_line() {
        let evil =
            "x\n2026-01-01T00:00:00.000Z  INFO all is well\r\u{1b}[2J\u{9b}2J\u{2028}\u{202e}\0";
        for style in [TEXT, Style::Json, Style::Text { colour: true }] {
            let line = logged(style, LogLevel::Info, |_| {
                tracing::info!(evil, debug = ?evil, display = %evil, "{evil}");
            });
            assert_eq!(line.matches('\n').count(), 1, "{style:?}: {line:?}");
            let body = line
                .trim_end_matches('\n')
                .replace("\x1b[2m", "")
                .replace("\x1b[32m", "")
                .replace("\x1b[0m", "");
            assert!(!body.chars().any(harmful), "{style:?}: {body:?}");
            assert_eq!(body.matches("all is well").count(), 4, "nothing is lost: {body}");
            if style == Style::Json {
                assert_eq!(serde_json::from_str::<Value>(&body).unwrap()["evil"], evil);
            }
        }
    }

    #[test]
    fn text_quotes_ambiguous_values() {
        let line = logged(TEXT, LogLevel::Info, |_| {
            tracing::info!(
                n = 3,
                word = "main",
                words = "two words",
                quote = "a\"b",
                none = "",
                pair = "a=b",
                "ready"
            );
        });
        let (time, rest) = line.split_once(' ').unwrap();
        assert!(DateTime::parse_from_rfc3339(time).is_ok(), "{time}");
        assert_eq!(
            rest,
            " INFO ready n=3 word=main words=\"two words\" quote=\"a\\\"b\" none=\"\" pair=\"a=b\"\n"
        );
    }

    #[test]
    fn a_value_is_cut_at_a_limit() {
        let long = format!("{}é", "x".repeat(VALUE_MAX_BYTES - 1));
        let line = logged(Style::Json, LogLevel::Info, |_| tracing::info!(long, "{long}"));
        let value: Value = serde_json::from_str(&line).unwrap();
        for name in ["message", "long"] {
            let kept = format!("{}… (2 bytes more)", "x".repeat(VALUE_MAX_BYTES - 1));
            assert!(value[name] == kept, "{name}: {}", value[name].as_str().unwrap().len());
        }
    }

    #[test]
    fn the_level_changes_at_run_time() {
        let lines = logged(TEXT, LogLevel::Warn, |logs| {
            let say = |text| tracing::info!("{text}");
            say("before");
            logs.set_level(LogLevel::Debug).unwrap();
            say("during");
            logs.set_level(LogLevel::Error).unwrap();
            say("after");
        });
        assert!(lines.contains("during") && lines.matches('\n').count() == 1, "{lines}");
    }

    #[test]
    fn statements_and_parameters_are_never_logged_by_the_driver() {
        let lines = logged(TEXT, LogLevel::Trace, |_| {
            tracing::debug!(target: "tokio_postgres::prepare", "preparing query with secret parameter");
            tracing::info!(target: "tokio_postgres::connection", "a notice");
            tracing::debug!(target: "hyper::proto::h1", "noise");
            tracing::trace!("ours");
        });
        assert!(!lines.contains("secret") && !lines.contains("noise"), "{lines}");
        assert!(lines.contains("a notice") && lines.contains("ours"), "{lines}");
        let quiet =
            logged(TEXT, LogLevel::Error, |_| tracing::info!(target: "tokio_postgres", "a notice"));
        assert_eq!(quiet, "", "a pin does not raise the level");
    }

    #[test]
    fn a_panic_is_one_line_with_its_location() {
        let line = logged(Style::Json, LogLevel::Info, |_| {
            let previous = std::panic::take_hook();
            std::panic::set_hook(Box::new(log_panic));
            let ended = std::panic::catch_unwind(|| panic!("out of\nluck"));
            std::panic::set_hook(previous);
            assert!(ended.is_err());
        });
        let value: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["message"], "panic");
        assert_eq!(value["payload"], "out of\nluck");
        assert!(value["location"].as_str().unwrap().contains("log.rs:"), "{line}");
        assert_eq!(line.matches('\n').count(), 1);
    }
}

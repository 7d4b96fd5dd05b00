//! Logs, always to stderr: for people on a terminal, else one JSON object a line.
//!
//! A line that names a manifest carries the trace id of that manifest, whichever operator or service wrote it. A warning or
//! an error that comes again and again is written once in ten seconds, and then says how many there were.

use std::{
    collections::HashMap,
    fmt,
    hash::{DefaultHasher, Hash, Hasher},
    io::{self, IsTerminal},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use chrono::{SecondsFormat, Utc};
use penstock_engine::telemetry::trace::trace_id;
use serde_json::{Map, Value};
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    EnvFilter,
    fmt::{FmtContext, FormatEvent, FormatFields, format},
    registry::LookupSpan,
};

use super::shows_colours;

/// The same warning is written once in so long.
const WINDOW: Duration = Duration::from_secs(10);

/// So many different warnings are told apart; past that the oldest are forgotten, and written again.
const KNOWN: usize = 1000;

/// Starts logging by a filter that `valid_filter` has seen.
pub fn start_logging(filter: &str) {
    let filter = EnvFilter::new(filter);
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    if io::stderr().is_terminal() {
        let inner = format::format().with_ansi(shows_colours(&io::stderr())).with_target(false);
        logs.with_ansi(shows_colours(&io::stderr()))
            .event_format(Limited { inner, limiter: Limiter::default() })
            .init();
    } else {
        logs.with_ansi(false).event_format(Limited { inner: JsonLines, limiter: Limiter::default() }).init();
    }
}

/// Checks a filter.
pub fn valid_filter(filter: &str) -> Result<String, String> {
    match EnvFilter::builder().parse(filter) {
        Ok(_) => Ok(filter.to_owned()),
        Err(error) => {
            Err(format!("{error}: write error, warn, info, debug, trace or a filter like `info,penstock=debug`"))
        }
    }
}

/// Leaves out what was written a moment ago.
struct Limited<F> {
    inner: F,
    limiter: Limiter,
}

impl<S, N, F> FormatEvent<S, N> for Limited<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: format::Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        if *event.metadata().level() > Level::WARN {
            return self.inner.format_event(context, writer, event);
        }
        let mut fields = Fields::default();
        event.record(&mut fields);
        match self.limiter.admit(fields.sameness(), Instant::now()) {
            Admit::No => {
                metrics::counter!("penstock_logs_suppressed_total").increment(1);
                Ok(())
            }
            Admit::Yes { left_out: 0 } => self.inner.format_event(context, writer, event),
            Admit::Yes { left_out } => {
                let note = Note { left_out, secs: WINDOW.as_secs() };
                write!(writer, "{}", if io::stderr().is_terminal() { note.text() } else { note.json() })?;
                self.inner.format_event(context, writer, event)
            }
        }
    }
}

/// What stands before a line of which others were left out.
struct Note {
    left_out: u64,
    secs: u64,
}

impl Note {
    fn text(&self) -> String {
        format!(
            "({} more of the next line were left out; it is written at most once in {} s)\n",
            self.left_out, self.secs
        )
    }

    fn json(&self) -> String {
        let mut line = Map::new();
        line.insert("timestamp".to_owned(), now().into());
        line.insert("level".to_owned(), "WARN".into());
        line.insert("message".to_owned(), "More of the next line were left out.".into());
        line.insert("left_out".to_owned(), self.left_out.into());
        format!("{}\n", Value::Object(line))
    }
}

/// Whether a line is written.
#[derive(Debug, PartialEq, Eq)]
enum Admit {
    /// It is, and so many like it weren't since the last one.
    Yes { left_out: u64 },
    /// One like it was written a moment ago.
    No,
}

/// Knows which lines were written lately.
#[derive(Default)]
struct Limiter(Mutex<HashMap<u64, Written>>);

struct Written {
    at: Instant,
    left_out: u64,
}

impl Limiter {
    fn admit(&self, sameness: u64, now: Instant) -> Admit {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(written) = known.get_mut(&sameness) {
            if now.duration_since(written.at) < WINDOW {
                written.left_out += 1;
                return Admit::No;
            }
            let left_out = std::mem::take(&mut written.left_out);
            written.at = now;
            return Admit::Yes { left_out };
        }
        if known.len() >= KNOWN
            && let Some(oldest) = known.iter().min_by_key(|(_, written)| written.at).map(|(sameness, _)| *sameness)
        {
            known.remove(&oldest);
        }
        known.insert(sameness, Written { at: now, left_out: 0 });
        Admit::Yes { left_out: 0 }
    }
}

/// The fields of a line.
#[derive(Default)]
struct Fields(Map<String, Value>);

impl Fields {
    /// Lines are the same if they say the same of the same operator. Numbers, shards and keys may differ.
    fn sameness(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        for name in ["message", "operator", "error", "reason", "table", "queue", "bus"] {
            self.0.get(name).map(Value::to_string).hash(&mut hasher);
        }
        hasher.finish()
    }

    fn add(&mut self, field: &Field, value: Value) {
        self.0.insert(field.name().trim_start_matches("r#").to_owned(), value);
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field, format!("{value:?}").into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, value.into());
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.add(field, value.to_string().into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.add(field, value.into());
    }
}

/// One JSON object a line.
struct JsonLines;

impl<S, N> FormatEvent<S, N> for JsonLines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut writer: format::Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut fields = Fields::default();
        event.record(&mut fields);
        writeln!(writer, "{}", json_line(event.metadata().level(), event.metadata().target(), fields))
    }
}

fn json_line(level: &Level, target: &str, Fields(mut fields): Fields) -> Value {
    let mut line = Map::new();
    line.insert("timestamp".to_owned(), now().into());
    line.insert("level".to_owned(), level.as_str().into());
    if let Some(message) = fields.shift_remove("message") {
        line.insert("message".to_owned(), message);
    }
    if let Some(manifest) = fields.get("manifest").and_then(Value::as_str) {
        line.insert("trace_id".to_owned(), trace_id(manifest).into());
    }
    line.extend(fields);
    line.insert("target".to_owned(), target.into());
    Value::Object(line)
}

fn now() -> String {
    Utc::now().to_rfc3339_opts(SecondsFormat::Micros, true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_warning_is_written_once_in_ten_seconds_and_then_says_how_many() {
        let (limiter, start) = (Limiter::default(), Instant::now());
        assert_eq!(limiter.admit(1, start), Admit::Yes { left_out: 0 });
        for millis in 1..=500 {
            assert_eq!(limiter.admit(1, start + Duration::from_millis(millis)), Admit::No);
        }
        assert_eq!(limiter.admit(2, start), Admit::Yes { left_out: 0 }, "another one is another one");
        assert_eq!(limiter.admit(1, start + WINDOW), Admit::Yes { left_out: 500 });
        assert_eq!(limiter.admit(1, start + WINDOW + Duration::from_secs(1)), Admit::No);
    }

    #[test]
    fn i9_the_memory_of_warnings_is_bounded() {
        let (limiter, start) = (Limiter::default(), Instant::now());
        for sameness in 0..3 * KNOWN as u64 {
            limiter.admit(sameness, start + Duration::from_micros(sameness));
        }
        assert_eq!(limiter.0.lock().unwrap().len(), KNOWN);
    }

    #[test]
    fn a_line_that_names_a_manifest_carries_its_trace() {
        let mut fields = Fields::default();
        for (name, value) in [("message", "Manifest committed."), ("manifest", "batch-0001"), ("date", "2026-02-01")] {
            fields.0.insert(name.to_owned(), value.into());
        }
        let line = json_line(&Level::INFO, "fold", fields);
        assert_eq!(line["trace_id"], trace_id("batch-0001"));
        assert_eq!(line["date"], "2026-02-01");
        let names: Vec<&String> = line.as_object().unwrap().keys().collect();
        assert_eq!(names, ["timestamp", "level", "message", "trace_id", "manifest", "date", "target"]);
    }
}

//! The trace of a manifest: one id for everything that any service logs or records of it.
//!
//! The ids are made from the manifest's id, so nobody has to carry them: not the table, not an event, not a queue. Whoever
//! has the name of a manifest has its trace, and the span that all others of it belong to. A [`Span`] is recorded once, when
//! it has ended, by whichever process ended it. Without an exporter ([`otlp`](super::otlp)) recording does nothing; with one
//! it never waits: what finds no room is dropped and counted.

use std::sync::OnceLock;

use chrono::{DateTime, Utc};
use md5::{Digest, Md5};
use serde_json::Value;
use tokio::sync::mpsc;

use super::events::{DropReason, SpansDropped};

/// The most moments of a span: what is past it is told by a number.
const MAX_MOMENTS: usize = 64;

/// The trace id of whatever goes by this name: 32 hex digits, as W3C's trace context and OpenTelemetry write them.
pub fn trace_id(name: &str) -> String {
    hex(&Md5::digest(name.as_bytes()))
}

/// The id of one step within a trace: 16 hex digits, the same whoever makes it.
pub fn span_id(name: &str, step: &str) -> String {
    hex(&Md5::digest(format!("{name}\n{step}").as_bytes())[..8])
}

fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .filter_map(|digit| char::from_digit(u32::from(digit), 16))
        .collect()
}

/// What a span is to those before and behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Work within a service.
    Internal,
    /// It told somebody else.
    Producer,
    /// Somebody else told of it.
    Consumer,
}

/// A step that has ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Span {
    /// Its trace: 32 hex digits.
    pub trace_id: String,
    /// Its own id: 16 hex digits.
    pub id: String,
    /// The span that it belongs to; nothing if it is the whole.
    pub parent_id: Option<String>,
    /// What was done: one of few words.
    pub name: &'static str,
    /// What it is to others.
    pub role: Role,
    /// When it began.
    pub started_at: DateTime<Utc>,
    /// When it ended; never before it began, whatever the clocks of two hosts say.
    pub ended_at: DateTime<Utc>,
    /// What is known of it: texts, numbers, true or false.
    pub attributes: Vec<(&'static str, Value)>,
    /// What happened within it, and when.
    pub moments: Vec<(DateTime<Utc>, String)>,
    /// Why it failed, if it did.
    pub error: Option<String>,
}

impl Span {
    /// The whole way of whatever goes by this name.
    pub fn whole(of: &str, name: &'static str, started_at: DateTime<Utc>, ended_at: DateTime<Utc>) -> Self {
        Self {
            trace_id: trace_id(of),
            id: span_id(of, ""),
            parent_id: None,
            name,
            role: Role::Internal,
            started_at,
            ended_at: ended_at.max(started_at),
            attributes: Vec::new(),
            moments: Vec::new(),
            error: None,
        }
    }

    /// A step of it. `which` tells it from others of the same name, and is empty where there can be one only.
    pub fn step(of: &str, name: &'static str, which: &str, started_at: DateTime<Utc>, ended_at: DateTime<Utc>) -> Self {
        let whole = Self::whole(of, name, started_at, ended_at);
        Self { id: span_id(of, &format!("{name}/{which}")), parent_id: Some(whole.id), ..whole }
    }

    /// The same in this role.
    pub fn as_role(mut self, role: Role) -> Self {
        self.role = role;
        self
    }

    /// The same, and this is known of it.
    pub fn with(mut self, name: &'static str, value: impl Into<Value>) -> Self {
        self.attributes.push((name, value.into()));
        self
    }

    /// The same, and this happened within it. Of very many the first are kept.
    pub fn with_moments(mut self, moments: impl IntoIterator<Item = (DateTime<Utc>, String)>) -> Self {
        let mut moments = moments.into_iter();
        self.moments.extend(moments.by_ref().take(MAX_MOMENTS));
        match moments.count() {
            0 => self,
            more => self.with("penstock.moments_left_out", more),
        }
    }

    /// The same, and it failed, if there is an error.
    pub fn failed(mut self, error: Option<String>) -> Self {
        self.error = error;
        self
    }

    /// Gives it to the exporter of this process, if there is one and it has room.
    pub fn record(self) {
        let Some(recorder) = RECORDER.get() else { return };
        if recorder.try_send(self).is_err() {
            SpansDropped { spans: 1, why: DropReason::NoRoom }.emit();
        }
    }
}

static RECORDER: OnceLock<mpsc::Sender<Span>> = OnceLock::new();

/// Whether spans of this process go anywhere.
pub fn is_recorded() -> bool {
    RECORDER.get().is_some()
}

/// Sends all spans of this process that are recorded from now on to whoever has the other end. A process has one: a second
/// is refused.
pub fn record_into(recorder: mpsc::Sender<Span>) -> Result<(), mpsc::Sender<Span>> {
    RECORDER.set(recorder)
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;

    #[test]
    fn a_name_has_one_trace_id_for_ever() {
        // What another release or service makes of the same name must not change.
        assert_eq!(trace_id("batch-0001-20260201-120000-7f3a9c"), "e424a24cc0f208e566d3c174047a31ca");
        assert_eq!(span_id("batch-0001-20260201-120000-7f3a9c", "convert/1").len(), 16);
        assert_ne!(span_id("a", "b"), span_id("a", "c"));
    }

    #[test]
    fn steps_of_any_process_belong_to_the_same_whole() {
        let now = Utc::now();
        let whole = Span::whole("batch-1", "manifest", now, now + TimeDelta::seconds(3));
        let (first, second) =
            (Span::step("batch-1", "convert", "1", now, now), Span::step("batch-1", "convert", "2", now, now));
        for step in [&first, &second] {
            assert_eq!((&step.trace_id, step.parent_id.as_ref()), (&whole.trace_id, Some(&whole.id)));
        }
        assert_ne!(first.id, second.id);
        assert_eq!(first.id, Span::step("batch-1", "convert", "1", now, now).id, "a second telling is the same span");
        let skewed = Span::step("batch-1", "announce", "", now, now - TimeDelta::seconds(1));
        assert_eq!(skewed.ended_at, skewed.started_at);
    }

    #[test]
    fn i9_the_moments_of_a_span_are_bounded_and_the_rest_is_counted() {
        let now = Utc::now();
        let many = (0..200).map(|number| (now, format!("file-{number}")));
        let span = Span::whole("batch-1", "gather", now, now).with_moments(many);
        assert_eq!(span.moments.len(), MAX_MOMENTS);
        assert_eq!(span.attributes, [("penstock.moments_left_out", Value::from(200 - MAX_MOMENTS))]);
    }
}

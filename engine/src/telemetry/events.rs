//! What happens to telemetry itself: each event is one log line and one metric together.

use crate::cloud::CloudError;

/// Why a span never reached the collector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DropReason {
    /// Too many waited to be sent.
    NoRoom,
    /// The collector didn't answer, or couldn't take it, at every try.
    Unreachable,
    /// The collector said that it is wrong.
    Refused,
}

/// Spans were dropped.
pub(super) struct SpansDropped {
    pub spans: usize,
    pub why: DropReason,
}

impl SpansDropped {
    pub fn emit(self) {
        let reason = match self.why {
            DropReason::NoRoom => "no_room",
            DropReason::Unreachable => "unreachable",
            DropReason::Refused => "refused",
        };
        metrics::counter!("penstock_trace_spans_dropped_total", "reason" => reason).increment(self.spans as u64);
        tracing::warn!(spans = self.spans, reason, "Spans of traces dropped.");
    }
}

/// The collector was sent spans.
pub(super) struct SpansSent<'a> {
    /// How many it took.
    pub taken: usize,
    /// Why it took no more.
    pub error: Option<&'a str>,
}

impl SpansSent<'_> {
    pub fn emit(self) {
        metrics::counter!("penstock_trace_spans_sent_total").increment(self.taken as u64);
        match self.error {
            Some(error) => tracing::warn!(error, "The collector of traces doesn't take spans."),
            None => tracing::trace!(spans = self.taken, "Spans sent."),
        }
    }
}

/// A roll-up was put into the table of metrics, or not.
pub(super) struct RollupPut<'a> {
    pub service: &'a str,
    pub result: Result<(), &'a CloudError>,
}

impl RollupPut<'_> {
    pub fn emit(self) {
        let result = if self.result.is_ok() { "stored" } else { "failed" };
        metrics::counter!("penstock_rollups_total", "result" => result).increment(1);
        match self.result {
            Ok(()) => tracing::debug!(service = self.service, "Roll-up stored."),
            Err(error) => {
                tracing::warn!(service = self.service, %error, "Roll-up not stored; the next one holds it too.")
            }
        }
    }
}

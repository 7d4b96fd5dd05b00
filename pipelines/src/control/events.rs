//! What happens on the control socket: each event is one log line and one metric together.

use std::io;

/// A connection couldn't be accepted.
pub(super) struct NotAccepted<'a> {
    pub error: &'a io::Error,
}

impl NotAccepted<'_> {
    pub fn emit(self) {
        metrics::counter!("penstock_control_requests_total", "outcome" => "not_accepted").increment(1);
        tracing::warn!(error = %self.error, "A control connection can't be accepted.");
    }
}

/// Somebody has looked at the records of an operator.
pub(super) struct TapEnded<'a> {
    pub operator: &'a str,
    /// Records that were shown.
    pub shown: u64,
    /// Records that passed too fast to be shown.
    pub skipped: u64,
}

impl TapEnded<'_> {
    pub fn emit(self) {
        let Self { operator, shown, skipped } = self;
        metrics::counter!("penstock_tap_records_total", "result" => "shown").increment(shown);
        metrics::counter!("penstock_tap_records_total", "result" => "skipped").increment(skipped);
        tracing::info!(operator, shown, skipped, "Records of an operator were shown to somebody.");
    }
}

/// Somebody who asked to see records over HTTP was refused.
pub(super) struct TapRefused<'a> {
    pub operator: &'a str,
    pub why: &'a str,
}

impl TapRefused<'_> {
    pub fn emit(self) {
        metrics::counter!("penstock_taps_refused_total").increment(1);
        tracing::warn!(operator = self.operator, reason = self.why, "Records of an operator were not shown.");
    }
}

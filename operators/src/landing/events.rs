//! What is of no interest in a notification: each event is one log line and one metric together.

use super::Dropped;

/// A part of a notification was dropped.
pub(super) struct NotificationDropped<'a> {
    pub message: &'a str,
    pub why: Dropped,
}

impl NotificationDropped<'_> {
    pub fn emit(self) {
        let reason = self.why.as_str();
        metrics::counter!("penstock_notifications_dropped_total", "reason" => reason).increment(1);
        tracing::debug!(message_id = self.message, reason, "Notification dropped.");
    }
}

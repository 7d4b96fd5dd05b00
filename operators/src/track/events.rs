//! What becomes of notifications: each event is one log line and one metric together.

use super::Target;
use crate::model::ObjectEvent;

/// A notification was handled.
pub(super) struct NotificationHandled<'a> {
    /// `tracked`, `superseded`, or why it was ignored.
    pub outcome: &'static str,
    pub target: &'a Target,
    pub object: &'a ObjectEvent,
}

impl NotificationHandled<'_> {
    pub fn emit(self) {
        let Self { outcome, target, object } = self;
        let outcome = if outcome == "tracked" && *target != Target::Pending { "quarantined" } else { outcome };
        metrics::counter!("penstock_notifications_total", "outcome" => outcome).increment(1);
        if outcome == "tracked" {
            tracing::debug!(object = object.uri(), outcome, "Notification handled.");
        } else {
            tracing::info!(object = object.uri(), outcome, reason = object.reason, "Notification handled.");
        }
    }
}

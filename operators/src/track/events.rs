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
        // A listing has no sequencer, and what it tells of is new only if no notification has told of it.
        if outcome == "tracked" && object.sequencer.is_none() {
            metrics::counter!("penstock_swept_objects_total").increment(1);
        }
        let (outcome, reason) = match target {
            Target::Quarantined(reason) if outcome == "tracked" => ("quarantined", Some(reason)),
            _ => (outcome, object.reason.as_ref()),
        };
        metrics::counter!("penstock_notifications_total", "outcome" => outcome).increment(1);
        if outcome == "tracked" {
            tracing::debug!(object = object.uri(), outcome, "Notification handled.");
        } else {
            tracing::info!(object = object.uri(), outcome, reason, "Notification handled.");
        }
    }
}

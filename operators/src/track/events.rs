//! What becomes of notifications: each event is one log line and one metric together.

use super::Target;
use crate::model::{FileItem, ManifestItem, ObjectEvent};

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

/// The same content came again after its file had failed, and readers may see rows of it already.
pub(super) struct RedriveLeftToAPerson<'a> {
    pub object: &'a ObjectEvent,
    pub file: &'a FileItem,
    pub manifest: &'a ManifestItem,
}

impl RedriveLeftToAPerson<'_> {
    pub fn emit(self) {
        let Self { object, file, manifest } = self;
        metrics::counter!("penstock_notifications_total", "outcome" => "commit_lost").increment(1);
        tracing::warn!(
            object = object.uri(),
            outcome = "commit_lost",
            file_key = file.file_key,
            date = file.date_prefix,
            manifest_id = manifest.id(),
            error = manifest.error_message,
            "Notification ignored: outputs of the file's manifest may be visible. `penstock redrive` tells which."
        );
    }
}

//! What happens while files follow their manifest: each event is one log line and one metric together.

use crate::model::ManifestItem;

/// The files of a manifest have followed it.
pub(super) struct ManifestSettled<'a> {
    pub manifest: &'a ManifestItem,
    pub completed: u64,
    pub failed: u64,
    /// From its making until now, if its item says when it was made and this is the first time.
    pub secs: Option<f64>,
}

impl ManifestSettled<'_> {
    pub fn emit(self) {
        let Self { manifest, completed, failed, secs } = self;
        metrics::counter!("penstock_files_settled_total", "status" => "completed").increment(completed);
        metrics::counter!("penstock_files_settled_total", "status" => "failed").increment(failed);
        if let Some(secs) = secs {
            metrics::histogram!("penstock_manifest_done_seconds").record(secs);
        }
        tracing::info!(manifest = manifest.id(), state = %manifest.status, completed, failed, "Manifest settled.");
    }
}

/// The JSON object of a failed manifest is gone.
pub(super) struct SettledWithoutJson<'a> {
    pub manifest: &'a ManifestItem,
}

impl SettledWithoutJson<'_> {
    pub fn emit(self) {
        metrics::counter!("penstock_settled_without_json_total").increment(1);
        tracing::warn!(
            manifest = self.manifest.id(),
            "The JSON object of a failed manifest is gone; its files are told by the index."
        );
    }
}

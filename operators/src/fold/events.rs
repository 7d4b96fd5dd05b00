//! What happens while files become manifests: each event is one log line and one metric together.

use penstock_engine::{cloud::table::Key, operator::OperatorError};

use crate::model::{FlushReason, ManifestItem};

/// A manifest was committed.
pub(super) struct Committed<'a> {
    pub manifest: &'a ManifestItem,
    pub files: usize,
    pub bytes: u64,
}

impl Committed<'_> {
    pub fn emit(self) {
        let Self { manifest, files, bytes } = self;
        let reason = manifest.flush_reason.map_or("unknown", FlushReason::as_str);
        metrics::counter!("penstock_flushes_total", "reason" => reason).increment(1);
        metrics::histogram!("penstock_manifest_files").record(files as f64);
        metrics::histogram!("penstock_manifest_bytes").record(bytes as f64);
        tracing::info!(
            manifest = manifest.id(),
            date = manifest.date_prefix,
            files,
            bytes,
            reason,
            "Manifest committed."
        );
    }
}

/// Another manifest has the name that was drawn.
pub(super) struct NameTaken<'a> {
    pub manifest_id: &'a str,
}

impl NameTaken<'_> {
    pub fn emit(self) {
        metrics::counter!("penstock_manifest_names_taken_total").increment(1);
        tracing::info!(manifest = self.manifest_id, "The name of a manifest is taken; another is drawn.");
    }
}

/// A manifest that was left while assembling was taken over.
pub(super) struct Resumed<'a> {
    pub manifest: &'a ManifestItem,
}

impl Resumed<'_> {
    pub fn emit(self) {
        metrics::counter!("penstock_manifests_resumed_total").increment(1);
        tracing::warn!(manifest = self.manifest.id(), "Manifest taken over while assembling.");
    }
}

/// A manifest was given up before it had a member.
pub(super) struct Abandoned<'a> {
    pub manifest: &'a ManifestItem,
}

impl Abandoned<'_> {
    pub fn emit(self) {
        metrics::counter!("penstock_manifests_abandoned_total").increment(1);
        tracing::info!(manifest = self.manifest.id(), "Manifest abandoned: none of its files could be claimed.");
    }
}

/// The claims of a manifest came to an end.
pub(super) struct FilesClaimed<'a> {
    pub manifest: &'a ManifestItem,
    pub claimed: usize,
    pub refused: usize,
}

impl FilesClaimed<'_> {
    pub fn emit(self) {
        let Self { manifest, claimed, refused } = self;
        metrics::counter!("penstock_claims_total", "outcome" => "claimed").increment(claimed as u64);
        metrics::counter!("penstock_claims_total", "outcome" => "refused").increment(refused as u64);
        tracing::debug!(manifest = manifest.id(), claimed, refused, "Files claimed.");
    }
}

/// It isn't known whether a claim landed, or will.
pub(super) struct ClaimUncertain<'a> {
    pub manifest: &'a ManifestItem,
    pub file: &'a Key,
    pub error: &'a OperatorError,
}

impl ClaimUncertain<'_> {
    pub fn emit(self) {
        metrics::counter!("penstock_claims_total", "outcome" => "uncertain").increment(1);
        let (manifest, file) = (self.manifest.id(), &self.file.sort);
        tracing::warn!(manifest, file, error = %self.error, "Claim uncertain; left out.");
    }
}

/// A claimed file was given back.
pub(super) struct ClaimReleased<'a> {
    pub file: &'a Key,
    pub manifest_path: &'a str,
}

impl ClaimReleased<'_> {
    pub fn emit(self) {
        metrics::counter!("penstock_claims_total", "outcome" => "released").increment(1);
        tracing::info!(file = self.file.sort, manifest_path = self.manifest_path, "Claim released.");
    }
}

/// A flush failed.
pub(super) struct FlushFailed<'a> {
    pub error: &'a OperatorError,
}

impl FlushFailed<'_> {
    pub fn emit(self) {
        metrics::counter!("penstock_flush_failures_total").increment(1);
        tracing::warn!(error = %self.error, "Flush failed; it will be tried again.");
    }
}

/// A person's request was taken up.
pub(super) struct RequestHeeded<'a> {
    pub date: &'a str,
}

impl RequestHeeded<'_> {
    pub fn emit(self) {
        metrics::counter!("penstock_flush_requests_total", "outcome" => "heeded").increment(1);
        tracing::info!(date = self.date, "Flush by hand requested.");
    }
}

/// A person's request has its answer.
pub(super) struct RequestAnswered<'a> {
    pub date: &'a str,
    pub manifests: &'a [String],
    /// Whether another fold had answered it already.
    pub before: bool,
}

impl RequestAnswered<'_> {
    pub fn emit(self) {
        let Self { date, manifests, before } = self;
        let outcome = if before { "answered_before" } else { "answered" };
        metrics::counter!("penstock_flush_requests_total", "outcome" => outcome).increment(1);
        if before {
            tracing::debug!(date, ?manifests, "Flush by hand had its answer already.");
        } else {
            tracing::info!(date, ?manifests, "Flush by hand answered.");
        }
    }
}

/// A manifest that was left while assembling couldn't be finished.
pub(super) struct ResumeFailed<'a> {
    pub error: &'a OperatorError,
}

impl ResumeFailed<'_> {
    pub fn emit(self) {
        metrics::counter!("penstock_resume_failures_total").increment(1);
        tracing::warn!(error = %self.error, "Manifest left while assembling can't be finished; the next reading tries.");
    }
}

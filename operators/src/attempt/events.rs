//! What happens to attempts: each event is one log line and one metric together.

use super::protocol::{AfterFailure, AfterTrouble};
use crate::model::{Commit, ManifestItem};

/// How an attempt ended without a commit.
pub(super) enum AttemptEnd<'a> {
    /// Another attempt has the manifest, and its item can never show these uploads.
    Overtaken,
    /// The lease was lost; whoever has it goes on.
    Lost,
    /// The service stops: it was given back.
    HandedBack,
    /// The conversion failed.
    Failed { error: &'a str, then: AfterFailure },
}

/// An attempt ended without a commit.
pub(super) struct AttemptEnded<'a> {
    pub manifest: &'a ManifestItem,
    pub how: AttemptEnd<'a>,
}

impl AttemptEnded<'_> {
    pub fn emit(self) {
        let (manifest, attempt) = (self.manifest.id(), self.manifest.attempt);
        let outcome = match &self.how {
            AttemptEnd::Overtaken => "overtaken",
            AttemptEnd::Lost => "lost",
            AttemptEnd::HandedBack => "handed_back",
            AttemptEnd::Failed { then: AfterFailure::Fail, .. } => "failed",
            AttemptEnd::Failed { .. } => "retried",
        };
        metrics::counter!("penstock_attempts_total", "outcome" => outcome).increment(1);
        match self.how {
            AttemptEnd::Overtaken => {
                tracing::warn!(manifest, attempt, "Attempt was overtaken; its outputs are dropped.")
            }
            AttemptEnd::Lost => tracing::warn!(manifest, attempt, "The lease was lost in mid-attempt."),
            AttemptEnd::HandedBack => tracing::info!(manifest, attempt, "Attempt handed back: the service stops."),
            AttemptEnd::Failed { error, then } => {
                tracing::warn!(manifest, attempt, error, ?then, "Attempt failed.");
            }
        }
    }
}

/// A conversion gave its staged outputs.
pub(super) struct ManifestConverted<'a> {
    pub manifest: &'a ManifestItem,
    pub secs: f64,
}

impl ManifestConverted<'_> {
    pub fn emit(self) {
        metrics::histogram!("penstock_convert_seconds").record(self.secs);
        tracing::debug!(manifest = self.manifest.id(), secs = self.secs, "Manifest converted; its outputs are staged.");
    }
}

/// A manifest's outputs are visible, and its item says so.
pub(super) struct ManifestCompleted<'a> {
    pub manifest: &'a ManifestItem,
    pub commit: &'a Commit,
    pub outputs: usize,
}

impl ManifestCompleted<'_> {
    pub fn emit(self) {
        let Self { manifest, commit, outputs } = self;
        let corrupt = commit.corrupt_rows.unwrap_or_default();
        metrics::counter!("penstock_attempts_total", "outcome" => "completed").increment(1);
        metrics::counter!("penstock_rows_total").increment(commit.rows);
        metrics::counter!("penstock_rejected_rows_total").increment(commit.rejected_rows);
        metrics::counter!("penstock_corrupt_rows_total").increment(corrupt);
        metrics::counter!("penstock_converted_bytes_total").increment(manifest.total_bytes);
        tracing::info!(
            manifest = manifest.id(),
            rows = commit.rows,
            rejected = commit.rejected_rows,
            corrupt,
            failed_files = commit.failed_files,
            outputs,
            "Manifest completed."
        );
    }
}

/// A recorded commit couldn't be completed.
pub(super) struct CommitPutOff<'a> {
    pub manifest: &'a ManifestItem,
    pub error: &'a str,
    pub then: &'a AfterTrouble,
}

impl CommitPutOff<'_> {
    pub fn emit(self) {
        let Self { manifest, error, then } = self;
        metrics::counter!("penstock_commits_put_off_total").increment(1);
        tracing::warn!(manifest = manifest.id(), error, ?then, "Recorded commit not completed.");
    }
}

/// What a commit recorded is gone, and is made again.
pub(super) struct CommitStagedAgain<'a> {
    pub manifest: &'a ManifestItem,
    /// The objects whose bytes are gone.
    pub lost: &'a str,
}

impl CommitStagedAgain<'_> {
    pub fn emit(self) {
        metrics::counter!("penstock_commits_staged_again_total").increment(1);
        tracing::warn!(
            manifest = self.manifest.id(),
            lost = self.lost,
            "Recorded bytes are gone; they are staged again."
        );
    }
}

/// A manifest has failed for good.
pub(super) struct ManifestFailed<'a> {
    pub manifest: &'a ManifestItem,
}

impl ManifestFailed<'_> {
    pub fn emit(self) {
        metrics::counter!("penstock_manifests_failed_total").increment(1);
        tracing::error!(manifest = self.manifest.id(), error = self.manifest.error_message, "Manifest failed.");
    }
}

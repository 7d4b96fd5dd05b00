//! From a recorded commit to visible outputs and a completed manifest.
//!
//! Whoever holds the manifest's lease may do it, any number of times. What stands in the way ends in one of three ways:
//! lost bytes are staged again from exactly the files that the report says were converted; what may pass by itself is put
//! off; what won't pass is put off a few times, and then the manifest has failed, with the real error.

use std::collections::HashSet;

use object_store::{PutMode, path::Path};
use penstock_engine::{
    cloud::{CloudError, stage::Completion},
    leases::Lease,
    operator::OperatorError,
};

use super::{
    AttemptError, Worker,
    events::{CommitPutOff, CommitStagedAgain, ManifestCompleted, ManifestFailed},
    protocol::{self, AfterTrouble},
};
use crate::{
    convert::{Converted, FileOutcome, StagedPart},
    fold::protocol::{read_committed_json, unquoted},
    model::{AttemptReport, Commit, ManifestItem, REPORTS_PREFIX},
    settle::read_report,
    spans,
};

/// How often lost bytes of one commit are staged again.
const MAX_STAGED_AGAIN: u32 = 3;

/// Why a commit isn't completed.
enum Trouble {
    /// Something is in the way.
    InTheWay {
        /// Whether it may pass by itself.
        may_pass: bool,
        /// What it is.
        error: String,
    },
    /// Bytes are gone and can't be staged again.
    Lost(String),
    /// The service stops, or somebody else has the manifest: nothing is to be written.
    Elsewhere,
}

impl From<OperatorError> for Trouble {
    fn from(error: OperatorError) -> Self {
        Self::InTheWay { may_pass: error.transient, error: error.to_string() }
    }
}

impl From<CloudError> for Trouble {
    fn from(error: CloudError) -> Self {
        Self::InTheWay { may_pass: error.is_transient(), error: error.to_string() }
    }
}

impl Worker {
    /// Completes every recorded output, then the manifest.
    pub(super) async fn complete(&self, lease: &Lease, manifest: ManifestItem) -> Result<(), OperatorError> {
        let mut manifest = manifest;
        let trouble = loop {
            match self.try_to_complete(lease, &manifest).await {
                Ok(None) => return Ok(()),
                Ok(Some(staged_again)) => manifest = staged_again,
                Err(trouble) => break trouble,
            }
        };
        let now = self.clock.now();
        let write = match trouble {
            Trouble::Elsewhere => return Ok(()),
            Trouble::Lost(error) => protocol::commit_lost(&manifest, &format!("commit_lost: {error}"), now)?,
            Trouble::InTheWay { may_pass, error } => {
                let then = protocol::after_trouble(&manifest, may_pass, now, self.limits);
                CommitPutOff { manifest: &manifest, error: &error, then: &then }.emit();
                match then {
                    AfterTrouble::PutOff(until) => protocol::put_off(&manifest, lease.token(), until, &error, now)?,
                    AfterTrouble::Lose => {
                        let seen = self.visible(&manifest).await;
                        let error = format!(
                            "commit_stuck: {error}; {seen}. Its files are set back only by `penstock redrive --force`"
                        );
                        protocol::commit_lost(&manifest, &error, now)?
                    }
                }
            }
        };
        if let Some(manifest) = self.write(&write).await?
            && manifest.status == crate::model::ManifestState::Failed
        {
            ManifestFailed { manifest: &manifest }.emit();
        }
        Ok(())
    }

    /// One try. The manifest as it is after its lost bytes were staged again, if they had to be.
    async fn try_to_complete(&self, lease: &Lease, manifest: &ManifestItem) -> Result<Option<ManifestItem>, Trouble> {
        let Some(commit) = &manifest.commit else {
            return Err(OperatorError::permanent(format!("manifest {} has no commit", manifest.id())).into());
        };
        let report = read_report(&self.manifests, commit).await?;
        let rejects_are_lost = self.rejects_are_lost(commit).await?;
        let (mut outputs, mut lost) = (Vec::new(), Vec::new());
        for (index, part) in report.parts.iter().enumerate() {
            match self.buckets.output.stage.complete(&part.upload, &part.parts).await? {
                Completion::Visible { .. } => outputs.push(self.output_uri(&part.upload.key)),
                Completion::Lost => lost.push(index),
            }
        }
        if !lost.is_empty() || rejects_are_lost {
            return Ok(Some(self.stage_again(lease, manifest, commit, report, &lost, rejects_are_lost).await?));
        }
        let now = self.clock.now();
        if self.write(&protocol::complete(manifest, commit, &outputs, now)?).await?.is_some() {
            let outputs = outputs.len();
            ManifestCompleted { manifest, commit, outputs }.emit();
            spans::completed(manifest, outputs, now);
        }
        Ok(None)
    }

    fn output_uri(&self, key: &str) -> String {
        format!("s3://{}/{key}", self.buckets.output.name)
    }

    /// Whether the recorded rejects object is gone, or another stands in its place.
    async fn rejects_are_lost(&self, commit: &Commit) -> Result<bool, Trouble> {
        let (Some(key), Some(bucket)) = (&commit.rejects_key, &self.buckets.rejects) else { return Ok(false) };
        let there = bucket.stage.head(key).await?;
        Ok(match (&there, &commit.rejects_etag) {
            (None, _) => true,
            (Some(there), Some(recorded)) => there.etag != unquoted(recorded),
            (Some(_), None) => false,
        })
    }

    /// Which outputs of a commit that is given up readers can see, in words.
    async fn visible(&self, manifest: &ManifestItem) -> String {
        let mut visible = Vec::new();
        for upload in manifest.commit.iter().flat_map(|commit| &commit.uploads) {
            match self.buckets.output.stage.head(&upload.key).await {
                Ok(Some(head)) if head.metadata.get(penstock_engine::cloud::stage::TOKEN) == Some(&upload.token) => {
                    visible.push(self.output_uri(&upload.key));
                }
                Ok(_) => {}
                Err(error) => visible.push(format!("{} (unknown: {error})", self.output_uri(&upload.key))),
            }
        }
        if visible.is_empty() {
            "no output is visible".to_owned()
        } else {
            format!("visible are {}", visible.join(", "))
        }
    }

    /// Converts the same files again, takes what was lost from it, and records that in the place of the old commit.
    async fn stage_again(
        &self,
        lease: &Lease,
        manifest: &ManifestItem,
        commit: &Commit,
        report: AttemptReport,
        lost: &[usize],
        rejects_are_lost: bool,
    ) -> Result<ManifestItem, Trouble> {
        let keys = lost.iter().map(|index| self.output_uri(&report.parts[*index].upload.key)).collect::<Vec<_>>();
        let rejects = rejects_are_lost.then(|| commit.rejects_key.clone()).flatten();
        let what = keys.into_iter().chain(rejects).collect::<Vec<_>>().join(", ");
        CommitStagedAgain { manifest, lost: &what }.emit();
        let lose = |why: String| {
            let left: Vec<String> = (0..report.parts.len())
                .filter(|index| !lost.contains(index))
                .map(|index| self.output_uri(&report.parts[index].upload.key))
                .collect();
            let left = if left.is_empty() { "none".to_owned() } else { left.join(", ") };
            Trouble::Lost(format!(
                "the bytes of {what} are gone, and {why}; visible are {left}. Its files are set back only by \
                 `penstock redrive --force`"
            ))
        };
        if commit.staged_again >= MAX_STAGED_AGAIN {
            return Err(lose(format!("were staged again {MAX_STAGED_AGAIN} times already")));
        }
        let Some(json) = read_committed_json(&self.manifests, &self.options.manifests_prefix, manifest).await? else {
            return Err(lose("so is the manifest's JSON object".to_owned()));
        };
        let (mut conversion, _) = self.conversion(manifest, &json, lease.token());
        let converted_before: HashSet<&str> =
            report.files.iter().filter(|file| file.failure.is_none()).map(|file| file.file_key.as_str()).collect();
        conversion.files.retain(|file| converted_before.contains(file.file_key.as_str()));
        if !rejects_are_lost {
            conversion.rejects_key = None;
        }
        let converted = match self.run(lease, &conversion).await {
            Ok(converted) => converted,
            Err(AttemptError::Lost | AttemptError::Stopping) => return Err(Trouble::Elsewhere),
            Err(AttemptError::Failed { may_pass: true, error }) => {
                return Err(Trouble::InTheWay { may_pass: true, error });
            }
            Err(error) => return Err(lose(format!("can't be made again: {error}"))),
        };
        if let Some(difference) = difference(&report, &converted) {
            self.abort(&converted.parts).await;
            return Err(lose(format!("can't be made again: {difference}")));
        }
        let (mut parts, mut spare): (Vec<StagedPart>, Vec<StagedPart>) = (report.parts.clone(), Vec::new());
        for (index, part) in converted.parts.into_iter().enumerate() {
            if lost.contains(&index) { parts[index] = part } else { spare.push(part) }
        }
        self.abort(&spare).await;
        let staged: Vec<StagedPart> = lost.iter().map(|index| parts[*index].clone()).collect();
        let report = AttemptReport { token: lease.token().to_owned(), parts, ..report.clone() };
        let number = commit.staged_again + 1;
        let key = format!("{REPORTS_PREFIX}{}/{}-{}-{number}.json", manifest.date_prefix, manifest.id(), lease.token());
        let body = serde_json::to_vec(&report)
            .map_err(|error| OperatorError::permanent(format!("{key} can't be written as JSON: {error}")))?;
        let put = self.manifests.store.put_opts(&Path::from(key.as_str()), body.into(), PutMode::Create.into()).await;
        let put = match put {
            Ok(put) => put,
            Err(error) => {
                self.abort(&staged).await;
                return Err(CloudError::from(error).into());
            }
        };
        let rejects = converted.rejects;
        let again = Commit {
            token: lease.token().to_owned(),
            uploads: report.parts.iter().map(|part| part.upload.clone()).collect(),
            report_key: key,
            report_etag: put.e_tag.as_deref().map(unquoted),
            rejects_key: rejects.as_ref().map_or(commit.rejects_key.clone(), |rejects| Some(rejects.key.clone())),
            rejects_etag: rejects.map_or(commit.rejects_etag.clone(), |rejects| rejects.etag),
            staged_again: number,
            ..commit.clone()
        };
        // An unknown outcome is left to the lease, as ever: then nobody knows whether the uploads are the item's.
        let write = protocol::record_again(manifest, lease.token(), &again, self.clock.now())?;
        match self.write(&write).await? {
            Some(manifest) => Ok(manifest),
            None => {
                self.abort(&staged).await;
                Err(Trouble::Elsewhere)
            }
        }
    }
}

/// How a second conversion of the same files differs from what the report says of the first, if it does.
fn difference(report: &AttemptReport, converted: &Converted) -> Option<String> {
    let before = report.files.iter().filter(|file| file.failure.is_none());
    if before.clone().count() != converted.files.len() {
        return Some("it isn't the same files".to_owned());
    }
    for (before, after) in before.zip(&converted.files) {
        match after {
            FileOutcome::Failed { file_key, message, .. } => return Some(format!("{file_key}: {message}")),
            FileOutcome::Converted { file_key, rows, rejected_rows } => {
                if (*file_key != before.file_key, *rows, *rejected_rows) != (false, before.rows, before.rejected_rows) {
                    return Some(format!(
                        "{file_key} now gives {rows} rows and {rejected_rows} rejects, and gave {} and {}",
                        before.rows, before.rejected_rows
                    ));
                }
            }
        }
    }
    let rows = |parts: &[StagedPart]| parts.iter().map(|part| (part.upload.key.clone(), part.rows)).collect::<Vec<_>>();
    (rows(&report.parts) != rows(&converted.parts)).then(|| "its parts are cut differently".to_owned())
}

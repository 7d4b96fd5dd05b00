//! [`convert`]: passes over the files until one goes through without a bad file or a new column.

mod spark;

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::columns::{RESERVED_NAMES, REST, room};
use super::layout::lay_out;
use super::pass::{Job, Pass};
use super::{
    Buckets, Cast, ColumnCatalog, Conversion, ConvertError, ConvertOptions, Converted, FailureReason, FileOutcome,
    Progress, SparkSchema, StagedPart, source,
};

/// Re-runs for new columns, at most. One is enough unless other conversions add columns at the same time.
const MAX_COLUMN_RERUNS: u32 = 5;

/// How long an error waits for the aborts of its uploads.
const ABORT_WAIT: Duration = Duration::from_secs(10);

/// Converts the files and stages the outputs; the rejects object is complete when this returns. A file that can't be
/// converted fails alone, and is named in the result.
pub async fn convert(
    conversion: &Conversion,
    buckets: &Buckets,
    catalog: &dyn ColumnCatalog,
    options: &ConvertOptions,
    progress: &Progress,
    cancel: &CancellationToken,
) -> Result<Converted, ConvertError> {
    options.check()?;
    let job = Job::new(conversion, buckets, options, progress, cancel)?;
    let attempt = Attempt::new(&job);
    let result = match options.cast {
        Cast::Lossless => attempt.run(catalog).await,
        Cast::Spark => attempt.run_spark(catalog).await,
    };
    if result.is_err() {
        job.outlets.aborts.close();
        if tokio::time::timeout(ABORT_WAIT, job.outlets.aborts.wait()).await.is_err() {
            tracing::warn!(manifest = conversion.manifest_id, "some uploads are still being aborted");
        }
    }
    result
}

/// A conversion while it goes on.
struct Attempt<'a, 'b> {
    job: &'a Job<'b>,
    /// The files that haven't failed.
    set: Vec<u32>,
    failed: Vec<Option<(FailureReason, String)>>,
    passes: u32,
    failed_passes: u32,
    column_reruns: u32,
}

impl<'a, 'b> Attempt<'a, 'b> {
    fn new(job: &'a Job<'b>) -> Self {
        let files = job.conversion.files.len();
        let set = (0..files as u32).collect();
        Self { job, set, failed: vec![None; files], passes: 0, failed_passes: 0, column_reruns: 0 }
    }

    async fn run(mut self, catalog: &dyn ColumnCatalog) -> Result<Converted, ConvertError> {
        let mut known = checked(catalog.known().await?)?;
        let mut checked_alone = false;
        // What passes with a bad file in them saw in the others.
        let mut seen: Vec<String> = Vec::new();
        loop {
            // The first lines of the first files begin the order of first sight. A dataset without columns takes them at
            // their word, and mostly needs no second pass.
            let mut guess = Vec::new();
            if known.is_empty() {
                guess = self.probe().await;
                seen.retain(|name| !guess.contains(name));
                guess.extend_from_slice(&seen);
            }
            let columns = [known.clone(), guess.clone()].concat();
            let pass = self.pass(&self.set.clone(), &columns, None, true).await?;
            let missing = pass.facts.missing(room(&columns, self.job.options.max_columns));
            let failed = self.drop_failed(&pass);
            if failed > 0 {
                if checked_alone {
                    return Err(ConvertError::Unstable { files: failed });
                }
                self.failed_passes += 1;
            }
            let new = [guess, missing.names.clone()].concat();
            if failed == 0 && missing.names.is_empty() {
                if new.is_empty() || grow(catalog, &new).await? == columns {
                    return self.finish(pass, columns).await;
                }
                known = checked(catalog.known().await?)?;
                self.count_rerun(&new)?;
            } else if !missing.names.is_empty() && !self.set.is_empty() {
                // A guess from a file that failed is no first sight: the next round guesses again.
                if failed == 0 || !known.is_empty() {
                    known = grow(catalog, &new).await?;
                } else {
                    seen.extend_from_slice(&missing.names);
                }
                self.count_rerun(&missing.names)?;
            }
            drop(pass);
            if failed > 0 && self.failed_passes >= self.job.options.max_passes {
                self.check_each_alone(&known).await?;
                checked_alone = true;
            }
        }
    }

    /// Files that fail one after the other, pass after pass, must come to an end.
    async fn check_each_alone(&mut self, columns: &[String]) -> Result<(), ConvertError> {
        for file in self.set.clone() {
            let pass = self.pass(&[file], columns, None, false).await?;
            self.drop_failed(&pass);
        }
        Ok(())
    }

    async fn pass(
        &mut self,
        set: &[u32],
        columns: &[String],
        spark_schema: Option<SparkSchema>,
        write: bool,
    ) -> Result<Pass, ConvertError> {
        self.passes += 1;
        self.job.run(set, columns, spark_schema, write).await
    }

    async fn probe(&self) -> Vec<String> {
        let layout = lay_out(&self.job.files(&self.set), &self.job.conversion.output, self.job.options);
        let store = self.job.buckets.input.store.clone();
        source::probe(layout.partitions.iter().flatten(), self.job.scan_options(&[], None), store).await
    }

    /// Takes the files that failed out of the set.
    fn drop_failed(&mut self, pass: &Pass) -> usize {
        let mut count = 0;
        for (index, failure) in pass.facts.failures() {
            let file = &self.job.conversion.files[index as usize];
            tracing::warn!(
                file = file.uri,
                reason = failure.0.as_str(),
                error = failure.1,
                "A file can't be converted."
            );
            self.failed[index as usize] = Some(failure.clone());
            self.set.retain(|kept| *kept != index);
            count += 1;
        }
        count
    }

    fn count_rerun(&mut self, new: &[String]) -> Result<(), ConvertError> {
        self.column_reruns += 1;
        let manifest = &self.job.conversion.manifest_id;
        tracing::info!(manifest, columns = ?new, "new columns: the files are read again");
        if self.column_reruns > MAX_COLUMN_RERUNS {
            let message = format!("new columns after {MAX_COLUMN_RERUNS} re-runs: {}", new.join(", "));
            return Err(ConvertError::Catalog { message, transient: true });
        }
        Ok(())
    }

    async fn finish(self, mut pass: Pass, columns: Vec<String>) -> Result<Converted, ConvertError> {
        let rejects = match pass.rejects.take() {
            Some(rejects) => rejects.finish().await?,
            None => None,
        };
        let mut parts = Vec::new();
        for (guard, part) in pass.parts {
            if let Some(upload) = guard.release() {
                parts.push(StagedPart { upload, parts: part.parts, rows: part.rows, size_bytes: part.size_bytes });
            }
        }
        let facts = &pass.facts.files;
        let files = self.job.conversion.files.iter().zip(self.failed).enumerate();
        let files = files.map(|(index, (file, failure))| match (failure, facts.get(&(index as u32))) {
            (Some((reason, message)), _) => FileOutcome::Failed { file_key: file.file_key.clone(), reason, message },
            (None, facts) => FileOutcome::Converted {
                file_key: file.file_key.clone(),
                rows: facts.map_or(0, |facts| facts.rows),
                rejected_rows: facts.map_or(0, |facts| facts.rejected),
            },
        });
        Ok(Converted {
            parts,
            columns,
            files: files.collect(),
            rows: facts.values().map(|file| file.rows).sum(),
            rejected_rows: facts.values().map(|file| file.rejected).sum(),
            duplicate_keys: facts.values().map(|file| file.duplicate_keys).sum(),
            corrupt_rows: facts.values().map(|file| file.corrupt_rows).sum(),
            rejects,
            passes: self.passes,
            column_reruns: self.column_reruns,
        })
    }
}

/// Adds columns to the catalog, and makes sure that they are there.
async fn grow(catalog: &dyn ColumnCatalog, new: &[String]) -> Result<Vec<String>, ConvertError> {
    let columns = catalog.grow(new).await?;
    match new.iter().find(|name| !columns.contains(name)) {
        Some(name) => {
            let message = format!("it was given the column {name} and doesn't have it");
            Err(ConvertError::Catalog { message, transient: false })
        }
        None => checked(columns),
    }
}

/// No data column may bear a name of ours.
fn checked(columns: Vec<String>) -> Result<Vec<String>, ConvertError> {
    match columns.iter().find(|name| *name != REST && RESERVED_NAMES.contains(&name.as_str())) {
        Some(name) => {
            let message = format!("it has the column {name}, whose name is reserved");
            Err(ConvertError::Catalog { message, transient: false })
        }
        None => Ok(columns),
    }
}

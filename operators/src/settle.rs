//! `settle`: when a manifest is done, its files follow it: by its own list, never by scanning a day.

use std::sync::Arc;

use async_trait::async_trait;
use chrono::{DateTime, TimeDelta};
use futures::{StreamExt, TryStreamExt, stream};
use object_store::{ObjectStoreExt, path::Path};
use penstock_engine::{
    cloud::{
        Bucket, CloudError, Table,
        table::{Carried, Condition, Key, Write, carry_out},
    },
    graph::{Build, Built, Role, Use, UseMode},
    operator::{Context, Kind, Operator, OperatorError, Outputs, Record},
    time::{Clock, format_time},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    fold::{default_manifests_prefix, protocol::read_manifest_json},
    model::{
        AttemptReport, FileResult, FileState, MANIFEST_KEY_PREFIX, ManifestItem, ManifestState, attribute, read_item,
        shard_of,
    },
    record::{entered, read_change},
    track::default_ttl_days,
};

/// Files that are settled at once.
const CONCURRENCY: usize = 64;

/// Characters of an error in a file's item; the report has all of it.
const MAX_ERROR_CHARS: usize = 1000;

/// Options of `settle`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SettleOptions {
    /// The tracking table.
    pub table: String,
    /// The bucket of manifests and reports.
    pub manifests: String,
    /// The prefix of manifests.
    #[serde(default = "default_manifests_prefix")]
    pub manifests_prefix: String,
    /// Days after which the items of finished work may vanish.
    #[serde(default = "default_ttl_days")]
    pub ttl_days: u32,
}

#[async_trait]
impl Build for SettleOptions {
    const NAME: &'static str = "settle";
    const ABOUT: &'static str = "Moves the files of a finished manifest to their final status.";
    const ROLE: Role = Role::Sink;

    fn input() -> Option<Kind> {
        Some(Kind::Change)
    }

    fn uses(&self) -> Vec<Use> {
        let shared = |kind, name: &String| Use { kind, name: name.clone(), mode: UseMode::Shared };
        vec![shared("table", &self.table), shared("bucket", &self.manifests)]
    }

    async fn build(self, context: Context) -> Result<Built, OperatorError> {
        Ok(Built::Operator(Box::new(Settle { settler: Settler::open(&self, &context).await? })))
    }
}

struct Settle {
    settler: Settler,
}

#[async_trait]
impl Operator for Settle {
    async fn on_record(&mut self, record: &Record, _out: &mut Outputs) -> Result<(), OperatorError> {
        let change = read_change(record)?;
        if !change.key.sort.starts_with(MANIFEST_KEY_PREFIX) {
            return Ok(());
        }
        let done = [ManifestState::Completed, ManifestState::Failed];
        match done.iter().find_map(|state| entered(change, state.as_str())) {
            Some(item) if item.contains_key(attribute::SCHEMA_VERSION) => {
                self.settler.settle(&read_item("manifest", item)?).await
            }
            _ => Ok(()),
        }
    }
}

/// Settles manifests.
pub struct Settler {
    table: Arc<dyn Table>,
    manifests: Bucket,
    manifests_prefix: String,
    ttl: TimeDelta,
    clock: Clock,
}

impl Settler {
    /// A settler on the resources that the options name.
    pub async fn open(options: &SettleOptions, context: &Context) -> Result<Self, OperatorError> {
        Ok(Self {
            table: context.cloud.table(&options.table).await?,
            manifests: context.cloud.bucket(&options.manifests).await?,
            manifests_prefix: options.manifests_prefix.clone(),
            ttl: TimeDelta::days(i64::from(options.ttl_days)),
            clock: context.clock.clone(),
        })
    }

    /// Moves the files of a completed or failed manifest to their final status, then marks the manifest as settled.
    pub async fn settle(&self, manifest: &ManifestItem) -> Result<(), OperatorError> {
        if manifest.settled_at.is_some() {
            return Ok(());
        }
        let (run, results) = self.results(manifest).await?;
        let settled = stream::iter(results).map(|result| self.settle_file(manifest, run.clone(), result));
        let counts: Vec<Settled> = settled.buffer_unordered(CONCURRENCY).try_collect().await?;
        let now = self.clock.now();
        // Every file was either moved by one of these writes or wasn't in this manifest any more.
        let condition =
            Condition::equals(attribute::STATUS, manifest.status.as_str()).and(Condition::absent("settled_at"));
        let write = Write::update(manifest.key(), condition)
            .set("settled_at", format_time(now))
            .set_number(attribute::TTL, (now + self.ttl).timestamp());
        carry_out(&*self.table, &write).await?;
        let count = |kind| counts.iter().filter(|settled| **settled == kind).count() as u64;
        let (completed, failed) = (count(Settled::Completed), count(Settled::Failed));
        tracing::info!(manifest = manifest.id(), state = %manifest.status, completed, failed, "Manifest settled.");
        metrics::counter!("penstock_files_settled_total", "status" => "completed").increment(completed);
        metrics::counter!("penstock_files_settled_total", "status" => "failed").increment(failed);
        if let Ok(made) = DateTime::parse_from_rfc3339(&manifest.created_at) {
            metrics::histogram!("penstock_manifest_done_seconds")
                .record((now - made.to_utc()).as_seconds_f64().max(0.0));
        }
        Ok(())
    }

    /// What became of each file, and the attempt that decided it.
    async fn results(&self, manifest: &ManifestItem) -> Result<(Option<String>, Vec<FileResult>), OperatorError> {
        if manifest.status == ManifestState::Completed {
            let commit = manifest.commit.as_ref().ok_or_else(|| {
                OperatorError::permanent(format!("completed manifest {} has no commit", manifest.id()))
            })?;
            let report = read_report(&self.manifests, &commit.report_key).await?;
            return Ok((Some(report.token), report.files));
        }
        let json = read_manifest_json(&self.manifests, &self.manifests_prefix, &manifest.date_prefix, manifest.id());
        let Some((json, _)) = json.await? else {
            return Err(OperatorError::transient(format!(
                "the JSON object of failed manifest {} is gone: its files can't be told",
                manifest.id()
            )));
        };
        let message = manifest.error_message.clone().unwrap_or_else(|| "the manifest failed".to_owned());
        let failed = |file_key: String| FileResult {
            file_key,
            rows: 0,
            rejected_rows: 0,
            failure: Some("manifest_failed".to_owned()),
            message: Some(message.clone()),
        };
        Ok((manifest.token.clone(), json.files.into_iter().map(|file| failed(file.file_key)).collect()))
    }

    async fn settle_file(
        &self,
        manifest: &ManifestItem,
        run: Option<String>,
        result: FileResult,
    ) -> Result<Settled, OperatorError> {
        let shard = shard_of(&result.file_key);
        let now = self.clock.now();
        let condition = Condition::equals(attribute::STATUS, FileState::Manifested.status(shard))
            .and(Condition::equals(attribute::MANIFEST_PATH, &manifest.manifest_path));
        let mut write = Write::update(Key::new(&manifest.date_prefix, &result.file_key), condition)
            .set_number("rows", result.rows)
            .set_number("rejected_rows", result.rejected_rows)
            .set(attribute::UPDATED_AT, format_time(now))
            .set_number(attribute::TTL, (now + self.ttl).timestamp());
        if let Some(run) = run {
            write = write.set("job_run_id", run);
        }
        let (state, time) = match &result.failure {
            None => (FileState::Completed, "completed_time"),
            Some(failure) => {
                let message = result.message.as_deref().unwrap_or_default();
                let short: String = format!("{failure}: {message}").chars().take(MAX_ERROR_CHARS).collect();
                write = write.set("error_message", short);
                (FileState::Failed, "failed_time")
            }
        };
        write = write.set(attribute::STATUS, state.status(shard)).set(time, format_time(now));
        match carry_out(&*self.table, &write).await? {
            Carried::Applied(_) if state == FileState::Completed => Ok(Settled::Completed),
            Carried::Applied(_) => Ok(Settled::Failed),
            Carried::Refused(_) => Ok(Settled::Before),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Settled {
    Completed,
    Failed,
    /// It had left this manifest already.
    Before,
}

/// Reads the report that a commit names.
pub async fn read_report(bucket: &Bucket, key: &str) -> Result<AttemptReport, OperatorError> {
    let found = bucket.store.get(&Path::from(key)).await.map_err(CloudError::from)?;
    let body = found.bytes().await.map_err(CloudError::from)?;
    serde_json::from_slice(&body)
        .map_err(|error| OperatorError::permanent(format!("s3://{}/{key} is no report: {error}", bucket.name)))
}

//! `settle`: when a manifest is done, its files follow it: by its own list. Only if somebody deleted that does the index
//! tell who they are. No day is ever read.

mod events;

use std::{collections::HashSet, sync::Arc};

use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};
use futures::{StreamExt, TryStreamExt, stream};
use object_store::path::Path;
use penstock_engine::{
    cloud::{
        Bucket, Table,
        table::{Carried, Condition, Key, Query, Range, Write, carry_out},
    },
    graph::{Access, Build, Built, Role, Use},
    operator::{Context, Kind, Operator, OperatorError, Outputs, Record},
    time::{Clock, format_time},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use events::{ManifestSettled, SettledWithoutJson};

use crate::{
    fold::{
        default_manifests_prefix,
        protocol::{read_committed_json, read_recorded},
    },
    model::{
        AttemptReport, Commit, FileResult, FileState, MANIFEST_KEY_PREFIX, ManifestItem, ManifestState, REPORTS_PREFIX,
        SHARDS, STATUS_INDEX, attribute, read_item, shard_of, text,
    },
    record::{entered, read_change},
    spans,
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
        vec![
            Use::shared("table", &self.table, &[Access::Get, Access::QueryIndex, Access::Update]),
            Use::shared("bucket", &self.manifests, &[Access::Get]).below(&self.manifests_prefix),
            Use::shared("bucket", &self.manifests, &[Access::Get]).below(REPORTS_PREFIX),
        ]
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
        let followed: Vec<Followed> = settled.buffer_unordered(CONCURRENCY).try_collect().await?;
        let now = self.clock.now();
        // Every file was either moved by one of these writes or wasn't in this manifest any more.
        let marked = carry_out(&*self.table, &mark(manifest, self.ttl, now)).await?;
        let is_first = matches!(marked, Carried::Applied(_));
        let count = |kind| followed.iter().filter(|followed| followed.how == kind).count() as u64;
        let (completed, failed) = (count(Settled::Completed), count(Settled::Failed));
        // Settling again is harmless, but it is no second manifest.
        let made = DateTime::parse_from_rfc3339(&manifest.created_at).ok().filter(|_| is_first);
        let secs = made.map(|made| (now - made.to_utc()).as_seconds_f64().max(0.0));
        ManifestSettled { manifest, completed, failed, secs }.emit();
        if is_first {
            let oldest = followed.iter().filter_map(|followed| followed.pending_since.as_deref()).min();
            spans::settled(manifest, oldest, now);
        }
        Ok(())
    }

    /// Moves only these files of a completed or failed manifest, which were left behind although it lists them.
    pub async fn settle_some(&self, manifest: &ManifestItem, file_keys: &HashSet<String>) -> Result<(), OperatorError> {
        let (run, results) = match manifest.status {
            // Whatever became of its JSON, a file of a failed manifest has failed with it.
            ManifestState::Failed => {
                (manifest.token.clone(), file_keys.iter().map(|key| failed_with(manifest, key.clone())).collect())
            }
            _ => self.results(manifest).await?,
        };
        let results = results.into_iter().filter(|result| file_keys.contains(&result.file_key));
        for result in results {
            self.settle_file(manifest, run.clone(), result).await?;
        }
        Ok(())
    }

    /// What became of each file, and the attempt that decided it.
    async fn results(&self, manifest: &ManifestItem) -> Result<(Option<String>, Vec<FileResult>), OperatorError> {
        if manifest.status == ManifestState::Completed {
            let commit = manifest.commit.as_ref().ok_or_else(|| {
                OperatorError::permanent(format!("completed manifest {} has no commit", manifest.id()))
            })?;
            let report = read_report(&self.manifests, commit).await?;
            return Ok((Some(report.token), report.files));
        }
        let json = read_committed_json(&self.manifests, &self.manifests_prefix, manifest).await?;
        let members: Vec<String> = match json {
            Some(json) => json.files.into_iter().map(|file| file.file_key).collect(),
            // Somebody deleted it, which may be why the manifest failed: who was claimed for it is in the table.
            None => self.claimed(manifest).await?,
        };
        Ok((manifest.token.clone(), members.into_iter().map(|file_key| failed_with(manifest, file_key)).collect()))
    }

    /// The files that are claimed for a manifest, by the index. It is stale: of what it shows the settling write asks the
    /// table itself, and what it doesn't show yet the sweep finds by its claim, though the manifest is marked as settled by then.
    async fn claimed(&self, manifest: &ManifestItem) -> Result<Vec<String>, OperatorError> {
        SettledWithoutJson { manifest }.emit();
        let mut claimed = Vec::new();
        for shard in 0..SHARDS {
            let mut query = Query::index(STATUS_INDEX, FileState::Manifested.status(shard))
                .range(Range::Equals(manifest.date_prefix.clone()));
            loop {
                let page = self.table.query(&query).await?;
                let mine = page
                    .items
                    .iter()
                    .filter(|item| text(item, attribute::MANIFEST_PATH) == Some(&manifest.manifest_path));
                claimed.extend(mine.filter_map(|item| text(item, attribute::FILE_KEY).map(str::to_owned)));
                match page.next {
                    Some(next) => query.start = Some(next),
                    None => break,
                }
            }
        }
        Ok(claimed)
    }

    async fn settle_file(
        &self,
        manifest: &ManifestItem,
        run: Option<String>,
        result: FileResult,
    ) -> Result<Followed, OperatorError> {
        let write = follow(manifest, run.as_deref(), &result, self.ttl, self.clock.now());
        let how = if result.failure.is_none() { Settled::Completed } else { Settled::Failed };
        Ok(match carry_out(&*self.table, &write).await? {
            Carried::Applied(item) => Followed {
                how,
                pending_since: item.and_then(|item| text(&item, attribute::PENDING_SINCE).map(str::to_owned)),
            },
            Carried::Refused(_) => Followed { how: Settled::Before, pending_since: None },
        })
    }
}

/// File `manifested` to this manifest → `completed` or `failed`, as the attempt `run` found it.
pub fn follow(
    manifest: &ManifestItem,
    run: Option<&str>,
    result: &FileResult,
    ttl: TimeDelta,
    now: DateTime<Utc>,
) -> Write {
    let shard = shard_of(&result.file_key);
    let condition = Condition::equals(attribute::STATUS, FileState::Manifested.status(shard))
        .and(Condition::equals(attribute::MANIFEST_PATH, &manifest.manifest_path));
    let mut write = Write::update(Key::new(&manifest.date_prefix, &result.file_key), condition)
        .set_number("rows", result.rows)
        .set_number("rejected_rows", result.rejected_rows)
        .set(attribute::UPDATED_AT, format_time(now))
        .set_number(attribute::TTL, (now + ttl).timestamp());
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
    write.set(attribute::STATUS, state.status(shard)).set(time, format_time(now))
}

/// A finished manifest, all of whose files have followed it, is settled.
pub fn mark(manifest: &ManifestItem, ttl: TimeDelta, now: DateTime<Utc>) -> Write {
    let condition = Condition::equals(attribute::STATUS, manifest.status.as_str()).and(Condition::absent("settled_at"));
    Write::update(manifest.key(), condition)
        .set("settled_at", format_time(now))
        .set_number(attribute::TTL, (now + ttl).timestamp())
}

/// What became of a file whose manifest failed.
fn failed_with(manifest: &ManifestItem, file_key: String) -> FileResult {
    FileResult {
        file_key,
        rows: 0,
        rejected_rows: 0,
        failure: Some("manifest_failed".to_owned()),
        message: Some(manifest.error_message.clone().unwrap_or_else(|| "the manifest failed".to_owned())),
    }
}

/// What became of a file, and since when it had been pending.
struct Followed {
    how: Settled,
    pending_since: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Settled {
    Completed,
    Failed,
    /// It had left this manifest already.
    Before,
}

/// Reads the report that a commit names. One that is gone, or isn't the one that was recorded, is a permanent failure.
pub async fn read_report(bucket: &Bucket, commit: &Commit) -> Result<AttemptReport, OperatorError> {
    let key = commit.report_key.as_str();
    let body = read_recorded(bucket, &Path::from(key), commit.report_etag.as_deref()).await?;
    let body = body
        .ok_or_else(|| OperatorError::permanent(format!("the recorded report s3://{}/{key} is gone", bucket.name)))?;
    serde_json::from_slice(&body)
        .map_err(|error| OperatorError::permanent(format!("s3://{}/{key} is no report: {error}", bucket.name)))
}

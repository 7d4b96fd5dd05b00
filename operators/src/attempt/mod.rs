//! `convert`: works on one manifest at a time, from its lease to its visible outputs.
//!
//! A message is one try. It is only a hint: between messages the index is looked at for manifests that are due, and for
//! those whose worker died. What may be done is decided in [`protocol`]; the conversion itself is
//! [`convert`](crate::convert); how a recorded commit becomes visible is `completion`.

mod catalog;
mod completion;
mod events;
pub mod protocol;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};
use object_store::{PutMode, path::Path};
use penstock_engine::{
    cloud::{
        Bucket, CloudError, Table,
        queue::Message,
        table::{Carried, Key, Query, Write, carry_out, query_all},
    },
    graph::{Access, Build, Built, Role, Use},
    leases::{Lease, Leases},
    operator::{Body, Context, Kind, Operator, OperatorError, Outputs, Record},
    time::{Clock, format_time},
    units,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::{
    convert::{
        Buckets, Conversion, ConvertError, ConvertOptions, Converted, Converter, FailureReason, FileOutcome, InputFile,
        OutputName, PlanConverter, Progress, StagedPart,
    },
    events::ItemUnreadable,
    fold::{
        default_lease, default_manifests_prefix,
        protocol::{read_committed_json, read_manifest, unquoted},
    },
    model::{
        AttemptReport, Commit, ManifestItem, ManifestJson, ManifestReady, ManifestState, REJECTS_PREFIX,
        REPORTS_PREFIX, SCHEMA_VERSION, STATUS_INDEX, attribute, read_item,
    },
    spans,
};
pub use catalog::SchemaItem;
use events::{AttemptEnd, AttemptEnded, ManifestConverted, ManifestFailed};
use protocol::{Limits, Next};

/// The scope of the leases under which manifests are converted.
pub const MANIFEST_SCOPE: &str = "manifest";

/// Options of `convert`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AttemptOptions {
    /// The tracking table.
    pub table: String,
    /// The table of leases.
    pub leases: String,
    /// The bucket of the files.
    pub input: String,
    /// The bucket of manifests and reports.
    pub manifests: String,
    /// The bucket of the Parquet objects.
    pub output: String,
    /// The bucket of the rejects.
    pub quarantine: String,
    /// The prefix of manifests.
    #[serde(default = "default_manifests_prefix")]
    pub manifests_prefix: String,
    /// Parquet objects go to `{output_prefix}{date}/`.
    #[serde(default = "AttemptOptions::default_output_prefix")]
    pub output_prefix: String,
    /// Attempts before a manifest has failed.
    #[serde(default = "AttemptOptions::default_max_attempts")]
    pub max_attempts: u32,
    /// The wait after the first failed attempt; it doubles each time.
    #[serde(with = "units::duration", default = "AttemptOptions::default_retry_wait")]
    #[schemars(with = "String")]
    pub retry_wait: Duration,
    /// How often the index is looked at for manifests that no message tells of.
    #[serde(with = "units::duration", default = "AttemptOptions::default_look_every")]
    #[schemars(with = "String")]
    pub look_every: Duration,
    /// How long a lease lives without a renewal.
    #[serde(with = "units::duration", default = "default_lease")]
    #[schemars(with = "String")]
    pub lease: Duration,
    /// How lines become rows, and rows Parquet.
    #[serde(default)]
    pub conversion: ConvertOptions,
}

impl AttemptOptions {
    fn default_output_prefix() -> String {
        "pipeline/output/merged-parquet-".to_owned()
    }

    fn default_max_attempts() -> u32 {
        3
    }

    fn default_retry_wait() -> Duration {
        Duration::from_secs(60)
    }

    fn default_look_every() -> Duration {
        Duration::from_secs(60)
    }
}

#[async_trait]
impl Build for AttemptOptions {
    const NAME: &'static str = "convert";
    const ABOUT: &'static str = "Converts a manifest's files to Parquet in which every column is a string.";
    const ROLE: Role = Role::Sink;

    fn input() -> Option<Kind> {
        Some(Kind::Message)
    }

    fn uses(&self) -> Vec<Use> {
        vec![
            Use::shared("table", &self.table, &[Access::Get, Access::QueryIndex, Access::Update]),
            Use::shared("table", &self.leases, Leases::ACCESS),
            // A manifest may list any key.
            Use::shared("bucket", &self.input, &[Access::Get]),
            Use::shared("bucket", &self.manifests, &[Access::Get]).below(&self.manifests_prefix),
            Use::shared("bucket", &self.manifests, &[Access::Put]).below(REPORTS_PREFIX),
            Use::shared("bucket", &self.output, &[Access::Get, Access::Stage]).below(&self.output_prefix),
            Use::shared("bucket", &self.quarantine, &[Access::Get, Access::Stage]).below(REJECTS_PREFIX),
        ]
    }

    fn check(&self) -> Result<(), String> {
        if self.max_attempts == 0 {
            return Err("max_attempts: must be at least 1".to_owned());
        }
        if self.lease.is_zero() || self.look_every.is_zero() {
            return Err("lease and look_every: must be above zero".to_owned());
        }
        self.conversion.check().map_err(|error| format!("conversion: {error}"))
    }

    async fn build(self, context: Context) -> Result<Built, OperatorError> {
        self.build_with(context, Arc::new(PlanConverter)).await
    }
}

impl AttemptOptions {
    /// Builds the operator with a converter of the caller's.
    pub async fn build_with(self, context: Context, converter: Arc<dyn Converter>) -> Result<Built, OperatorError> {
        let cloud = &context.cloud;
        let table = cloud.table(&self.table).await?;
        let retry_wait = TimeDelta::from_std(self.retry_wait)
            .map_err(|_| OperatorError::permanent("retry_wait is longer than a calendar holds"))?;
        let worker = Worker {
            converter,
            catalog: SchemaItem::new(Arc::clone(&table), context.clock.clone()),
            table,
            leases: context.leases(&self.leases, self.lease).await?,
            manifests: cloud.bucket(&self.manifests).await?,
            buckets: Buckets {
                input: cloud.bucket(&self.input).await?,
                output: cloud.bucket(&self.output).await?,
                rejects: Some(cloud.bucket(&self.quarantine).await?),
            },
            pipeline: context.naming.pipeline.clone(),
            limits: Limits { max_attempts: self.max_attempts, retry_wait },
            options: self,
            clock: context.clock.clone(),
            stop: context.stop.clone(),
        };
        Ok(Built::Operator(Box::new(worker)))
    }
}

struct Worker {
    converter: Arc<dyn Converter>,
    table: Arc<dyn Table>,
    leases: Leases,
    manifests: Bucket,
    buckets: Buckets,
    catalog: SchemaItem,
    pipeline: String,
    limits: Limits,
    options: AttemptOptions,
    clock: Clock,
    stop: CancellationToken,
}

#[async_trait]
impl Operator for Worker {
    async fn on_record(&mut self, record: &Record, _out: &mut Outputs) -> Result<(), OperatorError> {
        let Body::Message(message) = &record.body else {
            return Err(OperatorError::permanent("convert reads messages of a queue"));
        };
        if self.stop.is_cancelled() {
            return Err(OperatorError::transient("the service is stopping"));
        }
        let ready = read_event(message)?;
        self.work(&Key::new(ready.date_prefix, ready.file_key)).await
    }

    fn tick_interval(&self) -> Option<Duration> {
        Some(self.options.look_every)
    }

    /// Looks for work that no message tells of: the hint was lost, the wait is over, or a worker died.
    async fn on_tick(&mut self, _out: &mut Outputs) -> Result<(), OperatorError> {
        let mut first_error = None;
        for state in [ManifestState::Processing, ManifestState::Pending] {
            let found = query_all(&*self.table, Query::index(STATUS_INDEX, state.as_str())).await?;
            for item in found.iter().filter(|item| item.contains_key(attribute::SCHEMA_VERSION)) {
                if self.stop.is_cancelled() {
                    return Ok(());
                }
                let manifest: ManifestItem = match read_item("manifest", item) {
                    Ok(manifest) => manifest,
                    Err(error) => {
                        ItemUnreadable { error }.emit();
                        continue;
                    }
                };
                // One that was announced a moment ago has its message on the way; let it come.
                let has_hint = manifest.status == ManifestState::Pending && manifest.retry_at.is_none();
                if (!has_hint || self.is_overdue(&manifest))
                    && let Err(error) = self.work(&manifest.key()).await
                {
                    if self.stop.is_cancelled() {
                        return Ok(());
                    }
                    // One manifest that can't be worked on must not keep the others waiting.
                    tracing::warn!(manifest = manifest.id(), %error, "Manifest can't be worked on; the next one.");
                    first_error.get_or_insert(error);
                }
            }
        }
        first_error.map_or(Ok(()), Err)
    }
}

impl Worker {
    fn is_overdue(&self, manifest: &ManifestItem) -> bool {
        let touched = manifest.updated_at.as_deref().and_then(|at| DateTime::parse_from_rfc3339(at).ok());
        let age = touched.and_then(|at| (self.clock.now() - at.to_utc()).to_std().ok()).unwrap_or_default();
        age >= self.options.look_every
    }

    /// Does what may be done with a manifest, if nobody else is at it.
    async fn work(&self, key: &Key) -> Result<(), OperatorError> {
        let Some(lease) = self.leases.try_acquire(MANIFEST_SCOPE, &format!("{}/{}", key.partition, key.sort)).await?
        else {
            tracing::debug!(manifest = key.sort, "Manifest is worked on elsewhere.");
            return Ok(());
        };
        let result = self.work_under(&lease, key).await;
        lease.release().await;
        result
    }

    async fn work_under(&self, lease: &Lease, key: &Key) -> Result<(), OperatorError> {
        let Some(manifest) = read_manifest(&*self.table, key).await? else {
            tracing::warn!(manifest = key.sort, "An event tells of a manifest that isn't there.");
            return Ok(());
        };
        let now = self.clock.now();
        match protocol::next(&manifest, now, self.limits) {
            Next::Nothing => Ok(()),
            Next::NotDue(at) => {
                tracing::debug!(manifest = manifest.id(), %at, "Manifest isn't due yet.");
                Ok(())
            }
            Next::GiveUp => {
                if let Some(manifest) = self.write(&protocol::give_up(&manifest, now)).await? {
                    ManifestFailed { manifest: &manifest }.emit();
                }
                Ok(())
            }
            Next::Complete => match self.write(&protocol::take_over(&manifest, lease.token(), now)?).await? {
                Some(manifest) => self.complete(lease, manifest).await,
                None => Ok(()),
            },
            Next::Begin => match self.write(&protocol::begin(&manifest, lease.token(), now)).await? {
                Some(manifest) => self.attempt(lease, &manifest).await,
                None => Ok(()),
            },
        }
    }

    /// One attempt. A failure of it is written into the item, and is no error of this operator.
    async fn attempt(&self, lease: &Lease, manifest: &ManifestItem) -> Result<(), OperatorError> {
        let started = self.clock.now();
        tracing::info!(manifest = manifest.id(), attempt = manifest.attempt, "Attempt begins.");
        let converted = self.convert(lease, manifest, started).await;
        let counted = converted.as_ref().map(|(converted, _)| (converted.rows, converted.rejected_rows));
        let ended = counted.map_err(ToString::to_string);
        spans::converted(manifest, lease.token(), started, self.clock.now(), &ended);
        match converted {
            Ok((converted, commit)) => {
                ManifestConverted { manifest, secs: (self.clock.now() - started).as_seconds_f64() }.emit();
                let recorded =
                    self.write(&protocol::record(manifest, lease.token(), &commit, self.clock.now())?).await?;
                match recorded {
                    Some(manifest) => self.complete(lease, manifest).await,
                    None => {
                        AttemptEnded { manifest, how: AttemptEnd::Overtaken }.emit();
                        self.abort(&converted.parts).await;
                        Ok(())
                    }
                }
            }
            Err(error) => self.after_failure(lease, manifest, &error).await,
        }
    }

    async fn convert(
        &self,
        lease: &Lease,
        manifest: &ManifestItem,
        started: DateTime<Utc>,
    ) -> Result<(Converted, Commit), AttemptError> {
        let found = read_committed_json(&self.manifests, &self.options.manifests_prefix, manifest);
        let Some(json) = found.await? else {
            return Err(AttemptError::for_good(format!("its JSON object {} is gone", manifest.manifest_path)));
        };
        let (conversion, strangers) = self.conversion(manifest, &json, lease.token());
        let mut converted = self.run(lease, &conversion).await?;
        converted.files.extend(strangers);
        match self.write_report(manifest, &conversion, &converted, started).await {
            Ok(commit) => Ok((converted, commit)),
            Err(error) => {
                self.abort(&converted.parts).await;
                Err(error)
            }
        }
    }

    /// Runs a conversion while the lease is held and the service goes on.
    async fn run(&self, lease: &Lease, conversion: &Conversion) -> Result<Converted, AttemptError> {
        let cancel = self.stop.child_token();
        let lost = lease.lost();
        let progress = Progress::default();
        let (buckets, options) = (&self.buckets, &self.options.conversion);
        let converting = self.converter.convert(conversion, buckets, &self.catalog, options, &progress, &cancel);
        let on_loss = async {
            lost.cancelled().await;
            cancel.cancel();
            std::future::pending::<()>().await;
        };
        let converted = tokio::select! {
            biased;
            converted = converting => converted,
            () = on_loss => Err(ConvertError::Cancelled),
        };
        converted.map_err(|error| match error {
            _ if lost.is_cancelled() => AttemptError::Lost,
            _ if self.stop.is_cancelled() => AttemptError::Stopping,
            error => AttemptError::Failed { may_pass: error.is_transient(), error: error.to_string() },
        })
    }

    /// What is to be converted, and what fails before that: files that aren't in the input bucket.
    fn conversion(&self, manifest: &ManifestItem, json: &ManifestJson, token: &str) -> (Conversion, Vec<FileOutcome>) {
        let input = &self.buckets.input.name;
        let root = format!("s3://{input}/");
        let (mut files, mut strangers) = (Vec::new(), Vec::new());
        for file in &json.files {
            let Some(key) = file.uri.strip_prefix(&root) else {
                strangers.push(FileOutcome::Failed {
                    file_key: file.file_key.clone(),
                    reason: FailureReason::OtherBucket,
                    message: format!("{} is not in the input bucket {input}", file.uri),
                });
                continue;
            };
            files.push(InputFile {
                uri: file.uri.clone(),
                key: key.to_owned(),
                size_bytes: file.size_bytes,
                etag: file.etag.clone(),
                version: file.version_id.clone(),
                file_key: file.file_key.clone(),
            });
        }
        let (date, id) = (&manifest.date_prefix, manifest.id());
        let conversion = Conversion {
            manifest_id: id.to_owned(),
            pipeline: Some(self.pipeline.clone()),
            created_at: json.created_at,
            files,
            output: OutputName::Parts(format!("{}{date}/{id}", self.options.output_prefix)),
            rejects_key: Some(format!("{REJECTS_PREFIX}{date}/{id}-{token}.ndjson")),
            token: token.to_owned(),
        };
        (conversion, strangers)
    }

    /// Writes the attempt's report, once, and says what its commit will be.
    async fn write_report(
        &self,
        manifest: &ManifestItem,
        conversion: &Conversion,
        converted: &Converted,
        started: DateTime<Utc>,
    ) -> Result<Commit, AttemptError> {
        let report = AttemptReport {
            schema_version: SCHEMA_VERSION,
            manifest_id: manifest.id().to_owned(),
            date_prefix: manifest.date_prefix.clone(),
            token: conversion.token.clone(),
            attempt: manifest.attempt,
            started_at: format_time(started),
            ended_at: format_time(self.clock.now()),
            passes: converted.passes,
            rows: converted.rows,
            rejected_rows: converted.rejected_rows,
            duplicate_keys: converted.duplicate_keys,
            corrupt_rows: converted.corrupt_rows,
            parts: converted.parts.clone(),
            files: converted.files.iter().cloned().map(Into::into).collect(),
        };
        let key = format!("{REPORTS_PREFIX}{}/{}-{}.json", manifest.date_prefix, manifest.id(), conversion.token);
        let body = serde_json::to_vec(&report)
            .map_err(|error| AttemptError::for_good(format!("its report can't be written as JSON: {error}")))?;
        let put = self.manifests.store.put_opts(&Path::from(key.as_str()), body.into(), PutMode::Create.into()).await;
        let etag = put.map_err(CloudError::from)?.e_tag;
        let mut failures = report.files.iter().filter_map(|file| Some((file, file.failure.as_deref()?)));
        let first_failure = failures.next().map(|(file, failure)| {
            let message = file.message.as_deref().unwrap_or_default();
            format!("{}: {failure}: {message}", file.file_key)
        });
        Ok(Commit {
            first_failure,
            staged_again: 0,
            token: conversion.token.clone(),
            uploads: converted.parts.iter().map(|part| part.upload.clone()).collect(),
            report_key: key,
            report_etag: etag.as_deref().map(unquoted),
            rejects_key: converted.rejects.as_ref().map(|rejects| rejects.key.clone()),
            rejects_etag: converted.rejects.as_ref().and_then(|rejects| rejects.etag.clone()),
            rows: converted.rows,
            rejected_rows: converted.rejected_rows,
            corrupt_rows: (converted.corrupt_rows > 0).then_some(converted.corrupt_rows),
            failed_files: report.files.iter().filter(|file| file.failure.is_some()).count() as u64,
        })
    }

    async fn after_failure(
        &self,
        lease: &Lease,
        manifest: &ManifestItem,
        error: &AttemptError,
    ) -> Result<(), OperatorError> {
        let now = self.clock.now();
        let (how, write) = match error {
            // Whoever has it now goes on; there is nothing to write.
            AttemptError::Lost => (AttemptEnd::Lost, None),
            AttemptError::Stopping => (AttemptEnd::HandedBack, Some(protocol::hand_back(manifest, lease.token(), now))),
            AttemptError::Failed { error, .. } => {
                let then = protocol::after_failure(manifest, now, self.limits);
                let write = protocol::fail(manifest, lease.token(), then, error, now);
                (AttemptEnd::Failed { error, then }, Some(write))
            }
        };
        AttemptEnded { manifest, how }.emit();
        let Some(write) = write else { return Ok(()) };
        if let Some(manifest) = self.write(&write).await?
            && manifest.status == ManifestState::Failed
        {
            ManifestFailed { manifest: &manifest }.emit();
        }
        match error {
            // Its message goes back too: whoever gets it takes the manifest up at once.
            AttemptError::Stopping => Err(OperatorError::transient("the service is stopping")),
            _ => Ok(()),
        }
    }

    /// Carries a write out: the manifest as it is after it, or `None` if it was refused.
    async fn write(&self, write: &Write) -> Result<Option<ManifestItem>, OperatorError> {
        match carry_out(&*self.table, write).await? {
            Carried::Applied(Some(item)) => Ok(Some(read_item("manifest", &item)?)),
            Carried::Applied(None) | Carried::Refused(_) => Ok(None),
        }
    }

    async fn abort(&self, parts: &[StagedPart]) {
        for part in parts {
            if let Err(error) = self.buckets.output.stage.abort(&part.upload).await {
                tracing::warn!(key = part.upload.key, %error, "Upload not aborted; the bucket's lifecycle will.");
            }
        }
    }
}

/// Why an attempt gave nothing.
#[derive(Debug, thiserror::Error)]
enum AttemptError {
    /// The conversion failed.
    #[error("{error}")]
    Failed {
        /// Whether that may pass by itself.
        may_pass: bool,
        /// Why.
        error: String,
    },
    /// The service is stopping.
    #[error("the service is stopping")]
    Stopping,
    /// Another worker has the manifest.
    #[error("another worker has it")]
    Lost,
}

impl AttemptError {
    fn for_good(error: String) -> Self {
        Self::Failed { may_pass: false, error }
    }
}

impl From<OperatorError> for AttemptError {
    fn from(error: OperatorError) -> Self {
        Self::Failed { may_pass: error.transient, error: error.to_string() }
    }
}

impl From<CloudError> for AttemptError {
    fn from(error: CloudError) -> Self {
        Self::Failed { may_pass: error.is_transient(), error: error.to_string() }
    }
}

/// The event in a message of the manifest-ready queue.
fn read_event(message: &Message) -> Result<ManifestReady, OperatorError> {
    #[derive(Deserialize)]
    struct Envelope {
        detail: ManifestReady,
    }
    serde_json::from_str::<Envelope>(&message.body)
        .map(|envelope| envelope.detail)
        // An input transformer or a person may have sent the detail alone.
        .or_else(|_| serde_json::from_str(&message.body))
        .map_err(|error| OperatorError::permanent(format!("message {} is no ManifestReady event: {error}", message.id)))
}

//! One pass over a set of files: the plan, its run, and what it found.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use chrono::SecondsFormat;
use datafusion::common::{ScalarValue, internal_datafusion_err};
use datafusion::error::DataFusionError;
use datafusion::execution::TaskContext;
use datafusion::execution::memory_pool::GreedyMemoryPool;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion::physical_expr::expressions::{Column, Literal};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::projection::{ProjectionExec, ProjectionExpr};
use datafusion::prelude::SessionConfig;
use futures::StreamExt;
use penstock_engine::cloud::Bucket;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::columns::{PROCESSING_TIMESTAMP, room};
use super::facts::Facts;
use super::layout::{Layout, lay_out};
use super::note::{self, NOTE, Note, PartOutcome};
use super::rejects::RejectsWriter;
use super::scanner::ScanOptions;
use super::sink::{Outlets, ParquetParts, ParquetPartsExec, PartNode, ROWS, UploadGuard};
use super::source::{BYTES_READ, ScanNode};
use super::{Buckets, Conversion, ConvertError, ConvertOptions, InputFile, Progress, SparkSchema, codec};

/// Rows of a batch, at most.
const BATCH_ROWS: usize = 8192;

/// Bytes of lines that end a batch: few enough that it is still in the cache when it is encoded.
const BATCH_BYTES: usize = 1 << 20;

/// Parts that are written at once, so that the end of one doesn't leave cores idle.
const PARTS_AT_ONCE: usize = 2;

/// Everything that the passes of a conversion share.
pub(super) struct Job<'a> {
    pub(super) conversion: &'a Conversion,
    pub(super) buckets: &'a Buckets,
    pub(super) options: &'a ConvertOptions,
    pub(super) progress: &'a Progress,
    pub(super) cancel: &'a CancellationToken,
    pub(super) outlets: Arc<Outlets>,
    runtime: Arc<RuntimeEnv>,
}

/// What a pass found, and what it staged if nothing spoiled it.
pub(super) struct Pass {
    pub(super) facts: Facts,
    pub(super) parts: Vec<(UploadGuard, PartOutcome)>,
    pub(super) rejects: Option<RejectsWriter>,
}

impl<'a> Job<'a> {
    pub(super) fn new(
        conversion: &'a Conversion,
        buckets: &'a Buckets,
        options: &'a ConvertOptions,
        progress: &'a Progress,
        cancel: &'a CancellationToken,
    ) -> Result<Self, ConvertError> {
        let pool = GreedyMemoryPool::new(options.memory_limit_bytes as usize);
        let runtime = RuntimeEnvBuilder::new().with_memory_pool(Arc::new(pool)).build_arc()?;
        let url = ObjectStoreUrl::parse(bucket_url(&buckets.input))
            .map_err(|error| ConvertError::Invalid(format!("the bucket name {}: {error}", buckets.input.name)))?;
        runtime.register_object_store(url.as_ref(), buckets.input.store.clone());
        let output = &buckets.output;
        let outlets = Outlets { buckets: [(output.name.clone(), output.clone())].into(), ..Outlets::default() };
        Ok(Self { conversion, buckets, options, progress, cancel, outlets: Arc::new(outlets), runtime })
    }

    /// The files at these positions.
    pub(super) fn files(&self, set: &[u32]) -> Vec<(u32, &'a InputFile)> {
        set.iter().filter_map(|index| Some((*index, self.conversion.files.get(*index as usize)?))).collect()
    }

    pub(super) fn scan_options(&self, columns: &[String], spark_schema: Option<SparkSchema>) -> ScanOptions {
        let options = self.options;
        ScanOptions {
            cast: options.cast,
            column_case: options.column_case,
            columns: columns.to_vec(),
            room: room(columns, options.max_columns),
            max_line_bytes: options.max_line_bytes as usize,
            max_depth: options.max_depth,
            max_rejects: options.max_rejects_per_file,
            max_reject_bytes: options.max_reject_bytes as usize,
            batch_bytes: BATCH_BYTES,
            spark_schema,
        }
    }

    /// The plan that reads the files at these positions, and writes them if asked to.
    pub(super) fn plan(
        &self,
        layout: Layout,
        columns: &[String],
        spark_schema: Option<SparkSchema>,
        write: bool,
    ) -> Result<Arc<dyn ExecutionPlan>, DataFusionError> {
        let scan = ScanNode {
            bucket_url: bucket_url(&self.buckets.input),
            options: self.scan_options(columns, spark_schema),
            partitions: layout.partitions,
        };
        let scan = scan.into_plan()?;
        let schema = scan.schema();
        let mut expressions: Vec<ProjectionExpr> = Vec::new();
        for (index, field) in schema.fields().iter().enumerate() {
            if field.name() == NOTE {
                let time = self.conversion.created_at.to_rfc3339_opts(SecondsFormat::AutoSi, true);
                let time = Arc::new(Literal::new(ScalarValue::Utf8(Some(time))));
                expressions.push(ProjectionExpr { expr: time, alias: PROCESSING_TIMESTAMP.to_owned() });
            }
            expressions
                .push(ProjectionExpr { expr: Arc::new(Column::new(field.name(), index)), alias: field.name().clone() });
        }
        let parts = layout.parts.into_iter().enumerate();
        let sink = ParquetParts {
            bucket: self.buckets.output.name.clone(),
            token: self.conversion.token.clone(),
            parts: parts
                .map(|(part, partitions)| PartNode { key: self.conversion.output.key(part), partitions })
                .collect(),
            encode: self.options.encode(),
            metadata: self.metadata(),
            write,
        };
        let projection = Arc::new(ProjectionExec::try_new(expressions, scan)?);
        Ok(Arc::new(ParquetPartsExec::try_new(Arc::new(sink), projection)?))
    }

    /// What each file says of itself.
    fn metadata(&self) -> Vec<(String, String)> {
        let pipeline = self.conversion.pipeline.as_deref().map(|name| ("penstock.pipeline", name));
        let rest =
            [("penstock.manifest", &*self.conversion.manifest_id), ("penstock.version", env!("CARGO_PKG_VERSION"))];
        pipeline.into_iter().chain(rest).map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
    }

    fn context(&self) -> Arc<TaskContext> {
        let mut config = SessionConfig::new()
            .with_target_partitions(self.options.partitions())
            .with_batch_size(BATCH_ROWS)
            .with_extension(self.outlets.clone());
        // No optimizer runs over the plan; these hold for an engine that would.
        let options = config.options_mut();
        options.execution.enable_file_stream_work_stealing = false;
        options.optimizer.repartition_file_scans = false;
        options.optimizer.enable_round_robin_repartition = false;
        Arc::new(TaskContext::default().with_session_config(config).with_runtime(self.runtime.clone()))
    }

    /// Reads the files at these positions once, and stages their parts if asked to. A pass of the cast `spark` without a
    /// schema looks for one.
    pub(super) async fn run(
        &self,
        set: &[u32],
        columns: &[String],
        spark_schema: Option<SparkSchema>,
        write: bool,
    ) -> Result<Pass, ConvertError> {
        let layout = lay_out(&self.files(set), &self.conversion.output, self.options);
        let ranges = layout.partitions.iter().flatten().map(|range| range.file.index);
        let facts = Facts::new(ranges, self.options.max_columns);
        if layout.parts.is_empty() {
            return Ok(Pass { facts, parts: Vec::new(), rejects: None });
        }
        let context = self.context();
        let mut plan = self.plan(layout, columns, spark_schema, write)?;
        if cfg!(debug_assertions) {
            // What runs in tests has been on the wire.
            plan = codec::decode(&codec::encode(plan)?, &context)?;
        }
        self.progress.begin_pass();
        let rejects = match (&self.buckets.rejects, &self.conversion.rejects_key, write) {
            (Some(bucket), Some(key), true) => Some(RejectsWriter::new(bucket, key, &self.outlets.aborts)),
            _ => None,
        };
        let mut pass = Pass { facts, parts: Vec::new(), rejects };
        let parts = plan.properties().partitioning.partition_count();
        let mut tick = tokio::time::interval(Duration::from_millis(100));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut waiting, mut running) = (0..parts, VecDeque::new());
        loop {
            while running.len() < PARTS_AT_ONCE {
                let Some(part) = waiting.next() else { break };
                running.push_back(plan.execute(part, context.clone())?);
            }
            // Notes are taken part by part, so that those of a file come in its order.
            let Some(first) = running.front_mut() else { break };
            tokio::select! {
                () = self.cancel.cancelled() => return Err(ConvertError::Cancelled),
                _ = tick.tick() => self.show_progress(&plan),
                batch = first.next() => match batch {
                    Some(batch) => {
                        for note in note::from_batch(&batch?)? {
                            self.take(note, &mut pass, &plan).await?;
                        }
                    }
                    None => {
                        running.pop_front();
                    }
                }
            }
        }
        self.show_progress(&plan);
        if let Some(file) = pass.facts.untold() {
            let file = &self.conversion.files[file as usize].uri;
            return Err(ConvertError::Plan(internal_datafusion_err!("a range of {file} ended without a word")));
        }
        Ok(pass)
    }

    async fn take(&self, note: Note, pass: &mut Pass, plan: &Arc<dyn ExecutionPlan>) -> Result<(), ConvertError> {
        let max_rejects = self.options.max_rejects_per_file;
        match note {
            Note::Reject(reject) => {
                let line = pass.facts.add_reject(&reject);
                let file = pass.facts.files.entry(reject.file).or_default();
                if let (Some(rejects), true) = (&mut pass.rejects, file.told < max_rejects) {
                    file.told += 1;
                    rejects.add(&self.conversion.files[reject.file as usize], line, &reject).await?;
                }
            }
            Note::Range(range) => {
                let (index, mut spoils) = (range.file, range.spoils());
                if pass.facts.add(range, self.options.max_reject_ratio) {
                    let file = pass.facts.files.entry(index).or_default();
                    spoils |= file.failure.is_some();
                    if let (Some(rejects), true) = (&mut pass.rejects, file.rejected > file.told) {
                        let more = file.rejected - file.told;
                        rejects.add_count(&self.conversion.files[index as usize], more).await?;
                    }
                }
                if spoils {
                    self.spoil(pass, plan);
                }
            }
            Note::Spoiled => self.spoil(pass, plan),
            Note::Part(part) => {
                let guard = UploadGuard::new(&self.outlets, &self.buckets.output.name, part.upload.clone())?;
                pass.parts.push((guard, part));
            }
        }
        Ok(())
    }

    /// Nothing of this pass will be used but its facts.
    fn spoil(&self, pass: &mut Pass, plan: &Arc<dyn ExecutionPlan>) {
        pass.rejects = None;
        pass.parts.clear();
        if let Some(sink) = plan.downcast_ref::<ParquetPartsExec>() {
            sink.stop_writing();
        }
    }

    fn show_progress(&self, plan: &Arc<dyn ExecutionPlan>) {
        let sum = |plan: &Arc<dyn ExecutionPlan>, name: &str| {
            let value = plan.metrics().and_then(|metrics| metrics.sum_by_name(name));
            value.map_or(0, |value| value.as_usize() as u64)
        };
        let mut leaf = plan.clone();
        while let Some(input) = leaf.children().first().map(|input| Arc::clone(input)) {
            leaf = input;
        }
        self.progress.show(sum(&leaf, BYTES_READ), sum(plan, ROWS));
    }
}

fn bucket_url(bucket: &Bucket) -> String {
    format!("s3://{}/", bucket.name)
}

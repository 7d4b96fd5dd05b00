//! [`ParquetPartsExec`]: writes each part of a conversion as a staged Parquet output.
//!
//! Its input partitions are the scan's, its output partitions the parts: a part is made of consecutive input partitions.
//! Names come from the node, never from a partition's index in some task. Its result is notes: those of the scan in the
//! files' order, then the part's outcome.

mod column;
mod encode;
mod part;
mod upload;

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arrow::datatypes::{Schema, SchemaRef};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result, internal_datafusion_err, internal_err};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::EquivalenceProperties;
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType, ReplaceChildrenOptions};
use datafusion::physical_plan::metrics::{ExecutionPlanMetricsSet, MetricBuilder, MetricsSet};
use datafusion::physical_plan::stream::RecordBatchReceiverStreamBuilder;
use datafusion::physical_plan::{
    ChildrenPropertiesMode, DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, Partitioning,
    PhysicalExpr, PlanProperties,
};
use serde::{Deserialize, Serialize};

pub use encode::EncodeOptions;
pub(crate) use upload::{Outlets, UploadGuard, part_bytes, part_offset};

use self::part::PartTask;
use super::buffers::BufferPool;
use super::note::{self, NOTE};

/// The counter of rows.
pub(crate) const ROWS: &str = "rows";

/// The sink as plain data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ParquetParts {
    /// The output bucket's name.
    pub bucket: String,
    /// The attempt's token, carried by each upload.
    pub token: String,
    /// The parts.
    pub parts: Vec<PartNode>,
    /// How columns are written.
    pub encode: EncodeOptions,
    /// Key-value metadata of each file.
    pub metadata: Vec<(String, String)>,
    /// Whether anything is written; else the input is only read to its end, for its notes.
    pub write: bool,
}

/// One part of a sink.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartNode {
    /// Where it will be visible.
    pub key: String,
    /// Its input partitions: the first, and the one after the last.
    pub partitions: Range<usize>,
}

/// Writes each part of a conversion as a staged Parquet output, and tells notes.
#[derive(Debug)]
pub struct ParquetPartsExec {
    node: Arc<ParquetParts>,
    input: Arc<dyn ExecutionPlan>,
    /// The schema of the files: the input's without its notes.
    schema: SchemaRef,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
    /// Like the metrics, these belong to a plan that runs and never travel: they only save work.
    spoiled: Arc<AtomicBool>,
    buffers: BufferPool,
}

impl ParquetPartsExec {
    /// A sink over an input whose last column holds notes. Every input partition must belong to exactly one part.
    pub fn try_new(node: Arc<ParquetParts>, input: Arc<dyn ExecutionPlan>) -> Result<Self> {
        let partitions = input.output_partitioning().partition_count();
        let mut next = 0;
        for part in &node.parts {
            if part.partitions.start != next || part.partitions.end < next {
                return internal_err!("the parts don't follow each other");
            }
            next = part.partitions.end;
        }
        if next != partitions {
            // A scheduler that hands out slices of the input would lose or repeat rows.
            return internal_err!("the parts have {next} partitions and their input {partitions}: it can't be sliced");
        }
        let input_schema = input.schema();
        let Some((last, columns)) = input_schema.fields().split_last() else {
            return internal_err!("an input without columns");
        };
        if last.name() != NOTE {
            return internal_err!("the input's last column is {}, not {NOTE}", last.name());
        }
        let properties = PlanProperties::new(
            EquivalenceProperties::new(note::schema()),
            Partitioning::UnknownPartitioning(node.parts.len()),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        Ok(Self {
            schema: Arc::new(Schema::new(columns.to_vec())),
            node,
            input,
            properties: Arc::new(properties),
            metrics: ExecutionPlanMetricsSet::new(),
            spoiled: Arc::new(AtomicBool::new(false)),
            buffers: BufferPool::default(),
        })
    }

    /// The sink as plain data.
    pub fn node(&self) -> &ParquetParts {
        &self.node
    }

    /// Stops writing, here and now; reading goes on.
    pub(crate) fn stop_writing(&self) {
        self.spoiled.store(true, Ordering::Relaxed);
    }
}

impl DisplayAs for ParquetPartsExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        let keys: Vec<_> = self.node.parts.iter().map(|part| part.key.as_str()).collect();
        write!(f, "ParquetPartsExec: bucket={}, parts=[{}]", self.node.bucket, keys.join(", "))
    }
}

impl ExecutionPlan for ParquetPartsExec {
    fn name(&self) -> &str {
        "ParquetPartsExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        vec![false]
    }

    fn replace_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        match (children.pop(), children.pop()) {
            (Some(input), None) => Ok(Arc::new(Self::try_new(self.node.clone(), input)?)),
            _ => internal_err!("ParquetPartsExec has one input"),
        }
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        self.replace_children(children, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute))
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let part = self.node.parts.get(partition).ok_or_else(|| internal_datafusion_err!("no part {partition}"))?;
        let outlets = context
            .session_config()
            .get_extension::<Outlets>()
            .ok_or_else(|| internal_datafusion_err!("the session has no buckets to write to"))?;
        // Held until the task is gone, so that whoever waits for the aborts waits for those that it will cause.
        let running = outlets.aborts.token();
        let task = PartTask {
            node: self.node.clone(),
            part: partition,
            partitions: part.partitions.clone(),
            input: self.input.clone(),
            schema: self.schema.clone(),
            context,
            outlets,
            spoiled: self.spoiled.clone(),
            buffers: self.buffers.clone(),
            rows: MetricBuilder::new(&self.metrics).counter(ROWS, partition),
        };
        // Room for one batch, no more: see the end of PartTask::run.
        let mut stream = RecordBatchReceiverStreamBuilder::new(note::schema(), 1);
        let notes = stream.tx();
        stream.spawn(async move {
            let _running = running;
            task.run(notes).await
        });
        Ok(stream.build())
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }
}

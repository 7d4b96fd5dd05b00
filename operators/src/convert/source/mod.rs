//! [`NdjsonSource`]: NDJSON objects as a DataFusion file source.
//!
//! A scan is a `DataSourceExec` over a `FileScanConfig`, because that is what engines know how to cut and ship. Its groups
//! are settled when the plan is made and stay as they are: no repartitioning, no stealing of files. Everything about it
//! is plain data ([`ScanNode`]); the opener fetches byte ranges ahead, and yields batches of text columns, then notes.

mod chunks;
mod inflate;
mod opener;

use std::fmt;
use std::sync::{Arc, Mutex};

use datafusion::arrow::datatypes::SchemaRef;
use datafusion::common::Result;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{FileGroup, FileOpener, FileScanConfig, FileScanConfigBuilder, FileSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::datasource::table_schema::TableSchema;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::physical_expr::LexOrdering;
use datafusion::physical_plan::metrics::{ExecutionPlanMetricsSet, MetricBuilder};
use datafusion::physical_plan::{DisplayFormatType, PhysicalExpr};
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore};
use serde::{Deserialize, Serialize};

pub use inflate::Encoding;

use self::opener::{NdjsonOpener, Supplies, Upcoming};
use super::buffers::BufferPool;
use super::scanner::ScanOptions;

/// What the scan's read-ahead and a batch may hold of one range at a time.
pub(crate) const SCAN_BYTES: usize = chunks::BYTES_AHEAD as usize + (8 << 20);

/// The counter of stored bytes read.
pub(crate) const BYTES_READ: &str = "bytes_read";

/// A scan as plain data: what is read, how, and who reads what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScanNode {
    /// The bucket, `s3://name/`.
    pub bucket_url: String,
    /// How lines become rows.
    pub options: ScanOptions,
    /// The ranges that each partition reads, in order.
    pub partitions: Vec<Vec<ScanRange>>,
}

/// A byte range of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScanRange {
    /// Its key.
    pub key: String,
    /// The size it must have.
    pub size_bytes: u64,
    /// The etag it must have.
    pub etag: Option<String>,
    /// The version that is read.
    pub version: Option<String>,
    /// The first byte and the one after the last; none for a whole file.
    pub range: Option<(u64, u64)>,
    /// What scanning needs to know of the file.
    pub file: ScanFile,
}

/// What scanning needs to know of a file, besides where it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScanFile {
    /// Its position in the conversion.
    pub index: u32,
    /// Its full name.
    pub uri: String,
    /// How it is stored.
    pub encoding: Encoding,
}

impl ScanNode {
    /// The scan as a plan.
    pub fn into_plan(self) -> Result<Arc<DataSourceExec>> {
        let groups = self
            .partitions
            .iter()
            .map(|ranges| ranges.iter().map(ScanRange::to_partitioned_file).collect::<Result<Vec<_>>>())
            .map(|files| files.map(FileGroup::new))
            .collect::<Result<Vec<_>>>()?;
        let source = Arc::new(NdjsonSource::new(self.options));
        let config = FileScanConfigBuilder::new(ObjectStoreUrl::parse(&self.bucket_url)?, source)
            .with_file_groups(groups)
            // A partition reads its own ranges in their order, whatever the session says about stealing.
            .with_preserve_order(true)
            .build();
        Ok(DataSourceExec::from_data_source(config))
    }

    /// The scan that a plan's leaf is, if it is one.
    pub fn from_plan(plan: &DataSourceExec) -> Option<Self> {
        let config = plan.data_source().downcast_ref::<FileScanConfig>()?;
        let source = config.file_source.downcast_ref::<NdjsonSource>()?;
        Some(Self {
            bucket_url: config.object_store_url.to_string(),
            options: source.options.as_ref().clone(),
            partitions: config
                .file_groups
                .iter()
                .map(|group| group.iter().map(ScanRange::from_partitioned_file).collect::<Option<Vec<_>>>())
                .collect::<Option<Vec<_>>>()?,
        })
    }
}

/// The names that the first lines of these ranges, in this order, show and that are no columns yet, in order of first
/// sight.
pub(super) async fn probe(
    ranges: impl Iterator<Item = &ScanRange>,
    options: ScanOptions,
    store: Arc<dyn ObjectStore>,
) -> Vec<String> {
    let mut probe = opener::Probe::new(Arc::new(options));
    // Later ranges of a file are read along with its first.
    let first = ranges.filter(|range| range.range.is_none_or(|(start, _)| start == 0));
    for range in first.take(opener::PROBE_FILES) {
        let Ok(path) = Path::parse(&range.key) else { continue };
        let object = Arc::new(chunks::Object {
            store: store.clone(),
            path,
            size_bytes: range.size_bytes,
            etag: range.etag.clone(),
            version: range.version.clone(),
            buffers: BufferPool::default(),
            nature: chunks::Nature::default(),
        });
        if !probe.read(object, range.file.encoding).await {
            break;
        }
    }
    probe.into_names()
}

impl ScanRange {
    fn to_partitioned_file(&self) -> Result<PartitionedFile> {
        let location = Path::parse(&self.key)
            .map_err(|error| datafusion::common::plan_datafusion_err!("the key {} can't be read: {error}", self.key))?;
        let mut file = PartitionedFile::new_from_meta(ObjectMeta {
            location,
            last_modified: chrono::DateTime::UNIX_EPOCH,
            size: self.size_bytes,
            e_tag: self.etag.clone(),
            version: self.version.clone(),
        })
        .with_extension(self.file.clone());
        if let Some((start, end)) = self.range {
            file = file.with_range(start as i64, end as i64);
        }
        Ok(file)
    }

    fn from_partitioned_file(file: &PartitionedFile) -> Option<Self> {
        Some(Self {
            key: file.object_meta.location.to_string(),
            size_bytes: file.object_meta.size,
            etag: file.object_meta.e_tag.clone(),
            version: file.object_meta.version.clone(),
            range: file.range.as_ref().map(|range| (range.start as u64, range.end as u64)),
            file: file.extension::<ScanFile>()?.clone(),
        })
    }
}

/// NDJSON objects as a file source. The cast to text is part of the scan.
#[derive(Debug, Clone)]
pub struct NdjsonSource {
    options: Arc<ScanOptions>,
    schema: TableSchema,
    batch_rows: usize,
    metrics: ExecutionPlanMetricsSet,
    buffers: BufferPool,
    /// Of the store that it reads from.
    nature: chunks::Nature,
}

impl NdjsonSource {
    /// A source with these options; they say its schema.
    pub fn new(options: ScanOptions) -> Self {
        let schema = TableSchema::from(options.schema());
        Self {
            options: Arc::new(options),
            schema,
            batch_rows: 8192,
            metrics: ExecutionPlanMetricsSet::new(),
            buffers: BufferPool::default(),
            nature: chunks::Nature::default(),
        }
    }

    fn schema(&self) -> SchemaRef {
        self.schema.table_schema().clone()
    }
}

impl FileSource for NdjsonSource {
    fn create_file_opener(
        &self,
        object_store: Arc<dyn ObjectStore>,
        config: &FileScanConfig,
        partition: usize,
    ) -> Result<Arc<dyn FileOpener>> {
        let files = config.file_groups.get(partition).map_or(&[][..], |group| group.files());
        let supplies = Supplies {
            store: object_store,
            bytes_read: MetricBuilder::new(&self.metrics).counter(BYTES_READ, partition),
            buffers: self.buffers.clone(),
            nature: self.nature.clone(),
        };
        Ok(Arc::new(NdjsonOpener {
            options: self.options.clone(),
            schema: self.schema(),
            batch_rows: self.batch_rows,
            upcoming: Arc::new(Mutex::new(Upcoming::new(supplies, files))),
            scanner: Arc::default(),
        }))
    }

    fn table_schema(&self) -> &TableSchema {
        &self.schema
    }

    fn with_batch_size(&self, batch_size: usize) -> Arc<dyn FileSource> {
        Arc::new(Self { batch_rows: batch_size, ..self.clone() })
    }

    fn metrics(&self) -> &ExecutionPlanMetricsSet {
        &self.metrics
    }

    fn file_type(&self) -> &str {
        "ndjson"
    }

    fn fmt_extra(&self, _: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, ", cast={}", self.options.cast)
    }

    fn supports_repartitioning(&self) -> bool {
        false
    }

    fn repartitioned(
        &self,
        _: usize,
        _: usize,
        _: Option<LexOrdering>,
        _: &FileScanConfig,
    ) -> Result<Option<FileScanConfig>> {
        Ok(None)
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }
}

#[cfg(test)]
mod tests;

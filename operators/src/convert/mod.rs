//! From the bytes of NDJSON objects to staged Parquet in which every column is a string.
//!
//! [`convert`] takes a bounded set of files, reads each byte of them once, and stages one Parquet output per part. It
//! promises:
//!
//! - **Every line ends once**: as a row of a staged part, or as a reject with its place and reason, or its file is
//!   reported as failed with a reason. Nothing else.
//! - **The cast is exact**: a cell is the text that the line held, or the one that Spark printed (see [`Cast`]).
//! - **Nothing is visible**: parts are staged uploads. The caller records and completes them; on any error, on
//!   cancellation and on drop, every upload that was begun is aborted.
//! - **Cuts depend on the files alone**: which rows go into which part follows from the files' sizes, never from cores.
//! - **Memory is bounded**, whatever the size or the shape of the input.
//!
//! The work is a DataFusion plan, `ParquetPartsExec ← ProjectionExec ← DataSourceExec(NdjsonSource)`. Its nodes are plain
//! data with one [`codec`], so that a plan can be shipped. What a scan has to say besides rows (rejects, a range's
//! outcome) travels as [`note::Note`] rows through the plan, and the plan's result is nothing but notes.

#[doc(hidden)]
pub mod bare;
mod buffers;
mod cast;
pub mod codec;
mod columns;
mod error;
mod facts;
mod file_stage;
mod files;
mod layout;
pub mod note;
mod options;
mod pass;
mod rejects;
mod run;
mod scanner;
mod sink;
mod source;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use penstock_engine::cloud::Bucket;
use penstock_engine::cloud::stage::{Part, Upload};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

pub use cast::{CORRUPT_RECORD, Inferred, SparkSchema};
pub use columns::{MemoryCatalog, RESERVED_NAMES, REST};
pub use error::ConvertError;
pub use files::{convert_files, look_at};
pub use options::{Cast, ColumnCase, Compression, ConvertOptions, TextEncoding};
pub use run::convert;
pub use sink::ParquetPartsExec;
pub use source::NdjsonSource;

/// One conversion: a set of files and the names of what comes out.
#[derive(Debug, Clone)]
pub struct Conversion {
    /// The manifest that this is for; written into each part's key-value metadata.
    pub manifest_id: String,
    /// The pipeline that it is for, if there is one; likewise.
    pub pipeline: Option<String>,
    /// When the manifest was made: the text of `_processing_timestamp`.
    pub created_at: DateTime<Utc>,
    /// The files, in the order in which their rows appear.
    pub files: Vec<InputFile>,
    /// The keys of the outputs.
    pub output: OutputName,
    /// The key of the rejects object. Without it (or without a bucket for it) rejects are only counted.
    pub rejects_key: Option<String>,
    /// The attempt's token, carried by each upload.
    pub token: String,
}

/// Where a conversion reads and writes.
#[derive(Clone)]
pub struct Buckets {
    /// The files are here.
    pub input: Bucket,
    /// The parts are staged here.
    pub output: Bucket,
    /// The rejects object comes here, if anywhere.
    pub rejects: Option<Bucket>,
}

/// How outputs are named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OutputName {
    /// Parts `{stem}-p{part}.parquet`, cut by [`ConvertOptions::part_bytes`]. The stem is a key with its prefix.
    Parts(String),
    /// One output under exactly this key, whatever its size.
    Single(String),
}

impl OutputName {
    /// The key of a part.
    pub fn key(&self, part: usize) -> String {
        match self {
            Self::Parts(stem) => format!("{stem}-p{part}.parquet"),
            Self::Single(key) => key.clone(),
        }
    }
}

/// One file to convert.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InputFile {
    /// Its full name, `s3://bucket/key`: the text of `_source_file`.
    pub uri: String,
    /// Its key in the input bucket.
    pub key: String,
    /// Its size as stored.
    pub size_bytes: u64,
    /// Its etag without quotes: the text of `_source_etag`. A file that shows another one has changed, and fails.
    pub etag: Option<String>,
    /// Its version, where the bucket keeps versions.
    pub version: Option<String>,
    /// The key of its item in the table.
    pub file_key: String,
}

/// The dataset's columns, in order of first sight.
#[async_trait]
pub trait ColumnCatalog: Send + Sync {
    /// All columns so far.
    async fn known(&self) -> Result<Vec<String>, ConvertError>;

    /// Appends those of `new` that are unseen, in the order given, and returns all columns.
    async fn grow(&self, new: &[String]) -> Result<Vec<String>, ConvertError>;
}

/// Turns files into staged outputs, and keeps the promises of this module. [`PlanConverter`] is the one that ships; a
/// simulation of the protocols around it may bring a cheaper one.
#[async_trait]
pub trait Converter: Send + Sync {
    /// Converts the files and stages the outputs.
    async fn convert(
        &self,
        conversion: &Conversion,
        buckets: &Buckets,
        catalog: &dyn ColumnCatalog,
        options: &ConvertOptions,
        progress: &Progress,
        cancel: &CancellationToken,
    ) -> Result<Converted, ConvertError>;
}

/// Converts by a DataFusion plan: [`convert`].
#[derive(Debug, Clone, Copy, Default)]
pub struct PlanConverter;

#[async_trait]
impl Converter for PlanConverter {
    async fn convert(
        &self,
        conversion: &Conversion,
        buckets: &Buckets,
        catalog: &dyn ColumnCatalog,
        options: &ConvertOptions,
        progress: &Progress,
        cancel: &CancellationToken,
    ) -> Result<Converted, ConvertError> {
        convert(conversion, buckets, catalog, options, progress, cancel).await
    }
}

/// How far a conversion has come. Shared with whoever shows it; starts again with each pass.
#[derive(Debug, Default)]
pub struct Progress {
    bytes_read: AtomicU64,
    rows: AtomicU64,
    passes: AtomicU32,
}

impl Progress {
    /// Stored bytes read in this pass, out of the sum of the files' sizes.
    pub fn bytes_read(&self) -> u64 {
        self.bytes_read.load(Ordering::Relaxed)
    }

    /// Rows read in this pass.
    pub fn rows(&self) -> u64 {
        self.rows.load(Ordering::Relaxed)
    }

    /// Which pass is running, from 1 on.
    pub fn passes(&self) -> u32 {
        self.passes.load(Ordering::Relaxed)
    }

    fn begin_pass(&self) {
        self.bytes_read.store(0, Ordering::Relaxed);
        self.rows.store(0, Ordering::Relaxed);
        self.passes.fetch_add(1, Ordering::Relaxed);
    }

    fn show(&self, bytes_read: u64, rows: u64) {
        self.bytes_read.store(bytes_read, Ordering::Relaxed);
        self.rows.store(rows, Ordering::Relaxed);
    }
}

/// What a conversion made. Its parts are staged: the caller owns their uploads now.
#[derive(Debug, Clone, PartialEq)]
pub struct Converted {
    /// The staged outputs, in order. Empty when there was no row.
    pub parts: Vec<StagedPart>,
    /// The data columns of every part, in order; the `_source_*` and `_processing_timestamp` columns follow them.
    pub columns: Vec<String>,
    /// One outcome per input file, in the order of the conversion.
    pub files: Vec<FileOutcome>,
    /// Rows in all parts.
    pub rows: u64,
    /// Rejected lines of the files that were converted.
    pub rejected_rows: u64,
    /// Keys that occurred again in their line; the last one won.
    pub duplicate_keys: u64,
    /// The rejects object, if there was a reject and a place for it.
    pub rejects: Option<RejectsObject>,
    /// Rows of records that Spark would have called corrupt; see [`Cast::Spark`].
    pub corrupt_rows: u64,
    /// How often the files were read.
    pub passes: u32,
    /// How many of those passes were run again because of new columns.
    pub column_reruns: u32,
}

/// One staged output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StagedPart {
    /// Its upload: key, id, token.
    pub upload: Upload,
    /// The upload's parts, as `complete` wants them.
    pub parts: Vec<Part>,
    /// Its rows.
    pub rows: u64,
    /// Its size.
    pub size_bytes: u64,
}

/// What became of one file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum FileOutcome {
    /// Each of its lines is a row or a reject.
    Converted {
        /// The key of its item.
        file_key: String,
        /// Its rows.
        rows: u64,
        /// Its rejected lines.
        rejected_rows: u64,
    },
    /// None of its lines is in the output.
    Failed {
        /// The key of its item.
        file_key: String,
        /// Why, in one word.
        reason: FailureReason,
        /// Why, in full.
        message: String,
    },
}

/// Why a file failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureReason {
    /// It isn't there any more.
    Missing,
    /// It is in another bucket than the pipeline's own.
    OtherBucket,
    /// It is there with another etag or size.
    Changed,
    /// It can't be decompressed to its end.
    Undecodable,
    /// More of its lines than allowed are rejects.
    TooManyRejects,
    /// Its records have more fields than types are kept of (cast `spark`).
    TooManyFields,
}

impl FailureReason {
    /// Its word in items and reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::OtherBucket => "other_bucket",
            Self::Changed => "changed",
            Self::Undecodable => "undecodable",
            Self::TooManyRejects => "too_many_rejects",
            Self::TooManyFields => "too_many_fields",
        }
    }
}

/// The object that holds the rejects.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RejectsObject {
    /// Its key.
    pub key: String,
    /// Its etag, where the store tells.
    pub etag: Option<String>,
    /// The rejects written into it (a file's share is capped, so it may hold fewer than there were).
    pub count: u64,
}

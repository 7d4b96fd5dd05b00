//! The cast `spark`: the text that Spark 3.3's `read.json` and `cast("string")` made of each value.
//!
//! Spark infers a type for each column from all records of a manifest before it reads the first one; so this cast takes
//! two passes. The first gathers, range by range, what the records' types have in common ([`Inferred`]); they are merged
//! in the files' order, and the [`SparkSchema`] that comes of it is plain data in the scan of the second pass, which prints.
//! Nothing of it depends on how files are cut or on which core is first.
//!
//! `docs/convert.md` says what is printed, and where this differs from Spark.

mod infer;
mod java_double;
mod print;
mod scan;
#[cfg(test)]
mod tests;
mod tokens;
mod types;
mod wide;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::common::Result;
use std::sync::Arc;

use super::FailureReason;
use super::options::Cast;
use super::scanner::lines::Piece;
use super::scanner::{ScanOptions, Scanner};

pub(crate) use self::scan::{MAX_FIELDS, too_many_fields};
pub use self::types::{CORRUPT_RECORD, Inferred, SparkSchema};

/// The scanner of a range, by its cast.
#[derive(Debug)]
pub(super) enum LineScanner {
    Lossless(Box<Scanner>),
    Spark(Box<scan::SparkScanner>),
}

impl LineScanner {
    /// A scanner for a range of `file`: its number, what it is called, its etag. One that was `kept` goes on with it.
    pub(super) fn begin(
        kept: Option<Box<Scanner>>,
        options: Arc<ScanOptions>,
        schema: SchemaRef,
        batch_rows: usize,
        (file, uri, etag): (u32, &str, Option<&str>),
    ) -> Result<Self> {
        Ok(match options.cast {
            Cast::Lossless => {
                let mut scanner = kept.unwrap_or_else(|| Box::new(Scanner::new(options, schema, batch_rows)));
                scanner.begin(file, uri, etag);
                Self::Lossless(scanner)
            }
            Cast::Spark => {
                Self::Spark(Box::new(scan::SparkScanner::new(options, schema, batch_rows, file, uri, etag)?))
            }
        })
    }

    /// Whether another range may follow the one that has ended, and add to its batch.
    pub(super) fn can_go_on(&self) -> bool {
        match self {
            Self::Lossless(scanner) => scanner.can_go_on(),
            Self::Spark(_) => false,
        }
    }

    /// The scanner of a range that has ended, if the next range can go on with it.
    pub(super) fn into_kept(self) -> Option<Box<Scanner>> {
        match self {
            Self::Lossless(scanner) => scanner.can_go_on().then_some(scanner),
            Self::Spark(_) => None,
        }
    }

    /// Scans `piece` until it ends (true) or a batch is full (false; call again with the same piece).
    pub(super) fn scan(&mut self, piece: &mut Piece) -> bool {
        match self {
            Self::Lossless(scanner) => scanner.scan(piece),
            Self::Spark(scanner) => scanner.scan(piece),
        }
    }

    pub(super) fn batch_is_full(&self) -> bool {
        match self {
            Self::Lossless(scanner) => scanner.batch_is_full(),
            Self::Spark(scanner) => scanner.batch_is_full(),
        }
    }

    /// The rows so far as a batch, else the notes so far, else nothing.
    pub(super) fn take_batch(&mut self) -> Result<Option<RecordBatch>> {
        match self {
            Self::Lossless(scanner) => scanner.take_batch(),
            Self::Spark(scanner) => scanner.take_batch(),
        }
    }

    /// Ends the range: its outcome joins the notes.
    pub(super) fn end(&mut self, failure: Option<(FailureReason, String)>) {
        match self {
            Self::Lossless(scanner) => scanner.end(failure),
            Self::Spark(scanner) => scanner.end(failure),
        }
    }
}

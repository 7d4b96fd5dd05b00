//! The scanner alone, without a plan around it: for benchmarks, fuzz targets and instruction counts. Not a part of the
//! interface.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::RecordBatch;
use bytes::Bytes;
use datafusion::common::Result;

use super::note::{self, Note};
use super::options::{Cast, ColumnCase};
use super::scanner::lines::LineCutter;
pub use super::scanner::plain_text_kernels;
use super::scanner::{ScanOptions, Scanner};

/// Rows of a batch, at most.
const BATCH_ROWS: usize = 8192;

/// Options with these columns, and no room for others but `_rest`.
pub fn options(columns: &[&str]) -> ScanOptions {
    ScanOptions {
        spark_schema: None,
        cast: Cast::Lossless,
        column_case: ColumnCase::Preserve,
        columns: columns.iter().map(|name| (*name).to_owned()).collect(),
        room: 0,
        max_line_bytes: 16 << 20,
        max_depth: 128,
        max_rejects: 1000,
        max_reject_bytes: 4 << 10,
        batch_bytes: 1 << 20,
    }
}

/// Scans the lines that begin in `range` of `file` (all of them without one), which comes in chunks of `chunk_bytes`; gives
/// each batch of rows to `on_batch`, and all notes in the end.
pub fn scan(
    file: &Bytes,
    range: Option<Range<u64>>,
    chunk_bytes: usize,
    options: &Arc<ScanOptions>,
    mut on_batch: impl FnMut(RecordBatch),
) -> Result<Vec<Note>> {
    let mut notes = Vec::new();
    let mut scanner = Scanner::new(options.clone(), options.schema(), BATCH_ROWS);
    scanner.begin(0, "bare", None);
    let begin = range.as_ref().map_or(0, |range| range.start.saturating_sub(1)) as usize;
    let mut cutter = LineCutter::new(range, options.max_line_bytes, options.max_reject_bytes);
    let mut rest = file.slice(begin.min(file.len())..);
    let mut take = |scanner: &mut Scanner| -> Result<bool> {
        let Some(batch) = scanner.take_batch()? else { return Ok(false) };
        let told = note::from_batch(&batch)?;
        if told.is_empty() {
            on_batch(batch);
        }
        notes.extend(told);
        Ok(true)
    };
    while !cutter.is_done() {
        let pieces = if rest.is_empty() {
            [cutter.finish(), None]
        } else {
            let chunk = rest.split_to(chunk_bytes.min(rest.len()));
            cutter.push(chunk)
        };
        for mut piece in pieces.into_iter().flatten() {
            while !scanner.scan(&mut piece) {
                take(&mut scanner)?;
            }
        }
    }
    scanner.end(None);
    while take(&mut scanner)? {}
    Ok(notes)
}

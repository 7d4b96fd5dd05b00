//! What a scan or a sink has to say besides rows, as JSON text in one reserved column.
//!
//! Notes travel through the plan like rows, because rows are the one thing that every engine carries: no channel, no
//! shared state. A data row has no note; a note's row has nothing else.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, StringArray, new_null_array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use datafusion::common::{Result, exec_datafusion_err, internal_datafusion_err};
use penstock_engine::cloud::stage::{Part, Upload};
use serde::{Deserialize, Serialize};

use super::{FailureReason, Inferred};

/// The name of the column that holds notes. No data column can have it.
pub const NOTE: &str = "_note";

/// One note.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Note {
    /// A line that is no row.
    Reject(Reject),
    /// This pass can't be the last one: whoever writes may stop. The reason follows in a range's outcome.
    Spoiled,
    /// A byte range of a file has been read to its end, or given up.
    Range(RangeOutcome),
    /// A part has been staged.
    Part(PartOutcome),
}

/// A line that is no row, with its place and reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reject {
    /// The file, by its position in the conversion.
    pub file: u32,
    /// The line's number, from 1 on, counted from the start of its range.
    pub line: u64,
    /// Where the line begins, in bytes of the (decompressed) file.
    pub offset: u64,
    /// Its length without the line end.
    pub length: u64,
    /// Why it is no row.
    pub reason: String,
    /// Its first bytes.
    pub raw: Raw,
}

/// Bytes of a rejected line: as text where they are text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Raw {
    /// They are UTF-8.
    Text(String),
    /// They are not: in base64.
    Base64(String),
}

impl Raw {
    /// At most `max_bytes` of a line of `length` bytes that begins with `line`. Text is cut between characters.
    pub fn of(line: &[u8], max_bytes: usize, length: u64) -> Self {
        let head = &line[..line.len().min(max_bytes)];
        match std::str::from_utf8(head) {
            Ok(text) => Self::Text(text.to_owned()),
            // Only the cut is to blame, not the line.
            Err(error) if error.error_len().is_none() && (head.len() as u64) < length => {
                Self::Text(String::from_utf8_lossy(&head[..error.valid_up_to()]).into_owned())
            }
            Err(_) => Self::Base64(STANDARD.encode(head)),
        }
    }
}

/// What became of a byte range of a file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RangeOutcome {
    /// The file, by its position in the conversion.
    pub file: u32,
    /// Lines, blank ones included.
    pub lines: u64,
    /// Lines that are rows.
    pub rows: u64,
    /// Lines that are rejects.
    pub rejected: u64,
    /// Keys that occurred again in their line.
    pub duplicate_keys: u64,
    /// Rows of corrupt records (cast `spark`).
    #[serde(default)]
    pub corrupt_rows: u64,
    /// What the records' types have in common, when a pass looks for that (cast `spark`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inferred: Option<Inferred>,
    /// Names that are no column yet and could become one, with the offset of their first line, in order of first sight.
    pub unknown: Vec<(String, u64)>,
    /// Whether something belongs into `_rest`, which isn't a column yet.
    pub needs_rest: bool,
    /// Why the range, and so its file, could not be read.
    pub failure: Option<(FailureReason, String)>,
}

impl RangeOutcome {
    /// Whether a pass with this range in it can't be the last one.
    pub fn spoils(&self) -> bool {
        self.failure.is_some() || self.needs_rest || !self.unknown.is_empty()
    }
}

/// A staged part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartOutcome {
    /// Its number, from 0 on.
    pub part: usize,
    /// Its upload.
    pub upload: Upload,
    /// The upload's parts.
    pub parts: Vec<Part>,
    /// Its rows.
    pub rows: u64,
    /// Its size.
    pub size_bytes: u64,
    /// Its row groups.
    pub row_groups: usize,
}

/// The schema of a stream of notes alone.
pub fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![field()]))
}

/// The column of notes.
pub fn field() -> Field {
    Field::new(NOTE, DataType::Utf8, true)
}

/// Notes as rows of `schema`, whose other columns are null.
pub fn to_batch(notes: &[Note], schema: &SchemaRef) -> Result<RecordBatch> {
    let texts = notes
        .iter()
        .map(|note| serde_json::to_string(note).map_err(|error| internal_datafusion_err!("a note: {error}")))
        .collect::<Result<Vec<_>>>()?;
    let texts: ArrayRef = Arc::new(StringArray::from(texts));
    let columns = schema
        .fields()
        .iter()
        .map(|field| match field.name().as_str() {
            NOTE => texts.clone(),
            _ => new_null_array(field.data_type(), notes.len()),
        })
        .collect();
    Ok(RecordBatch::try_new(schema.clone(), columns)?)
}

/// The notes of a batch whose last column holds notes; empty for a batch of data.
pub fn from_batch(batch: &RecordBatch) -> Result<Vec<Note>> {
    let column = batch.columns().last().and_then(|column| column.as_any().downcast_ref::<StringArray>());
    let column = column.ok_or_else(|| internal_datafusion_err!("a batch without a column of notes"))?;
    if column.null_count() == column.len() {
        return Ok(Vec::new());
    }
    column
        .iter()
        .flatten()
        .map(|text| serde_json::from_str(text).map_err(|error| exec_datafusion_err!("a note can't be read: {error}")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn raw_is_cut_between_characters() {
        assert_eq!(Raw::of("aäb".as_bytes(), 2, 4), Raw::Text("a".to_owned()));
        assert_eq!(Raw::of(b"a\xffb", 3, 3), Raw::Base64("Yf9i".to_owned()));
        assert_eq!(Raw::of("ä".as_bytes(), 10, 2), Raw::Text("ä".to_owned()));
    }

    #[test]
    fn notes_are_read_back() {
        let schema = Arc::new(Schema::new(vec![Field::new("a", DataType::Utf8, true), field()]));
        let notes = vec![Note::Spoiled, Note::Range(RangeOutcome { file: 3, rows: 2, ..RangeOutcome::default() })];
        let batch = to_batch(&notes, &schema).unwrap();
        assert_eq!(from_batch(&batch).unwrap(), notes);
    }
}

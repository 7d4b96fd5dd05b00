//! From whole lines to batches of text columns: one pass over the bytes, no allocation per value.
//!
//! A line is checked by RFC 8259 to its last byte while its values are appended to their columns; if it turns out to be
//! no row, what it appended is taken back and the line becomes a reject. So a row costs one look at each of its bytes,
//! and one copy of those that are values.

mod column;
mod fault;
pub(super) mod lines;
mod names;
mod plain;
mod rest;
mod text;
mod value;

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{RecordBatch, new_null_array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::Result;
use serde::{Deserialize, Serialize};

use self::column::{Constant, TextColumn};
use self::fault::Fault;
use self::lines::{Lines, Piece};
use self::names::{LINE_START, Names, Slot, Target};
pub use self::plain::kernels as plain_text_kernels;
use self::rest::Rest;
use super::cast::SparkSchema;
use super::columns::{REST, SOURCE_ETAG, SOURCE_FILE};
use super::note::{self, Note, RangeOutcome, Raw, Reject};
use super::options::{Cast, ColumnCase};

/// How lines become rows: plain data, part of the scan's node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScanOptions {
    /// How values become text.
    pub cast: Cast,
    /// Whether names keep their case.
    pub column_case: ColumnCase,
    /// The columns, `_rest` among them once it exists.
    pub columns: Vec<String>,
    /// How many unknown names may become columns; what is beyond goes into `_rest`.
    pub room: usize,
    /// A longer line is a reject.
    pub max_line_bytes: usize,
    /// A line nested deeper is a reject.
    pub max_depth: usize,
    /// Rejects told of one range; the rest is counted.
    pub max_rejects: u64,
    /// Bytes kept of a rejected line.
    pub max_reject_bytes: usize,
    /// A batch ends when its lines hold this much.
    pub batch_bytes: usize,
    /// What the cast `spark` reads records with; without it the pass looks for the types.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spark_schema: Option<SparkSchema>,
}

impl ScanOptions {
    /// The schema of a scan: the columns, the file's name and etag, the notes. All are text.
    pub fn schema(&self) -> SchemaRef {
        let text = |name: &str| Field::new(name, DataType::Utf8, true);
        let columns = self.columns.iter().map(String::as_str).chain([SOURCE_FILE, SOURCE_ETAG]);
        Arc::new(Schema::new(columns.map(text).chain([note::field()]).collect::<Vec<_>>()))
    }
}

/// Scans the lines of one range of a file.
#[derive(Debug)]
pub(super) struct Scanner {
    options: Arc<ScanOptions>,
    schema: SchemaRef,
    batch_rows: usize,
    /// The file's name and its etag.
    constants: [Constant; 2],
    names: Names,
    columns: Vec<TextColumn>,
    rest_column: Option<usize>,
    rest: Rest,
    /// The rows of the batch that grows, and the bytes of their lines.
    rows: usize,
    bytes: usize,
    /// Room to work in.
    key: Vec<u8>,
    open: Vec<bool>,
    discarded: Vec<u8>,
    outcome: RangeOutcome,
    /// Which line this is of all that were ever scanned.
    line: u64,
    /// Keys of this line that occurred again.
    duplicate_keys: u64,
    /// Whether this pass can't be the last one: lines are only checked.
    spoiled: bool,
    notes: Vec<Note>,
}

impl Scanner {
    /// A scanner; [`Self::begin`] says of what.
    pub(super) fn new(options: Arc<ScanOptions>, schema: SchemaRef, batch_rows: usize) -> Self {
        Self {
            names: Names::new(&options.columns, options.room, options.column_case),
            columns: options.columns.iter().map(|_| TextColumn::new()).collect(),
            rest_column: options.columns.iter().position(|name| name == REST),
            constants: [Constant::new(), Constant::new()],
            outcome: RangeOutcome::default(),
            line: 0,
            options,
            schema,
            batch_rows,
            rest: Rest::default(),
            rows: 0,
            bytes: 0,
            key: Vec::new(),
            open: Vec::new(),
            discarded: Vec::new(),
            duplicate_keys: 0,
            spoiled: false,
            notes: Vec::new(),
        }
    }

    /// Begins a range of file number `file`, called `uri`.
    pub(super) fn begin(&mut self, file: u32, uri: &str, etag: Option<&str>) {
        for (constant, text) in self.constants.iter_mut().zip([Some(uri), etag]) {
            constant.begin(self.rows, text);
        }
        self.outcome = RangeOutcome { file, ..RangeOutcome::default() };
    }

    /// Whether another range may follow the one that has ended: with all that was learnt of keys and their order, and with
    /// the room that is there already. Rows and notes of ranges that follow each other share a batch.
    pub(super) fn can_go_on(&self) -> bool {
        !self.spoiled
    }

    /// Scans `piece` until it ends (true) or a batch is full (false; call again with the same piece).
    pub(super) fn scan(&mut self, piece: &mut Piece) -> bool {
        match piece {
            Piece::Lines(lines) => {
                while !self.batch_is_full() {
                    let Some((range, utf8)) = lines.next_line() else { return true };
                    self.scan_line(lines, range, utf8);
                }
                false
            }
            Piece::LongLine { offset, length, head } => {
                self.outcome.lines += 1;
                let (offset, length) = (*offset, *length);
                self.reject(Fault::TooLong, &std::mem::take(head), offset, length);
                true
            }
        }
    }

    pub(super) fn batch_is_full(&self) -> bool {
        self.rows >= self.batch_rows || self.bytes >= self.options.batch_bytes || self.notes.len() >= 64
    }

    /// The rows so far as a batch, else the notes so far, else nothing.
    pub(super) fn take_batch(&mut self) -> Result<Option<RecordBatch>> {
        if self.rows > 0 {
            let rows = std::mem::take(&mut self.rows);
            self.bytes = 0;
            let mut arrays = Vec::with_capacity(self.schema.fields().len());
            for column in &mut self.columns {
                arrays.push(column.finish(rows)?);
            }
            arrays.extend(self.constants.iter_mut().map(|constant| constant.rows(rows)));
            arrays.push(new_null_array(&DataType::Utf8, rows));
            return Ok(Some(RecordBatch::try_new(self.schema.clone(), arrays)?));
        }
        if self.notes.is_empty() {
            return Ok(None);
        }
        note::to_batch(&std::mem::take(&mut self.notes), &self.schema).map(Some)
    }

    /// Ends the range: its outcome joins the notes.
    pub(super) fn end(&mut self, failure: Option<(super::FailureReason, String)>) {
        self.outcome.unknown = std::mem::take(&mut self.names.unknown);
        self.outcome.failure = failure;
        self.notes.push(Note::Range(std::mem::take(&mut self.outcome)));
    }

    /// Forgets the rows and notes so far.
    pub(super) fn drop_batch(&mut self) {
        self.spoil();
        self.bytes = 0;
        self.notes.clear();
    }

    pub(super) fn max_line_bytes(&self) -> usize {
        self.options.max_line_bytes
    }

    /// How many names are no columns, and where in its file the last of them was seen first.
    pub(super) fn last_unknown(&self) -> (usize, u64) {
        (self.names.unknown.len(), self.names.unknown.last().map_or(0, |(_, offset)| *offset))
    }

    /// The names that are no columns, in order of first sight.
    pub(super) fn into_unknown(self) -> Vec<String> {
        self.names.unknown.into_iter().map(|(name, _)| name).collect()
    }

    fn scan_line(&mut self, lines: &Lines, range: Range<usize>, utf8: bool) {
        self.outcome.lines += 1;
        self.line += 1;
        self.names.begin_line();
        self.rest.clear();
        self.duplicate_keys = 0;
        let (line, offset) = lines.line(range);
        let length = line.len() as u64;
        let result = if line.len() > self.options.max_line_bytes {
            Err(Fault::TooLong)
        } else if !utf8 && simdutf8::basic::from_utf8(line).is_err() {
            Err(Fault::NotUtf8)
        } else {
            match value::space(line, 0) {
                end if end == line.len() => return,
                at => self.scan_object(line, at),
            }
        };
        match result {
            Ok(()) => {
                self.outcome.rows += 1;
                self.outcome.duplicate_keys += self.duplicate_keys;
                self.end_row(line, offset);
                if !self.spoiled {
                    self.rows += 1;
                    self.bytes += line.len();
                }
            }
            Err(fault) => {
                self.names.forget_line();
                for column in &mut self.columns {
                    column.unset(self.rows);
                }
                self.reject(fault, line, offset, length);
            }
        }
    }

    fn reject(&mut self, fault: Fault, line: &[u8], offset: u64, length: u64) {
        self.outcome.rejected += 1;
        if self.outcome.rejected <= self.options.max_rejects {
            self.notes.push(Note::Reject(Reject {
                file: self.outcome.file,
                line: self.outcome.lines,
                offset,
                length,
                reason: fault.to_string(),
                raw: Raw::of(line, self.options.max_reject_bytes, length),
            }));
        }
    }

    /// Scans the object that begins at `at` and must fill the line.
    fn scan_object(&mut self, line: &[u8], at: usize) -> Result<(), Fault> {
        if line[at] != b'{' {
            return Err(Fault::NotAnObject);
        }
        let mut at = value::space(line, at + 1);
        if line.get(at) == Some(&b'}') {
            at += 1;
        } else {
            let mut previous = LINE_START;
            loop {
                let (slot, key, end) = self.scan_key(line, at, previous)?;
                previous = slot.unwrap_or(LINE_START);
                at = self.scan_value(line, value::space(line, end), slot, key)?;
                at = value::space(line, at);
                match line.get(at) {
                    Some(b',') => at = value::space(line, at + 1),
                    Some(b'}') => break,
                    _ => return Fault::invalid(at, "a comma or the end of the object was expected"),
                }
            }
            at += 1;
        }
        at = value::space(line, at);
        if at < line.len() {
            return Fault::invalid(at, "something follows the object");
        }
        Ok(())
    }

    /// The key at `at`: its slot, its place with quotes, and the position after its colon. The text of a key that was not
    /// foreseen is left in `self.key`.
    #[inline(always)]
    fn scan_key(
        &mut self,
        line: &[u8],
        at: usize,
        previous: Slot,
    ) -> Result<(Option<Slot>, Range<usize>, usize), Fault> {
        match line.get(at..).and_then(|rest| self.names.predict(previous, rest)) {
            Some((slot, length)) => Ok((Some(slot), at..at + length - 1, at + length)),
            None => self.look_key_up(line, at, previous),
        }
    }

    #[inline(never)]
    fn look_key_up(
        &mut self,
        line: &[u8],
        at: usize,
        previous: Slot,
    ) -> Result<(Option<Slot>, Range<usize>, usize), Fault> {
        if line.get(at) != Some(&b'"') {
            return Fault::invalid(at, "a key was expected");
        }
        self.key.clear();
        let end = text::unescape(line, at + 1, &mut self.key)?;
        let escaped = self.key.len() + 2 != end - at;
        let slot = self.names.look_up(previous, &self.key, escaped);
        Ok((slot, at..end, value::colon_end(line, end)?))
    }

    /// The value at `at`; the position after it.
    #[inline(always)]
    fn scan_value(&mut self, line: &[u8], at: usize, slot: Option<Slot>, key: Range<usize>) -> Result<usize, Fault> {
        let target = slot.map_or(Target::Rest, |slot| self.names.target(slot));
        if let (Target::Column(column), Some(slot), false) = (target, slot, self.spoiled) {
            if self.names.repeats(slot, self.line) {
                self.duplicate_keys += 1;
                self.columns[column].unset(self.rows);
            }
            return self.scan_cell(line, at, column);
        }
        let end = self.check_value(line, at)?;
        let repeats = match (target, slot) {
            (Target::Rest, slot) => self.rest.add(slot, &self.key, key, at..end),
            (_, Some(slot)) => self.names.repeats(slot, self.line),
            (_, None) => false,
        };
        self.duplicate_keys += u64::from(repeats);
        if let (Target::Unknown, Some(slot)) = (target, slot) {
            self.names.pend(slot);
        }
        Ok(end)
    }

    /// The value at `at` becomes this row's cell of `column`; the position after it.
    #[inline(always)]
    fn scan_cell(&mut self, line: &[u8], at: usize, column: usize) -> Result<usize, Fault> {
        let row = self.rows;
        let column = &mut self.columns[column];
        let end = match line.get(at) {
            Some(b'"') => {
                let end = text::plain_end(line, at + 1);
                if line.get(end) == Some(&b'"') {
                    column.set(row, line, at + 1..end);
                    return Ok(end + 1);
                }
                return column.set_with(row, |out| text::unescape(line, at + 1, out));
            }
            Some(b'-' | b'0'..=b'9') => value::number_end(line, at)?,
            Some(b'{' | b'[') => value::container_end(line, at, self.options.max_depth - 1, &mut self.open)?,
            Some(b't') => value::literal_end(line, at, b"true")?,
            Some(b'f') => value::literal_end(line, at, b"false")?,
            Some(b'n') => return value::literal_end(line, at, b"null"),
            _ => return Fault::invalid(at, "a value was expected"),
        };
        column.set(row, line, at..end);
        Ok(end)
    }

    /// The end of the value at `at`, which is no cell: whether its line is a row must not depend on the columns.
    fn check_value(&mut self, line: &[u8], at: usize) -> Result<usize, Fault> {
        match line.get(at) {
            Some(b'"') => {
                self.discarded.clear();
                text::unescape(line, at + 1, &mut self.discarded)
            }
            _ => value::container_end(line, at, self.options.max_depth - 1, &mut self.open),
        }
    }

    /// The line is a row: what it holds beyond its columns goes where it belongs.
    fn end_row(&mut self, line: &[u8], offset: u64) {
        let (unknown, overflow) = self.names.settle_pending(offset);
        self.outcome.needs_rest |= overflow && self.rest_column.is_none();
        if !self.rest.is_empty() {
            match self.rest_column {
                Some(column) if !self.spoiled => {
                    self.columns[column].set_to(self.rows, |out| self.rest.write(line, out));
                }
                Some(_) => {}
                None => self.outcome.needs_rest = true,
            }
        }
        if unknown || self.outcome.needs_rest {
            self.spoil();
        }
    }

    /// From here on lines are only checked, and read for unknown names.
    fn spoil(&mut self) {
        if !self.spoiled {
            self.spoiled = true;
            self.rows = 0;
            self.columns = self.options.columns.iter().map(|_| TextColumn::new()).collect();
            self.notes.push(Note::Spoiled);
        }
    }
}

#[cfg(test)]
pub(super) mod tests;

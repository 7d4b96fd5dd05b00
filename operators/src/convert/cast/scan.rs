//! Scans the lines of a range as Spark reads records: for their types in the first pass, for their text in the second.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray, StringBuilder, new_null_array};
use arrow::datatypes::{DataType, SchemaRef};
use datafusion::common::{Result, internal_err};

use super::infer::{Seen, infer, infer_anew};
use super::print::{Printer, Rows};
use super::tokens::{Fault, JsonText, Sink, Tokens};
use super::types::Inferred;
use crate::convert::FailureReason;
use crate::convert::columns::REST;
use crate::convert::note::{self, Note, RangeOutcome, Raw, Reject};
use crate::convert::scanner::ScanOptions;
use crate::convert::scanner::lines::{Lines, Piece};

/// Fields that the types of a file or of a manifest may have, nested ones included.
pub(crate) const MAX_FIELDS: usize = 100_000;

/// A record may print as so many times the longest line, and never as more than this: a batch counts a column's text in 31
/// bits.
const MAX_GROWTH: usize = 8;
const MAX_TEXT: usize = 1 << 30;

/// Scans the lines of one range of a file.
#[derive(Debug)]
pub(in crate::convert) struct SparkScanner {
    options: Arc<ScanOptions>,
    schema: SchemaRef,
    batch_rows: usize,
    /// The file's name and its etag.
    constants: [Option<String>; 2],
    work: Work,
    /// Room for the levels and names of a record.
    tokens: Option<Tokens<'static>>,
    rows: usize,
    bytes: usize,
    outcome: RangeOutcome,
    notes: Vec<Note>,
}

#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "there is one for each range that is read")]
enum Work {
    Infer {
        inferred: Inferred,
        /// At least as many as its fields.
        fields_at_most: usize,
        too_many: bool,
    },
    Print {
        printer: Printer,
        rows: Rows,
        columns: Vec<StringBuilder>,
        /// Where each field's cell goes; else into `_rest`.
        places: Vec<Option<usize>>,
        names: Vec<String>,
        rest: Option<usize>,
        rest_text: Vec<u8>,
    },
}

impl SparkScanner {
    /// A scanner for a range of file number `file`, called `uri`. Options without types look for them.
    pub(in crate::convert) fn new(
        options: Arc<ScanOptions>,
        schema: SchemaRef,
        batch_rows: usize,
        file: u32,
        uri: &str,
        etag: Option<&str>,
    ) -> Result<Self> {
        let work = match &options.spark_schema {
            None => Work::Infer { inferred: Inferred::default(), fields_at_most: 0, too_many: false },
            Some(types) => {
                let place = |name: &str| options.columns.iter().position(|column| column == name && name != REST);
                let places: Vec<_> = types.names().map(place).collect();
                let rest = options.columns.iter().position(|column| column == REST);
                let max_text = options.max_line_bytes.saturating_mul(MAX_GROWTH).min(MAX_TEXT);
                // What each row of a record holds besides its cells, which arrays of empty objects make very many of.
                let row_bytes = uri.len() + etag.map_or(0, str::len) + size_of::<i32>() * schema.fields().len();
                if rest.is_none() && places.contains(&None) {
                    return internal_err!("a field without a column, and no {REST}");
                }
                Work::Print {
                    printer: Printer::new(types, options.column_case, max_text, row_bytes),
                    rows: Rows::default(),
                    columns: options.columns.iter().map(|_| StringBuilder::new()).collect(),
                    places,
                    names: types.names().map(str::to_owned).collect(),
                    rest,
                    rest_text: Vec::new(),
                }
            }
        };
        Ok(Self {
            tokens: Some(Tokens::new(options.max_depth)),
            options,
            schema,
            batch_rows,
            constants: [Some(uri.to_owned()), etag.map(str::to_owned)],
            work,
            rows: 0,
            bytes: 0,
            outcome: RangeOutcome { file, ..RangeOutcome::default() },
            notes: Vec::new(),
        })
    }

    /// Scans `piece` until it ends (true) or a batch is full (false; call again with the same piece).
    pub(in crate::convert) fn scan(&mut self, piece: &mut Piece) -> bool {
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
                self.reject("line too long", &std::mem::take(head), offset, length);
                true
            }
        }
    }

    pub(in crate::convert) fn batch_is_full(&self) -> bool {
        self.rows >= self.batch_rows || self.bytes >= self.options.batch_bytes || self.notes.len() >= 64
    }

    /// The rows so far as a batch, else the notes so far, else nothing.
    pub(in crate::convert) fn take_batch(&mut self) -> Result<Option<RecordBatch>> {
        if let (Work::Print { columns, .. }, true) = (&mut self.work, self.rows > 0) {
            let rows = std::mem::take(&mut self.rows);
            self.bytes = 0;
            let mut arrays: Vec<ArrayRef> = Vec::with_capacity(self.schema.fields().len());
            for column in columns {
                arrays.push(Arc::new(column.finish()));
            }
            for constant in &self.constants {
                arrays.push(match constant {
                    Some(text) => Arc::new(StringArray::from_iter_values(std::iter::repeat_n(text, rows))),
                    None => new_null_array(&DataType::Utf8, rows),
                });
            }
            arrays.push(new_null_array(&DataType::Utf8, rows));
            return Ok(Some(RecordBatch::try_new(self.schema.clone(), arrays)?));
        }
        if self.notes.is_empty() {
            return Ok(None);
        }
        note::to_batch(&std::mem::take(&mut self.notes), &self.schema).map(Some)
    }

    /// Ends the range: its outcome joins the notes.
    pub(in crate::convert) fn end(&mut self, failure: Option<(FailureReason, String)>) {
        self.outcome.failure = failure;
        if let Work::Infer { inferred, too_many, .. } = &mut self.work {
            if *too_many && self.outcome.failure.is_none() {
                self.outcome.failure = Some(too_many_fields());
            }
            self.outcome.inferred = Some(std::mem::take(inferred));
        }
        self.notes.push(Note::Range(std::mem::take(&mut self.outcome)));
    }

    fn scan_line(&mut self, lines: &Lines, range: Range<usize>, utf8: bool) {
        self.outcome.lines += 1;
        let (line, offset) = lines.line(range);
        let length = line.len() as u64;
        if line.len() > self.options.max_line_bytes {
            return self.reject("line too long", line, offset, length);
        }
        if !utf8 && simdutf8::basic::from_utf8(line).is_err() {
            return self.reject("not UTF-8", line, offset, length);
        }
        // Spark's reader ends lines at a lone carriage return, too.
        let mut begin = 0;
        for end in memchr::memchr_iter(b'\r', line).chain([line.len()]) {
            let record = &line[begin..end];
            if let Err(fault) = self.scan_record(record) {
                let reason = match fault {
                    Fault::TooDeep => "nested too deeply",
                    Fault::TooLong | Fault::Malformed => "its text is too long",
                };
                self.reject(reason, record, offset + begin as u64, record.len() as u64);
            }
            begin = end + 1;
        }
    }

    fn scan_record(&mut self, record: &[u8]) -> std::result::Result<(), Fault> {
        let mut tokens = self.tokens.take().unwrap_or_else(|| Tokens::new(self.options.max_depth)).begin(record);
        let result = match &mut self.work {
            Work::Infer { inferred, fields_at_most, too_many } => {
                let case = self.options.column_case;
                match infer(inferred, &mut tokens, case) {
                    Ok(Some(Seen::Blank)) => Ok(0),
                    Ok(Some(Seen::Record)) => Ok(1),
                    Ok(None) if *too_many => Ok(1),
                    Ok(None) => {
                        tokens = tokens.begin(record);
                        // A record has fewer fields than colons.
                        *fields_at_most += memchr::memchr_iter(b':', record).count();
                        let result = infer_anew(inferred, &mut tokens, case);
                        if *fields_at_most > MAX_FIELDS {
                            *fields_at_most = inferred.count();
                            *too_many = *fields_at_most > MAX_FIELDS;
                        }
                        result.map(|()| 1)
                    }
                    Err(fault) => Err(fault),
                }
            }
            Work::Print { printer, rows, columns, places, names, rest, rest_text } => {
                printer.record(&mut tokens, rows).map(|()| {
                    if let (true, Some(field)) = (rows.corrupt, printer.corrupt_field) {
                        let begin = rows.text.len();
                        rows.text.extend_from_slice(record);
                        rows.cells[field] = Some(begin..rows.text.len());
                    }
                    let fields = printer.fields();
                    for row in 0..rows.rows {
                        append(rows, row * fields, columns, places, names, *rest, rest_text);
                    }
                    self.rows += rows.rows;
                    // Only rows make a batch.
                    if rows.rows > 0 {
                        self.bytes += record.len() + rows.text.len();
                    }
                    self.outcome.corrupt_rows += u64::from(rows.corrupt);
                    rows.rows as u64
                })
            }
        };
        self.tokens = Some(tokens.begin(b""));
        self.outcome.rows += result?;
        Ok(())
    }

    fn reject(&mut self, reason: &str, line: &[u8], offset: u64, length: u64) {
        self.outcome.rejected += 1;
        if self.outcome.rejected <= self.options.max_rejects {
            self.notes.push(Note::Reject(Reject {
                file: self.outcome.file,
                line: self.outcome.lines,
                offset,
                length,
                reason: reason.to_owned(),
                raw: Raw::of(line, self.options.max_reject_bytes, length),
            }));
        }
    }
}

/// Why a file fails whose records have too many fields.
pub(crate) fn too_many_fields() -> (FailureReason, String) {
    (FailureReason::TooManyFields, format!("its records have more than {MAX_FIELDS} different fields"))
}

/// Appends a row, whose cells begin at `first`, to the columns.
fn append(
    rows: &Rows,
    first: usize,
    columns: &mut [StringBuilder],
    places: &[Option<usize>],
    names: &[String],
    rest: Option<usize>,
    rest_text: &mut Vec<u8>,
) {
    let mut filled = 0;
    rest_text.clear();
    for (field, place) in places.iter().enumerate() {
        let text = rows.cells[first + field].clone().map(|cell| &rows.text[cell]);
        match (place, text) {
            (Some(column), text) => {
                append_text(&mut columns[*column], text);
                filled += 1;
            }
            (None, Some(text)) => {
                rest_text.extend_from_slice(if rest_text.is_empty() { b"{\"" } else { b",\"" });
                JsonText(rest_text).plain(names[field].as_bytes());
                rest_text.extend_from_slice(b"\":\"");
                JsonText(rest_text).plain(text);
                rest_text.push(b'"');
            }
            (None, None) => {}
        }
    }
    if let Some(rest) = rest {
        if !rest_text.is_empty() {
            rest_text.push(b'}');
        }
        append_text(&mut columns[rest], (!rest_text.is_empty()).then_some(rest_text.as_slice()));
        filled += 1;
    }
    if filled == columns.len() {
        return;
    }
    // Columns of the dataset that this manifest doesn't have.
    let rows = columns.iter().map(arrow::array::ArrayBuilder::len).max().unwrap_or(0);
    for column in columns {
        if arrow::array::ArrayBuilder::len(column) < rows {
            column.append_null();
        }
    }
}

fn append_text(column: &mut StringBuilder, text: Option<&[u8]>) {
    // Text comes from a line that is UTF-8, cut and put together at ASCII characters.
    column.append_option(text.map(String::from_utf8_lossy));
}

//! One column of a batch while it grows: text, its ends, and which rows have none.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::BooleanBufferBuilder;
use arrow::array::{ArrayRef, StringArray, StringBuilder, new_null_array};
use arrow::buffer::{Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::DataType;
use arrow::error::ArrowError;

/// A column of text. Rows are set in order; those that are left out are null.
#[derive(Debug)]
pub(super) struct TextColumn {
    text: Vec<u8>,
    /// Where each row ends in `text`, after a leading 0.
    ends: Vec<i32>,
    /// Runs of null rows: first row and row after the last.
    nulls: Vec<(usize, usize)>,
}

impl TextColumn {
    pub(super) fn new() -> Self {
        Self { text: Vec::new(), ends: vec![0], nulls: Vec::new() }
    }

    #[inline]
    fn rows(&self) -> usize {
        self.ends.len() - 1
    }

    /// Makes the rows before `row` null that have no text.
    #[inline]
    fn reach(&mut self, row: usize) {
        let rows = self.rows();
        if rows < row {
            self.nulls.push((rows, row));
            self.ends.resize(row + 1, self.text.len() as i32);
        }
    }

    /// Sets `row`, which has no text yet, to a piece of `line`.
    #[inline(always)]
    pub(super) fn set(&mut self, row: usize, line: &[u8], piece: Range<usize>) {
        self.reach(row);
        let end = self.text.len() + piece.len();
        // Most texts are short. A copy of a fixed size, cut afterwards, is a move of a register or two, not a call.
        match line.get(piece.start..).and_then(|rest| rest.first_chunk::<32>()) {
            Some(block) if piece.len() <= 32 => {
                self.text.extend_from_slice(block);
                self.text.truncate(end);
            }
            _ => self.text.extend_from_slice(&line[piece]),
        }
        self.ends.push(end as i32);
    }

    /// Sets `row`, which has no text yet, to what `write` appends.
    pub(super) fn set_to(&mut self, row: usize, write: impl FnOnce(&mut Vec<u8>)) {
        self.reach(row);
        write(&mut self.text);
        self.ends.push(self.text.len() as i32);
    }

    /// Sets `row`, which has no text yet, to what `write` appends. If that fails the row has none.
    pub(super) fn set_with<T, E>(
        &mut self,
        row: usize,
        write: impl FnOnce(&mut Vec<u8>) -> Result<T, E>,
    ) -> Result<T, E> {
        self.reach(row);
        let begin = self.text.len();
        match write(&mut self.text) {
            Ok(value) => {
                self.ends.push(self.text.len() as i32);
                Ok(value)
            }
            Err(error) => {
                self.text.truncate(begin);
                Err(error)
            }
        }
    }

    /// Takes the text of `row` away, if it has one. It must be the last row that was set.
    #[inline]
    pub(super) fn unset(&mut self, row: usize) {
        if self.rows() > row {
            self.ends.truncate(row + 1);
            self.text.truncate(self.ends.last().map_or(0, |end| *end as usize));
        }
    }

    /// The array of `rows` rows. The column is empty afterwards, with room for as much again.
    pub(super) fn finish(&mut self, rows: usize) -> Result<ArrayRef, ArrowError> {
        self.reach(rows);
        let nulls = (!self.nulls.is_empty()).then(|| {
            let mut valid = BooleanBufferBuilder::new(rows);
            for &(first, end) in &self.nulls {
                valid.append_n(first - valid.len(), true);
                valid.append_n(end - first, false);
            }
            valid.append_n(rows - valid.len(), true);
            NullBuffer::new(valid.finish())
        });
        self.nulls.clear();
        let next_text = Vec::with_capacity(self.text.len() + self.text.len() / 8);
        let mut next_ends = Vec::with_capacity(self.ends.len());
        next_ends.push(0);
        let text = Buffer::from_vec(std::mem::replace(&mut self.text, next_text));
        let ends = OffsetBuffer::new(ScalarBuffer::from(std::mem::replace(&mut self.ends, next_ends)));
        array(ends, text, nulls)
    }
}

/// The array of what a column has gathered.
#[allow(unsafe_code, reason = "to check all text a second time takes a tenth of a conversion of text beyond ASCII")]
fn array(ends: OffsetBuffer<i32>, text: Buffer, nulls: Option<NullBuffer>) -> Result<ArrayRef, ArrowError> {
    if cfg!(debug_assertions) {
        // Tests and fuzz targets check it.
        return Ok(Arc::new(StringArray::try_new(ends, text, nulls)?));
    }
    // SAFETY: the offsets grow and end at the text's length, since each is its length when a row was set, and a text is cut
    // only back to an offset. Each row is UTF-8: it is a piece of a line that was checked before it was scanned, cut at
    // quotes, commas, brackets or escapes, which are ASCII, or it is characters that escapes stand for. There are as many
    // validity bits as rows.
    Ok(Arc::new(unsafe { StringArray::new_unchecked(ends, text, nulls) }))
}

/// A column that says the same in every row of a range.
#[derive(Debug)]
pub(super) struct Constant {
    text: Option<String>,
    /// Ranges before it that have rows in the batch: their texts, and the row after their last.
    before: Vec<(Option<String>, usize)>,
    /// Rows of the text, as many as were ever needed at once.
    array: Option<ArrayRef>,
}

impl Constant {
    pub(super) fn new() -> Self {
        Self { text: None, before: Vec::new(), array: None }
    }

    /// From `row` on it says `text`.
    pub(super) fn begin(&mut self, row: usize, text: Option<&str>) {
        if row > self.before.last().map_or(0, |(_, end)| *end) {
            self.before.push((self.text.take(), row));
        }
        self.text = text.map(str::to_owned);
        self.array = None;
    }

    /// The array of the `rows` so far; the next one begins with the same text.
    pub(super) fn rows(&mut self, rows: usize) -> ArrayRef {
        if self.before.is_empty() {
            return self.repeated(rows);
        }
        let mut before = std::mem::take(&mut self.before);
        before.push((self.text.clone(), rows));
        let mut array = StringBuilder::with_capacity(rows, rows * self.text.as_ref().map_or(0, String::len));
        let mut begin = 0;
        for (text, end) in before {
            match text {
                Some(text) => (begin..end).for_each(|_| array.append_value(&text)),
                None => array.append_nulls(end - begin),
            }
            begin = end;
        }
        Arc::new(array.finish())
    }

    fn repeated(&mut self, rows: usize) -> ArrayRef {
        if let Some(array) = self.array.as_ref().filter(|array| array.len() >= rows) {
            return array.slice(0, rows);
        }
        let room = rows.next_power_of_two();
        let array: ArrayRef = match &self.text {
            Some(text) => Arc::new(StringArray::from_iter_values(std::iter::repeat_n(text, room))),
            None => new_null_array(&DataType::Utf8, room),
        };
        self.array.insert(array).slice(0, rows)
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Array, AsArray};

    use super::*;

    #[test]
    fn rows_that_are_left_out_are_null() {
        let mut column = TextColumn::new();
        column.set(2, b"abcd", 2..3);
        column.set(3, b"", 0..0);
        column.unset(3);
        column.set(3, b"d", 0..1);
        assert_eq!(
            column.set_with(6, |text| {
                text.push(b'x');
                Err::<(), _>("no")
            }),
            Err("no")
        );
        let array = column.finish(8).unwrap();
        let texts: Vec<_> = array.as_string::<i32>().iter().collect();
        assert_eq!(texts, [None, None, Some("c"), Some("d"), None, None, None, None]);
        column.set(0, b"e", 0..1);
        let array = column.finish(1).unwrap();
        assert_eq!((array.as_string::<i32>().value(0), array.null_count()), ("e", 0));
    }

    #[test]
    fn a_constant_changes_from_range_to_range() {
        let texts = |constant: &mut Constant, rows| {
            let array = constant.rows(rows);
            array.as_string::<i32>().iter().map(|text| text.unwrap_or("-").to_owned()).collect::<String>()
        };
        let mut constant = Constant::new();
        constant.begin(0, Some("a"));
        assert_eq!(texts(&mut constant, 3), "aaa");
        // The batch was taken: another one begins in the same range.
        constant.begin(2, Some("b"));
        constant.begin(2, Some("no row"));
        constant.begin(2, None);
        constant.begin(3, Some("c"));
        assert_eq!(texts(&mut constant, 5), "aa-cc");
        assert_eq!(texts(&mut constant, 2), "cc");
        constant.begin(1, Some("d"));
        assert_eq!(texts(&mut constant, 1), "c");
        assert_eq!(texts(&mut constant, 1), "d");
    }

    #[test]
    fn a_piece_is_copied_whatever_its_length_and_place() {
        let line: Vec<u8> = (0..200_u8).map(|byte| b'a' + byte % 26).collect();
        let pieces: Vec<_> =
            (0..90).flat_map(|length| [0, 7, 200 - length].map(|start| start..start + length)).collect();
        let mut column = TextColumn::new();
        for (row, piece) in pieces.iter().enumerate() {
            column.set(row, &line, piece.clone());
        }
        let array = column.finish(pieces.len()).unwrap();
        for (row, piece) in pieces.into_iter().enumerate() {
            assert_eq!(array.as_string::<i32>().value(row).as_bytes(), &line[piece]);
        }
    }
}

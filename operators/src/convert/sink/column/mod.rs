//! Encodes the text columns of a row group: what [`parquet`]'s own writer does, for the one type that we have.
//!
//! A column is either its distinct values and their numbers (dictionary), or the lengths of its values and then their text
//! (DELTA_LENGTH_BYTE_ARRAY): since Arrow holds a column's text in one piece, that costs one copy of a whole batch. Which
//! of the two is decided from a row group's first rows, and a dictionary that doesn't pay after all is left at the end of
//! a page. Values that a dictionary wouldn't shrink are never hashed.
//!
//! The pages, their headers and the file around them follow <https://parquet.apache.org/docs/file-format/>; what stands
//! in headers and footer is still written by [`parquet`].

mod bounds;
mod chunk;
mod compress;
mod delta;
mod dictionary;
mod levels;
mod pages;

use arrow::array::{Array, StringArray};
use parquet::basic::Encoding;
use parquet::errors::Result;

use self::bounds::Bounds;
pub(super) use self::chunk::ChunkOptions;
pub(super) use self::chunk::EncodedColumn;
pub(super) use self::chunk::Room;
use self::chunk::{Chunk, PageFacts};
use self::dictionary::Dictionary;
use self::levels::{Validity, put_hybrid, width_of};
pub(super) use self::pages::Pages;

/// A page ends when it holds this much text, or this many rows. A larger one would hardly be smaller when compressed, and
/// the pages of all columns would have left the cache by then.
const PAGE_BYTES: usize = 256 << 10;
const PAGE_ROWS: usize = 20_000;

/// What is left free before a page's text: levels and lengths of long values find room there, and the text need not move.
const HEAD_BYTES: usize = 4 << 10;

/// A dictionary ends when its page holds this much.
const DICTIONARY_BYTES: usize = 1 << 20;

/// How the values of a page are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// As numbers of distinct values.
    Dictionary,
    /// As lengths and text.
    DeltaLength,
    /// As text, each after its length: larger and slower, for readers that know nothing else.
    Plain,
}

/// One column of a row group while it grows.
pub(super) struct ColumnEncoder {
    chunk: Chunk,
    form: Form,
    /// The form of pages after a dictionary is given up.
    otherwise: Form,
    validity: Validity,
    dictionary: Option<Dictionary>,
    /// The page's values: their numbers, or their lengths and text.
    numbers: Vec<u32>,
    lengths: Vec<u32>,
    /// [`HEAD_BYTES`], then the text.
    text: Vec<u8>,
    bounds: Bounds,
    /// Which page a number occurred in last.
    last_page: Vec<u32>,
    page: u32,
    /// Bytes of the page's values.
    page_text_bytes: usize,
    /// Values in all pages so far.
    values: usize,
}

impl ColumnEncoder {
    /// A column in `form` at first; `otherwise` follows a dictionary that doesn't pay.
    pub(super) fn new(options: ChunkOptions, form: Form, otherwise: Form) -> Result<Self> {
        Ok(Self {
            chunk: Chunk::new(options)?,
            form,
            otherwise,
            validity: Validity::new(),
            dictionary: (form == Form::Dictionary).then(Dictionary::new),
            numbers: Vec::new(),
            lengths: Vec::new(),
            text: Vec::new(),
            bounds: Bounds::default(),
            last_page: Vec::new(),
            page: 0,
            page_text_bytes: 0,
            values: 0,
        })
    }

    /// Adds rows.
    pub(super) fn write(&mut self, column: &StringArray, room: &mut Room) -> Result<()> {
        self.validity.add(column.len(), column.nulls());
        match column.nulls().filter(|nulls| nulls.null_count() > 0) {
            None => self.add(column, 0..column.len()),
            Some(nulls) if nulls.null_count() == column.len() => {}
            Some(nulls) => self.add(column, nulls.valid_indices()),
        }
        let is_full = self.text.len() >= HEAD_BYTES + PAGE_BYTES || self.validity.rows() >= PAGE_ROWS;
        if is_full || self.dictionary_is_full() {
            self.end_page(room)?;
        }
        Ok(())
    }

    /// Whether a dictionary is in use that must not grow any more.
    fn dictionary_is_full(&self) -> bool {
        let dictionary = self.dictionary.as_ref().filter(|_| self.form == Form::Dictionary);
        dictionary.is_some_and(|dictionary| dictionary.plain().len() > DICTIONARY_BYTES)
    }

    fn add(&mut self, column: &StringArray, rows: impl Iterator<Item = usize>) {
        let (ends, text) = (column.value_offsets(), column.value_data());
        let values = rows.map(|row| &text[ends[row] as usize..ends[row + 1] as usize]);
        match (self.form, &mut self.dictionary) {
            (Form::Dictionary, Some(dictionary)) => {
                for value in values {
                    self.page_text_bytes += value.len();
                    self.numbers.push(dictionary.number(value));
                }
            }
            _ => {
                if self.text.is_empty() {
                    self.text.resize(HEAD_BYTES, 0);
                }
                let (page_begin, before) = (self.text.len(), self.lengths.len());
                let with_bounds = self.chunk.wants_bounds();
                for value in values {
                    self.lengths.push(value.len() as u32);
                    if with_bounds {
                        self.bounds.add(value);
                    }
                    self.chunk.add_to_bloom_filter(value);
                }
                let sum: usize = self.lengths[before..].iter().map(|length| *length as usize).sum();
                let (first, last) = (ends[0] as usize, ends[column.len()] as usize);
                if last - first == sum {
                    self.text.extend_from_slice(&text[first..last]);
                } else {
                    // Null rows may hold text too; ours never do.
                    let valid = (0..column.len()).filter(|row| column.is_valid(*row));
                    valid.for_each(|row| self.text.extend_from_slice(column.value(row).as_bytes()));
                }
                self.page_text_bytes += self.text.len() - page_begin;
            }
        }
    }

    /// What it holds in memory.
    pub(super) fn memory_bytes(&self) -> usize {
        let dictionary = self.dictionary.as_ref().map_or(0, Dictionary::memory_bytes);
        let page = self.text.capacity() + (self.numbers.capacity() + self.lengths.capacity()) * 4;
        self.chunk.memory_bytes() + dictionary + page + self.last_page.capacity() * 4
    }

    fn end_page(&mut self, room: &mut Room) -> Result<()> {
        let (rows, nulls) = (self.validity.rows(), self.validity.nulls());
        if rows == 0 {
            return Ok(());
        }
        let values = rows - nulls;
        self.values += values;
        let text_bytes = std::mem::take(&mut self.page_text_bytes);
        let bounds = self.bounds_of_page();
        let facts = PageFacts { rows, nulls, text_bytes, bounds, encoding: self.form.encoding() };
        let page = &mut room.page;
        page.clear();
        // A column that can't be null has no levels.
        if self.chunk.is_nullable() {
            self.validity.flush(page);
        } else {
            self.validity.clear();
        }
        let text = self.text.get(HEAD_BYTES..).unwrap_or_default();
        let mut whole = None;
        match self.form {
            Form::Dictionary => {
                let entries = self.dictionary.as_ref().map_or(0, Dictionary::len);
                let width = width_of(entries.saturating_sub(1) as u32);
                page.push(width as u8);
                put_hybrid(page, &self.numbers, width);
            }
            Form::DeltaLength => {
                delta::put_lengths(page, &self.lengths);
                if page.len() <= HEAD_BYTES && !text.is_empty() {
                    let begin = HEAD_BYTES - page.len();
                    self.text[begin..HEAD_BYTES].copy_from_slice(page);
                    whole = Some(&self.text[begin..]);
                } else {
                    page.extend_from_slice(text);
                }
            }
            Form::Plain => {
                let mut at = 0;
                for length in &self.lengths {
                    page.extend_from_slice(&length.to_le_bytes());
                    page.extend_from_slice(&text[at..at + *length as usize]);
                    at += *length as usize;
                }
            }
        }
        self.chunk.put_page(facts, whole, room)?;
        self.numbers.clear();
        self.lengths.clear();
        self.text.clear();
        self.page += 1;
        let distinct = self.dictionary.as_ref().map_or(0, Dictionary::len);
        if self.dictionary_is_full() || distinct * 2 > self.values && self.values > 4096 {
            self.form = self.otherwise;
        }
        Ok(())
    }

    fn bounds_of_page(&mut self) -> Bounds {
        let mut bounds = std::mem::take(&mut self.bounds);
        if let (Form::Dictionary, Some(dictionary), true) = (self.form, &self.dictionary, self.chunk.wants_bounds()) {
            // A value that occurs again in a page tells nothing new.
            self.last_page.resize(dictionary.len(), u32::MAX);
            for number in &self.numbers {
                if std::mem::replace(&mut self.last_page[*number as usize], self.page) != self.page {
                    bounds.add(dictionary.value(*number));
                }
            }
        }
        bounds
    }

    /// Ends the column.
    pub(super) fn close(mut self, room: &mut Room) -> Result<EncodedColumn> {
        self.end_page(room)?;
        self.chunk.close(self.dictionary, room)
    }
}

impl Form {
    fn encoding(self) -> Encoding {
        match self {
            Self::Dictionary => Encoding::RLE_DICTIONARY,
            Self::DeltaLength => Encoding::DELTA_LENGTH_BYTE_ARRAY,
            Self::Plain => Encoding::PLAIN,
        }
    }
}

#[cfg(test)]
mod tests;

//! From batches to the column chunks of a row group.

use std::collections::HashSet;
use std::hash::BuildHasher;
use std::io::Write;

use arrow::array::{Array, AsArray, RecordBatch, StringArray};
use foldhash::fast::RandomState;
use parquet::basic::{BrotliLevel, Compression, GzipLevel, ZstdLevel};
use parquet::errors::Result;
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterPropertiesBuilder};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::SchemaDescriptor;
use serde::{Deserialize, Serialize};

use super::column::{ChunkOptions, ColumnEncoder, EncodedColumn, Form, Pages, Room};
use crate::convert::buffers::BufferPool;
use crate::convert::options;

/// Values looked at to tell whether a dictionary pays.
const SAMPLE: usize = 1024;

/// Fewer don't tell; then a dictionary is tried unless they hold more text than this.
const LEAST_SAMPLE: usize = 64;
const LEAST_SAMPLE_BYTES: usize = 64 << 10;

/// How columns are written: plain data, part of the sink's node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EncodeOptions {
    /// How pages are compressed.
    pub compression: options::Compression,
    /// How hard the codec tries, where it has levels.
    pub compression_level: Option<u32>,
    /// How text is written that no dictionary shrinks.
    pub text_encoding: options::TextEncoding,
    /// What a row group holds at most, in bytes of text.
    pub row_group_bytes: usize,
    /// Whether column chunks have statistics.
    pub statistics: bool,
    /// Whether pages have them too.
    pub page_index: bool,
    /// Columns with a Bloom filter.
    pub bloom_filter_columns: Vec<String>,
    /// The share of false answers of those.
    pub bloom_filter_false_share: f64,
}

impl EncodeOptions {
    fn codec(&self) -> Result<Compression> {
        let level = self.compression_level;
        Ok(match self.compression {
            options::Compression::Uncompressed => Compression::UNCOMPRESSED,
            options::Compression::Snappy => Compression::SNAPPY,
            options::Compression::Gzip => {
                Compression::GZIP(level.map_or(Ok(GzipLevel::default()), GzipLevel::try_new)?)
            }
            options::Compression::Brotli => {
                Compression::BROTLI(level.map_or(Ok(BrotliLevel::default()), BrotliLevel::try_new)?)
            }
            options::Compression::Lz4 => Compression::LZ4_RAW,
            options::Compression::Zstd => {
                Compression::ZSTD(level.map_or(Ok(ZstdLevel::default()), |level| ZstdLevel::try_new(level as i32))?)
            }
        })
    }

    /// Says what can't be right.
    pub(crate) fn check(&self) -> Result<()> {
        self.codec().map(drop)
    }

    /// The properties of a file: what its footer needs.
    pub(super) fn properties(&self) -> WriterPropertiesBuilder {
        let statistics = match (self.statistics, self.page_index) {
            (false, _) => EnabledStatistics::None,
            (true, false) => EnabledStatistics::Chunk,
            (true, true) => EnabledStatistics::Page,
        };
        WriterProperties::builder()
            .set_created_by(concat!("penstock version ", env!("CARGO_PKG_VERSION")).to_owned())
            .set_statistics_enabled(statistics)
    }
}

/// A row group while it grows.
pub(super) struct RowGroupEncoder {
    columns: Vec<ColumnEncoder>,
    room: Room,
    pub(super) rows: usize,
    /// Bytes of text so far.
    pub(super) text_bytes: usize,
}

/// A row group, encoded.
pub(super) struct RowGroup {
    columns: Vec<EncodedColumn>,
    pages: Pages,
    pub(super) rows: usize,
}

impl RowGroupEncoder {
    /// A row group that `first` will be written to: a column gets a dictionary if its values there repeat themselves.
    pub(super) fn new(
        schema: &SchemaDescriptor,
        options: &EncodeOptions,
        first: &RecordBatch,
        pool: &BufferPool,
    ) -> Result<Self> {
        let compression = options.codec()?;
        let otherwise = match options.text_encoding {
            options::TextEncoding::DeltaLength => Form::DeltaLength,
            options::TextEncoding::Plain => Form::Plain,
        };
        let values_to_come = values_to_come(first, options.row_group_bytes);
        let columns = schema.columns().iter().zip(first.columns()).map(|(column, values)| {
            let has_bloom_filter = options.bloom_filter_columns.iter().any(|name| name == column.name());
            let options = ChunkOptions {
                column: column.clone(),
                compression,
                statistics: options.statistics,
                page_index: options.page_index,
                bloom_filter: has_bloom_filter.then_some((values_to_come, options.bloom_filter_false_share)),
            };
            let form = if dictionary_pays(values.as_string()) { Form::Dictionary } else { otherwise };
            ColumnEncoder::new(options, form, otherwise)
        });
        Ok(Self { columns: columns.collect::<Result<_>>()?, room: Room::new(pool.clone()), rows: 0, text_bytes: 0 })
    }

    /// Adds rows. Columns past those of the schema are left out.
    pub(super) fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        for (array, column) in batch.columns().iter().zip(&mut self.columns) {
            let text: &StringArray = array.as_string();
            self.text_bytes += text_bytes(text);
            column.write(text, &mut self.room)?;
        }
        self.rows += batch.num_rows();
        Ok(())
    }

    /// What it holds in memory.
    pub(super) fn memory_bytes(&self) -> usize {
        self.columns.iter().map(ColumnEncoder::memory_bytes).sum::<usize>() + self.room.memory_bytes()
    }

    /// Ends the row group.
    pub(super) fn close(mut self) -> Result<RowGroup> {
        let columns = self.columns.into_iter().map(|column| column.close(&mut self.room)).collect::<Result<_>>()?;
        Ok(RowGroup { columns, pages: self.room.into_pages(), rows: self.rows })
    }
}

impl RowGroup {
    /// Appends it to a file.
    pub(super) fn append_to<W: Write + Send>(self, file: &mut SerializedFileWriter<W>) -> Result<()> {
        let mut row_group = file.next_row_group()?;
        for column in self.columns {
            column.append_to(&self.pages, &mut row_group)?;
        }
        row_group.close()?;
        Ok(())
    }

    /// What it holds in memory.
    pub(super) fn memory_bytes(&self) -> usize {
        self.pages.memory_bytes()
    }
}

/// The bytes of a column's text.
fn text_bytes(column: &StringArray) -> usize {
    match column.value_offsets() {
        [first, .., last] => (last - first) as usize,
        _ => 0,
    }
}

/// About as many values as a column of a row group will have, if all rows are like the `first`.
fn values_to_come(first: &RecordBatch, row_group_bytes: usize) -> u64 {
    let bytes: usize = first.columns().iter().map(|column| text_bytes(column.as_string())).sum();
    first.num_rows() as u64 * row_group_bytes as u64 / bytes.max(1) as u64
}

/// Whether values repeat themselves enough to be worth looking each one up.
fn dictionary_pays(column: &StringArray) -> bool {
    let hasher = RandomState::default();
    let step = (column.len() / SAMPLE).max(1);
    let (mut seen, mut bytes) = (0, 0);
    let mut distinct = HashSet::with_capacity_and_hasher(SAMPLE, RandomState::default());
    for row in (0..column.len()).step_by(step).filter(|row| column.is_valid(*row)) {
        seen += 1;
        bytes += column.value(row).len();
        distinct.insert(hasher.hash_one(column.value(row)));
    }
    distinct.len() * 10 < seen * 7 || seen < LEAST_SAMPLE && bytes <= LEAST_SAMPLE_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dictionaries_are_for_values_that_repeat() {
        let unique = StringArray::from_iter_values((0..5000).map(|row| row.to_string()));
        let repeating = StringArray::from_iter_values((0..5000).map(|row| (row % 7).to_string()));
        assert!(!dictionary_pays(&unique));
        assert!(dictionary_pays(&repeating));
        assert!(dictionary_pays(&StringArray::new_null(5000)));
        assert!(dictionary_pays(&StringArray::from_iter_values(["few", "short"])));
        let long = |number: usize| format!("{number}{}", "x".repeat(10_000));
        assert!(!dictionary_pays(&StringArray::from_iter_values((0..10).map(long))));
        assert!(dictionary_pays(&StringArray::from_iter_values((0..10).map(|number| long(number % 2)))));
    }
}

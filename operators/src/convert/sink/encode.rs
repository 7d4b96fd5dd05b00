//! From batches to the column chunks of a row group.

use std::collections::HashSet;
use std::hash::BuildHasher;
use std::io::Write;
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch, StringArray};
use arrow::datatypes::SchemaRef;
use foldhash::fast::RandomState;
use parquet::arrow::ArrowSchemaConverter;
use parquet::arrow::arrow_writer::{ArrowColumnChunk, ArrowColumnWriter, ArrowRowGroupWriterFactory, compute_leaves};
use parquet::basic::{BrotliLevel, Compression, GzipLevel, ZstdLevel};
use parquet::errors::Result;
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterPropertiesBuilder};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::ColumnPath;
use serde::{Deserialize, Serialize};

use crate::convert::options;

/// Values looked at to tell whether a dictionary pays.
const SAMPLE: usize = 1024;

/// How columns are written: plain data, part of the sink's node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EncodeOptions {
    /// How pages are compressed.
    pub compression: options::Compression,
    /// What a row group holds at most, in bytes of text.
    pub row_group_bytes: usize,
    /// Whether pages have statistics.
    pub page_index: bool,
}

impl EncodeOptions {
    /// The properties of a file.
    pub(super) fn properties(&self) -> WriterPropertiesBuilder {
        let compression = match self.compression {
            options::Compression::Uncompressed => Compression::UNCOMPRESSED,
            options::Compression::Snappy => Compression::SNAPPY,
            options::Compression::Gzip => Compression::GZIP(GzipLevel::default()),
            options::Compression::Brotli => Compression::BROTLI(BrotliLevel::default()),
            options::Compression::Lz4 => Compression::LZ4_RAW,
            options::Compression::Zstd => Compression::ZSTD(ZstdLevel::default()),
        };
        WriterProperties::builder()
            .set_created_by(concat!("penstock version ", env!("CARGO_PKG_VERSION")).to_owned())
            .set_compression(compression)
            .set_statistics_enabled(if self.page_index { EnabledStatistics::Page } else { EnabledStatistics::Chunk })
    }
}

/// A row group while it grows.
pub(super) struct RowGroupEncoder {
    schema: SchemaRef,
    columns: Vec<ArrowColumnWriter>,
    pub(super) rows: usize,
    /// Bytes of text so far.
    pub(super) text_bytes: usize,
}

/// A row group, encoded.
pub(super) struct RowGroup {
    chunks: Vec<ArrowColumnChunk>,
    pub(super) rows: usize,
}

impl RowGroupEncoder {
    /// A row group that `first` will be written to: a column gets a dictionary if its values there repeat themselves.
    pub(super) fn new(schema: SchemaRef, options: &EncodeOptions, first: &RecordBatch) -> Result<Self> {
        let mut properties = options.properties();
        for (field, column) in schema.fields().iter().zip(first.columns()) {
            if !dictionary_pays(column.as_string()) {
                let path = ColumnPath::new(vec![field.name().clone()]);
                properties = properties.set_column_dictionary_enabled(path, false);
            }
        }
        // The factory wants a file to take the properties from; this one goes nowhere.
        let root = ArrowSchemaConverter::new().convert(&schema)?.root_schema_ptr();
        let file = SerializedFileWriter::new(std::io::sink(), root, Arc::new(properties.build()))?;
        let columns = ArrowRowGroupWriterFactory::new(&file, schema.clone()).create_column_writers(0)?;
        Ok(Self { schema, columns, rows: 0, text_bytes: 0 })
    }

    /// Adds rows. Columns past those of the schema are left out.
    pub(super) fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        for ((field, array), writer) in self.schema.fields().iter().zip(batch.columns()).zip(&mut self.columns) {
            let text: &StringArray = array.as_string();
            if let [first, .., last] = text.value_offsets() {
                self.text_bytes += (last - first) as usize;
            }
            for leaf in compute_leaves(field, array)? {
                writer.write(&leaf)?;
            }
        }
        self.rows += batch.num_rows();
        Ok(())
    }

    /// What it holds in memory.
    pub(super) fn memory_bytes(&self) -> usize {
        self.columns.iter().map(ArrowColumnWriter::memory_size).sum()
    }

    /// Ends the row group.
    pub(super) fn close(self) -> Result<RowGroup> {
        let chunks = self.columns.into_iter().map(ArrowColumnWriter::close).collect::<Result<_>>()?;
        Ok(RowGroup { chunks, rows: self.rows })
    }
}

impl RowGroup {
    /// Appends it to a file.
    pub(super) fn append_to<W: Write + Send>(self, file: &mut SerializedFileWriter<W>) -> Result<()> {
        let mut row_group = file.next_row_group()?;
        for chunk in self.chunks {
            chunk.append_to_row_group(&mut row_group)?;
        }
        row_group.close()?;
        Ok(())
    }

    /// What its chunks hold.
    pub(super) fn bytes(&self) -> usize {
        self.chunks.iter().map(|chunk| chunk.close().metadata.compressed_size().max(0) as usize).sum()
    }
}

/// Whether values repeat themselves enough to be worth looking each one up.
fn dictionary_pays(column: &StringArray) -> bool {
    let hasher = RandomState::default();
    let step = (column.len() / SAMPLE).max(1);
    let (mut seen, mut distinct) = (0, HashSet::with_capacity_and_hasher(SAMPLE, RandomState::default()));
    for row in (0..column.len()).step_by(step).filter(|row| column.is_valid(*row)) {
        seen += 1;
        distinct.insert(hasher.hash_one(column.value(row)));
    }
    seen < 64 || distinct.len() * 10 < seen * 7
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
    }
}

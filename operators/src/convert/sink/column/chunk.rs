//! The pages of a column chunk, and what the file's footer and indexes say of them.

use std::io::Write as _;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use parquet::basic::{Compression, Encoding, PageType, Type};
use parquet::bloom_filter::Sbbf;
use parquet::column::page::{CompressedPage, Page, PageWriteSpec, PageWriter};
use parquet::column::writer::ColumnCloseResult;
use parquet::errors::Result;
use parquet::file::metadata::{
    ColumnChunkMetaData, ColumnIndexBuilder, LevelHistogram, OffsetIndexBuilder, PageEncodingStats,
};
use parquet::file::page_index::column_index::ColumnIndexMetaData;
use parquet::file::statistics::{Statistics, ValueStatistics};
use parquet::file::writer::{SerializedPageWriter, SerializedRowGroupWriter, TrackedWrite};
use parquet::schema::types::ColumnDescPtr;

use super::bounds::Bounds;
use super::compress::Compressor;
use super::dictionary::Dictionary;
use super::pages::{ChunkPages, Pages};
use crate::convert::buffers::BufferPool;

/// Distinct values that a Bloom filter is made for, at least and at most.
const LEAST_BLOOM_FILTER_VALUES: u64 = 1 << 10;
const MOST_BLOOM_FILTER_VALUES: u64 = 1 << 23;

/// What a column chunk holds besides its values.
#[derive(Debug, Clone)]
pub(in super::super) struct ChunkOptions {
    pub(in super::super) column: ColumnDescPtr,
    pub(in super::super) compression: Compression,
    /// Whether the chunk's least and greatest value are told.
    pub(in super::super) statistics: bool,
    /// Whether those of each page are too, and where the pages are.
    pub(in super::super) page_index: bool,
    /// The share of false answers of a Bloom filter, if there is to be one.
    pub(in super::super) bloom_filter: Option<(u64, f64)>,
}

/// What a page is, besides its bytes.
pub(super) struct PageFacts {
    pub(super) rows: usize,
    pub(super) nulls: usize,
    pub(super) text_bytes: usize,
    pub(super) bounds: Bounds,
    pub(super) encoding: Encoding,
}

/// An encoded column of a row group.
pub(in super::super) struct EncodedColumn {
    /// Its pages among those of its row group.
    places: Vec<Range<usize>>,
    close: ColumnCloseResult,
}

impl EncodedColumn {
    /// Appends it to a row group.
    pub(in super::super) fn append_to<W: std::io::Write + Send>(
        self,
        pages: &Pages,
        row_group: &mut SerializedRowGroupWriter<'_, W>,
    ) -> Result<()> {
        row_group.append_column(&ChunkPages { pages, places: &self.places }, self.close)
    }
}

/// What the columns of a row group share: room to work in, which one at a time needs, and the pages that are done.
#[derive(Debug)]
pub(in super::super) struct Room {
    /// A page, or what precedes its text, before it is compressed.
    pub(super) page: Vec<u8>,
    compressed: Arc<Vec<u8>>,
    pages: Pages,
}

impl Room {
    pub(in super::super) fn new(pool: BufferPool) -> Self {
        Self { page: Vec::new(), compressed: Arc::default(), pages: Pages::new(pool) }
    }

    pub(in super::super) fn memory_bytes(&self) -> usize {
        self.page.capacity() + self.compressed.capacity() + self.pages.memory_bytes()
    }

    pub(in super::super) fn into_pages(self) -> Pages {
        self.pages
    }
}

/// A page on its way: [`Page`] wants to own it, and its memory is needed again.
struct Lent(Arc<Vec<u8>>);

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// A column chunk while it grows.
pub(super) struct Chunk {
    options: ChunkOptions,
    compressor: Compressor,
    pages: Vec<WrittenPage>,
    bounds: Bounds,
    bloom_filter: Option<Sbbf>,
    uncompressed_bytes: usize,
}

struct WrittenPage {
    facts: PageFacts,
    /// Among those of its row group, header included.
    place: Range<usize>,
}

impl Chunk {
    pub(super) fn new(options: ChunkOptions) -> Result<Self> {
        let bloom_filter = options.bloom_filter.map(|(values, share)| {
            let values = values.clamp(LEAST_BLOOM_FILTER_VALUES, MOST_BLOOM_FILTER_VALUES);
            Sbbf::new_with_ndv_fpp(values, share)
        });
        Ok(Self {
            compressor: Compressor::new(options.compression)?,
            bloom_filter: bloom_filter.transpose()?,
            options,
            pages: Vec::new(),
            bounds: Bounds::default(),
            uncompressed_bytes: 0,
        })
    }

    pub(super) fn is_nullable(&self) -> bool {
        self.options.column.max_def_level() > 0
    }

    pub(super) fn wants_bounds(&self) -> bool {
        self.options.statistics
    }

    #[inline]
    pub(super) fn add_to_bloom_filter(&mut self, value: &[u8]) {
        if let Some(filter) = &mut self.bloom_filter {
            filter.insert(value);
        }
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.bloom_filter.as_ref().map_or(0, |filter| filter.num_blocks() * 32)
    }

    /// Adds a data page: `text`, or what `room` holds as one.
    pub(super) fn put_page(&mut self, facts: PageFacts, text: Option<&[u8]>, room: &mut Room) -> Result<()> {
        let page = text.unwrap_or(&room.page);
        let uncompressed_bytes = page.len();
        let page = Page::DataPage {
            buf: compress(&mut self.compressor, page, &mut room.compressed)?,
            num_values: facts.rows as u32,
            encoding: facts.encoding,
            def_level_encoding: Encoding::RLE,
            rep_level_encoding: Encoding::RLE,
            statistics: None,
        };
        let (spec, place) = put(&mut room.pages, page, uncompressed_bytes)?;
        self.uncompressed_bytes += spec.uncompressed_size;
        self.bounds.merge(&facts.bounds);
        self.pages.push(WrittenPage { facts, place });
        Ok(())
    }

    /// The chunk: its dictionary, if it has one, then its pages.
    pub(super) fn close(mut self, dictionary: Option<Dictionary>, room: &mut Room) -> Result<EncodedColumn> {
        let mut places = Vec::with_capacity(self.pages.len() + 1);
        let used = self.pages.iter().any(|page| page.facts.encoding == Encoding::RLE_DICTIONARY);
        let dictionary = dictionary.filter(|_| used);
        if let Some(dictionary) = &dictionary {
            dictionary.values().for_each(|value| self.add_to_bloom_filter(value));
            let page = Page::DictionaryPage {
                buf: compress(&mut self.compressor, dictionary.plain(), &mut room.compressed)?,
                num_values: dictionary.len() as u32,
                encoding: Encoding::PLAIN,
                is_sorted: false,
            };
            let (spec, place) = put(&mut room.pages, page, dictionary.plain().len())?;
            self.uncompressed_bytes += spec.uncompressed_size;
            places.push(place);
        }
        let dictionary_bytes = places.iter().map(Range::len).sum();
        places.extend(self.pages.iter().map(|page| page.place.clone()));
        let bytes = places.iter().map(Range::len).sum();
        let rows: usize = self.pages.iter().map(|page| page.facts.rows).sum();
        let metadata = self.metadata(bytes, rows, dictionary.is_some().then_some(dictionary_bytes))?;
        let column_index = self.column_index()?;
        let offset_index = self.options.page_index.then(|| self.offset_index(dictionary_bytes as u64));
        if let (Some(filter), Some((_, share))) = (&mut self.bloom_filter, self.options.bloom_filter) {
            filter.fold_to_target_fpp(share);
        }
        let close = ColumnCloseResult {
            bytes_written: bytes as u64,
            rows_written: rows as u64,
            metadata,
            bloom_filter: self.bloom_filter,
            column_index,
            offset_index: offset_index.map(OffsetIndexBuilder::build),
        };
        Ok(EncodedColumn { places, close })
    }

    fn metadata(&self, bytes: usize, rows: usize, dictionary_bytes: Option<usize>) -> Result<ColumnChunkMetaData> {
        let nulls: usize = self.pages.iter().map(|page| page.facts.nulls).sum();
        let text_bytes: usize = self.pages.iter().map(|page| page.facts.text_bytes).sum();
        let mut encodings = vec![Encoding::RLE];
        let mut pages: Vec<PageEncodingStats> = Vec::new();
        if dictionary_bytes.is_some() {
            encodings.push(Encoding::PLAIN);
            pages.push(PageEncodingStats { page_type: PageType::DICTIONARY_PAGE, encoding: Encoding::PLAIN, count: 1 });
        }
        for page in &self.pages {
            let encoding = page.facts.encoding;
            match pages.last_mut().filter(|last| last.page_type == PageType::DATA_PAGE && last.encoding == encoding) {
                Some(last) => last.count += 1,
                None => {
                    encodings.push(encoding);
                    pages.push(PageEncodingStats { page_type: PageType::DATA_PAGE, encoding, count: 1 });
                }
            }
        }
        let mut metadata = ColumnChunkMetaData::builder(self.options.column.clone())
            .set_compression(self.options.compression)
            .set_encodings(encodings)
            .set_page_encoding_stats(pages)
            .set_total_compressed_size(bytes as i64)
            .set_total_uncompressed_size(self.uncompressed_bytes as i64)
            .set_num_values(rows as i64)
            .set_data_page_offset(dictionary_bytes.unwrap_or(0) as i64)
            .set_dictionary_page_offset(dictionary_bytes.map(|_| 0));
        if self.options.statistics {
            let (least, greatest) = self.bounds.get().unzip();
            let exact = |bound: &Option<super::bounds::Bound>| bound.as_ref().is_some_and(|bound| bound.exact);
            let (least_exact, greatest_exact) = (exact(&least), exact(&greatest));
            let value = |bound: Option<super::bounds::Bound>| bound.map(|bound| bound.value.into());
            let statistics = ValueStatistics::new(value(least), value(greatest), None, Some(nulls as u64), false)
                .with_min_is_exact(least_exact)
                .with_max_is_exact(greatest_exact);
            metadata = metadata
                .set_statistics(Statistics::ByteArray(statistics))
                .set_unencoded_byte_array_data_bytes(Some(text_bytes as i64))
                .set_definition_level_histogram(self.histogram(nulls, rows));
        }
        metadata.build()
    }

    /// None if it isn't wanted, or if a page has no bounds though it has values.
    fn column_index(&self) -> Result<Option<ColumnIndexMetaData>> {
        if !self.options.page_index || !self.options.statistics || self.pages.is_empty() {
            return Ok(None);
        }
        let mut index = ColumnIndexBuilder::new(Type::BYTE_ARRAY);
        for WrittenPage { facts, .. } in &self.pages {
            let (least, greatest) = match facts.bounds.get() {
                Some((least, greatest)) => (least.value, greatest.value),
                None if facts.nulls == facts.rows => (Vec::new(), Vec::new()),
                None => return Ok(None),
            };
            index.append(facts.nulls == facts.rows, least, greatest, facts.nulls as i64);
            index.append_histograms(&None, &self.histogram(facts.nulls, facts.rows));
        }
        index.build().map(Some)
    }

    /// How many rows have no value, and how many have one; none where each must have one.
    fn histogram(&self, nulls: usize, rows: usize) -> Option<LevelHistogram> {
        self.is_nullable().then(|| LevelHistogram::from(vec![nulls as i64, (rows - nulls) as i64]))
    }

    fn offset_index(&self, dictionary_bytes: u64) -> OffsetIndexBuilder {
        let mut index = OffsetIndexBuilder::new();
        let mut offset = dictionary_bytes;
        for page in &self.pages {
            index.append_row_count(page.facts.rows as i64);
            index.append_offset_and_size(offset as i64, page.place.len() as i32);
            offset += page.place.len() as u64;
            index.append_unencoded_byte_array_data_bytes(Some(page.facts.text_bytes as i64));
        }
        index
    }
}

/// The compressed form of `page`, which `room` holds as long as it is needed.
fn compress(compressor: &mut Compressor, page: &[u8], room: &mut Arc<Vec<u8>>) -> Result<Bytes> {
    let length = compressor.compress(page, Arc::make_mut(room))?;
    Ok(Bytes::from_owner(Lent(room.clone())).slice(..length))
}

/// Appends a page with its header; tells where it is.
fn put(pages: &mut Pages, page: Page, uncompressed_bytes: usize) -> Result<(PageWriteSpec, Range<usize>)> {
    let begin = pages.end();
    let mut out = TrackedWrite::new(&mut *pages);
    let spec = SerializedPageWriter::new(&mut out).write_page(CompressedPage::new(page, uncompressed_bytes))?;
    out.flush()?;
    drop(out);
    Ok((spec, begin..pages.end()))
}

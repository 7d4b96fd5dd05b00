//! What is encoded here is read back by another's reader, which also judges indexes, statistics and filters.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use bytes::Bytes;
use parquet::arrow::arrow_reader::{ArrowReaderOptions, ParquetRecordBatchReaderBuilder, RowSelection, RowSelector};
use parquet::arrow::{ArrowSchemaConverter, ArrowWriter};
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaDataReader};
use parquet::file::page_index::column_index::ColumnIndexMetaData;
use parquet::file::properties::ReaderProperties;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::file::serialized_reader::ReadOptionsBuilder;
use proptest::prelude::*;

use crate::convert::buffers::BufferPool;
use crate::convert::options::ConvertOptions;
use crate::convert::options::{Compression, TextEncoding};
use crate::convert::sink::encode::{EncodeOptions, RowGroupEncoder};

type Cell = Option<String>;

/// A file with one column, one row group for each list of batches.
fn file(row_groups: &[Vec<Vec<Cell>>], options: &EncodeOptions) -> Bytes {
    file_of(row_groups, options, true)
}

fn file_of(row_groups: &[Vec<Vec<Cell>>], options: &EncodeOptions, nullable: bool) -> Bytes {
    let schema = Arc::new(Schema::new(vec![Field::new("c", DataType::Utf8, nullable)]));
    let columns = ArrowSchemaConverter::new().convert(&schema).unwrap();
    let properties = options.properties().build();
    let writer = ArrowWriter::try_new(Vec::new(), schema.clone(), Some(properties)).unwrap();
    let (mut file, _) = writer.into_serialized_writer().unwrap();
    let pool = BufferPool::default();
    for batches in row_groups {
        let mut encoder: Option<RowGroupEncoder> = None;
        for cells in batches {
            // A slice of a larger array, whose offsets and validity don't begin at zero.
            let around = [vec![Some("before".to_owned()), None, None], cells.clone(), vec![None]].concat();
            let column: ArrayRef = Arc::new(StringArray::from(around));
            let batch = RecordBatch::try_new(schema.clone(), vec![column.slice(3, cells.len())]).unwrap();
            encoder
                .get_or_insert_with(|| RowGroupEncoder::new(&columns, options, &batch, &pool).unwrap())
                .write(&batch)
                .unwrap();
        }
        encoder.unwrap().close().unwrap().append_to(&mut file).unwrap();
    }
    file.into_inner().unwrap().into()
}

fn cells(file: &Bytes, selection: Option<RowSelection>) -> Vec<Cell> {
    let found = cells_by(PageIndexPolicy::Optional, file, selection.clone());
    assert_eq!(cells_by(PageIndexPolicy::Skip, file, selection), found);
    found
}

fn cells_by(policy: PageIndexPolicy, file: &Bytes, selection: Option<RowSelection>) -> Vec<Cell> {
    let options = ArrowReaderOptions::new().with_page_index_policy(policy);
    let mut reader = ParquetRecordBatchReaderBuilder::try_new_with_options(file.clone(), options).unwrap();
    if let Some(selection) = selection {
        reader = reader.with_row_selection(selection);
    }
    let batches = reader.build().unwrap().map(Result::unwrap);
    batches
        .flat_map(|batch| {
            batch.column(0).as_string::<i32>().iter().map(|cell| cell.map(str::to_owned)).collect::<Vec<_>>()
        })
        .collect()
}

/// Checks every page's bounds against the rows that the offset index says are in it.
fn check_bounds(file: &Bytes, expected: &[Cell]) {
    let metadata =
        ParquetMetaDataReader::new().with_page_index_policy(PageIndexPolicy::Required).parse_and_finish(file).unwrap();
    let mut begin = 0;
    for (index, row_group) in metadata.row_groups().iter().enumerate() {
        let rows = &expected[begin..begin + row_group.num_rows() as usize];
        begin += rows.len();
        let statistics = row_group.column(0).statistics().unwrap();
        assert_eq!(statistics.null_count_opt(), Some(rows.iter().filter(|cell| cell.is_none()).count() as u64));
        for cell in rows.iter().flatten() {
            assert!(statistics.min_bytes_opt().unwrap() <= cell.as_bytes());
            assert!(statistics.max_bytes_opt().unwrap() >= cell.as_bytes());
        }
        let exact = |value: Option<&[u8]>| rows.iter().flatten().any(|cell| Some(cell.as_bytes()) == value);
        assert!(!statistics.min_is_exact() || exact(statistics.min_bytes_opt()));
        assert!(!statistics.max_is_exact() || exact(statistics.max_bytes_opt()));
        let ColumnIndexMetaData::BYTE_ARRAY(pages) = &metadata.column_index().unwrap()[index][0] else {
            panic!("no index")
        };
        let locations = metadata.offset_index().unwrap()[index][0].page_locations();
        for (page, location) in locations.iter().enumerate() {
            let end = locations.get(page + 1).map_or(rows.len(), |next| next.first_row_index as usize);
            let rows = &rows[location.first_row_index as usize..end];
            let nulls = rows.iter().filter(|cell| cell.is_none()).count();
            assert_eq!(pages.null_count(page), Some(nulls as i64));
            for cell in rows.iter().flatten() {
                assert!(pages.min_value(page).unwrap() <= cell.as_bytes());
                assert!(pages.max_value(page).unwrap() >= cell.as_bytes());
            }
        }
    }
}

fn any_cell() -> impl Strategy<Value = Cell> {
    prop_oneof![
        2 => Just(None),
        3 => "[ab]{0,2}".prop_map(Some),
        2 => "[a-z0-9]{0,12}".prop_map(Some),
        1 => "é{30,50}".prop_map(Some),
    ]
}

fn any_options() -> impl Strategy<Value = EncodeOptions> {
    let codec = prop_oneof![
        Just(Compression::Uncompressed),
        Just(Compression::Snappy),
        Just(Compression::Gzip),
        Just(Compression::Brotli),
        Just(Compression::Lz4),
        Just(Compression::Zstd),
    ];
    let text = prop_oneof![Just(TextEncoding::DeltaLength), Just(TextEncoding::Plain)];
    (codec, text).prop_map(|(compression, text_encoding)| {
        ConvertOptions { compression, text_encoding, ..ConvertOptions::default() }.encode()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn cells_are_read_back(
        row_groups in proptest::collection::vec(
            proptest::collection::vec(proptest::collection::vec(any_cell(), 1..300), 1..4), 1..3),
        options in any_options(),
    ) {
        let expected: Vec<Cell> = row_groups.iter().flatten().flatten().cloned().collect();
        let file = file(&row_groups, &options);
        prop_assert_eq!(&cells(&file, None), &expected);
        check_bounds(&file, &expected);
    }
}

/// Rows that make many pages; `value` says what the row holds.
fn many(rows: usize, value: impl Fn(usize) -> Cell) -> Vec<Vec<Cell>> {
    (0..rows).collect::<Vec<_>>().chunks(4000).map(|rows| rows.iter().map(|row| value(*row)).collect()).collect()
}

#[test]
fn many_pages_of_every_form_are_read_and_skipped_to() {
    let options = ConvertOptions::default().encode();
    let columns: [Vec<Vec<Cell>>; 5] = [
        many(90_000, |row| Some(format!("{:>30}", row))),
        many(90_000, |row| (row % 3 > 0).then(|| (row / 7 % 300).to_string())),
        // Begins like a dictionary, and isn't one.
        many(90_000, |row| Some(if row < 30_000 { "same".to_owned() } else { format!("{row} {row}") })),
        many(90_000, |_| None),
        many(90_000, |row| Some("x".repeat(row % 90))),
    ];
    for batches in columns {
        let expected: Vec<Cell> = batches.iter().flatten().cloned().collect();
        let file = file(&[batches], &options);
        assert_eq!(cells(&file, None), expected);
        check_bounds(&file, &expected);
        let selection = vec![RowSelector::skip(45_001), RowSelector::select(70), RowSelector::skip(44_929)];
        assert_eq!(cells(&file, Some(selection.into())), expected[45_001..45_071]);
    }
}

#[test]
fn a_few_rows_that_are_all_the_same() {
    let options = ConvertOptions::default().encode();
    for cell in [Some("same".to_owned()), Some(String::new()), None] {
        let expected = vec![cell; 3];
        assert_eq!(cells(&file(&[vec![expected.clone()]], &options), None), expected);
    }
}

#[test]
fn a_column_that_can_t_be_null_has_no_levels() {
    let options = ConvertOptions::default().encode();
    let values: [fn(usize) -> String; 2] = [|_| "same".to_owned(), |row| row.to_string()];
    for value in values {
        let batches = many(50_000, |row| Some(value(row)));
        let expected: Vec<Cell> = batches.iter().flatten().cloned().collect();
        let file = file_of(&[batches], &options, false);
        assert_eq!(cells(&file, None), expected);
        check_bounds(&file, &expected);
    }
}

/// The pages of the only column, and their encodings.
fn pages(file: &Bytes) -> Vec<(parquet::basic::Encoding, usize)> {
    let reader = SerializedFileReader::new(file.clone()).unwrap();
    let row_group = reader.get_row_group(0).unwrap();
    let pages = row_group.get_column_page_reader(0).unwrap();
    pages.map(|page| page.unwrap()).map(|page| (page.encoding(), page.buffer().len())).collect()
}

#[test]
fn i9_long_texts_make_no_dictionary_and_end_a_page() {
    use parquet::basic::Encoding::{DELTA_LENGTH_BYTE_ARRAY, PLAIN, RLE_DICTIONARY};
    let long = |number: usize| Some(format!("{number:05}").repeat(20_000));
    let batches = |first: Vec<Cell>| [vec![first], (0..60).map(|number| vec![long(number)]).collect()].concat();
    let options = ConvertOptions::default().encode();
    // They show from the first row on.
    let from_first = file(&[batches(vec![long(99)])], &options);
    let written = pages(&from_first);
    assert!(written.len() > 15, "{} pages", written.len());
    assert!(written.iter().all(|(encoding, _)| *encoding == DELTA_LENGTH_BYTE_ARRAY), "{written:?}");
    assert_eq!(cells(&from_first, None).len(), 61);
    // They follow values that repeat: what has joined the dictionary stays there.
    let later = file(&[batches((0..100).map(|row| Some((row % 3).to_string())).collect())], &options);
    let written = pages(&later);
    assert!(written[0].0 == PLAIN && written[0].1 < super::DICTIONARY_BYTES + 200_000, "{:?}", written[0]);
    assert_eq!(written[1].0, RLE_DICTIONARY);
    assert!(written[2..].iter().all(|(encoding, _)| *encoding == DELTA_LENGTH_BYTE_ARRAY), "{written:?}");
    assert_eq!(cells(&later, None).len(), 160);
}

#[test]
fn a_bloom_filter_knows_every_value() {
    let options = ConvertOptions { bloom_filter_columns: vec!["c".to_owned()], ..ConvertOptions::default() };
    // Half of the rows by a dictionary, then text.
    let value = |row: usize| if row < 30_000 { (row % 100).to_string() } else { row.to_string() };
    let file = file(&[many(60_000, |row| Some(value(row)))], &options.encode());
    let properties = ReaderProperties::builder().set_read_bloom_filter(true).build();
    let read = ReadOptionsBuilder::new().with_reader_properties(properties).build();
    let reader = SerializedFileReader::new_with_options(file, read).unwrap();
    let row_group = reader.get_row_group(0).unwrap();
    let filter = row_group.get_column_bloom_filter(0).unwrap();
    assert!((0..60_000).all(|row| filter.check(value(row).as_str())));
    let false_answers = (60_000..70_000).filter(|row| filter.check(row.to_string().as_str())).count();
    assert!(false_answers < 500, "{false_answers} of 10,000");
    assert!(filter.num_blocks() * 32 < 200_000);
}

#[test]
fn a_bloom_filter_is_made_for_the_values_of_a_large_row_group() {
    let share = |row_group_bytes: u64| {
        let options = ConvertOptions {
            bloom_filter_columns: vec!["c".to_owned()],
            row_group_bytes,
            part_bytes: 1 << 30,
            ..ConvertOptions::default()
        };
        let row = |row: usize| Some(row.to_string());
        let batches = (0..3_000_000)
            .collect::<Vec<usize>>()
            .chunks(100_000)
            .map(|rows| rows.iter().map(|at| row(*at)).collect())
            .collect();
        let file = file(&[batches], &options.encode());
        let properties = ReaderProperties::builder().set_read_bloom_filter(true).build();
        let read = ReadOptionsBuilder::new().with_reader_properties(properties).build();
        let reader = SerializedFileReader::new_with_options(file, read).unwrap();
        let row_group = reader.get_row_group(0).unwrap();
        let filter = row_group.get_column_bloom_filter(0).unwrap();
        (3_000_000..3_010_000).filter(|row| filter.check(row.to_string().as_str())).count()
    };
    let false_answers = share(32 << 20);
    assert!(false_answers < 300, "{false_answers} of 10,000");
}

#[test]
fn statistics_can_be_left_out() {
    let options = ConvertOptions { statistics: false, page_index: false, ..ConvertOptions::default() };
    let file = file(&[many(100, |row| Some(row.to_string()))], &options.encode());
    let metadata = ParquetMetaDataReader::new().parse_and_finish(&file).unwrap();
    let column = metadata.row_group(0).column(0);
    assert!(column.statistics().is_none());
    assert!(column.column_index_offset().is_none() && column.offset_index_offset().is_none());
    assert_eq!(cells(&file, None).len(), 100);
}

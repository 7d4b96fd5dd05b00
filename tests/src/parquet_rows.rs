//! Rows as readers of the Parquet see them, and the rows that NDJSON text must become.

use std::{collections::BTreeMap, fs::File, path::Path};

use parquet::{
    basic::{LogicalType, Repetition},
    file::reader::{FileReader, SerializedFileReader},
    record::{Field, Row},
    schema::types::Type,
};
use serde_json::value::RawValue;

/// The cells of a row by column; a cell that is null is absent.
pub type Cells = BTreeMap<String, String>;

/// Columns that the conversion adds to those of the data.
pub const ADDED: [&str; 3] = ["_source_file", "_source_etag", "_processing_timestamp"];

/// All rows of a file, in order, without the added columns. Checks that every column is a string, and nullable if it is
/// one of the data.
pub fn read_rows(file: &Path) -> Vec<Cells> {
    let reader = open(file);
    for column in reader.metadata().file_metadata().schema().get_fields() {
        let info = column.get_basic_info();
        assert_eq!(info.logical_type_ref(), Some(&LogicalType::String), "the type of {}", column.name());
        let is_nullable = info.repetition() == Repetition::OPTIONAL;
        assert!(is_nullable || ADDED.contains(&column.name()), "{} can't be null", column.name());
    }
    let rows = reader.get_row_iter(None).unwrap();
    rows.map(|row| cells(&row.unwrap()).into_iter().filter(|(name, _)| !ADDED.contains(&name.as_str())).collect())
        .collect()
}

/// Some columns of all rows of a file. A file may lack a column: its cells are null then.
pub fn read_columns(file: &Path, columns: &[&str]) -> Vec<Cells> {
    let reader = open(file);
    let schema = reader.metadata().file_metadata().schema();
    let fields = schema.get_fields().iter().filter(|field| columns.contains(&field.name())).cloned().collect();
    let projection = Type::group_type_builder(schema.name()).with_fields(fields).build().unwrap();
    reader.get_row_iter(Some(projection)).unwrap().map(|row| cells(&row.unwrap())).collect()
}

fn open(file: &Path) -> SerializedFileReader<File> {
    let opened = File::open(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    SerializedFileReader::new(opened).unwrap_or_else(|error| panic!("{} is no Parquet: {error}", file.display()))
}

fn cells(row: &Row) -> Cells {
    let text = |field: &Field| match field {
        Field::Null => None,
        Field::Str(text) => Some(text.clone()),
        other => panic!("a cell isn't a string: {other:?}"),
    };
    row.get_column_iter().filter_map(|(name, field)| Some((name.clone(), text(field)?))).collect()
}

/// The row that a line must become by the lossless cast: a string is its unescaped text, null is null, and anything else
/// is its exact text. Of a key that comes twice the last one counts.
pub fn expected_row(line: &str) -> Cells {
    let object: BTreeMap<String, Box<RawValue>> = serde_json::from_str(line).unwrap();
    let text = |raw: &str| match raw.as_bytes()[0] {
        b'"' => Some(serde_json::from_str(raw).unwrap()),
        b'n' => None,
        _ => Some(raw.to_owned()),
    };
    object.into_iter().filter_map(|(key, value)| Some((key, text(value.get())?))).collect()
}

/// The rows that these lines must become.
pub fn expected_rows(text: &str) -> Vec<Cells> {
    text.lines().filter(|line| !line.trim().is_empty()).map(expected_row).collect()
}

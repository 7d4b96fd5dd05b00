//! Whether outputs hold what they should.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::hash::Hasher;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use arrow::array::{Array, AsArray};
use arrow::datatypes::DataType;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use penstock_tests::reference::{Verdict, rows_of, verdict};

use super::data::Files;

/// Lines that are compared cell by cell.
const LINES: usize = 20_000;

/// What an output holds, in short.
pub struct Output {
    pub rows: u64,
    /// A sum over the cells of each column, whatever their order: engines with many threads may reorder rows.
    pub sums: BTreeMap<String, u64>,
}

/// The Parquet files of an output, which may be a folder.
fn files_of(output: &Path) -> Vec<PathBuf> {
    if !output.is_dir() {
        return vec![output.to_owned()];
    }
    let entries = fs::read_dir(output).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = entries.filter(|path| path.extension().is_some_and(|end| end == "parquet")).collect();
    files.sort();
    files
}

/// The size of an output.
pub fn bytes(output: &Path) -> u64 {
    files_of(output).iter().map(|file| file.metadata().unwrap().len()).sum()
}

/// Reads an output's rows and the cells of some columns.
pub fn read(output: &Path, columns: &[String]) -> Output {
    let mut found = Output { rows: 0, sums: BTreeMap::new() };
    for file in files_of(output) {
        let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(file).unwrap()).unwrap();
        for batch in reader.build().unwrap() {
            let batch = batch.unwrap();
            found.rows += batch.num_rows() as u64;
            for name in columns {
                let Some(column) = batch.column_by_name(name) else { continue };
                let sum = found.sums.entry(name.clone()).or_default();
                let mut add = |text: &str| *sum = sum.wrapping_add(hash(text));
                match column.data_type() {
                    DataType::Utf8 => column.as_string::<i32>().iter().flatten().for_each(&mut add),
                    DataType::LargeUtf8 => column.as_string::<i64>().iter().flatten().for_each(&mut add),
                    DataType::Utf8View => column.as_string_view().iter().flatten().for_each(&mut add),
                    _ => {}
                }
            }
        }
    }
    found
}

fn hash(text: &str) -> u64 {
    let mut hasher = std::hash::DefaultHasher::new();
    hasher.write(text.as_bytes());
    hasher.finish()
}

/// Our output's first rows are what a strict parser reads, in every cell.
pub fn cells(output: &Path, files: &Files) {
    let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(output).unwrap()).unwrap();
    let mut rows = reader.build().unwrap().flat_map(|batch| rows_of(&batch.unwrap()));
    let lines = files.paths.iter().flat_map(|path| BufReader::new(File::open(path).unwrap()).split(b'\n'));
    for line in lines.take(LINES) {
        let line = line.unwrap();
        let Verdict::Row(expected) = verdict(&line, false, 128) else { panic!("made data that is no row") };
        let mut row = rows.next().expect("a row is missing");
        row.retain(|name, _| !name.starts_with("_source_") && name != "_processing_timestamp");
        assert_eq!(row, expected.into_iter().collect());
    }
}

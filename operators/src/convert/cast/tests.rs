//! Against what Spark printed, and that nothing depends on how files are cut.

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::arrow::array::AsArray;
use datafusion::execution::TaskContext;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::physical_plan::{ExecutionPlan, execute_stream_partitioned};
use futures::TryStreamExt;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStoreExt, PutPayload};
use proptest::prelude::*;
use serde::Deserialize;

use super::*;
use crate::convert::note::{self, Note, RangeOutcome};
use crate::convert::options::Cast;
use crate::convert::source::{Encoding, ScanFile, ScanNode, ScanRange};
use crate::convert::testing::scan_options;

/// A document and what Spark 3.3.0 on Java 17 made of it: `tests/spark/compare.py --golden` writes them.
#[derive(Debug, Deserialize)]
struct Golden {
    lines: Vec<String>,
    columns: Vec<String>,
    rows: Vec<Vec<Option<String>>>,
}

fn golden() -> Vec<Golden> {
    let text = include_str!("../../../testdata/spark33.jsonl");
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The cells and the outcome of a file, read by these ranges.
async fn scan(file: &[u8], ranges: &[(u64, u64)], options: ScanOptions) -> (Vec<Vec<Option<String>>>, RangeOutcome) {
    let store = InMemory::new();
    store.put(&Path::from("a"), PutPayload::from(file.to_vec())).await.unwrap();
    let columns = options.columns.len();
    let range = |range: &(u64, u64)| ScanRange {
        key: "a".to_owned(),
        size_bytes: file.len() as u64,
        etag: Some("0".to_owned()),
        version: None,
        range: Some(*range),
        file: ScanFile { index: 0, uri: "s3://test/a".to_owned(), encoding: Encoding::Plain },
    };
    let partitions = ranges.iter().map(|bounds| vec![range(bounds)]).collect();
    let node = ScanNode { bucket_url: "s3://test/".to_owned(), options, partitions };
    let context = TaskContext::default();
    let url = ObjectStoreUrl::parse("s3://test/").unwrap();
    context.runtime_env().register_object_store(url.as_ref(), Arc::new(store));
    let plan: Arc<dyn ExecutionPlan> = node.into_plan().unwrap();
    let (mut rows, mut all) = (Vec::new(), RangeOutcome::default());
    for partition in execute_stream_partitioned(plan, Arc::new(context)).unwrap() {
        for batch in partition.try_collect::<Vec<_>>().await.unwrap() {
            let notes = note::from_batch(&batch).unwrap();
            if notes.is_empty() {
                rows.extend((0..batch.num_rows()).map(|row| {
                    let cell = |column: usize| batch.column(column).as_string::<i32>().iter().nth(row).flatten();
                    (0..columns).map(|column| cell(column).map(str::to_owned)).collect::<Vec<_>>()
                }));
            }
            for note in notes {
                if let Note::Range(outcome) = note {
                    assert_eq!(outcome.failure, None);
                    all.rows += outcome.rows;
                    all.rejected += outcome.rejected;
                    all.corrupt_rows += outcome.corrupt_rows;
                    all.inferred.get_or_insert_default().merge(outcome.inferred.unwrap_or_default());
                }
            }
        }
    }
    (rows, all)
}

/// The columns and cells of a file, read by these ranges.
async fn convert(file: &[u8], ranges: &[(u64, u64)]) -> (Vec<String>, Vec<Vec<Option<String>>>) {
    let options = ScanOptions { cast: Cast::Spark, max_depth: 500, ..scan_options(&[]) };
    let (_, found) = scan(file, ranges, options.clone()).await;
    let schema = found.inferred.unwrap().into_schema();
    let columns: Vec<_> = schema.names().map(str::to_owned).collect();
    let options = ScanOptions { columns: columns.clone(), spark_schema: Some(schema), ..options };
    let (rows, printed) = scan(file, ranges, options).await;
    assert_eq!((printed.rows, printed.rejected), (rows.len() as u64, found.rejected));
    (columns, rows)
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().build().unwrap()
}

#[test]
fn every_cell_is_what_spark_printed() {
    let runtime = runtime();
    let (mut cells, mut kinds) = (0, BTreeMap::<&str, u32>::new());
    for Golden { lines, columns, rows } in golden() {
        let file = lines.iter().flat_map(|line| [line.as_str(), "\n"]).collect::<String>();
        let found = runtime.block_on(convert(file.as_bytes(), &[(0, file.len() as u64)]));
        cells += rows.iter().map(Vec::len).sum::<usize>();
        for text in rows.iter().flatten() {
            *kinds.entry(kind(text.as_deref())).or_default() += 1;
        }
        assert_eq!(found, (columns, rows), "{lines:#?}");
    }
    // The documents must go on showing what matters.
    assert!(cells > 5000, "{cells} cells");
    for kind in ["null", "struct", "array", "exponent", "json"] {
        assert!(kinds.get(kind).is_some_and(|count| *count > 50), "{kind}: {kinds:?}");
    }
}

fn kind(text: Option<&str>) -> &'static str {
    match text {
        None => "null",
        Some(text) if text.starts_with("{\"") || text.starts_with("[\"") => "json",
        Some(text) if text.starts_with('{') => "struct",
        Some(text) if text.starts_with('[') => "array",
        Some(text) if text.parse::<f64>().is_ok() && text.contains("E") => "exponent",
        Some(_) => "other",
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn ranges_change_nothing(
        document in any::<prop::sample::Index>(),
        cuts in proptest::collection::vec(any::<prop::sample::Index>(), 1..6),
    ) {
        let golden = golden();
        let lines = &golden[document.index(golden.len())].lines;
        let file = lines.iter().flat_map(|line| [line.as_str(), "\n"]).collect::<String>();
        let size = file.len() as u64;
        let mut bounds: Vec<_> = cuts.iter().map(|cut| cut.index(file.len() + 1) as u64).chain([0, size]).collect();
        bounds.sort_unstable();
        bounds.dedup();
        let ranges: Vec<_> = bounds.windows(2).map(|bounds| (bounds[0], bounds[1])).collect();
        let (cut, whole) = runtime().block_on(async {
            (convert(file.as_bytes(), &ranges).await, convert(file.as_bytes(), &[(0, size)]).await)
        });
        prop_assert_eq!(cut, whole);
    }
}

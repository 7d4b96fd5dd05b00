//! However a file is cut into ranges, its rows are the same.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use datafusion::arrow::array::RecordBatch;
use datafusion::execution::TaskContext;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::execute_stream_partitioned;
use futures::{FutureExt, TryStreamExt, future};
use object_store::memory::InMemory;
use object_store::{ObjectStoreExt, PutPayload};
use proptest::prelude::*;
use tokio::sync::Notify;
use tokio::time::timeout;

use super::*;
use crate::convert::note::{self, Note};
use crate::convert::testing::{HookedStore, Row, batch_rows, scan_options};

/// The rows and the lines of a file, read by these ranges.
async fn read(file: &[u8], ranges: &[(u64, u64)]) -> (Vec<Row>, u64) {
    let store = InMemory::new();
    store.put(&Path::from("a"), PutPayload::from(file.to_vec())).await.unwrap();
    let range = |range: &(u64, u64)| ScanRange {
        key: "a".to_owned(),
        size_bytes: file.len() as u64,
        etag: Some("0".to_owned()),
        version: None,
        range: Some(*range),
        file: ScanFile { index: 0, uri: "s3://test/a".to_owned(), encoding: Encoding::Plain },
    };
    let node = ScanNode {
        bucket_url: "s3://test/".to_owned(),
        options: scan_options(&["a"]),
        partitions: ranges.chunks(2).map(|ranges| ranges.iter().map(range).collect()).collect(),
    };
    let context = TaskContext::default();
    let url = ObjectStoreUrl::parse("s3://test/").unwrap();
    context.runtime_env().register_object_store(url.as_ref(), Arc::new(store));
    let plan: Arc<dyn ExecutionPlan> = node.into_plan().unwrap();
    let (mut rows, mut lines) = (Vec::new(), 0);
    for partition in execute_stream_partitioned(plan, Arc::new(context)).unwrap() {
        for batch in partition.try_collect::<Vec<_>>().await.unwrap() {
            let notes = note::from_batch(&batch).unwrap();
            if notes.is_empty() {
                rows.extend(batch_rows(&batch));
            }
            for note in notes {
                if let Note::Range(outcome) = note {
                    assert_eq!(outcome.failure, None);
                    lines += outcome.lines;
                }
            }
        }
    }
    (rows, lines)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn ranges_don_t_change_rows(
        lines in proptest::collection::vec(0_usize..200_000, 0..12),
        ended in prop::bool::ANY,
        cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..6),
    ) {
        let mut file = Vec::new();
        for (row, length) in lines.iter().enumerate() {
            if row > 0 {
                file.push(b'\n');
            }
            // Now and then a blank line, now and then one that is longer than what is fetched past a range.
            if length % 7 > 0 {
                file.extend_from_slice(format!("{{\"a\":\"{row}{}\"}}", "x".repeat(length % 1000 * (length / 1000))).as_bytes());
            }
        }
        if ended {
            file.push(b'\n');
        }
        let mut bounds: Vec<_> = cuts.iter().map(|cut| cut.index(file.len() + 1) as u64).chain([0, file.len() as u64]).collect();
        bounds.sort_unstable();
        bounds.dedup();
        let mut ranges: Vec<_> = bounds.windows(2).map(|bounds| (bounds[0], bounds[1])).collect();
        if ranges.is_empty() {
            ranges.push((0, 0));
        }
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let (cut, whole) = runtime.block_on(async { (read(&file, &ranges).await, read(&file, &[(0, file.len() as u64)]).await) });
        prop_assert_eq!(whole.1, file.iter().filter(|byte| **byte == b'\n').count() as u64 + u64::from(!file.is_empty() && !file.ends_with(b"\n")));
        prop_assert_eq!(cut, whole);
    }
}

#[tokio::test]
async fn small_files_share_batches() {
    let store = InMemory::new();
    let mut ranges = Vec::new();
    for index in 0..50 {
        let key = format!("{index}");
        let text = format!("{{\"a\":{index}}}\n").repeat(3);
        ranges.push(ScanRange {
            key: key.clone(),
            size_bytes: text.len() as u64,
            etag: None,
            version: None,
            range: None,
            file: ScanFile { index, uri: format!("s3://test/{key}"), encoding: Encoding::Plain },
        });
        store.put(&Path::from(key), PutPayload::from(text)).await.unwrap();
    }
    let options = ScanOptions { batch_bytes: 1 << 20, ..scan_options(&["a"]) };
    let node = ScanNode { bucket_url: "s3://test/".to_owned(), options, partitions: vec![ranges] };
    let context = TaskContext::default();
    let url = ObjectStoreUrl::parse("s3://test/").unwrap();
    context.runtime_env().register_object_store(url.as_ref(), Arc::new(store));
    let plan: Arc<dyn ExecutionPlan> = node.into_plan().unwrap();
    let batches: Vec<_> = plan.execute(0, Arc::new(context)).unwrap().try_collect().await.unwrap();
    let sizes: Vec<_> = batches.iter().map(RecordBatch::num_rows).collect();
    // Rows of all files, then the outcome of each.
    assert_eq!(sizes, [150, 50]);
    let outcomes = note::from_batch(&batches[1]).unwrap();
    for (index, outcome) in outcomes.into_iter().enumerate() {
        let Note::Range(outcome) = outcome else { panic!("{outcome:?}") };
        assert_eq!((outcome.file as usize, outcome.rows), (index, 3));
    }
    for (row, text) in batch_rows(&batches[0]).iter().enumerate() {
        assert_eq!(text["_source_file"], format!("s3://test/{}", row / 3));
        assert_eq!(text["a"], (row / 3).to_string());
    }
}

#[tokio::test(start_paused = true)]
async fn the_next_file_is_on_its_way_before_the_last_bytes_of_a_large_one_have_come() {
    const SIZE: usize = 9 << 20;
    let text = format!("{{\"a\":\"{}\"}}\n", "x".repeat(1000));
    let text = Bytes::from(text.repeat(SIZE / text.len()));
    let memory = InMemory::new();
    let range = |index: u32| ScanRange {
        key: index.to_string(),
        size_bytes: text.len() as u64,
        etag: None,
        version: None,
        range: None,
        file: ScanFile { index, uri: format!("s3://test/{index}"), encoding: Encoding::Plain },
    };
    for index in 0..2 {
        memory.put(&Path::from(index.to_string()), text.clone().into()).await.unwrap();
    }
    // The last read of the first file waits until the second file is asked for.
    const READS: usize = 5;
    let (reads, asked) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
    let counted = reads.clone();
    let store = HookedStore::new(Arc::new(memory), move |path| {
        let asked = asked.clone();
        match path.as_ref() {
            "0" if counted.fetch_add(1, Ordering::Relaxed) == READS - 1 => {
                async move { asked.notified().await }.map(Ok).boxed()
            }
            "1" => {
                asked.notify_one();
                future::ready(Ok(())).boxed()
            }
            _ => future::ready(Ok(())).boxed(),
        }
    });
    let (options, partitions) = (scan_options(&["a"]), vec![vec![range(0), range(1)]]);
    let node = ScanNode { bucket_url: "s3://test/".to_owned(), options, partitions };
    let context = TaskContext::default();
    let url = ObjectStoreUrl::parse("s3://test/").unwrap();
    context.runtime_env().register_object_store(url.as_ref(), Arc::new(store));
    let plan: Arc<dyn ExecutionPlan> = node.into_plan().unwrap();
    let batches = plan.execute(0, Arc::new(context)).unwrap().try_collect::<Vec<_>>();
    let batches = timeout(Duration::from_secs(60), batches).await.expect("nobody asked for the next file").unwrap();
    let rows: usize = batches.iter().map(|batch| batch_rows(batch).len()).sum();
    assert!(rows >= 2 * (SIZE / 1100), "{rows} rows");
    assert_eq!(reads.load(Ordering::Relaxed), READS, "another read was the last");
}

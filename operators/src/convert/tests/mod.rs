//! Whole conversions, through the plan and its wire form.

mod docs;
mod passes;
mod small;
mod spark;
mod verdicts;

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use super::layout::lay_out;
use super::pass::Job;
use super::scanner::tests::{expected, object, value};
use datafusion::execution::TaskContext;
use datafusion::physical_plan::{ExecutionPlan, displayable};
use penstock_engine::cloud::ErrorKind;
use proptest::prelude::*;

use super::testing::{Row, World, data};
use super::*;

fn row(cells: &[(&str, &str)]) -> Row {
    cells.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
}

fn gz(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zst(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).unwrap()
}

#[tokio::test]
async fn a_cell_is_the_text_of_its_value() {
    let line = br#"{"a":"x\ny","n":2.50,"e":1e10,"t":true,"f":false,"z":null,"o":{ "k" : [1, "\ud800"] },"l":[]}"#;
    let world = World::new(&[("a.ndjson", line)]).await;
    let (converted, rows) = world.converted().await;
    let expected = row(&[
        ("a", "x\ny"),
        ("n", "2.50"),
        ("e", "1e10"),
        ("t", "true"),
        ("f", "false"),
        ("o", r#"{ "k" : [1, "\ud800"] }"#),
        ("l", "[]"),
        ("_source_file", "s3://test/a.ndjson"),
        ("_source_etag", "0"),
        ("_processing_timestamp", "1970-01-01T00:00:00Z"),
    ]);
    assert_eq!(rows, [expected]);
    assert_eq!(converted.columns, ["a", "n", "e", "t", "f", "z", "o", "l"]);
    assert_eq!((converted.rows, converted.passes, converted.column_reruns), (1, 1, 0));
    assert_eq!(converted.parts[0].upload.key, "out/batch-0001-p0.parquet");
    assert_eq!(converted.rejects, None);
}

#[tokio::test]
async fn line_ends_marks_and_blanks() {
    let world = World::new(&[
        ("crlf.ndjson", b"\xef\xbb\xbf{\"a\":1}\r\n\r\n \t\n{\"a\":2}\r\n{\"a\":3}"),
        ("lf.ndjson", b"\n\n{\"a\":4}\n"),
        ("empty.ndjson", b""),
        ("mark.ndjson", b"\xef\xbb\xbf"),
    ])
    .await;
    let (converted, rows) = world.converted().await;
    assert_eq!(rows.iter().map(|row| row["a"].as_str()).collect::<Vec<_>>(), ["1", "2", "3", "4"]);
    assert_eq!(converted.files.len(), 4);
    assert!(converted.files.iter().all(|file| matches!(file, FileOutcome::Converted { rejected_rows: 0, .. })));
}

#[tokio::test]
async fn compressed_files_are_read_to_their_ends() {
    let members = [gz(b"{\"a\":1}\n{\"a\""), gz(b":2}\n")].concat();
    let frames = [zst(b"{\"a\":3}\n"), zst(b"{\"a\":4}")].concat();
    let world = World::new(&[("a.ndjson.gz", &members), ("b.jsonl.zst", &frames)]).await;
    let (_, rows) = world.converted().await;
    assert_eq!(rows.iter().map(|row| row["a"].as_str()).collect::<Vec<_>>(), ["1", "2", "3", "4"]);
}

#[tokio::test]
async fn defect_15_rejects_have_their_place_and_reason() {
    let file = b"{\"a\":1}\n[1]\n\n{\"a\":\xff}\r\n{\"a\":1}x\n{\"a\":\"\\ud800\"}\n{\"a\":2}\n";
    let world = World::new(&[("a.ndjson", file)]).await;
    let mut world = world;
    world.options.max_reject_ratio = 1.0;
    let (converted, rows) = world.converted().await;
    assert_eq!(rows.len(), 2);
    assert_eq!(converted.rejected_rows, 4);
    assert_eq!(converted.rejects.as_ref().unwrap().count, 4);
    let rejects = world.rejects().await;
    let places: Vec<_> = rejects.iter().map(|reject| (reject["line"].as_u64(), reject["offset"].as_u64())).collect();
    assert_eq!(places, [(Some(2), Some(8)), (Some(4), Some(13)), (Some(5), Some(22)), (Some(6), Some(31))]);
    assert_eq!(rejects[0]["reason"], "not a JSON object");
    assert_eq!(rejects[0]["raw"], "[1]");
    assert_eq!(
        (rejects[1]["reason"].as_str(), rejects[1]["raw_base64"].as_str()),
        (Some("not UTF-8"), Some("eyJhIjr/fQ=="))
    );
    assert_eq!(rejects[2]["reason"], "invalid JSON at byte 7: something follows the object");
    assert_eq!(rejects[3]["reason"], "lone surrogate at byte 6");
    assert_eq!(rejects[3]["file"], "s3://test/a.ndjson");
}

#[tokio::test]
async fn new_columns_cost_one_more_pass() {
    let world = World::new(&[("a.ndjson", b"{\"b\":1}\n{\"a\":2}\n"), ("b.ndjson", b"{\"c\":3,\"a\":4}\n")]).await;
    world.catalog.grow(&["z".to_owned()]).await.unwrap();
    let (converted, rows) = world.converted().await;
    assert_eq!(converted.columns, ["z", "b", "a", "c"]);
    assert_eq!((converted.passes, converted.column_reruns), (2, 1));
    assert_eq!(data(&rows[2]), row(&[("a", "4"), ("c", "3")]));
    let (converted, _) =
        World { catalog: world.catalog, ..World::new(&[("a.ndjson", b"{\"c\":1}")]).await }.converted().await;
    assert_eq!((converted.passes, converted.columns.len()), (1, 4));
}

fn reasons(converted: &Converted) -> Vec<Option<FailureReason>> {
    let reason = |file: &FileOutcome| match file {
        FileOutcome::Converted { .. } => None,
        FileOutcome::Failed { reason, .. } => Some(*reason),
    };
    converted.files.iter().map(reason).collect()
}

#[tokio::test]
async fn a_bad_file_fails_alone() {
    let good = gz(b"{\"a\":1}\n{\"a\":2}\n");
    let truncated = &good[..good.len() - 4];
    let frame = zst(&b"{\"a\":1}\n".repeat(1000));
    let mut world = World::new(&[
        ("good.ndjson.gz", &good),
        ("truncated.ndjson.gz", truncated),
        ("truncated.ndjson.zst", &frame[..frame.len() - 3]),
        ("garbage.ndjson.gz", b"{\"a\":1}"),
        ("changed.ndjson", b"{\"a\":3,\"new\":1}\n"),
        ("missing.ndjson", b""),
        ("shrunk.ndjson", b"{\"a\":3}\n"),
        ("text.ndjson", b"one\n{\"b\":1}\nthree\n"),
        ("last.ndjson", b"{\"a\":4}\nx\n{\"a\":5}\n"),
    ])
    .await;
    world.conversion.files[4].etag = Some("another".to_owned());
    world.conversion.files[5].key = "gone.ndjson".to_owned();
    world.conversion.files[6].etag = None;
    world.conversion.files[6].size_bytes = 5;
    let (converted, rows) = world.converted().await;
    use FailureReason::*;
    let expected = [None, Some(Undecodable), Some(Undecodable), Some(Undecodable), Some(Changed), Some(Missing)];
    assert_eq!(reasons(&converted), [&expected[..], &[Some(Changed), Some(TooManyRejects), None]].concat());
    assert_eq!(rows.iter().map(|row| row["a"].as_str()).collect::<Vec<_>>(), ["1", "2", "4", "5"]);
    assert_eq!((converted.passes, converted.rejected_rows), (2, 1));
    assert_eq!(converted.columns, ["a"]);
    // Rejects of a file that failed are not kept: its lines are in the file.
    assert_eq!(world.rejects().await.len(), 1);
}

#[tokio::test]
async fn files_that_fail_all_leave_no_output() {
    let world = World::new(&[("a.ndjson", b"x\n"), ("b.ndjson.gz", b"")]).await;
    let (converted, _) = world.converted().await;
    assert_eq!(reasons(&converted), [Some(FailureReason::TooManyRejects), Some(FailureReason::Undecodable)]);
    assert_eq!((converted.parts.len(), converted.rejects), (0, None));
    assert!(world.stage.begun.lock().unwrap().is_empty());
}

#[tokio::test]
async fn columns_past_the_limit_go_into_rest() {
    let mut world = World::new(&[("a.ndjson", b"{\"a\":1,\"b\":2,\"c\":[3]}\n{\"c\":4,\"a\":5}\n")]).await;
    world.options.max_columns = 2;
    let (converted, rows) = world.converted().await;
    assert_eq!(converted.columns, ["a", "b", REST]);
    assert_eq!(data(&rows[0]), row(&[("a", "1"), ("b", "2"), (REST, r#"{"c":[3]}"#)]));
    assert_eq!(data(&rows[1]), row(&[("a", "5"), (REST, r#"{"c":4}"#)]));
}

#[tokio::test]
async fn a_store_that_fails_makes_no_bad_file() {
    let world = World::new(&[("a.ndjson", b"{\"a\":1}\n")]).await;
    for (kind, transient) in [(ErrorKind::Unavailable, true), (ErrorKind::Denied, false)] {
        *world.stage.refuse_part.lock().unwrap() = Some((1, kind));
        let error = world.convert().await.unwrap_err();
        assert_eq!(error.is_transient(), transient, "{error:?}");
    }
    assert_eq!(*world.stage.aborted.lock().unwrap(), *world.stage.begun.lock().unwrap());
    assert_eq!(world.stage.begun.lock().unwrap().len(), 2);
}

/// A few MiB of rows.
fn many_rows(rows: usize) -> Vec<u8> {
    let line =
        |row: usize| format!("{{\"id\":{row},\"name\":\"user {}\",\"text\":\"{}\"}}\n", row % 100, "text ".repeat(20));
    (0..rows).flat_map(|row| line(row).into_bytes()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_or_cancelled_conversion_aborts_its_uploads() {
    // Many more parts than are waited for: on a busy machine it would else be done before it is cancelled.
    let file = many_rows(160_000);
    let mut world = World::new(&[("a.ndjson", &file)]).await;
    world.options.part_bytes = 1 << 20;
    world.options.row_group_bytes = 1 << 20;
    for how in 0..6 {
        let begun = world.stage.begun.lock().unwrap().len();
        let started = async {
            while world.stage.begun.lock().unwrap().len() < begun + 1 + how % 3 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        if how % 2 == 0 {
            tokio::select! {
                _ = world.convert() => panic!("it should not end"),
                () = started => {}
            }
        } else {
            let (result, ()) = tokio::join!(world.convert(), async {
                started.await;
                world.cancel.cancel();
            });
            assert!(matches!(result, Err(ConvertError::Cancelled)));
            assert!(world.stage.open.lock().unwrap().is_empty(), "an error comes after its aborts");
            world.cancel = tokio_util::sync::CancellationToken::new();
        }
        world.settle(0).await;
        assert!(world.stage.open.lock().unwrap().is_empty());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parts_follow_from_the_files_alone() {
    let mut files = vec![many_rows(20_000), many_rows(10), many_rows(8_000)];
    files.extend((0..50).map(many_rows));
    let mut before = None;
    for target_partitions in [1, 2, 7] {
        let mut world = World::new(&[]).await;
        for (index, file) in files.iter().enumerate() {
            world.add(&format!("{index}.ndjson"), file).await;
        }
        world.options.part_bytes = 2 << 20;
        world.options.row_group_bytes = 1 << 20;
        world.options.target_partitions = Some(target_partitions);
        let (converted, rows) = world.converted().await;
        let sizes: Vec<_> =
            converted.parts.iter().map(|part| (part.upload.key.clone(), part.rows, part.size_bytes)).collect();
        assert_eq!(sizes.len(), 2);
        assert_eq!(rows.len(), 28_010 + (0..50).sum::<usize>());
        let ids: Vec<_> = rows.iter().take(20_000).map(|row| row["id"].parse::<usize>().unwrap()).collect();
        assert!(ids.iter().enumerate().all(|(row, id)| row == *id));
        let this = (sizes, rows);
        assert!(before.replace(this.clone()).is_none_or(|before| before == this));
        assert_eq!(world.progress.rows(), converted.rows);
        let read: u64 = files.iter().map(|file| file.len() as u64).sum();
        assert!(world.progress.bytes_read() >= read);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn little_memory_makes_smaller_row_groups() {
    let file = many_rows(60_000);
    let mut world = World::new(&[("a.ndjson", &file)]).await;
    world.options.memory_limit_bytes = 1 << 20;
    let (converted, rows) = world.converted().await;
    assert!(rows.iter().enumerate().all(|(row, cells)| cells["id"] == row.to_string()));
    let staged = world.staged(&converted.parts[0]);
    let reader = parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(staged).unwrap();
    assert!(reader.metadata().num_row_groups() > 3);
}

#[tokio::test]
async fn a_file_says_what_it_was_made_for() {
    let world = World::new(&[("a.ndjson", b"{\"a\":1}\n")]).await;
    let (converted, _) = world.converted().await;
    let staged = world.staged(&converted.parts[0]);
    let reader = parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(staged).unwrap();
    let metadata = reader.metadata().file_metadata().key_value_metadata().unwrap();
    let told: Vec<_> = metadata
        .iter()
        .filter(|entry| entry.key.starts_with("penstock."))
        .map(|entry| (entry.key.as_str(), entry.value.as_deref().unwrap()))
        .collect();
    let expected = [
        ("penstock.pipeline", "land"),
        ("penstock.manifest", "batch-0001"),
        ("penstock.version", env!("CARGO_PKG_VERSION")),
    ];
    assert_eq!(told, expected);
}

#[tokio::test]
async fn a_line_of_40_megabytes_is_one_reject() {
    let file = [b"{\"a\":1}\n{\"a\":\"".to_vec(), vec![b'x'; 40_000_000], b"\"}\n{\"a\":2}\n".to_vec()].concat();
    let world = World::new(&[("a.ndjson", &file), ("a.ndjson.gz", &gz(&file))]).await;
    let (converted, rows) = world.converted().await;
    assert_eq!((rows.len(), converted.rejected_rows), (4, 2));
    for reject in world.rejects().await {
        assert_eq!((reject["length"].as_u64(), reject["line"].as_u64()), (Some(40_000_008), Some(2)));
        assert_eq!(reject["raw"].as_str().unwrap().len(), 4096);
    }
}

#[tokio::test]
async fn rejects_are_capped_per_file_and_counted() {
    let bad = b"x\n".repeat(5000);
    let mut world = World::new(&[("a.ndjson", &bad), ("b.ndjson", b"y\n{}\n")]).await;
    world.options.max_reject_ratio = 1.0;
    let (converted, rows) = world.converted().await;
    assert_eq!((rows.len(), converted.rejected_rows), (1, 5001));
    let rejects = world.rejects().await;
    assert_eq!((rejects.len(), converted.rejects.unwrap().count), (1002, 1001));
    assert_eq!(rejects[1000]["more_rejects"], 4000);
    assert_eq!(rejects[1001]["raw"], "y");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rejects_have_their_line_in_the_whole_file() {
    let mut file = many_rows(30_000);
    for line in [2, 10_000, 20_000, 30_000] {
        let at = file.iter().enumerate().filter(|(_, byte)| **byte == b'\n').nth(line - 2).unwrap().0 + 1;
        file[at] = b'!';
    }
    let mut world = World::new(&[("a.ndjson", &file)]).await;
    world.options.part_bytes = 2 << 20;
    world.options.row_group_bytes = 1 << 20;
    let (converted, _) = world.converted().await;
    assert_eq!((converted.rejected_rows, converted.parts.len()), (4, 2));
    let lines: Vec<_> = world.rejects().await.iter().map(|reject| reject["line"].as_u64().unwrap()).collect();
    assert_eq!(lines, [2, 10_000, 20_000, 30_000]);
}

#[tokio::test]
async fn plans_explain_themselves_and_travel() {
    let world = World::new(&[("a.ndjson", b"{\"a\":1}\n"), ("b c.ndjson.gz", b"")]).await;
    let World { conversion, options, progress, cancel, .. } = &world;
    let buckets = world.buckets();
    let job = Job::new(conversion, &buckets, options, progress, cancel).unwrap();
    let layout = lay_out(&job.files(&[0, 1]), &conversion.output, options);
    let plan = job.plan(layout, &["a".to_owned(), "a.b".to_owned()], None, true).unwrap();
    let explain = |plan: &Arc<dyn ExecutionPlan>| displayable(plan.as_ref()).indent(true).to_string();
    let text = explain(&plan);
    assert!(text.contains("ParquetPartsExec: bucket=test, parts=[out/batch-0001-p0.parquet]"), "{text}");
    assert!(text.contains("1970-01-01T00:00:00Z as _processing_timestamp"), "{text}");
    assert!(text.contains("file_type=ndjson, cast=lossless"), "{text}");
    let bytes = codec::encode(plan).unwrap();
    let decoded = codec::decode(&bytes, &TaskContext::default()).unwrap();
    assert_eq!(explain(&decoded), text);
    assert_eq!(codec::encode(decoded.clone()).unwrap(), bytes);
    // Frozen: no optimizer cuts the scan anew.
    let scan = decoded.children()[0].children()[0].clone();
    assert!(scan.repartitioned(8, &Default::default()).unwrap().is_none());
    assert!(codec::decode(&bytes[1..], &TaskContext::default()).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn any_object_reads_back_as_it_was(lines in proptest::collection::vec(object(value()), 1..30)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let (converted, rows) = runtime.block_on(async {
            World::new(&[("a.ndjson", lines.join("\n").as_bytes())]).await.converted().await
        });
        let expected: Vec<_> = lines.iter().map(|line| expected(line.as_bytes()).unwrap()).collect();
        prop_assert_eq!(rows.iter().map(data).collect::<Vec<_>>(), expected);
        prop_assert_eq!(converted.passes, 1);
    }
}

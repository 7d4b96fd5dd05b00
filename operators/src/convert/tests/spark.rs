//! The cast `spark` through whole conversions.

use super::*;

async fn spark_world(files: &[(&str, &[u8])]) -> World {
    let mut world = World::new(files).await;
    world.options.cast = Cast::Spark;
    world
}

#[tokio::test]
async fn types_are_those_of_all_files() {
    let world = spark_world(&[("a.ndjson", b"{\"b\":1,\"a\":1}\n"), ("b.ndjson.gz", &gz(b"{\"b\":2.5}\nbad\n"))]).await;
    let (converted, rows) = world.converted().await;
    assert_eq!(converted.columns, [CORRUPT_RECORD, "a", "b"]);
    let expected = [row(&[("a", "1"), ("b", "1.0")]), row(&[("b", "2.5")]), row(&[(CORRUPT_RECORD, "bad")])];
    assert_eq!(rows.iter().map(data).collect::<Vec<_>>(), expected);
    assert_eq!((converted.passes, converted.column_reruns, converted.corrupt_rows), (2, 0, 1));
    assert_eq!((converted.rows, converted.rejected_rows), (3, 0));
    // The dataset's columns keep their places.
    let world =
        spark_world(&[("a.ndjson", b"{\"b\":1,\"a\":1}\n"), ("c.ndjson", b"{\"Z\":true,\"b\":{}}\n{\"b\":\"x\"}\n")])
            .await;
    world.catalog.grow(&converted.columns).await.unwrap();
    let (converted, rows) = world.converted().await;
    assert_eq!(converted.columns, [CORRUPT_RECORD, "a", "b", "Z"]);
    let expected = [row(&[("a", "1"), ("b", "1")]), row(&[("Z", "true"), ("b", "{}")]), row(&[("b", "x")])];
    assert_eq!(rows.iter().map(data).collect::<Vec<_>>(), expected);
}

#[tokio::test]
async fn a_failed_file_has_no_part_in_the_types() {
    // It can't be decompressed to its end, but what comes before that would make doubles of longs.
    let mut broken = gz(&b"{\"a\":1.5,\"only\":1}\n".repeat(1000));
    broken.truncate(broken.len() - 4);
    let world = spark_world(&[("a.ndjson", b"{\"a\":1}\n"), ("b.ndjson.gz", &broken)]).await;
    let (converted, rows) = world.converted().await;
    assert_eq!(rows.iter().map(data).collect::<Vec<_>>(), [row(&[("a", "1")])]);
    assert_eq!((converted.columns, converted.passes), (vec!["a".to_owned()], 2));
    assert!(matches!(&converted.files[1], FileOutcome::Failed { reason: FailureReason::Undecodable, .. }));
}

#[tokio::test]
async fn what_can_be_no_column_is_text_in_rest() {
    let mut world =
        spark_world(&[("a.ndjson", b"{\"c\":{\"x\":1e3},\"a\":1,\"b\":\"q\\\"\",\"_source_file\":2}\n{\"a\":2}\n")])
            .await;
    world.options.max_columns = 1;
    let (converted, rows) = world.converted().await;
    assert_eq!(converted.columns, ["a", REST]);
    let rest = r#"{"_source_file":"2","b":"q\"","c":"{1000.0}"}"#;
    // `_source_file` sorts before `a`, but may be no column.
    assert_eq!(rows.iter().map(data).collect::<Vec<_>>(), [row(&[("a", "1"), (REST, rest)]), row(&[("a", "2")])]);
}

#[tokio::test]
async fn lower_case_is_one_column_of_both_types() {
    let mut world = spark_world(&[("a.ndjson", b"{\"Id\":1}\n{\"iD\":2.5,\"s\":{\"X\":1,\"x\":2}}\n")]).await;
    world.options.column_case = ColumnCase::Lower;
    let (_, rows) = world.converted().await;
    let expected = [row(&[("id", "1.0")]), row(&[("id", "2.5"), ("s", "{1, 2}")])];
    assert_eq!(rows.iter().map(data).collect::<Vec<_>>(), expected);
}

#[tokio::test]
async fn what_is_past_a_limit_is_a_reject() {
    let mut world =
        spark_world(&[("a.ndjson", b"{\"a\":[[1]]}\n{\"a\":[[[1]]]}\n\"\xff\"\n{\"a\":[]}\n{\"a\":[]}\n")]).await;
    world.options.max_depth = 3;
    let (converted, rows) = world.converted().await;
    assert_eq!((rows.len(), converted.rejected_rows, converted.corrupt_rows), (3, 2, 0));
    let reasons: Vec<_> = world.rejects().await.iter().map(|reject| reject["reason"].clone()).collect();
    assert_eq!(reasons, ["nested too deeply", "not UTF-8"]);
    // A short record can print as very much: each object of the array as a row of all fields.
    let mut world = World::new(&[]).await;
    world.options.cast = Cast::Spark;
    let wide: String = (0..200).map(|field| format!("\"k{field}\":1,")).collect();
    let many = format!("{{{wide}\"z\":1}}\n[{}{{}}]\n", "{},".repeat(1000));
    world.add("b.ndjson", many.as_bytes()).await;
    world.options.max_line_bytes = 4096;
    let (converted, _) = world.converted().await;
    assert_eq!((converted.rows, converted.rejected_rows), (1, 1));
}

#[tokio::test]
async fn i9_a_short_record_of_very_many_rows_is_a_reject() {
    // Each row has its file's name, which a batch must have room for.
    let name = format!("{}.ndjson", "n".repeat(500));
    let many = format!("{{\"a\":1}}\n[{}{{}}]\n", "{},".repeat(5000));
    let mut world = spark_world(&[(name.as_str(), many.as_bytes())]).await;
    world.options.max_line_bytes = 16 << 10;
    let (converted, _) = world.converted().await;
    assert_eq!((converted.rows, converted.rejected_rows), (1, 1));
    let reason = &world.rejects().await[0]["reason"];
    assert_eq!(reason, "its text is too long");
}

#[tokio::test]
async fn a_file_of_too_many_fields_fails_alone() {
    let many: String = (0..=cast::MAX_FIELDS).map(|field| format!("{{\"s\":{{\"k{field}\":1}}}}\n")).collect();
    let world = spark_world(&[("a.ndjson", many.as_bytes()), ("b.ndjson", b"{\"s\":{\"k\":1}}\n")]).await;
    let (converted, rows) = world.converted().await;
    assert_eq!(rows.iter().map(data).collect::<Vec<_>>(), [row(&[("s", "{1}")])]);
    assert!(matches!(&converted.files[0], FileOutcome::Failed { reason: FailureReason::TooManyFields, .. }));
}

//! Whole conversions, through the plan and its wire form.

use std::io::Write;

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
async fn rejects_have_their_place_and_reason() {
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

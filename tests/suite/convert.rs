//! `penstock convert`: from files to one Parquet file, and every value equal to its source text.

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    process::Stdio,
};

use penstock_tests::{
    PATIENCE,
    parquet_rows::{Cells, expected_rows, read_rows},
    place::Place,
    program::Running,
};
use serde_json::Value;

use super::place;

/// Lines in which most things that JSON can say are said.
const HARD: &str = concat!(
    r#"{"id":"1","text":"caf\u00e9 \ud83d\ude00 \"q\" \\ \/ \t","n":2.50,"big":123456789012345678901234567890,"e":1e10}"#,
    "\n",
    r#"  {"id" : "2" , "nested" : { "a" : [ 1, 2.0 , {"b":null} ] } , "list":[ ] , "yes":true,"no":false,"nil":null}  "#,
    "\r\n",
    "\n   \n",
    r#"{"id":"3","id":"4","":"empty name","ü ñ":"東京","neg":-0.0,"exp":1E-7,"text":""}"#,
    "\n",
    r#"{}"#,
    "\n",
    r#"{"id":"5","late":"column","controls":"\u0000\u001f"}"#,
);

fn names(text: &[&Path]) -> Vec<String> {
    text.iter().map(|path| path.display().to_string()).collect()
}

/// Converts files into `out.parquet` and reads it back.
fn converted(place: &Place, files: &[&Path], code: i32) -> (String, Vec<Cells>) {
    let out = place.path("out.parquet").display().to_string();
    let files = names(files);
    let mut arguments: Vec<&str> = vec!["convert", "-o", &out];
    arguments.extend(files.iter().map(String::as_str));
    let ended = place.run(&arguments).expect_code(code);
    (ended.out + &ended.err, read_rows(&place.path("out.parquet")))
}

fn gzip(text: &str) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn every_value_is_the_text_that_its_line_held() {
    let place = place();
    let file = place.write("files", "hard.ndjson", HARD);
    let (said, rows) = converted(&place, &[&file], 0);
    assert_eq!(rows, expected_rows(HARD));
    assert!(said.starts_with("5 rows, "), "{said}");
    assert_eq!(rows[0]["text"], "café 😀 \"q\" \\ / \t");
    assert_eq!(rows[1]["nested"], r#"{ "a" : [ 1, 2.0 , {"b":null} ] }"#);
    assert_eq!((rows[2]["id"].as_str(), rows[2]["text"].as_str()), ("4", ""));
}

#[test]
fn packed_files_and_patterns_and_stdin_give_the_same_rows() {
    let place = place();
    let plain = place.write("files", "a.ndjson", HARD);
    let zipped = place.write("files", "b.ndjson.gz", gzip(HARD));
    let packed = place.write("files", "c.jsonl.zst", zstd::encode_all(HARD.as_bytes(), 3).unwrap());
    let expected = expected_rows(HARD);
    assert_eq!(converted(&place, &[&zipped], 0).1, expected);
    assert_eq!(converted(&place, &[&packed], 0).1, expected);
    let thrice = [expected.clone(), expected.clone(), expected.clone()].concat();
    assert_eq!(converted(&place, &[&plain, &zipped, &packed], 0).1, thrice);
    assert_eq!(converted(&place, &[&place.path("files/**/*.*")], 0).1, thrice);

    let out = place.path("stdin.parquet").display().to_string();
    let mut command = place.command(&["convert", "-", "-o", &out]);
    command.stdin(Stdio::from(File::open(&plain).unwrap()));
    Running::start(command, &place.path("logs")).wait(PATIENCE).expect_code(0);
    assert_eq!(read_rows(&place.path("stdin.parquet")), expected);
    let left: Vec<_> = fs::read_dir(place.path("")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().contains("stdin.nd")), "stdin was left behind: {left:?}");
}

#[test]
fn rejected_lines_go_beside_the_output_with_their_place_and_reason() {
    let place = place();
    let file = place.write("files", "a.ndjson", "{\"id\":\"1\"}\nno json\n[1]\n{\"id\":\"2\"}\n{\"id\":\"3\"}\n");
    let (said, rows) = converted(&place, &[&file], 0);
    assert!(said.contains("3 rows, 1 columns, 2 rejected lines from 1 files"), "{said}");
    assert_eq!(rows.len(), 3);
    let rejects = fs::read_to_string(place.path("out.parquet.rejects.ndjson")).unwrap();
    let rejects: Vec<Value> = rejects.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let places: Vec<_> = rejects.iter().map(|reject| (reject["line"].clone(), reject["raw"].clone())).collect();
    assert_eq!(places, [(2.into(), "no json".into()), (3.into(), "[1]".into())]);
    assert!(rejects.iter().all(|reject| reject["reason"].as_str().is_some_and(|reason| !reason.is_empty())));
}

#[test]
fn a_file_that_fails_is_named_and_the_others_are_converted() {
    let place = place();
    let good = place.write("files", "good.ndjson", HARD);
    let cut = gzip(&HARD.repeat(100));
    let bad = place.write("files", "cut.ndjson.gz", &cut[..cut.len() / 2]);
    let (said, rows) = converted(&place, &[&good, &bad], 3);
    assert_eq!(rows, expected_rows(HARD));
    assert!(said.contains(&format!("{} failed (undecodable)", bad.display())), "{said}");
}

#[test]
fn what_can_not_be_converted_at_all_leaves_nothing() {
    let place = place();
    let out = place.path("out.parquet").display().to_string();
    let ended = place.run(&["convert", "none*.ndjson", "-o", &out]).expect_code(1);
    assert!(ended.err.contains("no file matches `none*.ndjson`"), "{}", ended.err);
    let nowhere = place.path("no/such/folder/out.parquet").display().to_string();
    let file = place.write("files", "a.ndjson", HARD).display().to_string();
    let ended = place.run(&["convert", &file, "-o", &nowhere]).expect_code(1);
    assert!(ended.err.contains("no/such/folder"), "{}", ended.err);
    assert!(!place.path("out.parquet").exists() && !place.path("no").exists());
}

#[test]
fn what_stood_there_stays_where_there_is_no_row_and_that_is_said() {
    let place = place();
    let out = place.path("out.parquet").display().to_string();
    let empty = place.write("files", "empty.ndjson", "\n").display().to_string();
    let ended = place.run(&["convert", &empty, "-o", &out]).expect_code(0);
    assert!(ended.out.ends_with(": no row, no output\n") && !place.path("out.parquet").exists(), "{}", ended.out);
    let file = place.write("files", "a.ndjson", HARD).display().to_string();
    place.run(&["convert", &file, "-o", &out]).expect_code(0);
    let before = fs::read(place.path("out.parquet")).unwrap();
    let ended = place.run(&["convert", &empty, "-o", &out]).expect_code(0);
    assert!(ended.out.ends_with(&format!(": no row, no output; {out} is still the one of before\n")), "{}", ended.out);
    assert_eq!(fs::read(place.path("out.parquet")).unwrap(), before);
}

/// Real data, nested and far from English, kept beside the project: where this isn't, only a build server insists on it.
#[test]
fn real_data_reads_back_as_its_source_text() {
    let shared = std::env::var_os("PENSTOCK_SHARED")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared"), PathBuf::from);
    let place = place();
    for (name, count) in [("tweets.ndjson", 100), ("github_events.ndjson", 30)] {
        let file = shared.join("data").join(name);
        if !file.exists() {
            let message = format!("{} isn't there: set PENSTOCK_SHARED to the folder that holds data/", file.display());
            assert!(std::env::var_os("CI").is_none(), "{message}");
            println!("not compared: {message}");
            continue;
        }
        let text = fs::read_to_string(&file).unwrap();
        let (said, rows) = converted(&place, &[&file], 0);
        assert!(said.starts_with(&format!("{count} rows, ")), "{said}");
        assert_eq!(rows.len(), count);
        for (number, (row, expected)) in rows.iter().zip(expected_rows(&text)).enumerate() {
            assert_eq!(*row, expected, "line {} of {name}", number + 1);
        }
    }
}

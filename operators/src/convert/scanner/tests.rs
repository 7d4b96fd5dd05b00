//! The scanner against serde_json: the same verdict for every line, the same text for every cell.

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;
use proptest::prelude::*;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::lines::LineCutter;
use super::*;
use crate::convert::columns::RESERVED_NAMES;
use crate::convert::testing::{Row, batch_rows, data, scan_options as options};

/// Scans a file that comes in chunks of `chunk` bytes.
fn scan(file: &[u8], options: ScanOptions, chunk: usize) -> (Vec<Row>, Vec<Reject>, RangeOutcome) {
    let mut cutter = LineCutter::new(None, options.max_line_bytes, options.max_reject_bytes);
    let schema = options.schema();
    let mut scanner = Scanner::new(Arc::new(options), schema, 3);
    scanner.begin(0, "s3://in/a", None);
    let (mut rows, mut notes) = (Vec::new(), Vec::new());
    let mut take = |scanner: &mut Scanner| {
        let Some(batch) = scanner.take_batch().unwrap() else { return false };
        match note::from_batch(&batch).unwrap() {
            told if told.is_empty() => rows.extend(batch_rows(&batch)),
            told => notes.extend(told),
        }
        true
    };
    let mut pieces = Vec::new();
    for bytes in file.chunks(chunk) {
        pieces.extend(cutter.push(Bytes::copy_from_slice(bytes)).into_iter().flatten());
    }
    pieces.extend(cutter.finish());
    for mut piece in pieces {
        while !scanner.scan(&mut piece) {
            assert!(take(&mut scanner));
        }
    }
    scanner.end(None);
    while take(&mut scanner) {}
    let Some(Note::Range(outcome)) = notes.pop() else { panic!("a range ends with its outcome") };
    let rejects = notes.into_iter().filter_map(|note| match note {
        Note::Reject(reject) => Some(reject),
        _ => None,
    });
    (rows, rejects.collect(), outcome)
}

/// An object's members, each of them, in their order.
pub(in crate::convert) struct Members(pub(in crate::convert) Vec<(String, Box<RawValue>)>);

impl<'de> serde::Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Each;
        impl<'de> Visitor<'de> for Each {
            type Value = Members;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Members, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Each)
    }
}

/// What the line should be: the text of its cells, or nothing if it is no row. Of a key that comes again the last value counts,
/// but each must be one that can be text.
pub(in crate::convert) fn expected(line: &[u8]) -> Option<Row> {
    let Members(members) = serde_json::from_str(std::str::from_utf8(line).ok()?).ok()?;
    let mut row = Row::new();
    for (name, value) in members {
        let text = match value.get() {
            "null" => {
                row.remove(&name);
                continue;
            }
            text if text.starts_with('"') => serde_json::from_str(text).ok()?,
            text => text.to_owned(),
        };
        row.insert(name, text);
    }
    Some(row)
}

/// A string's source, escapes and all.
fn string() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        4 => "[a-z]{1,12}",
        1 => "[^\"\\\\\\x00-\\x1f]{1,3}",
        1 => prop::sample::select(vec![
            "\\n", "\\\"", "\\\\", "\\/", "\\b", "\\u0000", "\\u00e9", "\\ud83d\\ude00", "\\uD83D\\uDE00", "\\u20ac",
        ]).prop_map(str::to_owned),
    ];
    proptest::collection::vec(piece, 0..4).prop_map(|pieces| format!("\"{}\"", pieces.concat()))
}

/// A key's source: few names, so that they come again and in other orders.
fn key() -> impl Strategy<Value = String> {
    prop_oneof![
        6 => prop::sample::select(vec!["a", "b", "c", "a.b", "", "A", "\\u0061", "x\\\"", "_id"]).prop_map(|name| format!("\"{name}\"")),
        1 => string(),
    ]
}

fn space() -> impl Strategy<Value = &'static str> {
    prop_oneof![8 => Just(""), 1 => Just(" "), 1 => Just("\t"), 1 => Just("\r")]
}

pub(in crate::convert) fn object(value: impl Strategy<Value = String> + 'static) -> impl Strategy<Value = String> {
    let member = (space(), key(), space(), space(), value, space())
        .prop_map(|(a, key, b, c, value, d)| format!("{a}{key}{b}:{c}{value}{d}"));
    (proptest::collection::vec(member, 0..6), space())
        .prop_map(|(members, space)| format!("{{{}{space}}}", members.join(",")))
}

pub(in crate::convert) fn value() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        1 => Just("null".to_owned()),
        1 => Just("true".to_owned()),
        1 => Just("false".to_owned()),
        3 => "-?(0|[1-9][0-9]{0,25})(\\.[0-9]{1,4})?([eE][-+]?[0-9]{1,3})?",
        4 => string(),
    ];
    leaf.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            object(inner.clone()),
            (proptest::collection::vec(inner, 0..3), space())
                .prop_map(|(items, space)| format!("[{space}{}]", items.join(","))),
        ]
    })
}

/// A line that is a row, or one that was after some bytes of it were changed.
fn line() -> impl Strategy<Value = Vec<u8>> {
    let change = (
        any::<prop::sample::Index>(),
        prop_oneof![
            3 => prop::sample::select(b"{}[]\",:\\ 0123eE.+-tfnu\r\t".to_vec()),
            1 => any::<u8>(),
        ],
        0..3_u8,
    );
    (space(), object(value()), space(), proptest::collection::vec(change, 0..3), prop::bool::ANY).prop_map(
        |(before, object, after, changes, damaged)| {
            let mut line = format!("{before}{object}{after}").into_bytes();
            for (at, byte, how) in changes.into_iter().filter(|_| damaged) {
                let at = at.index(line.len().max(1));
                match how {
                    _ if line.is_empty() => {}
                    0 => line[at] = byte,
                    1 => line.insert(at, byte),
                    _ => drop(line.remove(at)),
                }
            }
            line.retain(|byte| *byte != b'\n');
            line
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn verdicts_and_cells_agree_with_serde_json(
        lines in proptest::collection::vec(line(), 1..8),
        chunk in 1_usize..200,
        spoiled in prop::bool::weighted(0.1),
    ) {
        let file = [b"\n".to_vec(), lines.join(&b'\n')].concat();
        let rows: Vec<_> = lines.iter().map(|line| expected(line)).collect();
        let mut names: Vec<_> = rows.iter().flatten().flat_map(|row| row.keys().cloned()).collect();
        names.retain(|name| !RESERVED_NAMES.contains(&name.as_str()));
        names.sort();
        names.dedup();
        if spoiled {
            names.pop();
        }
        let columns: Vec<_> = names.iter().map(String::as_str).chain([REST]).collect();
        let (scanned, rejects, outcome) = scan(&file, options(&columns), chunk);
        let blank = |line: &[u8]| line.iter().all(|byte| b" \t\r".contains(byte));
        let wrong: Vec<_> = (0..lines.len()).filter(|at| rows[*at].is_none() && !blank(&lines[*at])).collect();
        prop_assert_eq!(rejects.iter().map(|reject| reject.line as usize - 2).collect::<Vec<_>>(), wrong);
        prop_assert_eq!(outcome.rows as usize, rows.iter().flatten().count());
        prop_assert_eq!(outcome.lines as usize, lines.len() + usize::from(!lines[lines.len() - 1].is_empty()));
        let scanned: Vec<_> = scanned.iter().map(data).collect();
        let rows: Vec<_> = rows.into_iter().flatten().map(|row| {
            // What is no column is in `_rest`.
            let (mut row, rest): (Row, Row) = row.into_iter().partition(|(name, _)| names.contains(name));
            if !rest.is_empty() {
                row.insert(REST.to_owned(), String::new());
            }
            row
        }).collect();
        let rest_left_out: Vec<_> = scanned.into_iter().map(|mut row| {
            // A null in `_rest` is there, but is no cell.
            match row.remove(REST) {
                Some(rest) if serde_json::from_str::<BTreeMap<String, serde_json::Value>>(&rest).is_ok_and(|rest| rest.values().all(|value| value.is_null())) => {}
                Some(_) => { row.insert(REST.to_owned(), String::new()); }
                None => {}
            }
            row
        }).collect();
        prop_assert_eq!(rest_left_out, rows);
    }
}

fn scan_line(line: &str, options: ScanOptions) -> (Vec<Row>, RangeOutcome) {
    let (rows, _, outcome) = scan(line.as_bytes(), options, 1000);
    (rows.iter().map(data).collect(), outcome)
}

fn row(cells: &[(&str, &str)]) -> Row {
    cells.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
}

#[test]
fn of_a_key_that_comes_again_the_last_value_counts() {
    let line = r#"{"a":1,"b":{"x":1,"x":2},"a":"two","c":3,"c":null,"d":null,"d":4,"\u0061":"three"}"#;
    let (rows, outcome) = scan_line(line, options(&["a", "b", "c", "d"]));
    assert_eq!(rows, [row(&[("a", "three"), ("b", r#"{"x":1,"x":2}"#), ("d", "4")])]);
    assert_eq!(outcome.duplicate_keys, 4);
}

#[test]
fn a_reject_leaves_nothing_in_its_columns() {
    let file = "{\"a\":1,\"b\":2}\n{\"a\":\"x\",\"b\":\"\\q\"}\n{\"b\":3,\"a\":\"y\\n\",}\n{\"b\":4}\n";
    let (rows, rejects, _) = scan(file.as_bytes(), options(&["a", "b"]), 1000);
    assert_eq!(rows.iter().map(data).collect::<Vec<_>>(), [row(&[("a", "1"), ("b", "2")]), row(&[("b", "4")])]);
    assert_eq!(rejects.len(), 2);
}

#[test]
fn what_can_be_no_column_goes_into_rest() {
    let long = "k".repeat(257);
    let line = format!(r#"{{"_source_file":"x","a":1,"b" : [1, 2],"{long}":null,"b":2,"_rest":{{}},"{long}":"\n"}}"#);
    let (rows, outcome) = scan_line(&line, options(&["a", REST]));
    let rest = format!(r#"{{"_source_file":"x","b":2,"_rest":{{}},"{long}":"\n"}}"#);
    assert_eq!(rows, [row(&[("a", "1"), (REST, &rest)])]);
    assert_eq!(outcome.duplicate_keys, 2);
    let (rows, outcome) = scan_line(&line, options(&["a"]));
    assert!(rows.is_empty() && outcome.needs_rest);
}

#[test]
fn unknown_names_are_told_up_to_the_room() {
    let file = "{\"no\":[}\n{\"a\":1}\n{\"x\":1,\"a\":2}\n{\"y\":1,\"x\":1}\n{\"z\":1}\n";
    let (rows, _, outcome) = scan(file.as_bytes(), ScanOptions { room: 2, ..options(&["a"]) }, 9);
    assert_eq!(outcome.unknown, [("x".to_owned(), 17), ("y".to_owned(), 31)]);
    assert!(outcome.needs_rest && outcome.spoils());
    assert_eq!(outcome.rows, 4);
    assert!(rows.is_empty());
}

#[test]
fn lower_case_merges_columns() {
    let lower = ScanOptions { column_case: ColumnCase::Lower, ..options(&["id"]) };
    let (rows, outcome) = scan_line("{\"ID\":1}\n{\"Id\":2,\"id\":3}\n", lower);
    assert_eq!(rows, [row(&[("id", "1")]), row(&[("id", "3")])]);
    assert_eq!(outcome.duplicate_keys, 1);
}

#[test]
fn limits_make_rejects() {
    let depth = ScanOptions { max_depth: 3, ..options(&["a"]) };
    let (rows, outcome) = scan_line("{\"a\":[[1]]}\n{\"a\":[[[1]]]}\n", depth);
    assert_eq!((rows.len(), outcome.rejected), (1, 1));
    let length = ScanOptions { max_line_bytes: 8, ..options(&["a"]) };
    for chunk in [1, 5, 100] {
        let (rows, rejects, outcome) = scan(b"{\"a\":10}\r\n{\"a\":100}\n{\"a\":1}", length.clone(), chunk);
        assert_eq!((rows.len(), outcome.lines), (2, 3));
        assert_eq!((rejects[0].offset, rejects[0].length, rejects[0].line), (10, 9, 2));
        assert_eq!(rejects[0].reason, "line too long");
        assert_eq!(rejects[0].raw, Raw::Text("{\"a\":100}".to_owned()));
    }
    let few = ScanOptions { max_rejects: 2, ..options(&["a"]) };
    let (_, rejects, outcome) = scan(b"1\n2\n3\n4\n", few, 100);
    assert_eq!((rejects.len(), outcome.rejected), (2, 4));
}

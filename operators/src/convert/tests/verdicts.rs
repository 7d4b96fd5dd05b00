//! Every line's verdict against serde_json's, over a large corpus of right and wrong lines.

use std::collections::HashSet;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use super::*;
use crate::convert::scanner::tests::Members;

const LINES: usize = 200_000;
const MAX_DEPTH: usize = 6;

/// How deep brackets are nested outside of strings.
fn depth(line: &str) -> usize {
    let (mut depth, mut deepest, mut in_string, mut escaped) = (0_usize, 0, false, false);
    for byte in line.bytes() {
        match (in_string, byte) {
            (true, _) if escaped => escaped = false,
            (true, b'\\') => escaped = true,
            (_, b'"') => in_string = !in_string,
            (false, b'{' | b'[') => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            (false, b'}' | b']') => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

/// Whether a line is a row, by serde_json and by counting brackets.
fn is_row(line: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(line) else { return false };
    let Ok(Members(members)) = serde_json::from_str(text) else { return false };
    // A cell must be text; inside of JSON text anything that the grammar has may stay.
    let texts = members.iter().map(|(_, value)| value.get()).filter(|value| value.starts_with('"'));
    depth(text) <= MAX_DEPTH && texts.into_iter().all(|text| serde_json::from_str::<String>(text).is_ok())
}

const STRINGS: [&str; 14] = [
    "",
    "x",
    "plain text",
    "\\n",
    "\\u00e9",
    "\\ud83d\\ude00",
    "\\ud83d",
    "\\u12",
    "\\q",
    "é€😀",
    "a\\\"b",
    "\\\\",
    "\u{7f}",
    "\\/",
];
const NUMBERS: [&str; 20] = [
    "0",
    "-0",
    "1",
    "-12",
    "2.50",
    "1e10",
    "1E+5",
    "-1.5e-7",
    "123456789012345678901234567890",
    "01",
    "1.",
    ".5",
    "-",
    "1e",
    "+1",
    "0x1",
    "NaN",
    "Infinity",
    "1e+",
    "--1",
];

fn push_value(out: &mut String, dice: &mut StdRng, level: usize) {
    match dice.random_range(0..if level > 7 { 6 } else { 9 }) {
        0 => out.push_str(["null", "true", "false", "nul", "True"].choose(dice).unwrap()),
        1 | 2 => out.push_str(NUMBERS[..if dice.random_bool(0.97) { 9 } else { 20 }].choose(dice).unwrap()),
        3..6 => push_string(out, dice),
        6 => push_object(out, dice, level + 1),
        _ => {
            out.push('[');
            for item in 0..dice.random_range(0..3) {
                out.push_str(if item > 0 { ", " } else { "" });
                push_value(out, dice, level + 1);
            }
            out.push(']');
        }
    }
}

fn push_string(out: &mut String, dice: &mut StdRng) {
    let rare = dice.random_bool(0.1);
    let text = STRINGS.iter().filter(|text| rare || !matches!(**text, "\\ud83d" | "\\u12" | "\\q"));
    let text = text.copied().collect::<Vec<_>>();
    out.push('"');
    out.push_str(text.choose(dice).unwrap());
    out.push('"');
}

fn push_object(out: &mut String, dice: &mut StdRng, level: usize) {
    out.push('{');
    for member in 0..dice.random_range(0..5) {
        out.push_str(if member > 0 { "," } else { "" });
        out.push_str(["\"a\":", "\"b\" : ", "\"c\":", "\"\":", "\"a.b\":"].choose(dice).unwrap());
        push_value(out, dice, level);
    }
    out.push('}');
}

fn line(dice: &mut StdRng) -> Vec<u8> {
    let mut text = String::new();
    push_object(&mut text, dice, 1);
    let mut line = text.into_bytes();
    if dice.random_bool(0.5) {
        for _ in 0..dice.random_range(1..3) {
            let at = dice.random_range(0..line.len().max(1));
            let byte = *b"{}[]\",:\\ 0123eE.+-tfnu\r\t\x01\x80\xff\xc3".choose(dice).unwrap();
            match dice.random_range(0..5) {
                _ if line.is_empty() => {}
                0 => line[at] = byte,
                1 => line.insert(at, byte),
                2 => drop(line.remove(at)),
                3 => line.truncate(at),
                _ => line.extend_from_within(at..),
            }
        }
    }
    line
}

#[tokio::test]
async fn every_verdict_is_serde_json_s() {
    let mut dice = StdRng::seed_from_u64(6);
    let lines: Vec<Vec<u8>> = (0..LINES).map(|_| line(&mut dice)).collect();
    let mut world = World::new(&[("a.ndjson", &lines.join(&b'\n'))]).await;
    world.options = ConvertOptions {
        max_depth: MAX_DEPTH,
        max_reject_ratio: 1.0,
        max_rejects_per_file: u64::MAX,
        max_reject_bytes: 1,
        ..world.options
    };
    let converted = world.convert().await.unwrap();
    let rejects: HashSet<u64> = world.rejects().await.iter().map(|reject| reject["line"].as_u64().unwrap()).collect();
    let mut rows = 0;
    for (number, line) in (1..).zip(&lines) {
        // What stands before a line feed as a carriage return is its line end's.
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let blank = line.iter().all(|byte| matches!(byte, b' ' | b'\t' | b'\r'));
        let expected = is_row(line);
        rows += u64::from(expected);
        let found = !rejects.contains(&number) && !blank;
        assert_eq!(found, expected, "line {number}: {:?}", String::from_utf8_lossy(line));
    }
    assert_eq!((converted.rows, converted.rejected_rows), (rows, rejects.len() as u64));
    // The corpus must have enough of both.
    assert!(rows > LINES as u64 / 4 && rejects.len() > LINES / 4, "{rows} rows");
}

//! A line is a row exactly if a strict reference says so, and its cells are what the reference reads.
//!
//! The reference is serde_json with raw values. Two rules are ours: at most so many levels, and no lone surrogate where
//! text is wanted (a key, or a string that is a cell).

#![no_main]

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use libfuzzer_sys::fuzz_target;
use penstock_operators::convert::bare;
use penstock_tests::reference::{Verdict, rows_of, verdict};

const MAX_DEPTH: usize = 6;

fuzz_target!(|file: &[u8]| {
    let mut options = bare::options(&["a", "b", "c d", "_rest"]);
    options.max_depth = MAX_DEPTH;
    options.max_rejects = u64::MAX;
    let mut rows = Vec::new();
    let file = bytes::Bytes::copy_from_slice(file);
    let notes = bare::scan(&file, None, 1 << 20, &Arc::new(options), |batch| rows.extend(rows_of(&batch))).unwrap();
    let mut rows = rows.into_iter();
    let mut rejects = penstock_tests::reference::rejects_of(&notes).into_iter();
    let mut offset = 0;
    for line in file.split(|byte| *byte == b'\n') {
        let begin = offset;
        offset += line.len() as u64 + 1;
        match verdict(line, begin == 0, MAX_DEPTH) {
            Verdict::Blank => {}
            Verdict::Row(mut values) => {
                let row: BTreeMap<String, String> = rows.next().expect("a row is missing");
                for column in ["a", "b", "c d"] {
                    let value = values.remove(column);
                    assert_eq!(row.get(column), value.as_ref(), "{column} of {}", String::from_utf8_lossy(line));
                }
                let rest = row
                    .get("_rest")
                    .map_or(Verdict::Row(HashMap::new()), |rest| verdict(rest.as_bytes(), false, MAX_DEPTH));
                assert_eq!(rest, Verdict::Row(values), "_rest of {}", String::from_utf8_lossy(line));
            }
            Verdict::Reject => {
                let (at, ..) = rejects.next().expect("a reject is missing");
                assert!((begin..offset).contains(&at), "{at} of {}", String::from_utf8_lossy(line));
            }
        }
    }
    assert_eq!((rows.next(), rejects.next()), (None, None));
});

//! Cut into any ranges, in chunks of any size, a file gives the same rows, and the same rejects at the same places.

#![no_main]

use std::sync::Arc;

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use penstock_operators::convert::bare;
use penstock_tests::reference::{rejects_of, rows_of};

fuzz_target!(|input: &[u8]| {
    let [chunk, cuts @ .., _] = &input[..input.len().min(6)] else { return };
    let file = Bytes::copy_from_slice(&input[input.len().min(6)..]);
    let mut options = bare::options(&["a", "b", "c d", "_rest"]);
    options.max_line_bytes = 40;
    options.batch_bytes = 64;
    let options = Arc::new(options);
    let (mut whole, mut split) = (Vec::new(), Vec::new());
    let notes = bare::scan(&file, None, usize::MAX, &options, |batch| whole.extend(rows_of(&batch))).unwrap();
    let mut cuts: Vec<u64> = cuts.iter().map(|cut| u64::from(*cut).min(file.len() as u64)).collect();
    cuts.extend([0, file.len() as u64]);
    cuts.sort();
    let mut rejects = Vec::new();
    for range in cuts.windows(2) {
        let chunk = usize::from(*chunk).max(1);
        let notes = bare::scan(&file, Some(range[0]..range[1]), chunk, &options, |batch| split.extend(rows_of(&batch)));
        rejects.extend(rejects_of(&notes.unwrap()));
    }
    assert_eq!(split, whole);
    assert_eq!(rejects, rejects_of(&notes));
});

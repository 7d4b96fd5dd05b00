//! Every kernel that this processor has finds the same ends of plain text as a loop over single bytes.

#![no_main]

use libfuzzer_sys::fuzz_target;
use penstock_operators::convert::bare::plain_text_kernels;

fuzz_target!(|line: &[u8]| {
    let special = |at: &usize| matches!(line[*at], b'"' | b'\\' | 0..0x20);
    for (name, kernel) in plain_text_kernels() {
        for at in 0..line.len() {
            let expected = (at..line.len()).find(special).unwrap_or(line.len());
            assert_eq!(kernel(line, at), expected, "{name} from {at}");
        }
    }
});

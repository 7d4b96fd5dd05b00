//! Words for people.

use std::fmt::Display;

/// A count and what it counts: `1 file`, `2 files`.
pub fn plural<N: Display + PartialEq + From<u8>>(count: N, noun: &str) -> String {
    if count == N::from(1) { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

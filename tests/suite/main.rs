//! End-to-end tests: the promises of the design, kept by the real program in a real folder.
//!
//! Each test starts `penstock` as a child, does to it what people, kernels and files do, and judges it by what it leaves.
//! Names say the promise; I1 to I10 are the design's invariants, F numbers the known failures
//! of such systems that it promises to be without.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod commands;
mod convert;
mod cost;
mod crashes;
mod documents;
mod kill;
mod observe;
mod oncall;
mod outputs;
mod run;
mod runbook;
mod serve;
mod table_to_parquet;
mod traces;
mod wrong_input;

use penstock::sample::Sample;
use penstock_tests::place::{DATE, Place};

/// The program.
const PROGRAM: &str = env!("CARGO_BIN_EXE_penstock-under-test");

/// An empty place for the program. The sweep's first look is at once; what a test needs sooner, it sets.
fn place() -> Place {
    Place::new(PROGRAM)
}

fn sample(files: usize, lines: usize, seed: u64) -> Sample {
    Sample { files, lines, date: DATE.to_owned(), with_trouble: true, seed }
}

/// One line with an id, and its end.
fn line(id: &str) -> String {
    format!("{{\"id\":\"{id}\",\"n\":1}}\n")
}

/// The ids `{name}-0` to `{name}-{count - 1}`, and a line for each.
fn lines(name: &str, count: usize) -> (Vec<String>, String) {
    let ids: Vec<String> = (0..count).map(|number| format!("{name}-{number}")).collect();
    let text = ids.iter().map(|id| line(id)).collect();
    (ids, text)
}

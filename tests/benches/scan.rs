//! The scanner alone: how fast it is, and how many instructions it spends on a byte.
//!
//! ```sh
//! cargo bench -p penstock-tests --bench scan                      # MB/s of one core
//! cargo bench -p penstock-tests --bench scan -- --instructions    # by valgrind; fails above a bound
//! ```
//!
//! Time needs a quiet machine, instructions don't: they are the same on a busy one, so a change that makes the scanner do
//! more shows at once. CI counts them; the bounds are some way above what was counted when they were set.
//!
//! What simd-json, sonic-rs, jiter and serde_json need for the same lines, only to find the values, is measured by the
//! program in `parsers/`: a crate of its own, so that nobody who builds Penstock builds three more parsers.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a benchmark fails by panicking")]

#[path = "convert/data.rs"]
#[allow(dead_code, reason = "shared with the benchmark `convert`")]
mod data;

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use clap::Parser;
use penstock_operators::convert::bare;

use self::data::Set;

/// Instructions per byte that a set may take. Counted in November 2026: 10.7, 11.3, 23.0, 25.7.
const BOUNDS: [(Set, f64); 4] = [(Set::Flat, 12.0), (Set::Nested, 12.5), (Set::Wide, 25.5), (Set::Escapes, 28.5)];

/// Scans sets of data in memory.
#[derive(Debug, Parser)]
struct Arguments {
    /// The data to scan.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "flat,nested,wide,long,escapes,sparse,low,high")]
    sets: Vec<Set>,
    /// The size of each set, in millions of bytes.
    #[arg(long, default_value_t = 64)]
    megabytes: u64,
    /// Where the data is; kept, so that it need not be made again.
    #[arg(long)]
    folder: Option<PathBuf>,
    /// Counts instructions by valgrind, in place of time.
    #[arg(long)]
    instructions: bool,
    /// Scans one file once, under valgrind.
    #[arg(long, hide = true)]
    inside: Option<PathBuf>,
    /// Given by `cargo bench`, and of no meaning here.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() {
    let arguments = Arguments::parse();
    if let Some(path) = &arguments.inside {
        let (file, columns) = (Bytes::from(fs::read(path).unwrap()), path.with_file_name("columns.json"));
        let columns: Vec<String> = serde_json::from_slice(&fs::read(columns).unwrap()).unwrap();
        let rows = counted(&file, &columns);
        println!("{rows}");
        return;
    }
    let temporary = tempfile::tempdir().unwrap();
    let folder = arguments.folder.clone().unwrap_or_else(|| temporary.path().to_owned());
    if arguments.instructions {
        count_instructions(&folder);
        return;
    }
    println!("| set | MB/s |\n|---|---:|");
    for set in &arguments.sets {
        let files = set.make(&folder, arguments.megabytes * 1_000_000, 1).unwrap();
        let file = Bytes::from(fs::read(&files.paths[0]).unwrap());
        let seconds = (0..5).map(|_| {
            let began = Instant::now();
            scan(&file, &files.columns);
            began.elapsed().as_secs_f64()
        });
        println!("| {} | {:.0} |", set.name(), file.len() as f64 / 1e6 / seconds.fold(f64::INFINITY, f64::min));
    }
}

fn count_instructions(folder: &std::path::Path) {
    if Command::new("valgrind").arg("--version").output().is_err() {
        println!("valgrind is not installed: no instructions are counted");
        return;
    }
    println!("| set | instructions per byte | bound |\n|---|---:|---:|");
    let mut above = Vec::new();
    for (set, bound) in BOUNDS {
        let files = set.make(folder, 4_000_000, 1).unwrap();
        let path = &files.paths[0];
        fs::write(path.with_file_name("columns.json"), serde_json::to_string(&files.columns).unwrap()).unwrap();
        let out = path.with_file_name("callgrind.out");
        let status = Command::new("valgrind")
            .args(["--quiet", "--tool=callgrind", "--collect-atstart=no", "--toggle-collect=*counted*"])
            .arg(format!("--callgrind-out-file={}", out.display()))
            .arg(std::env::current_exe().unwrap())
            .arg("--inside")
            .arg(path)
            .output()
            .unwrap();
        assert!(status.status.success(), "{}", String::from_utf8_lossy(&status.stderr));
        let report = fs::read_to_string(&out).unwrap();
        let total = report.lines().find_map(|line| line.strip_prefix("summary: ").or(line.strip_prefix("totals: ")));
        let total: f64 = total.expect("callgrind told no sum").trim().parse().unwrap();
        let per_byte = total / path.metadata().unwrap().len() as f64;
        println!("| {} | {per_byte:.2} | {bound:.1} |", set.name());
        if per_byte > bound {
            above.push(set.name());
        }
    }
    assert!(above.is_empty(), "more instructions than allowed for {}", above.join(", "));
}

/// What is counted: its name is how valgrind finds it.
#[inline(never)]
fn counted(file: &Bytes, columns: &[String]) -> usize {
    scan(file, columns)
}

fn scan(file: &Bytes, columns: &[String]) -> usize {
    let columns: Vec<&str> = columns.iter().map(String::as_str).collect();
    let mut rows = 0;
    let notes = bare::scan(file, None, 4 << 20, &Arc::new(bare::options(&columns)), |batch| rows += batch.num_rows());
    assert_eq!(notes.unwrap().len(), 1, "only the range's outcome");
    rows
}

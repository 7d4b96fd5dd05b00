//! How fast NDJSON becomes Parquet, beside others, in one run on one machine.
//!
//! ```sh
//! python3 -m venv peers && peers/bin/pip install duckdb polars chdb datafusion pyspark
//! cargo bench -p penstock-tests --bench convert -- --python peers/bin/python --sets flat,nested --megabytes 400
//! ```
//!
//! It makes its data by a seed (`data.rs`), then runs each engine on each set in turn, and that several times over, so that
//! a busy moment of the machine hits all alike; the best run of each counts. Every run is a process of its own: its time
//! is all of it, its memory what the system says it held at most. Peers that aren't installed are left out with a word.
//! Row counts must agree; so must the cells of columns that are plain text in the input, for the engines that can be exact
//! there; and ours must be what a strict parser reads, in every cell. Python is also the clock, so one must be there.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a benchmark fails by panicking")]

mod chart;
mod check;
mod data;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::Parser;
use serde::Deserialize;

use self::check::Output;
use self::data::{Files, Set};

/// Converts sets of data with us and with others, and compares.
#[derive(Debug, Parser)]
struct Arguments {
    /// The data to convert.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "flat,nested")]
    sets: Vec<Set>,
    /// Engines besides ours; all that are installed by default. Spark is slow, and runs only when it is named.
    #[arg(long, value_delimiter = ',')]
    engines: Option<Vec<String>>,
    /// The size of each set, in millions of bytes.
    #[arg(long, default_value_t = 400)]
    megabytes: u64,
    /// Runs of each engine on each set.
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// The seed of the data.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Where data and outputs are; kept, so that the data need not be made again.
    #[arg(long)]
    folder: Option<PathBuf>,
    /// A Python that has the peers; without them ours runs alone.
    #[arg(long, default_value = "python3")]
    python: PathBuf,
    /// The program to measure.
    #[arg(long, default_value = env!("CARGO_BIN_EXE_penstock-under-test"))]
    program: PathBuf,
    /// Also run ours bound to one core.
    #[arg(long)]
    one_core: bool,
    /// Where a bar chart goes, as SVG.
    #[arg(long)]
    chart: Option<PathBuf>,
    /// Given by `cargo bench`, and of no meaning here.
    #[arg(long, hide = true)]
    bench: bool,
}

/// What one run took.
#[derive(Debug, Clone, Deserialize)]
struct Took {
    seconds: f64,
    peak_bytes: u64,
    cpu_seconds: f64,
    code: i32,
}

/// An engine's best run on a set.
struct Measured {
    took: Took,
    output_bytes: u64,
}

const OURS: &str = "penstock";
const OURS_ON_ONE: &str = "penstock, 1 core";

fn main() {
    let arguments = Arguments::parse();
    let temporary = tempfile::tempdir().unwrap();
    let folder = arguments.folder.clone().unwrap_or_else(|| temporary.path().to_owned());
    let script = folder.join("peers.py");
    fs::create_dir_all(&folder).unwrap();
    fs::write(&script, include_str!("peers.py")).unwrap();
    let python = Python { python: arguments.python.clone(), script };
    let engines = engines(&arguments, &python);
    let mut bars = Vec::new();
    for set in &arguments.sets {
        let files = set.make(&folder, arguments.megabytes * 1_000_000, arguments.seed).unwrap();
        println!(
            "\n{}: {} files, {:.0} MB, {} rows, {} columns",
            set.name(),
            files.paths.len(),
            files.bytes as f64 / 1e6,
            files.rows,
            files.columns.len()
        );
        let measured = measure(&arguments, &python, &engines, &folder, &files);
        let best_peer = measured
            .iter()
            .filter(|(engine, _)| !engine.starts_with(OURS))
            .map(|(_, measured)| measured.took.seconds)
            .fold(f64::INFINITY, f64::min);
        println!("| engine | MB/s | ours to it | cores busy | peak memory | output |\n|---|---:|---:|---:|---:|---:|");
        let ours = measured.get(OURS).map(|measured| measured.took.seconds);
        for (engine, Measured { took, output_bytes }) in &measured {
            let rate = files.bytes as f64 / 1e6 / took.seconds;
            println!(
                "| {engine} | {rate:.0} | {} | {:.2} | {:.0} MB | {:.1} MB |",
                ours.map_or(String::new(), |ours| format!("{:.2}", took.seconds / ours)),
                took.cpu_seconds / took.seconds,
                took.peak_bytes as f64 / 1e6,
                *output_bytes as f64 / 1e6,
            );
            bars.push(chart::Bar { set: set.name().to_owned(), engine: engine.clone(), rate });
        }
        if let (Some(ours), true) = (ours, best_peer.is_finite()) {
            println!("ours is {:.2} times as fast as the fastest peer", best_peer / ours);
        }
    }
    if let Some(path) = &arguments.chart {
        fs::write(path, chart::svg(&bars)).unwrap();
        println!("\n{}", path.display());
    }
}

/// Runs engines in turn, again and again; the best run of each.
fn measure(
    arguments: &Arguments,
    python: &Python,
    engines: &[String],
    folder: &Path,
    files: &Files,
) -> BTreeMap<String, Measured> {
    let (columns, listed) = (folder.join("columns.json"), folder.join("files.json"));
    fs::write(&columns, serde_json::to_string(&files.columns).unwrap()).unwrap();
    fs::write(&listed, serde_json::to_string(&files.paths).unwrap()).unwrap();
    let mut measured: BTreeMap<String, Measured> = BTreeMap::new();
    let mut checked: BTreeMap<String, Output> = BTreeMap::new();
    // The first round brings the files into memory, and is checked.
    for run in 0..arguments.runs + 1 {
        for engine in engines {
            let output = folder.join(format!("out-{}", engine.replace([' ', ','], "-")));
            remove(&output);
            let mut command: Vec<String> = Vec::new();
            if engine == OURS_ON_ONE {
                command.extend(["taskset", "-c", "0"].map(str::to_owned));
            }
            if engine.starts_with(OURS) {
                command.push(arguments.program.display().to_string());
                command.push("convert".to_owned());
                // More files than a command line holds are named by a pattern.
                if files.paths.len() > 100 {
                    command.push(files.paths[0].with_file_name("*.ndjson").display().to_string());
                } else {
                    command.extend(files.paths.iter().map(|path| path.display().to_string()));
                }
                command.extend(["--output".to_owned(), output.display().to_string()]);
            } else {
                command.extend([&python.python, &python.script].map(|path| path.display().to_string()));
                command.extend(["run".to_owned(), engine.clone()]);
                command.extend([&output, &columns, &listed].map(|path| path.display().to_string()));
            }
            let Some(took) = python.time(&command) else {
                println!("({engine} did not run)");
                continue;
            };
            if took.code != 0 {
                println!("({engine} failed with {})", took.code);
                continue;
            }
            let output_bytes = check::bytes(&output);
            if run == 0 {
                let found = check::read(&output, &files.texts);
                assert_eq!(found.rows, files.rows, "rows of {engine}");
                if engine == OURS {
                    check::cells(&output, files);
                }
                checked.insert(engine.clone(), found);
            } else if measured.get(engine).is_none_or(|best| best.took.seconds > took.seconds) {
                measured.insert(engine.clone(), Measured { took, output_bytes });
            }
            remove(&output);
        }
    }
    if let Some(ours) = checked.get(OURS) {
        for (engine, found) in checked.iter().filter(|(engine, _)| !engine.starts_with(OURS)) {
            for (column, sum) in &ours.sums {
                if found.sums.get(column) != Some(sum) {
                    println!("({engine} has other cells than ours in {column})");
                }
            }
        }
    }
    measured
}

fn engines(arguments: &Arguments, python: &Python) -> Vec<String> {
    let mut engines = vec![OURS.to_owned()];
    if arguments.one_core {
        engines.push(OURS_ON_ONE.to_owned());
    }
    let installed = python.versions();
    let wanted = arguments
        .engines
        .clone()
        .unwrap_or_else(|| ["duckdb", "polars", "chdb", "datafusion"].map(str::to_owned).to_vec());
    for engine in wanted {
        match installed.get(&engine) {
            Some(version) => {
                println!("{engine} {version}");
                engines.push(engine);
            }
            None => println!("{engine} is not installed, and left out"),
        }
    }
    engines
}

fn remove(output: &Path) {
    if output.is_dir() {
        fs::remove_dir_all(output).unwrap();
    } else if output.exists() {
        fs::remove_file(output).unwrap();
    }
}

/// A Python with the peers.
struct Python {
    python: PathBuf,
    script: PathBuf,
}

impl Python {
    fn versions(&self) -> BTreeMap<String, String> {
        let output = Command::new(&self.python).arg(&self.script).arg("versions").output();
        output.ok().and_then(|output| serde_json::from_slice(&output.stdout).ok()).unwrap_or_default()
    }

    /// Runs a command under the clock.
    fn time(&self, command: &[String]) -> Option<Took> {
        let output = Command::new(&self.python).arg(&self.script).arg("time").args(command).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        let last = text.trim().lines().last()?.to_owned();
        let took: Option<Took> = serde_json::from_str(&last).ok();
        if took.as_ref().is_none_or(|took| took.code != 0) {
            println!("{}", String::from_utf8_lossy(&output.stderr));
        }
        took
    }
}

//! A long run on one machine: many small files through a real process that is stopped and started again all the time.
//!
//! `cargo bench -p penstock-tests --bench long_run -- --files 200000 --restart-secs 20`. Files are put into the input
//! folder at a steady rate; the program is killed or asked to stop in turn. Told for each tenth of the run: how long files
//! took from landing to being completed, and how much memory the process held. In the end every file must be completed and
//! every line a row, and the last thousand files must not have taken longer than the first.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a benchmark fails by panicking")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use clap::Parser;
use penstock::{
    facts::{Facts, TRACKING_TABLE},
    home::Home,
    landing,
    loader::load,
};
use penstock_engine::cloud::{Table, table::Query};
use penstock_operators::model::{FileItem, FileState, MANIFEST_KEY_PREFIX, attribute, read_item, text};
use penstock_tests::{
    place::{INPUT_PREFIX, pipeline_file},
    program::peak_bytes,
};

/// Runs for long.
#[derive(Debug, Parser)]
struct Arguments {
    /// How many files.
    #[arg(long, default_value_t = 200_000)]
    files: u64,
    /// Files that land in a second.
    #[arg(long, default_value_t = 1000)]
    rate: u64,
    /// Seconds between restarts; 0 for none.
    #[arg(long, default_value_t = 20)]
    restart_secs: u64,
    /// Dates among which the files are spread.
    #[arg(long, default_value_t = 4)]
    dates: u64,
    /// Where to run; a temporary folder by default.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Given by `cargo bench`, and of no meaning here.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let temporary = tempfile::tempdir()?;
    let dir = arguments.dir.clone().unwrap_or_else(|| temporary.path().to_owned());
    let registry = penstock::registry();
    let pipeline = load(&pipeline_file(), &|_| None, &registry)?;
    let input = landing::bucket_dir(&dir, &pipeline, "input");
    let (landed, is_done) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let began = Instant::now();
    let mut child = start(&dir)?;
    let writer = std::thread::spawn({
        let (landed, files, rate, dates) = (Arc::clone(&landed), arguments.files, arguments.rate, arguments.dates);
        move || land(&input, files, rate, dates, &landed)
    });
    let (mut restarts, mut since, mut peak, mut memory) = (0_u64, Instant::now(), 0, Vec::new());
    let runtime = tokio::runtime::Runtime::new()?;
    let mut next_look = Instant::now() + Duration::from_secs(5);
    while !is_done.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_millis(200));
        peak = peak.max(peak_bytes(child.id()));
        let restart = arguments.restart_secs > 0 && since.elapsed() >= Duration::from_secs(arguments.restart_secs);
        if restart {
            memory.push((landed.load(Ordering::Relaxed), peak_bytes(child.id())));
            stop(child, restarts % 2 == 0)?;
            child = start(&dir)?;
            (restarts, since) = (restarts + 1, Instant::now());
        }
        if writer.is_finished() && Instant::now() >= next_look {
            let facts = runtime.block_on(facts(&dir, &pipeline))?;
            is_done.store(
                facts.files(FileState::Completed) == arguments.files && facts.unfinished() == 0,
                Ordering::Relaxed,
            );
            next_look = Instant::now() + Duration::from_secs(2);
        }
        anyhow::ensure!(began.elapsed() < Duration::from_secs(3600), "not done within an hour");
    }
    let took = began.elapsed();
    memory.push((arguments.files, peak_bytes(child.id())));
    stop(child, false)?;
    writer.join().expect("the writer")?;
    let facts = runtime.block_on(facts(&dir, &pipeline))?;
    assert_eq!(facts.rows(), arguments.files, "a line a file: not every line is a row once");
    let latencies = runtime.block_on(latencies(&dir, &pipeline, arguments.dates))?;
    tell(&latencies, &memory, restarts, took, arguments.files);
    Ok(())
}

/// Starts the program. Its log goes beside the folder's database.
fn start(dir: &Path) -> anyhow::Result<Child> {
    fs::create_dir_all(dir)?;
    let log = fs::OpenOptions::new().create(true).append(true).open(dir.join("run.log"))?;
    let mut command = Command::new(env!("CARGO_BIN_EXE_penstock-under-test"));
    command.arg("run").arg(pipeline_file()).arg("--local").arg(dir).args(["--log", "warn"]);
    command.env("PENSTOCK_MAX_AGE", "2s").env("PENSTOCK_MAX_ATTEMPTS", "100").env("PENSTOCK_RETRY_WAIT", "1s");
    command.env("PENSTOCK_LISTEN", "off");
    Ok(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn()?)
}

/// Ends the program: by kill -9, or by SIGTERM.
fn stop(mut child: Child, hard: bool) -> anyhow::Result<()> {
    if hard {
        child.kill()?;
    } else {
        Command::new("kill").args(["-TERM", &child.id().to_string()]).status()?;
    }
    child.wait()?;
    Ok(())
}

/// Puts files into the input folder, each whole, at a steady rate.
fn land(input: &Path, files: u64, rate: u64, dates: u64, landed: &AtomicU64) -> anyhow::Result<()> {
    let staging = input.join(".penstock/staging");
    fs::create_dir_all(&staging)?;
    for date in 0..dates {
        fs::create_dir_all(input.join(INPUT_PREFIX).join(date_of(date)))?;
    }
    let began = Instant::now();
    for number in 0..files {
        let due = Duration::from_secs_f64(number as f64 / rate as f64);
        if let Some(wait) = due.checked_sub(began.elapsed()) {
            std::thread::sleep(wait);
        }
        let copy = staging.join("long-run");
        fs::write(&copy, format!("{{\"id\":\"{number}\",\"n\":1}}\n"))?;
        fs::rename(
            &copy,
            input.join(INPUT_PREFIX).join(date_of(number % dates)).join(format!("f-{number:07}.ndjson")),
        )?;
        landed.store(number + 1, Ordering::Relaxed);
    }
    Ok(())
}

fn date_of(number: u64) -> String {
    format!("2026-02-{:02}", number % 28 + 1)
}

async fn facts(dir: &Path, pipeline: &penstock::loader::Pipeline) -> anyhow::Result<Facts> {
    let home = Home::look_at_local(dir, pipeline).await?;
    Facts::read(&*home.cloud().table(TRACKING_TABLE).await?).await
}

/// Seconds from landing to completed of each file, in order of landing.
async fn latencies(dir: &Path, pipeline: &penstock::loader::Pipeline, dates: u64) -> anyhow::Result<Vec<f64>> {
    let home = Home::look_at_local(dir, pipeline).await?;
    let table: Arc<dyn Table> = home.cloud().table(TRACKING_TABLE).await?;
    let input = landing::bucket_dir(dir, pipeline, "input");
    let mut found: Vec<(String, f64)> = Vec::new();
    for date in 0..dates {
        let mut query = Query::partition(date_of(date));
        loop {
            let page = table.query(&query).await?;
            for item in &page.items {
                if text(item, attribute::FILE_KEY).is_some_and(|key| key.starts_with(MANIFEST_KEY_PREFIX)) {
                    continue;
                }
                let file: FileItem = read_item("file", item)?;
                let path = input.join(INPUT_PREFIX).join(&file.date_prefix).join(&file.file_key);
                let landed: DateTime<Utc> = fs::metadata(&path)?.modified()?.into();
                let completed: DateTime<Utc> = text(item, "completed_time").unwrap_or_default().parse()?;
                found.push((file.file_key, (completed - landed).num_milliseconds() as f64 / 1000.0));
            }
            match page.next {
                Some(next) => query.start = Some(next),
                None => break,
            }
        }
    }
    found.sort_by(|(a, _), (b, _)| a.cmp(b));
    Ok(found.into_iter().map(|(_, seconds)| seconds).collect())
}

fn tell(latencies: &[f64], memory: &[(u64, u64)], restarts: u64, took: Duration, files: u64) {
    let at = |values: &[f64], share: f64| {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        sorted[((sorted.len() - 1) as f64 * share).round() as usize]
    };
    println!(
        "{files} files in {:.0} s, {:.0} files/s, {restarts} restarts, every other one a kill -9; every line is a row, once",
        took.as_secs_f64(),
        files as f64 / took.as_secs_f64()
    );
    println!("{:>16} {:>8} {:>8} {:>8}   landed to completed, seconds", "files", "p50", "p99", "most");
    let tenth = latencies.len().div_ceil(10);
    for (index, part) in latencies.chunks(tenth).enumerate() {
        let first = index * tenth;
        println!(
            "{:>16} {:>8.2} {:>8.2} {:>8.2}",
            format!("{first}–{}", first + part.len() - 1),
            at(part, 0.5),
            at(part, 0.99),
            at(part, 1.0)
        );
    }
    let thousand = latencies.len().min(1000);
    let (first, last) = (&latencies[..thousand], &latencies[latencies.len() - thousand..]);
    println!(
        "first thousand: p50 {:.2} s, p99 {:.2} s; last thousand: p50 {:.2} s, p99 {:.2} s",
        at(first, 0.5),
        at(first, 0.99),
        at(last, 0.5),
        at(last, 0.99)
    );
    println!("most memory of each process, MB:");
    let line: Vec<String> =
        memory.iter().map(|(files, bytes)| format!("{:.0} ({files})", *bytes as f64 / 1e6)).collect();
    println!("  {}", line.join(", "));
}

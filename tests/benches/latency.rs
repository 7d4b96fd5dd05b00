//! How long it takes from an object's landing to its rows being readable in Parquet, on one machine:
//! `cargo bench -p penstock-tests --bench latency -- --files 200`.
//!
//! A manifest is closed at one file. Files land one after the other, each after the rows of the one before were read back
//! from its Parquet, so this is the time of the steps and not of a queue. Where the time goes is told by the times in the
//! items and reports that each step leaves.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a benchmark fails by panicking")]

use std::{
    collections::HashSet,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use clap::Parser;
use penstock::{
    landing::{self, Landing},
    loader::load,
    oncall::trace,
    service::Service,
};
use penstock_tests::{
    parquet_rows::read_columns,
    place::{DATE, INPUT_PREFIX, pipeline_file},
};

/// Measures the way of a file.
#[derive(Debug, Parser)]
struct Arguments {
    /// How many files.
    #[arg(long, default_value_t = 200)]
    files: usize,
    /// How many more before, which don't count.
    #[arg(long, default_value_t = 20)]
    warm_up: usize,
    /// Lines of a file.
    #[arg(long, default_value_t = 20)]
    lines: usize,
    /// The wait between a file and the next, in milliseconds: a reader that has nothing to read waits longer each time.
    #[arg(long, default_value_t = 250)]
    pause_ms: u64,
    /// Given by `cargo bench`, and of no meaning here.
    #[arg(long, hide = true)]
    bench: bool,
}

/// The times of one file.
struct Way {
    total: Duration,
    steps: Vec<(&'static str, f64)>,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let dir = tempfile::tempdir()?;
    let registry = Arc::new(penstock::registry());
    let env = |name: &str| (name == "PENSTOCK_MAX_FILES").then(|| "1".to_owned());
    let pipeline = load(&pipeline_file(), &env, &registry)?;
    let cloud = dir.path().join("cloud");
    let ways = tokio::runtime::Runtime::new()?.block_on(async {
        let service = Service::start(&pipeline, None, &cloud, registry).await?;
        let input = landing::bucket_dir(&cloud, &pipeline, "input");
        let output =
            landing::bucket_dir(&cloud, &pipeline, "output").join(format!("pipeline/output/merged-parquet-{DATE}"));
        let (mut seen, mut ways) = (HashSet::new(), Vec::new());
        for number in 0..arguments.warm_up + arguments.files {
            tokio::time::sleep(Duration::from_millis(arguments.pause_ms)).await;
            let (name, file) = make(dir.path(), number, arguments.lines)?;
            let size_bytes = file.metadata()?.len();
            let landing = Landing { file, key: format!("{INPUT_PREFIX}{DATE}/{name}"), size_bytes };
            let (began, at) = (Instant::now(), Utc::now());
            landing::land(&landing, &input)?;
            let landed = Utc::now();
            readable(&output, &mut seen, &format!("{number}-0")).await;
            let (total, read) = (began.elapsed(), Utc::now());
            if number >= arguments.warm_up {
                let story =
                    trace::trace(service.home().cloud(), &pipeline, &landing.key, trace::Options::default()).await?;
                ways.push(Way { total, steps: steps(&story, at, landed, read) });
            }
        }
        service.stop().await;
        anyhow::Ok(ways)
    })?;
    tell(&ways);
    Ok(())
}

fn make(dir: &Path, number: usize, lines: usize) -> anyhow::Result<(String, PathBuf)> {
    let name = format!("f-{number:06}.ndjson");
    let line = |line: usize| {
        format!(
            "{{\"id\":\"{number}-{line}\",\"event_type\":\"page_view\",\"latitude\":47.3769,\"tags\":[\"a\",\"b\"]}}\n"
        )
    };
    let path = dir.join(&name);
    fs::write(&path, (0..lines).map(line).collect::<String>())?;
    Ok((name, path))
}

/// Waits until a Parquet file shows a row with this id.
async fn readable(folder: &Path, seen: &mut HashSet<PathBuf>, id: &str) {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.extension().is_none_or(|extension| extension != "parquet") || seen.contains(&path) {
                continue;
            }
            let has_it = read_columns(&path, &["id"]).iter().any(|row| row.get("id").is_some_and(|cell| cell == id));
            seen.insert(path);
            if has_it {
                return;
            }
        }
        assert!(Instant::now() < deadline, "row {id} isn't readable after a minute");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Milliseconds of each step, by what the steps left in the table and the report.
fn steps(
    story: &trace::Story,
    at: DateTime<Utc>,
    landed: DateTime<Utc>,
    read: DateTime<Utc>,
) -> Vec<(&'static str, f64)> {
    let file = &story.files[0];
    let manifest = file.manifest.as_ref().expect("a manifest");
    let attempt = &manifest.attempts[0].report;
    let time = |text: &str| text.parse::<DateTime<Utc>>().expect("a time");
    let points = [
        ("copied into the folder", landed),
        ("noticed, notified, tracked", time(&file.item.created_at)),
        ("read from the stream, manifest begun", time(&manifest.item.created_at)),
        ("claimed, committed, received by a worker, attempt begun", time(&attempt.started_at)),
        ("converted and staged", time(&attempt.ended_at)),
        ("recorded, completed, read back", read),
    ];
    let mut before = at;
    points
        .into_iter()
        .map(|(step, point)| {
            let ms = (point - before).num_microseconds().unwrap_or_default() as f64 / 1000.0;
            before = point;
            (step, ms)
        })
        .collect()
}

fn tell(ways: &[Way]) {
    let at = |mut values: Vec<f64>, share: f64| {
        values.sort_by(f64::total_cmp);
        values[((values.len() - 1) as f64 * share).round() as usize]
    };
    let totals: Vec<f64> = ways.iter().map(|way| way.total.as_secs_f64() * 1000.0).collect();
    let (p50, p99) = (at(totals.clone(), 0.5), at(totals.clone(), 0.99));
    println!(
        "{} files, one a manifest: landed to readable p50 {p50:.0} ms, p99 {p99:.0} ms, most {:.0} ms",
        ways.len(),
        at(totals, 1.0)
    );
    println!("{:>9} {:>9}  step", "p50 ms", "p99 ms");
    for step in 0..ways[0].steps.len() {
        let values: Vec<f64> = ways.iter().map(|way| way.steps[step].1).collect();
        println!("{:>9.1} {:>9.1}  {}", at(values.clone(), 0.5), at(values, 0.99), ways[0].steps[step].0);
    }
    println!("targets: p50 300 ms {}, p99 1000 ms {}", verdict(p50 < 300.0), verdict(p99 < 1000.0));
}

fn verdict(met: bool) -> &'static str {
    if met { "met" } else { "MISSED" }
}

//! How fast small files go all the way on one machine: copied into the input folder, tracked, folded, announced,
//! converted, settled.
//!
//! `cargo bench -p penstock-tests --bench land_to_parquet -- --files 5000 --bytes 4096`. The service runs in this process;
//! the clock starts with the first copy and stops when every file is completed. With small files the table's writes are
//! what takes the time; the conversion's own speed is what `penstock convert` prints.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a benchmark fails by panicking")]

use std::{fs, io::Write, path::Path, sync::Arc, time::Instant};

use clap::Parser;
use penstock::{landing, loader::load, service::Service};
use penstock_operators::model::{FileState, ManifestState};
use penstock_tests::{
    place::{DATE, INPUT_PREFIX, pipeline_file},
    program::peak_bytes,
};

/// Lands files and measures until all of them are completed.
#[derive(Debug, Parser)]
struct Arguments {
    /// How many files.
    #[arg(long, default_value_t = 5000)]
    files: usize,
    /// About how many bytes each.
    #[arg(long, default_value_t = 4096)]
    bytes: usize,
    /// Files of a manifest.
    #[arg(long, default_value_t = 200)]
    max_files: usize,
    /// Given by `cargo bench`, and of no meaning here.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let dir = tempfile::tempdir()?;
    let rows = make_files(&dir.path().join("files"), &arguments)?;
    let registry = Arc::new(penstock::registry());
    let env = |name: &str| (name == "PENSTOCK_MAX_FILES").then(|| arguments.max_files.to_string());
    let pipeline = load(&pipeline_file(), &env, &registry)?;
    let files = landing::find(&dir.path().join("files").display().to_string(), INPUT_PREFIX)?;
    let bytes: u64 = files.iter().map(|file| file.size_bytes).sum();
    let (copied, done, facts) = tokio::runtime::Runtime::new()?.block_on(async {
        let service = Service::start(&pipeline, None, &dir.path().join("cloud"), registry).await?;
        let bucket = landing::bucket_dir(&dir.path().join("cloud"), &pipeline, "input");
        let began = Instant::now();
        let copying = tokio::task::spawn_blocking(move || {
            files.iter().try_for_each(|file| landing::land(file, &bucket))?;
            anyhow::Ok(began.elapsed())
        });
        let copied = copying.await??;
        let facts = service.until_idle(|_| {}).await?;
        let done = began.elapsed();
        service.stop().await;
        anyhow::Ok((copied, done, facts))
    })?;
    assert_eq!(facts.files(FileState::Completed), arguments.files as u64, "not every file was completed: {facts:?}");
    assert_eq!(facts.rows(), rows, "not every line became a row");
    let seconds = done.as_secs_f64();
    println!(
        "{} files, {rows} rows, {:.1} MB in {} manifests: {seconds:.1} s, of which copying took {:.1} s",
        arguments.files,
        bytes as f64 / 1e6,
        facts.manifests(ManifestState::Completed),
        copied.as_secs_f64(),
    );
    println!(
        "{:.0} files/s, {:.0} rows/s, {:.1} MB/s, peak memory {:.0} MB",
        arguments.files as f64 / seconds,
        rows as f64 / seconds,
        bytes as f64 / 1e6 / seconds,
        peak_bytes(std::process::id()) as f64 / 1e6,
    );
    Ok(())
}

/// Writes the files; returns how many lines they hold.
fn make_files(folder: &Path, arguments: &Arguments) -> anyhow::Result<u64> {
    let folder = folder.join(DATE);
    fs::create_dir_all(&folder)?;
    let mut rows = 0;
    for number in 0..arguments.files {
        let mut text = Vec::with_capacity(arguments.bytes + 200);
        while text.is_empty() || text.len() < arguments.bytes {
            writeln!(
                text,
                r#"{{"id":"{number}-{rows}","timestamp":"{DATE}T12:00:00Z","event_type":"page_view","user_id":"user_{}","latitude":47.3769,"custom_data":{{"variant":"A"}},"tags":["a","b"]}}"#,
                rows % 1000
            )?;
            rows += 1;
        }
        fs::write(folder.join(format!("events-{number:06}.ndjson")), text)?;
    }
    Ok(rows)
}

//! `penstock demo`: the whole pipeline on this machine, with a day of sample files.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use anyhow::{Context, bail};
use clap::Args;

use super::{App, Exit, progress::Progress, summary};
use crate::{landing, loader::load_text, sample::Sample, service::Service};

/// The pipeline of the demo: the one that this program comes with.
const PIPELINE: &str = include_str!("../../ndjson-parquet.yaml");

/// A file that says that the demo made this folder, and may empty it.
const MARK: &str = ".penstock-demo";

/// Make a day of sample files, some of them wrong, and run them through the whole pipeline on this machine.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The folder to work in; emptied first, if an earlier demo made it.
    #[arg(long, value_name = "DIR", default_value = "data/demo")]
    dir: PathBuf,
    /// How many files to make.
    #[arg(long, default_value_t = 300)]
    files: usize,
    /// About how many lines each file has.
    #[arg(long, default_value_t = 500)]
    lines: usize,
}

/// Runs the command.
pub fn run(app: &App, arguments: &Arguments, out: &mut dyn Write) -> anyhow::Result<Exit> {
    let dir = prepare(&arguments.dir)?;
    // The demo's own pace, unless the environment says otherwise: a person is waiting.
    let env = |name: &str| (app.env)(name).or_else(|| (name == "PENSTOCK_MAX_FILES").then(|| "50".to_owned()));
    let pipeline = load_text(Path::new("ndjson-parquet.yaml"), PIPELINE, &env, &app.registry)?;
    let sample = Sample {
        files: arguments.files,
        lines: arguments.lines,
        date: "2026-02-01".to_owned(),
        with_trouble: true,
        seed: 2026,
    };
    let made = sample.write(&dir.join("sample")).context("the sample files can't be written")?;
    writeln!(out, "Made {} files, {:.1} MB, in {}", made.files, made.bytes as f64 / 1e6, dir.join("sample").display())?;
    out.flush()?;

    let runtime = tokio::runtime::Runtime::new().context("no runtime could be started")?;
    let (facts, took) = runtime.block_on(async {
        let began = Instant::now();
        let service = Service::start(&pipeline, None, &dir, Arc::clone(&app.registry)).await?;
        let bucket_dir = landing::bucket_dir(&dir, &pipeline, "input");
        let samples = dir.join("sample").display().to_string();
        for file in landing::find(&samples, "landing/ndjson/")? {
            landing::land(&file, &bucket_dir)?;
        }
        let progress = Progress::new(made.files as u64);
        let facts = service.until_idle(|facts| progress.show(facts)).await;
        progress.finish();
        let took = began.elapsed();
        if !service.stop().await {
            bail!("the service didn't stop in time");
        }
        anyhow::Ok((facts?, took))
    })?;
    summary::write(out, &facts, Some(&dir.join("s3")), took)?;
    if facts.rows() != made.rows.len() as u64 || facts.rejected_rows() != made.rejects as u64 {
        bail!(
            "the samples hold {} good and {} bad lines, but {} rows and {} rejects came out",
            made.rows.len(),
            made.rejects,
            facts.rows(),
            facts.rejected_rows()
        );
    }
    writeln!(out, "\nEvery good line is a row, every bad line a reject: {} and {}.", made.rows.len(), made.rejects)?;
    writeln!(out, "Look around: penstock status pipelines/ndjson-parquet.yaml --local {}", dir.display())?;
    Ok(Exit::Ok)
}

/// Makes the folder, or empties one that an earlier demo made. Anybody else's folder is left alone.
fn prepare(dir: &Path) -> anyhow::Result<PathBuf> {
    let is_empty = || fs::read_dir(dir).map(|mut entries| entries.next().is_none());
    if dir.exists() && !dir.join(MARK).exists() && !is_empty()? {
        bail!("{} holds something that no demo made: choose another folder with --dir", dir.display());
    }
    if dir.exists() {
        fs::remove_dir_all(dir).with_context(|| format!("{} can't be emptied", dir.display()))?;
    }
    fs::create_dir_all(dir).with_context(|| format!("{} can't be made", dir.display()))?;
    fs::write(dir.join(MARK), "penstock demo may empty this folder\n")?;
    Ok(dir.to_owned())
}

//! `penstock land`: copies files of this machine into a pipeline's input bucket.

use std::{
    io::Write,
    path::{Path, PathBuf},
};

use anyhow::Context;
use clap::Args;

use super::{App, Exit, place::PlaceArguments};
use crate::{home::Home, landing, loader::Pipeline, words::plural};

/// Land files of this machine. A service that runs there converts them; otherwise the next one that starts.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The pipeline's file.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Files, patterns like '/data/**/*.ndjson', or folders. A date in the path is kept.
    #[arg(value_name = "PATTERN", required = true)]
    patterns: Vec<String>,
    #[command(flatten)]
    place: PlaceArguments,
}

/// Runs the command.
pub fn run(app: &App, arguments: &Arguments, out: &mut dyn Write) -> anyhow::Result<Exit> {
    let mut pipeline = arguments.place.load(app, &arguments.file)?;
    let landed = match arguments.place.local_dir() {
        // The folder is the bucket: whoever owns it watches it, so nobody needs to be asked.
        Some(dir) => land_in_folder(&pipeline, &arguments.patterns, dir)?,
        None => {
            let runtime = tokio::runtime::Runtime::new().context("no runtime could be started")?;
            runtime.block_on(async {
                let home = arguments.place.look(&mut pipeline).await?;
                land_all(&pipeline, &arguments.patterns, &home).await
            })?
        }
    };
    writeln!(out, "{} landed in {}", plural(landed, "file"), arguments.place)?;
    Ok(Exit::Ok)
}

/// Lands what patterns name in the input bucket of a running service. Returns how many files that were.
pub async fn land_all(pipeline: &Pipeline, patterns: &[String], home: &Home) -> anyhow::Result<u64> {
    if let Some(local) = home.local() {
        let (pipeline, patterns, dir) = (pipeline.clone(), patterns.to_vec(), local.dir().to_owned());
        let copying = tokio::task::spawn_blocking(move || land_in_folder(&pipeline, &patterns, &dir));
        return copying.await.context("the copying was cut short")?;
    }
    let mut landed = 0;
    for (bucket, prefix) in inputs(pipeline) {
        let bucket = home.cloud().bucket(bucket).await?;
        for pattern in patterns {
            for file in landing::find(pattern, prefix)? {
                landing::upload(&file, &bucket).await?;
                landed += 1;
            }
        }
    }
    Ok(landed)
}

fn land_in_folder(pipeline: &Pipeline, patterns: &[String], dir: &Path) -> anyhow::Result<u64> {
    let mut landed = 0;
    for (bucket, prefix) in inputs(pipeline) {
        let bucket_dir = landing::bucket_dir(dir, pipeline, bucket);
        for pattern in patterns {
            for file in landing::find(pattern, prefix)? {
                landing::land(&file, &bucket_dir)?;
                landed += 1;
            }
        }
    }
    Ok(landed)
}

/// The buckets that announce new objects, and below which prefix.
fn inputs(pipeline: &Pipeline) -> impl Iterator<Item = (&str, &str)> {
    let buckets = pipeline.resources.buckets.iter();
    buckets.filter_map(|(name, spec)| Some((name.as_str(), spec.notify.as_ref()?.prefix.as_str())))
}

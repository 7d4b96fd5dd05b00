//! `penstock land`: copies files of this machine into a pipeline's input bucket.

use std::{io::Write, path::PathBuf};

use anyhow::Context;
use clap::Args;
use penstock_engine::cloud::local::LocalCloud;

use super::{App, Exit};
use crate::{
    landing,
    loader::{Pipeline, load},
};

/// Land files of this machine. A service that runs on the folder converts them; otherwise the next one that starts.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The pipeline's file.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Patterns like '/data/**/*.ndjson', or folders.
    #[arg(value_name = "PATTERN", required = true)]
    patterns: Vec<String>,
    /// The folder of the local cloud.
    #[arg(long, value_name = "DIR", env = "PENSTOCK_LOCAL")]
    local: PathBuf,
}

/// Runs the command.
pub fn run(app: &App, arguments: &Arguments, out: &mut dyn Write) -> anyhow::Result<Exit> {
    let pipeline = load(&arguments.file, &app.env, &app.registry)?;
    let mut landed = 0;
    for (bucket, prefix) in inputs(&pipeline) {
        // The folder is the bucket: whoever owns it watches it, so nobody needs to be asked.
        let bucket_dir = arguments.local.join("s3").join(pipeline.naming.bucket(bucket));
        landed += land_patterns(&arguments.patterns, prefix, &bucket_dir)?;
    }
    writeln!(out, "{landed} files landed in {}", arguments.local.display())?;
    Ok(Exit::Ok)
}

/// Lands what patterns name in the input bucket of a running service. Returns how many files that were.
pub async fn land_all(pipeline: &Pipeline, patterns: &[String], cloud: &LocalCloud) -> anyhow::Result<u64> {
    if patterns.is_empty() {
        return Ok(0);
    }
    let mut landed = 0;
    for (bucket, prefix) in inputs(pipeline) {
        let bucket_dir = cloud.bucket_dir(bucket)?;
        let (patterns, prefix) = (patterns.to_vec(), prefix.to_owned());
        let copied = tokio::task::spawn_blocking(move || land_patterns(&patterns, &prefix, &bucket_dir));
        landed += copied.await.context("the copying was cut short")??;
    }
    Ok(landed)
}

fn land_patterns(patterns: &[String], prefix: &str, bucket_dir: &std::path::Path) -> anyhow::Result<u64> {
    let mut landed = 0;
    for pattern in patterns {
        for file in landing::find(pattern, prefix)? {
            landing::land(&file, bucket_dir)?;
            landed += 1;
        }
    }
    Ok(landed)
}

/// The buckets that announce new objects, and below which prefix.
fn inputs(pipeline: &Pipeline) -> impl Iterator<Item = (&str, &str)> {
    let buckets = pipeline.resources.buckets.iter();
    buckets.filter_map(|(name, spec)| Some((name.as_str(), spec.notify.as_ref()?.prefix.as_str())))
}

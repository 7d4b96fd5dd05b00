//! `penstock status`: how it stands with a pipeline, beside the service that runs it.

use std::{
    io::Write,
    path::{Path, PathBuf},
};

use anyhow::Context;
use clap::Args;
use penstock_engine::cloud::local::{Owner, read_owner};
use serde_json::json;

use super::{App, Exit, place::PlaceArguments};
use crate::{
    facts::{Facts, TRACKING_TABLE, queue_depths},
    lag,
};

/// Show files and manifests by date and status, what is oldest, and what waits where.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The pipeline's file.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    place: PlaceArguments,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(app: &App, arguments: &Arguments, out: &mut dyn Write) -> anyhow::Result<Exit> {
    let mut pipeline = arguments.place.load(app, &arguments.file)?;
    let runtime = tokio::runtime::Runtime::new().context("no runtime could be started")?;
    runtime.block_on(async {
        let home = arguments.place.look(&mut pipeline).await?;
        let cloud = home.cloud();
        let facts = Facts::read(&*cloud.table(TRACKING_TABLE).await?).await?;
        let queues = queue_depths(&**cloud, pipeline.resources.queues.keys()).await?;
        let lags = lag::read(&pipeline, &**cloud).await?;
        let owner = home.local().and_then(|local| read_owner(local.dir())).filter(is_alive).map(|owner| json!({ "pid": owner.pid }));
        if arguments.json {
            let depth = |depth: &penstock_engine::cloud::queue::QueueDepth| {
                json!({ "visible": depth.visible, "in_flight": depth.in_flight, "delayed": depth.delayed })
            };
            let queues: serde_json::Map<_, _> = queues.iter().map(|(name, of)| (name.clone(), depth(of))).collect();
            let status = json!({ "pipeline": pipeline.name, "owner": owner, "facts": facts, "queues": queues,
                                 "lag": lags });
            writeln!(out, "{}", serde_json::to_string_pretty(&status)?)?;
            return Ok(Exit::Ok);
        }
        for (date, of_date) in &facts.dates {
            let list = |counts: &std::collections::BTreeMap<&str, u64>| {
                counts.iter().map(|(state, count)| format!("{count} {state}")).collect::<Vec<_>>().join(", ")
            };
            writeln!(out, "{date}  files:     {}", list(&of_date.files))?;
            writeln!(out, "            manifests: {}", list(&of_date.manifests))?;
            writeln!(out, "            rows: {}, rejected lines: {}", of_date.rows, of_date.rejected_rows)?;
            if let Some(oldest) = &of_date.oldest_pending {
                writeln!(out, "            oldest pending since {oldest}")?;
            }
        }
        for (name, depth) in queues.iter().filter(|(_, depth)| depth.total() > 0) {
            writeln!(
                out,
                "queue {name}: {} waiting, {} in work, {} delayed",
                depth.visible, depth.in_flight, depth.delayed
            )?;
        }
        for lag in &lags {
            let owner = lag.owner.as_deref().unwrap_or("nobody");
            match &lag.problem {
                Some(problem) => writeln!(out, "{} {}: {problem}", lag.source, lag.shard)?,
                None => writeln!(
                    out,
                    "{} {}: {} records behind, the oldest {} s old, read by {owner}",
                    lag.source, lag.shard, lag.records, lag.secs
                )?,
            }
        }
        for trouble in facts.failed_manifests.iter().chain(&facts.troubled_files) {
            writeln!(out, "{} {}/{}: {}", trouble.state, trouble.date, trouble.key, trouble.reason)?;
        }
        Ok(Exit::Ok)
    })
}

/// Whether the owner's process is there; a killed one leaves its name behind.
fn is_alive(owner: &Owner) -> bool {
    let processes = Path::new("/proc");
    !processes.is_dir() || processes.join(owner.pid.to_string()).is_dir()
}

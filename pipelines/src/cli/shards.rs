//! `penstock shards`: the shards that a pipeline's sources read, and why one isn't moving.

use std::{io::Write, path::PathBuf};

use anyhow::{Context, bail};
use clap::Args;
use penstock_engine::streams::{
    ChangeStreamOptions,
    operate::{self, SeenShard},
};
use serde_json::json;

use super::{App, Exit, place::PlaceArguments};
use crate::{home::Home, lag, loader::Pipeline};

/// Show each shard of the change streams: its state, owner, checkpoint and lag, and why it isn't read.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The pipeline's file.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    place: PlaceArguments,
    /// Only those of this source.
    #[arg(long, value_name = "ID")]
    source: Option<String>,
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
        let lags = lag::read(&pipeline.graph, &**home.cloud()).await?;
        let mut found = Vec::new();
        for (source, options) in sources(&pipeline, arguments.source.as_deref())? {
            let shards = look(&home, &options).await?;
            if !arguments.json {
                writeln!(out, "{source} (table {})", options.table)?;
                for shard in &shards {
                    let of_shard = |lag: &&lag::ShardLag| lag.source == source && lag.shard == shard.shard.0;
                    writeln!(out, "  {}", line(shard, lags.iter().find(of_shard)))?;
                }
            }
            found.push(json!({ "source": source, "table": options.table, "shards": shards }));
        }
        if arguments.json {
            writeln!(out, "{}", serde_json::to_string_pretty(&json!({ "sources": found, "lag": lags }))?)?;
        }
        Ok(Exit::Ok)
    })
}

/// The change streams of a pipeline, or the one that is named.
pub(super) fn sources(pipeline: &Pipeline, id: Option<&str>) -> anyhow::Result<Vec<(String, ChangeStreamOptions)>> {
    let nodes = pipeline.graph.nodes.iter().filter(|node| node.type_name == "change_stream");
    let mut sources = Vec::new();
    for node in nodes.filter(|node| id.is_none_or(|id| node.id == id)) {
        let options =
            serde_json::from_value(node.options.clone()).with_context(|| format!("options of {}", node.id))?;
        sources.push((node.id.clone(), options));
    }
    match id {
        Some(id) if sources.is_empty() => bail!("the pipeline has no source {id} of type change_stream"),
        _ => Ok(sources),
    }
}

/// The shards of a source, seen from outside.
pub(super) async fn look(home: &Home, options: &ChangeStreamOptions) -> anyhow::Result<Vec<SeenShard>> {
    let stream = home.cloud().change_stream(&options.table).await?;
    let leases = home.cloud().table(&options.leases).await?;
    Ok(operate::look(stream, &*leases).await?)
}

fn line(shard: &SeenShard, lag: Option<&lag::ShardLag>) -> String {
    let mut text = format!("{} {}", shard.shard, shard.state());
    if let Some(owner) = &shard.owner {
        text += &format!(" by {owner}");
    }
    match shard.item.as_ref().and_then(|item| item.checkpoint.as_ref()) {
        Some(checkpoint) => text += &format!(", checkpoint {checkpoint}"),
        None => text += ", no checkpoint",
    }
    if let Some(lag) = lag {
        text += &format!(", {}", lag.words());
    }
    if let Some(gap) = shard.item.as_ref().and_then(|item| item.gap.as_ref()) {
        let from = gap.from.as_ref().map_or("its beginning", |from| from.0.as_str());
        text += &format!(", changes lost after {from} (found {}, policy {})", gap.found_at, gap.policy);
    }
    if let Some(reason) = &shard.reason {
        text += &format!(": {reason}");
    }
    text
}

//! `penstock status`: how it stands with a pipeline, beside the service that runs it.

use std::{
    io::{IsTerminal, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context;
use clap::Args;
use penstock_engine::{
    cloud::{
        local::{Owner, read_owner},
        queue::QueueDepth,
    },
    time::format_time,
    units::parse_duration,
};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::{App, Exit, place::PlaceArguments};
use crate::{
    facts::{COUNTED_ITEMS, Facts, TRACKING_TABLE, queue_depths},
    lag,
    loader::Pipeline,
};

/// Show files and manifests by date and status, what is oldest, and what waits where.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The pipeline's file.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    place: PlaceArguments,
    /// Show it again and again, until Ctrl-C; every two seconds, or as often as said.
    #[arg(long, value_name = "DURATION", num_args = 0..=1, default_missing_value = "2s", value_parser = parse_duration)]
    watch: Option<Duration>,
    /// Count everything; else 20,000 items are read at most, and past that counts are told as "at least".
    #[arg(long)]
    all: bool,
    /// Print JSON; with --watch an object a line. `facts.is_floor` says whether there is more than was counted.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(app: &App, arguments: &Arguments, out: &mut dyn Write) -> anyhow::Result<Exit> {
    let mut pipeline = arguments.place.load(app, &arguments.file)?;
    let runtime = tokio::runtime::Runtime::new().context("no runtime could be started")?;
    runtime.block_on(async {
        let Some(every) = arguments.watch else {
            Status::read(arguments, &mut pipeline).await?.write(out, arguments.json)?;
            return Ok(Exit::Ok);
        };
        loop {
            let status = Status::read(arguments, &mut pipeline).await?;
            // A screen is drawn anew; a file or a pipe gets one after the other, and JSON one a line.
            if arguments.json {
                writeln!(out, "{}", serde_json::to_string(&status)?)?;
            } else {
                if std::io::stdout().is_terminal() {
                    write!(out, "{CLEAR}")?;
                }
                writeln!(out, "{}", format_time(chrono::Utc::now()))?;
                status.write(out, false)?;
            }
            out.flush()?;
            tokio::select! {
                () = tokio::time::sleep(every) => {}
                stopped = tokio::signal::ctrl_c() => {
                    stopped.context("Ctrl-C can't be listened for")?;
                    return Ok(Exit::Ok);
                }
            }
        }
    })
}

/// Clears a screen and goes to its upper left.
const CLEAR: &str = "\x1b[H\x1b[2J\x1b[3J";

/// How it stands.
#[derive(Debug, Serialize)]
struct Status {
    pipeline: String,
    owner: Option<Value>,
    facts: Facts,
    queues: Map<String, Value>,
    lag: Vec<lag::ShardLag>,
}

impl Status {
    async fn read(arguments: &Arguments, pipeline: &mut Pipeline) -> anyhow::Result<Self> {
        let home = arguments.place.look(pipeline).await?;
        let cloud = home.cloud();
        let most = if arguments.all { usize::MAX } else { COUNTED_ITEMS };
        let facts = Facts::read_at_most(&*cloud.table(TRACKING_TABLE).await?, most).await?;
        let depths = queue_depths(&**cloud, pipeline.resources.queues.keys()).await?;
        let depth = |depth: QueueDepth| json!({ "visible": depth.visible, "in_flight": depth.in_flight, "delayed": depth.delayed });
        let owner = home.local().and_then(|local| read_owner(local.dir())).filter(is_alive);
        Ok(Self {
            pipeline: pipeline.name.clone(),
            owner: owner.map(|owner| json!({ "pid": owner.pid })),
            facts,
            queues: depths.into_iter().map(|(name, of)| (name, depth(of))).collect(),
            lag: lag::read(&pipeline.graph, &**cloud).await?,
        })
    }

    fn write(&self, out: &mut dyn Write, as_json: bool) -> anyhow::Result<()> {
        if as_json {
            writeln!(out, "{}", serde_json::to_string_pretty(self)?)?;
            return Ok(());
        }
        if self.facts.dates.is_empty() {
            writeln!(out, "No files yet.")?;
        }
        for (date, of_date) in &self.facts.dates {
            of_date.tell(date, self.facts.is_floor, out)?;
            if let Some(oldest) = &of_date.oldest_pending {
                writeln!(out, "            oldest pending since {oldest}")?;
            }
        }
        if self.facts.is_floor {
            writeln!(
                out,
                "There are more than {COUNTED_ITEMS} items: counts are at least these, and --all counts them all."
            )?;
        }
        for (name, depth) in &self.queues {
            let [visible, in_flight, delayed] =
                ["visible", "in_flight", "delayed"].map(|of| depth[of].as_u64().unwrap_or_default());
            if visible + in_flight + delayed > 0 {
                writeln!(out, "queue {name}: {visible} waiting, {in_flight} in work, {delayed} delayed")?;
            }
        }
        for lag in &self.lag {
            let owner = lag.owner.as_deref().unwrap_or("nobody");
            writeln!(out, "{} {}: {}, read by {owner}", lag.source, lag.shard, lag.words())?;
        }
        let Facts { failed_manifests, troubled_files, unreadable, .. } = &self.facts;
        for trouble in failed_manifests.iter().chain(troubled_files).chain(unreadable) {
            writeln!(out, "{} {}/{}: {}", trouble.state, trouble.date, trouble.key, trouble.reason)?;
        }
        Ok(())
    }
}

/// Whether the owner's process is there; a killed one leaves its name behind.
fn is_alive(owner: &Owner) -> bool {
    let processes = Path::new("/proc");
    !processes.is_dir() || processes.join(owner.pid.to_string()).is_dir()
}

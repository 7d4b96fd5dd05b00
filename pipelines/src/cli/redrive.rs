//! `penstock redrive`: sets what failed back to pending, and sends dead letters back.

use std::{io::Write, path::PathBuf};

use anyhow::{Context, bail};
use clap::Args;

use super::{App, Exit, place::PlaceArguments};
use crate::{
    control::{call, protocol::Command},
    oncall::{
        Layout,
        find::{Named, split_name},
        redrive::{FileName, Outcome, Request, Selection, Step},
    },
};

/// Files that are listed one by one.
const SHOWN: usize = 50;

/// Set failed or quarantined files back to pending, or send dead letters back. Shows what it would do, unless given --yes.
#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("what").required(true).args(["keys", "manifest", "failed", "quarantined", "dlq"])))]
pub struct Arguments {
    /// The pipeline's file.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Files: DATE/KEY, the object's key, or its s3:// URI.
    #[arg(value_name = "KEY")]
    keys: Vec<String>,
    /// All failed files of this manifest: its id or URI.
    #[arg(long, value_name = "MANIFEST")]
    manifest: Option<String>,
    /// All failed files of this date.
    #[arg(long, value_name = "DATE")]
    failed: Option<String>,
    /// All quarantined files of this date.
    #[arg(long, value_name = "DATE")]
    quarantined: Option<String>,
    /// The messages of this queue of dead letters.
    #[arg(long, value_name = "QUEUE")]
    dlq: Option<String>,
    #[command(flatten)]
    place: PlaceArguments,
    /// Do it.
    #[arg(long)]
    yes: bool,
    /// Also to files whose manifest failed with its outputs recorded (commit_lost): what readers see of them must be taken
    /// away first, or rows are there twice.
    #[arg(long, conflicts_with = "dlq")]
    force: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(app: &App, arguments: &Arguments, out: &mut dyn Write) -> anyhow::Result<Exit> {
    let mut pipeline = arguments.place.load(app, &arguments.file)?;
    let layout = Layout::of(&pipeline)?;
    let selection = arguments.selection(&layout)?;
    let command = Command::Redrive(Request { selection, act: arguments.yes, force: arguments.force });
    let runtime = tokio::runtime::Runtime::new().context("no runtime could be started")?;
    let told = runtime.block_on(call(&arguments.place, &mut pipeline, &command))?;
    if arguments.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&told)?)?;
    }
    let steps: Vec<Step> = serde_json::from_value(told)?;
    if !arguments.json {
        tell(out, &steps, arguments.yes)?;
    }
    let all_went = steps.iter().all(|step| step.outcome != Outcome::Left);
    Ok(if all_went { Exit::Ok } else { Exit::Troubled })
}

impl Arguments {
    fn selection(&self, layout: &Layout) -> anyhow::Result<Selection> {
        if let Some(queue) = &self.dlq {
            return Ok(Selection::Letters { queue: queue.clone() });
        }
        for (date, state) in [(&self.failed, "failed"), (&self.quarantined, "quarantined")] {
            if let Some(date) = date {
                return Ok(Selection::Date { date: date.clone(), state: state.to_owned() });
            }
        }
        if let Some(named) = &self.manifest {
            return match Named::parse(named, layout) {
                Named::Manifest(date, id) => Ok(Selection::Manifest { date, id }),
                Named::File(..) => bail!("`{named}` is no manifest: write its id, as `penstock status` shows it"),
            };
        }
        let name = |key: &String| match split_name(key, layout) {
            (Some(date), file_key) => Ok(FileName { date, file_key }),
            (None, _) => bail!("`{key}` names no date: write DATE/KEY, as `penstock status` shows it"),
        };
        Ok(Selection::Files(self.keys.iter().map(name).collect::<Result<_, _>>()?))
    }
}

fn tell(out: &mut dyn Write, steps: &[Step], act: bool) -> anyhow::Result<()> {
    if steps.is_empty() {
        writeln!(out, "Nothing to redrive.")?;
        return Ok(());
    }
    for step in steps.iter().take(SHOWN) {
        let mark = match step.outcome {
            Outcome::Would => "would go",
            Outcome::Redriven => "redriven",
            Outcome::Left => "left    ",
        };
        writeln!(out, "{mark}  {}: {}", step.what, step.because)?;
        if !step.reason.is_empty() {
            writeln!(out, "          was: {}", step.reason)?;
        }
    }
    if steps.len() > SHOWN {
        writeln!(out, "… and {} more: --json lists them all", steps.len() - SHOWN)?;
    }
    let count = |outcome| steps.iter().filter(|step| step.outcome == outcome).count();
    let left = count(Outcome::Left);
    if act {
        writeln!(out, "{} redriven, {left} left as they are.", count(Outcome::Redriven))?;
    } else {
        writeln!(
            out,
            "{} would be redriven, {left} left as they are. Nothing was done: --yes does it.",
            count(Outcome::Would)
        )?;
    }
    Ok(())
}

//! `penstock trace`: the whole story of a file or a manifest.

use std::{io::Write, path::PathBuf};

use anyhow::Context;
use clap::Args;

use super::{App, Exit, place::PlaceArguments};
use crate::oncall::trace;

/// Tell the whole story of a file or a manifest, what comes next and why it waits.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The pipeline's file.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// A file (DATE/KEY, the object's key, or its s3:// URI) or a manifest (its id or URI).
    #[arg(value_name = "KEY|MANIFEST")]
    named: String,
    #[command(flatten)]
    place: PlaceArguments,
    /// Read the change stream for the item's history, too: all that it keeps, so this may take a while.
    #[arg(long)]
    history: bool,
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
        let options = trace::Options { history: arguments.history, ..trace::Options::default() };
        let story = trace::trace(home.cloud(), &pipeline, &arguments.named, options).await?;
        if arguments.json {
            writeln!(out, "{}", serde_json::to_string_pretty(&story)?)?;
        } else {
            trace::tell(out, &story)?;
        }
        Ok(Exit::Ok)
    })
}

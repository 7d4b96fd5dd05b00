//! `penstock adopt`: takes the previous system's table over.

use std::{io::Write, path::PathBuf};

use anyhow::Context;
use chrono::Utc;
use clap::Args;

use super::{App, Exit, place::PlaceArguments};
use crate::adopt::{Processing, adopt};

/// Take over the items of the batch system before this one. It must be stopped. Says what it would do; --apply does it.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The pipeline's file.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    place: PlaceArguments,
    /// What becomes of manifests that were being processed when the previous system was stopped.
    #[arg(long, value_enum, default_value_t)]
    processing: Processing,
    /// Do it.
    #[arg(long)]
    apply: bool,
}

/// Runs the command.
pub fn run(app: &App, arguments: &Arguments, out: &mut dyn Write) -> anyhow::Result<Exit> {
    let mut pipeline = arguments.place.load(app, &arguments.file)?;
    let runtime = tokio::runtime::Runtime::new().context("no runtime could be started")?;
    let outcome = runtime.block_on(async {
        let home = match arguments.apply {
            true => arguments.place.open(&mut pipeline).await?,
            false => arguments.place.look(&mut pipeline).await?,
        };
        adopt(&**home.cloud(), arguments.apply, arguments.processing, Utc::now()).await
    })?;
    let verb = if arguments.apply { "became" } else { "would become" };
    for ((becomes, why), count) in &outcome.files {
        writeln!(out, "{count} files {verb} {becomes}: {why}")?;
    }
    for (becomes, count) in &outcome.manifests {
        writeln!(out, "{count} manifests {verb} {becomes}")?;
    }
    for file in &outcome.undecided {
        writeln!(out, "  {file}")?;
    }
    if outcome.changed > 0 {
        writeln!(out, "{} items changed meanwhile: is the previous system stopped? Run this again.", outcome.changed)?;
    }
    if outcome.files.is_empty() && outcome.manifests.is_empty() {
        writeln!(out, "There is nothing of the previous system that isn't final.")?;
    } else if !arguments.apply {
        writeln!(out, "Nothing was changed. --apply does it.")?;
    }
    Ok(if outcome.undecided.is_empty() && outcome.changed == 0 { Exit::Ok } else { Exit::Troubled })
}

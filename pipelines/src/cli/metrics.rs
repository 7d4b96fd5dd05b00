//! `penstock metrics`: the reference of all metrics.

use std::io::Write;

use clap::Args;

use super::Exit;
use crate::telemetry;

/// Print the reference of all metrics, as Markdown.
#[derive(Debug, Args)]
pub struct Arguments {}

/// Runs the command.
pub fn run(_: &Arguments, out: &mut dyn Write) -> anyhow::Result<Exit> {
    write!(out, "{}", telemetry::reference())?;
    Ok(Exit::Ok)
}

//! `penstock schema`: what may stand in a pipeline's file, for editors.

use std::io::Write;

use clap::Args;

use super::{App, Exit};
use crate::loader::schema;

/// Print the JSON Schema of a pipeline's file, for editors.
#[derive(Debug, Args)]
pub struct Arguments {}

/// Runs the command.
pub fn run(app: &App, _: &Arguments, out: &mut dyn Write) -> anyhow::Result<Exit> {
    writeln!(out, "{}", serde_json::to_string_pretty(&schema(&app.registry))?)?;
    Ok(Exit::Ok)
}

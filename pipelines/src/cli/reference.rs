//! `penstock reference`: the references in `docs/`, made from what the program knows of itself.

use std::io::Write;

use clap::{Args, ValueEnum};

use super::{App, Exit};
use crate::reference;

/// Print a reference of this program, as Markdown.
#[derive(Debug, Args)]
#[command(hide = true)]
pub struct Arguments {
    /// Of what.
    what: What,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum What {
    /// A pipeline's file.
    Yaml,
    /// The commands.
    Cli,
}

/// Runs the command.
pub fn run(app: &App, arguments: &Arguments, out: &mut dyn Write) -> anyhow::Result<Exit> {
    let text = match arguments.what {
        What::Yaml => reference::yaml(&app.registry),
        What::Cli => reference::cli(),
    };
    write!(out, "{text}")?;
    Ok(Exit::Ok)
}

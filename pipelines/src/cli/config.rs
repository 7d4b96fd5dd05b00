//! `penstock config echo`: a pipeline as it will be run.

use std::{io::Write, path::PathBuf};

use clap::{Args, Subcommand};

use super::{App, Exit};
use crate::{config::echo, loader::load};

/// Look at a pipeline's configuration.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Print it as it will be run: variables put in, defaults filled in and marked, secrets masked.
    Echo(EchoArguments),
}

#[derive(Debug, Args)]
struct EchoArguments {
    /// The pipeline's file.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Print JSON, without marks.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(app: &App, arguments: &Arguments, out: &mut dyn Write) -> anyhow::Result<Exit> {
    let What::Echo(arguments) = &arguments.what;
    let pipeline = load(&arguments.file, &app.env, &app.registry)?;
    if arguments.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&echo::json(&pipeline))?)?;
    } else {
        write!(out, "{}", echo::yaml(&pipeline))?;
    }
    Ok(Exit::Ok)
}

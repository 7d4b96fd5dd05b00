//! The `penstock` command.

use std::process::ExitCode;

use clap::Parser;
use penstock::cli::{App, Cli, start_logging};

fn main() -> ExitCode {
    let cli = Cli::parse();
    start_logging(&cli.log);
    App::new(penstock::registry()).run(&cli).into()
}

//! The commands of `penstock`.
//!
//! Each command is a module with its arguments and a `run`; [`App`] holds what all need, runs one and turns what it
//! returns into an exit code. What a command is asked for goes to stdout, all else to stderr.

mod adopt;
mod config;
mod convert;
mod demo;
mod deploy;
mod flush;
mod graph;
mod land;
mod leases;
mod logging;
mod metrics;
mod new;
mod place;
mod progress;
mod redrive;
mod reference;
mod run;
mod schema;
mod shards;
mod shell;
mod status;
mod summary;
mod tap;
mod test;
mod top;
mod trace;
mod validate;
mod verify;

use std::{
    io::{self, IsTerminal, Write},
    process::ExitCode,
    sync::Arc,
};

use clap::{Parser, Subcommand};
use penstock_engine::graph::Registry;

pub use logging::start_logging;
pub use place::PlaceArguments;

use crate::{allocator, loader::LoadErrors};

/// A streaming dataflow engine on DynamoDB Streams.
#[derive(Debug, Parser)]
#[command(version, after_help = Exit::HELP)]
pub struct Cli {
    /// What to log, to stderr: a level (error, warn, info, debug, trace) or a filter like `info,penstock_engine=debug`.
    #[arg(long, global = true, env = "PENSTOCK_LOG", default_value = "info", value_name = "LEVEL")]
    #[arg(value_parser = logging::valid_filter)]
    pub log: String,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::Arguments),
    Demo(demo::Arguments),
    Land(land::Arguments),
    Convert(convert::Arguments),
    Status(status::Arguments),
    Flush(flush::Arguments),
    Redrive(redrive::Arguments),
    Trace(trace::Arguments),
    Tap(tap::Arguments),
    Top(top::Arguments),
    Verify(verify::Arguments),
    Shards(shards::Arguments),
    Leases(leases::Arguments),
    Validate(validate::Arguments),
    Test(test::Arguments),
    Adopt(adopt::Arguments),
    Deploy(deploy::Arguments),
    Graph(graph::Arguments),
    Schema(schema::Arguments),
    Config(config::Arguments),
    New(new::Arguments),
    Completions(shell::CompletionsArguments),
    Man(shell::ManArguments),
    Metrics(metrics::Arguments),
    Reference(reference::Arguments),
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// It did what it was asked for.
    Ok,
    /// It failed.
    Failed,
    /// It did all it could, but some files or manifests failed.
    Troubled,
    /// A pipeline's file is wrong. The code is that of sysexits' EX_CONFIG.
    Config,
}

impl Exit {
    /// The codes as `--help` tells them. Clap itself exits with 2.
    const HELP: &str =
        "Exit codes: 0 done; 1 failed; 2 wrong usage; 3 done, but files failed; 78 a pipeline's file is wrong";

    /// The process's exit code.
    pub fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Failed => 1,
            Self::Troubled => 3,
            Self::Config => 78,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        exit.code().into()
    }
}

/// The variables of an environment, by name.
pub type Variables = Box<dyn Fn(&str) -> Option<String>>;

/// What the commands share.
pub struct App {
    /// The types of operator.
    pub registry: Arc<Registry>,
    /// The variables of the environment.
    pub env: Variables,
    /// Whether stdout shows colours.
    pub colours: bool,
}

impl App {
    /// The app of this process.
    pub fn new(registry: Registry) -> Self {
        let env = Box::new(|name: &str| std::env::var(name).ok());
        Self { registry: Arc::new(registry), env, colours: shows_colours(&io::stdout()) }
    }

    /// Runs a command and tells what went wrong.
    pub fn run(&self, cli: &Cli) -> Exit {
        let mut out = io::stdout().lock();
        let ended = self.dispatch(cli, &mut out).and_then(|exit| {
            out.flush()?;
            Ok(exit)
        });
        ended.unwrap_or_else(|error| tell(&error))
    }

    fn dispatch(&self, cli: &Cli, out: &mut dyn Write) -> anyhow::Result<Exit> {
        match &cli.command {
            Command::Run(arguments) => run::run(self, arguments, out),
            Command::Demo(arguments) => demo::run(self, arguments, out),
            Command::Land(arguments) => land::run(self, arguments, out),
            Command::Convert(arguments) => convert::run(arguments, out),
            Command::Status(arguments) => status::run(self, arguments, out),
            Command::Flush(arguments) => flush::run(self, arguments, out),
            Command::Redrive(arguments) => redrive::run(self, arguments, out),
            Command::Tap(arguments) => tap::run(self, arguments, out),
            Command::Top(arguments) => top::run(self, arguments, out),
            Command::Trace(arguments) => trace::run(self, arguments, out),
            Command::Verify(arguments) => verify::run(self, arguments, out),
            Command::Adopt(arguments) => adopt::run(self, arguments, out),
            Command::Deploy(arguments) => deploy::run(arguments, out),
            Command::Shards(arguments) => shards::run(self, arguments, out),
            Command::Leases(arguments) => leases::run(self, arguments, out),
            Command::Validate(arguments) => validate::run(self, arguments, out),
            Command::Test(arguments) => test::run(self, arguments, out),
            Command::Graph(arguments) => graph::run(self, arguments, out),
            Command::Schema(arguments) => schema::run(self, arguments, out),
            Command::Config(arguments) => config::run(self, arguments, out),
            Command::New(arguments) => new::run(self, arguments, out),
            Command::Completions(arguments) => shell::completions(arguments, out),
            Command::Man(arguments) => shell::man(arguments, out),
            Command::Metrics(arguments) => metrics::run(arguments, out),
            Command::Reference(arguments) => reference::run(self, arguments, out),
        }
    }
}

/// The whole program: reads the command line of this process, runs what it asks for and tells how it ended.
pub fn main() -> ExitCode {
    main_with(crate::registry())
}

/// The same with other types of operator.
pub fn main_with(registry: Registry) -> ExitCode {
    // Before there are threads.
    let bounded = allocator::bound();
    let cli = Cli::parse();
    start_logging(&cli.log);
    if !bounded {
        tracing::warn!("The allocator can't be bounded: long conversions may hold more memory than their limit says.");
    }
    App::new(registry).run(&cli).into()
}

/// Tells an error on stderr, and says how the process ends.
fn tell(error: &anyhow::Error) -> Exit {
    let broken_pipe = |cause: &(dyn std::error::Error + 'static)| {
        cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
    };
    // A reader that has seen enough, as `head` does, is no failure.
    if error.chain().any(broken_pipe) {
        return Exit::Ok;
    }
    let (text, exit) = match error.downcast_ref::<LoadErrors>() {
        Some(errors) => (errors.render(shows_colours(&io::stderr())), Exit::Config),
        None => (format!("penstock: {error:#}\n"), Exit::Failed),
    };
    // With stderr gone nobody is left to be told; the exit code still says it.
    io::stderr().write_all(text.as_bytes()).ok();
    exit
}

/// Whether a stream shows colours: a terminal, unless `NO_COLOR` is set (no-color.org).
fn shows_colours(stream: &impl IsTerminal) -> bool {
    stream.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

#[cfg(test)]
mod tests;

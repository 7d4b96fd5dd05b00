//! `penstock completions` and `penstock man`: what a shell and `man` know of the commands, made from the commands.

use std::{fs, io::Write, path::PathBuf};

use anyhow::Context;
use clap::{Args, Command as Clap, CommandFactory};
use clap_complete::Shell;

use super::{Cli, Exit};

/// Print completions for a shell.
#[derive(Debug, Args)]
pub struct CompletionsArguments {
    /// The shell.
    shell: Shell,
}

/// Print the man page, or write a page for each command.
#[derive(Debug, Args)]
pub struct ManArguments {
    /// Write penstock.1, penstock-run.1 and so on into this folder.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// Runs `completions`.
pub fn completions(arguments: &CompletionsArguments, out: &mut dyn Write) -> anyhow::Result<Exit> {
    let mut text = Vec::new();
    clap_complete::generate(arguments.shell, &mut Cli::command(), "penstock", &mut text);
    out.write_all(&text)?;
    Ok(Exit::Ok)
}

/// Runs `man`.
pub fn man(arguments: &ManArguments, out: &mut dyn Write) -> anyhow::Result<Exit> {
    let mut command = Cli::command();
    command.build();
    match &arguments.dir {
        None => out.write_all(&page(command)?)?,
        Some(dir) => {
            fs::create_dir_all(dir).with_context(|| format!("{} can't be made", dir.display()))?;
            let mut pages = Vec::new();
            gather(command, "penstock", &mut pages)?;
            for (name, page) in &pages {
                let path = dir.join(format!("{name}.1"));
                fs::write(&path, page).with_context(|| format!("{} can't be written", path.display()))?;
            }
            writeln!(out, "{} pages in {}: man -l {}", pages.len(), dir.display(), dir.join("penstock.1").display())?;
        }
    }
    Ok(Exit::Ok)
}

fn gather(command: Clap, name: &str, pages: &mut Vec<(String, Vec<u8>)>) -> anyhow::Result<()> {
    for below in command.get_subcommands().filter(|below| below.get_name() != "help") {
        gather(below.clone(), &format!("{name}-{}", below.get_name()), pages)?;
    }
    pages.push((name.to_owned(), page(command.display_name(name.to_owned()))?));
    Ok(())
}

fn page(command: Clap) -> anyhow::Result<Vec<u8>> {
    let mut text = Vec::new();
    clap_mangen::Man::new(command).render(&mut text)?;
    Ok(text)
}

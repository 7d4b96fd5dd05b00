//! `penstock verify`: whether a day adds up.

use std::io::Write;

use anyhow::Context;
use clap::Args;

use super::{App, Exit, place::DayArguments};
use crate::{
    oncall::verify::{Verdict, verify},
    words::plural,
};

/// Things that are listed one by one.
const SHOWN: usize = 50;

/// Check a day: inputs, items, manifests, their JSON, reports, Parquet and rejects must add up. Exits with 1 if something
/// is off, with 3 if nothing is but some work isn't finished, or can't be checked any more because its items have expired.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    day: DayArguments,
    /// Compare contents, too, where a listing tells no etags, as on one machine: each object is read once.
    #[arg(long)]
    deep: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(app: &App, arguments: &Arguments, out: &mut dyn Write) -> anyhow::Result<Exit> {
    let day = &arguments.day;
    let mut pipeline = day.load(app)?;
    let runtime = tokio::runtime::Runtime::new().context("no runtime could be started")?;
    let verdict = runtime.block_on(async {
        let home = day.place.look(&mut pipeline).await?;
        verify(home.cloud(), &pipeline, &day.date, arguments.deep).await
    })?;
    if arguments.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&verdict)?)?;
    } else {
        tell(out, &verdict)?;
    }
    Ok(match (verdict.off.is_empty(), verdict.unfinished.is_empty() && verdict.expired == 0) {
        (false, _) => Exit::Failed,
        (true, false) => Exit::Troubled,
        (true, true) => Exit::Ok,
    })
}

fn tell(out: &mut dyn Write, verdict: &Verdict) -> anyhow::Result<()> {
    let list = |counts: &std::collections::BTreeMap<&str, u64>| match counts.is_empty() {
        true => "none".to_owned(),
        false => counts.iter().map(|(state, count)| format!("{count} {state}")).collect::<Vec<_>>().join(", "),
    };
    writeln!(out, "{}  objects:   {} in the date's folder", verdict.date, verdict.inputs)?;
    writeln!(out, "            files:     {}", list(&verdict.files))?;
    writeln!(out, "            manifests: {}", list(&verdict.manifests))?;
    writeln!(
        out,
        "            rows:      {} by the manifests, {} in {} Parquet files",
        verdict.rows, verdict.parquet_rows, verdict.parquet_files
    )?;
    writeln!(out, "            rejects:   {} by the manifests, {} kept", verdict.rejected_rows, verdict.kept_rejects)?;
    if verdict.foreign > 0 {
        writeln!(out, "            {} manifests of the previous system were not looked at", verdict.foreign)?;
    }
    for off in verdict.off.iter().take(SHOWN) {
        writeln!(out, "OFF  {}  {}: {}", off.kind, off.what, off.why)?;
    }
    if verdict.off.len() > SHOWN {
        writeln!(out, "… and {} more: --json lists them all", verdict.off.len() - SHOWN)?;
    }
    for unfinished in verdict.unfinished.iter().take(SHOWN) {
        writeln!(out, "not finished: {unfinished}")?;
    }
    if verdict.unfinished.len() > SHOWN {
        writeln!(out, "… and {} more", verdict.unfinished.len() - SHOWN)?;
    }
    if verdict.expired > 0 {
        writeln!(
            out,
            "expired: {} are older than items of finished work are kept: they can't be checked",
            plural(verdict.expired, "object")
        )?;
    }
    let has_nothing = verdict.expired == 0
        && verdict.inputs == 0
        && verdict.files.is_empty()
        && verdict.manifests.is_empty()
        && verdict.parquet_files == 0;
    match (verdict.off.len(), verdict.unfinished.len()) {
        // Most often the date is misspelt.
        (0, 0) if has_nothing => writeln!(out, "There is nothing of {}.", verdict.date)?,
        (0, 0) if verdict.expired > 0 => writeln!(out, "What can be checked adds up; items have expired.")?,
        (0, 0) => writeln!(out, "All of it adds up.")?,
        (0, 1) => writeln!(out, "What is finished adds up; 1 thing isn't finished.")?,
        (0, left) => writeln!(out, "What is finished adds up; {left} things aren't finished.")?,
        (1, _) => writeln!(out, "1 thing is off.")?,
        (off, _) => writeln!(out, "{off} things are off.")?,
    }
    Ok(())
}

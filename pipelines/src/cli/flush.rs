//! `penstock flush`: closes manifests of a date now.

use std::{io::Write, time::Duration};

use anyhow::Context;
use clap::Args;
use penstock_engine::units::parse_duration;
use penstock_operators::fold::request::FlushRequest;
use serde_json::json;

use super::{App, Exit, place::DayArguments};
use crate::{
    control::{Client, call, protocol::Command},
    oncall::{Layout, flush},
    words::plural,
};

/// Close manifests of a date now, whatever its thresholds say: what is pending goes, what comes later waits as ever.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    day: DayArguments,
    /// Wait so long for the engine's answer; the request stays after that, too.
    #[arg(long, value_name = "DURATION", default_value = "90s", value_parser = parse_duration)]
    wait: Duration,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(app: &App, arguments: &Arguments, out: &mut dyn Write) -> anyhow::Result<Exit> {
    let day = &arguments.day;
    let mut pipeline = day.load(app)?;
    let runtime = tokio::runtime::Runtime::new().context("no runtime could be started")?;
    runtime.block_on(async {
        let command = Command::Flush { date: day.date.clone() };
        let asked: FlushRequest = serde_json::from_value(call(&day.place, &mut pipeline, &command).await?)?;
        let home = day.place.look(&mut pipeline).await?;
        let table = home.cloud().table(&Layout::of(&pipeline)?.fold.table).await?;
        let is_run = match day.place.local_dir() {
            Some(dir) => Client::connect(dir).await?.is_some(),
            // Elsewhere there is no telling.
            None => true,
        };
        let limit = if is_run { arguments.wait } else { Duration::ZERO };
        let found = flush::wait(&*table, &asked, limit).await?;
        if arguments.json {
            let answer = json!({
                "date": found.date, "status": found.status, "requested_at": found.requested_at,
                "answered_at": found.answered_at, "manifests": found.manifests,
            });
            writeln!(out, "{}", serde_json::to_string_pretty(&answer)?)?;
            return Ok(if found.is_waiting() { Exit::Troubled } else { Exit::Ok });
        }
        if !found.is_waiting() && found.manifests.is_empty() {
            writeln!(out, "{}: nothing was pending.", found.date)?;
        } else if !found.is_waiting() {
            writeln!(out, "{}: {} closed by hand:", found.date, plural(found.manifests.len(), "manifest"))?;
            for manifest in &found.manifests {
                writeln!(out, "  {manifest}")?;
            }
        } else if is_run {
            writeln!(
                out,
                "{}: requested, and not answered yet. An engine that runs answers within seconds: \
                `penstock status` shows whether one reads the table's changes.",
                found.date
            )?;
            return Ok(Exit::Troubled);
        } else {
            writeln!(out, "{}: requested. No service runs there now; the next one that starts does it.", found.date)?;
        }
        Ok(Exit::Ok)
    })
}

//! `penstock run`: runs a pipeline.

use std::{io::Write, path::PathBuf, sync::Arc, time::Instant};

use anyhow::Context;
use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use super::{App, Exit, land, place::PlaceArguments, progress::Progress, summary};
use crate::{loader::Pipeline, service::Service};

/// Run a pipeline: until it is stopped, or until nothing is left to do.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The pipeline's file.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    place: PlaceArguments,
    /// Run only this service of the pipeline.
    #[arg(long, value_name = "NAME")]
    service: Option<String>,
    /// Land these files first: a pattern like '/data/**/*.ndjson', or a folder. May be given several times.
    #[arg(long, value_name = "PATTERN")]
    land: Vec<String>,
    /// Exit when nothing is left to do; what no threshold has closed is flushed.
    #[arg(long)]
    until_idle: bool,
}

/// Runs the command.
pub fn run(app: &App, arguments: &Arguments, out: &mut dyn Write) -> anyhow::Result<Exit> {
    let mut pipeline = arguments.place.load(app, &arguments.file)?;
    let runtime = tokio::runtime::Runtime::new().context("no runtime could be started")?;
    runtime.block_on(async {
        let began = Instant::now();
        let home = arguments.place.open(&mut pipeline).await?;
        let chosen = arguments.service.as_deref();
        let service = Service::start_at(&pipeline, chosen, home, Arc::clone(&app.registry)).await?;
        let ended = serve(&pipeline, arguments, &service, out, began).await;
        let orderly = service.stop().await;
        let exit = ended?;
        Ok(if orderly { exit } else { Exit::Failed })
    })
}

async fn serve(
    pipeline: &Pipeline,
    arguments: &Arguments,
    service: &Service,
    out: &mut dyn Write,
    began: Instant,
) -> anyhow::Result<Exit> {
    let work = async {
        let landed = land::land_all(pipeline, &arguments.land, service.home()).await?;
        if !arguments.until_idle {
            return std::future::pending().await;
        }
        let progress = Progress::new(landed);
        let facts = service.until_idle(|facts| progress.show(facts)).await;
        progress.finish();
        facts
    };
    tokio::select! {
        facts = work => {
            let facts = facts?;
            let s3 = service.home().local().map(|local| local.dir().join("s3"));
            summary::write(out, &facts, s3.as_deref(), began.elapsed())?;
            let dead_letters = service.dead_letters().await?;
            for (queue, messages) in &dead_letters {
                writeln!(out, "Dead letters in queue {queue}: {messages}; the log says why.")?;
            }
            let is_clean = summary::failures(&facts) == 0 && dead_letters.is_empty();
            Ok(if is_clean { Exit::Ok } else { Exit::Troubled })
        }
        stopped = stop_signal() => stopped.map(|()| Exit::Ok),
    }
}

/// Waits for SIGTERM or SIGINT.
async fn stop_signal() -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM can't be listened for")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT can't be listened for")?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("Stopping: what is under way is finished or handed back.");
    Ok(())
}

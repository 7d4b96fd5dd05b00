//! `penstock run`: runs a pipeline.

use std::{io::Write, path::PathBuf, sync::Arc, time::Instant};

use anyhow::{Context, bail};
use clap::Args;
use penstock_engine::telemetry::otlp::Collector;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{App, Exit, land, place::PlaceArguments, progress::Progress, summary};
use crate::{
    control::{Control, Hands},
    loader::Pipeline,
    observation::{self, Listen, Observation},
    service::Service,
    token::{self, Token},
};

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
    /// Where to answer for health and metrics: an address and a port, or `off`. Without it that is 127.0.0.1:8650, and with
    /// --until-idle nowhere.
    #[arg(long, value_name = "ADDRESS", env = "PENSTOCK_LISTEN")]
    listen: Option<Listen>,
    /// Write metrics to stdout each minute, in CloudWatch's embedded format; on ECS that is done anyway.
    #[arg(long, env = "PENSTOCK_EMF")]
    emf: bool,
    /// Send traces to the OpenTelemetry collector at this address, by OTLP over HTTP: http://localhost:4318. Without it
    /// OTEL_EXPORTER_OTLP_ENDPOINT is looked at; OTEL_EXPORTER_OTLP_HEADERS has headers for it.
    #[arg(long, value_name = "URL")]
    otlp: Option<Collector>,
    /// Show the dashboard also on an address that others can reach. It shows data: put it behind something that knows who
    /// is asking.
    #[arg(long)]
    dashboard: bool,
    /// Let whoever has the token of PENSTOCK_ACTION_TOKEN redrive and flush on the dashboard.
    #[arg(long, env = "PENSTOCK_ALLOW_ACTIONS")]
    allow_actions: bool,
    /// Let whoever has that token see records as they pass, by `penstock tap --url`. It shows data, to whoever can reach the
    /// address and has the token.
    #[arg(long, env = "PENSTOCK_ALLOW_TAP")]
    allow_tap: bool,
}

impl Arguments {
    fn observe(&self, app: &App) -> anyhow::Result<observation::Options> {
        let token = |is_wanted: bool, option: &str| match (is_wanted, (app.env)(token::VARIABLE)) {
            (false, _) => Ok(None),
            (true, Some(text)) => Ok(Some(Token::new(&text)?)),
            (true, None) => {
                bail!("{option} needs a token in {}, e.g. from `openssl rand -hex 16`", token::VARIABLE)
            }
        };
        Ok(observation::Options {
            listen: self.listen.or(self.until_idle.then_some(Listen::Off)),
            emf: self.emf || (app.env)("ECS_CONTAINER_METADATA_URI_V4").is_some(),
            dashboard: self.dashboard,
            token: token(self.allow_actions, "--allow-actions")?,
            tap_token: token(self.allow_tap, "--allow-tap")?,
            traces: self.traces(app)?,
        })
    }

    /// Who gets traces, by the options and by OpenTelemetry's variables.
    fn traces(&self, app: &App) -> anyhow::Result<Option<Collector>> {
        let variable = |name: &str| (app.env)(name).filter(|text| !text.trim().is_empty());
        let named = |name: &'static str| move |why: String| anyhow::anyhow!("{name}: {why}");
        let collector = match (&self.otlp, variable("OTEL_EXPORTER_OTLP_ENDPOINT")) {
            (Some(collector), _) => Some(collector.clone()),
            (None, Some(text)) => Some(text.parse().map_err(named("OTEL_EXPORTER_OTLP_ENDPOINT"))?),
            (None, None) => None,
        };
        match (collector, variable("OTEL_EXPORTER_OTLP_HEADERS")) {
            (Some(collector), Some(headers)) => {
                Ok(Some(collector.with_headers(&headers).map_err(named("OTEL_EXPORTER_OTLP_HEADERS"))?))
            }
            (collector, _) => Ok(collector),
        }
    }
}

/// Runs the command.
pub fn run(app: &App, arguments: &Arguments, out: &mut dyn Write) -> anyhow::Result<Exit> {
    let mut pipeline = arguments.place.load(app, &arguments.file)?;
    let runtime = tokio::runtime::Runtime::new().context("no runtime could be started")?;
    runtime.block_on(async {
        let began = Instant::now();
        // From here on: a signal that comes while the service starts must not kill it.
        let mut signals = StopSignals::listen()?;
        let chosen = arguments.service.as_deref();
        let home = arguments.place.open(&mut pipeline).await?;
        let mut observation = Observation::begin(&pipeline, chosen, arguments.observe(app)?).await?;
        let service = Service::start_at(&pipeline, chosen, home, Arc::clone(&app.registry)).await?;
        let _control = control(&pipeline, &service)?;
        observation.running(&pipeline, &app.registry, service.home(), service.handle(), service.worker()).await?;
        let ended = serve(&pipeline, arguments, &service, out, began, &mut signals).await;
        observation.stopping();
        let orderly = service.stop().await;
        observation.end().await;
        let exit = ended?;
        Ok(if orderly { exit } else { Exit::Failed })
    })
}

/// The socket by which commands reach this process, if it owns a folder.
pub(super) fn control(pipeline: &Pipeline, service: &Service) -> anyhow::Result<Option<Control>> {
    let Some(local) = service.home().local() else { return Ok(None) };
    let hands = Hands::new(Arc::clone(service.home().cloud()), Arc::new(pipeline.clone()), Some(service.handle()));
    let served = Control::serve(local.dir(), hands);
    Ok(Some(served.with_context(|| format!("the control socket in {} can't be served", local.dir().display()))?))
}

async fn serve(
    pipeline: &Pipeline,
    arguments: &Arguments,
    service: &Service,
    out: &mut dyn Write,
    began: Instant,
    signals: &mut StopSignals,
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
        () = signals.wait() => Ok(Exit::Ok),
    }
}

/// SIGTERM and SIGINT, listened for.
pub(super) struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignals {
    pub fn listen() -> anyhow::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate()).context("SIGTERM can't be listened for")?,
            interrupt: signal(SignalKind::interrupt()).context("SIGINT can't be listened for")?,
        })
    }

    /// Waits for either.
    pub async fn wait(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
        tracing::info!("Stopping: what is under way is finished or handed back.");
    }
}

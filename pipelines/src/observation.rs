//! What watches over a service while it runs: the pages of its process, the depths of its queues, CloudWatch's metrics, the
//! hourly roll-ups, traces.
//!
//! None of it is needed for the work: what fails here is logged and tried again, and holds up nothing.

use std::{fs::File, io::Write, net::SocketAddr, os::fd::AsFd, str::FromStr, sync::Arc, time::Duration};

use anyhow::Context;
use axum::Router;
use chrono::Utc;
use penstock_engine::{
    cloud::{Cloud, queue::QueueDepth},
    graph::Registry,
    http,
    monitor::{About, Monitor},
    runtime::Handle,
    telemetry::{
        emf::Emf,
        otlp::{self, Collector},
        rollup,
    },
    time::{Clock, format_time},
};
use tokio::{net::TcpListener, task::JoinHandle, time::MissedTickBehavior};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    control::{Hands, remote},
    dashboard::{self, Dashboard, History, history},
    facts::queue_depths,
    home::Home,
    loader::Pipeline,
    telemetry,
    token::Token,
};

/// The short name of the table of metrics.
pub const METRICS_TABLE: &str = "sqs-metrics";

/// Where the pages are unless somebody says otherwise: on this machine only.
pub const DEFAULT_ADDRESS: &str = "127.0.0.1:8650";

/// How often the depths of queues are asked for. SQS's own numbers are no fresher than that.
const QUEUES_EVERY: Duration = Duration::from_secs(10);

/// How often CloudWatch gets metrics: its own resolution.
const EMF_EVERY: Duration = Duration::from_secs(60);

/// Where to listen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listen {
    /// Here, or the process doesn't start.
    At(SocketAddr),
    /// Nowhere.
    Off,
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "off" {
            return Ok(Self::Off);
        }
        let error = |_| format!("write an address and a port, like {DEFAULT_ADDRESS}, or `off`");
        text.parse().map(Self::At).map_err(error)
    }
}

/// What to watch with.
#[derive(Clone, Default)]
pub struct Options {
    /// Where to listen; `None` tries [`DEFAULT_ADDRESS`], and goes without if that is taken.
    pub listen: Option<Listen>,
    /// Whether metrics go to stdout in CloudWatch's format.
    pub emf: bool,
    /// Whether the pages of the dashboard are served on an address that others can reach too.
    pub dashboard: bool,
    /// Who may act on the dashboard; nobody without it.
    pub token: Option<Token>,
    /// Who may see records as they pass; nobody without it.
    pub tap_token: Option<Token>,
    /// Who gets traces.
    pub traces: Option<Collector>,
}

/// Watches over a service.
pub struct Observation {
    monitor: Monitor,
    listener: Option<(TcpListener, SocketAddr)>,
    options: Options,
    stop: CancellationToken,
    tasks: TaskTracker,
    /// What sends traces, and how it is stopped.
    exporter: Option<(CancellationToken, JoinHandle<()>)>,
}

impl Observation {
    /// Begins before the service starts.
    pub async fn begin(pipeline: &Pipeline, service: Option<&str>, options: Options) -> anyhow::Result<Self> {
        let telemetry = telemetry::install()?;
        let about = About {
            version: env!("CARGO_PKG_VERSION"),
            pipeline: pipeline.name.clone(),
            env: pipeline.env.clone(),
            service: service.unwrap_or("all").to_owned(),
            digest: pipeline.digest.clone(),
            started_at: format_time(Utc::now()),
        };
        Ok(Self {
            monitor: Monitor::new(about, telemetry, Clock::system()),
            listener: listen(options.listen).await?,
            options,
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
            exporter: None,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> Option<SocketAddr> {
        self.listener.as_ref().map(|(_, address)| *address)
    }

    /// The service runs: everything that looks at it begins.
    pub async fn running(
        &mut self,
        pipeline: &Pipeline,
        registry: &Arc<Registry>,
        home: &Home,
        service: Handle,
        worker: &str,
    ) -> anyhow::Result<()> {
        self.monitor.running(service.clone());
        let cloud = Arc::clone(home.cloud());
        if let Some((listener, address)) = self.listener.take() {
            let hands = Hands::new(Arc::clone(&cloud), Arc::new(pipeline.clone()), Some(service));
            let taps = remote::routes(hands, self.options.tap_token.take(), self.stop.clone());
            let mut routes = http::routes(self.monitor.clone()).merge(taps);
            // A dashboard shows data: strangers get none unless somebody said so.
            if address.ip().is_loopback() || self.options.dashboard {
                routes = routes.merge(self.dashboard(pipeline, registry, home));
                tracing::info!("Dashboard, health and metrics are at http://{address}/.");
            } else {
                tracing::info!(
                    "Health and metrics are at http://{address}/; --dashboard would show the dashboard there too."
                );
            }
            self.tasks.spawn(http::serve(listener, http::bounded(routes, address), self.stop.clone()));
        }
        if self.options.emf {
            self.tasks.spawn(emit_emf(self.monitor.clone(), standard_output()?, self.stop.clone()));
        }
        if let Some(collector) = self.options.traces.take() {
            tracing::info!(?collector, "Traces go to a collector.");
            let stop = CancellationToken::new();
            let exporting = otlp::export(collector, self.resource(worker), stop.clone())?;
            self.exporter = Some((stop, tokio::spawn(exporting)));
        }
        if pipeline.resources.tables.contains_key(METRICS_TABLE) {
            let table = cloud.table(METRICS_TABLE).await.context("the table of metrics")?;
            let (service, telemetry) = (self.monitor.about().service.clone(), self.monitor.telemetry().clone());
            let kept = rollup::keep(telemetry, table, service, worker.to_owned(), Clock::system(), self.stop.clone());
            self.tasks.spawn(kept);
        }
        let queues: Vec<String> = pipeline.resources.queues.keys().cloned().collect();
        self.tasks.spawn(watch_queues(cloud, queues, self.monitor.clone(), self.stop.clone()));
        Ok(())
    }

    /// Who this is, to a collector of traces.
    fn resource(&self, worker: &str) -> otlp::Resource {
        let About { version, pipeline, env, service, .. } = self.monitor.about();
        vec![
            ("service.name", format!("{pipeline}-{service}")),
            ("service.version", (*version).to_owned()),
            ("service.instance.id", worker.to_owned()),
            ("deployment.environment.name", env.clone()),
        ]
    }

    fn dashboard(&self, pipeline: &Pipeline, registry: &Arc<Registry>, home: &Home) -> Router {
        let history = Arc::<History>::default();
        self.tasks.spawn(keep_history(self.monitor.clone(), Arc::clone(&history), self.stop.clone()));
        dashboard::routes(Arc::new(Dashboard::new(
            Arc::new(pipeline.clone()),
            Arc::clone(registry),
            home.clone(),
            self.monitor.clone(),
            history,
            self.options.token.clone(),
        )))
    }

    /// The service was asked to stop.
    pub fn stopping(&self) {
        self.monitor.stopping();
    }

    /// Ends after the service has: the last spans are sent, and the last metrics, theirs among them, are in the roll-up.
    pub async fn end(self) {
        if let Some((stop, exporter)) = self.exporter {
            stop.cancel();
            if let Err(error) = exporter.await {
                tracing::warn!(%error, "The last traces weren't sent.");
            }
        }
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

async fn listen(wanted: Option<Listen>) -> anyhow::Result<Option<(TcpListener, SocketAddr)>> {
    match wanted {
        Some(Listen::Off) => Ok(None),
        Some(Listen::At(address)) => {
            let listening = http::listen(address).await;
            listening.map(Some).with_context(|| format!("can't listen on {address}: choose another with --listen"))
        }
        None => match http::listen(DEFAULT_ADDRESS.parse()?).await {
            Ok(listening) => Ok(Some(listening)),
            Err(error) => {
                tracing::warn!(%error, "No pages: {DEFAULT_ADDRESS} can't be had. Choose another address with --listen.");
                Ok(None)
            }
        },
    }
}

async fn keep_history(monitor: Monitor, history: Arc<History>, stop: CancellationToken) {
    let mut looks = tokio::time::interval(history::EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = looks.tick() => {}
            () = stop.cancelled() => return,
        }
        monitor.publish();
        history.record(Utc::now().timestamp_millis(), &monitor.telemetry().samples());
    }
}

/// A way to stdout beside the lock that a command holds while it runs.
fn standard_output() -> anyhow::Result<File> {
    Ok(File::from(std::io::stdout().as_fd().try_clone_to_owned().context("stdout can't be used for metrics")?))
}

async fn emit_emf(monitor: Monitor, mut out: File, stop: CancellationToken) {
    let about = monitor.about();
    // An account may hold several environments: the alarms of one must not hear of another's.
    let dimensions = [("pipeline", &about.pipeline), ("env", &about.env), ("service", &about.service)];
    let dimensions = dimensions.map(|(name, value)| (name.to_owned(), value.clone()));
    let mut emf = Emf::new(monitor.telemetry().metrics(), dimensions.into());
    loop {
        tokio::select! {
            () = tokio::time::sleep(EMF_EVERY) => {}
            () = stop.cancelled() => {}
        }
        monitor.publish();
        let lines = emf.lines(&monitor.telemetry().samples(), Utc::now());
        let text: String = lines.iter().flat_map(|line| [line.as_str(), "\n"]).collect();
        if let Err(error) = out.write_all(text.as_bytes()) {
            tracing::warn!(%error, "Metrics not written to stdout.");
        }
        if stop.is_cancelled() {
            return;
        }
    }
}

async fn watch_queues(cloud: Arc<dyn Cloud>, queues: Vec<String>, monitor: Monitor, stop: CancellationToken) {
    loop {
        match queue_depths(&*cloud, queues.iter()).await {
            Ok(depths) => depths.iter().for_each(|(queue, depth)| show_depth(queue, *depth)),
            Err(error) => tracing::warn!(error = format!("{error:#}"), "Queues not looked at; trying again."),
        }
        // Without scrapes histograms would pile up what they were told.
        monitor.telemetry().run_upkeep();
        tokio::select! {
            () = tokio::time::sleep(QUEUES_EVERY) => {}
            () = stop.cancelled() => return,
        }
    }
}

fn show_depth(queue: &str, depth: QueueDepth) {
    for (state, messages) in [("visible", depth.visible), ("in_flight", depth.in_flight), ("delayed", depth.delayed)] {
        metrics::gauge!("penstock_queue_messages", "queue" => queue.to_owned(), "state" => state).set(messages as f64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read() {
        assert_eq!("off".parse(), Ok(Listen::Off));
        assert_eq!("0.0.0.0:80".parse(), Ok(Listen::At(SocketAddr::from(([0, 0, 0, 0], 80)))));
        assert!("8080".parse::<Listen>().unwrap_err().contains("127.0.0.1:8650"));
    }

    #[tokio::test]
    async fn an_address_that_is_taken_and_was_asked_for_is_an_error() {
        let (_listener, address) = http::listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let error = listen(Some(Listen::At(address))).await.unwrap_err();
        assert!(format!("{error:#}").contains("--listen"), "{error:#}");
    }
}

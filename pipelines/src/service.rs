//! A pipeline that runs: its cloud, its operators and, on one machine, its folder watch; from start to orderly stop.

use std::{collections::BTreeSet, path::Path, sync::Arc, time::Duration};

use anyhow::{Context as _, bail};
use penstock_engine::{
    cloud::{Cloud, local::folder_watch::WatchHandle},
    graph::{Graph, Node, Registry},
    operator::{Command, Context},
    runtime::{self, States},
    streams::Common,
    time::Clock,
};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::{
    facts::{Facts, TRACKING_TABLE, queue_depths},
    home::Home,
    lag,
    loader::Pipeline,
};

/// How often idleness is looked for.
const IDLE_POLL: Duration = Duration::from_millis(200);

/// A pipeline that runs.
pub struct Service {
    home: Home,
    watches: Vec<WatchHandle>,
    runtime: runtime::Service,
    folds: Vec<String>,
    gathered: Gathered,
    queues: Vec<String>,
    dead_letter_queues: BTreeSet<String>,
    shutdown_limit: Duration,
    worker: String,
}

impl Service {
    /// Starts `pipeline`, or one of its services, on the local cloud in `dir`. This process owns the folder until it
    /// stops.
    pub async fn start(
        pipeline: &Pipeline,
        service: Option<&str>,
        dir: &Path,
        registry: Arc<Registry>,
    ) -> anyhow::Result<Self> {
        let home = Home::open_local(dir, pipeline)?;
        Self::start_at(pipeline, service, home, registry).await
    }

    /// Starts `pipeline`, or one of its services, where it lives.
    pub async fn start_at(
        pipeline: &Pipeline,
        service: Option<&str>,
        home: Home,
        registry: Arc<Registry>,
    ) -> anyhow::Result<Self> {
        let graph = chosen(pipeline, service)?;
        home.require(&graph, &registry).await?;
        let stop = CancellationToken::new();
        let worker = worker_name(&home);
        let context = Context {
            id: String::new(),
            naming: pipeline.naming.clone(),
            cloud: Arc::clone(home.cloud()),
            clock: Clock::system(),
            worker: worker.clone(),
            sole_process: home.local().is_some(),
            streams: Common::default(),
            stop,
        };
        let ids_of = |type_name: &str| {
            let nodes = graph.nodes.iter().filter(|node| node.type_name == type_name);
            nodes.map(|node| node.id.clone()).collect::<Vec<_>>()
        };
        let queues = graph.nodes.iter().filter(|node| node.type_name == "queue");
        let queues = queues.filter_map(|node| node.options.get("queue")?.as_str().map(str::to_owned)).collect();
        let folds = ids_of("fold");
        let gathered = Gathered::of(&graph, ids_of("s3_ndjson"));
        let runtime = runtime::Service::start(&graph, registry, context).await?;
        let watches = match home.local() {
            Some(local) => local.watch(&CancellationToken::new()).await?,
            None => Vec::new(),
        };
        tracing::info!(
            pipeline = pipeline.name,
            env = pipeline.naming.env,
            operators = graph.nodes.len(),
            "Service started."
        );
        let dead_letters = pipeline.resources.queues.values().filter_map(|queue| queue.dead_letter.as_ref());
        Ok(Self {
            home,
            watches,
            runtime,
            folds,
            gathered,
            queues,
            dead_letter_queues: dead_letters.map(|dead| dead.queue.clone()).collect(),
            shutdown_limit: pipeline.shutdown_limit,
            worker,
        })
    }

    /// Where it lives.
    pub fn home(&self) -> &Home {
        &self.home
    }

    /// The cloud that it runs on.
    pub fn cloud(&self) -> &dyn Cloud {
        &**self.home.cloud()
    }

    /// How its operators are.
    pub fn states(&self) -> States {
        self.runtime.states()
    }

    /// A way to its operators, for those who look at them and command them.
    pub fn handle(&self) -> runtime::Handle {
        self.runtime.handle()
    }

    /// Its name among all processes that run the pipeline.
    pub fn worker(&self) -> &str {
        &self.worker
    }

    /// What its tracking table says.
    pub async fn facts(&self) -> anyhow::Result<Facts> {
        Facts::read(&*self.cloud().table(TRACKING_TABLE).await?).await
    }

    /// Waits until nothing is left to do: everything that lies in the folders has landed, no message waits, and every
    /// file and manifest is final. Files that no threshold has closed are flushed.
    pub async fn until_idle(&self, mut on_look: impl FnMut(&Facts)) -> anyhow::Result<Facts> {
        loop {
            let has_landed = self.has_landed().await?;
            let facts = self.facts().await?;
            on_look(&facts);
            if has_landed {
                // What was written between the two looks shows at the next one.
                if facts.unfinished() == 0 && self.has_landed().await? && self.facts().await?.unfinished() == 0 {
                    return Ok(facts);
                }
                if facts.dates.values().any(|date| date.files.contains_key("pending")) {
                    self.flush().await?;
                }
            }
            tokio::time::sleep(IDLE_POLL).await;
        }
    }

    /// Queues of dead letters that hold some, and how many: what a person has to look at.
    pub async fn dead_letters(&self) -> anyhow::Result<Vec<(String, u64)>> {
        let depths = queue_depths(self.cloud(), self.dead_letter_queues.iter()).await?;
        Ok(depths.into_iter().map(|(name, depth)| (name, depth.total())).filter(|(_, total)| *total > 0).collect())
    }

    /// Closes manifests of whatever is pending.
    pub async fn flush(&self) -> anyhow::Result<()> {
        self.flush_all(&self.folds).await
    }

    async fn flush_all(&self, operators: &[String]) -> anyhow::Result<()> {
        for id in operators {
            let command = Command { name: "flush".to_owned(), arguments: json!({}) };
            self.runtime.command(id, command).await.with_context(|| format!("flush of {id}"))?;
        }
        Ok(())
    }

    async fn has_landed(&self) -> anyhow::Result<bool> {
        self.flush_all(&self.gathered.by).await?;
        if !lag::read(&self.gathered.from, self.cloud()).await?.is_empty() {
            return Ok(false);
        }
        if !self.watches.iter().all(WatchHandle::is_settled) {
            return Ok(false);
        }
        for queue in &self.queues {
            if self.cloud().queue(queue).await?.depth().await?.total() > 0 {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Stops in order, within the pipeline's limit. Whether all ended by itself.
    pub async fn stop(self) -> bool {
        for watch in self.watches {
            watch.stop().await;
        }
        let orderly = self.runtime.stop(self.shutdown_limit).await;
        tracing::info!(orderly, "Service stopped.");
        orderly
    }
}

/// What becomes objects before it is files: the operators that gather records, and the streams that they gather from.
struct Gathered {
    by: Vec<String>,
    from: Graph,
}

impl Gathered {
    fn of(graph: &Graph, by: Vec<String>) -> Self {
        let mut upstream: BTreeSet<&str> = by.iter().map(String::as_str).collect();
        // Each node comes after its inputs, so that one look from the end finds all that leads to them.
        for node in graph.nodes.iter().rev() {
            if upstream.contains(node.id.as_str()) {
                upstream.extend(node.inputs.iter().map(|input| input.id.as_str()));
            }
        }
        let leads = |node: &&Node| node.type_name == "change_stream" && upstream.contains(node.id.as_str());
        let from = Graph { nodes: graph.nodes.iter().filter(leads).cloned().collect() };
        Self { by, from }
    }
}

/// This process's name among all that run the pipeline: it tells people which machine or task to look at.
fn worker_name(home: &Home) -> String {
    let host = match home.local() {
        Some(_) => "local".to_owned(),
        None => std::env::var("HOSTNAME").ok().filter(|host| !host.is_empty()).unwrap_or_else(|| "host".to_owned()),
    };
    format!("{host}-{}-{:08x}", std::process::id(), rand::random::<u32>())
}

fn chosen(pipeline: &Pipeline, service: Option<&str>) -> anyhow::Result<Graph> {
    let Some(name) = service else { return Ok(pipeline.graph.clone()) };
    let Some(ids) = pipeline.services.get(name) else {
        let names: Vec<&str> = pipeline.services.keys().map(String::as_str).collect();
        bail!("{} has no service `{name}`; it has: {}", pipeline.path.display(), names.join(", "));
    };
    pipeline.graph.subset(ids).with_context(|| format!("service `{name}` can't run by itself"))
}

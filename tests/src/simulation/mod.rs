//! The shipped pipeline, simulated: several processes on one cloud in memory, with paused time and seeded faults.
//!
//! Nothing of the pipeline is replaced but the conversion itself ([`converter`]): graph, runtime, streams consumer, queue
//! sources, leases and operators are the real ones. Each process runs a service of the pipeline, sees a clock of its own
//! and may be paused, woken up and killed between any two requests ([`witness`]). Rules that hold at every moment are
//! checked at each request; the [`ledger`] says at the end whether every line is where it must be.

pub mod converter;
pub mod ledger;
pub mod witness;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use penstock::{
    loader::{Pipeline, load},
    oncall::redrive::{Request, Selection, Step, redrive},
};
use penstock_engine::{
    cloud::{
        Bucket, ChangeStream, Cloud, EventBus, Item, Queue, Result as CloudResult, Table,
        change_stream::{SequenceNumber, ShardId},
        tap::TappedCloud,
        weaken::{WeakChangeStream, WeakEventBus, WeakQueue, WeakStage, WeakTable, Weakness},
    },
    graph::{Built, Graph, OperatorType},
    operator::{Command, Context, OperatorError},
    runtime::Service,
    streams::Common,
    time::Clock,
};
use penstock_operators::{attempt::AttemptOptions, model::text};
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::{
    converter::LineConverter,
    ledger::{Ledger, Lines},
    witness::{Crash, Life, Shared, Vital},
};
use crate::{
    memory::MemoryCloud,
    place::pipeline_file,
    rebuilt::{self, Rebuild},
};

/// The bucket prefix of new objects.
pub const PREFIX: &str = "landing/ndjson/";

/// Puts something between a cloud and an operator of a type: how a bug is planted.
pub type Tamper = Arc<dyn Fn(&str, Arc<dyn Cloud>, &Arc<Shared>) -> Arc<dyn Cloud> + Send + Sync>;

/// A simulated world.
pub struct World {
    /// What its processes share.
    pub shared: Arc<Shared>,
    /// What was landed.
    pub ledger: Ledger,
    /// Where every clock starts.
    start: (Instant, DateTime<Utc>),
    pipeline: Pipeline,
    weak: Option<Arc<WeakCloud>>,
    tamper: Option<Tamper>,
    processes: Vec<Process>,
    sequencer: u64,
    started: u64,
    /// Services of processes that died before they had started.
    stillborn: Vec<&'static str>,
    deaths: usize,
}

/// A process of a world.
pub struct Process {
    /// Its name.
    pub name: String,
    /// The service that it runs.
    pub service: &'static str,
    /// Its life.
    pub life: Arc<Life>,
    running: Service,
}

impl Process {
    /// Tells an operator what to do; its answer.
    pub async fn command(&self, operator: &str, command: Command) -> Result<Value, OperatorError> {
        self.running.command(operator, command).await
    }
}

impl World {
    /// A world with dice from this seed. Options of operators may be replaced: `(operator, option, value)`.
    pub fn new(seed: u64, weakness: Option<Weakness>, options: &[(&str, &str, Value)]) -> Self {
        let variables = BTreeMap::from([
            ("PENSTOCK_MAX_FILES", "4"),
            ("PENSTOCK_MAX_AGE", "20s"),
            ("PENSTOCK_MAX_ATTEMPTS", "100"),
            ("PENSTOCK_RETRY_WAIT", "5s"),
            ("PENSTOCK_LOOK_EVERY", "15s"),
            ("PENSTOCK_SWEEP_EVERY", "30s"),
            ("PENSTOCK_SWEEP_LIST_EVERY", "30s"),
            ("PENSTOCK_SWEEP_GRACE", "60s"),
        ]);
        let env = |name: &str| variables.get(name).map(|value| (*value).to_owned());
        let mut pipeline = load(&pipeline_file(), &env, &penstock::registry()).unwrap();
        let quick = [
            ("fold", "reconcile", json!("10s")),
            ("tracking_changes", "poll_min", json!("100ms")),
            ("tracking_changes", "poll_max", json!("2s")),
            ("tracking_changes", "balance_every", json!("2s")),
            ("tracking_changes", "discover_every", json!("20s")),
            ("tracking_changes", "drain", json!("3s")),
            ("file_events", "max_in_flight", json!(20)),
        ];
        for (operator, option, value) in quick.iter().chain(options) {
            let node = pipeline.graph.nodes.iter_mut().find(|node| node.id == *operator).unwrap();
            node.options[*option] = value.clone();
        }
        for queue in pipeline.resources.queues.values_mut() {
            queue.visibility = Duration::from_secs(30);
        }
        let start = (Instant::now(), DateTime::from_timestamp(1_770_000_000, 0).unwrap());
        let clock = clock(start, TimeDelta::zero());
        let cloud = MemoryCloud::new(&pipeline.naming, &pipeline.resources, &clock, 2);
        let weak = weakness.map(|weakness| Arc::new(WeakCloud::new(Arc::clone(&cloud), weakness, seed)));
        Self {
            shared: Shared::new(cloud, seed),
            ledger: Ledger::default(),
            start,
            pipeline,
            weak,
            tamper: None,
            processes: Vec::new(),
            sequencer: 0,
            started: 0,
            stillborn: Vec::new(),
            deaths: 0,
        }
    }

    /// The same with a planted bug.
    pub fn tampered(mut self, tamper: Tamper) -> Self {
        self.tamper = Some(tamper);
        self
    }

    /// The cloud.
    pub fn cloud(&self) -> &Arc<MemoryCloud> {
        &self.shared.cloud
    }

    /// What a person on call redrives, on the cloud as it is.
    pub async fn redrive(&self, selection: Selection, force: bool) -> Vec<Step> {
        self.redrive_on(&**self.cloud(), selection, force).await.unwrap()
    }

    /// The same, seen through another cloud.
    pub async fn redrive_on(&self, cloud: &dyn Cloud, selection: Selection, force: bool) -> anyhow::Result<Vec<Step>> {
        redrive(cloud, &self.pipeline, &Request { selection, act: true, force }).await
    }

    /// The time by the world's own clock.
    pub fn now(&self) -> DateTime<Utc> {
        clock(self.start, TimeDelta::zero()).now()
    }

    /// Starts a process that runs a service, with its clock so far off. It may be planned to die.
    pub async fn start(&mut self, service: &'static str, skew: TimeDelta, crash: Option<Crash>) {
        self.begin(service, skew, crash, None).await;
    }

    /// Starts a process that falls asleep where it is planned to, for so long, and then goes on as if nothing had been.
    pub async fn start_to_sleep(&mut self, service: &'static str, crash: Crash, sleep: Duration) {
        self.begin(service, TimeDelta::zero(), Some(crash), Some(sleep)).await;
    }

    async fn begin(&mut self, service: &'static str, skew: TimeDelta, crash: Option<Crash>, sleep: Option<Duration>) {
        self.started += 1;
        let name = format!("{service}-{}", self.started);
        let life = Life::new(Arc::clone(&self.shared), name.clone(), crash, sleep);
        let graph = self.graph(service);
        let below: Arc<dyn Cloud> = match &self.weak {
            Some(weak) => Arc::clone(weak) as Arc<dyn Cloud>,
            None => Arc::clone(self.cloud()) as Arc<dyn Cloud>,
        };
        let how = InProcess { life: Arc::clone(&life), shared: Arc::clone(&self.shared), tamper: self.tamper.clone() };
        let registry = Arc::new(rebuilt::registry(&(Arc::new(how) as Arc<dyn Rebuild>)));
        let context = Context {
            id: String::new(),
            naming: self.pipeline.naming.clone(),
            cloud: below,
            clock: clock(self.start, skew),
            worker: name.clone(),
            sole_process: false,
            streams: Common::default(),
            stop: CancellationToken::new(),
        };
        let starting = async {
            loop {
                // A process that can't start is started again, as ECS does.
                match Service::start(&graph, Arc::clone(&registry), context.clone()).await {
                    Ok(running) => return running,
                    Err(error) => tracing::debug!(%error, "A process couldn't start."),
                }
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        };
        // A process may die while it starts.
        let running = tokio::select! {
            biased;
            running = starting => running,
            () = died(&life) => {
                self.stillborn.push(service);
                return;
            }
        };
        self.processes.push(Process { name, service, life, running });
    }

    fn graph(&self, service: &str) -> Graph {
        match self.pipeline.services.get(service) {
            Some(ids) => self.pipeline.graph.subset(ids).unwrap(),
            None => self.pipeline.graph.clone(),
        }
    }

    /// The processes that haven't been ended.
    pub fn processes(&self) -> &[Process] {
        &self.processes
    }

    /// Ends a process: by SIGTERM, or by kill -9.
    pub async fn end(&mut self, index: usize, gently: bool) -> &'static str {
        let process = self.processes.remove(index);
        if !gently {
            process.life.set(Vital::Dead);
        }
        process.running.stop(if gently { Duration::from_secs(25) } else { Duration::ZERO }).await;
        process.life.set(Vital::Dead);
        process.service
    }

    /// Clears away processes that died by themselves; which services they ran.
    pub async fn bury(&mut self) -> Vec<&'static str> {
        let mut services = std::mem::take(&mut self.stillborn);
        while let Some(dead) = self.processes.iter().position(|process| process.life.vital() == Vital::Dead) {
            services.push(self.end(dead, false).await);
        }
        self.deaths += services.len();
        services
    }

    /// Waits until a process of this service has died as it was planned to, and clears it away.
    pub async fn until_dead(&mut self, service: &str) {
        for _ in 0..600 {
            tokio::time::sleep(Duration::from_secs(1)).await;
            if self.bury().await.contains(&service) {
                return;
            }
        }
        let files = self.shared.all_files().into_iter().map(|file| (file.file_key, file.status));
        let manifests = self.shared.all_manifests().into_iter().map(|manifest| (manifest.file_key, manifest.status));
        let shards = penstock_engine::streams::shards_of_process();
        let shards = shards.into_iter().map(|shard| (shard.shard, shard.state, shard.reason));
        panic!(
            "{service} didn't die: {:?} {:?} {:?}",
            files.collect::<Vec<_>>(),
            manifests.collect::<Vec<_>>(),
            shards.collect::<Vec<_>>()
        );
    }

    /// How many processes have died by themselves.
    pub fn deaths(&self) -> usize {
        self.deaths
    }

    /// Lands a version of an object; how many notifications of it are sent, each after such a delay.
    pub fn land(&mut self, key: &str, lines: &Lines, notifications: &[Duration]) {
        let (content, landed) = self.ledger.make(lines);
        let etag = self.put(key, content.into(), notifications);
        self.ledger.enter(key, etag, landed);
    }

    /// Puts an object and tells of it after each of these delays. Its etag.
    pub fn put(&mut self, key: &str, content: Bytes, notifications: &[Duration]) -> String {
        let size = content.len();
        let bucket = Arc::clone(self.cloud().memory_bucket("input"));
        let etag = bucket.write(key, content, BTreeMap::new());
        self.sequencer += 1;
        let body = json!({ "Records": [{
            "eventSource": "aws:s3",
            "eventTime": self.now().to_rfc3339(),
            "eventName": "ObjectCreated:Put",
            "s3": {
                "bucket": { "name": bucket.name() },
                "object": { "key": key, "size": size, "eTag": etag, "sequencer": format!("{:016X}", self.sequencer) },
            },
        }]});
        for delay in notifications {
            self.cloud().memory_queue("file-events").push(body.to_string(), *delay);
        }
        etag
    }

    /// Ends all processes and all faults, starts one of each service anew, and waits until nothing is left to do, for so
    /// long at most. What is wrong then, in words; the first few.
    pub async fn heal_and_check(&mut self, limit: Duration) -> Result<(), String> {
        *self.shared.faults.lock().unwrap() = witness::Faults::default();
        while !self.processes.is_empty() {
            self.end(0, false).await;
        }
        if let Some(weak) = &self.weak {
            weak.heal();
        }
        if let Some(stream) = self.cloud().memory_table(witness::TRACKING).stream() {
            stream.enable();
        }
        for service in ["engine", "worker"] {
            self.start(service, TimeDelta::zero(), None).await;
        }
        let deadline = Instant::now() + limit;
        loop {
            tokio::time::sleep(Duration::from_secs(5)).await;
            let wrong = self.wrong();
            let is_violated = !self.shared.violations.lock().unwrap().is_empty();
            if wrong.is_empty() || is_violated || Instant::now() >= deadline {
                return self.verdict(wrong);
            }
        }
    }

    /// What the ledger, the queues and the stream say is unfinished or wrong.
    pub fn wrong(&self) -> Vec<String> {
        let mut wrong = self.ledger.check(&self.shared);
        let shards = self.cloud().memory_table("leases").items();
        let item = |arn: &str, shard: &ShardId| {
            let is_it = |item: &&Item| text(item, "scope") == Some(arn) && text(item, "id") == Some(&shard.0);
            shards.iter().find(is_it)
        };
        let checkpoint = |arn: &str, shard: &ShardId| match item(arn, shard) {
            // It was read to its end.
            Some(item) if item.contains_key("ended") => Some(SequenceNumber(u128::MAX.to_string())),
            Some(item) => text(item, "checkpoint").map(|at| SequenceNumber(at.to_owned())),
            None => None,
        };
        if let Some(stream) = self.cloud().memory_table(witness::TRACKING).stream() {
            let behind = stream.lag(checkpoint).into_iter();
            wrong.extend(behind.map(|(shard, left)| format!("{left} changes of {shard} come after its checkpoint")));
        }
        for queue in ["file-events", "manifest-ready"] {
            let left = self.cloud().memory_queue(queue).len();
            if left > 0 {
                wrong.push(format!("{left} messages are left in {queue}"));
            }
        }
        wrong
    }

    fn verdict(&self, wrong: Vec<String>) -> Result<(), String> {
        let mut all = self.shared.violations.lock().unwrap().clone();
        let days = *self.shared.day_queries.lock().unwrap();
        if days > 0 {
            all.push(format!("{days} queries read a partition of the table, which is a whole day"));
        }
        all.extend(wrong);
        if all.is_empty() {
            return Ok(());
        }
        let first: Vec<&str> = all.iter().map(String::as_str).take(12).collect();
        Err(format!("{} things are wrong:\n  {}", all.len(), first.join("\n  ")))
    }
}

async fn died(life: &Arc<Life>) {
    while life.vital() != Vital::Dead {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn clock(start: (Instant, DateTime<Utc>), skew: TimeDelta) -> Clock {
    let (began, at) = start;
    Clock::from_fn(move || at + TimeDelta::from_std(Instant::now().duration_since(began)).unwrap_or_default() + skew)
}

/// How the operators of a process are built: the real ones, on the process's own way to the cloud.
struct InProcess {
    life: Arc<Life>,
    shared: Arc<Shared>,
    tamper: Option<Tamper>,
}

#[async_trait]
impl Rebuild for InProcess {
    async fn rebuild(
        &self,
        real: &dyn OperatorType,
        options: &Value,
        mut context: Context,
    ) -> Result<Built, OperatorError> {
        let witness = Arc::clone(&self.life) as Arc<dyn penstock_engine::cloud::tap::Witness>;
        context.cloud = Arc::new(TappedCloud::new(context.cloud, real.name(), witness));
        if let Some(tamper) = &self.tamper {
            context.cloud = tamper(real.name(), context.cloud, &self.shared);
        }
        if real.name() == "convert" {
            let options: AttemptOptions = serde_json::from_value(options.clone()).unwrap();
            return options.build_with(context, Arc::new(LineConverter)).await;
        }
        real.build(options, context).await
    }
}

/// The cloud as weak as its contract allows, until it is healed. Its tables are made once: what makes a past must be the
/// same for all. Whatever else is opened has dice of its own each time, so that what failed once may work the next time.
struct WeakCloud {
    strong: Arc<MemoryCloud>,
    weakness: Weakness,
    seeds: Mutex<StdRng>,
    tables: Mutex<BTreeMap<String, Arc<dyn Table>>>,
    healed: Mutex<bool>,
}

impl WeakCloud {
    fn new(strong: Arc<MemoryCloud>, weakness: Weakness, seed: u64) -> Self {
        let seeds = Mutex::new(StdRng::seed_from_u64(seed));
        Self { strong, weakness, seeds, tables: Mutex::default(), healed: Mutex::new(false) }
    }

    fn heal(&self) {
        *self.healed.lock().unwrap() = true;
    }

    fn is_healed(&self) -> bool {
        *self.healed.lock().unwrap()
    }

    fn seed(&self) -> u64 {
        self.seeds.lock().unwrap().random()
    }
}

#[async_trait]
impl Cloud for WeakCloud {
    async fn table(&self, name: &str) -> CloudResult<Arc<dyn Table>> {
        let strong = self.strong.table(name).await?;
        if self.is_healed() {
            return Ok(strong);
        }
        let indexes = self.strong.memory_table(name).indexes().clone();
        let mut tables = self.tables.lock().unwrap();
        let weak = tables
            .entry(name.to_owned())
            .or_insert_with(|| Arc::new(WeakTable::new(strong, indexes, self.weakness, self.seed())));
        Ok(Arc::clone(weak))
    }

    async fn change_stream(&self, table: &str) -> CloudResult<Arc<dyn ChangeStream>> {
        let strong = self.strong.change_stream(table).await?;
        if self.is_healed() {
            Ok(strong)
        } else {
            Ok(Arc::new(WeakChangeStream::new(strong, self.weakness, self.seed())))
        }
    }

    async fn queue(&self, name: &str) -> CloudResult<Arc<dyn Queue>> {
        let strong = self.strong.queue(name).await?;
        if self.is_healed() { Ok(strong) } else { Ok(Arc::new(WeakQueue::new(strong, self.weakness, self.seed()))) }
    }

    async fn event_bus(&self, name: &str) -> CloudResult<Arc<dyn EventBus>> {
        let strong = self.strong.event_bus(name).await?;
        if self.is_healed() { Ok(strong) } else { Ok(Arc::new(WeakEventBus::new(strong, self.weakness, self.seed()))) }
    }

    async fn bucket(&self, name: &str) -> CloudResult<Bucket> {
        let strong = self.strong.bucket(name).await?;
        if self.is_healed() {
            return Ok(strong);
        }
        let stage = Arc::new(WeakStage::new(strong.stage, self.weakness, self.seed()));
        Ok(Bucket { name: strong.name, store: strong.store, stage })
    }
}

//! What the scenarios share: a stream, a table of leases, workers, and a log of what was handed to whom.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{sync::mpsc, task::JoinHandle, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    ack::{Ack, Verdict},
    cloud::change_stream::{Change, ShardId},
    health::{Facts, Phase, Readiness, readiness},
    leases::{LeaseOptions, Leases},
    simulation::{FakeQueue, FakeStream, FakeTable, Network, value_of},
    streams::{ChangeStreamOptions, Common, Consumer, ShardStatus, shard_item::ShardItem},
    telemetry::exposition,
    time::Clock,
};

pub const LENGTH: Duration = Duration::from_secs(10);

/// A change that was handed to a worker.
#[derive(Debug, Clone)]
pub struct Seen {
    pub worker: String,
    pub key: String,
    pub value: u64,
    pub at: Instant,
}

/// What a worker does with a change.
pub type Handler = Arc<dyn Fn(&Change, Ack) + Send + Sync>;

pub struct Bed {
    pub stream: FakeStream,
    pub table: FakeTable,
    pub queue: FakeQueue,
    started: Instant,
    pub log: Arc<Mutex<Vec<Seen>>>,
}

pub struct Worker {
    pub consumer: Consumer,
    pub common: Common,
    pub network: Network,
    stop: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
}

pub fn done() -> Handler {
    Arc::new(|_, ack| ack.settle(Verdict::Done))
}

pub fn options() -> ChangeStreamOptions {
    ChangeStreamOptions::new("t")
}

pub async fn secs(secs: u64) {
    tokio::time::sleep(Duration::from_secs(secs)).await;
}

impl Bed {
    pub fn new() -> Self {
        Self::of(FakeStream::new())
    }

    pub fn of(stream: FakeStream) -> Self {
        let table = FakeTable::new();
        Self { stream, table, queue: FakeQueue::default(), started: Instant::now(), log: Arc::default() }
    }

    pub fn worker(&self, name: &str, options: ChangeStreamOptions, handler: Handler) -> Worker {
        let (table, network) = self.table.host();
        let leases = Leases::new(table, name, LeaseOptions { length: LENGTH, sole_process: false });
        let started = self.started;
        let clock = Clock::from_fn(move || {
            let secs = 1_770_000_000 + started.elapsed().as_secs() as i64;
            chrono::DateTime::from_timestamp(secs, 0).unwrap()
        });
        let dead_letters = options.dead_letter.is_some();
        let mut builder = Consumer::builder(Arc::new(self.stream.clone()), leases, options).clock(clock);
        // Each is a process of its own.
        let common = Common::default();
        builder = builder.common(common.clone());
        if dead_letters {
            builder = builder.dead_letter(Arc::new(self.queue.clone()));
        }
        let consumer = builder.build().unwrap();
        let (sender, mut pages) = mpsc::channel(1);
        let (stop, log, name) = (CancellationToken::new(), Arc::clone(&self.log), name.to_owned());
        let run = tokio::spawn({
            let (consumer, stop) = (consumer.clone(), stop.clone());
            async move { consumer.run(sender, stop).await }
        });
        let handle = tokio::spawn(async move {
            while let Some(page) = pages.recv().await {
                for delivery in page {
                    let change = &delivery.change;
                    let (key, value) = (change.key.partition.clone(), value_of(change));
                    log.lock().unwrap().push(Seen { worker: name.clone(), key, value, at: Instant::now() });
                    handler(change, delivery.ack);
                }
            }
        });
        Worker { consumer, common, network, stop, tasks: vec![run, handle] }
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.log.lock().unwrap().clone()
    }

    /// Every value that was handed on, in order, with repetitions.
    pub fn values(&self) -> Vec<u64> {
        self.seen().iter().map(|seen| seen.value).collect()
    }

    pub fn item(&self, shard: &ShardId) -> Option<ShardItem> {
        let arn = self.stream.arn();
        let item = self.table.item(&arn, &shard.0)?;
        Some(ShardItem::decode(&arn, &shard.0, &item).unwrap())
    }

    /// Puts values, spread over so many keys.
    pub fn put(&self, values: std::ops::Range<u64>, keys: u64) {
        for value in values {
            self.stream.put(&format!("key-{}", value % keys), value);
        }
    }

    /// Each value at least once, and of each key the first sight of every change in the order of the changes.
    pub fn check_order(&self, values: std::ops::Range<u64>) {
        let mut all = BTreeSet::new();
        let mut newest: BTreeMap<String, u64> = BTreeMap::new();
        for seen in self.seen() {
            if all.insert(seen.value) {
                let before = newest.insert(seen.key.clone(), seen.value);
                assert!(before.is_none_or(|before| before < seen.value), "{seen:?} came after {before:?}");
            }
        }
        let missing: Vec<_> = values.filter(|value| !all.contains(value)).collect();
        assert!(missing.is_empty(), "never handed on: {missing:?}");
    }
}

impl Worker {
    /// Stops in order; returns how long that took.
    pub async fn stop(self) -> Duration {
        let began = Instant::now();
        self.stop.cancel();
        for task in self.tasks {
            task.await.unwrap();
        }
        began.elapsed()
    }

    pub fn begin_stop(&self) {
        self.stop.cancel();
    }

    /// Dies without a word.
    pub async fn crash(self) {
        self.network.set_down(true);
        self.tasks.iter().for_each(JoinHandle::abort);
        for task in self.tasks {
            // Cut off, at its end already, or fallen by its own handler: all the same to a crash.
            drop(task.await);
        }
    }

    pub fn status(&self, shard: &ShardId) -> ShardStatus {
        self.consumer.status().into_iter().find(|status| status.shard == *shard).unwrap()
    }

    /// Whether a process that does no more than this is ready, and why not.
    pub fn readiness(&self) -> Readiness {
        readiness(&Facts {
            phase: Phase::Running,
            operators: BTreeMap::new(),
            shards: self.consumer.status(),
            breakers: BTreeMap::new(),
            now: chrono::DateTime::UNIX_EPOCH,
        })
    }

    pub fn owned(&self) -> usize {
        self.consumer.status().iter().filter(|status| status.still_for_secs.is_some()).count()
    }
}

/// The sum of a metric over its labels, in what a recorder shows.
pub fn metric(shown: &str, name: &str) -> Option<f64> {
    let samples = exposition::parse(shown).into_iter().filter(|sample| sample.name == name);
    samples.map(|sample| sample.value).reduce(|all, one| all + one)
}

/// Keeps acks instead of settling them, until it is opened.
#[derive(Clone, Default)]
pub struct Gate {
    kept: Arc<Mutex<Vec<Ack>>>,
    open: Arc<AtomicBool>,
}

impl Gate {
    pub fn handler(&self) -> Handler {
        let gate = self.clone();
        Arc::new(move |_: &Change, ack: Ack| {
            if gate.open.load(Ordering::SeqCst) {
                ack.settle(Verdict::Done);
            } else {
                gate.kept.lock().unwrap().push(ack);
            }
        })
    }

    pub fn open(&self) {
        self.open.store(true, Ordering::SeqCst);
        self.kept.lock().unwrap().drain(..).for_each(|ack| ack.settle(Verdict::Done));
    }
}

/// Gives a bad verdict on one value, the first `times` times.
pub fn failing(value: u64, times: usize, verdict: Verdict) -> (Handler, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let handler = {
        let count = Arc::clone(&count);
        move |change: &Change, ack: Ack| {
            let fails = value_of(change) == value && count.fetch_add(1, Ordering::SeqCst) < times;
            ack.settle(if fails { verdict.clone() } else { Verdict::Done });
        }
    };
    (Arc::new(handler), count)
}

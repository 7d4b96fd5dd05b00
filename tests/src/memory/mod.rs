//! A cloud in memory, on tokio's clock: for simulations with paused time, where a day takes a second.
//!
//! It keeps the seam's contract in its strong form, like the local cloud; the decorators of the engine make it weak. Unlike
//! the local cloud it has no threads, so that paused time stands still while it works. What only a test does (split a
//! shard, trim a stream, let items expire) are methods of its own.

mod bucket;
mod queue;
mod stream;
mod table;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use penstock_engine::{
    cloud::{
        Bucket, ChangeStream, Cloud, CloudError, ErrorKind, EventBus, Queue, Result, Table,
        pattern::Pattern,
        resources::{Naming, Resources, TargetSpec},
    },
    time::Clock,
};

use self::queue::{MemoryBus, Rule};
pub use self::{bucket::MemoryBucket, queue::MemoryQueue, stream::MemoryStream, table::MemoryTable};

/// The resources of a pipeline, in memory.
pub struct MemoryCloud {
    tables: BTreeMap<String, Arc<MemoryTable>>,
    queues: BTreeMap<String, Arc<MemoryQueue>>,
    buses: BTreeMap<String, Arc<MemoryBus>>,
    buckets: BTreeMap<String, Arc<MemoryBucket>>,
}

impl MemoryCloud {
    /// An empty cloud with these resources. Streams begin with so many shards.
    pub fn new(naming: &Naming, resources: &Resources, clock: &Clock, shards: usize) -> Arc<Self> {
        let tables = resources.tables.iter().map(|(name, spec)| {
            let stream = spec.stream.then(|| Arc::new(MemoryStream::new(&naming.name(name), clock.clone(), shards)));
            (name.clone(), Arc::new(MemoryTable::new(naming.name(name), spec, stream)))
        });
        let mut queues: BTreeMap<String, Arc<MemoryQueue>> = BTreeMap::new();
        let spec = resources.queues.iter();
        for (name, spec) in spec.clone().filter(|(_, spec)| spec.dead_letter.is_none()) {
            queues.insert(name.clone(), Arc::new(MemoryQueue::new(naming.name(name), spec, None, clock.clone())));
        }
        for (name, spec) in spec.filter(|(_, spec)| spec.dead_letter.is_some()) {
            let dead = spec.dead_letter.as_ref().map(|dead| (Arc::clone(&queues[&dead.queue]), dead.max_receives));
            queues.insert(name.clone(), Arc::new(MemoryQueue::new(naming.name(name), spec, dead, clock.clone())));
        }
        let buses = resources.buses.iter().map(|(name, spec)| {
            let rules = spec.rules.values().map(|rule| Rule {
                pattern: Pattern::parse(&rule.pattern).unwrap(),
                queues: rule
                    .targets
                    .iter()
                    .filter_map(|target| match target {
                        TargetSpec::Queue(queue) => Some(Arc::clone(&queues[queue])),
                        _ => None,
                    })
                    .collect(),
            });
            (name.clone(), Arc::new(MemoryBus::new(naming.name(name), rules.collect())))
        });
        let buckets = resources.buckets.keys();
        let buckets =
            buckets.map(|name| (name.clone(), Arc::new(MemoryBucket::new(naming.bucket(name), clock.clone()))));
        Arc::new(Self { tables: tables.collect(), buses: buses.collect(), buckets: buckets.collect(), queues })
    }

    /// A table, with what only a test may do to it.
    pub fn memory_table(&self, name: &str) -> &Arc<MemoryTable> {
        &self.tables[name]
    }

    /// A queue.
    pub fn memory_queue(&self, name: &str) -> &Arc<MemoryQueue> {
        &self.queues[name]
    }

    /// A bucket.
    pub fn memory_bucket(&self, name: &str) -> &Arc<MemoryBucket> {
        &self.buckets[name]
    }

    /// All queues, by name.
    pub fn memory_queues(&self) -> impl Iterator<Item = (&String, &Arc<MemoryQueue>)> {
        self.queues.iter()
    }

    /// What was put on a bus, by the type of event.
    pub fn events(&self, bus: &str) -> BTreeMap<String, u64> {
        self.buses[bus].counts()
    }
}

#[async_trait]
impl Cloud for MemoryCloud {
    async fn table(&self, name: &str) -> Result<Arc<dyn Table>> {
        Ok(declared(&self.tables, name)?)
    }

    async fn change_stream(&self, table: &str) -> Result<Arc<dyn ChangeStream>> {
        let stream = declared(&self.tables, table)?.stream().cloned();
        Ok(stream.ok_or_else(|| CloudError::new(ErrorKind::NotFound, format!("stream of {table}"), "it has none"))?)
    }

    async fn queue(&self, name: &str) -> Result<Arc<dyn Queue>> {
        Ok(declared(&self.queues, name)?)
    }

    async fn event_bus(&self, name: &str) -> Result<Arc<dyn EventBus>> {
        Ok(declared(&self.buses, name)?)
    }

    async fn bucket(&self, name: &str) -> Result<Bucket> {
        let bucket = declared(&self.buckets, name)?;
        Ok(Bucket { name: bucket.name().to_owned(), store: bucket.clone(), stage: bucket })
    }
}

fn declared<T>(all: &BTreeMap<String, Arc<T>>, name: &str) -> Result<Arc<T>> {
    let found = all.get(name).map(Arc::clone);
    found.ok_or_else(|| CloudError::new(ErrorKind::NotFound, format!("use of {name}"), "it is not declared"))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

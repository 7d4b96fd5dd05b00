//! The local cloud: everything that the seam asks for, on one machine, with no account.
//!
//! One SQLite file in a folder holds the tables, their change streams and the queues; a folder for each bucket lies
//! beside it. One process owns the folder; others may read. What was answered survives a kill and a power cut. It keeps
//! the semantics of AWS: conditional writes with three outcomes, shards that roll over, split and trim, iterators that
//! expire, visibility and dead letters, event patterns, expiry; time comes from a [`Clock`], so that tests can move it.

pub mod bucket;
mod bus;
mod control;
mod db;
mod definition;
pub mod folder_watch;
mod items;
mod log;
mod owner;
mod queue;
mod reaper;
mod stream;
mod table;
mod value;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use tokio::sync::{Notify, OnceCell, futures::Notified, watch};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use self::{
    bucket::{FolderBucket, RecentEtags},
    bus::{BusDef, LocalBus},
    db::Db,
    definition::{QueueDef, TableDef},
    folder_watch::{SqliteLedger, Watch, WatchHandle},
    log::Log,
    owner::Lock,
    queue::LocalQueue,
    stream::LocalStream,
    table::LocalTable,
};
pub use self::{
    control::Trim,
    owner::{Owner, owner_now, read_owner},
    queue::PeekedMessage,
};
use super::{
    Bucket, ChangeStream, Cloud, CloudError, ErrorKind, EventBus, Queue, Result, Table,
    resources::{Naming, NotifySpec, Resources},
};
use crate::time::Clock;

/// How a local cloud behaves.
#[derive(Debug, Clone)]
pub struct LocalOptions {
    /// The time: for visibility, retention, expiry and iterators.
    pub clock: Clock,
    /// Shards of a new change stream.
    pub shards: u32,
    /// A shard rolls over after so long.
    pub shard_age: Duration,
    /// A shard rolls over after so many records, if at all.
    pub shard_records: Option<u64>,
    /// How long a change stream keeps its records.
    pub stream_retention: Duration,
    /// How often expired items, old messages and old changes are removed.
    pub reap_interval: Duration,
}

impl Default for LocalOptions {
    fn default() -> Self {
        Self {
            clock: Clock::system(),
            shards: 4,
            shard_age: Duration::from_secs(4 * 3600),
            shard_records: None,
            stream_retention: Duration::from_secs(24 * 3600),
            reap_interval: Duration::from_secs(30),
        }
    }
}

/// The database's file in the folder.
const FILE: &str = "penstock.db";

/// What all handles of one local cloud share; its folder is free once the last of them is dropped.
struct Store {
    dir: PathBuf,
    db: Db,
    log: Arc<Log>,
    signals: Arc<Signals>,
    _lock: Option<Lock>,
}

impl Store {
    fn now_ms(&self) -> i64 {
        self.log.now_ms()
    }
}

/// Who waits, and for what. Only within this process.
struct Signals {
    changed: watch::Sender<u64>,
    queues: BTreeMap<i64, Notify>,
    /// For a queue that is no longer declared, where nobody waits.
    no_queue: Notify,
}

impl Signals {
    fn changed(&self, seq: Option<i64>) {
        let Some(seq) = seq.and_then(|seq| u64::try_from(seq).ok()) else { return };
        self.changed.send_if_modified(|newest| {
            let newer = seq > *newest;
            *newest = seq.max(*newest);
            newer
        });
    }

    fn wake(&self, queue_id: i64) {
        self.queues.get(&queue_id).unwrap_or(&self.no_queue).notify_waiters();
    }

    fn waiter(&self, queue_id: i64) -> Notified<'_> {
        self.queues.get(&queue_id).unwrap_or(&self.no_queue).notified()
    }
}

/// A bucket: its full name, and where its new objects are announced.
struct BucketDef {
    name: String,
    notify: Option<NotifySpec>,
    folder: OnceCell<FolderBucket>,
}

/// A cloud in a folder.
pub struct LocalCloud {
    store: Arc<Store>,
    tables: BTreeMap<String, Arc<TableDef>>,
    queues: BTreeMap<String, Arc<QueueDef>>,
    buses: BTreeMap<String, Arc<BusDef>>,
    buckets: BTreeMap<String, BucketDef>,
    reaper: Option<AbortOnDropHandle<()>>,
}

impl LocalCloud {
    /// Opens the cloud in `dir` and makes what `resources` declares; all of it may be there already.
    ///
    /// The process owns the folder from then on: a second opening is refused and told who has it. Must be called within
    /// a tokio runtime, which carries the task that removes what has expired; the task ends with the cloud.
    pub fn open(dir: &Path, naming: Naming, resources: &Resources, options: LocalOptions) -> Result<Arc<Self>> {
        std::fs::create_dir_all(dir).map_err(|error| {
            CloudError::new(ErrorKind::Unavailable, format!("making of folder {}", dir.display()), error.to_string())
                .with_source(error)
        })?;
        let lock = Lock::take(dir, &options.clock)?;
        let reap_interval = options.reap_interval;
        let log = Log { options, account: naming.account.clone() };
        let (db, (tables, queues)) = Db::open(&dir.join(FILE), |connection| {
            definition::make_schema(connection)?;
            let tables = definition::make_tables(connection, &naming, resources, &log)?;
            let queues = definition::make_queues(connection, &naming, resources)?;
            queue::give_back_all(connection, log.now_ms())?;
            Ok((tables, queues))
        })?;
        let mut cloud = Self::build(dir, (db, log, Some(lock)), naming, resources, (tables, queues))?;
        cloud.reaper = Some(reaper::spawn(&cloud, reap_interval));
        Ok(Arc::new(cloud))
    }

    /// Opens the cloud in `dir` for looking only, beside the process that owns it, if one does. Writes are refused.
    pub async fn open_read_only(dir: &Path, naming: Naming, resources: &Resources) -> Result<Arc<Self>> {
        let path = dir.join(FILE);
        if !path.exists() {
            let message = "there is no local cloud yet: start the pipeline here once";
            return Err(CloudError::new(ErrorKind::NotFound, format!("open of {}", dir.display()), message));
        }
        let db = Db::open_read_only(&path)?;
        let (names, declared) = (naming.clone(), resources.clone());
        let found = db
            .read("open", move |connection| {
                let tables = definition::find_tables(connection, &names, &declared)?;
                Ok((tables, definition::find_queues(connection, &names, &declared)?))
            })
            .await?;
        let log = Log { options: LocalOptions::default(), account: naming.account.clone() };
        Ok(Arc::new(Self::build(dir, (db, log, None), naming, resources, found)?))
    }

    fn build(
        dir: &Path,
        (db, log, lock): (Db, Log, Option<Lock>),
        naming: Naming,
        resources: &Resources,
        (tables, queues): (BTreeMap<String, TableDef>, BTreeMap<String, QueueDef>),
    ) -> Result<Self> {
        let queues: BTreeMap<_, _> = queues.into_iter().map(|(name, def)| (name, Arc::new(def))).collect();
        let signals = Signals {
            changed: watch::Sender::new(0),
            queues: queues.values().map(|def| (def.id, Notify::new())).collect(),
            no_queue: Notify::new(),
        };
        let store = Store { dir: dir.to_owned(), db, log: Arc::new(log), signals: Arc::new(signals), _lock: lock };
        Ok(Self {
            store: Arc::new(store),
            tables: tables.into_iter().map(|(name, def)| (name, Arc::new(def))).collect(),
            buses: bus::make_buses(dir, &naming, resources, &queues)?,
            queues,
            buckets: resources
                .buckets
                .iter()
                .map(|(name, spec)| {
                    let def =
                        BucketDef { name: naming.bucket(name), notify: spec.notify.clone(), folder: OnceCell::new() };
                    (name.clone(), def)
                })
                .collect(),
            reaper: None,
        })
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.store.dir
    }

    /// Tells the number of the newest change of any table, so that readers in this process need not poll: wait for it
    /// to change, then read. It starts at 0 when the cloud is opened; what it tells is durable.
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.store.signals.changed.subscribe()
    }

    /// Watches the folders of the buckets that announce new objects: files that are copied in land by themselves.
    pub async fn watch(&self, cancellation: &CancellationToken) -> Result<Vec<WatchHandle>> {
        let mut watches = Vec::new();
        for def in self.buckets.values() {
            let Some(notify) = &def.notify else { continue };
            let ledger = SqliteLedger::new(self.store.db.clone(), &def.name);
            let (bucket, queue) = (self.folder(def).await?, self.queue(&notify.queue).await?);
            let clock = self.store.log.options.clock.clone();
            watches.push(Watch::start(bucket, &notify.prefix, queue, Arc::new(ledger), clock, cancellation));
        }
        Ok(watches)
    }

    /// A bucket's folder: `s3/{full name}` in [`dir`](Self::dir).
    pub fn bucket_dir(&self, name: &str) -> Result<PathBuf> {
        Ok(self.store.dir.join("s3").join(&declared("bucket", &self.buckets, name)?.name))
    }

    /// One handle for all: its memory of etags is shared by the watch and by whoever reads.
    async fn folder(&self, def: &BucketDef) -> Result<FolderBucket> {
        let root = self.store.dir.join("s3").join(&def.name);
        let name = def.name.clone();
        let opened = def.folder.get_or_try_init(|| async move {
            tokio::task::spawn_blocking(move || FolderBucket::at(&root, &name, Arc::<RecentEtags>::default()))
                .await
                .map_err(|error| CloudError::new(ErrorKind::Unavailable, "open of a bucket", error.to_string()))?
        });
        Ok(opened.await?.clone())
    }
}

#[async_trait]
impl Cloud for LocalCloud {
    async fn table(&self, name: &str) -> Result<Arc<dyn Table>> {
        let def = Arc::clone(declared("table", &self.tables, name)?);
        Ok(Arc::new(LocalTable { store: Arc::clone(&self.store), def }))
    }

    async fn change_stream(&self, table: &str) -> Result<Arc<dyn ChangeStream>> {
        let def = Arc::clone(declared("table", &self.tables, table)?);
        Ok(Arc::new(LocalStream { store: Arc::clone(&self.store), def }))
    }

    async fn queue(&self, name: &str) -> Result<Arc<dyn Queue>> {
        let def = Arc::clone(declared("queue", &self.queues, name)?);
        Ok(Arc::new(LocalQueue { store: Arc::clone(&self.store), def }))
    }

    async fn event_bus(&self, name: &str) -> Result<Arc<dyn EventBus>> {
        let def = Arc::clone(declared("bus", &self.buses, name)?);
        Ok(Arc::new(LocalBus { store: Arc::clone(&self.store), def }))
    }

    async fn bucket(&self, name: &str) -> Result<Bucket> {
        Ok(self.folder(declared("bucket", &self.buckets, name)?).await?.into())
    }
}

/// What is declared under a name; or an error that tells the nearest name and all others.
fn declared<'a, T>(kind: &str, all: &'a BTreeMap<String, T>, name: &str) -> Result<&'a T> {
    all.get(name).ok_or_else(|| {
        let near = all.keys().max_by(|a, b| strsim::jaro_winkler(a, name).total_cmp(&strsim::jaro_winkler(b, name)));
        let names: Vec<&str> = all.keys().map(String::as_str).collect();
        let message = match near {
            Some(near) => format!("it is not declared; did you mean {near}? Declared: {}", names.join(", ")),
            None => format!("no {kind} is declared"),
        };
        CloudError::new(ErrorKind::NotFound, format!("use of {kind} {name}"), message)
    })
}

#[cfg(test)]
mod tests;

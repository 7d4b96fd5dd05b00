//! `fold`: turns pending files into manifests when a threshold is hit.
//!
//! It holds no record back: its memory is a view of the table, fed by changes and by readings of the index, and may be
//! lost at any time. What it decides is pure ([`view`]); how a manifest comes to be is
//! [`protocol`], by pure [`writes`].

mod events;
pub mod protocol;
pub mod request;
pub mod view;
pub mod writes;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use async_trait::async_trait;
use chrono::{DateTime, TimeDelta};
use penstock_engine::{
    cloud::{
        Item,
        table::{Key, Query, query_all},
    },
    graph::{Access, Build, Built, Role, Use},
    leases::Leases,
    operator::{Command, Context, Kind, Operator, OperatorError, Outputs, Record},
    streams::Common,
    time::Clock,
    units,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::{
    events::ItemUnreadable,
    model::{FileItem, FileState, ManifestItem, ManifestState, SHARDS, STATUS_INDEX, attribute, read_item},
    record::{entered, read_change},
    track::default_ttl_days,
};
use events::{FlushFailed, RequestHeeded, ResumeFailed};
use protocol::{Assembled, Assembler};
use request::FlushRequest;
use view::{Flush, View};

/// Options of `fold`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FoldOptions {
    /// The tracking table.
    pub table: String,
    /// The table of leases.
    pub leases: String,
    /// The bucket of manifests.
    pub manifests: String,
    /// The prefix of their keys.
    #[serde(default = "default_manifests_prefix")]
    pub manifests_prefix: String,
    /// A manifest is closed at so many files.
    #[serde(default = "FoldOptions::default_max_files")]
    pub max_files: usize,
    /// A manifest is closed at so many stored bytes.
    #[serde(with = "units::size", default = "FoldOptions::default_max_bytes")]
    #[schemars(with = "String")]
    pub max_bytes: u64,
    /// A manifest is closed when its oldest file has waited so long.
    #[serde(with = "units::duration", default = "FoldOptions::default_max_age")]
    #[schemars(with = "String")]
    pub max_age: Duration,
    /// How often the index is read.
    #[serde(with = "units::duration", default = "FoldOptions::default_reconcile")]
    #[schemars(with = "String")]
    pub reconcile: Duration,
    /// How long a lease lives without a renewal.
    #[serde(with = "units::duration", default = "default_lease")]
    #[schemars(with = "String")]
    pub lease: Duration,
    /// Days after which the item of an abandoned manifest may vanish.
    #[serde(default = "default_ttl_days")]
    pub ttl_days: u32,
}

/// The prefix of manifests.
pub fn default_manifests_prefix() -> String {
    "manifests/".to_owned()
}

/// The length of leases.
pub fn default_lease() -> Duration {
    Duration::from_secs(10)
}

impl FoldOptions {
    fn default_max_files() -> usize {
        200
    }

    fn default_max_bytes() -> u64 {
        1 << 30
    }

    fn default_max_age() -> Duration {
        Duration::from_secs(300)
    }

    fn default_reconcile() -> Duration {
        Duration::from_secs(60)
    }

    fn thresholds(&self, sole_process: bool) -> Thresholds {
        Thresholds {
            max_files: self.max_files,
            max_bytes: self.max_bytes,
            max_age: self.max_age,
            grace: if sole_process { Duration::ZERO } else { self.reconcile },
            max_candidate_bytes: 256 * 1024,
        }
    }
}

/// When a manifest is closed.
#[derive(Debug, Clone, PartialEq)]
pub struct Thresholds {
    /// At so many files.
    pub max_files: usize,
    /// At so many stored bytes.
    pub max_bytes: u64,
    /// When the oldest has waited so long.
    pub max_age: Duration,
    /// How long another process's files are left to it; zero where there is no other process.
    pub grace: Duration,
    /// At so many bytes of candidates in the item.
    pub max_candidate_bytes: usize,
}

#[async_trait]
impl Build for FoldOptions {
    const NAME: &'static str = "fold";
    const ABOUT: &'static str = "Turns pending files of a date into manifests when a threshold is hit.";
    const ROLE: Role = Role::Sink;

    fn input() -> Option<Kind> {
        Some(Kind::Change)
    }

    fn uses(&self) -> Vec<Use> {
        vec![
            Use::shared("table", &self.table, &[Access::Get, Access::QueryIndex, Access::Put, Access::Update]),
            Use::shared("table", &self.leases, Leases::ACCESS),
            Use::shared("bucket", &self.manifests, &[Access::Get, Access::Put]).below(&self.manifests_prefix),
        ]
    }

    fn check(&self) -> Result<(), String> {
        for (name, is_zero) in [
            ("max_files", self.max_files == 0),
            ("max_bytes", self.max_bytes == 0),
            ("reconcile", self.reconcile.is_zero()),
            ("lease", self.lease.is_zero()),
        ] {
            if is_zero {
                return Err(format!("{name}: must be above zero"));
            }
        }
        Ok(())
    }

    async fn build(self, context: Context) -> Result<Built, OperatorError> {
        let assembler = Assembler {
            table: context.cloud.table(&self.table).await?,
            manifests: context.cloud.bucket(&self.manifests).await?,
            manifests_prefix: self.manifests_prefix.clone(),
            leases: context.leases(&self.leases, self.lease).await?,
            ttl: TimeDelta::days(i64::from(self.ttl_days)),
            clock: context.clock.clone(),
        };
        Ok(Built::Operator(Box::new(Fold {
            assembler,
            thresholds: self.thresholds(context.sole_process),
            reconcile: self.reconcile,
            gaps: context.streams.gaps(&self.table),
            streams: context.streams,
            tracked: self.table,
            clock: context.clock,
            view: View::default(),
            started: Instant::now(),
            read_at: None,
            batch: 0,
            requests: BTreeMap::new(),
        })))
    }
}

/// How long the view's clock has run when a process starts: longer than any file is pending.
const BEFORE_START: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

/// What the claims of a manifest found: those that were claimed, and the others with what is true of them.
type Claimed = (Vec<FileItem>, Vec<(Key, Option<FileItem>)>);

struct Fold {
    assembler: Assembler,
    thresholds: Thresholds,
    reconcile: Duration,
    /// The table whose changes it sees, and how many gaps in them it knows of.
    tracked: String,
    gaps: u64,
    streams: Common,
    clock: Clock,
    view: View,
    started: Instant,
    read_at: Option<Instant>,
    batch: u32,
    requests: BTreeMap<String, Heeded>,
}

/// A request to flush a date that isn't answered yet.
struct Heeded {
    request: FlushRequest,
    /// Whether the view was asked: after a reading of the index.
    asked: bool,
    manifests: Vec<String>,
}

#[async_trait]
impl Operator for Fold {
    async fn on_record(&mut self, record: &Record, _out: &mut Outputs) -> Result<(), OperatorError> {
        let change = read_change(record)?;
        if change.key.partition == request::PARTITION {
            if let Some(item) = entered(change, request::REQUESTED) {
                self.heed(read_item("flush request", item)?);
            }
            return Ok(());
        }
        if !FileItem::is_file_key(&change.key) {
            return Ok(());
        }
        let image = change.new.as_ref().map(|item| read_item("file", item)).transpose()?;
        self.view.on_change(&change.key, image, self.now());
        Ok(())
    }

    async fn on_batch(&mut self, records: &[Record], out: &mut Outputs) -> Vec<(usize, OperatorError)> {
        let mut failures = Vec::new();
        for (index, record) in records.iter().enumerate() {
            if let Err(error) = self.on_record(record, out).await {
                failures.push((index, error));
            }
        }
        // The view has taken the records: a flush that fails now is tried again at the next tick.
        if let Err(error) = self.flush_asked_and_due().await {
            FlushFailed { error: &error }.emit();
        }
        failures
    }

    fn tick_interval(&self) -> Option<Duration> {
        Some((self.thresholds.max_age / 4).clamp(Duration::from_millis(50), Duration::from_secs(1)))
    }

    async fn on_tick(&mut self, _out: &mut Outputs) -> Result<(), OperatorError> {
        // Changes were lost to the stream's retention, or came before a shard was opened at its latest record: the index has
        // what they told. So whenever that iterator stood, a whole reading follows it.
        let gaps = self.streams.gaps(&self.tracked);
        if gaps != self.gaps || self.read_at.is_none_or(|at| at.elapsed() >= self.reconcile) {
            self.read_index().await?;
            self.gaps = gaps;
            self.read_at = Some(Instant::now());
        }
        self.flush_asked_and_due().await?;
        let pending = self.view.pending(self.now());
        metrics::gauge!("penstock_pending_files").set(self.view.len() as f64);
        let oldest = pending.values().map(|pending| pending.oldest_secs).max().unwrap_or_default();
        metrics::gauge!("penstock_pending_oldest_seconds").set(oldest as f64);
        Ok(())
    }

    async fn on_command(&mut self, command: &Command) -> Result<Value, OperatorError> {
        match command.name.as_str() {
            "pending" => Ok(json!(self.view.pending(self.now()))),
            "flush" => {
                self.read_index().await?;
                let date = command.arguments.get("date").and_then(Value::as_str);
                let dates: Vec<String> = match date {
                    Some(date) => vec![date.to_owned()],
                    None => self.view.pending(self.now()).into_keys().collect(),
                };
                let mut manifests = Vec::new();
                for date in dates {
                    while let Some(flush) = self.view.manual(&date, &self.thresholds, self.now()) {
                        match self.flush(flush).await? {
                            Some(manifest_id) => manifests.push(manifest_id),
                            None => break,
                        }
                    }
                }
                Ok(json!({ "manifests": manifests }))
            }
            other => Err(OperatorError::permanent(format!("fold has no command `{other}`; it has: flush, pending"))),
        }
    }
}

impl Fold {
    /// The view's time. It begins long before the process, so that what was pending before has its true age: a file would
    /// wait for ever if each restart made it young again.
    fn now(&self) -> Duration {
        BEFORE_START + self.started.elapsed()
    }

    /// Takes a person's request. It is answered once what is pending now is in manifests.
    fn heed(&mut self, request: FlushRequest) {
        let is_known = self.requests.get(&request.date).is_some_and(|known| known.request.token == request.token);
        if !is_known {
            RequestHeeded { date: &request.date }.emit();
            self.requests.insert(request.date.clone(), Heeded { request, asked: false, manifests: Vec::new() });
        }
    }

    async fn flush_asked_and_due(&mut self) -> Result<(), OperatorError> {
        if self.requests.values().any(|heeded| !heeded.asked) || self.view.wants_reading() {
            self.read_index().await?;
            let now = self.now();
            for (date, heeded) in self.requests.iter_mut().filter(|(_, heeded)| !heeded.asked) {
                self.view.ask(date, now);
                heeded.asked = true;
            }
        }
        self.flush_due().await?;
        for date in self.view.answered() {
            let Some(heeded) = self.requests.get(&date) else { continue };
            let (table, now) = (&*self.assembler.table, self.clock.now());
            if let Err(error) =
                request::answer(table, &heeded.request, &heeded.manifests, now, self.assembler.ttl).await
            {
                // What was asked for is done; only the answer is missing.
                self.view.ask(&date, Duration::ZERO);
                return Err(error);
            }
            self.requests.remove(&date);
        }
        Ok(())
    }

    async fn flush_due(&mut self) -> Result<(), OperatorError> {
        // Dates whose lease another process has wait for the next change, tick or reading.
        let mut busy = BTreeSet::new();
        loop {
            let due: Vec<Flush> = self.view.due(&self.thresholds, self.now());
            let Some(flush) = due.into_iter().find(|flush| !busy.contains(&flush.date)) else { return Ok(()) };
            let date = flush.date.clone();
            if self.flush(flush).await?.is_none() {
                busy.insert(date);
            }
        }
    }

    /// Makes one manifest. Its id, unless another process assembles for this date.
    async fn flush(&mut self, flush: Flush) -> Result<Option<String>, OperatorError> {
        self.batch += 1;
        match self.assembler.assemble(&flush, self.batch).await? {
            Assembled::Busy => Ok(None),
            Assembled::Ended { manifest_id, claimed, refused, committed } => {
                self.learn(&claimed, refused);
                if let Some(heeded) = self.requests.get_mut(&flush.date).filter(|heeded| heeded.asked && committed) {
                    heeded.manifests.push(manifest_id.clone());
                }
                Ok(Some(manifest_id))
            }
        }
    }

    /// Takes into the view what the claims of a manifest found.
    fn learn(&mut self, claimed: &[FileItem], refused: Vec<(Key, Option<FileItem>)>) {
        for file in claimed {
            self.view.on_claimed(file, file.pending_since.clone());
        }
        let now = self.now();
        for (key, image) in refused {
            self.view.on_refused(&key, image, now);
        }
    }

    /// Reads the index: pending files of all dates, and manifests that were left while assembling.
    async fn read_index(&mut self) -> Result<(), OperatorError> {
        self.view.begin_reading();
        let mut complete = true;
        for shard in 0..SHARDS {
            let mut query = Query::index(STATUS_INDEX, FileState::Pending.status(shard));
            loop {
                let page = self.assembler.table.query(&query).await?;
                let (wall, now) = (self.clock.now(), self.now());
                for item in &page.items {
                    let item: FileItem = match read_item("file", item) {
                        Ok(item) => item,
                        // One that can't be read must not keep all others waiting.
                        Err(error) => {
                            ItemUnreadable { error }.emit();
                            continue;
                        }
                    };
                    let since =
                        item.pending_since.as_deref().and_then(|since| DateTime::parse_from_rfc3339(since).ok());
                    let age = since.and_then(|since| (wall - since.to_utc()).to_std().ok()).unwrap_or_default();
                    self.view.on_read(item, age, now);
                }
                complete &= !self.view.is_full();
                match page.next {
                    Some(next) if complete => query.start = Some(next),
                    _ => break,
                }
            }
        }
        self.view.end_reading(complete);
        for date in request::waiting(&*self.assembler.table).await? {
            // The index is stale: what the table itself says is heeded.
            match request::read(&*self.assembler.table, &date).await {
                Ok(request) => {
                    request.filter(FlushRequest::is_waiting).into_iter().for_each(|request| self.heed(request))
                }
                Err(error) if error.transient => return Err(error),
                // One that can't be read must not keep all flushes waiting.
                Err(error) => ItemUnreadable { error }.emit(),
            }
        }
        self.resume_left().await
    }

    async fn resume_left(&mut self) -> Result<(), OperatorError> {
        let query = Query::index(STATUS_INDEX, ManifestState::Assembling.as_str());
        for item in query_all(&*self.assembler.table, query).await? {
            if !item.contains_key(attribute::SCHEMA_VERSION) {
                continue;
            }
            match self.resume_one(&item).await {
                Ok(Some((claimed, refused))) => self.learn(&claimed, refused),
                Ok(None) => {}
                // One that can't be finished must not keep all others, and every flush by age, waiting.
                Err(error) => {
                    ResumeFailed { error: &error }.emit();
                }
            }
        }
        Ok(())
    }

    /// Takes up a manifest that was left; what its claims found, if it was.
    async fn resume_one(&self, item: &Item) -> Result<Option<Claimed>, OperatorError> {
        let seen: ManifestItem = read_item("manifest", item)?;
        // The index is stale: only what the table itself says can be taken over.
        let manifest = protocol::read_manifest(&*self.assembler.table, &seen.key()).await?;
        let Some(manifest) = manifest.filter(|manifest| manifest.status == ManifestState::Assembling) else {
            return Ok(None);
        };
        Ok(match self.assembler.resume(&manifest).await? {
            Assembled::Ended { claimed, refused, .. } => Some((claimed, refused)),
            Assembled::Busy => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_only_the_index_tells_of_are_left_to_other_processes_where_there_are_any() {
        let options = json!({ "table": "t", "leases": "l", "manifests": "m", "reconcile": "40s" });
        let options: FoldOptions = serde_json::from_value(options).unwrap();
        assert_eq!(options.thresholds(false).grace, Duration::from_secs(40));
        assert_eq!(options.thresholds(true).grace, Duration::ZERO);
    }
}

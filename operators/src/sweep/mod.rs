//! `sweep`: finds and finishes what was left behind, on one process at a time.
//!
//! Queues, events and the stream are only hints (I8): whatever they told of is in the bucket or in the table, and is
//! found here. It acts by the same conditional writes as everyone else, and reports each find and what was done about it.
//!
//! - objects that never landed: from the listing of the input prefix, by way of `track`, without a sequencer. That is done
//!   last and more seldom than the rest, since it costs most and notifications are the usual way;
//! - manifests left while assembling: resumed (by `fold` too, at each of its readings);
//! - events not yet accepted: published;
//! - manifests whose files haven't followed: settled;
//! - files that are `manifested` for longer than the grace: released if their manifest is abandoned, absent or doesn't
//!   list them, settled if it is final;
//! - manifests that are being converted for longer than the grace: reported, and left to the workers, who find them
//!   themselves;
//! - rejects of attempts that didn't win: removed, since they would be read twice.
//!
//! One find that can't be finished is reported and keeps no other waiting.

mod events;
mod finds;
mod handed_on;
mod listing;
mod rejects;

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};
use penstock_engine::{
    cloud::{
        Bucket, Item, Table,
        table::{Query, Range},
    },
    graph::{Access, Build, Built, Role, Use},
    leases::{LeaseState, Leases},
    operator::{Context, Kind, MAIN_OUTPUT, OperatorError, Outputs, Source},
    time::Clock,
    units,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{
    attempt::MANIFEST_SCOPE,
    fold::{
        default_lease, default_manifests_prefix,
        protocol::{Assembled, Assembler, read_committed_json, read_manifest, read_manifest_json, release},
    },
    model::{
        FileItem, FileState, MANIFEST_KEY_PREFIX, ManifestItem, ManifestJson, ManifestState, ObjectEvent,
        REPORTS_PREFIX, SHARDS, STATUS_INDEX, attribute, read_item,
    },
    outbox::{Outbox, owed},
    settle::{SettleOptions, Settler},
    track::{TrackOptions, Tracker, default_ttl_days},
};

pub use finds::{Finds, Outcome};
use listing::Round;

/// Every so many sweeps, completed manifests of all dates are looked at, and rejects: what is seldom left behind, and many.
const SELDOM: u64 = 12;
/// The first sweep of a process that does so: a start has enough to do.
const FIRST_SELDOM: u64 = 2;

/// The scope, and the id, of the lease of whoever sweeps.
const SCOPE: (&str, &str) = ("sweep", "sweep");

/// Options of `sweep`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SweepOptions {
    /// The tracking table.
    pub table: String,
    /// The table of leases.
    pub leases: String,
    /// The bucket of the files.
    pub input: String,
    /// Only objects below this prefix.
    pub input_prefix: String,
    /// The bucket of manifests.
    pub manifests: String,
    /// The bucket of rejects. Without it, rejects of attempts that didn't win stay.
    #[serde(default)]
    pub quarantine: Option<String>,
    /// The event bus.
    pub bus: String,
    /// The prefix of manifests.
    #[serde(default = "default_manifests_prefix")]
    pub manifests_prefix: String,
    /// How often everything is looked at.
    #[serde(with = "units::duration", default = "SweepOptions::default_every")]
    #[schemars(with = "String")]
    pub every: Duration,
    /// How often the bucket is listed for objects that no notification told of. A listing costs a request for each
    /// thousand objects below the prefix.
    #[serde(with = "units::duration", default = "SweepOptions::default_list_every")]
    #[schemars(with = "String")]
    pub list_every: Duration,
    /// What is younger is left to those whose business it is.
    #[serde(with = "units::duration", default = "SweepOptions::default_grace")]
    #[schemars(with = "String")]
    pub grace: Duration,
    /// Objects that are older are looked at no more.
    #[serde(with = "units::duration", default = "SweepOptions::default_lookback")]
    #[schemars(with = "String")]
    pub lookback: Duration,
    /// How long a lease lives without a renewal.
    #[serde(with = "units::duration", default = "default_lease")]
    #[schemars(with = "String")]
    pub lease: Duration,
    /// Days after which the items of finished work may vanish.
    #[serde(default = "default_ttl_days")]
    pub ttl_days: u32,
}

impl SweepOptions {
    fn default_every() -> Duration {
        Duration::from_secs(300)
    }

    fn default_list_every() -> Duration {
        Duration::from_secs(3600)
    }

    fn default_grace() -> Duration {
        Duration::from_secs(600)
    }

    fn default_lookback() -> Duration {
        Duration::from_secs(7 * 24 * 3600)
    }
}

#[async_trait]
impl Build for SweepOptions {
    const NAME: &'static str = "sweep";
    const ABOUT: &'static str = "Finds and finishes what was left behind: lost hints, dead processes, half-done work.";
    const ROLE: Role = Role::Source;

    fn input() -> Option<Kind> {
        None
    }

    fn outputs() -> Vec<(&'static str, Kind)> {
        vec![(MAIN_OUTPUT, Kind::Value(ObjectEvent::SHAPE))]
    }

    fn uses(&self) -> Vec<Use> {
        // It removes rejects that nobody needs there: to try that would be to do it.
        let quarantine = self.quarantine.iter().map(|bucket| Use::shared("bucket", bucket, &[]));
        let uses = [
            Use::shared("table", &self.table, &[Access::Get, Access::QueryIndex, Access::Update]),
            Use::shared("table", &self.leases, Leases::ACCESS),
            Use::shared("bucket", &self.input, &[Access::Get]).below(&self.input_prefix),
            Use::shared("bucket", &self.manifests, &[Access::Get, Access::Put]).below(&self.manifests_prefix),
            Use::shared("bucket", &self.manifests, &[Access::Get]).below(REPORTS_PREFIX),
            Use::shared("bus", &self.bus, &[]),
        ];
        uses.into_iter().chain(quarantine).collect()
    }

    fn check(&self) -> Result<(), String> {
        if self.every.is_zero() || self.list_every.is_zero() || self.lease.is_zero() {
            return Err("every, list_every and lease: must be above zero".to_owned());
        }
        // An object whose item has expired would land again.
        if self.lookback >= Duration::from_secs(u64::from(self.ttl_days) * 24 * 3600) {
            return Err("lookback: must be below ttl_days, or finished files would land again".to_owned());
        }
        if self.grace >= self.lookback {
            return Err("grace: must be below lookback".to_owned());
        }
        Ok(())
    }

    async fn build(self, context: Context) -> Result<Built, OperatorError> {
        Ok(Built::Source(Box::new(self.sweep(context).await?)))
    }
}

impl SweepOptions {
    async fn sweep(self, context: Context) -> Result<Sweep, OperatorError> {
        let cloud = &context.cloud;
        let table = cloud.table(&self.table).await?;
        let manifests = cloud.bucket(&self.manifests).await?;
        let leases = context.leases(&self.leases, self.lease).await?;
        let settle = SettleOptions {
            table: self.table.clone(),
            manifests: self.manifests.clone(),
            manifests_prefix: self.manifests_prefix.clone(),
            ttl_days: self.ttl_days,
        };
        let track = TrackOptions {
            table: self.table.clone(),
            input: self.input.clone(),
            input_prefix: self.input_prefix.clone(),
            ttl_days: self.ttl_days,
        };
        Ok(Sweep {
            tracker: Tracker::open(&track, &context).await?,
            assembler: Assembler {
                table: Arc::clone(&table),
                manifests: manifests.clone(),
                manifests_prefix: self.manifests_prefix.clone(),
                leases: leases.clone(),
                ttl: TimeDelta::days(i64::from(self.ttl_days)),
                clock: context.clock.clone(),
            },
            outbox: Outbox::new(Arc::clone(&table), cloud.event_bus(&self.bus).await?, context.clock.clone()),
            settler: Settler::open(&settle, &context).await?,
            input: cloud.bucket(&self.input).await?,
            quarantine: match &self.quarantine {
                Some(bucket) => Some(cloud.bucket(bucket).await?),
                None => None,
            },
            clock: context.clock.clone(),
            options: self,
            manifests,
            leases,
            table,
            mark: None,
            listed_at: None,
            rejects_mark: None,
            sweeps: 0,
        })
    }
}

struct Sweep {
    options: SweepOptions,
    table: Arc<dyn Table>,
    leases: Leases,
    input: Bucket,
    manifests: Bucket,
    quarantine: Option<Bucket>,
    assembler: Assembler,
    outbox: Outbox,
    settler: Settler,
    tracker: Tracker,
    clock: Clock,
    /// When the last listing of the input bucket began.
    listed_at: Option<Instant>,
    /// Objects last written before then were handed on by an earlier sweep of this process.
    mark: Option<DateTime<Utc>>,
    /// Rejects last written before then were judged.
    rejects_mark: Option<DateTime<Utc>>,
    /// Sweeps of this process so far.
    sweeps: u64,
}

#[async_trait]
impl Source for Sweep {
    async fn run(&mut self, out: &mut Outputs, stop: CancellationToken) -> Result<(), OperatorError> {
        let mut ticks = tokio::time::interval(self.options.every);
        let mut round = None;
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                _ = ticks.tick() => {}
            }
            let Some(lease) = self.leases.try_acquire(SCOPE.0, SCOPE.1).await? else { continue };
            let swept = tokio::select! {
                biased;
                () = stop.cancelled() => None,
                finds = self.sweep(&mut round, out) => Some(finds),
            };
            lease.release().await;
            if let Some(finds) = swept {
                metrics::counter!("penstock_sweeps_total").increment(1);
                finds.emit();
            }
        }
    }
}

impl Sweep {
    /// Looks at everything once. What can't be looked at, or finished, keeps nothing else waiting.
    async fn sweep(&mut self, round: &mut Option<Round>, out: &mut Outputs) -> Finds {
        let mut finds = Finds::default();
        let is_seldom = self.sweeps % SELDOM == FIRST_SELDOM;
        self.sweeps += 1;
        let step = |finds: &mut Finds, what: &'static str, result: Result<(), OperatorError>| {
            if let Err(error) = result {
                finds.note(what, Outcome::Failed, error.to_string(), "all of them");
            }
        };
        let result = self.finish_manifests(&mut finds, is_seldom).await;
        step(&mut finds, "manifest", result);
        let result = self.resume_assembling(&mut finds).await;
        step(&mut finds, "assembling", result);
        let result = self.look_at_processing(&mut finds).await;
        step(&mut finds, "processing", result);
        let result = self.finish_claims(&mut finds).await;
        step(&mut finds, "claim", result);
        if is_seldom {
            let result = self.remove_unnamed_rejects(&mut finds).await;
            step(&mut finds, "rejects", result);
        }
        let result = self.land_missed(round, out, &mut finds).await;
        step(&mut finds, "object", result);
        finds
    }

    fn grace(&self) -> TimeDelta {
        TimeDelta::from_std(self.options.grace).unwrap_or(TimeDelta::MAX)
    }

    /// Whether an item was left alone for longer than the grace.
    fn is_left(&self, updated_at: Option<&str>) -> bool {
        let updated = updated_at.and_then(|at| DateTime::parse_from_rfc3339(at).ok());
        updated.is_none_or(|at| self.clock.now() - at.to_utc() >= self.grace())
    }

    fn manifests_in(&self, state: ManifestState, range: Range) -> Manifests {
        let query = Query::index(STATUS_INDEX, state.as_str()).range(range);
        Manifests { table: Arc::clone(&self.table), query: Some(query) }
    }

    async fn resume_assembling(&self, finds: &mut Finds) -> Result<(), OperatorError> {
        let mut pages = self.manifests_in(ManifestState::Assembling, Range::All);
        while let Some(page) = pages.next(finds).await? {
            for seen in page {
                match self.resume_one(&seen).await {
                    Ok(None) => {}
                    Ok(Some(Assembled::Busy)) => {
                        finds.note("assembling", Outcome::Left, "a fold holds the flush lease of its date", seen.id());
                    }
                    Ok(Some(Assembled::Ended { committed: true, .. })) => {
                        finds.note("assembling", Outcome::Done, "committed", seen.id());
                    }
                    Ok(Some(Assembled::Ended { .. })) => {
                        finds.note("assembling", Outcome::Done, "abandoned: it had claimed nothing", seen.id());
                    }
                    Err(error) => finds.note("assembling", Outcome::Failed, error.to_string(), seen.id()),
                }
            }
        }
        Ok(())
    }

    async fn resume_one(&self, seen: &ManifestItem) -> Result<Option<Assembled>, OperatorError> {
        let Some(manifest) = read_manifest(&*self.table, &seen.key()).await? else { return Ok(None) };
        if manifest.status != ManifestState::Assembling || !self.is_left(manifest.updated_at.as_deref()) {
            return Ok(None);
        }
        Ok(Some(self.assembler.resume(&manifest).await?))
    }

    /// Workers look for these themselves: here they are only told of.
    async fn look_at_processing(&self, finds: &mut Finds) -> Result<(), OperatorError> {
        let mut pages = self.manifests_in(ManifestState::Processing, Range::All);
        while let Some(page) = pages.next(finds).await? {
            for manifest in page.iter().filter(|manifest| self.is_left(manifest.updated_at.as_deref())) {
                let id = format!("{}/{}", manifest.date_prefix, manifest.file_key);
                let why = match (manifest.retry_at, self.leases.observe(MANIFEST_SCOPE, &id).await?) {
                    (Some(_), _) => "its commit was put off".to_owned(),
                    (None, LeaseState::Held { .. }) => "a worker holds its lease".to_owned(),
                    (None, LeaseState::Unreadable { reason }) => format!("its lease can't be read: {reason}"),
                    (None, LeaseState::Free | LeaseState::Dead { .. }) => {
                        "its lease is free or dead: the next worker that looks takes it".to_owned()
                    }
                };
                finds.note("processing", Outcome::Left, why, manifest.id());
            }
        }
        Ok(())
    }

    /// Publishes what is owed and settles what is half settled: page by page, so that what is kept is bounded.
    async fn finish_manifests(&mut self, finds: &mut Finds, is_seldom: bool) -> Result<(), OperatorError> {
        // Completed ones are many. Those of older dates are read seldom: their files are found by their claims, at each
        // sweep, so what may wait is a mark, an announcement that comes after the fact, and an alert of single files.
        let yesterday = (self.clock.now() - TimeDelta::days(1)).format("%Y-%m-%d").to_string();
        let recent = if is_seldom { Range::All } else { Range::Between(yesterday, "9999-12-31".to_owned()) };
        for (state, range) in [
            (ManifestState::Pending, Range::All),
            (ManifestState::Processing, Range::All),
            (ManifestState::Completed, recent),
            (ManifestState::Failed, Range::All),
        ] {
            let mut pages = self.manifests_in(state, range);
            while let Some(page) = pages.next(finds).await? {
                self.finish_page(page, finds).await;
            }
        }
        Ok(())
    }

    async fn finish_page(&mut self, page: Vec<ManifestItem>, finds: &mut Finds) {
        let is_final =
            |manifest: &ManifestItem| matches!(manifest.status, ManifestState::Completed | ManifestState::Failed);
        let mut debts = Vec::new();
        for seen in page {
            let is_settled = !is_final(&seen) || seen.settled_at.is_some();
            if (owed(&seen).is_empty() && is_settled) || !self.is_left(seen.updated_at.as_deref()) {
                continue;
            }
            // The index is stale: what is owed is what the table itself says.
            let manifest = match read_manifest(&*self.table, &seen.key()).await {
                Ok(Some(manifest)) => manifest,
                Ok(None) => continue,
                Err(error) => {
                    finds.note("manifest", Outcome::Failed, error.to_string(), seen.id());
                    continue;
                }
            };
            if is_final(&manifest) && manifest.settled_at.is_none() {
                let settled = self.settler.settle(&manifest).await;
                finds.note_result("settling", "its files hadn't all followed it", manifest.id(), settled);
            }
            debts.extend(owed(&manifest).into_iter().map(|owed| (manifest.clone(), owed)));
        }
        let Some((first, _)) = debts.first() else { return };
        let example = first.id().to_owned();
        match self.outbox.publish(&debts).await {
            Ok(published) => {
                for (manifest, owed) in &debts[..published.min(debts.len())] {
                    finds.note("event", Outcome::Done, owed.as_str(), manifest.id());
                }
                for (manifest, _) in &debts[published.min(debts.len())..] {
                    finds.note("event", Outcome::Left, "the breaker of the bus is open", manifest.id());
                }
            }
            Err(error) => finds.note("event", Outcome::Failed, error.to_string(), &example),
        }
    }

    /// Files that have been claimed for long: what is to become of them is their manifest's business, if it has any.
    async fn finish_claims(&self, finds: &mut Finds) -> Result<(), OperatorError> {
        for shard in 0..SHARDS {
            let mut query = Query::index(STATUS_INDEX, FileState::Manifested.status(shard));
            loop {
                let page = self.table.query(&query).await?;
                let mut by_manifest: BTreeMap<(String, String), Vec<FileItem>> = BTreeMap::new();
                for item in &page.items {
                    match read_item::<FileItem>("file", item) {
                        Ok(file) if self.is_left(file.updated_at.as_deref()) => {
                            let Some(path) = file.manifest_path.clone() else { continue };
                            by_manifest.entry((file.date_prefix.clone(), path)).or_default().push(file);
                        }
                        Ok(_) => {}
                        Err(error) => finds.note("claim", Outcome::Failed, error.to_string(), "an unreadable item"),
                    }
                }
                for ((date, path), files) in by_manifest {
                    match self.belonging(&date, &path).await {
                        Ok(belonging) => self.finish_claims_of(&path, &belonging, files, finds).await,
                        Err(error) => finds.note("claim", Outcome::Failed, error.to_string(), &path),
                    }
                }
                match page.next {
                    Some(next) => query.start = Some(next),
                    None => break,
                }
            }
        }
        Ok(())
    }

    async fn finish_claims_of(&self, path: &str, belonging: &Belonging, files: Vec<FileItem>, finds: &mut Finds) {
        let now = self.clock.now();
        let (mut strays, mut settled) = (Vec::new(), Vec::new());
        for file in files {
            match belonging {
                Belonging::Nobody(why) => strays.push((file, *why)),
                Belonging::Listed(listed, _) if !listed.contains(&file.file_key) => {
                    strays.push((file, "its manifest doesn't list it"));
                }
                Belonging::Listed(_, Some(_)) | Belonging::Failed(_) => settled.push(file.file_key),
                Belonging::Listed(_, None) => {
                    finds.note("claim", Outcome::Left, "its manifest lists it and isn't final", &file.file_key);
                }
                // A missing JSON says nothing about who will be listed in it.
                Belonging::Unknown(why) => finds.note("claim", Outcome::Left, *why, &file.file_key),
            }
        }
        for (file, why) in strays {
            let released = release(&*self.table, &file.key(), path, now).await;
            finds.note_result("claim", why, &file.file_key, released);
        }
        let (Some(first), Belonging::Listed(_, Some(manifest)) | Belonging::Failed(manifest)) =
            (settled.first().cloned(), belonging)
        else {
            return;
        };
        let settled = self.settler.settle_some(manifest, &settled.into_iter().collect()).await;
        finds.note_result("claim", "its manifest is final: it was settled", &first, settled);
    }

    /// Whose the files are that bear a manifest's path.
    async fn belonging(&self, date: &str, manifest_path: &str) -> Result<Belonging, OperatorError> {
        let name = manifest_path.rsplit('/').next().unwrap_or(manifest_path);
        let key = penstock_engine::cloud::table::Key::new(date, format!("{MANIFEST_KEY_PREFIX}{name}"));
        let Some(manifest) = read_manifest(&*self.table, &key).await? else {
            return Ok(Belonging::Nobody("its manifest is absent"));
        };
        let prefix = &self.options.manifests_prefix;
        let listed = |json: ManifestJson| json.files.into_iter().map(|file| file.file_key).collect();
        match manifest.status {
            ManifestState::Abandoned => Ok(Belonging::Nobody("its manifest is abandoned")),
            ManifestState::Assembling => {
                let id = name.strip_suffix(".json").unwrap_or(name);
                Ok(match read_manifest_json(&self.manifests, prefix, date, id).await? {
                    Some((json, _)) => Belonging::Listed(listed(json), None),
                    None => Belonging::Unknown("its manifest is being assembled, and has no JSON yet"),
                })
            }
            ManifestState::Pending | ManifestState::Processing => {
                Ok(match read_committed_json(&self.manifests, prefix, &manifest).await? {
                    Some(json) => Belonging::Listed(listed(json), None),
                    None => Belonging::Unknown("the JSON of its manifest is gone: the attempts will fail of it"),
                })
            }
            // Whatever became of its JSON, a file of a failed manifest has failed with it.
            ManifestState::Failed => Ok(match read_committed_json(&self.manifests, prefix, &manifest).await {
                Ok(Some(json)) => Belonging::Listed(listed(json), Some(manifest)),
                Ok(None) => Belonging::Failed(manifest),
                Err(error) if !error.transient => Belonging::Failed(manifest),
                Err(error) => return Err(error),
            }),
            ManifestState::Completed => Ok(match read_committed_json(&self.manifests, prefix, &manifest).await? {
                Some(json) => Belonging::Listed(listed(json), Some(manifest)),
                None => Belonging::Unknown("the JSON of its completed manifest is gone: see its report"),
            }),
        }
    }
}

/// The manifests of a state, by the index: a page at a time, never all of them, since they may be very many.
struct Manifests {
    table: Arc<dyn Table>,
    query: Option<Query>,
}

impl Manifests {
    /// The next page; `None` behind the last.
    async fn next(&mut self, finds: &mut Finds) -> Result<Option<Vec<ManifestItem>>, OperatorError> {
        let Some(query) = self.query.take() else { return Ok(None) };
        let page = self.table.query(&query).await?;
        self.query = page.next.map(|next| Query { start: Some(next), ..query });
        let is_manifest = |item: &&Item| {
            item.contains_key(attribute::SCHEMA_VERSION)
                && crate::model::text(item, attribute::FILE_KEY).is_some_and(|key| key.starts_with(MANIFEST_KEY_PREFIX))
        };
        let mut manifests = Vec::new();
        for item in page.items.iter().filter(is_manifest) {
            match read_item("manifest", item) {
                Ok(manifest) => manifests.push(manifest),
                Err(error) => finds.note("manifest", Outcome::Failed, error.to_string(), "an unreadable item"),
            }
        }
        Ok(Some(manifests))
    }
}

/// Whose the files are that bear a manifest's path.
enum Belonging {
    /// Nobody's: the manifest is abandoned, or absent.
    Nobody(&'static str),
    /// The manifest's, if it lists them. With it, if it is final.
    Listed(HashSet<String>, Option<ManifestItem>),
    /// The manifest's, which failed.
    Failed(ManifestItem),
    /// There is no telling yet.
    Unknown(&'static str),
}

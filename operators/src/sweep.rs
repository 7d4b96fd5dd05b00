//! `sweep`: finds and finishes what was left behind, on one process at a time.
//!
//! Queues, events and the stream are only hints (I8): whatever they told of is in the bucket or in the table, and is
//! found here. It acts by the same conditional writes as everyone else, and reports each find and what was done about it.
//!
//! - objects that never landed: from the listing of the input prefix, by way of `track`, without a sequencer;
//! - manifests left while assembling: resumed (by `fold` too, at each of its readings);
//! - events not yet accepted: published;
//! - manifests whose files haven't followed: settled;
//! - files that are `manifested` for longer than the grace, whose manifest is abandoned, absent or doesn't list them:
//!   released.
//!
//! Manifests that no worker works on are found by the workers themselves.

use std::{collections::HashMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};
use futures::TryStreamExt;
use object_store::path::Path;
use penstock_engine::{
    ack::{Ack, Verdict},
    cloud::{
        Bucket, CloudError, Item, Table,
        table::{Query, Range, query_all},
    },
    graph::{Build, Built, Role, Use, UseMode},
    leases::Leases,
    operator::{Body, Context, Kind, MAIN_OUTPUT, OperatorError, Outputs, Source},
    time::Clock,
    units,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{
    fold::{
        default_lease, default_manifests_prefix,
        protocol::{Assembled, Assembler, read_manifest, read_manifest_json, release},
    },
    model::{
        FileItem, FileState, MANIFEST_KEY_PREFIX, ManifestItem, ManifestState, ObjectEvent, SHARDS, STATUS_INDEX,
        attribute, read_item,
    },
    outbox::{Outbox, owed},
    record::to_value,
    settle::{SettleOptions, Settler},
    track::default_ttl_days,
};

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
    /// The event bus.
    pub bus: String,
    /// The prefix of manifests.
    #[serde(default = "default_manifests_prefix")]
    pub manifests_prefix: String,
    /// How often everything is looked at.
    #[serde(with = "units::duration", default = "SweepOptions::default_every")]
    #[schemars(with = "String")]
    pub every: Duration,
    /// What is younger is left to those whose business it is.
    #[serde(with = "units::duration", default = "SweepOptions::default_grace")]
    #[schemars(with = "String")]
    pub grace: Duration,
    /// Objects and finished manifests that are older are looked at no more.
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
        let shared = |kind, name: &String| Use { kind, name: name.clone(), mode: UseMode::Shared };
        vec![
            shared("table", &self.table),
            shared("table", &self.leases),
            shared("bucket", &self.input),
            shared("bucket", &self.manifests),
            shared("bus", &self.bus),
        ]
    }

    fn check(&self) -> Result<(), String> {
        if self.every.is_zero() || self.lease.is_zero() {
            return Err("every and lease: must be above zero".to_owned());
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
        Ok(Built::Source(Box::new(Sweep {
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
            clock: context.clock.clone(),
            options: self,
            manifests,
            leases,
            table,
            mark: None,
        })))
    }
}

struct Sweep {
    options: SweepOptions,
    table: Arc<dyn Table>,
    leases: Leases,
    input: Bucket,
    manifests: Bucket,
    assembler: Assembler,
    outbox: Outbox,
    settler: Settler,
    clock: Clock,
    /// Objects last written before then were handed on by an earlier sweep of this process.
    mark: Option<DateTime<Utc>>,
}

/// What one sweep found.
#[derive(Debug, Default)]
struct Finds {
    /// Objects that couldn't be landed; they are listed again.
    failed_objects: u64,
    resumed: u64,
    published: usize,
    settled: u64,
    released: u64,
}

#[async_trait]
impl Source for Sweep {
    async fn run(&mut self, out: &mut Outputs, stop: CancellationToken) -> Result<(), OperatorError> {
        let mut ticks = tokio::time::interval(self.options.every);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = stop.cancelled() => return Ok(()),
            }
            let Some(lease) = self.leases.try_acquire(SCOPE.0, SCOPE.1).await? else { continue };
            let swept = tokio::select! {
                swept = self.sweep(out) => swept,
                () = stop.cancelled() => Ok(Finds::default()),
            };
            lease.release().await;
            let finds = swept?;
            metrics::counter!("penstock_sweeps_total").increment(1);
            if finds.failed_objects + finds.resumed + finds.settled + finds.released > 0 || finds.published > 0 {
                tracing::warn!(?finds, "Sweep finished what had been left behind.");
            }
        }
    }
}

impl Sweep {
    async fn sweep(&mut self, out: &mut Outputs) -> Result<Finds, OperatorError> {
        let (published, settled) = self.finish_manifests().await?;
        Ok(Finds {
            resumed: self.resume_assembling().await?,
            published,
            settled,
            released: self.release_strays().await?,
            failed_objects: self.land_missed(out).await?,
        })
    }

    fn grace(&self) -> TimeDelta {
        TimeDelta::from_std(self.options.grace).unwrap_or(TimeDelta::MAX)
    }

    /// Whether an item was left alone for longer than the grace.
    fn is_left(&self, updated_at: Option<&str>) -> bool {
        let updated = updated_at.and_then(|at| DateTime::parse_from_rfc3339(at).ok());
        updated.is_none_or(|at| self.clock.now() - at.to_utc() >= self.grace())
    }

    async fn manifests_in(&self, state: ManifestState, range: Range) -> Result<Vec<ManifestItem>, OperatorError> {
        let query = Query::index(STATUS_INDEX, state.as_str()).range(range);
        let is_manifest = |item: &Item| {
            item.contains_key(attribute::SCHEMA_VERSION)
                && crate::model::text(item, attribute::FILE_KEY).is_some_and(|key| key.starts_with(MANIFEST_KEY_PREFIX))
        };
        let found = query_all(&*self.table, query).await?;
        found.iter().filter(|item| is_manifest(item)).map(|item| Ok(read_item("manifest", item)?)).collect()
    }

    async fn resume_assembling(&self) -> Result<u64, OperatorError> {
        let mut resumed = 0;
        for seen in self.manifests_in(ManifestState::Assembling, Range::All).await? {
            let Some(manifest) = read_manifest(&*self.table, &seen.key()).await? else { continue };
            if manifest.status == ManifestState::Assembling
                && self.is_left(manifest.updated_at.as_deref())
                && matches!(self.assembler.resume(&manifest).await?, Assembled::Ended { .. })
            {
                resumed += 1;
            }
        }
        Ok(resumed)
    }

    /// Publishes what is owed and settles what is half settled.
    async fn finish_manifests(&mut self) -> Result<(usize, u64), OperatorError> {
        let lookback = TimeDelta::from_std(self.options.lookback).unwrap_or(TimeDelta::MAX);
        let oldest = (self.clock.now() - lookback).format("%Y-%m-%d").to_string();
        let recent = Range::Between(oldest, "9999-12-31".to_owned());
        let (mut debts, mut settled) = (Vec::new(), 0);
        for (state, range) in [
            (ManifestState::Pending, Range::All),
            (ManifestState::Completed, recent.clone()),
            (ManifestState::Failed, recent),
        ] {
            for seen in self.manifests_in(state, range).await? {
                let is_settled = state == ManifestState::Pending || seen.settled_at.is_some();
                if (owed(&seen).is_none() && is_settled) || !self.is_left(seen.updated_at.as_deref()) {
                    continue;
                }
                // The index is stale: what is owed is what the table itself says.
                let Some(manifest) = read_manifest(&*self.table, &seen.key()).await? else { continue };
                if matches!(manifest.status, ManifestState::Completed | ManifestState::Failed)
                    && manifest.settled_at.is_none()
                {
                    self.settler.settle(&manifest).await?;
                    settled += 1;
                }
                if let Some(owed) = owed(&manifest) {
                    debts.push((manifest, owed));
                }
            }
        }
        Ok((self.outbox.publish(&debts).await?, settled))
    }

    /// Files that are claimed for a manifest that will never settle them.
    async fn release_strays(&self) -> Result<u64, OperatorError> {
        let mut memberships: HashMap<String, Membership> = HashMap::new();
        let mut released = 0;
        for shard in 0..SHARDS {
            let query = Query::index(STATUS_INDEX, FileState::Manifested.status(shard));
            for item in query_all(&*self.table, query).await? {
                let file: FileItem = read_item("file", &item)?;
                let Some(path) = file.manifest_path.clone() else { continue };
                if !self.is_left(file.updated_at.as_deref()) {
                    continue;
                }
                if !memberships.contains_key(&path) {
                    memberships.insert(path.clone(), self.membership(&file.date_prefix, &path).await?);
                }
                let Some(membership) = memberships.get(&path) else { continue };
                if membership.is_stray(&file.file_key)
                    && release(&*self.table, &file.key(), &path, self.clock.now()).await?
                {
                    tracing::warn!(file = file.file_key, manifest = path, "Stray claim released.");
                    released += 1;
                }
            }
        }
        Ok(released)
    }

    async fn membership(&self, date: &str, manifest_path: &str) -> Result<Membership, OperatorError> {
        let name = manifest_path.rsplit('/').next().unwrap_or(manifest_path);
        let key = penstock_engine::cloud::table::Key::new(date, format!("{MANIFEST_KEY_PREFIX}{name}"));
        match read_manifest(&*self.table, &key).await? {
            None => return Ok(Membership::Nobody),
            Some(manifest) if manifest.status == ManifestState::Abandoned => return Ok(Membership::Nobody),
            Some(_) => {}
        }
        let id = name.strip_suffix(".json").unwrap_or(name);
        let found = read_manifest_json(&self.manifests, &self.options.manifests_prefix, date, id).await?;
        Ok(match found {
            Some((json, _)) => Membership::Listed(json.files.into_iter().map(|file| file.file_key).collect()),
            // A missing JSON says nothing about who will be listed in it.
            None => Membership::Unknown,
        })
    }

    /// Objects of the input bucket that no notification told of.
    async fn land_missed(&mut self, out: &mut Outputs) -> Result<u64, OperatorError> {
        let now = self.clock.now();
        let lookback = TimeDelta::from_std(self.options.lookback).unwrap_or(TimeDelta::MAX);
        let until = now - self.grace();
        let from = self.mark.map_or(now - lookback, |mark| (mark - self.grace()).max(now - lookback));
        let (verdict_sender, mut verdicts) = mpsc::unbounded_channel();
        let prefix = Path::from(self.options.input_prefix.trim_end_matches('/'));
        let mut listing = self.input.store.list(Some(&prefix));
        let (mut emitted, mut failed) = (0_u64, 0_u64);
        while let Some(object) = listing.try_next().await.map_err(CloudError::from)? {
            if object.last_modified < from || object.last_modified >= until {
                continue;
            }
            let key = object.location.to_string();
            // A listing's etag may be missing, and is of its own moment: ask what stands there now.
            let Some(head) = self.input.stage.head(&key).await? else { continue };
            let event = ObjectEvent {
                bucket: self.input.name.clone(),
                key,
                size_bytes: head.size_bytes,
                etag: Some(head.etag),
                sequencer: None,
                version_id: head.version,
                event_ms: head.last_modified.timestamp_millis(),
                reason: None,
            };
            out.emit_to(MAIN_OUTPUT, Body::Value(to_value(&event)?), Ack::new(emitted, verdict_sender.clone())).await;
            emitted += 1;
        }
        drop(verdict_sender);
        out.flush().await;
        while let Some((_, verdict)) = verdicts.recv().await {
            if verdict != Verdict::Done {
                failed += 1;
            }
        }
        // What failed is listed again: the mark moves only over what was all handed on.
        if failed == 0 {
            self.mark = Some(until);
        }
        metrics::counter!("penstock_swept_objects_total").increment(emitted);
        Ok(failed)
    }
}

/// Who is in a manifest.
enum Membership {
    /// Nobody: it is abandoned, or absent.
    Nobody,
    /// These file keys.
    Listed(std::collections::HashSet<String>),
    /// There is no telling yet.
    Unknown,
}

impl Membership {
    fn is_stray(&self, file_key: &str) -> bool {
        match self {
            Self::Nobody => true,
            Self::Listed(files) => !files.contains(file_key),
            Self::Unknown => false,
        }
    }
}

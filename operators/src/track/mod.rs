//! `track` and `quarantine`: what a notification does to an item, decided by one pure function and carried out by
//! conditional writes.
//!
//! One write per new file: the put that makes the item is tried first, and only its refusal tells what stands there.

mod decide;
mod events;
mod quarantine;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};
use futures::{StreamExt, stream};
use penstock_engine::{
    cloud::{
        AttributeValue, Bucket, CloudError, Item, Table,
        table::{Carried, Condition, Consistency, Key, Write, carry_out},
    },
    graph::{Access, Build, Built, Role, Use},
    operator::{Context, Kind, Operator, OperatorError, Outputs, Record},
    time::{Clock, format_time},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use decide::{Current, Decision, Ignored, compare, decide};
use events::{NotificationHandled, RedriveLeftToAPerson};
pub use quarantine::{QuarantineOptions, copy_key};

use crate::{
    fold::protocol::read_manifest,
    model::{
        FileItem, FileState, ItemError, ManifestItem, ObjectEvent, SCHEMA_VERSION, attribute, date_of_key, file_key_of,
        foreign_file_key, read_item, shard_of, text, versioned_key,
    },
    record::read_value,
};

/// Notifications that are worked on at once.
const CONCURRENCY: usize = 64;

/// Refusals in a row after which a notification is left to a later try: its item changes faster than we can decide.
const MAX_REFUSALS: usize = 8;

/// Options of `track`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TrackOptions {
    /// The tracking table.
    pub table: String,
    /// The bucket of the files.
    pub input: String,
    /// File keys begin below this prefix.
    pub input_prefix: String,
    /// Days after which the item of a finished file may vanish.
    #[serde(default = "default_ttl_days")]
    pub ttl_days: u32,
}

/// Days that the items of finished work are kept.
pub fn default_ttl_days() -> u32 {
    30
}

#[async_trait]
impl Build for TrackOptions {
    const NAME: &'static str = "track";
    const ABOUT: &'static str = "Makes each admitted object version a pending file in the tracking table.";
    const ROLE: Role = Role::Sink;

    fn input() -> Option<Kind> {
        Some(Kind::Value(ObjectEvent::SHAPE))
    }

    fn uses(&self) -> Vec<Use> {
        vec![
            Use::shared("table", &self.table, &[Access::Get, Access::Put, Access::Update]),
            Use::shared("bucket", &self.input, &[Access::Get]).below(&self.input_prefix),
        ]
    }

    async fn build(self, context: Context) -> Result<Built, OperatorError> {
        Ok(Built::Operator(Box::new(Track { tracker: Tracker::open(&self, &context).await? })))
    }
}

struct Track {
    tracker: Tracker,
}

#[async_trait]
impl Operator for Track {
    async fn on_record(&mut self, record: &Record, _out: &mut Outputs) -> Result<(), OperatorError> {
        self.tracker.track(&read_value(record)?, &Target::Pending).await
    }

    async fn on_batch(&mut self, records: &[Record], _out: &mut Outputs) -> Vec<(usize, OperatorError)> {
        let tracker = &self.tracker;
        let objects: Vec<_> = records.iter().map(read_value::<ObjectEvent>).enumerate().collect();
        let tracked = stream::iter(objects).map(|(index, object)| async move {
            let result = async { tracker.track(&object?, &Target::Pending).await };
            result.await.err().map(|error| (index, error))
        });
        tracked.buffer_unordered(CONCURRENCY).filter_map(std::future::ready).collect().await
    }
}

/// What a notified object becomes.
#[derive(Debug, Clone, PartialEq)]
pub enum Target {
    /// A file that waits for a manifest.
    Pending,
    /// A file that can't be used, for this reason.
    Quarantined(String),
}

/// Carries out what notifications do to items.
#[derive(Clone)]
pub struct Tracker {
    table: Arc<dyn Table>,
    input: Bucket,
    input_prefix: String,
    ttl: TimeDelta,
    clock: Clock,
}

impl Tracker {
    /// A tracker on the resources that the options name.
    pub async fn open(options: &TrackOptions, context: &Context) -> Result<Self, OperatorError> {
        Ok(Self {
            table: context.cloud.table(&options.table).await?,
            input: context.cloud.bucket(&options.input).await?,
            input_prefix: options.input_prefix.clone(),
            ttl: TimeDelta::days(i64::from(options.ttl_days)),
            clock: context.clock.clone(),
        })
    }

    /// Does to the table what the notification of `object` does to it.
    pub async fn track(&self, object: &ObjectEvent, target: &Target) -> Result<(), OperatorError> {
        let stranger = self.stranger(object);
        // It gets a key that no file of ours can have, so that it stands in nobody's way.
        let mut file_key = match &stranger {
            None => file_key_of(&object.key, &self.input_prefix, false),
            Some(_) => foreign_file_key(&object.uri()),
        };
        let stranger = stranger.filter(|_| *target == Target::Pending).map(Target::Quarantined);
        let target = stranger.as_ref().unwrap_or(target);
        let date = self.date_of(object, &file_key).await?;
        let mut current = Current::NotAsked;
        let mut write = self.make(object, target, &date, &file_key);
        for _ in 0..MAX_REFUSALS {
            let item = match carry_out(&*self.table, &write).await? {
                Carried::Applied(_) => {
                    NotificationHandled { outcome: "tracked", target, object }.emit();
                    return Ok(());
                }
                Carried::Refused(None) => {
                    // It expired, or a person deleted it, since it was read.
                    write = self.make(object, target, &date, &file_key);
                    continue;
                }
                Carried::Refused(Some(item)) => self.read(&item)?,
            };
            let mut decision = decide(Some(&item), object, current);
            if decision == Decision::AskBucket {
                current = self.ask_bucket(object).await?;
                decision = decide(Some(&item), object, current);
            }
            write = match decision {
                Decision::New => self.make(object, target, &date, &file_key),
                Decision::Replace => self.replace(&item, object, target),
                Decision::Redrive if *target == Target::Pending => {
                    if self.ask_bucket(object).await? != Current::This {
                        NotificationHandled { outcome: "superseded", target, object }.emit();
                        return Ok(());
                    }
                    // The manifest is final: what it says now it says when the write arrives.
                    if let Some(manifest) = self.manifest_of(&item).await?.filter(ManifestItem::has_lost_commit) {
                        RedriveLeftToAPerson { object, file: &item, manifest: &manifest }.emit();
                        return Ok(());
                    }
                    self.replace(&item, object, target).remove("error_message").remove("failed_time")
                }
                Decision::NewVersion => {
                    let Some(etag) = &object.etag else {
                        return Err(OperatorError::permanent(format!("{} has no etag", object.uri())));
                    };
                    file_key = versioned_key(&file_key, etag);
                    self.make(object, target, &date, &file_key)
                }
                Decision::OtherObject => {
                    file_key = file_key_of(&object.key, &self.input_prefix, true);
                    self.make(object, target, &date, &file_key)
                }
                Decision::Ignore(why) => {
                    NotificationHandled { outcome: why.as_str(), target, object }.emit();
                    return Ok(());
                }
                Decision::Redrive => {
                    NotificationHandled { outcome: Ignored::SameContent.as_str(), target, object }.emit();
                    return Ok(());
                }
                Decision::Superseded | Decision::AskBucket => {
                    NotificationHandled { outcome: "superseded", target, object }.emit();
                    return Ok(());
                }
            };
        }
        Err(OperatorError::transient(format!("the item of {} keeps changing", object.uri())))
    }

    /// Why an object isn't one of the pipeline's own, if it isn't: anybody may send a notification, and nothing is read but
    /// the input bucket.
    fn stranger(&self, object: &ObjectEvent) -> Option<String> {
        let (own, other) = (&self.input.name, &object.bucket);
        (own != other).then(|| format!("another bucket: it is in {other}, and files of this pipeline are in {own}"))
    }

    /// Whether this version of an object of a listing has an item. What is read may be stale: an item that once showed the
    /// version is as good as one that does, and one that isn't seen yet is found by [`track`](Self::track).
    pub async fn knows(&self, object: &ObjectEvent) -> Result<bool, OperatorError> {
        let Some(etag) = &object.etag else { return Ok(false) };
        let mut file_key = file_key_of(&object.key, &self.input_prefix, false);
        let date = self.date_of(object, &file_key).await?;
        let uri = object.uri();
        // Under its short key, its full one, or one of those with its etag: where `track` would look in turn.
        for _ in 0..3 {
            let found = self.table.get(&Key::new(&date, &file_key), Consistency::Eventual).await?;
            let Some(item) = found else { return Ok(false) };
            if text(&item, "file_path") != Some(uri.as_str()) {
                file_key = file_key_of(&object.key, &self.input_prefix, true);
            } else if text(&item, "etag") == Some(etag) {
                return Ok(true);
            } else {
                file_key = versioned_key(&file_key, etag);
            }
        }
        Ok(false)
    }

    /// The write that makes the item of a new file.
    fn make(&self, object: &ObjectEvent, target: &Target, date: &str, file_key: &str) -> Write {
        let shard = shard_of(file_key);
        let now = self.clock.now();
        let condition = Condition::absent(attribute::FILE_KEY);
        let write = Write::put(Key::new(date, file_key), Item::default(), condition)
            .set("file_path", object.uri())
            .set_number("shard_id", shard)
            .set("created_at", format_time(now))
            .set_number(attribute::SCHEMA_VERSION, SCHEMA_VERSION);
        self.stamp(write, object, target, shard, now)
    }

    /// The write that puts a newer version of the file in the place of the one that was read.
    fn replace(&self, item: &FileItem, object: &ObjectEvent, target: &Target) -> Write {
        let seen = |value: &Option<String>| value.clone().map(AttributeValue::S);
        let condition = Condition::equals(attribute::STATUS, &item.status)
            .and(Condition::as_read("etag", seen(&item.etag).as_ref()))
            .and(Condition::as_read("sequencer", seen(&item.sequencer).as_ref()))
            .and(Condition::as_read(attribute::CLAIMED_AT, seen(&item.claimed_at).as_ref()));
        let mut write = Write::update(item.key(), condition).remove(attribute::MANIFEST_PATH);
        if object.sequencer.is_none() {
            write = write.remove("sequencer");
        }
        if object.version_id.is_none() {
            write = write.remove("version_id");
        }
        if *target == Target::Pending {
            write = write.remove(attribute::TTL);
        }
        self.stamp(write, object, target, item.shard_id, self.clock.now())
    }

    fn stamp(&self, write: Write, object: &ObjectEvent, target: &Target, shard: u8, now: DateTime<Utc>) -> Write {
        let mut write = write.set_number("size_bytes", object.size_bytes).set(attribute::UPDATED_AT, format_time(now));
        for (name, value) in
            [("etag", &object.etag), ("sequencer", &object.sequencer), ("version_id", &object.version_id)]
        {
            if let Some(value) = value {
                write = write.set(name, value);
            }
        }
        match target {
            Target::Pending => write
                .set(attribute::STATUS, FileState::Pending.status(shard))
                .set(attribute::PENDING_SINCE, format_time(now)),
            Target::Quarantined(reason) => write
                .set(attribute::STATUS, FileState::Quarantined.status(shard))
                .set("error_message", reason)
                .set_number(attribute::TTL, (now + self.ttl).timestamp()),
        }
    }

    /// The date that an object belongs to: the first in its key, else the UTC date of its notification.
    ///
    /// A listing has another time than the notification had, so around midnight another date: what a listing tells of an
    /// undated key is looked for under both neighbouring days first.
    async fn date_of(&self, object: &ObjectEvent, file_key: &str) -> Result<String, CloudError> {
        if let Some((_, date)) = date_of_key(&object.key) {
            return Ok(date.to_owned());
        }
        let time = DateTime::from_timestamp_millis(object.event_ms).unwrap_or_default();
        let date_in = |days: i64| (time + TimeDelta::days(days)).format("%Y-%m-%d").to_string();
        if object.sequencer.is_none() {
            for neighbour in [date_in(-1), date_in(1)] {
                let item = self.table.get(&Key::new(&neighbour, file_key), Consistency::Strong).await?;
                if item.is_some_and(|item| text(&item, "file_path") == Some(object.uri().as_str())) {
                    return Ok(neighbour);
                }
            }
        }
        Ok(date_in(0))
    }

    /// The manifest that a file is in, if it hasn't expired.
    async fn manifest_of(&self, file: &FileItem) -> Result<Option<ManifestItem>, OperatorError> {
        match file.manifest_key() {
            Some(key) => read_manifest(&*self.table, &key).await,
            None => Ok(None),
        }
    }

    async fn ask_bucket(&self, object: &ObjectEvent) -> Result<Current, CloudError> {
        if self.stranger(object).is_some() {
            return Ok(Current::Other);
        }
        let head = self.input.stage.head(&object.key).await?;
        let same = head.is_some_and(|head| object.etag.as_deref() == Some(head.etag.as_str()));
        Ok(if same { Current::This } else { Current::Other })
    }

    fn read(&self, item: &Item) -> Result<FileItem, ItemError> {
        read_item("file", item)
    }
}

impl From<ItemError> for OperatorError {
    fn from(error: ItemError) -> Self {
        Self::permanent(error.to_string())
    }
}

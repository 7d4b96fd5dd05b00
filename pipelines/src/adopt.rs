//! Taking over the table of the previous system: which of its items is what, and what makes each one ours.
//!
//! The previous system must be stopped. It knew a file by its path alone, claimed files for manifests whose items have no
//! `schema_version`, and left some of them half-way. Nothing is taken for converted that isn't shown to be, and nothing is
//! converted again that is; where that can't be told a person says which. Its objects are looked for under their keys in our
//! own buckets, into which they have to be copied first. Every step is a conditional write on what was
//! read, so that adopting again, or beside a service that runs, does no harm.

use std::collections::BTreeMap;

use anyhow::Context;
use chrono::{DateTime, SecondsFormat, Utc};
use object_store::ObjectStoreExt;
use penstock_engine::cloud::{
    AttributeValue, Bucket, Cloud, Item, Table,
    stage::ObjectHead,
    table::{Carried, Condition, Key, Query, Write, carry_out, query_all},
};
use penstock_operators::model::{
    FileState, MANIFEST_KEY_PREFIX, ManifestState, SCHEMA_VERSION, SHARDS, STATUS_INDEX, attribute, shard_of, text,
};

use crate::facts::TRACKING_TABLE;

/// What is to become of manifests that the previous system was processing when it was stopped: its job may have written
/// their output, or a part of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Processing {
    /// Leave them, and list them.
    #[default]
    Leave,
    /// Convert their files again: nothing is lost, and rows that were written come twice.
    Redo,
    /// Take them for done: nothing comes twice, and what wasn't written is lost.
    Done,
}

/// What a file of the previous system becomes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// It waits for a manifest of ours.
    Pending(&'static str),
    /// Its lines are in the output.
    Completed(&'static str),
    /// It can't be converted.
    Failed(String),
    /// It stays as it is: for a person to decide.
    Left(&'static str),
}

/// What the previous system's manifest of a file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Membership {
    /// There is no such manifest.
    NoManifest,
    /// There is one.
    Of {
        /// The state of its item.
        status: String,
        /// Whether its JSON lists the file; `None` if the JSON is gone.
        lists: Option<bool>,
        /// Why it failed.
        error: Option<String>,
    },
}

/// Decides on a file: by its own state, by its manifest, and by whether its object is there.
pub fn decide(state: FileState, membership: &Membership, object_is_there: bool, processing: Processing) -> Step {
    let waiting = |why| match object_is_there {
        true => Step::Pending(why),
        false => Step::Failed("missing: the object is gone, and was never converted".to_owned()),
    };
    match (state, membership) {
        (FileState::Pending, _) => waiting("it was pending"),
        (FileState::Manifested, Membership::NoManifest) => waiting("its manifest has no item"),
        (FileState::Manifested, Membership::Of { status, lists, error }) => {
            match (status.as_str(), lists, processing) {
                // The previous system overwrote manifests of the same second: what a JSON doesn't list was never converted.
                (_, Some(false), _) => waiting("its manifest doesn't list it"),
                ("completed", Some(true), _) => Step::Completed("its manifest is completed and lists it"),
                ("completed", None, _) => {
                    Step::Completed("its manifest is completed; its JSON is gone, so that it lists it is assumed")
                }
                ("failed", ..) => Step::Failed(error.clone().unwrap_or_else(|| "its manifest failed".to_owned())),
                ("processing", _, Processing::Redo) => {
                    waiting("its manifest was being processed, and is to be done again")
                }
                ("processing", _, Processing::Done) => {
                    Step::Completed("its manifest was being processed, and is taken for done")
                }
                ("processing", _, Processing::Leave) => {
                    Step::Left("its manifest was being processed: choose with --processing")
                }
                _ => waiting("its manifest was not begun"),
            }
        }
        // Final states stay: readers know them.
        _ => Step::Left("it is final"),
    }
}

/// What adopting did, or would do.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Files by what they become and why.
    pub files: BTreeMap<(&'static str, String), u64>,
    /// Manifests by what they become.
    pub manifests: BTreeMap<&'static str, u64>,
    /// Items that changed while they were looked at: adopt again.
    pub changed: u64,
    /// Files that a person has to decide on.
    pub undecided: Vec<String>,
}

/// Takes the table over, or, without `apply`, says what that would do.
pub async fn adopt(
    cloud: &dyn Cloud,
    apply: bool,
    processing: Processing,
    now: DateTime<Utc>,
) -> anyhow::Result<Outcome> {
    let table = cloud.table(TRACKING_TABLE).await?;
    let adoption = Adoption {
        input: cloud.bucket("input").await?,
        manifests: cloud.bucket("manifest").await?,
        old: old_manifests(&*table).await?,
        table: &*table,
        apply,
        processing,
        now: now.to_rfc3339_opts(SecondsFormat::Millis, true),
    };
    let (mut outcome, mut lists) = (Outcome::default(), BTreeMap::new());
    for state in [FileState::Pending, FileState::Manifested] {
        for item in old_files(&*table, state).await? {
            adoption.file(state, &item, &mut lists, &mut outcome).await?;
        }
    }
    // After their files: a manifest without files is nobody's.
    for (path, item) in &adoption.old {
        adoption.manifest(path, item, &mut outcome).await?;
    }
    Ok(outcome)
}

/// The files that the previous system left in a state: those without an etag. The index once held statuses without shard.
async fn old_files(table: &dyn Table, state: FileState) -> anyhow::Result<Vec<Item>> {
    let statuses = (0..SHARDS).map(|shard| state.status(shard)).chain([state.as_str().to_owned()]);
    let mut found = Vec::new();
    for status in statuses {
        for item in query_all(table, Query::index(STATUS_INDEX, status)).await? {
            let is_manifest = text(&item, attribute::FILE_KEY).is_none_or(|key| key.starts_with(MANIFEST_KEY_PREFIX));
            if !is_manifest && !item.contains_key("etag") && item.contains_key("file_path") {
                found.push(item);
            }
        }
    }
    Ok(found)
}

/// The previous system's manifests, by their path.
async fn old_manifests(table: &dyn Table) -> anyhow::Result<BTreeMap<String, Item>> {
    let mut found = BTreeMap::new();
    for state in ManifestState::ALL {
        for item in query_all(table, Query::index(STATUS_INDEX, state.as_str())).await? {
            let is_old = !item.contains_key(attribute::SCHEMA_VERSION);
            let is_manifest = text(&item, attribute::FILE_KEY).is_some_and(|key| key.starts_with(MANIFEST_KEY_PREFIX));
            if let Some(path) = text(&item, attribute::MANIFEST_PATH).filter(|_| is_old && is_manifest) {
                found.insert(path.to_owned(), item.clone());
            }
        }
    }
    Ok(found)
}

struct Adoption<'a> {
    table: &'a dyn Table,
    input: Bucket,
    manifests: Bucket,
    old: BTreeMap<String, Item>,
    apply: bool,
    processing: Processing,
    now: String,
}

/// What the JSON objects of manifests list, by path; `None` where there is none.
type Lists = BTreeMap<String, Option<Vec<String>>>;

impl Adoption<'_> {
    async fn file(
        &self,
        state: FileState,
        item: &Item,
        lists: &mut Lists,
        outcome: &mut Outcome,
    ) -> anyhow::Result<()> {
        let of = |name: &str| text(item, name).map(str::to_owned).with_context(|| format!("an item has no {name}"));
        let (key, uri) = (Key::new(of(attribute::DATE_PREFIX)?, of(attribute::FILE_KEY)?), of("file_path")?);
        let membership = self.membership(item, &uri, lists).await?;
        let object = key_of(&uri).with_context(|| format!("{uri} is no URI of an object"))?;
        let head = self.input.stage.head(object).await?;
        let step = decide(state, &membership, head.is_some(), self.processing);
        let place = format!("{}/{}", key.partition, key.sort);
        let (becomes, why) = match &step {
            Step::Pending(why) => ("pending", (*why).to_owned()),
            Step::Completed(why) => ("completed", (*why).to_owned()),
            Step::Failed(why) => ("failed", why.clone()),
            Step::Left(why) => {
                outcome.undecided.push(format!("{place}: {why}"));
                ("left as it is", (*why).to_owned())
            }
        };
        *outcome.files.entry((becomes, why)).or_default() += 1;
        let found = head.as_ref().map(|head| (object, head));
        let Some(write) = self.write_of(key, item, &step, found) else { return Ok(()) };
        self.carry_out(&write, outcome).await
    }

    /// The write that makes a file ours, on the condition that it is as it was read.
    fn write_of(&self, key: Key, item: &Item, step: &Step, found: Option<(&str, &ObjectHead)>) -> Option<Write> {
        let shard = shard_of(&key.sort);
        let as_read = |name: &str| Condition::as_read(name, item.get(name));
        let condition =
            as_read(attribute::STATUS).and(as_read(attribute::MANIFEST_PATH)).and(Condition::absent("etag"));
        let mut write = Write::update(key, condition)
            .set_number("shard_id", shard)
            .set("adopted_at", &self.now)
            .set(attribute::UPDATED_AT, &self.now);
        if let Some((object, head)) = found {
            write = write.set("etag", &head.etag).set_number("size_bytes", head.size_bytes);
            // Its bucket had another name: from now on it is the one in ours.
            write = write.set("file_path", format!("s3://{}/{object}", self.input.name));
            if let Some(version) = &head.version {
                write = write.set("version_id", version);
            }
        }
        Some(match step {
            Step::Pending(_) => write
                .set(attribute::STATUS, FileState::Pending.status(shard))
                .set(attribute::PENDING_SINCE, &self.now)
                .remove(attribute::MANIFEST_PATH)
                .remove(attribute::TTL),
            Step::Completed(_) => {
                write.set(attribute::STATUS, FileState::Completed.status(shard)).set("completed_time", &self.now)
            }
            Step::Failed(why) => write
                .set(attribute::STATUS, FileState::Failed.status(shard))
                .set("failed_time", &self.now)
                .set("error_message", why.chars().take(1000).collect::<String>()),
            Step::Left(_) => return None,
        })
    }

    async fn membership(&self, item: &Item, uri: &str, lists: &mut Lists) -> anyhow::Result<Membership> {
        let manifest = text(item, attribute::MANIFEST_PATH);
        let Some((path, manifest)) = manifest.and_then(|path| self.old.get_key_value(path)) else {
            return Ok(Membership::NoManifest);
        };
        if !lists.contains_key(path) {
            lists.insert(path.clone(), self.listed(path).await?);
        }
        let lists = lists.get(path).and_then(Option::as_ref).map(|all| all.iter().any(|listed| listed == uri));
        Ok(Membership::Of {
            status: text(manifest, attribute::STATUS).unwrap_or_default().to_owned(),
            lists,
            error: text(manifest, "error_message").map(str::to_owned),
        })
    }

    /// What a manifest's JSON lists, if it is there.
    async fn listed(&self, path: &str) -> anyhow::Result<Option<Vec<String>>> {
        let Some(key) = key_of(path) else { return Ok(None) };
        let key = object_store::path::Path::parse(key).with_context(|| format!("{path} is no key"))?;
        let found = match self.manifests.store.get(&key).await {
            Ok(found) => found.bytes().await?,
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("{path} can't be read")),
        };
        let json: serde_json::Value =
            serde_json::from_slice(&found).with_context(|| format!("{path} is no manifest of the previous system"))?;
        let locations = json["fileLocations"].as_array().into_iter().flatten();
        let prefixes = locations.filter_map(|location| location["URIPrefixes"].as_array()).flatten();
        Ok(Some(prefixes.filter_map(|uri| uri.as_str().map(str::to_owned)).collect()))
    }

    /// A manifest that was never begun, or is to be done again, is abandoned: its files wait for one of ours.
    async fn manifest(&self, path: &str, item: &Item, outcome: &mut Outcome) -> anyhow::Result<()> {
        let status = text(item, attribute::STATUS).unwrap_or_default();
        let becomes = match (status, self.processing) {
            ("pending", _) | ("processing", Processing::Redo) => ManifestState::Abandoned,
            ("processing", Processing::Done) => ManifestState::Completed,
            _ => {
                *outcome.manifests.entry("left as they are").or_default() += 1;
                return Ok(());
            }
        };
        *outcome.manifests.entry(becomes.as_str()).or_default() += 1;
        let of = |name: &str| text(item, name).map(str::to_owned).with_context(|| format!("{path} has no {name}"));
        let key = Key::new(of(attribute::DATE_PREFIX)?, of(attribute::FILE_KEY)?);
        let condition = Condition::as_read(attribute::STATUS, item.get(attribute::STATUS))
            .and(Condition::absent(attribute::SCHEMA_VERSION));
        let mut write = Write::update(key, condition)
            .set(attribute::STATUS, becomes.as_str())
            .set("adopted_at", &self.now)
            .set(attribute::UPDATED_AT, &self.now);
        if becomes == ManifestState::Abandoned {
            write = write.set_value(attribute::SCHEMA_VERSION, AttributeValue::N(SCHEMA_VERSION.to_string()));
        }
        self.carry_out(&write, outcome).await
    }

    async fn carry_out(&self, write: &Write, outcome: &mut Outcome) -> anyhow::Result<()> {
        if !self.apply {
            return Ok(());
        }
        match carry_out(self.table, write).await? {
            Carried::Applied(_) => {
                tracing::info!(date = write.key.partition, key = write.key.sort, "Item adopted.");
            }
            Carried::Refused(_) => {
                tracing::warn!(
                    date = write.key.partition,
                    key = write.key.sort,
                    "Item changed while it was looked at."
                );
                outcome.changed += 1;
            }
        }
        Ok(())
    }
}

/// The key of an object's URI. The previous system's buckets had other names; what was copied from them kept its key.
fn key_of(uri: &str) -> Option<&str> {
    uri.strip_prefix("s3://")?.split_once('/').map(|(_, key)| key).filter(|key| !key.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(status: &str, lists: Option<bool>) -> Membership {
        Membership::Of { status: status.to_owned(), lists, error: Some("Glue failed".to_owned()) }
    }

    #[test]
    fn i1_nothing_is_completed_that_its_manifest_does_not_list() {
        for status in ["pending", "processing", "completed", "failed"] {
            for processing in [Processing::Leave, Processing::Redo, Processing::Done] {
                let step = decide(FileState::Manifested, &of(status, Some(false)), true, processing);
                assert!(matches!(step, Step::Pending(_)), "{status} {processing:?}: {step:?}");
            }
        }
    }

    #[test]
    fn what_a_manifest_says_decides() {
        let step = |membership: &Membership| decide(FileState::Manifested, membership, true, Processing::Leave);
        assert!(matches!(step(&of("completed", Some(true))), Step::Completed(_)));
        assert!(matches!(step(&of("completed", None)), Step::Completed(_)));
        assert_eq!(step(&of("failed", Some(true))), Step::Failed("Glue failed".to_owned()));
        assert!(matches!(step(&of("pending", Some(true))), Step::Pending(_)));
        assert!(matches!(step(&of("pending", None)), Step::Pending(_)));
        assert!(matches!(step(&Membership::NoManifest), Step::Pending(_)));
        assert!(matches!(step(&of("processing", Some(true))), Step::Left(_)));
    }

    #[test]
    fn what_was_being_processed_is_for_a_person_to_say() {
        let step = |processing| decide(FileState::Manifested, &of("processing", Some(true)), true, processing);
        assert!(matches!(step(Processing::Redo), Step::Pending(_)));
        assert!(matches!(step(Processing::Done), Step::Completed(_)));
    }

    #[test]
    fn an_object_that_is_gone_fails_with_its_reason() {
        let step = decide(FileState::Pending, &Membership::NoManifest, false, Processing::Leave);
        assert!(matches!(step, Step::Failed(why) if why.starts_with("missing")));
        assert!(matches!(
            decide(FileState::Completed, &Membership::NoManifest, false, Processing::Redo),
            Step::Left(_)
        ));
    }
}

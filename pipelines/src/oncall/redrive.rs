//! Redrive: files that failed or are in quarantine become pending again, and dead letters go back where they came from.
//!
//! A file is set back only while the bucket still shows the version that its item tells of; else its rows would be of
//! another content than the item says; and not while rows of it may be visible already, unless a person insists.
//! Everything is decided first, then shown, and only then done.

mod letters;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use anyhow::{Context, bail};
use chrono::Utc;
use futures::{StreamExt, TryStreamExt, stream};
use penstock_engine::{
    cloud::{
        AttributeValue, Bucket, Cloud, Table,
        stage::{ObjectHead, TOKEN, Upload},
        table::{Carried, Condition, Consistency, Key, Query, Range, Write, carry_out, query_all},
    },
    time::format_time,
};
use penstock_operators::{
    fold::protocol::{read_manifest, read_manifest_json},
    model::{FileItem, FileState, ManifestItem, SHARDS, STATUS_INDEX, attribute, id_of_key, read_item, shard_of, text},
};
use serde::{Deserialize, Serialize};

pub use letters::dead_letter_queues;

use super::{Layout, find::find_manifest};
use crate::loader::Pipeline;

/// Looks at the bucket, and writes, that are under way at once.
const CONCURRENCY: usize = 32;

/// What to redrive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Selection {
    /// These files.
    Files(Vec<FileName>),
    /// All failed files of a manifest.
    Manifest {
        /// Its date, if it is known.
        date: Option<String>,
        /// Its id.
        id: String,
    },
    /// All files of a date in this state: `failed` or `quarantined`.
    Date {
        /// The date.
        date: String,
        /// The state.
        state: String,
    },
    /// The messages of a queue of dead letters.
    Letters {
        /// The queue's short name.
        queue: String,
    },
}

/// What a person wants redriven, and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// Which files or messages.
    pub selection: Selection,
    /// Whether to do it; else only what would be done is told.
    pub act: bool,
    /// Whether to do it to files of a [`LostCommit`], too.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
}

/// The key of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileName {
    /// Its date.
    pub date: String,
    /// Its key below the date.
    pub file_key: String,
}

/// One file or message, and what is, or would be, done with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// The file or message.
    pub what: String,
    /// What is wrong with it: why it failed.
    pub reason: String,
    /// What becomes of it.
    pub outcome: Outcome,
    /// Why it is left as it is, or where it goes.
    pub because: String,
}

/// What becomes of a file or message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It would be redriven.
    Would,
    /// It was.
    Redriven,
    /// It is left as it is.
    Left,
}

impl Step {
    fn left(what: impl Into<String>, reason: impl Into<String>, because: impl Into<String>) -> Self {
        Self { what: what.into(), reason: reason.into(), outcome: Outcome::Left, because: because.into() }
    }
}

/// Decides about what is asked for, and carries it out if it is to. Whatever comes in the way of one file or message is told
/// with it, and keeps no other from being told.
pub async fn redrive(cloud: &dyn Cloud, pipeline: &Pipeline, request: &Request) -> anyhow::Result<Vec<Step>> {
    let layout = Layout::of(pipeline)?;
    if let Selection::Letters { queue } = &request.selection {
        return letters::letters(cloud, pipeline, queue, request.act).await;
    }
    let table = cloud.table(&layout.track.table).await?;
    let files = select(cloud, &layout, &*table, &request.selection).await?;
    let lost = lost_commits(&*table, &cloud.bucket(&layout.convert.output).await?, &files).await;
    let input = cloud.bucket(&layout.track.input).await?;
    let redriver = Redriver { table, input, lost, act: request.act, force: request.force };
    let steps = stream::iter(files).map(|file| redriver.step(file));
    Ok(steps.buffered(CONCURRENCY).collect().await)
}

/// A file that is asked for.
struct Selected {
    key: Key,
    /// Its item; `Err` says why it can't be read.
    file: Result<Option<FileItem>, String>,
}

impl Selected {
    fn file(&self) -> Option<&FileItem> {
        self.file.as_ref().ok()?.as_ref()
    }

    /// Whether it is wanted, as far as can be told: what can't be read is shown.
    fn is(&self, wanted: impl Fn(&FileItem) -> bool) -> bool {
        self.file.as_ref().map_or(true, |file| file.as_ref().is_some_and(wanted))
    }
}

async fn select(
    cloud: &dyn Cloud,
    layout: &Layout,
    table: &dyn Table,
    selection: &Selection,
) -> anyhow::Result<Vec<Selected>> {
    match selection {
        Selection::Files(keys) => read(table, keys.iter().map(|name| Key::new(&name.date, &name.file_key))).await,
        Selection::Manifest { date, id } => {
            let Some(manifest) = find_manifest(table, date.as_deref(), id).await? else {
                bail!("there is no manifest {id}");
            };
            let date = &manifest.date_prefix;
            let bucket = cloud.bucket(&layout.fold.manifests).await?;
            let json = read_manifest_json(&bucket, &layout.fold.manifests_prefix, date, manifest.id()).await?;
            let Some((json, _)) = json else {
                bail!(
                    "manifest {id} has no JSON object, which lists its files: `--failed {date}` shows all of its date"
                )
            };
            let mut found = read(table, json.files.into_iter().map(|member| Key::new(date, member.file_key))).await?;
            let is_here = |file: &FileItem| file.manifest_path.as_ref() == Some(&manifest.manifest_path);
            found.retain(|of| of.is(|file| file.state() == Some(FileState::Failed) && is_here(file)));
            Ok(found)
        }
        Selection::Date { date, state } => {
            let state = FileState::parse(state)
                .filter(|state| matches!(state, FileState::Failed | FileState::Quarantined))
                .with_context(|| {
                    format!("files that are `{state}` can't be redriven: failed or quarantined ones can")
                })?;
            let mut keys = Vec::new();
            for shard in 0..SHARDS {
                let query = Query::index(STATUS_INDEX, state.status(shard)).range(Range::Equals(date.clone()));
                let items = query_all(table, query).await?;
                keys.extend(items.iter().filter_map(|item| Some(Key::new(date, text(item, attribute::FILE_KEY)?))));
            }
            // The index is stale.
            let mut found = read(table, keys.into_iter()).await?;
            found.retain(|of| of.is(|file| file.state() == Some(state)));
            Ok(found)
        }
        Selection::Letters { .. } => Ok(Vec::new()),
    }
}

async fn read(table: &dyn Table, keys: impl Iterator<Item = Key>) -> anyhow::Result<Vec<Selected>> {
    let found = stream::iter(keys.collect::<Vec<_>>()).map(|key| async move {
        let item = table.get(&key, Consistency::Strong).await?;
        let file = item.map(|item| read_item("file", &item)).transpose();
        anyhow::Ok(Selected { key, file: file.map_err(|error| error.to_string()) })
    });
    found.buffered(CONCURRENCY).try_collect().await
}

/// A manifest that failed with its outputs recorded: rows of its files may be there, and be there twice if these are
/// converted again.
///
/// That the commit was recorded is enough, whatever readers see now: whoever was completing it may still be at it. What they
/// see is told to the person who has to decide.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LostCommit {
    /// Its id.
    pub manifest: String,
    /// The outputs that readers see; `Err` says why it can't be told whether there are any.
    pub visible: Result<Vec<String>, String>,
}

impl fmt::Display for LostCommit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { manifest, visible } = self;
        match visible {
            Ok(visible) if visible.is_empty() => {
                write!(f, "its manifest {manifest} failed with its outputs recorded, and readers see none of them now")
            }
            Ok(visible) => {
                let visible = visible.join(", ");
                write!(f, "its manifest {manifest} failed with its outputs recorded, and readers see {visible}")
            }
            Err(why) => write!(f, "whether readers see rows of manifest {manifest} can't be told: {why}"),
        }
    }
}

/// Those of the manifests of these files, by key.
async fn lost_commits(table: &dyn Table, output: &Bucket, files: &[Selected]) -> BTreeMap<Key, LostCommit> {
    let failed = files.iter().filter_map(Selected::file).filter(|file| file.state() == Some(FileState::Failed));
    let keys: BTreeSet<Key> = failed.filter_map(FileItem::manifest_key).collect();
    let found = stream::iter(keys).map(|key| async move {
        let visible = match read_manifest(table, &key).await {
            Ok(manifest) => {
                let manifest = manifest.filter(ManifestItem::has_lost_commit)?;
                Ok(visible(output, manifest.commit.iter().flat_map(|commit| &commit.uploads)).await)
            }
            Err(error) => Err(error.to_string()),
        };
        Some((key.clone(), LostCommit { manifest: id_of_key(&key.sort).to_owned(), visible }))
    });
    found.buffer_unordered(CONCURRENCY).filter_map(std::future::ready).collect().await
}

/// Which of these uploads readers see.
async fn visible(output: &Bucket, uploads: impl Iterator<Item = &Upload>) -> Vec<String> {
    let mut visible = Vec::new();
    for upload in uploads {
        let uri = format!("s3://{}/{}", output.name, upload.key);
        match output.stage.head(&upload.key).await {
            Ok(Some(head)) if head.metadata.get(TOKEN) == Some(&upload.token) => visible.push(uri),
            Ok(_) => {}
            Err(error) => visible.push(format!("{uri} (unknown: {error})")),
        }
    }
    visible
}

/// Whether a file may be set back, by its item, what the bucket shows, and what became of its manifest. Pure.
pub fn may_redrive(
    file: Option<&FileItem>,
    head: Option<&ObjectHead>,
    lost: Option<&LostCommit>,
    force: bool,
) -> Result<(), String> {
    let Some(file) = file else { return Err("there is no such file".to_owned()) };
    match file.state() {
        Some(FileState::Failed | FileState::Quarantined) => {}
        Some(FileState::Completed) => return Err("it is completed: its rows are there".to_owned()),
        Some(state) => return Err(format!("it is {state}: it goes on by itself")),
        None => return Err(format!("its status `{}` is unknown to this release", file.status)),
    }
    let Some(head) = head else {
        return Err(format!("its object {} is gone: land it again", file.file_path));
    };
    match &file.etag {
        None => Err("its item has no etag: it is the previous system's, `penstock adopt` takes it over".to_owned()),
        Some(etag) if *etag != head.etag => Err(format!(
            "its object was replaced since (etag {} now, {etag} then): the newer version has an item of its own",
            head.etag
        )),
        Some(_) => match lost.filter(|_| !force) {
            Some(lost) => Err(format!(
                "{lost}: its rows may be there twice. Take away what readers see, then `penstock redrive FILE --manifest {} \
                 --force --yes` sets all its files back",
                lost.manifest
            )),
            None => Ok(()),
        },
    }
}

/// The write that sets a file back to pending.
pub fn write_of(file: &FileItem, now: &str) -> Write {
    let shard = shard_of(&file.file_key);
    let seen = |value: &Option<String>| value.clone().map(AttributeValue::S);
    let condition = Condition::equals(attribute::STATUS, &file.status)
        .and(Condition::as_read("etag", seen(&file.etag).as_ref()))
        .and(Condition::as_read(attribute::MANIFEST_PATH, seen(&file.manifest_path).as_ref()));
    let write = Write::update(file.key(), condition)
        .set(attribute::STATUS, FileState::Pending.status(shard))
        .set(attribute::PENDING_SINCE, now)
        .set(attribute::UPDATED_AT, now);
    let gone = ["error_message", "failed_time", "completed_time", "rows", "rejected_rows", "job_run_id"];
    [attribute::MANIFEST_PATH, attribute::TTL].into_iter().chain(gone).fold(write, Write::remove)
}

struct Redriver {
    table: Arc<dyn Table>,
    input: Bucket,
    lost: BTreeMap<Key, LostCommit>,
    act: bool,
    force: bool,
}

impl Redriver {
    async fn step(&self, Selected { key, file }: Selected) -> Step {
        let what = format!("{}/{}", key.partition, key.sort);
        let file = match file {
            Ok(file) => file,
            Err(error) => return Step::left(what, "", error),
        };
        let reason = file.as_ref().and_then(|file| file.error_message.clone()).unwrap_or_default();
        match self.decide(&what, file).await {
            Ok((outcome, because)) => Step { what, reason, outcome, because },
            Err(error) => Step::left(what, reason, format!("{error:#}")),
        }
    }

    async fn decide(&self, what: &str, file: Option<FileItem>) -> anyhow::Result<(Outcome, String)> {
        let head = match file.as_ref().and_then(|file| object_key(&file.file_path, &self.input.name)) {
            Some(object) => self.input.stage.head(object).await?,
            None => None,
        };
        let lost = file.as_ref().and_then(FileItem::manifest_key).and_then(|key| self.lost.get(&key));
        let file = match (may_redrive(file.as_ref(), head.as_ref(), lost, self.force), file) {
            (Err(because), _) => return Ok((Outcome::Left, because)),
            (Ok(()), None) => return Ok((Outcome::Left, "there is no such file".to_owned())),
            (Ok(()), Some(file)) => file,
        };
        let though = lost.map_or_else(String::new, |lost| format!(", though {lost}"));
        if !self.act {
            return Ok((Outcome::Would, format!("would become pending again{though}")));
        }
        match carry_out(&*self.table, &write_of(&file, &format_time(Utc::now()))).await? {
            Carried::Applied(_) => {
                let (was, reason, forced) = (file.status, file.error_message, lost.is_some());
                tracing::info!(file = what, was, reason, forced, "File redriven by hand.");
                Ok((Outcome::Redriven, format!("it is pending again{though}")))
            }
            Carried::Refused(_) => Ok((Outcome::Left, "it changed meanwhile: look again".to_owned())),
        }
    }
}

/// The key of an object of this bucket.
pub fn object_key<'a>(uri: &'a str, bucket: &str) -> Option<&'a str> {
    uri.strip_prefix("s3://")?.strip_prefix(bucket)?.strip_prefix('/')
}

#[cfg(test)]
mod tests {
    use penstock_engine::cloud::table::KeyNames;
    use penstock_operators::transitions::judge;

    use super::*;

    fn file(state: FileState) -> FileItem {
        let text = serde_json::json!({
            "date_prefix": "2026-02-01", "file_key": "a", "status": state.status(shard_of("a")), "etag": "e1",
            "file_path": "s3://in/a", "manifest_path": "s3://m/x.json", "error_message": "missing",
        });
        serde_json::from_value(text).unwrap()
    }

    fn head(etag: &str) -> ObjectHead {
        ObjectHead {
            size_bytes: 1,
            etag: etag.to_owned(),
            version: None,
            last_modified: Utc::now(),
            metadata: Default::default(),
        }
    }

    #[test]
    fn only_what_failed_and_is_still_there_is_set_back() {
        for state in FileState::ALL {
            let may = may_redrive(Some(&file(state)), Some(&head("e1")), None, false).is_ok();
            assert_eq!(may, matches!(state, FileState::Failed | FileState::Quarantined), "{state}");
        }
        let failed = file(FileState::Failed);
        for force in [false, true] {
            assert!(may_redrive(Some(&failed), Some(&head("e2")), None, force).unwrap_err().contains("replaced"));
            assert!(may_redrive(Some(&failed), None, None, force).unwrap_err().contains("gone"));
            assert!(may_redrive(None, Some(&head("e1")), None, force).is_err());
        }
    }

    #[test]
    fn i1_what_readers_may_see_already_is_set_back_only_by_force_and_whoever_decides_is_told_what_they_see() {
        let (failed, head) = (file(FileState::Failed), head("e1"));
        for (visible, words) in [
            (Ok(vec!["s3://out/x-p0.parquet".to_owned()]), "readers see s3://out/x-p0.parquet"),
            (Ok(Vec::new()), "readers see none of them now"),
            (Err("throttled".to_owned()), "can't be told: throttled"),
        ] {
            let lost = LostCommit { manifest: "x".to_owned(), visible };
            let refused = may_redrive(Some(&failed), Some(&head), Some(&lost), false).unwrap_err();
            assert!(refused.contains(words) && refused.contains("--manifest x --force"), "{refused}");
            assert_eq!(may_redrive(Some(&failed), Some(&head), Some(&lost), true), Ok(()));
        }
    }

    #[test]
    fn i3_the_write_asks_for_the_state_as_shown_and_leaves_no_trace_of_the_failure() {
        let failed = file(FileState::Failed);
        let write = write_of(&failed, "now");
        let keys = KeyNames { partition: "date_prefix".to_owned(), sort: "file_key".to_owned() };
        let item = |file: &FileItem| serde_dynamo::to_item(file).unwrap();
        assert!(write.condition.holds(Some(&item(&failed))));
        for state in [FileState::Pending, FileState::Manifested, FileState::Completed, FileState::Quarantined] {
            assert!(!write.condition.holds(Some(&item(&file(state)))), "{state}");
        }
        judge("person", &write).unwrap();
        let elsewhere = FileItem { manifest_path: Some("s3://m/y.json".to_owned()), ..failed.clone() };
        assert!(!write.condition.holds(Some(&item(&elsewhere))), "it failed again, in another manifest");
        let after: FileItem = read_item("file", &write.apply(&keys, Some(&item(&failed))).unwrap()).unwrap();
        assert_eq!(after.state(), Some(FileState::Pending));
        assert_eq!(
            (after.manifest_path, after.error_message, after.pending_since.as_deref()),
            (None, None, Some("now"))
        );
    }
}

//! Redrive: files that failed or are in quarantine become pending again, and dead letters go back where they came from.
//!
//! A file is set back only while the bucket still shows the version that its item tells of; else its rows would be of
//! another content than the item says. Everything is decided first, then shown, and only then done.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use anyhow::{Context, bail};
use chrono::Utc;
use futures::{StreamExt, stream};
use penstock_engine::{
    cloud::{
        AttributeValue, Bucket, Cloud, Table,
        queue::{Message, Outgoing},
        stage::ObjectHead,
        table::{Carried, Condition, Consistency, Key, Query, Range, Write, carry_out, query_all},
    },
    time::format_time,
};
use penstock_operators::{
    fold::protocol::read_manifest_json,
    model::{FileItem, FileState, SHARDS, STATUS_INDEX, attribute, read_item, shard_of},
};
use serde::{Deserialize, Serialize};

use super::{Layout, find::find_manifest};
use crate::loader::Pipeline;

/// Looks at the bucket, and writes, that are under way at once.
const CONCURRENCY: usize = 32;

/// The most messages that one call sends back.
const MAX_LETTERS: usize = 1000;

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

/// Decides about a selection, and with `act` carries it out.
pub async fn redrive(
    cloud: &dyn Cloud,
    pipeline: &Pipeline,
    selection: &Selection,
    act: bool,
) -> anyhow::Result<Vec<Step>> {
    let layout = Layout::of(pipeline)?;
    if let Selection::Letters { queue } = selection {
        return letters(cloud, pipeline, queue, act).await;
    }
    let table = cloud.table(&layout.track.table).await?;
    let input = cloud.bucket(&layout.track.input).await?;
    let files = select(cloud, &layout, &*table, selection).await?;
    let steps = stream::iter(files).map(|(key, file)| one(&*table, &input, key, file, act));
    let steps: Vec<anyhow::Result<Step>> = steps.buffered(CONCURRENCY).collect().await;
    steps.into_iter().collect()
}

async fn select(
    cloud: &dyn Cloud,
    layout: &Layout,
    table: &dyn Table,
    selection: &Selection,
) -> anyhow::Result<Vec<(Key, Option<FileItem>)>> {
    let get = |key: Key| async move {
        let item = table.get(&key, Consistency::Strong).await?;
        let file = item.map(|item| read_item::<FileItem>("file", &item)).transpose()?;
        anyhow::Ok((key, file))
    };
    match selection {
        Selection::Files(keys) => {
            let mut found = Vec::new();
            for key in keys {
                found.push(get(Key::new(&key.date, &key.file_key)).await?);
            }
            Ok(found)
        }
        Selection::Manifest { date, id } => {
            let Some(manifest) = find_manifest(table, date.as_deref(), id).await? else {
                bail!("there is no manifest {id}");
            };
            let date = &manifest.date_prefix;
            let bucket = cloud.bucket(&layout.fold.manifests).await?;
            let json = read_manifest_json(&bucket, &layout.fold.manifests_prefix, date, manifest.id()).await?;
            let Some((json, _)) = json else { bail!("manifest {id} has no JSON object: it was never committed") };
            let mut found = Vec::new();
            for member in json.files {
                let (key, file) = get(Key::new(date, member.file_key)).await?;
                let is_failed = file.as_ref().is_some_and(|file| file.state() == Some(FileState::Failed));
                let is_here =
                    file.as_ref().and_then(|file| file.manifest_path.as_ref()) == Some(&manifest.manifest_path);
                if is_failed && is_here {
                    found.push((key, file));
                }
            }
            Ok(found)
        }
        Selection::Date { date, state } => {
            let state = FileState::parse(state)
                .filter(|state| matches!(state, FileState::Failed | FileState::Quarantined))
                .with_context(|| {
                    format!("files that are `{state}` can't be redriven: failed or quarantined ones can")
                })?;
            let mut found = Vec::new();
            for shard in 0..SHARDS {
                let query = Query::index(STATUS_INDEX, state.status(shard)).range(Range::Equals(date.clone()));
                for item in query_all(table, query).await? {
                    let file: FileItem = read_item("file", &item)?;
                    // The index is stale.
                    found.push(get(file.key()).await?);
                }
            }
            found.retain(|(_, file)| file.as_ref().is_some_and(|file| file.state() == Some(state)));
            Ok(found)
        }
        Selection::Letters { .. } => Ok(Vec::new()),
    }
}

/// Whether a file may be set back, by its item and what the bucket shows. Pure.
pub fn may_redrive(file: Option<&FileItem>, head: Option<&ObjectHead>) -> Result<(), String> {
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
        Some(_) => Ok(()),
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

async fn one(table: &dyn Table, input: &Bucket, key: Key, file: Option<FileItem>, act: bool) -> anyhow::Result<Step> {
    let head = match file.as_ref().and_then(|file| object_key(&file.file_path, &input.name)) {
        Some(object) => input.stage.head(object).await?,
        None => None,
    };
    let mut step = Step {
        what: format!("{}/{}", key.partition, key.sort),
        reason: file.as_ref().and_then(|file| file.error_message.clone()).unwrap_or_default(),
        outcome: Outcome::Left,
        because: String::new(),
    };
    match (may_redrive(file.as_ref(), head.as_ref()), file) {
        (Err(because), _) => step.because = because,
        (Ok(()), Some(file)) if act => match carry_out(table, &write_of(&file, &format_time(Utc::now()))).await? {
            Carried::Applied(_) => {
                tracing::info!(file = step.what, was = file.status, reason = step.reason, "File redriven by hand.");
                step.outcome = Outcome::Redriven;
                step.because = "it is pending again".to_owned();
            }
            Carried::Refused(_) => step.because = "it changed meanwhile: look again".to_owned(),
        },
        (Ok(()), _) => {
            step.outcome = Outcome::Would;
            step.because = "would become pending again".to_owned();
        }
    }
    Ok(step)
}

/// The key of an object of this bucket.
pub fn object_key<'a>(uri: &'a str, bucket: &str) -> Option<&'a str> {
    uri.strip_prefix("s3://")?.strip_prefix(bucket)?.strip_prefix('/')
}

/// Where a dead letter goes: its text tells. Pure.
///
/// A queue of dead letters may serve several queues and a change stream. A change isn't a message of any queue: what it
/// told of stands in the table, where the readings of the index and the sweep find it.
pub fn destination<'a>(body: &str, sources: &'a [(String, Sort)]) -> Result<&'a str, String> {
    let json: serde_json::Value = serde_json::from_str(body)
        .map_err(|error| format!("its text is no JSON ({error}): no operator can read it"))?;
    let sort = if json.get("sequence").is_some() && json.get("images_cut").is_some() {
        return Err("a change of the table: what it told of is found there by the sweep; delete it once that is done"
            .to_owned());
    } else if json.get("detail-type").is_some() {
        Sort::Event
    } else {
        Sort::Notification
    };
    let mut fitting = sources.iter().filter(|(_, of)| *of == sort);
    match (fitting.next(), fitting.next()) {
        (Some((queue, _)), None) => Ok(queue),
        (None, _) => Err("no queue whose dead letters these are takes such messages".to_owned()),
        (Some(_), Some(_)) => Err("more than one queue could have sent it".to_owned()),
    }
}

/// What a queue's messages are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sort {
    /// Events of the bus.
    Event,
    /// Notifications of new objects, and anything else.
    Notification,
}

/// The queues whose dead letters go to `dead`, and what they carry.
fn sources_of(pipeline: &Pipeline, dead: &str) -> Vec<(String, Sort)> {
    let from_bus = |queue: &str| {
        let rules = pipeline.resources.buses.values().flat_map(|bus| bus.rules.values());
        rules
            .flat_map(|rule| &rule.targets)
            .any(|target| matches!(target, penstock_engine::cloud::resources::TargetSpec::Queue(name) if name == queue))
    };
    let queues = pipeline.resources.queues.iter();
    let of = queues.filter(|(_, spec)| spec.dead_letter.as_ref().is_some_and(|letter| letter.queue == dead));
    of.map(|(name, _)| (name.clone(), if from_bus(name) { Sort::Event } else { Sort::Notification })).collect()
}

async fn letters(cloud: &dyn Cloud, pipeline: &Pipeline, queue: &str, act: bool) -> anyhow::Result<Vec<Step>> {
    let known = dead_letter_queues(pipeline);
    if !known.contains(queue) {
        let known: Vec<&str> = known.iter().map(String::as_str).collect();
        bail!("`{queue}` holds no dead letters; these do: {}", known.join(", "));
    }
    let sources = sources_of(pipeline, queue);
    let dead = cloud.queue(queue).await?;
    let mut steps = Vec::new();
    let mut held: BTreeMap<String, Message> = BTreeMap::new();
    while steps.len() < MAX_LETTERS {
        let messages = dead.receive(10, Duration::ZERO).await?;
        // What comes again was shown already.
        let fresh: Vec<Message> = messages.into_iter().filter(|message| !held.contains_key(&message.id)).collect();
        if fresh.is_empty() {
            break;
        }
        for message in fresh {
            let mut step = Step {
                what: format!("message {}", message.id),
                reason: excerpt(&message.body),
                outcome: Outcome::Left,
                because: String::new(),
            };
            match destination(&message.body, &sources) {
                Err(because) => step.because = because,
                Ok(target) if act => {
                    // Sent first: a crash between the two makes a duplicate, which every operator bears.
                    let sent = cloud.queue(target).await?.send(&[Outgoing::new(message.body.clone())]).await?;
                    sent.into_iter().collect::<Result<Vec<()>, _>>()?;
                    dead.delete(std::slice::from_ref(&message.receipt))
                        .await?
                        .into_iter()
                        .collect::<Result<Vec<()>, _>>()?;
                    tracing::info!(message_id = message.id, from = queue, to = target, "Dead letter redriven by hand.");
                    step.outcome = Outcome::Redriven;
                    step.because = format!("sent to {target}");
                }
                Ok(target) => {
                    step.outcome = Outcome::Would;
                    step.because = format!("would go to {target}");
                }
            }
            let is_gone = step.outcome == Outcome::Redriven;
            steps.push(step);
            if !is_gone {
                held.insert(message.id.clone(), message);
            }
        }
    }
    for message in held.values() {
        dead.set_visibility(&message.receipt, Duration::ZERO).await?;
    }
    Ok(steps)
}

/// The queues that hold dead letters: of other queues, or of change streams.
pub fn dead_letter_queues(pipeline: &Pipeline) -> BTreeSet<String> {
    let of_queues = pipeline.resources.queues.values();
    let of_queues = of_queues.filter_map(|queue| Some(queue.dead_letter.as_ref()?.queue.clone()));
    let of_nodes = pipeline.graph.nodes.iter();
    let of_nodes = of_nodes.filter_map(|node| Some(node.options.get("dead_letter")?.as_str()?.to_owned()));
    of_queues.chain(of_nodes).collect()
}

fn excerpt(body: &str) -> String {
    let shown: String = body.chars().take(200).collect();
    if shown.len() < body.len() { format!("{shown}…") } else { shown }
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
            let may = may_redrive(Some(&file(state)), Some(&head("e1"))).is_ok();
            assert_eq!(may, matches!(state, FileState::Failed | FileState::Quarantined), "{state}");
        }
        let failed = file(FileState::Failed);
        assert!(may_redrive(Some(&failed), Some(&head("e2"))).unwrap_err().contains("replaced"));
        assert!(may_redrive(Some(&failed), None).unwrap_err().contains("gone"));
        assert!(may_redrive(None, Some(&head("e1"))).is_err());
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

    #[test]
    fn a_dead_letter_goes_where_such_messages_are_read() {
        let sources = [("events".to_owned(), Sort::Notification), ("ready".to_owned(), Sort::Event)];
        assert_eq!(destination(r#"{"Records":[]}"#, &sources), Ok("events"));
        assert_eq!(destination(r#"{"detail-type":"ManifestReady"}"#, &sources), Ok("ready"));
        assert!(destination(r#"{"sequence":"1","images_cut":[]}"#, &sources).unwrap_err().contains("sweep"));
        assert!(destination("{", &sources).unwrap_err().contains("no JSON"));
        assert!(destination(r#"{"detail-type":"x"}"#, &sources[..1]).is_err());
    }
}

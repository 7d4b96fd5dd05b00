//! The facts of a story, by key: items, objects, reports, leases, and on demand the stream.

use std::sync::Arc;

use anyhow::{Context, bail};
use chrono::{DateTime, Utc};
use futures::{StreamExt, TryStreamExt, stream};
use object_store::{ObjectStoreExt, path::Path};
use penstock_engine::{
    cloud::{
        AttributeValue, Bucket, Cloud, Item, Table,
        change_stream::{Change, DescribeRequest, IteratorStart},
        limits::RECORDS_PER_PAGE,
        table::{Consistency, Key},
    },
    leases::OWNER,
};
use penstock_operators::{
    attempt::MANIFEST_SCOPE,
    fold::protocol::read_manifest_json,
    model::{AttemptReport, FileItem, FileState, ManifestItem, attribute, text},
};
use serde_json::Value;

use super::{Attempt, FileStory, Layout, ManifestStory, Object, Step, Story, next_of_file, next_of_manifest};
use crate::{
    facts::queue_depths,
    loader::Pipeline,
    oncall::{
        find::{Named, find_by_ending, find_files, find_manifest, manifest_id},
        redrive::{dead_letter_queues, object_key},
    },
};

/// Rejected lines of a file that are shown.
const REJECTS: usize = 5;

/// The largest object of rejects that is read for them.
const MAX_REJECTS_BYTES: u64 = 256 << 20;
/// The same, at a glance.
const GLANCED_REJECTS_BYTES: u64 = 4 << 20;

/// Files of the same name that are listed.
const NAMED: usize = 10;

/// Members of a manifest that are looked at.
const MEMBERS: usize = 1000;

/// Items that are read at once.
const CONCURRENCY: usize = 32;

/// Pages of a shard that are read for the history, at most.
const HISTORY_PAGES: usize = 5000;

/// How much is looked at.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// Read the change stream for the item's history: all of it, so only on demand.
    pub history: bool,
    /// For a page that is drawn again and again: without the states of a manifest's files, and without rejected lines that
    /// are dear to find.
    pub glance: bool,
}

/// The story of what a person named.
pub async fn trace(
    cloud: &Arc<dyn Cloud>,
    pipeline: &Pipeline,
    asked: &str,
    options: Options,
) -> anyhow::Result<Story> {
    let layout = Layout::of(pipeline)?;
    let gatherer = Gatherer {
        table: cloud.table(&layout.track.table).await?,
        leases: cloud.table(&layout.convert.leases).await?,
        input: cloud.bucket(&layout.track.input).await?,
        manifests: cloud.bucket(&layout.fold.manifests).await?,
        output: cloud.bucket(&layout.convert.output).await?,
        quarantine: cloud.bucket(&layout.convert.quarantine).await?,
        cloud: Arc::clone(cloud),
        now: Utc::now(),
        layout,
        options,
    };
    let mut story = Story { asked: asked.to_owned(), files: Vec::new(), manifest: None, dead_letters: Vec::new() };
    match Named::parse(asked, &gatherer.layout) {
        Named::Manifest(date, id) => match find_manifest(&*gatherer.table, date.as_deref(), &id).await? {
            Some(item) => story.manifest = Some(gatherer.manifest(item, !options.glance).await?),
            None => bail!("there is no manifest {id}: its item may have expired, or its id be misspelt"),
        },
        Named::File(date, file_key) => {
            let mut found = find_files(&*gatherer.table, date.as_deref(), &file_key).await?;
            if found.is_empty() && date.is_none() {
                found = gatherer.called(&file_key).await?;
            }
            if found.is_empty() {
                bail!(gatherer.why_unknown(asked, date.as_deref(), &file_key).await?);
            }
            for item in found {
                story.files.push(gatherer.file(item).await?);
            }
        }
    }
    let depths = queue_depths(&**cloud, dead_letter_queues(pipeline).iter()).await?;
    story.dead_letters =
        depths.into_iter().map(|(queue, depth)| (queue, depth.total())).filter(|(_, total)| *total > 0).collect();
    Ok(story)
}

struct Gatherer {
    cloud: Arc<dyn Cloud>,
    layout: Layout,
    options: Options,
    table: Arc<dyn Table>,
    leases: Arc<dyn Table>,
    input: Bucket,
    manifests: Bucket,
    output: Bucket,
    quarantine: Bucket,
    now: DateTime<Utc>,
}

impl Gatherer {
    /// The one file, with its versions, whose key ends like this; of several their names are the error.
    async fn called(&self, ending: &str) -> anyhow::Result<Vec<FileItem>> {
        let (files, complete) = find_by_ending(&*self.table, ending).await?;
        match files.as_slice() {
            [] if complete => Ok(Vec::new()),
            [] => bail!(
                "no file `{ending}` is among the newest: there are too many to look at all; name its date, as DATE/KEY"
            ),
            [one] => find_files(&*self.table, Some(&one.date_prefix), &one.file_key).await,
            several => {
                let names =
                    several.iter().take(NAMED).map(|file| format!("\n  {}/{}", file.date_prefix, file.file_key));
                let names: String = names.collect();
                let more = if several.len() > NAMED || !complete { "\n  …" } else { "" };
                bail!("several files are called `{ending}`; name one of them:{names}{more}")
            }
        }
    }

    async fn file(&self, item: FileItem) -> anyhow::Result<FileStory> {
        let object = self.object(&item).await?;
        let manifest = match &item.manifest_path {
            Some(path) => match find_manifest(&*self.table, Some(&item.date_prefix), manifest_id(path)).await? {
                Some(manifest) => Some(self.manifest(manifest, false).await?),
                None => None,
            },
            None => None,
        };
        let (mut results, mut rejects) = (Vec::new(), Vec::new());
        if let Some(manifest) = &manifest {
            for attempt in &manifest.attempts {
                let of_file = attempt.report.files.iter().find(|result| result.file_key == item.file_key);
                if let Some(result) = of_file {
                    results.push((attempt.report.token.clone(), result.clone()));
                }
            }
            let has_rejects = item.rejected_rows.unwrap_or_default() > 0;
            if let Some(key) = manifest.item.commit.as_ref().and_then(|commit| commit.rejects_key.as_ref())
                && has_rejects
            {
                rejects = self.rejects(key, &item.file_path).await?;
            }
        }
        let told = manifest.as_ref().map(|manifest| (&manifest.item, &manifest.next));
        let next = next_of_file(&item, &object, told, &self.layout, self.now);
        Ok(FileStory {
            quarantined_as: self.quarantined_as(&item).await?,
            history: self.history(&item.key()).await?,
            object,
            manifest,
            results,
            rejects,
            next,
            item,
        })
    }

    async fn object(&self, item: &FileItem) -> anyhow::Result<Object> {
        let Some(key) = object_key(&item.file_path, &self.input.name) else { return Ok(Object::Elsewhere) };
        Ok(match self.input.stage.head(key).await? {
            None => Object::Gone,
            Some(head) if item.etag.as_ref().is_none_or(|etag| *etag == head.etag) => {
                Object::There { last_modified: head.last_modified }
            }
            Some(head) => Object::Replaced { etag: head.etag, last_modified: head.last_modified },
        })
    }

    async fn quarantined_as(&self, item: &FileItem) -> anyhow::Result<Option<String>> {
        if item.state() != Some(FileState::Quarantined) {
            return Ok(None);
        }
        let (Some(key), Some(etag)) = (object_key(&item.file_path, &self.input.name), &item.etag) else {
            return Ok(None);
        };
        let copy = penstock_operators::track::copy_key(key, etag);
        let head = self.quarantine.stage.head(&copy).await?;
        Ok(head.map(|_| format!("s3://{}/{copy}", self.quarantine.name)))
    }

    async fn manifest(&self, item: ManifestItem, with_members: bool) -> anyhow::Result<ManifestStory> {
        let prefix = &self.layout.fold.manifests_prefix;
        let json =
            read_manifest_json(&self.manifests, prefix, &item.date_prefix, item.id()).await?.map(|(json, _)| json);
        let mut members = Vec::new();
        if let Some(json) = json.as_ref().filter(|_| with_members) {
            let keys = json.files.iter().take(MEMBERS).map(|file| Key::new(&item.date_prefix, &file.file_key));
            let states = stream::iter(keys.collect::<Vec<_>>()).map(|key| async move {
                let found = self.table.get(&key, Consistency::Eventual).await?;
                let state = match found.as_ref().and_then(|item| text(item, attribute::STATUS)) {
                    Some(status) => status.split('#').next().unwrap_or(status).to_owned(),
                    None => "expired".to_owned(),
                };
                anyhow::Ok((key.sort, state))
            });
            members = states.buffered(CONCURRENCY).try_collect().await?;
        }
        let holder = self.holder(&item).await?;
        let next = next_of_manifest(&item, json.is_some(), holder.as_deref(), &self.layout, self.now);
        Ok(ManifestStory {
            listed: json.as_ref().map(|json| json.files.len()),
            membership: json,
            attempts: self.attempts(&item).await?,
            outputs: self.outputs(&item).await?,
            history: self.history(&item.key()).await?,
            holder,
            members,
            next,
            item,
        })
    }

    /// Who holds the manifest's lease, if anyone does.
    async fn holder(&self, item: &ManifestItem) -> anyhow::Result<Option<String>> {
        let id = format!("{}/{}", item.date_prefix, item.file_key);
        let lease = self.leases.get(&Key::new(MANIFEST_SCOPE, id), Consistency::Strong).await?;
        Ok(lease.as_ref().and_then(|lease| text(lease, OWNER)).map(str::to_owned))
    }

    async fn attempts(&self, item: &ManifestItem) -> anyhow::Result<Vec<Attempt>> {
        let folder = Path::from(format!("logs/convert/{}", item.date_prefix));
        // Its date's folder holds the reports of all manifests; those of one follow each other.
        let start = Path::from(format!("logs/convert/{}/{}-", item.date_prefix, item.id()));
        let before = Path::from(start.as_ref().trim_end_matches('-'));
        let mut listing = self.manifests.store.list_with_offset(Some(&folder), &before);
        let mut attempts = Vec::new();
        while let Some(found) = listing.try_next().await? {
            if !found.location.as_ref().starts_with(start.as_ref()) {
                // A store may list in any order; what isn't this manifest's is passed over.
                continue;
            }
            let key = found.location.to_string();
            let body = self.manifests.store.get(&found.location).await?.bytes().await?;
            let report: AttemptReport =
                serde_json::from_slice(&body).with_context(|| format!("{key} is no report of an attempt"))?;
            let won = item.commit.as_ref().is_some_and(|commit| commit.report_key == key);
            attempts.push(Attempt { report_key: key, won, report });
        }
        attempts
            .sort_by(|a, b| (a.report.attempt, &a.report.started_at).cmp(&(b.report.attempt, &b.report.started_at)));
        Ok(attempts)
    }

    async fn outputs(&self, item: &ManifestItem) -> anyhow::Result<Vec<(String, Option<u64>)>> {
        let mut outputs = Vec::new();
        for uri in item.outputs.iter().flatten() {
            let head = match object_key(uri, &self.output.name) {
                Some(key) => self.output.stage.head(key).await?,
                None => None,
            };
            outputs.push((uri.clone(), head.map(|head| head.size_bytes)));
        }
        Ok(outputs)
    }

    /// The first rejected lines of a file.
    async fn rejects(&self, key: &str, file_path: &str) -> anyhow::Result<Vec<Value>> {
        let path = Path::from(key);
        let found = self.quarantine.store.get(&path).await?;
        let most = if self.options.glance { GLANCED_REJECTS_BYTES } else { MAX_REJECTS_BYTES };
        if found.meta.size > most {
            return Ok(Vec::new());
        }
        let bytes = found.bytes().await?;
        let lines = bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        let rejects = lines.filter_map(|line| serde_json::from_slice::<Value>(line).ok());
        Ok(rejects.filter(|reject| reject["file"] == file_path).take(REJECTS).collect())
    }

    /// The changes of an item that the stream still has.
    async fn history(&self, key: &Key) -> anyhow::Result<Vec<Step>> {
        if !self.options.history {
            return Ok(Vec::new());
        }
        let stream = self.cloud.change_stream(&self.layout.track.table).await?;
        let mut found: Vec<(String, Step)> = Vec::new();
        for arn in stream.streams().await? {
            let mut request = DescribeRequest::default();
            loop {
                let described = stream.describe(&arn, request.clone()).await?;
                for shard in &described.shards {
                    let mut iterator = Some(stream.iterator(&arn, &shard.id, &IteratorStart::TrimHorizon).await?);
                    for _ in 0..HISTORY_PAGES {
                        let Some(at) = iterator.take() else { break };
                        let page = stream.records(&at, RECORDS_PER_PAGE).await?;
                        let is_end = page.changes.is_empty();
                        found.extend(
                            page.changes
                                .iter()
                                .filter(|change| change.key == *key)
                                .map(|change| (format!("{:0>40}", change.sequence.0), step(change))),
                        );
                        // An empty page of an open shard may be followed by others on AWS; at its end it repeats.
                        iterator = page.next.filter(|_| !is_end);
                    }
                }
                match described.last_evaluated {
                    Some(last) => request.after = Some(last),
                    None => break,
                }
            }
        }
        found.sort_by(|(a, _), (b, _)| a.cmp(b));
        Ok(found.into_iter().map(|(_, step)| step).collect())
    }

    /// Why there is no item: what the bucket says.
    async fn why_unknown(&self, asked: &str, date: Option<&str>, file_key: &str) -> anyhow::Result<String> {
        let prefix = self.layout.input_prefix();
        let key = match date {
            Some(date) => format!("{prefix}{date}/{file_key}"),
            None => format!("{prefix}{file_key}"),
        };
        Ok(match self.input.stage.head(&key).await? {
            Some(head) => format!(
                "`{asked}` is in the bucket since {}, and has no item: its notification is on its way, or was lost, and then \
                 the sweep lands it within {}",
                penstock_engine::time::format_time(head.last_modified),
                penstock_engine::units::format_duration(self.layout.sweep.grace + self.layout.sweep.list_every)
            ),
            None => match date {
                Some(date) => format!("there is no file `{file_key}` of {date}, in the table or in the input bucket"),
                None => format!("there is no file `{file_key}` of any date in the table"),
            },
        })
    }
}

fn step(change: &Change) -> Step {
    let status =
        |image: &Option<Item>| image.as_ref().and_then(|item| text(item, attribute::STATUS)).map(str::to_owned);
    let get = |image: &Option<Item>, name: &str| image.as_ref().and_then(|item| item.get(name).cloned());
    let names: std::collections::BTreeSet<&String> =
        [&change.old, &change.new].into_iter().flatten().flat_map(|item| item.keys()).collect();
    let changed = names.into_iter().filter(|name| {
        let (old, new): (Option<AttributeValue>, _) = (get(&change.old, name), get(&change.new, name));
        old != new
    });
    Step {
        at: DateTime::from_timestamp(change.created_secs, 0).unwrap_or_default(),
        kind: format!("{:?}", change.kind).to_lowercase(),
        status: status(&change.new),
        changed: changed.cloned().collect(),
    }
}

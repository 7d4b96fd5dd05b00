//! The facts of a day: one partition of the table, one folder of each bucket, and what the manifests name.

use std::sync::Arc;

use anyhow::bail;
use chrono::{NaiveDate, TimeDelta, Utc};
use futures::{StreamExt, TryStreamExt, stream};
use object_store::{ObjectStoreExt, path::Path};
use penstock_engine::cloud::{Bucket, Cloud, table::Query};
use penstock_operators::{
    fold::protocol::read_manifest_json,
    model::{FileItem, FileState, MANIFEST_KEY_PREFIX, ManifestItem, ManifestState, attribute, read_item, text},
    settle::read_report,
};

use super::{
    Verdict,
    check::{Day, Input, ManifestFacts, Output, check},
    parquet,
};
use crate::{
    loader::Pipeline,
    oncall::{Layout, redrive::object_key},
};

/// Objects and manifests that are looked at at once.
const CONCURRENCY: usize = 16;

/// The most items and objects of a day that are held: some 1 GB of memory.
const MAX_FILES: usize = 2_000_000;

/// Checks a day. With `deep` each object whose listing tells no etag, as on one machine, is asked for it: that reads it.
pub async fn verify(cloud: &Arc<dyn Cloud>, pipeline: &Pipeline, date: &str, deep: bool) -> anyhow::Result<Verdict> {
    if NaiveDate::parse_from_str(date, "%Y-%m-%d").is_err() {
        bail!("`{date}` is no date: write it as YYYY-MM-DD");
    }
    let layout = Layout::of(pipeline)?;
    let gatherer = Gatherer {
        input: cloud.bucket(&layout.track.input).await?,
        manifests: cloud.bucket(&layout.fold.manifests).await?,
        output: cloud.bucket(&layout.convert.output).await?,
        quarantine: cloud.bucket(&layout.convert.quarantine).await?,
        layout,
    };
    let mut day = Day {
        date: date.to_owned(),
        input_prefix: gatherer.layout.input_prefix().to_owned(),
        output_bucket: gatherer.output.name.clone(),
        kept_since: Utc::now() - gatherer.kept(),
        max_rejects_per_file: gatherer.layout.convert.conversion.max_rejects_per_file,
        ..Day::default()
    };
    // Objects first: what lands meanwhile has no item that could be missed.
    day.inputs = gatherer.inputs(date, deep).await?;
    let manifests = gatherer.items(cloud, date, &mut day).await?;
    let facts = stream::iter(manifests).map(|item| gatherer.manifest(item)).buffered(CONCURRENCY);
    day.manifests = facts.try_collect().await?;
    day.visible_outputs = gatherer.visible_outputs(date).await?;
    let quarantined = day.files.iter().filter(|file| file.state() == Some(FileState::Quarantined));
    let quarantined: Vec<FileItem> = quarantined.cloned().collect();
    let copies = stream::iter(quarantined).map(|file| gatherer.lacks_copy(file)).buffer_unordered(CONCURRENCY);
    day.without_copy = copies.try_filter_map(|missing| std::future::ready(Ok(missing))).try_collect().await?;
    Ok(check(&day))
}

struct Gatherer {
    layout: Layout,
    input: Bucket,
    manifests: Bucket,
    output: Bucket,
    quarantine: Bucket,
}

impl Gatherer {
    /// For how long items of what is finished are there at least. A day less than they are: clocks differ.
    fn kept(&self) -> TimeDelta {
        let days = self.layout.track.ttl_days.min(self.layout.sweep.ttl_days);
        TimeDelta::days(i64::from(days) - 1)
    }

    async fn inputs(&self, date: &str, deep: bool) -> anyhow::Result<Vec<Input>> {
        let folder = Path::from(format!("{}{date}", self.layout.input_prefix()));
        let young = Utc::now() - TimeDelta::from_std(self.layout.sweep.grace + self.layout.sweep.list_every)?;
        let mut listing = self.input.store.list(Some(&folder));
        let mut inputs = Vec::new();
        while let Some(object) = listing.try_next().await? {
            if object.location.as_ref().ends_with('/') {
                continue;
            }
            bounded(inputs.len(), date)?;
            let key = object.location.to_string();
            let mut etag = object.e_tag.map(|etag| etag.trim_matches('"').to_owned());
            if etag.is_none() && deep {
                etag = self.input.stage.head(&key).await?.map(|head| head.etag);
            }
            let last_modified = object.last_modified;
            inputs.push(Input { key, etag, is_young: last_modified > young, last_modified });
        }
        Ok(inputs)
    }

    /// Reads the date's partition into `day`; returns its manifests.
    async fn items(&self, cloud: &Arc<dyn Cloud>, date: &str, day: &mut Day) -> anyhow::Result<Vec<ManifestItem>> {
        let table = cloud.table(&self.layout.track.table).await?;
        let mut manifests = Vec::new();
        let mut query = Query::partition(date).strong();
        loop {
            let page = table.query(&query).await?;
            for item in &page.items {
                let key = text(item, attribute::FILE_KEY).unwrap_or_default();
                let is_manifest = key.starts_with(MANIFEST_KEY_PREFIX);
                if is_manifest && !item.contains_key(attribute::SCHEMA_VERSION) {
                    day.foreign += 1;
                    continue;
                }
                bounded(day.files.len(), date)?;
                let read = match is_manifest {
                    true => read_item("manifest", item).map(|item| manifests.push(item)),
                    false => read_item("file", item).map(|item| day.files.push(item)),
                };
                if let Err(error) = read {
                    day.unreadable.insert(key.to_owned(), error.to_string());
                }
            }
            match page.next {
                Some(next) => query.start = Some(next),
                None => return Ok(manifests),
            }
        }
    }

    async fn manifest(&self, item: ManifestItem) -> anyhow::Result<ManifestFacts> {
        let prefix = &self.layout.fold.manifests_prefix;
        let json = read_manifest_json(&self.manifests, prefix, &item.date_prefix, item.id()).await;
        let (json, json_problem) = match json {
            Ok(json) => (json, None),
            // What is wrong with the object is a finding; what is wrong with the way to it isn't.
            Err(error) if !error.transient => (None, Some(error.to_string())),
            Err(error) => return Err(error.into()),
        };
        let mut facts =
            ManifestFacts { json, json_problem, report: Ok(None), outputs: Vec::new(), kept_rejects: Ok(0), item };
        if facts.item.status != ManifestState::Completed {
            return Ok(facts);
        }
        for uri in facts.item.outputs.iter().flatten() {
            facts.outputs.push((uri.clone(), self.rows_of(uri).await?));
        }
        if let Some(commit) = &facts.item.commit {
            facts.report = match read_report(&self.manifests, commit).await {
                Ok(report) => Ok(Some(report)),
                Err(error) if !error.transient => Err(error.to_string()),
                Err(error) => return Err(error.into()),
            };
            if let Some(key) = &commit.rejects_key {
                facts.kept_rejects = self.lines_of(key).await?;
            }
        }
        Ok(facts)
    }

    /// The rows of an output. Only what is wrong with the object is a finding; what is wrong with the way to it fails.
    async fn rows_of(&self, uri: &str) -> anyhow::Result<Result<u64, String>> {
        let Some(key) = object_key(uri, &self.output.name) else {
            return Ok(Err("it is in another bucket than the pipeline's output".to_owned()));
        };
        match self.output.stage.head(key).await? {
            None => Ok(Err("it is not there".to_owned())),
            Some(head) => {
                let rows = parquet::rows(&*self.output.store, key, head.size_bytes).await;
                Ok(rows.map_err(|error| format!("{error:#}")))
            }
        }
    }

    /// The lines of an object of rejects, counted as they come.
    async fn lines_of(&self, key: &str) -> anyhow::Result<Result<u64, String>> {
        let found = match self.quarantine.store.get(&Path::from(key)).await {
            Ok(found) => found,
            Err(object_store::Error::NotFound { .. }) => return Ok(Err(format!("{key} is not there"))),
            Err(error) => return Err(error.into()),
        };
        let mut chunks = found.into_stream();
        let mut lines = 0;
        while let Some(chunk) = chunks.try_next().await? {
            lines += chunk.iter().filter(|byte| **byte == b'\n').count() as u64;
        }
        Ok(Ok(lines))
    }

    async fn visible_outputs(&self, date: &str) -> anyhow::Result<Vec<Output>> {
        let folder = Path::from(format!("{}{date}", self.layout.convert.output_prefix));
        let listing = self.output.store.list(Some(&folder));
        let output = |object: object_store::ObjectMeta| Output {
            uri: format!("s3://{}/{}", self.output.name, object.location),
            last_modified: object.last_modified,
        };
        Ok(listing.map_ok(output).try_collect().await?)
    }

    /// The key of a quarantined file, if its copy isn't there and its reason doesn't say why.
    async fn lacks_copy(&self, file: FileItem) -> anyhow::Result<Option<String>> {
        if file.error_message.as_ref().is_some_and(|reason| reason.contains("not copied:")) {
            return Ok(None);
        }
        let (Some(key), Some(etag)) = (object_key(&file.file_path, &self.input.name), &file.etag) else {
            return Ok(None);
        };
        let copy = penstock_operators::track::copy_key(key, etag);
        Ok(self.quarantine.stage.head(&copy).await?.is_none().then_some(file.file_key))
    }
}

fn bounded(held: usize, date: &str) -> anyhow::Result<()> {
    if held >= MAX_FILES {
        bail!("{date} has more than {MAX_FILES} files: too many to check at once");
    }
    Ok(())
}

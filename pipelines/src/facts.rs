//! What the tracking table says of a pipeline's work: files and manifests by date and status.

use std::{
    collections::BTreeMap,
    io::{self, Write},
};

use anyhow::Context;
use penstock_engine::cloud::{Cloud, Item, Table, queue::QueueDepth, table::Query};
use penstock_operators::model::{
    FileItem, FileState, ManifestItem, ManifestState, SHARDS, STATUS_INDEX, attribute, read_item,
};
use serde::Serialize;

/// The short name of the tracking table.
pub const TRACKING_TABLE: &str = "sqs-file-tracking";

/// Tries to complete a manifest's recorded outputs after which nobody waits for it.
const STUCK_AFTER: u32 = 3;

/// How it stands with each date, and with what needs a person.
#[derive(Debug, Default, Serialize)]
pub struct Facts {
    /// By date.
    pub dates: BTreeMap<String, DateFacts>,
    /// Files that failed or were quarantined, with their reasons.
    pub troubled_files: Vec<Trouble>,
    /// Manifests that failed, with their reasons.
    pub failed_manifests: Vec<Trouble>,
    /// Manifests whose recorded outputs can't be made visible for now, with the reason. They are tried again, but nobody
    /// knows for how long.
    pub stuck_manifests: Vec<Trouble>,
    /// Files of those.
    pub stuck_files: u64,
    /// Finished manifests whose files haven't followed yet.
    pub unsettled_manifests: u64,
    /// The Parquet objects of completed manifests.
    pub outputs: Vec<String>,
}

/// How it stands with a date.
#[derive(Debug, Default, Serialize)]
pub struct DateFacts {
    /// Files by state.
    pub files: BTreeMap<&'static str, u64>,
    /// Manifests by state.
    pub manifests: BTreeMap<&'static str, u64>,
    /// Stored bytes of all files.
    pub bytes: u64,
    /// Rows of completed manifests.
    pub rows: u64,
    /// Rejected lines of completed manifests.
    pub rejected_rows: u64,
    /// Rows of records that Spark would have called corrupt; with cast `spark` only.
    pub corrupt_rows: u64,
    /// Since when the oldest pending file waits.
    pub oldest_pending: Option<String>,
}

impl DateFacts {
    /// How it stands with the date, in a few lines for people.
    pub fn tell(&self, date: &str, out: &mut dyn Write) -> io::Result<()> {
        let list = |counts: &BTreeMap<&str, u64>| {
            counts.iter().map(|(state, count)| format!("{count} {state}")).collect::<Vec<_>>().join(", ")
        };
        writeln!(out, "{date}  files:     {}", list(&self.files))?;
        if !self.manifests.is_empty() {
            writeln!(out, "            manifests: {}", list(&self.manifests))?;
        }
        writeln!(out, "            {}", of_rows(self.rows, self.rejected_rows, self.corrupt_rows))
    }
}

/// What became of lines, in words. Corrupt rows are named where there are any: only cast `spark` knows them.
pub fn of_rows(rows: u64, rejected: u64, corrupt: u64) -> String {
    let corrupt = if corrupt == 0 { String::new() } else { format!(" ({corrupt} of them corrupt)") };
    format!("rows: {rows}{corrupt}, rejected lines: {rejected}")
}

/// Something that needs a person.
#[derive(Debug, Serialize)]
pub struct Trouble {
    /// The file or manifest.
    pub key: String,
    /// Its date.
    pub date: String,
    /// Its state.
    pub state: &'static str,
    /// Why.
    pub reason: String,
}

impl Facts {
    /// Reads everything, by the index.
    pub async fn read(table: &dyn Table) -> anyhow::Result<Self> {
        Ok(Self::read_at_most(table, usize::MAX).await?.0)
    }

    /// Reads by the index, and stops after about so many items. Whether that was everything.
    pub async fn read_at_most(table: &dyn Table, most: usize) -> anyhow::Result<(Self, bool)> {
        let (mut facts, mut left, mut complete) = (Self::default(), most, true);
        // Manifests first: there are few, and they say most.
        for state in ManifestState::ALL {
            let (items, whole) = read_some(table, Query::index(STATUS_INDEX, state.as_str()), &mut left).await?;
            complete &= whole;
            for item in items.iter().filter(|item| item.contains_key(attribute::SCHEMA_VERSION)) {
                facts.add_manifest(&read_item("manifest", item)?);
            }
        }
        for state in FileState::ALL {
            for shard in 0..SHARDS {
                let (items, whole) =
                    read_some(table, Query::index(STATUS_INDEX, state.status(shard)), &mut left).await?;
                complete &= whole;
                for item in items {
                    facts.add_file(state, &read_item("file", &item)?);
                }
            }
        }
        Ok((facts, complete))
    }

    fn add_file(&mut self, state: FileState, file: &FileItem) {
        let date = self.dates.entry(file.date_prefix.clone()).or_default();
        *date.files.entry(state.as_str()).or_default() += 1;
        date.bytes += file.size_bytes;
        if state == FileState::Pending {
            let older = match (&date.oldest_pending, &file.pending_since) {
                (Some(oldest), Some(since)) => since < oldest,
                (None, Some(_)) => true,
                _ => false,
            };
            if older {
                date.oldest_pending.clone_from(&file.pending_since);
            }
        }
        if matches!(state, FileState::Failed | FileState::Quarantined) {
            self.troubled_files.push(Trouble {
                key: file.file_key.clone(),
                date: file.date_prefix.clone(),
                state: state.as_str(),
                reason: file.error_message.clone().unwrap_or_default(),
            });
        }
    }

    fn add_manifest(&mut self, manifest: &ManifestItem) {
        let date = self.dates.entry(manifest.date_prefix.clone()).or_default();
        *date.manifests.entry(manifest.status.as_str()).or_default() += 1;
        match manifest.status {
            ManifestState::Completed => {
                date.rows += manifest.rows.unwrap_or_default();
                date.rejected_rows += manifest.rejected_rows.unwrap_or_default();
                date.corrupt_rows += manifest.corrupt_rows.unwrap_or_default();
                self.outputs.extend(manifest.outputs.iter().flatten().cloned());
            }
            ManifestState::Failed => self.failed_manifests.push(Trouble {
                key: manifest.id().to_owned(),
                date: manifest.date_prefix.clone(),
                state: manifest.status.as_str(),
                reason: manifest.error_message.clone().unwrap_or_default(),
            }),
            ManifestState::Processing if manifest.commit.is_some() && manifest.completions >= STUCK_AFTER => {
                self.stuck_files += manifest.file_count;
                self.stuck_manifests.push(Trouble {
                    key: manifest.id().to_owned(),
                    date: manifest.date_prefix.clone(),
                    state: manifest.status.as_str(),
                    reason: manifest.error_message.clone().unwrap_or_default(),
                });
            }
            _ => {}
        }
        let is_done = matches!(manifest.status, ManifestState::Completed | ManifestState::Failed);
        if is_done && manifest.settled_at.is_none() {
            self.unsettled_manifests += 1;
        }
    }

    /// Files in a state, over all dates.
    pub fn files(&self, state: FileState) -> u64 {
        self.dates.values().filter_map(|date| date.files.get(state.as_str())).sum()
    }

    /// All files.
    pub fn all_files(&self) -> u64 {
        self.dates.values().flat_map(|date| date.files.values()).sum()
    }

    /// Manifests in a state, over all dates.
    pub fn manifests(&self, state: ManifestState) -> u64 {
        self.dates.values().filter_map(|date| date.manifests.get(state.as_str())).sum()
    }

    /// Rows of completed manifests.
    pub fn rows(&self) -> u64 {
        self.dates.values().map(|date| date.rows).sum()
    }

    /// Rejected lines of completed manifests.
    pub fn rejected_rows(&self) -> u64 {
        self.dates.values().map(|date| date.rejected_rows).sum()
    }

    /// Rows of corrupt records, of completed manifests.
    pub fn corrupt_rows(&self) -> u64 {
        self.dates.values().map(|date| date.corrupt_rows).sum()
    }

    /// Stored bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.dates.values().map(|date| date.bytes).sum()
    }

    /// Files and manifests to which something is still to happen by itself; not those that are stuck.
    pub fn unfinished(&self) -> u64 {
        let files = self.files(FileState::Pending) + self.files(FileState::Manifested);
        let states = [ManifestState::Assembling, ManifestState::Pending, ManifestState::Processing];
        let manifests = states.map(|state| self.manifests(state)).iter().sum::<u64>();
        let stuck = self.stuck_files + self.stuck_manifests.len() as u64;
        (files + self.unsettled_manifests + manifests).saturating_sub(stuck)
    }
}

/// Reads a query's pages until `left` items are read; counts them off. Whether that was everything.
pub(crate) async fn read_some(
    table: &dyn Table,
    mut query: Query,
    left: &mut usize,
) -> anyhow::Result<(Vec<Item>, bool)> {
    let mut items = Vec::new();
    while *left > 0 {
        let page = table.query(&query).await?;
        *left = left.saturating_sub(page.items.len());
        items.extend(page.items);
        match page.next {
            Some(next) => query.start = Some(next),
            None => return Ok((items, true)),
        }
    }
    Ok((items, false))
}

/// About how many messages each queue holds.
pub async fn queue_depths(
    cloud: &dyn Cloud,
    names: impl Iterator<Item = &String>,
) -> anyhow::Result<BTreeMap<String, QueueDepth>> {
    let mut depths = BTreeMap::new();
    for name in names {
        let depth = cloud.queue(name).await?.depth().await.with_context(|| format!("depth of queue {name}"))?;
        depths.insert(name.clone(), depth);
    }
    Ok(depths)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn corrupt_rows_of_a_date_are_told_where_there_are_any() {
        let manifest = |name: &str, corrupt: Option<u64>| -> ManifestItem {
            let mut item = json!({
                "date_prefix": "2026-02-01", "file_key": format!("MANIFEST#{name}.json"), "status": "completed",
                "schema_version": 1, "manifest_path": "s3://m/m.json", "created_at": "t", "rows": 10, "rejected_rows": 1,
            });
            if let Some(corrupt) = corrupt {
                item["corrupt_rows"] = corrupt.into();
            }
            serde_json::from_value(item).unwrap()
        };
        let told = |facts: &Facts| {
            let mut text = Vec::new();
            facts.dates["2026-02-01"].tell("2026-02-01", &mut text).unwrap();
            String::from_utf8(text).unwrap()
        };
        let mut facts = Facts::default();
        facts.add_manifest(&manifest("a", None));
        assert!(told(&facts).ends_with("rows: 10, rejected lines: 1\n"), "{}", told(&facts));
        facts.add_manifest(&manifest("b", Some(3)));
        assert!(told(&facts).ends_with("rows: 20 (3 of them corrupt), rejected lines: 2\n"), "{}", told(&facts));
        assert_eq!(facts.corrupt_rows(), 3);
    }
}

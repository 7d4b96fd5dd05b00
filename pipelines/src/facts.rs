//! What the tracking table says of a pipeline's work: files and manifests by date and status.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, Write},
};

use anyhow::Context;
use chrono::{Days, NaiveDate, Utc};
use futures::future::try_join_all;
use penstock_engine::cloud::{
    Cloud, Item, Table,
    queue::QueueDepth,
    table::{Query, Range},
};
use penstock_operators::model::{
    FileItem, FileState, ItemError, ManifestItem, ManifestState, SHARDS, STATUS_INDEX, attribute, read_item, text,
};
use serde::Serialize;

/// The short name of the tracking table.
pub const TRACKING_TABLE: &str = "sqs-file-tracking";

/// So many items are read at most by whoever looks again and again: past that counts are told as "at least".
pub const COUNTED_ITEMS: usize = 20_000;

/// Items that fit on most pages: only of the last page fewer are asked for.
const A_PAGE: usize = 1000;

/// Days that can be asked for where not all dates are known: as long as items are kept.
const DAYS: u64 = 31;

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
    /// Items that can't be read, with the reason; they are in no count.
    pub unreadable: Vec<Trouble>,
    /// Whether there are more items than were read: then each count is "at least".
    pub is_floor: bool,
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
    /// How it stands with the date, in a few lines for people; `is_floor` as in [`Facts`].
    pub fn tell(&self, date: &str, is_floor: bool, out: &mut dyn Write) -> io::Result<()> {
        let mark = if is_floor { "≥ " } else { "" };
        let list = |counts: &BTreeMap<&str, u64>| {
            counts.iter().map(|(state, count)| format!("{mark}{count} {state}")).collect::<Vec<_>>().join(", ")
        };
        writeln!(out, "{date}  files:     {}", list(&self.files))?;
        if !self.manifests.is_empty() {
            writeln!(out, "            manifests: {}", list(&self.manifests))?;
        }
        let at_least = if is_floor { "at least " } else { "" };
        writeln!(out, "            {at_least}{}", of_rows(self.rows, self.rejected_rows, self.corrupt_rows))
    }
}

/// What became of lines, in words. Corrupt rows are named where there are any: only cast `spark` knows them.
pub fn of_rows(rows: u64, rejected: u64, corrupt: u64) -> String {
    let corrupt = if corrupt == 0 { String::new() } else { format!(" ({corrupt} of them corrupt)") };
    format!("rows: {rows}{corrupt}, rejected lines: {rejected}")
}

/// Something that needs a person.
#[derive(Debug, Clone, Serialize)]
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
        Self::read_at_most(table, usize::MAX).await
    }

    /// Reads by the index, and stops after so many items, or a few more.
    ///
    /// What is under way or needs a person is read first: it is asked for most. Of what is left each part takes half at most,
    /// so that no backlog hides a failure. A part is read in the order in which items pass through its states, and completed
    /// ones come last: what moves on meanwhile may be counted twice, but isn't missed.
    pub async fn read_at_most(table: &dyn Table, most: usize) -> anyhow::Result<Self> {
        use {FileState as File, ManifestState as Manifest};
        let mut reading = Reading { table, facts: Self::default(), left: most, is_bounded: most < usize::MAX };
        let under_way = [Manifest::Assembling, Manifest::Pending, Manifest::Processing, Manifest::Failed];
        reading.manifests(&under_way, most / 2).await?;
        reading.files(&[File::Pending, File::Manifested], reading.left / 2).await?;
        reading.files(&[File::Failed, File::Quarantined], reading.left / 2).await?;
        reading.manifests(&[Manifest::Completed, Manifest::Abandoned], reading.left / 2).await?;
        reading.files(&[File::Completed], reading.left).await?;
        Ok(reading.facts)
    }

    /// The dates that can be asked for, the newest first: those that were read, and if that isn't everything the last days
    /// besides.
    pub fn known_dates(&self, today: NaiveDate) -> Vec<String> {
        let days = if self.is_floor { DAYS } else { 0 };
        let last = (0..days).filter_map(|days| today.checked_sub_days(Days::new(days))).map(|day| day.to_string());
        let dates: BTreeSet<String> = self.dates.keys().cloned().chain(last).collect();
        dates.into_iter().rev().collect()
    }

    fn add_unreadable(&mut self, item: &Item, error: &ItemError) {
        let of = |name| text(item, name).unwrap_or_default().to_owned();
        let (key, date) = (of(attribute::FILE_KEY), of(attribute::DATE_PREFIX));
        self.unreadable.push(Trouble { key, date, state: "unreadable", reason: error.to_string() });
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

/// Facts as they are read.
struct Reading<'a> {
    table: &'a dyn Table,
    facts: Facts,
    left: usize,
    is_bounded: bool,
}

impl Reading<'_> {
    /// Reads manifests in these states, so many at most.
    async fn manifests(&mut self, states: &[ManifestState], most: usize) -> anyhow::Result<()> {
        let mut left = most;
        for state in states {
            let items =
                self.items(vec![state.as_str().to_owned()], *state == ManifestState::Completed, &mut left).await?;
            for item in items.iter().filter(|item| item.contains_key(attribute::SCHEMA_VERSION)) {
                match read_item("manifest", item) {
                    Ok(manifest) => self.facts.add_manifest(&manifest),
                    Err(error) => self.facts.add_unreadable(item, &error),
                }
            }
        }
        Ok(())
    }

    /// Reads files in these states, so many at most.
    async fn files(&mut self, states: &[FileState], most: usize) -> anyhow::Result<()> {
        let mut left = most;
        for state in states {
            let statuses = (0..SHARDS).map(|shard| state.status(shard)).collect();
            for item in self.items(statuses, *state == FileState::Completed, &mut left).await? {
                match read_item("file", &item) {
                    Ok(file) => self.facts.add_file(*state, &file),
                    Err(error) => self.facts.add_unreadable(&item, &error),
                }
            }
        }
        Ok(())
    }

    /// The items of these statuses: each takes its share of what is left.
    async fn items(&mut self, statuses: Vec<String>, are_many: bool, left: &mut usize) -> anyhow::Result<Vec<Item>> {
        let share = left.div_ceil(statuses.len());
        let ranges =
            if are_many && self.is_bounded { newest_first(Utc::now().date_naive()).to_vec() } else { vec![Range::All] };
        let read = statuses.into_iter().map(|status| {
            let (table, ranges) = (self.table, &ranges);
            async move {
                let (mut found, mut complete, mut left) = (Vec::new(), true, share);
                for range in ranges {
                    let query = Query::index(STATUS_INDEX, status.clone()).range(range.clone());
                    let (items, whole) = read_some(table, query, &mut left).await?;
                    found.extend(items);
                    complete &= whole;
                }
                anyhow::Ok((found, complete))
            }
        });
        let mut found = Vec::new();
        for (items, complete) in try_join_all(read).await? {
            found.extend(items);
            self.facts.is_floor |= !complete;
        }
        *left = left.saturating_sub(found.len());
        self.left = self.left.saturating_sub(found.len());
        Ok(found)
    }
}

/// Ranges of dates that are all of them, the last two days first: the index has the oldest first, and whoever reads a part
/// of it would see nothing of today.
pub(crate) fn newest_first(today: NaiveDate) -> [Range; 2] {
    let day = |before: u64| today.checked_sub_days(Days::new(before)).unwrap_or(today).to_string();
    [Range::Between(day(1), "~".to_owned()), Range::Between("0".to_owned(), day(2))]
}

/// Reads a query's pages until `left` items are read; counts them off. Whether that was everything.
pub(crate) async fn read_some(
    table: &dyn Table,
    mut query: Query,
    left: &mut usize,
) -> anyhow::Result<(Vec<Item>, bool)> {
    let mut items = Vec::new();
    while *left > 0 {
        query.limit = (*left < A_PAGE).then_some(*left);
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
    use std::sync::Arc;

    use futures::{StreamExt, stream};
    use penstock_engine::cloud::{
        local::{LocalCloud, LocalOptions},
        table::{Condition, Key, Write},
    };
    use penstock_operators::model::shard_of;
    use serde_json::json;

    use super::*;
    use crate::loader::load;

    /// The pipeline's table with files of these dates and states, so many each.
    async fn table(dir: &std::path::Path, files: &[(&str, FileState, usize)]) -> Arc<dyn Table> {
        let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("ndjson-parquet.yaml");
        let pipeline = load(&file, &|_| None, &penstock_operators::registry()).unwrap();
        let cloud = LocalCloud::open(dir, pipeline.naming, &pipeline.resources, LocalOptions::default()).unwrap();
        let table = cloud.table(TRACKING_TABLE).await.unwrap();
        let names = files.iter().flat_map(|(date, state, count)| (0..*count).map(move |number| (date, state, number)));
        let writes = names.map(|(date, state, number)| {
            let name = format!("{state}-{number}");
            Write::put(Key::new(*date, &name), Item::default(), Condition::absent("file_key"))
                .set("status", state.status(shard_of(&name)))
                .set("file_path", format!("s3://in/{date}/{name}"))
        });
        let written = stream::iter(writes.collect::<Vec<_>>()).map(|write| {
            let table = Arc::clone(&table);
            async move { table.write(&write).await.unwrap() }
        });
        written.buffer_unordered(64).for_each(|_| std::future::ready(())).await;
        table
    }

    #[tokio::test]
    async fn i9_a_bounded_reading_hides_neither_a_failure_nor_today() {
        use FileState::{Completed, Failed, Pending};
        let (dir, today) = (tempfile::tempdir().unwrap(), Utc::now().date_naive());
        let day = today.to_string();
        let files = [
            ("2026-02-01", Pending, 300),
            ("2026-02-01", Failed, 2),
            ("2026-02-01", Completed, 200),
            (&day, Completed, 3),
        ];
        let table = table(dir.path(), &files).await;
        let facts = Facts::read_at_most(&*table, 100).await.unwrap();
        assert!(facts.is_floor && facts.all_files() <= 100 + u64::from(SHARDS), "{}", facts.all_files());
        assert_eq!(facts.files(Failed), 2, "a backlog hides failures");
        assert_eq!(facts.dates[&day].files["completed"], 3, "the past hides today");
        assert_eq!(facts.known_dates(today).len(), 32);
        let mut text = Vec::new();
        facts.dates[&day].tell(&day, facts.is_floor, &mut text).unwrap();
        assert!(String::from_utf8(text).unwrap().contains("≥ 3 completed"));

        let facts = Facts::read(&*table).await.unwrap();
        assert!(!facts.is_floor);
        assert_eq!([Pending, Failed, Completed].map(|state| facts.files(state)), [300, 2, 203]);
        assert_eq!(facts.known_dates(today), [day, "2026-02-01".to_owned()]);
    }

    #[tokio::test]
    async fn an_item_that_cannot_be_read_is_told_beside_the_others() {
        let dir = tempfile::tempdir().unwrap();
        let table = table(dir.path(), &[("2026-02-01", FileState::Completed, 2)]).await;
        for (key, status) in [("odd", "pending#3"), ("MANIFEST#odd.json", "failed")] {
            let odd = Write::put(Key::new("2026-02-01", key), Item::default(), Condition::absent("file_key"))
                .set("status", status)
                .set_number("schema_version", 1)
                .set("size_bytes", "no number")
                .set("attempt", "no number");
            table.write(&odd).await.unwrap();
        }
        let facts = Facts::read(&*table).await.unwrap();
        assert_eq!(facts.files(FileState::Completed), 2);
        let mut told: Vec<&str> = facts.unreadable.iter().map(|trouble| trouble.key.as_str()).collect();
        told.sort_unstable();
        assert_eq!(told, ["MANIFEST#odd.json", "odd"]);
        assert!(facts.unreadable.iter().all(|trouble| trouble.reason.contains("can't be read as a")));
    }

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
            facts.dates["2026-02-01"].tell("2026-02-01", false, &mut text).unwrap();
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

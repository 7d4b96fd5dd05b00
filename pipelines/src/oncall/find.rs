//! From what people write to the item that they mean: keys, URIs, ids of manifests.
//!
//! Without a date the days before today are tried, one read each: there is no index by key. What isn't there is looked
//! for in the index by state, as far as a bound goes: older days, and keys that end with what was written.

use chrono::{Days, NaiveDate, Utc};
use penstock_engine::cloud::{
    Table,
    table::{Consistency, Key, Query, Range, query_all},
};
use penstock_operators::{
    fold::protocol::read_manifest,
    model::{
        FileItem, FileState, MANIFEST_KEY_PREFIX, ManifestItem, ManifestState, SHARDS, STATUS_INDEX, attribute,
        date_of_key, file_key_of, id_of_key, read_item, text,
    },
};

use super::Layout;
use crate::facts::read_some;

/// Days that are tried when no date is named: as long as finished items are kept, and some more.
const DAYS: u64 = 40;

/// Items of the index that are read to find a file by the end of its key.
const MOST: usize = 20_000;

/// What a person named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Named {
    /// A file: its date, if that was said, and its key below the date.
    File(Option<String>, String),
    /// A manifest: its date, if that was said, and its id.
    Manifest(Option<String>, String),
}

impl Named {
    /// Reads `DATE/KEY`, an object's key or URI; a manifest's id, sort key, or URI.
    pub fn parse(named: &str, layout: &Layout) -> Self {
        let last = named.rsplit('/').next().unwrap_or(named);
        if last.starts_with(MANIFEST_KEY_PREFIX) || created_day(id_of_key(last)).is_some() {
            let date = named.rsplit('/').nth(1).filter(|part| is_date(part)).map(str::to_owned);
            return Self::Manifest(date, id_of_key(last).to_owned());
        }
        let (date, file_key) = split_name(named, layout);
        Self::File(date, file_key)
    }
}

/// The date and the file key in how people name a file.
pub fn split_name(named: &str, layout: &Layout) -> (Option<String>, String) {
    let key = match named.strip_prefix("s3://") {
        Some(path) => path.split_once('/').map_or(path, |(_, key)| key),
        None => named,
    };
    if named.starts_with("s3://") || key.starts_with(layout.input_prefix()) {
        let date = date_of_key(key).map(|(_, date)| date.to_owned());
        return (date, file_key_of(key, layout.input_prefix(), false));
    }
    match key.split_once('/') {
        Some((date, rest)) if is_date(date) => (Some(date.to_owned()), rest.to_owned()),
        _ => (None, key.to_owned()),
    }
}

/// The id in how people name a manifest.
pub fn manifest_id(named: &str) -> &str {
    id_of_key(named.rsplit('/').next().unwrap_or(named))
}

fn is_date(text: &str) -> bool {
    text.len() == 10 && NaiveDate::parse_from_str(text, "%Y-%m-%d").is_ok()
}

/// The day in a manifest's id, or in the name of one of its outputs: that on which the manifest was made.
pub(super) fn created_day(id: &str) -> Option<NaiveDate> {
    let day = id.strip_prefix("batch-")?.split('-').nth(1)?;
    NaiveDate::parse_from_str(day, "%Y%m%d").ok()
}

/// A file and its later versions, `{file_key}@{etag}`; under the date, or the last one that has it.
pub async fn find_files(table: &dyn Table, date: Option<&str>, file_key: &str) -> anyhow::Result<Vec<FileItem>> {
    let today = Utc::now().date_naive();
    let dates: Vec<String> = match date {
        Some(date) => vec![date.to_owned()],
        None => {
            (0..=DAYS).filter_map(|days| today.checked_sub_days(Days::new(days))).map(|day| day.to_string()).collect()
        }
    };
    for date in dates {
        let Some(item) = table.get(&Key::new(&date, file_key), Consistency::Strong).await? else { continue };
        let mut files: Vec<FileItem> = vec![read_item("file", &item)?];
        let versions = Query::partition(&date).range(Range::Prefix(format!("{file_key}@"))).strong();
        for item in query_all(table, versions).await? {
            files.push(read_item("file", &item)?);
        }
        return Ok(files);
    }
    Ok(Vec::new())
}

/// Files of any date whose key is what was written, or ends with it after a `/`; and whether all files were looked at.
pub async fn find_by_ending(table: &dyn Table, ending: &str) -> anyhow::Result<(Vec<FileItem>, bool)> {
    let (mut found, mut left, mut complete) = (Vec::new(), MOST, true);
    // What is looked for is most often in trouble, and those are few.
    use FileState::{Completed, Failed, Manifested, Pending, Quarantined};
    for state in [Failed, Quarantined, Pending, Manifested, Completed] {
        for shard in 0..SHARDS {
            let query = Query::index(STATUS_INDEX, state.status(shard));
            let (items, whole) = read_some(table, query, &mut left).await?;
            complete &= whole;
            for item in items.iter().filter(|item| is_called(text(item, attribute::FILE_KEY), ending)) {
                found.push(read_item("file", item)?);
            }
        }
    }
    Ok((found, complete))
}

/// Whether a key is this, or ends with it after a `/`.
fn is_called(key: Option<&str>, ending: &str) -> bool {
    key.and_then(|key| key.strip_suffix(ending)).is_some_and(|before| before.is_empty() || before.ends_with('/'))
}

/// A manifest, under its date or wherever it is.
pub async fn find_manifest(table: &dyn Table, date: Option<&str>, id: &str) -> anyhow::Result<Option<ManifestItem>> {
    let sort = format!("{MANIFEST_KEY_PREFIX}{id}.json");
    if let Some(date) = date {
        return Ok(read_manifest(table, &Key::new(date, sort)).await?);
    }
    // Most are made on their date or soon after.
    if let Some(day) = created_day(id) {
        for days in 0..=DAYS {
            let Some(date) = day.checked_sub_days(Days::new(days)) else { break };
            if let Some(found) = read_manifest(table, &Key::new(date.to_string(), sort.clone())).await? {
                return Ok(Some(found));
            }
        }
    }
    // The rest by the index of manifests: there are few for many files.
    for state in ManifestState::ALL {
        for item in query_all(table, Query::index(STATUS_INDEX, state.as_str())).await? {
            let is_it = text(&item, attribute::FILE_KEY) == Some(sort.as_str());
            if is_it && item.contains_key(attribute::SCHEMA_VERSION) {
                let seen: ManifestItem = read_item("manifest", &item)?;
                return Ok(read_manifest(table, &seen.key()).await?);
            }
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loader::load;

    fn layout() -> Layout {
        let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("ndjson-parquet.yaml");
        Layout::of(&load(&file, &|_| None, &penstock_operators::registry()).unwrap()).unwrap()
    }

    #[test]
    fn files_and_manifests_are_named_in_any_way() {
        let layout = layout();
        let file = |date: Option<&str>, key: &str| Named::File(date.map(str::to_owned), key.to_owned());
        let manifest = |date: Option<&str>, id: &str| Named::Manifest(date.map(str::to_owned), id.to_owned());
        let id = "batch-0001-20260201-120000-7f3a9c";
        for (named, expected) in [
            ("2026-02-01/eu/a.ndjson", file(Some("2026-02-01"), "eu/a.ndjson")),
            ("a.ndjson", file(None, "a.ndjson")),
            ("landing/ndjson/2026-02-01/a.ndjson", file(Some("2026-02-01"), "a.ndjson")),
            ("s3://bucket/landing/ndjson/2026-02-01/a.ndjson", file(Some("2026-02-01"), "a.ndjson")),
            ("s3://bucket/landing/ndjson/a.ndjson", file(None, "a.ndjson")),
            (id, manifest(None, id)),
            (&format!("2026-01-31/MANIFEST#{id}.json"), manifest(Some("2026-01-31"), id)),
            (&format!("s3://m/manifests/2026-01-31/{id}.json"), manifest(Some("2026-01-31"), id)),
        ] {
            assert_eq!(Named::parse(named, &layout), expected, "{named}");
        }
        assert_eq!(manifest_id("s3://m/manifests/2026-02-01/batch-1.json"), "batch-1");
    }

    #[test]
    fn a_file_is_called_by_the_end_of_its_key() {
        for (key, is_it) in [("a.ndjson", true), ("eu/a.ndjson", true), ("eu/ba.ndjson", false), ("a.ndjson@e", false)]
        {
            assert_eq!(is_called(Some(key), "a.ndjson"), is_it, "{key}");
        }
        assert!(is_called(Some("sub/eu/a.ndjson"), "eu/a.ndjson") && !is_called(None, "a.ndjson"));
    }
}

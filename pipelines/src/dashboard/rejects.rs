//! What could not be used: rejected lines with samples, files in quarantine, files that failed; each with its reason.

use axum::{
    Json,
    extract::{Query as UrlQuery, State},
};
use chrono::Utc;
use object_store::{GetOptions, GetRange, path::Path};
use penstock_engine::cloud::table::{Key, Query};
use penstock_operators::{
    fold::protocol::read_manifest,
    model::{FileItem, FileState, MANIFEST_KEY_PREFIX, ManifestState, SHARDS, STATUS_INDEX},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Answer, Dashboard, Failure, Shared, files::FileView, read_or_tell};
use crate::facts::{TRACKING_TABLE, newest_first, read_some};

/// At most so many files of a state and shard are shown.
const OF_A_SHARD: usize = 20;
/// So much of an object with rejects is read, and so many lines of it are shown.
const SAMPLE_BYTES: u64 = 256 * 1024;
const SAMPLE_LINES: usize = 50;

/// All that could not be used.
#[derive(Debug, Serialize)]
pub struct View {
    quarantined: Vec<FileView>,
    failed: Vec<FileView>,
    /// Manifests with rejected lines, the newest first.
    manifests: Vec<WithRejects>,
    /// Why some files or manifests can't be shown.
    unreadable: Vec<String>,
    /// Whether there may be more of any of these.
    cut: bool,
}

#[derive(Debug, Serialize)]
struct WithRejects {
    id: String,
    date: String,
    rows: u64,
    rejected_rows: u64,
    rejects_key: Option<String>,
}

pub async fn list(State(dashboard): State<Shared>) -> Answer<View> {
    let mut unreadable = Vec::new();
    let (quarantined, more_quarantined) = dashboard.files_in(FileState::Quarantined, &mut unreadable).await?;
    let (failed, more_failed) = dashboard.files_in(FileState::Failed, &mut unreadable).await?;
    let has_rejects = |manifest: &penstock_operators::model::ManifestItem| manifest.rejected_rows.unwrap_or(0) > 0;
    let found = dashboard.manifests(None, Some(ManifestState::Completed), has_rejects).await?;
    unreadable.extend(found.unreadable);
    let manifests = found.manifests.iter().map(|manifest| WithRejects {
        id: manifest.id().to_owned(),
        date: manifest.date_prefix.clone(),
        rows: manifest.rows.unwrap_or_default(),
        rejected_rows: manifest.rejected_rows.unwrap_or_default(),
        rejects_key: manifest.commit.as_ref().and_then(|commit| commit.rejects_key.clone()),
    });
    let cut = more_quarantined || more_failed || found.cut;
    Ok(Json(View { quarantined, failed, manifests: manifests.collect(), unreadable, cut }))
}

impl Dashboard {
    /// Some files in a state, those of the last days first; and whether there are more.
    async fn files_in(&self, state: FileState, unreadable: &mut Vec<String>) -> Result<(Vec<FileView>, bool), Failure> {
        let table = self.home.cloud().table(TRACKING_TABLE).await?;
        let (mut files, mut cut) = (Vec::new(), false);
        for shard in 0..SHARDS {
            let mut left = OF_A_SHARD;
            for range in newest_first(Utc::now().date_naive()) {
                let query = Query::index(STATUS_INDEX, state.status(shard)).range(range);
                let (items, whole) = read_some(&*table, query, &mut left).await?;
                cut |= !whole;
                for item in &items {
                    files.extend(read_or_tell::<FileItem>("file", item, unreadable).as_ref().map(FileView::from));
                }
            }
        }
        files.sort_by(|a: &FileView, b| b.date().cmp(a.date()));
        Ok((files, cut))
    }
}

/// Some rejected lines.
#[derive(Debug, Serialize)]
pub struct SampleView {
    lines: Vec<Value>,
    cut: bool,
}

/// Of which manifest.
#[derive(Debug, Deserialize)]
pub struct Name {
    date: String,
    id: String,
}

pub async fn sample(State(dashboard): State<Shared>, UrlQuery(name): UrlQuery<Name>) -> Answer<SampleView> {
    let table = dashboard.home.cloud().table(TRACKING_TABLE).await?;
    let key = Key::new(&name.date, format!("{MANIFEST_KEY_PREFIX}{}.json", name.id));
    let manifest = read_manifest(&*table, &key).await?;
    // Only what a manifest's own commit names is read: no key comes from outside.
    let rejects = manifest.and_then(|manifest| manifest.commit?.rejects_key);
    let rejects = rejects.ok_or_else(|| Failure::missing(format!("rejected line of {} of {}", name.id, name.date)))?;
    let bucket = dashboard.option("quarantine").ok_or_else(|| Failure::missing("bucket of rejects"))?;
    let bucket = dashboard.home.cloud().bucket(bucket).await?;
    let options = GetOptions { range: Some(GetRange::Bounded(0..SAMPLE_BYTES)), ..GetOptions::default() };
    let found = bucket.store.get_opts(&Path::from(rejects.as_str()), options).await?;
    let whole = found.meta.size <= SAMPLE_BYTES;
    Ok(Json(lines(&found.bytes().await?, whole)))
}

/// The first lines; the last may be cut if this isn't all.
fn lines(bytes: &[u8], whole: bool) -> SampleView {
    let all: Vec<&[u8]> = bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).collect();
    let complete = if whole { all.len() } else { all.len().saturating_sub(1) };
    let read = |line: &&[u8]| {
        serde_json::from_slice(line).unwrap_or_else(|_| Value::String(String::from_utf8_lossy(line).into_owned()))
    };
    SampleView {
        lines: all.iter().take(complete.min(SAMPLE_LINES)).map(read).collect(),
        cut: !whole || all.len() > SAMPLE_LINES,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_was_cut_is_left_out() {
        assert_eq!(lines(b"{\"a\":1}\n{\"a\":2}\n", true).lines.len(), 2);
        let part = lines(b"{\"a\":1}\n{\"a\":", false);
        assert_eq!((part.lines.len(), part.cut), (1, true));
    }
}

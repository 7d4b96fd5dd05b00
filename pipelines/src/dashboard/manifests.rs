//! Manifests: a list by date and status, and the story of one.

use axum::{
    Json,
    extract::{Query as UrlQuery, State},
};
use penstock_engine::{
    cloud::table::{Query, Range},
    telemetry::trace::trace_id,
};
use penstock_operators::{
    fold::protocol::{read_manifest, read_manifest_json},
    model::{
        AttemptReport, FileResult, MANIFEST_KEY_PREFIX, ManifestItem, ManifestJson, ManifestState, attribute, read_item,
    },
    settle::read_report,
};
use serde::{Deserialize, Serialize};

use super::{Answer, Dashboard, Failure, Shared, cut};
use crate::facts::TRACKING_TABLE;

/// At most so many manifests of a date are read, and so many are shown.
const OF_A_DATE: usize = 500;
const SHOWN: usize = 200;
/// At most so many files of a manifest are shown.
const FILES_SHOWN: usize = 500;

/// Manifests, the newest first.
#[derive(Debug, Serialize)]
pub struct ListView {
    manifests: Vec<Row>,
    /// The dates that can be chosen.
    dates: Vec<String>,
    /// Whether there are more.
    cut: bool,
}

#[derive(Debug, Serialize)]
struct Row {
    id: String,
    date: String,
    state: &'static str,
    attempt: u32,
    files: u64,
    bytes: u64,
    flush_reason: Option<&'static str>,
    rows: Option<u64>,
    rejected_rows: Option<u64>,
    failed_files: Option<u64>,
    outputs: usize,
    created_at: String,
    updated_at: Option<String>,
    settled_at: Option<String>,
    error: Option<String>,
}

/// Which manifests to list.
#[derive(Debug, Deserialize)]
pub struct Filter {
    date: Option<String>,
    status: Option<String>,
}

pub async fn list(State(dashboard): State<Shared>, UrlQuery(filter): UrlQuery<Filter>) -> Answer<ListView> {
    let state = match filter.status.as_deref().filter(|status| !status.is_empty()) {
        Some(status) => Some(
            ManifestState::parse(status).ok_or_else(|| Failure::missing(format!("state `{status}` of manifests")))?,
        ),
        None => None,
    };
    let (found, dates, cut) = dashboard
        .manifests(filter.date.as_deref(), |manifest| state.is_none_or(|state| manifest.status == state))
        .await?;
    Ok(Json(ListView { manifests: found.iter().map(row).collect(), dates, cut }))
}

impl Dashboard {
    /// Manifests that are wanted, of a date or of the newest ones; the dates that there are; whether there may be more.
    pub(super) async fn manifests(
        &self,
        date: Option<&str>,
        wanted: impl Fn(&ManifestItem) -> bool,
    ) -> Result<(Vec<ManifestItem>, Vec<String>, bool), Failure> {
        let counts = self.counts().await?;
        let dates: Vec<String> = counts.facts.dates.keys().rev().cloned().collect();
        let chosen: Vec<&str> = match date.filter(|date| !date.is_empty()) {
            Some(date) => vec![date],
            None => dates.iter().map(String::as_str).collect(),
        };
        let table = self.home.cloud().table(TRACKING_TABLE).await?;
        let (mut found, mut cut) = (Vec::new(), !counts.complete && date.is_none());
        for date in chosen {
            let range = Range::Prefix(MANIFEST_KEY_PREFIX.to_owned());
            let page = table.query(&Query::partition(date).range(range).limit(OF_A_DATE)).await?;
            cut |= page.next.is_some();
            for item in page.items.iter().filter(|item| item.contains_key(attribute::SCHEMA_VERSION)) {
                let manifest: ManifestItem = read_item("manifest", item).map_err(anyhow::Error::from)?;
                if wanted(&manifest) {
                    found.push(manifest);
                }
            }
            if found.len() >= SHOWN {
                cut = true;
                break;
            }
        }
        found.sort_by(|a, b| b.created_at.cmp(&a.created_at).then_with(|| a.file_key.cmp(&b.file_key)));
        found.truncate(SHOWN);
        Ok((found, dates, cut))
    }
}

fn row(manifest: &ManifestItem) -> Row {
    Row {
        id: manifest.id().to_owned(),
        date: manifest.date_prefix.clone(),
        state: manifest.status.as_str(),
        attempt: manifest.attempt,
        files: manifest.file_count,
        bytes: manifest.total_bytes,
        flush_reason: manifest.flush_reason.map(penstock_operators::model::FlushReason::as_str),
        rows: manifest.rows,
        rejected_rows: manifest.rejected_rows,
        failed_files: manifest.failed_files,
        outputs: manifest.outputs.as_ref().map_or(0, Vec::len),
        created_at: manifest.created_at.clone(),
        updated_at: manifest.updated_at.clone(),
        settled_at: manifest.settled_at.clone(),
        error: manifest.error_message.as_deref().map(|error| cut(error, 300)),
    }
}

/// One manifest.
#[derive(Debug, Serialize)]
pub struct StoryView {
    manifest: Row,
    manifest_path: String,
    trace_id: String,
    error: Option<String>,
    retry_at: Option<String>,
    outputs: Vec<String>,
    rejects_key: Option<String>,
    story: Vec<Event>,
    files: Vec<FileView>,
    files_cut: bool,
    /// What of it can't be told, and why.
    gaps: Vec<String>,
}

/// Something that happened to it.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
struct Event {
    at: String,
    what: String,
}

#[derive(Debug, Serialize)]
struct FileView {
    file_key: String,
    size_bytes: Option<u64>,
    rows: Option<u64>,
    rejected_rows: Option<u64>,
    failure: Option<String>,
}

/// Which manifest.
#[derive(Debug, Deserialize)]
pub struct Name {
    date: String,
    id: String,
}

pub async fn one(State(dashboard): State<Shared>, UrlQuery(name): UrlQuery<Name>) -> Answer<StoryView> {
    let table = dashboard.home.cloud().table(TRACKING_TABLE).await?;
    let key = penstock_engine::cloud::table::Key::new(&name.date, format!("{MANIFEST_KEY_PREFIX}{}.json", name.id));
    let manifest = read_manifest(&*table, &key).await?;
    let manifest = manifest.ok_or_else(|| Failure::missing(format!("manifest {} of {}", name.id, name.date)))?;
    let (mut gaps, mut membership, mut report) = (Vec::new(), None, None);
    if let Some(bucket) = dashboard.option("manifests") {
        let bucket = dashboard.home.cloud().bucket(bucket).await?;
        let prefix = dashboard.option("manifests_prefix").unwrap_or("manifests/");
        match read_manifest_json(&bucket, prefix, &manifest.date_prefix, manifest.id()).await {
            Ok(found) => membership = found.map(|(json, _)| json),
            Err(error) => gaps.push(format!("its list of files can't be read: {error}")),
        }
        if let Some(commit) = &manifest.commit {
            match read_report(&bucket, &commit.report_key).await {
                Ok(found) => report = Some(found),
                Err(error) => gaps.push(format!("the report of its attempt can't be read: {error}")),
            }
        }
    }
    Ok(Json(story(&manifest, membership.as_ref(), report.as_ref(), gaps)))
}

fn story(
    manifest: &ManifestItem,
    membership: Option<&ManifestJson>,
    report: Option<&AttemptReport>,
    gaps: Vec<String>,
) -> StoryView {
    let (files, files_cut) = files(membership, report);
    StoryView {
        manifest: row(manifest),
        manifest_path: manifest.manifest_path.clone(),
        trace_id: trace_id(manifest.id()),
        error: manifest.error_message.clone(),
        retry_at: manifest.retry_at.map(penstock_engine::time::format_time),
        outputs: manifest.outputs.clone().unwrap_or_default(),
        rejects_key: manifest.commit.as_ref().and_then(|commit| commit.rejects_key.clone()),
        story: events(manifest, report),
        files,
        files_cut,
        gaps,
    }
}

/// What happened to it, in order.
fn events(manifest: &ManifestItem, report: Option<&AttemptReport>) -> Vec<Event> {
    let mut events = Vec::new();
    let mut add = |at: Option<&str>, what: String| events.extend(at.map(|at| Event { at: at.to_owned(), what }));
    let reason = manifest.flush_reason.map_or("an unknown threshold", penstock_operators::model::FlushReason::as_str);
    add(Some(&manifest.created_at), format!("Assembly began, because of {reason}."));
    add(manifest.announced_at.as_deref(), "ManifestReady was accepted by the bus.".to_owned());
    if let Some(report) = report {
        add(Some(&report.started_at), format!("Attempt {} began.", report.attempt));
        let passes = if report.passes == 1 { "one pass".to_owned() } else { format!("{} passes", report.passes) };
        add(
            Some(&report.ended_at),
            format!("Converted in {passes}: {} rows, {} rejected lines.", report.rows, report.rejected_rows),
        );
    }
    match manifest.status {
        ManifestState::Completed | ManifestState::Failed if manifest.settled_at.is_some() => {}
        state => add(manifest.updated_at.as_deref(), format!("It is {state} since its last change.")),
    }
    add(manifest.alerted_at.as_deref(), "Its failure, or that of its files, was accepted by the bus.".to_owned());
    add(manifest.settled_at.as_deref(), format!("Its files had followed it: it is {}.", manifest.status));
    events.sort_by(|a, b| a.at.cmp(&b.at));
    events
}

/// Its files: what it lists, and what became of each.
fn files(membership: Option<&ManifestJson>, report: Option<&AttemptReport>) -> (Vec<FileView>, bool) {
    let result = |key: &str| report.and_then(|report| report.files.iter().find(|file| file.file_key == key));
    let view = |key: &str, size_bytes: Option<u64>, result: Option<&FileResult>| FileView {
        file_key: key.to_owned(),
        size_bytes,
        rows: result.map(|result| result.rows),
        rejected_rows: result.map(|result| result.rejected_rows),
        failure: result.and_then(|result| {
            let failure = result.failure.as_ref()?;
            Some(cut(&format!("{failure}: {}", result.message.as_deref().unwrap_or_default()), 300))
        }),
    };
    let mut files: Vec<FileView> = match (membership, report) {
        (Some(json), _) => json
            .files
            .iter()
            .take(FILES_SHOWN)
            .map(|file| view(&file.file_key, Some(file.size_bytes), result(&file.file_key)))
            .collect(),
        (None, Some(report)) => {
            report.files.iter().take(FILES_SHOWN).map(|file| view(&file.file_key, None, Some(file))).collect()
        }
        (None, None) => Vec::new(),
    };
    files.sort_by_key(|file| file.failure.is_none());
    let all = membership.map_or_else(|| report.map_or(0, |report| report.files.len()), |json| json.files.len());
    (files, all > FILES_SHOWN)
}

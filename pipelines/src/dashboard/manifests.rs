//! Manifests: a list by date and status, and the story of one.

use axum::{
    Json,
    extract::{Query as UrlQuery, State},
};
use chrono::Utc;
use penstock_engine::{
    cloud::table::{Key, Query, Range},
    telemetry::trace::trace_id,
};
use penstock_operators::{
    fold::protocol::read_manifest,
    model::{
        AttemptReport, FileResult, MANIFEST_KEY_PREFIX, ManifestItem, ManifestJson, ManifestState, STATUS_INDEX,
        attribute,
    },
};
use serde::{Deserialize, Serialize};

use super::{Answer, Dashboard, Failure, Shared, cut, read_or_tell};
use crate::{
    facts::TRACKING_TABLE,
    oncall::trace::{Attempt, ManifestStory, Next, Options, trace},
};

/// At most so many manifests are read at once, so many for a list, and so many are shown.
const A_PAGE: usize = 500;
const READ: usize = 2000;
const SHOWN: usize = 200;
/// At most so many files of a manifest are shown.
const FILES_SHOWN: usize = 500;

/// Manifests, the newest first.
#[derive(Debug, Serialize)]
pub struct ListView {
    manifests: Vec<Row>,
    /// The dates that can be chosen.
    dates: Vec<String>,
    /// Why some can't be shown.
    unreadable: Vec<String>,
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
    corrupt_rows: Option<u64>,
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
    let Found { manifests, dates, unreadable, cut } = dashboard
        .manifests(filter.date.as_deref(), state, |manifest| state.is_none_or(|state| manifest.status == state))
        .await?;
    Ok(Json(ListView { manifests: manifests.iter().map(row).collect(), dates, unreadable, cut }))
}

/// Manifests as they were found.
pub(super) struct Found {
    /// Those that are wanted, the newest first.
    pub manifests: Vec<ManifestItem>,
    /// The dates that can be chosen.
    pub dates: Vec<String>,
    /// Why some can't be read.
    pub unreadable: Vec<String>,
    /// Whether there may be more.
    pub cut: bool,
}

impl Dashboard {
    /// Manifests that are wanted, of a date or of the newest ones.
    pub(super) async fn manifests(
        &self,
        date: Option<&str>,
        state: Option<ManifestState>,
        wanted: impl Fn(&ManifestItem) -> bool,
    ) -> Result<Found, Failure> {
        let counts = self.counts().await?;
        let dates = counts.known_dates(Utc::now().date_naive());
        let date = date.filter(|date| !date.is_empty());
        let table = self.home.cloud().table(TRACKING_TABLE).await?;
        let (mut found, mut left, mut cut) = (Vec::new(), READ, counts.is_floor && date.is_none());
        let mut unreadable = Vec::new();
        for query in queries(date, state, &dates) {
            if left == 0 || found.len() >= SHOWN {
                cut = true;
                break;
            }
            let page = table.query(&query.limit(A_PAGE.min(left))).await?;
            left = left.saturating_sub(page.items.len());
            cut |= page.next.is_some();
            for item in page.items.iter().filter(|item| item.contains_key(attribute::SCHEMA_VERSION)) {
                found.extend(read_or_tell("manifest", item, &mut unreadable).filter(&wanted));
            }
        }
        found.sort_by(|a, b| b.created_at.cmp(&a.created_at).then_with(|| a.file_key.cmp(&b.file_key)));
        cut |= found.len() > SHOWN;
        found.truncate(SHOWN);
        Ok(Found { manifests: found, dates, unreadable, cut })
    }
}

/// What to read for a list. Those in a state that passes, or needs a person, are few: the index has them together. Completed
/// ones are many, and the index has the oldest first: they are read by date, as all of a date are.
fn queries(date: Option<&str>, state: Option<ManifestState>, dates: &[String]) -> Vec<Query> {
    let of_date = |date: &str| Query::partition(date).range(Range::Prefix(MANIFEST_KEY_PREFIX.to_owned()));
    match (state, date) {
        (Some(state), date) if state != ManifestState::Completed => {
            let range = date.map_or(Range::All, |date| Range::Equals(date.to_owned()));
            vec![Query::index(STATUS_INDEX, state.as_str()).range(range)]
        }
        (_, Some(date)) => vec![of_date(date)],
        (_, None) => dates.iter().map(|date| of_date(date)).collect(),
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
        corrupt_rows: manifest.corrupt_rows,
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
    /// Its Parquet objects, and how many bytes each has; nothing where it isn't there.
    outputs: Vec<(String, Option<u64>)>,
    rejects_key: Option<String>,
    story: Vec<Event>,
    attempts: Vec<AttemptView>,
    /// Who works on it.
    holder: Option<String>,
    /// What comes next; nothing if that can't be told.
    next: Option<Next>,
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

/// An attempt that left a report.
#[derive(Debug, Serialize)]
struct AttemptView {
    number: u32,
    token: String,
    /// Whether it is the one that counts.
    won: bool,
    started_at: String,
    ended_at: String,
    passes: u32,
    rows: u64,
    rejected_rows: u64,
    corrupt_rows: u64,
    failed_files: usize,
    report_key: String,
}

impl From<&Attempt> for AttemptView {
    fn from(Attempt { report_key, won, report }: &Attempt) -> Self {
        Self {
            number: report.attempt,
            token: report.token.clone(),
            won: *won,
            started_at: report.started_at.clone(),
            ended_at: report.ended_at.clone(),
            passes: report.passes,
            rows: report.rows,
            rejected_rows: report.rejected_rows,
            corrupt_rows: report.corrupt_rows,
            failed_files: report.files.iter().filter(|file| file.failure.is_some()).count(),
            report_key: report_key.clone(),
        }
    }
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
    let key = Key::new(&name.date, format!("{MANIFEST_KEY_PREFIX}{}.json", name.id));
    let manifest = read_manifest(&*table, &key).await?;
    let manifest = manifest.ok_or_else(|| Failure::missing(format!("manifest {} of {}", name.id, name.date)))?;
    let (named, options) = (format!("{}/{}", name.date, name.id), Options { glance: true, ..Options::default() });
    let (told, gaps) = match trace(dashboard.home.cloud(), &dashboard.pipeline, &named, options).await {
        Ok(told) => (told.manifest, Vec::new()),
        // What its item says is worth showing all the same.
        Err(error) => (None, vec![format!("what the buckets have of it can't be read: {error:#}")]),
    };
    Ok(Json(story(manifest, told, gaps)))
}

fn story(manifest: ManifestItem, told: Option<ManifestStory>, gaps: Vec<String>) -> StoryView {
    let attempts = told.as_ref().map_or(&[][..], |told| &told.attempts);
    let won = attempts.iter().find(|attempt| attempt.won).map(|attempt| &attempt.report);
    let (files, files_cut) = files(told.as_ref().and_then(|told| told.membership.as_ref()), won);
    let recorded = manifest.outputs.iter().flatten().map(|uri| (uri.clone(), None));
    StoryView {
        manifest: row(&manifest),
        manifest_path: manifest.manifest_path.clone(),
        trace_id: trace_id(manifest.id()),
        error: manifest.error_message.clone(),
        retry_at: manifest.retry_at.map(penstock_engine::time::format_time),
        outputs: told.as_ref().map_or_else(|| recorded.collect(), |told| told.outputs.clone()),
        rejects_key: manifest.commit.as_ref().and_then(|commit| commit.rejects_key.clone()),
        story: events(&manifest, attempts),
        attempts: attempts.iter().map(AttemptView::from).collect(),
        files,
        files_cut,
        gaps,
        holder: told.as_ref().and_then(|told| told.holder.clone()),
        next: told.map(|told| told.next),
    }
}

/// What happened to it, in order.
fn events(manifest: &ManifestItem, attempts: &[Attempt]) -> Vec<Event> {
    let mut events = Vec::new();
    let mut add = |at: Option<&str>, what: String| events.extend(at.map(|at| Event { at: at.to_owned(), what }));
    let reason = manifest.flush_reason.map_or("an unknown threshold", penstock_operators::model::FlushReason::as_str);
    add(Some(&manifest.created_at), format!("Assembly began, because of {reason}."));
    add(manifest.announced_at.as_deref(), "ManifestReady was accepted by the bus.".to_owned());
    for Attempt { won, report, .. } in attempts {
        add(Some(&report.started_at), format!("Attempt {} began.", report.attempt));
        let passes = if report.passes == 1 { "one pass".to_owned() } else { format!("{} passes", report.passes) };
        let counts = if *won { "" } else { " This attempt doesn't count." };
        let (rows, rejected) = (report.rows, report.rejected_rows);
        add(Some(&report.ended_at), format!("Converted in {passes}: {rows} rows, {rejected} rejected lines.{counts}"));
    }
    let became = match manifest.status {
        ManifestState::Completed => "Its outputs were visible: it was completed.".to_owned(),
        ManifestState::Failed => format!("It failed for good, after attempt {}.", manifest.attempt),
        ManifestState::Abandoned => "It was abandoned: none of its files could be claimed.".to_owned(),
        state => format!("It is {state} since its last change."),
    };
    add(manifest.updated_at.as_deref(), became);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_few_are_read_by_the_index_and_the_many_by_their_date() {
        let dates = ["2026-02-02".to_owned(), "2026-02-01".to_owned()];
        let read = |date, state| {
            let queries = queries(date, state, &dates);
            queries.into_iter().map(|query| (query.index, query.partition, query.range)).collect::<Vec<_>>()
        };
        let index = || Some(STATUS_INDEX.to_owned());
        let manifests = || Range::Prefix(MANIFEST_KEY_PREFIX.to_owned());
        let failed = Some(ManifestState::Failed);
        assert_eq!(read(None, failed), [(index(), "failed".to_owned(), Range::All)]);
        let of_date = Range::Equals("2026-02-01".to_owned());
        assert_eq!(read(Some("2026-02-01"), failed), [(index(), "failed".to_owned(), of_date)]);
        let by_date = dates.clone().map(|date| (None, date, manifests()));
        assert_eq!(read(None, Some(ManifestState::Completed)), by_date);
        assert_eq!(read(Some("2026-02-01"), None), [(None, "2026-02-01".to_owned(), manifests())]);
    }
}

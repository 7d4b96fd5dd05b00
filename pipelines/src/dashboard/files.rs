//! Files: search by key, and the story of one.

use axum::{
    Json,
    extract::{Query as UrlQuery, State},
};
use chrono::Utc;
use penstock_engine::cloud::table::{Consistency, Key, Query, Range};
use penstock_operators::model::{FileItem, date_of_key, file_key_of, id_of_key};
use serde::{Deserialize, Serialize};

use super::{Answer, Failure, Shared, cut, read_or_tell};
use crate::{
    facts::{Facts, TRACKING_TABLE},
    oncall::trace::{Options, Story, trace},
};

/// At most so many files of a date are looked at, and so many dates, and so many files are shown.
const OF_A_DATE: usize = 200;
const DATES: usize = 31;
const SHOWN: usize = 200;

/// What was found.
#[derive(Debug, Serialize)]
pub struct View {
    files: Vec<FileView>,
    dates: Vec<String>,
    /// Why some can't be shown.
    unreadable: Vec<String>,
    /// Whether there may be more.
    cut: bool,
}

#[derive(Debug, Serialize)]
pub struct FileView {
    file_key: String,
    date: String,
    state: String,
    size_bytes: u64,
    etag: Option<String>,
    file_path: String,
    created_at: String,
    updated_at: Option<String>,
    manifest: Option<String>,
    rows: Option<u64>,
    rejected_rows: Option<u64>,
    error: Option<String>,
}

impl FileView {
    /// Its date.
    pub fn date(&self) -> &str {
        &self.date
    }
}

impl From<&FileItem> for FileView {
    fn from(file: &FileItem) -> Self {
        let state = file.state().map_or_else(|| file.status.clone(), |state| state.as_str().to_owned());
        let manifest = file.manifest_path.as_deref().and_then(|path| path.rsplit('/').next());
        Self {
            file_key: file.file_key.clone(),
            date: file.date_prefix.clone(),
            state,
            size_bytes: file.size_bytes,
            etag: file.etag.clone(),
            file_path: file.file_path.clone(),
            created_at: file.created_at.clone(),
            updated_at: file.updated_at.clone(),
            manifest: manifest.map(|name| id_of_key(name).to_owned()),
            rows: file.rows,
            rejected_rows: file.rejected_rows,
            error: file.error_message.as_deref().map(|error| cut(error, 300)),
        }
    }
}

/// What to look for: how a file's key begins, or a whole object key or URI.
#[derive(Debug, Deserialize)]
pub struct Search {
    key: Option<String>,
    date: Option<String>,
}

pub async fn search(State(dashboard): State<Shared>, UrlQuery(search): UrlQuery<Search>) -> Answer<View> {
    let counts = dashboard.counts().await?;
    let dates = counts.known_dates(Utc::now().date_naive());
    let (named_date, prefix) =
        what(search.key.as_deref().unwrap_or_default().trim(), dashboard.option("input_prefix").unwrap_or_default());
    let date = search.date.filter(|date| !date.is_empty()).or(named_date);
    let chosen: Vec<&str> = match &date {
        Some(date) => vec![date],
        None => newest(&dates, &counts),
    };
    let table = dashboard.home.cloud().table(TRACKING_TABLE).await?;
    let (mut files, mut unreadable, mut cut) = (Vec::new(), Vec::new(), false);
    for date in chosen {
        let range = if prefix.is_empty() { Range::All } else { Range::Prefix(prefix.clone()) };
        let page = table.query(&Query::partition(date).range(range).limit(OF_A_DATE)).await?;
        cut |= page.next.is_some();
        for item in &page.items {
            let is_file = |sort: &str| FileItem::is_file_key(&Key::new(date, sort));
            if let Some(penstock_engine::cloud::AttributeValue::S(sort)) = item.get("file_key")
                && is_file(sort)
            {
                files.extend(read_or_tell::<FileItem>("file", item, &mut unreadable).as_ref().map(FileView::from));
            }
        }
        if files.len() >= SHOWN {
            cut = true;
            break;
        }
    }
    files.truncate(SHOWN);
    Ok(Json(View { files, dates, unreadable, cut }))
}

/// The newest dates that have items, and those of the last days that may.
fn newest<'a>(dates: &'a [String], counts: &Facts) -> Vec<&'a str> {
    let is_counted = |date: &&String| counts.dates.contains_key(*date);
    let counted = dates.iter().filter(is_counted).take(DATES);
    let mut newest: Vec<&str> =
        counted.chain(dates.iter().filter(|date| !is_counted(date))).map(String::as_str).collect();
    newest.sort_unstable_by(|a, b| b.cmp(a));
    newest
}

/// Which file: its date, and its key below it.
#[derive(Debug, Deserialize)]
pub struct Name {
    date: String,
    key: String,
}

/// The whole story of a file and its versions, as `penstock trace` tells it.
pub async fn story(State(dashboard): State<Shared>, UrlQuery(name): UrlQuery<Name>) -> Answer<Story> {
    let table = dashboard.home.cloud().table(TRACKING_TABLE).await?;
    if table.get(&Key::new(&name.date, &name.key), Consistency::Eventual).await?.is_none() {
        return Err(Failure::missing(format!("file {} of {}", name.key, name.date)));
    }
    let named = format!("{}/{}", name.date, name.key);
    Ok(Json(
        trace(dashboard.home.cloud(), &dashboard.pipeline, &named, Options { glance: true, ..Options::default() })
            .await?,
    ))
}

/// The date and the beginning of the file key that a person means: a key, an object's key, or its URI.
fn what(text: &str, input_prefix: &str) -> (Option<String>, String) {
    let object = text.strip_prefix("s3://").and_then(|rest| rest.split_once('/')).map_or(text, |(_, key)| key);
    match date_of_key(object) {
        Some((_, date)) if object.contains('/') => (Some(date.to_owned()), file_key_of(object, input_prefix, false)),
        _ => (None, object.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::DateFacts;

    #[test]
    fn today_is_looked_at_even_if_it_was_not_counted_and_old_dates_are_not_crowded_out() {
        let old = (1..=28).map(|day| (format!("2026-02-{day:02}"), DateFacts::default()));
        let more = (1..=20).map(|day| (format!("2026-01-{day:02}"), DateFacts::default()));
        let mut facts = Facts { dates: old.chain(more).collect(), ..Facts::default() };
        let today = "2026-11-26".parse().unwrap();
        let dates = facts.known_dates(today);
        assert_eq!((dates.len(), newest(&dates, &facts).len()), (48, DATES));
        facts.is_floor = true;
        let dates = facts.known_dates(today);
        let newest = newest(&dates, &facts);
        assert_eq!((dates.len(), newest.len()), (48 + 31, DATES + 31));
        assert_eq!((newest[0], newest[31]), ("2026-11-26", "2026-02-28"));
    }

    #[test]
    fn people_may_name_a_file_as_they_know_it() {
        let found = |text: &str| what(text, "landing/ndjson/");
        let day = Some("2026-02-01".to_owned());
        assert_eq!(found("events-0"), (None, "events-0".to_owned()));
        assert_eq!(found("landing/ndjson/2026-02-01/a.ndjson"), (day.clone(), "a.ndjson".to_owned()));
        assert_eq!(found("s3://bucket/landing/ndjson/2026-02-01/eu/a.ndjson"), (day, "eu/a.ndjson".to_owned()));
        assert_eq!(found("2026-02-01-a.ndjson"), (None, "2026-02-01-a.ndjson".to_owned()));
    }
}

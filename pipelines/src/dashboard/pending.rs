//! Pending folds: what each date has waiting, against the thresholds that close a manifest.

use std::{collections::BTreeMap, time::Duration};

use axum::{Json, extract::State, http::HeaderMap};
use penstock_engine::operator::Command;
use penstock_operators::fold::{FoldOptions, view::Pending};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{Answer, Shared};
use crate::oncall::{Layout, flush};

/// How long a fold may take to say what it holds: it answers between two batches.
const PATIENCE: Duration = Duration::from_secs(5);

/// The folds of the pipeline.
#[derive(Debug, Serialize)]
pub struct View {
    folds: Vec<Fold>,
}

#[derive(Debug, Serialize)]
struct Fold {
    id: String,
    max_files: usize,
    max_bytes: u64,
    max_age_secs: u64,
    /// What it holds; nothing if it can't be asked, for the reason beside it.
    dates: Option<Vec<Date>>,
    problem: Option<String>,
}

/// A date, with the share of each threshold that it has reached.
#[derive(Debug, PartialEq, Serialize)]
struct Date {
    date: String,
    files: usize,
    bytes: u64,
    oldest_secs: u64,
    files_share: f64,
    bytes_share: f64,
    age_share: f64,
}

pub async fn get(State(dashboard): State<Shared>) -> Answer<View> {
    let mut folds = Vec::new();
    for node in dashboard.pipeline.graph.nodes.iter().filter(|node| node.type_name == "fold") {
        let options: FoldOptions = serde_json::from_value(node.options.clone())
            .map_err(|error| anyhow::anyhow!("options of {}: {error}", node.id))?;
        let asked = ask(&dashboard, &node.id, "pending", json!({})).await;
        let held = asked.and_then(|answer| {
            serde_json::from_value::<BTreeMap<String, HeldView>>(answer).map_err(|error| error.to_string())
        });
        let (dates, problem) = match held {
            Ok(held) => {
                (Some(held.into_iter().map(|(date, held)| of_date(date, &held.into(), &options)).collect()), None)
            }
            Err(problem) => (None, Some(problem)),
        };
        folds.push(Fold {
            id: node.id.clone(),
            max_files: options.max_files,
            max_bytes: options.max_bytes,
            max_age_secs: options.max_age.as_secs(),
            dates,
            problem,
        });
    }
    Ok(Json(View { folds }))
}

/// What the fold answers.
#[derive(Deserialize)]
struct HeldView {
    files: usize,
    bytes: u64,
    oldest_secs: u64,
}

impl From<HeldView> for Pending {
    fn from(HeldView { files, bytes, oldest_secs }: HeldView) -> Self {
        Self { files, bytes, oldest_secs }
    }
}

fn of_date(date: String, held: &Pending, options: &FoldOptions) -> Date {
    let share = |part: f64, whole: f64| if whole > 0.0 { (part / whole).min(1.0) } else { 1.0 };
    Date {
        date,
        files: held.files,
        bytes: held.bytes,
        oldest_secs: held.oldest_secs,
        files_share: share(held.files as f64, options.max_files as f64),
        bytes_share: share(held.bytes as f64, options.max_bytes as f64),
        age_share: share(held.oldest_secs as f64, options.max_age.as_secs_f64()),
    }
}

/// Asks an operator of this process; the error is for people.
async fn ask(dashboard: &Shared, id: &str, name: &str, arguments: Value) -> Result<Value, String> {
    let elsewhere = || format!("another process runs `{id}`");
    let service = dashboard.monitor.service().ok_or_else(elsewhere)?;
    if !service.states().contains_key(id) {
        return Err(elsewhere());
    }
    let command = Command { name: name.to_owned(), arguments };
    match tokio::time::timeout(PATIENCE, service.command(id, command)).await {
        Ok(answer) => answer.map_err(|error| error.to_string()),
        Err(_) => Err(format!("`{id}` is busy with a batch, and hasn't answered yet")),
    }
}

/// What to flush: a date, or all.
#[derive(Deserialize)]
pub struct FlushRequest {
    date: Option<String>,
}

/// What came of a flush.
#[derive(Debug, Default, Serialize)]
pub struct Flushed {
    /// By date, the manifests that were closed.
    manifests: BTreeMap<String, Vec<String>>,
    /// Dates whose fold hasn't answered yet. The request stays.
    waiting: Vec<String>,
}

/// Asks for manifests of what is pending, as `penstock flush` does, whichever process has the fold.
pub async fn flush(
    State(dashboard): State<Shared>,
    headers: HeaderMap,
    Json(request): Json<FlushRequest>,
) -> Answer<Flushed> {
    dashboard.allow(&headers)?;
    let (cloud, layout) = (&**dashboard.home.cloud(), Layout::of(&dashboard.pipeline)?);
    let table = cloud.table(&layout.fold.table).await?;
    let dates = match request.date {
        Some(date) => vec![date],
        None => flush::pending_dates(&*table).await?.into_iter().collect(),
    };
    tracing::info!(?dates, "Flush asked for on the dashboard.");
    let mut asked = Vec::new();
    for date in &dates {
        asked.push(flush::ask(cloud, &layout, date).await?);
    }
    let (began, mut flushed) = (Instant::now(), Flushed::default());
    for asked in asked {
        let left = PATIENCE.saturating_sub(began.elapsed());
        match flush::wait(&*table, &asked, left).await? {
            found if found.is_waiting() => flushed.waiting.push(found.date),
            found => {
                flushed.manifests.insert(found.date, found.manifests);
            }
        }
    }
    Ok(Json(flushed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_those_of_the_thresholds() {
        let options: FoldOptions = serde_json::from_value(json!({
            "table": "t", "leases": "l", "manifests": "m", "max_files": 200, "max_bytes": "1KiB", "max_age": "100s"
        }))
        .unwrap();
        let date = of_date("2026-02-01".into(), &Pending { files: 50, bytes: 4096, oldest_secs: 75 }, &options);
        assert_eq!((date.files_share, date.bytes_share, date.age_share), (0.25, 1.0, 0.75));
    }
}

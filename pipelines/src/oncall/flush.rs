//! Flush a date by hand: ask the fold, by an item of the table, and wait for its answer.

use std::time::Duration;

use anyhow::{Context, bail};
use chrono::NaiveDate;
use penstock_engine::cloud::{Cloud, Table};
use penstock_operators::fold::request::{self, FlushRequest};
use tokio::time::Instant;

use super::Layout;

/// How often the answer is looked for.
const POLL: Duration = Duration::from_millis(200);

/// Asks for a flush of `date`. The request stays until a fold has answered it, however long that takes.
pub async fn ask(cloud: &dyn Cloud, layout: &Layout, date: &str) -> anyhow::Result<FlushRequest> {
    if NaiveDate::parse_from_str(date, "%Y-%m-%d").is_err() {
        bail!("`{date}` is no date: write it as YYYY-MM-DD");
    }
    let table = cloud.table(&layout.fold.table).await?;
    let token = format!("{:032x}", rand::random::<u128>());
    request::ask(&*table, date, &token, chrono::Utc::now()).await.context("the flush can't be requested")
}

/// Waits until the request is answered, or `limit` has passed: then what it is then.
pub async fn wait(table: &dyn Table, asked: &FlushRequest, limit: Duration) -> anyhow::Result<FlushRequest> {
    let began = Instant::now();
    loop {
        match request::read(table, &asked.date).await? {
            // A later request means that this one was answered.
            Some(found) if found.token != asked.token => return Ok(found),
            Some(found) if !found.is_waiting() || began.elapsed() >= limit => return Ok(found),
            None if began.elapsed() >= limit => return Ok(asked.clone()),
            _ => tokio::time::sleep(POLL).await,
        }
    }
}

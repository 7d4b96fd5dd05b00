//! Flush a date by hand: ask the fold, by an item of the table, and wait for its answer.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context, bail};
use chrono::NaiveDate;
use penstock_engine::cloud::{
    Cloud, Table,
    table::{Query, Range},
};
use penstock_operators::{
    fold::request::{self, FlushRequest},
    model::{FileState, SHARDS, STATUS_INDEX, attribute, text},
};
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

/// The dates that have pending files, by the index. One item is read of each date and shard.
pub async fn pending_dates(table: &dyn Table) -> anyhow::Result<BTreeSet<String>> {
    let mut dates = BTreeSet::new();
    for shard in 0..SHARDS {
        // Before every date; AWS takes no empty text for a key. `~` comes after every digit.
        let mut after = "0".to_owned();
        loop {
            let query = Query::index(STATUS_INDEX, FileState::Pending.status(shard))
                .range(Range::Between(after, "~".to_owned()))
                .limit(1);
            let page = table.query(&query).await?;
            let Some(date) = page.items.first().and_then(|item| text(item, attribute::DATE_PREFIX)) else { break };
            after = format!("{date}~");
            dates.insert(date.to_owned());
        }
    }
    Ok(dates)
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

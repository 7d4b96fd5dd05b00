//! A person's wish that a date is flushed now, as an item of the table.
//!
//! The table is all that any two processes share, so the wish goes the way of everything else: a conditional write, which
//! the fold sees as a change, and finds by the index if the change is lost. On one machine and on many the same item asks,
//! and the same item answers. One date has one request: who asks while another waits joins it.

use chrono::{DateTime, TimeDelta, Utc};
use penstock_engine::{
    cloud::{
        Item, Table,
        table::{Carried, Condition, Consistency, Key, Query, Write, carry_out, query_all},
    },
    operator::OperatorError,
    time::format_time,
};
use serde::{Deserialize, Serialize};

use super::events::RequestAnswered;
use crate::model::{SCHEMA_VERSION, STATUS_INDEX, attribute, read_item, text};

/// The partition key of all requests; their sort key is the date.
pub const PARTITION: &str = "FLUSH";

/// The status of a request that waits for an answer.
pub const REQUESTED: &str = "requested";
/// The status of one that has it.
pub const ANSWERED: &str = "answered";

/// A request to flush a date, and the answer to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlushRequest {
    /// The date.
    #[serde(rename = "file_key")]
    pub date: String,
    /// Whether it waits or is answered.
    pub status: String,
    /// Tells it from earlier and later requests for the date.
    pub token: String,
    /// When it was made.
    pub requested_at: String,
    /// When it was answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answered_at: Option<String>,
    /// The manifests that it led to; empty if nothing was pending.
    #[serde(default)]
    pub manifests: Vec<String>,
}

impl FlushRequest {
    /// Whether it waits for an answer.
    pub fn is_waiting(&self) -> bool {
        self.status == REQUESTED
    }
}

/// The key of the request for a date.
pub fn key(date: &str) -> Key {
    Key::new(PARTITION, date)
}

/// Asks for a flush of `date`. Returns the request that now waits: this one, or one that waited already. `token` must be
/// random.
pub async fn ask(
    table: &dyn Table,
    date: &str,
    token: &str,
    now: DateTime<Utc>,
) -> Result<FlushRequest, OperatorError> {
    let stamp = |write: Write| {
        write
            .set(attribute::STATUS, REQUESTED)
            .set_number(attribute::SCHEMA_VERSION, SCHEMA_VERSION)
            .set(attribute::TOKEN, token)
            .set("requested_at", format_time(now))
    };
    let first = stamp(Write::put(key(date), Item::default(), Condition::absent(attribute::FILE_KEY)));
    let mut found = match carry_out(table, &first).await? {
        Carried::Applied(item) | Carried::Refused(item) => read_found(date, item)?,
    };
    if !found.is_waiting() {
        let condition =
            Condition::equals(attribute::STATUS, ANSWERED).and(Condition::equals(attribute::TOKEN, &found.token));
        let again = ["answered_at", "manifests", attribute::TTL]
            .into_iter()
            .fold(stamp(Write::update(key(date), condition)), Write::remove);
        found = match carry_out(table, &again).await? {
            Carried::Applied(item) | Carried::Refused(item) => read_found(date, item)?,
        };
    }
    Ok(found)
}

fn read_found(date: &str, item: Option<Item>) -> Result<FlushRequest, OperatorError> {
    let gone =
        || OperatorError::transient(format!("the flush request of {date} vanished while it was made; ask again"));
    Ok(read_item("flush request", &item.ok_or_else(gone)?)?)
}

/// The request for a date as it is now, if there is one.
pub async fn read(table: &dyn Table, date: &str) -> Result<Option<FlushRequest>, OperatorError> {
    match table.get(&key(date), Consistency::Strong).await? {
        Some(item) => Ok(Some(read_item("flush request", &item)?)),
        None => Ok(None),
    }
}

/// The dates of requests that wait, by the index: it may be stale.
pub async fn waiting(table: &dyn Table) -> Result<Vec<String>, OperatorError> {
    let items = query_all(table, Query::index(STATUS_INDEX, REQUESTED)).await?;
    Ok(items.iter().filter_map(|item| text(item, attribute::FILE_KEY).map(str::to_owned)).collect())
}

/// Answers a request. Whether this was the answer: another fold may have been quicker.
pub async fn answer(
    table: &dyn Table,
    request: &FlushRequest,
    manifests: &[String],
    now: DateTime<Utc>,
    ttl: TimeDelta,
) -> Result<bool, OperatorError> {
    let condition =
        Condition::equals(attribute::STATUS, REQUESTED).and(Condition::equals(attribute::TOKEN, &request.token));
    let listed = serde_dynamo::to_attribute_value(manifests).map_err(|error| {
        OperatorError::permanent(format!(
            "the answer to the flush request of {} can't be written: {error}",
            request.date
        ))
    })?;
    let write = Write::update(key(&request.date), condition)
        .set(attribute::STATUS, ANSWERED)
        .set("answered_at", format_time(now))
        .set_value("manifests", listed)
        .set_number(attribute::TTL, (now + ttl).timestamp());
    let answered = matches!(carry_out(table, &write).await?, Carried::Applied(_));
    RequestAnswered { date: &request.date, manifests, before: !answered }.emit();
    Ok(answered)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use penstock_engine::cloud::{
        Cloud,
        local::{LocalCloud, LocalOptions},
        resources::{Naming, Resources},
    };

    use super::*;

    async fn table(dir: &std::path::Path) -> Arc<dyn Table> {
        let resources: Resources = serde_json::from_value(serde_json::json!({ "tables": { "t": {
            "partition_key": "date_prefix", "sort_key": "file_key",
            "indexes": { STATUS_INDEX: { "hash": "status", "range": "date_prefix" } },
        } } }))
        .unwrap();
        let naming = Naming { pipeline: "p".to_owned(), env: "e".to_owned(), account: "0".to_owned() };
        LocalCloud::open(dir, naming, &resources, LocalOptions::default()).unwrap().table("t").await.unwrap()
    }

    #[tokio::test]
    async fn a_date_has_one_request_and_its_first_answer_counts() {
        let dir = tempfile::tempdir().unwrap();
        let table = table(dir.path()).await;
        let (date, now) = ("2026-02-01", Utc::now());
        let first = ask(&*table, date, "one", now).await.unwrap();
        let joined = ask(&*table, date, "two", now).await.unwrap();
        assert_eq!((first.is_waiting(), &joined), (true, &first), "who asks while another waits joins it");
        assert_eq!(waiting(&*table).await.unwrap(), [date]);
        let made = ["batch-1".to_owned()];
        assert!(answer(&*table, &first, &made, now, TimeDelta::days(30)).await.unwrap());
        assert!(!answer(&*table, &first, &[], now, TimeDelta::days(30)).await.unwrap(), "I3: another fold was quicker");
        let answered = read(&*table, date).await.unwrap().unwrap();
        assert_eq!((answered.is_waiting(), &answered.manifests[..]), (false, &made[..]));
        assert!(waiting(&*table).await.unwrap().is_empty());

        let later = ask(&*table, date, "three", now).await.unwrap();
        assert_eq!((later.token.as_str(), later.is_waiting(), later.manifests.len()), ("three", true, 0));
        let item = table.get(&key(date), Consistency::Strong).await.unwrap().unwrap();
        assert!(!item.contains_key(attribute::TTL), "what waits never expires");
        assert!(
            !answer(&*table, &first, &[], now, TimeDelta::days(30)).await.unwrap(),
            "a late answer to an earlier request"
        );
    }
}

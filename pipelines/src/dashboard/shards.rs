//! Shards: the tree of parents and children, who reads each, how far, and why one doesn't move.

use std::collections::BTreeMap;

use anyhow::Context;
use axum::{Json, extract::State};
use penstock_engine::{
    cloud::{AttributeValue, Item, table::Query},
    leases::OWNER,
    streams::{ChangeStreamOptions, ShardStatus, shards_of_process},
};
use serde::Serialize;

use super::{Answer, Shared};

/// At most so many shards of a stream are shown.
const SHARDS: usize = 500;

/// The shards of each stream.
#[derive(Debug, Serialize)]
pub struct View {
    streams: Vec<Stream>,
}

#[derive(Debug, Serialize)]
struct Stream {
    /// The operator that reads it.
    source: String,
    table: String,
    arn: String,
    /// Whether this process reads with it.
    read_here: bool,
    /// Whether there are more shards than are shown.
    cut: bool,
    shards: Vec<Shard>,
}

/// A shard: what its lease item says, and what this process knows of it.
#[derive(Debug, Default, PartialEq, Serialize)]
struct Shard {
    id: String,
    parents: Vec<String>,
    owner: Option<String>,
    checkpoint: Option<String>,
    /// How its reading ended, if it has.
    ended: Option<String>,
    /// What happens to it, as this process sees it.
    state: Option<&'static str>,
    lag_secs: Option<u64>,
    in_flight_records: Option<usize>,
    still_for_secs: Option<u64>,
    reason: Option<String>,
}

pub async fn get(State(dashboard): State<Shared>) -> Answer<View> {
    let here = shards_of_process();
    let mut streams = Vec::new();
    for node in dashboard.pipeline.graph.nodes.iter().filter(|node| node.type_name == "change_stream") {
        let options: ChangeStreamOptions =
            serde_json::from_value(node.options.clone()).with_context(|| format!("options of {}", node.id))?;
        let cloud = dashboard.home.cloud();
        let leases = cloud.table(&options.leases).await?;
        for arn in cloud.change_stream(&options.table).await?.streams().await? {
            let page = leases.query(&Query::partition(&arn).limit(SHARDS)).await?;
            let known: Vec<&ShardStatus> = here.iter().filter(|status| status.arn == arn).collect();
            streams.push(Stream {
                source: node.id.clone(),
                table: options.table.clone(),
                read_here: !known.is_empty(),
                cut: page.next.is_some(),
                shards: joined(&page.items, &known),
                arn,
            });
        }
    }
    Ok(Json(View { streams }))
}

/// The shards that either the lease items or this process know.
fn joined(items: &[Item], known: &[&ShardStatus]) -> Vec<Shard> {
    let mut shards: BTreeMap<String, Shard> = BTreeMap::new();
    for item in items {
        let Some(id) = text(item, "id") else { continue };
        let shard = Shard {
            id: id.clone(),
            parents: list(item, "parents"),
            owner: text(item, OWNER),
            checkpoint: text(item, "checkpoint"),
            ended: text(item, "ended"),
            ..Shard::default()
        };
        shards.insert(id, shard);
    }
    for status in known {
        let id = status.shard.0.clone();
        let shard = shards.entry(id.clone()).or_insert_with(|| Shard { id, ..Shard::default() });
        shard.owner = status.owner.clone().or(shard.owner.take());
        shard.checkpoint = status.checkpoint.as_ref().map(|at| at.0.clone()).or(shard.checkpoint.take());
        shard.state = Some(status.state.text());
        shard.lag_secs = status.lag_secs;
        shard.in_flight_records = Some(status.in_flight_records);
        shard.still_for_secs = status.still_for_secs;
        shard.reason.clone_from(&status.reason);
    }
    shards.into_values().collect()
}

fn text(item: &Item, name: &str) -> Option<String> {
    match item.get(name) {
        Some(AttributeValue::S(text)) => Some(text.clone()),
        _ => None,
    }
}

fn list(item: &Item, name: &str) -> Vec<String> {
    match item.get(name) {
        Some(AttributeValue::Ss(texts)) => texts.clone(),
        Some(AttributeValue::L(values)) => values
            .iter()
            .filter_map(|value| match value {
                AttributeValue::S(text) => Some(text.clone()),
                _ => None,
            })
            .collect(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use penstock_engine::{cloud::change_stream::ShardId, streams::ShardState};

    use super::*;

    #[test]
    fn what_a_reader_knows_is_joined_with_what_the_lease_says() {
        let mut item = Item::default();
        let text = |text: &str| AttributeValue::S(text.to_owned());
        item.inner_mut().insert("id".to_owned(), text("child"));
        item.inner_mut().insert("parents".to_owned(), AttributeValue::L(vec![text("parent")]));
        item.inner_mut().insert("checkpoint".to_owned(), text("17"));
        let status = ShardStatus {
            table: "t".into(),
            arn: "arn".into(),
            shard: ShardId("child".into()),
            owner: Some("me".into()),
            state: ShardState::Stuck,
            checkpoint: None,
            lag_secs: Some(90),
            in_flight_records: 5,
            still_for_secs: Some(61),
            reason: Some("no progress".into()),
        };
        let shards = joined(&[item], &[&status]);
        let wanted = Shard {
            id: "child".into(),
            parents: vec!["parent".into()],
            owner: Some("me".into()),
            checkpoint: Some("17".into()),
            ended: None,
            state: Some("stuck"),
            lag_secs: Some(90),
            in_flight_records: Some(5),
            still_for_secs: Some(61),
            reason: Some("no progress".into()),
        };
        assert_eq!(shards, [wanted]);
    }
}

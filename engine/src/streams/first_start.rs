//! What the workers of a table settle once: where its very first start begins, and which of its streams are known.
//!
//! The scope `consumers/{table}` holds an item for each worker that is there, and the item `first-start`. Whoever holds
//! the lease on that one makes the items that a first start at LATEST needs, before anybody reads.

use std::collections::{BTreeMap, BTreeSet};

use serde_dynamo::{AttributeValue, Item};

use super::{
    consumer::Shared,
    events,
    options::{OnTrimmed, StartAt},
    shard_graph::ShardGraph,
    shard_item::ShardItem,
    start::items_at_first_start,
};
use crate::{
    cloud::{CloudError, ErrorKind, Result, change_stream::ShardId, table::Outcome},
    leases::{Lease, LeaseState},
};

const MARKER: &str = "first-start";
const WORKER: &str = "worker/";
const START: &str = "start";
const STREAMS: &str = "streams";

/// The scope of what a table's workers share.
pub(super) fn scope(table: &str) -> String {
    format!("consumers/{table}")
}

/// The id that shows that a worker is there.
pub(super) fn worker_id(owner: &str) -> String {
    format!("{WORKER}{owner}")
}

/// Whether an id shows that a worker is there.
pub(super) fn is_worker(id: &str) -> bool {
    id.starts_with(WORKER)
}

/// What this worker knows to be settled.
#[derive(Debug, Default)]
pub(super) struct FirstStart {
    streams: Option<BTreeSet<String>>,
    /// Streams of which was told that they are gone: once each, however often the policy says stop.
    told: BTreeSet<String>,
}

/// Whether all is settled that has to be before anybody reads.
#[derive(Debug)]
pub(super) enum Settled {
    Yes,
    /// Ask again; and what it waits for.
    NotYet(String),
}

impl FirstStart {
    /// Sees to it that the first start is settled, and every listed stream noted.
    pub async fn settle<'a>(
        &mut self,
        shared: &Shared,
        streams: impl Iterator<Item = (&'a str, &'a ShardGraph)>,
    ) -> Result<Settled> {
        let streams: BTreeMap<&str, &ShardGraph> = streams.collect();
        let listed: BTreeSet<String> = streams.keys().map(|arn| (*arn).to_owned()).collect();
        if self.streams.as_ref() == Some(&listed) {
            return Ok(Settled::Yes);
        }
        let scope = scope(&shared.options.table);
        let marker = shared.leases.item(&scope, MARKER).await?;
        if noted(marker.as_ref()).is_some_and(|noted| noted == listed) {
            self.streams = Some(listed);
            return Ok(Settled::Yes);
        }
        if streams.is_empty() {
            return Ok(Settled::NotYet("the table has no stream: enable it with new and old images".to_owned()));
        }
        if let Some((arn, _)) = streams.iter().find(|(_, graph)| !graph.is_known()) {
            return Ok(Settled::NotYet(format!("the shards of {arn} aren't listed yet")));
        }
        let Some(lease) = shared.leases.try_acquire(&scope, MARKER).await? else {
            return Ok(Settled::NotYet(format!("another worker settles the first start, by lease {scope}/{MARKER}")));
        };
        let settled = self.settle_alone(shared, &streams, &listed, &lease).await;
        lease.release().await;
        settled?;
        self.streams = Some(listed);
        Ok(Settled::Yes)
    }

    async fn settle_alone(
        &mut self,
        shared: &Shared,
        streams: &BTreeMap<&str, &ShardGraph>,
        listed: &BTreeSet<String>,
        lease: &Lease,
    ) -> Result<()> {
        match noted(Some(lease.item())) {
            None => {
                for (arn, graph) in streams {
                    for (shard, item) in items_at_first_start(shared.options.start, graph) {
                        make(shared, arn, &shard, &item, lease).await?;
                    }
                }
            }
            Some(noted) => {
                for arn in noted.difference(listed) {
                    self.bury_stream(shared, arn).await?;
                }
            }
        }
        let start = match shared.options.start {
            StartAt::TrimHorizon => "trim_horizon",
            StartAt::Latest => "latest",
        };
        let arns = listed.iter().map(|arn| AttributeValue::S(arn.clone())).collect();
        let mut set = BTreeMap::from([(STREAMS.to_owned(), AttributeValue::L(arns))]);
        if lease.item().get(START).is_none() {
            set.insert(START.to_owned(), AttributeValue::S(start.to_owned()));
        }
        match lease.update(set, Vec::new()).await? {
            Outcome::Applied(_) => Ok(()),
            Outcome::Refused(_) => Err(lost(shared)),
            Outcome::Unknown(error) => Err(error),
        }
    }

    /// Removes the lease items of a stream that is gone. If it wasn't read to its end, that is a gap, and the policy decides.
    async fn bury_stream(&mut self, shared: &Shared, arn: &str) -> Result<()> {
        if shared.discovery.is_there(arn).await? {
            return Ok(()); // Its table lists it no more, or not for now; it is noted again when it does.
        }
        let leases = shared.leases.list(arn).await?;
        let mut unfinished = 0;
        for listed in &leases {
            // An item that can't be read doesn't say that its shard was finished.
            let ended = ShardItem::decode(arn, &listed.id, &listed.item).is_ok_and(|item| item.ended.is_some());
            unfinished += usize::from(!ended);
        }
        if unfinished > 0 {
            if self.told.insert(arn.to_owned()) {
                if shared.options.on_trimmed == OnTrimmed::Reconcile {
                    shared.common.note_gap(&shared.options.table);
                }
                events::StreamGone { table: &shared.options.table, arn, unfinished }.emit();
            }
            if shared.options.on_trimmed == OnTrimmed::Stop {
                let operation = format!("reading table {}", shared.options.table);
                let text = format!(
                    "its stream {arn} is gone, and {unfinished} of its shards weren't read to their end; on_trimmed is stop: \
                     set it to skip or reconcile to go on with the new stream"
                );
                return Err(CloudError::new(ErrorKind::TrimmedData, operation, text));
            }
        }
        for listed in leases {
            if !matches!(listed.state, LeaseState::Held { .. })
                && let Some(lease) = shared.leases.try_acquire(arn, &listed.id).await?
            {
                lease.retire().await;
            }
        }
        Ok(())
    }
}

fn noted(marker: Option<&Item>) -> Option<BTreeSet<String>> {
    let Some(AttributeValue::L(arns)) = marker?.get(STREAMS) else { return None };
    let text = |arn: &AttributeValue| match arn {
        AttributeValue::S(arn) => Some(arn.clone()),
        _ => None,
    };
    arns.iter().map(text).collect()
}

async fn make(shared: &Shared, arn: &str, shard: &ShardId, item: &ShardItem, lease: &Lease) -> Result<()> {
    if !lease.is_held() {
        return Err(lost(shared));
    }
    match shared.leases.create(arn, &shard.0, item.encode()).await? {
        Outcome::Applied(_) | Outcome::Refused(_) => Ok(()),
        Outcome::Unknown(error) => Err(error),
    }
}

fn lost(shared: &Shared) -> CloudError {
    let operation = format!("settling the first start of table {}", shared.options.table);
    CloudError::new(ErrorKind::Unavailable, operation, "its lease was lost; it is tried again")
}

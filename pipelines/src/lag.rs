//! How far the readers of a pipeline's change streams are behind, told from outside: by their checkpoints and the
//! records that come after them.

use anyhow::Context;
use chrono::Utc;
use penstock_engine::{
    cloud::{
        AttributeValue, ChangeStream, Cloud, ErrorKind, Table,
        change_stream::{DescribeRequest, IteratorStart, SequenceNumber, Shard},
        limits::RECORDS_PER_PAGE,
        table::{Consistency, Key},
    },
    graph::Graph,
    leases::OWNER,
    streams::ChangeStreamOptions,
};
use serde::Serialize;

/// How far the reader of a shard is behind.
#[derive(Debug, Serialize)]
pub struct ShardLag {
    /// The operator that reads it.
    pub source: String,
    /// The shard.
    pub shard: String,
    /// Who reads it.
    pub owner: Option<String>,
    /// Records after the checkpoint; at most a page of them is counted.
    pub records: usize,
    /// Age of the oldest of them.
    pub secs: i64,
    /// Why it can't be told.
    pub problem: Option<String>,
}

impl ShardLag {
    /// In words.
    pub fn words(&self) -> String {
        match &self.problem {
            Some(problem) => format!("lag unknown: {problem}"),
            None => format!("{} records behind, the oldest {} s old", self.records, self.secs),
        }
    }
}

/// The lag of every shard that a graph reads and that has records after its checkpoint, or whose lag can't be told.
pub async fn read(graph: &Graph, cloud: &dyn Cloud) -> anyhow::Result<Vec<ShardLag>> {
    let mut lags = Vec::new();
    for node in graph.nodes.iter().filter(|node| node.type_name == "change_stream") {
        let options: ChangeStreamOptions =
            serde_json::from_value(node.options.clone()).with_context(|| format!("options of {}", node.id))?;
        let stream = cloud.change_stream(&options.table).await?;
        let leases = cloud.table(&options.leases).await?;
        for arn in stream.streams().await? {
            for shard in shards(&*stream, &arn).await? {
                let lag = of_shard(&node.id, &*stream, &*leases, &arn, &shard).await?;
                if lag.records > 0 || lag.problem.is_some() {
                    lags.push(lag);
                }
            }
        }
    }
    Ok(lags)
}

async fn shards(stream: &dyn ChangeStream, arn: &str) -> anyhow::Result<Vec<Shard>> {
    let (mut shards, mut request) = (Vec::new(), DescribeRequest::default());
    loop {
        let page = stream.describe(arn, request.clone()).await?;
        shards.extend(page.shards);
        match page.last_evaluated {
            Some(last) => request.after = Some(last),
            None => return Ok(shards),
        }
    }
}

async fn of_shard(
    source: &str,
    stream: &dyn ChangeStream,
    leases: &dyn Table,
    arn: &str,
    shard: &Shard,
) -> anyhow::Result<ShardLag> {
    let item = leases.get(&Key::new(arn, shard.id.0.as_str()), Consistency::Strong).await?;
    let text = |name: &str| match item.as_ref().and_then(|item| item.get(name)) {
        Some(AttributeValue::S(text)) => Some(text.clone()),
        _ => None,
    };
    let start = match text("checkpoint") {
        Some(checkpoint) => IteratorStart::After(SequenceNumber(checkpoint)),
        None => IteratorStart::TrimHorizon,
    };
    let mut lag = ShardLag {
        source: source.to_owned(),
        shard: shard.id.0.clone(),
        owner: text(OWNER),
        records: 0,
        secs: 0,
        problem: None,
    };
    let page = async { stream.records(&stream.iterator(arn, &shard.id, &start).await?, RECORDS_PER_PAGE).await };
    match page.await {
        Ok(page) => {
            lag.records = page.changes.len();
            let oldest = page.changes.first().map(|change| change.created_secs);
            lag.secs = oldest.map_or(0, |secs| (Utc::now().timestamp() - secs).max(0));
        }
        Err(error) if matches!(error.kind, ErrorKind::TrimmedData | ErrorKind::NotFound) => {
            lag.problem = Some(error.to_string());
        }
        Err(error) => return Err(error.into()),
    }
    Ok(lag)
}

//! How far the readers of a pipeline's change streams are behind, told from outside: by what their lease items say and the
//! records that come after that.

use std::sync::Arc;

use anyhow::Context;
use chrono::Utc;
use penstock_engine::{
    cloud::{ChangeStream, Cloud, Result, Table, change_stream::Change, limits::RECORDS_PER_PAGE},
    graph::Graph,
    streams::{
        ChangeStreamOptions,
        operate::{self, SeenShard},
        start::Position,
    },
};
use serde::Serialize;

/// A page may be empty though records follow: so many in a row say that there is nothing newer. A shard allows 5 reads a
/// second, of which its reader needs some.
const EMPTY_PAGES: u32 = 3;

/// So many pages are read of a shard at most, to find the first change that counts.
const PAGES: u32 = 100;

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
        lags.extend(of_source(&node.id, stream, &*leases).await?);
    }
    Ok(lags)
}

async fn of_source(source: &str, stream: Arc<dyn ChangeStream>, leases: &dyn Table) -> Result<Vec<ShardLag>> {
    let seen = operate::look(Arc::clone(&stream), leases).await?;
    let is_left = |seen: &&SeenShard| seen.listed && seen.item.as_ref().is_none_or(|item| item.ended.is_none());
    let mut lags = Vec::new();
    for shard in seen.iter().filter(is_left) {
        // What is wrong with one shard hides no other.
        let (records, secs, problem) = match unread(&*stream, shard).await {
            Ok(Unread::Changes { records, oldest_secs }) => {
                (records, (Utc::now().timestamp() - oldest_secs).max(0), None)
            }
            Ok(Unread::Nothing) => continue,
            Ok(Unread::NotFound) => (0, 0, Some(format!("its first {PAGES} pages are older than its start"))),
            Err(error) => (0, 0, Some(error.to_string())),
        };
        let (source, owner) = (source.to_owned(), shard.owner.clone());
        lags.push(ShardLag { source, shard: shard.shard.0.clone(), owner, records, secs, problem });
    }
    Ok(lags)
}

/// What comes after the place that a shard's item tells.
enum Unread {
    Nothing,
    Changes { records: usize, oldest_secs: i64 },
    NotFound,
}

async fn unread(stream: &dyn ChangeStream, shard: &SeenShard) -> Result<Unread> {
    let item = shard.item.clone().unwrap_or_default();
    let position = Position::of(&item);
    // Whoever reads it from its latest record on has read nothing, so that all that came since it was opened is left; and
    // nothing older, though the next reader goes back further to be sure.
    let opened = item.opened_secs.filter(|_| matches!(position, Position::TrimHorizonFrom { .. }));
    let counts = |change: &&Arc<Change>| opened.is_none_or(|opened| change.created_secs > opened);
    let mut next = Some(stream.iterator(&shard.arn, &shard.shard, &position.iterator_start()).await?);
    let mut empty = 0;
    for _ in 0..PAGES {
        let Some(iterator) = next.take().filter(|_| empty < EMPTY_PAGES) else { return Ok(Unread::Nothing) };
        let page = stream.records(&iterator, RECORDS_PER_PAGE).await?;
        if let Some(oldest) = page.changes.iter().find(counts) {
            let records = page.changes.iter().filter(counts).count();
            return Ok(Unread::Changes { records, oldest_secs: oldest.created_secs });
        }
        empty = if page.changes.is_empty() { empty + 1 } else { 0 };
        next = page.next;
    }
    Ok(Unread::NotFound)
}

#[cfg(test)]
mod tests {
    use penstock_engine::{
        cloud::{ErrorKind, change_stream::ShardId, table::Outcome},
        leases::Leases,
        simulation::{FakeStream, FakeTable, sequence},
        streams::shard_item::{Ending, ShardItem, ShardStart},
    };

    use super::*;

    struct Bed {
        stream: FakeStream,
        leases: Arc<dyn Table>,
    }

    impl Bed {
        fn new() -> Self {
            Self { stream: FakeStream::new(), leases: FakeTable::new().host().0 }
        }

        fn shard(&self) -> ShardId {
            self.stream.open_shards().remove(0)
        }

        async fn says(&self, shard: &ShardId, item: ShardItem) {
            let leases = Leases::new(Arc::clone(&self.leases), "a", Default::default());
            let made = leases.create(&self.stream.arn(), &shard.0, item.encode()).await.unwrap();
            assert!(matches!(made, Outcome::Applied(_)));
        }

        /// The records behind of each shard that is, or why that can't be told.
        async fn lags(&self) -> Vec<(String, std::result::Result<usize, String>)> {
            let lags = of_source("changes", Arc::new(self.stream.clone()), &*self.leases).await.unwrap();
            lags.into_iter().map(|lag| (lag.shard, lag.problem.map_or(Ok(lag.records), Err))).collect()
        }
    }

    /// A gathering pipeline with `start: latest` would have waited for ever for changes that it was told not to read.
    #[tokio::test(start_paused = true)]
    async fn what_was_there_before_a_latest_start_is_no_lag_and_what_came_since_is() {
        let bed = Bed::new();
        let closed = bed.shard();
        (0..10).for_each(|n| bed.stream.put("a", n));
        let open = bed.stream.split(&closed, 1).remove(0);
        (10..20).for_each(|n| bed.stream.put("a", n));
        assert_eq!(bed.lags().await, [(closed.0.clone(), Ok(10)), (open.0.clone(), Ok(10))]);
        bed.says(&closed, ShardItem { ended: Some(Ending::BeforeStart), ..ShardItem::default() }).await;
        let opened_secs = Some(1_770_000_000);
        bed.says(&open, ShardItem { start: ShardStart::Latest, opened_secs, ..ShardItem::default() }).await;
        assert_eq!(bed.lags().await, []);
        tokio::time::sleep(std::time::Duration::from_secs(2)).await;
        (20..23).for_each(|n| bed.stream.put("a", n));
        assert_eq!(bed.lags().await, [(open.0, Ok(3))]);
    }

    /// A run would have ended with changes unread, because the first page after the checkpoint was empty.
    #[tokio::test(start_paused = true)]
    async fn f16_an_empty_page_is_not_the_end() {
        let bed = Bed::new();
        let shard = bed.shard();
        (0..10).for_each(|n| bed.stream.put("a", n));
        bed.says(&shard, ShardItem { checkpoint: Some(sequence(104)), ..ShardItem::default() }).await;
        bed.stream.empty_pages(2);
        assert_eq!(bed.lags().await, [(shard.0.clone(), Ok(6))]);
        let before = bed.stream.calls("records");
        bed.stream.empty_pages(1000);
        assert_eq!(bed.lags().await, [], "it may be idle");
        assert_eq!(bed.stream.calls("records") - before, u64::from(EMPTY_PAGES));
    }

    /// One throttled shard would have hidden all others.
    #[tokio::test(start_paused = true)]
    async fn f14_a_throttled_shard_hides_no_other() {
        let bed = Bed::new();
        let first = bed.shard();
        let shards = bed.stream.split(&first, 2);
        (0..40).for_each(|n| bed.stream.put(&format!("key-{n}"), n));
        bed.says(&first, ShardItem { ended: Some(Ending::Read), ..ShardItem::default() }).await;
        bed.stream.fail("records", ErrorKind::Throttled, 1);
        let lags = bed.lags().await;
        assert_eq!(lags.len(), 2);
        assert!(lags[0].1.as_ref().is_err_and(|problem| problem.contains("told to fail")), "{lags:?}");
        assert_eq!(lags[1], (shards[1].0.clone(), Ok(bed.stream.records(&shards[1].0).len())));
    }
}

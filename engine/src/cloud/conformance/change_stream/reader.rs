//! The plainest right reader of a stream: all shards from an iterator each, a child only after its parent's end.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    sync::Arc,
};

use super::super::eventually;
use crate::cloud::{
    AttributeValue, ChangeStream,
    change_stream::{Change, DescribeRequest, IteratorStart, Shard, ShardId, ShardIterator},
};

/// All shards of a stream, over all pages.
pub(super) async fn shards(stream: &dyn ChangeStream, arn: &str) -> Vec<Shard> {
    let (mut shards, mut after) = (Vec::new(), None);
    loop {
        let request = DescribeRequest { after, ..DescribeRequest::default() };
        let page = stream.describe(arn, request).await.unwrap();
        shards.extend(page.shards);
        after = page.last_evaluated;
        if after.is_none() {
            return shards;
        }
    }
}

/// Reads a stream and keeps all it read.
pub(super) struct Reader<'a> {
    stream: &'a dyn ChangeStream,
    arn: String,
    limit: usize,
    /// Only these shards and their descendants; empty means all.
    only: BTreeSet<ShardId>,
    iterators: BTreeMap<ShardId, Option<ShardIterator>>,
    changes: Vec<(ShardId, Arc<Change>)>,
}

impl<'a> Reader<'a> {
    /// A reader of all that the stream holds and will hold.
    pub async fn from_the_start(stream: &'a dyn ChangeStream, arn: String) -> Self {
        let (only, iterators) = Default::default();
        Self { stream, arn, limit: 1000, only, iterators, changes: Vec::new() }
    }

    /// A reader of one shard from there on, and of its descendants.
    pub async fn of_shard(stream: &'a dyn ChangeStream, arn: String, shard: &ShardId, start: &IteratorStart) -> Self {
        let mut reader = Self::from_the_start(stream, arn).await;
        let iterator = stream.iterator(&reader.arn, shard, start).await.unwrap();
        reader.only.insert(shard.clone());
        reader.iterators.insert(shard.clone(), Some(iterator));
        reader
    }

    /// The same reader with pages of `limit` records.
    pub fn by(mut self, limit: usize) -> Self {
        self.limit = limit;
        self
    }

    /// Reads each shard that may be read to its end or its tip.
    pub async fn read(&mut self) {
        let mut listed = shards(self.stream, &self.arn).await;
        listed.sort_by(|a, b| a.start.cmp(&b.start));
        let names: BTreeSet<ShardId> = listed.iter().map(|shard| shard.id.clone()).collect();
        for shard in listed {
            let parent_is_done = match &shard.parent {
                Some(parent) => !names.contains(parent) || matches!(self.iterators.get(parent), Some(None)),
                None => true,
            };
            let mine = self.only.is_empty()
                || self.only.contains(&shard.id)
                || shard.parent.as_ref().is_some_and(|parent| self.only.contains(parent));
            if !mine || !(parent_is_done || self.only.contains(&shard.id)) {
                continue;
            }
            if !self.only.is_empty() {
                self.only.insert(shard.id.clone());
            }
            self.read_shard(&shard.id).await;
        }
    }

    async fn read_shard(&mut self, shard: &ShardId) {
        let mut next = match self.iterators.get(shard) {
            Some(iterator) => iterator.clone(),
            None => Some(self.stream.iterator(&self.arn, shard, &IteratorStart::TrimHorizon).await.unwrap()),
        };
        while let Some(iterator) = next.clone() {
            let page = self.stream.records(&iterator, self.limit).await.unwrap();
            assert!(page.changes.len() <= self.limit, "a page of {} records by {}", page.changes.len(), self.limit);
            next = page.next;
            let tip = page.changes.is_empty();
            self.changes.extend(page.changes.into_iter().map(|change| (shard.clone(), change)));
            if tip {
                break;
            }
        }
        self.iterators.insert(shard.clone(), next);
    }

    fn read_of(&self, partition: &str) -> impl Iterator<Item = &(ShardId, Arc<Change>)> {
        self.changes.iter().filter(move |(_, change)| change.key.partition == partition)
    }

    /// Reads until there are `count` changes of a partition, and returns them; fails if there are more.
    pub async fn of_partition(&mut self, partition: &str, count: usize) -> Vec<Arc<Change>> {
        let reader = tokio::sync::Mutex::new(&mut *self);
        eventually("the changes in the stream", || async {
            let mut reader = reader.lock().await;
            reader.read().await;
            (reader.read_of(partition).count() >= count).then_some(())
        })
        .await;
        self.read().await;
        let changes: Vec<_> = self.read_of(partition).map(|(_, change)| Arc::clone(change)).collect();
        assert_eq!(changes.len(), count, "each change comes once: {changes:#?}");
        changes
    }

    /// Reads until a partition's one item went through these values, in order and once each.
    pub async fn expect_values(&mut self, partition: &str, values: Range<usize>) {
        let changes = self.of_partition(partition, values.len()).await;
        let found: Vec<_> =
            changes.iter().map(|c| c.new.as_ref().and_then(|item| item.get("value")).cloned()).collect();
        let wanted: Vec<_> = values.map(|to| Some(AttributeValue::S(to.to_string()))).collect();
        assert_eq!(found, wanted);
    }

    /// The shards in which the changes of a partition were read.
    pub fn shards_of(&self, partition: &str) -> Vec<ShardId> {
        self.read_of(partition).map(|(shard, _)| shard.clone()).collect()
    }

    /// The shard in which the last change of a partition was read.
    pub fn shard_of(&self, partition: &str) -> ShardId {
        self.shards_of(partition).pop().expect("a change of the partition was read")
    }
}

//! A weak change stream: empty and short pages, listings that lag, iterators that expire.

use std::sync::Arc;

use async_trait::async_trait;

use super::{Dice, Weakness};
use crate::cloud::{
    ChangeStream, CloudError, ErrorKind, Result,
    change_stream::{DescribeRequest, IteratorStart, RecordPage, ShardId, ShardIterator, StreamDescription},
};

/// A change stream made weak.
pub struct WeakChangeStream {
    inner: Arc<dyn ChangeStream>,
    dice: Dice,
}

impl WeakChangeStream {
    /// Makes `inner` as weak as this.
    pub fn new(inner: Arc<dyn ChangeStream>, weakness: Weakness, seed: u64) -> Self {
        Self { inner, dice: Dice::new(weakness, seed) }
    }
}

#[async_trait]
impl ChangeStream for WeakChangeStream {
    fn table(&self) -> &str {
        self.inner.table()
    }

    async fn streams(&self) -> Result<Vec<String>> {
        self.dice.through(&format!("listing of the streams of {}", self.table()), self.inner.streams()).await
    }

    async fn describe(&self, arn: &str, request: DescribeRequest) -> Result<StreamDescription> {
        let mut listed = self.dice.through(&format!("listing of {arn}"), self.inner.describe(arn, request)).await?;
        if self.dice.chance(self.dice.weakness.stale_listing) && !listed.shards.is_empty() {
            let which = self.dice.up_to(listed.shards.len()) - 1;
            // The last shard of a page that is not the last is where the next one starts: it stays.
            if self.dice.chance(0.5) && (listed.last_evaluated.is_none() || which + 1 < listed.shards.len()) {
                listed.shards.remove(which);
            } else {
                listed.shards[which].end = None;
            }
        }
        Ok(listed)
    }

    async fn iterator(&self, arn: &str, shard: &ShardId, start: &IteratorStart) -> Result<ShardIterator> {
        self.dice.through(&format!("iterator of {shard}"), self.inner.iterator(arn, shard, start)).await
    }

    async fn records(&self, iterator: &ShardIterator, limit: usize) -> Result<RecordPage> {
        let operation = format!("records of {}", self.table());
        if self.dice.chance(self.dice.weakness.expired_iterator) {
            return Err(CloudError::new(ErrorKind::ExpiredIterator, operation, "expired on purpose"));
        }
        let read = async {
            if !self.dice.chance(self.dice.weakness.empty_page) {
                return self.inner.records(iterator, limit).await;
            }
            if self.dice.chance(0.5) {
                return Ok(RecordPage { changes: Vec::new(), next: Some(iterator.clone()) });
            }
            self.inner.records(iterator, self.dice.up_to(limit)).await
        };
        self.dice.through(&operation, read).await
    }
}

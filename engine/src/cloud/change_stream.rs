//! Change streams: shards, iterators and records, in the shape of the DynamoDB Streams API.

use std::{cmp::Ordering, fmt, sync::Arc};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_dynamo::Item;
use tokio::sync::watch;

use super::{Result, table::Key};

/// The change streams of one table: the present one, and older ones that still hold records.
#[async_trait]
pub trait ChangeStream: Send + Sync {
    /// The name of the table.
    fn table(&self) -> &str;

    /// The ARNs of the table's streams, oldest first. Disabling and enabling a stream gives it a new one.
    async fn streams(&self) -> Result<Vec<String>>;

    /// One page of the shards of a stream. Listings are eventually consistent: a parent may be missing or look open.
    async fn describe(&self, arn: &str, request: DescribeRequest) -> Result<StreamDescription>;

    /// An iterator at a place in a shard. It lives for 15 minutes.
    async fn iterator(&self, arn: &str, shard: &ShardId, start: &IteratorStart) -> Result<ShardIterator>;

    /// Up to `limit` (at most 1,000) records from there on. An empty page is not the end; a missing next iterator is.
    async fn records(&self, iterator: &ShardIterator, limit: usize) -> Result<RecordPage>;

    /// Where a cloud can tell that there may be news, a number that changes then: who has read an empty page may wait for
    /// it. It is only a hint, and most clouds have none.
    fn news(&self) -> Option<watch::Receiver<u64>> {
        None
    }
}

/// The id of a shard, unique within its stream only.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ShardId(pub String);

impl fmt::Display for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A place in a shard: a decimal number of up to 40 digits, compared as a number and otherwise opaque.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SequenceNumber(pub String);

impl SequenceNumber {
    fn digits(&self) -> &str {
        self.0.trim_start_matches('0')
    }
}

impl Ord for SequenceNumber {
    fn cmp(&self, other: &Self) -> Ordering {
        // More digits are a greater number; 40 of them fit no machine integer.
        let (a, b) = (self.digits(), other.digits());
        a.len().cmp(&b.len()).then_with(|| a.cmp(b)).then_with(|| self.0.cmp(&other.0))
    }
}

impl PartialOrd for SequenceNumber {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for SequenceNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Which shards to describe.
#[derive(Debug, Clone, Default)]
pub struct DescribeRequest {
    /// Only those after this one, where the page before ended.
    pub after: Option<ShardId>,
    /// Only the children of this one.
    pub children_of: Option<ShardId>,
}

/// One page of a stream's shards.
#[derive(Debug, Clone)]
pub struct StreamDescription {
    /// Whether the stream still takes changes.
    pub enabled: bool,
    /// The shards of this page.
    pub shards: Vec<Shard>,
    /// Where the next page starts, if there is one.
    pub last_evaluated: Option<ShardId>,
}

/// A shard as listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shard {
    /// Its id.
    pub id: ShardId,
    /// The shard that it continues. It may be trimmed away already.
    pub parent: Option<ShardId>,
    /// The first sequence number that it may hold.
    pub start: SequenceNumber,
    /// The last one; none while the shard is open.
    pub end: Option<SequenceNumber>,
}

/// Where an iterator starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IteratorStart {
    /// At the oldest record kept.
    TrimHorizon,
    /// After the newest record.
    Latest,
    /// At this record.
    At(SequenceNumber),
    /// Just after this record.
    After(SequenceNumber),
}

/// A place to read from: opaque to everyone but the stream that gave it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardIterator(pub String);

/// One page of records.
#[derive(Debug, Default)]
pub struct RecordPage {
    /// The changes, in order.
    pub changes: Vec<Arc<Change>>,
    /// Where to go on; none at the end of a closed shard. The last page of a closed shard may hold records.
    pub next: Option<ShardIterator>,
}

/// One stream record: what happened to one item.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// What happened.
    pub kind: ChangeKind,
    /// Which item.
    pub key: Key,
    /// The item before, but for an insert.
    pub old: Option<Item>,
    /// The item after, but for a removal.
    pub new: Option<Item>,
    /// Its place in its shard.
    pub sequence: SequenceNumber,
    /// About when it happened, in whole seconds since the epoch: for lag, never for order.
    pub created_secs: i64,
    /// Its stored size in bytes.
    pub size_bytes: u64,
    /// Whether the table's own expiry removed the item, and no writer.
    pub by_ttl: bool,
}

/// What happened to an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum ChangeKind {
    /// It was made.
    Insert,
    /// It was changed.
    Modify,
    /// It was deleted, or it expired.
    Remove,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequence_numbers_compare_as_numbers() {
        let n = |text: &str| SequenceNumber(text.into());
        assert!(n("9") < n("10"));
        assert!(n("0009") < n("10"));
        assert!(n("1234567890123456789012345678901234567890") > n("999999999999999999999999999999999999999"));
        assert_eq!(n("7").cmp(&n("7")), Ordering::Equal);
    }
}

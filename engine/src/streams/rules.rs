//! The decisions on which order and completeness rest, as values: a simulation puts a wrong one in the place of a right one,
//! to show that it would be found. The program has no other than [`Rules::default`].

use std::sync::Arc;

use super::{
    assignment::{self, Facts, Plan},
    frontier::Frontier,
    ledger::Flight,
    shard_item::ShardItem,
};
use crate::cloud::change_stream::{Change, RecordPage, SequenceNumber, ShardId, ShardIterator};

/// The changes of a page, and where to go on.
pub(super) type ReadPage = (Vec<Arc<Change>>, Option<ShardIterator>);

/// The decisions.
#[derive(Clone, Copy)]
pub(super) struct Rules {
    /// Which shards to take and to give away (F2).
    pub plan: fn(&Facts<'_>) -> Plan,
    /// What a page holds, and where to go on; nowhere at the end (F1).
    pub page: fn(RecordPage) -> ReadPage,
    /// What the item of a shard says that continues this one (F8).
    pub child: fn(&ShardId) -> ShardItem,
    /// What a checkpoint may say (F30).
    pub checkpoint: for<'a> fn(&'a Frontier<Flight>) -> Option<&'a SequenceNumber>,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            plan: assignment::plan,
            // The last page of a closed shard comes without an iterator, and may hold records.
            page: |page| (page.changes, page.next),
            // A child always begins at its oldest record.
            child: |parent| ShardItem { parents: vec![parent.clone()], ..ShardItem::default() },
            checkpoint: Frontier::acked,
        }
    }
}

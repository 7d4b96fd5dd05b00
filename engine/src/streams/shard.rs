//! The life of one shard in this worker's hands: open it, read it, end it or give it back.
//!
//! At the end of a shard the order is: its last records are durable, its children are found and have their items, and
//! only then its own item says that it has ended. Whatever is cut short before that is done again by the next reader.

use std::{sync::Arc, time::Duration};

use tokio::{sync::mpsc, task::JoinSet, time::sleep};
use tokio_util::sync::CancellationToken;

use super::{
    assignment::ShardKey,
    consumer::{Delivery, Shared},
    discovery::Children,
    events,
    ledger::{Closed, Ledger, OwnedShard, store},
    reader::{Reader, patiently},
    shard_item::{Ending, START, ShardItem, ShardStart},
    start::{Position, may_be_trimmed},
    status::{Progress, Trouble},
};
use crate::{
    cloud::{
        CloudError,
        change_stream::{IteratorStart, SequenceNumber, Shard, ShardId},
        table::Outcome,
    },
    leases::Lease,
};

/// So often a last checkpoint is tried.
const LAST_TRIES: u32 = 3;

/// How a shard left this worker's hands.
#[derive(Debug)]
pub(super) enum Left {
    /// It was read to its end; these shards continue it.
    Ended(Vec<Shard>),
    /// It was given back, or lost.
    Open,
    /// It couldn't be opened, for this reason.
    Failed(String),
}

/// What is known of a shard when it is taken.
pub(super) struct Taken {
    pub key: ShardKey,
    pub lease: Arc<Lease>,
    pub parent: Option<ShardId>,
    pub closed: bool,
    /// The first sequence number that it may hold, if it is listed.
    pub first: Option<SequenceNumber>,
    /// Whether it continues a shard that was read to its end.
    pub continues: bool,
    pub progress: Arc<Progress>,
}

/// Reads a shard until it ends, is lost, or `give_back` is cancelled.
pub(super) async fn read_shard(
    shared: Arc<Shared>,
    taken: Taken,
    deliveries: mpsc::Sender<Vec<Delivery>>,
    give_back: CancellationToken,
) -> (ShardKey, Left) {
    let Taken { key, lease, progress, .. } = &taken;
    let (key, table) = (key.clone(), shared.options.table.clone());
    let shard = OwnedShard {
        shared: Arc::clone(&shared),
        key: key.clone(),
        lease: Arc::clone(lease),
        item: ShardItem::default(),
        progress: Arc::clone(progress),
    };
    let lease = Arc::clone(lease);
    let opened = tokio::select! {
        biased;
        () = give_back.cancelled() => Ok(None),
        opened = open(shard, taken) => opened,
    };
    let left = match opened {
        Ok(None) => Left::Open,
        Ok(Some((shard, reader))) => {
            let position = Position::of(&shard.item);
            let (sender, pages) = mpsc::channel(1);
            let mut reading = JoinSet::new();
            reading.spawn(reader.run(sender));
            let mut ledger = Ledger::new(shard, pages, deliveries, position.pass_over_before_secs());
            let closed = ledger.keep(&give_back).await;
            lease.rest();
            reading.abort_all();
            let left = close(ledger, closed, &give_back).await;
            match reading.join_next().await {
                Some(Err(error)) if error.is_panic() => Left::Failed(format!("its reader failed: {error}")),
                _ => left,
            }
        }
        Err(error) => Left::Failed(error.to_string()),
    };
    if let Left::Failed(reason) = &left {
        events::ShardClosed { table: &table, key: &key, how: "failed", checkpoint: None, reason }.emit();
    }
    match Arc::try_unwrap(lease) {
        Ok(lease) => lease.release().await,
        // A write that was cut off still holds it; it goes when that is dropped.
        Err(lease) => drop(lease),
    }
    (key, left)
}

/// Makes a shard's item say how it is read, and a reader that begins where the item says. `None` if it has ended, or is
/// lost already.
async fn open(mut shard: OwnedShard, taken: Taken) -> Result<Option<(OwnedShard, Reader)>, CloudError> {
    let shared = Arc::clone(&shard.shared);
    let found = ShardItem::decode(&shard.key.arn, &shard.key.shard.0, shard.lease.item())?;
    if found.ended.is_some() {
        return Ok(None);
    }
    let mut item = found.clone();
    if item.parents.is_empty() {
        item.parents.extend(taken.parent);
    }
    let position = Position::of(&item);
    let mut iterator = None;
    if position == Position::Latest {
        // The iterator first: what comes between it and the note of the opening is read, and not passed over.
        let (arn, id) = (&shard.key.arn, &shard.key.shard);
        let request = shared.stream.iterator(arn, id, &IteratorStart::Latest);
        iterator = Some(patiently("GetShardIterator", &shard.key, request).await?);
        item.opened_secs = Some(shared.clock.now().timestamp());
        // What came before it nobody is told: whoever keeps a view makes it again now that the iterator stands.
        shared.common.note_gap(&shared.options.table);
    }
    // A shard that nobody has read has an item that says nothing but its lease.
    let is_new = shard.lease.item().get(START).is_none();
    let now_secs = shared.clock.now().timestamp();
    if is_new {
        item.known_secs = Some(now_secs);
    }
    let (set, remove) = if is_new { (item.encode(), Vec::new()) } else { found.changes_to(&item) };
    if !set.is_empty() || !remove.is_empty() {
        match shard.lease.update(set, remove).await? {
            Outcome::Applied(_) => {}
            Outcome::Refused(_) => return Ok(None),
            Outcome::Unknown(error) => return Err(error),
        }
    }
    shard.item = item;
    let last_read = shard.item.checkpoint.clone();
    let start = match position {
        // Without its first iterator it would begin at the oldest record, and pass over what is too old.
        Position::Latest => IteratorStart::TrimHorizon,
        position => position.iterator_start(),
    };
    let owed = !is_new || taken.continues;
    let start = match taken.first {
        // It may have begun to go while nobody read: asking for its first record tells (F33).
        Some(first) if owed && may_be_trimmed(&shard.item, now_secs) => IteratorStart::At(first),
        _ => start,
    };
    let from = match (&last_read, shard.item.start) {
        (Some(checkpoint), _) => checkpoint.0.as_str(),
        (None, ShardStart::TrimHorizon) => "trim_horizon",
        (None, ShardStart::Latest) => "latest",
    };
    events::ShardOpened { table: &shared.options.table, key: &shard.key, from }.emit();
    let reader = Reader {
        key: shard.key.clone(),
        closed: taken.closed,
        start,
        last_read,
        iterator,
        owed,
        empty_pages: 0,
        record_bytes: 0,
        shared,
    };
    Ok(Some((shard, reader)))
}

/// Writes what the books say at last. The lease is released by the caller.
async fn close(mut ledger: Ledger, closed: Closed, give_back: &CancellationToken) -> Left {
    let (table, key) = (ledger.shard.shared.options.table.clone(), ledger.shard.key.clone());
    let left = match closed {
        Closed::Lost => Left::Open,
        Closed::GivenBack => {
            let present = ledger.last_words();
            write_last(&mut ledger, present).await;
            Left::Open
        }
        Closed::Complete(ending) => match end(&mut ledger, ending, give_back).await {
            Some(children) => Left::Ended(children),
            None => Left::Open,
        },
    };
    if let Left::Open = left {
        let how = if closed == Closed::Lost { "lost" } else { "given_back" };
        let checkpoint = ledger.shard.item.checkpoint.as_ref();
        let reason = "its lease is lost; whoever has it goes on from the checkpoint";
        events::ShardClosed { table: &table, key: &key, how, checkpoint, reason }.emit();
    }
    left
}

/// Ends a shard of which everything is durable. `None` if that couldn't be finished: the next reader does it.
async fn end(ledger: &mut Ledger, ending: Ending, give_back: &CancellationToken) -> Option<Vec<Shard>> {
    let shared = Arc::clone(&ledger.shard.shared);
    let (key, lost) = (ledger.shard.key.clone(), ledger.shard.lease.lost());
    let mut wait = Duration::from_millis(200);
    loop {
        let tried = tokio::select! {
            biased;
            () = lost.cancelled() => return None,
            () = give_back.cancelled() => Err("asked to give it back".to_owned()),
            tried = find_children(&shared, &key) => tried,
        };
        let error = match tried {
            Ok(children) => {
                let ids: Vec<_> = children.iter().map(|child| child.id.clone()).collect();
                let ended = ShardItem { ended: Some(ending), children: ids, ..ledger.present() };
                if write_last(ledger, ended).await {
                    let ids = &ledger.shard.item.children;
                    events::ShardEnded { table: &shared.options.table, key: &key, ending, children: ids }.emit();
                    return Some(children);
                }
                "the end can't be written".to_owned()
            }
            Err(error) => error,
        };
        if give_back.is_cancelled() || !ledger.shard.lease.is_held() {
            let present = ledger.present();
            write_last(ledger, present).await;
            return None;
        }
        ledger.shard.progress.set_trouble(Trouble::Reading, Some(format!("it has ended, but: {error}")));
        sleep(wait).await;
        wait = (wait * 2).min(Duration::from_secs(10));
    }
}

/// Finds the shards that continue this one, and sees to it that each has an item.
async fn find_children(shared: &Shared, key: &ShardKey) -> Result<Vec<Shard>, String> {
    let children = match shared.discovery.children(&key.arn, &key.shard).await.map_err(|error| error.to_string())? {
        Children::Found(children) => children,
        Children::None => Vec::new(),
        Children::Missing => {
            events::ShardHole { table: &shared.options.table, arn: &key.arn, shard: &key.shard }.emit();
            Vec::new()
        }
    };
    for child in &children {
        let known_secs = Some(shared.clock.now().timestamp());
        let item = ShardItem { known_secs, ..(shared.rules.child)(&key.shard) };
        match shared.leases.create(&key.arn, &child.id.0, item.encode()).await {
            Ok(Outcome::Applied(_) | Outcome::Refused(_)) => {}
            Ok(Outcome::Unknown(error)) | Err(error) => return Err(error.to_string()),
        }
    }
    Ok(children)
}

/// Writes the item under the lease's fence, and tries again if need be. Returns whether it is stored.
async fn write_last(ledger: &mut Ledger, after: ShardItem) -> bool {
    for attempt in 1..=LAST_TRIES {
        if after == ledger.shard.item {
            return true;
        }
        let (after, outcome) = store(Arc::clone(&ledger.shard.lease), ledger.shard.item.clone(), after.clone()).await;
        if ledger.settle_write(after, outcome) {
            return true;
        }
        if ledger.shard.lease.lost().is_cancelled() {
            return false;
        }
        sleep(Duration::from_millis(100) * attempt).await;
    }
    false
}

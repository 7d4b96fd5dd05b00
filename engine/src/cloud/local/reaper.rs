//! What time removes: expired items, messages past their retention, old changes and shards.
//!
//! As on AWS none of it is prompt: an expired item may be read until it is reaped, and its removal is a change like any
//! other, marked as the table's own.

use std::{sync::Arc, sync::Weak, time::Duration};

use rusqlite::Connection;
use tokio_util::task::AbortOnDropHandle;

use super::{
    LocalCloud, Store,
    definition::{QueueDef, TableDef},
    items,
    log::{self, Log, millis},
    queue,
};
use crate::cloud::Result;

/// Rows that one write removes at most, so that other writes wait little.
const BATCH: usize = 200;

/// DynamoDB leaves items alone that expired longer ago than this: most likely the attribute is no time at all.
const EXPIRED_AT_MOST_SECS: i64 = 5 * 365 * 24 * 3600;

/// Starts to reap at intervals, until the handle is dropped.
pub(super) fn spawn(cloud: &LocalCloud, interval: Duration) -> AbortOnDropHandle<()> {
    let store: Weak<Store> = Arc::downgrade(&cloud.store);
    let tables: Vec<_> = cloud.tables.values().cloned().collect();
    let queues: Vec<_> = cloud.queues.values().cloned().collect();
    AbortOnDropHandle::new(tokio::spawn(async move {
        loop {
            tokio::time::sleep(interval).await;
            let Some(store) = store.upgrade() else { return };
            if let Err(error) = reap(&store, &tables, &queues).await {
                tracing::warn!(%error, "The local cloud could not remove what has expired; it will try again.");
            }
        }
    }))
}

impl LocalCloud {
    /// Removes now what has expired, rolls over shards that are old enough, and trims.
    pub async fn reap(&self) -> Result<()> {
        let tables: Vec<_> = self.tables.values().cloned().collect();
        let queues: Vec<_> = self.queues.values().cloned().collect();
        reap(&self.store, &tables, &queues).await
    }
}

async fn reap(store: &Store, tables: &[Arc<TableDef>], queues: &[Arc<QueueDef>]) -> Result<()> {
    let now_ms = store.now_ms();
    for table in tables.iter().filter(|table| table.ttl.is_some()) {
        loop {
            let (def, log, signals) = (Arc::clone(table), Arc::clone(&store.log), Arc::clone(&store.signals));
            let removed = store
                .db
                .write_then(
                    format!("expiry in table {}", table.name),
                    move |connection| expire(connection, &def, &log, now_ms.div_euclid(1000)),
                    move |(_, seq)| signals.changed(*seq),
                )
                .await?;
            if removed.0 < BATCH {
                break;
            }
        }
    }
    for queue in queues {
        let def = Arc::clone(queue);
        let operation = format!("retention of queue {}", queue.name);
        if !store.db.read(operation.as_str(), move |c| queue::has_expired(c, &def, now_ms)).await? {
            continue;
        }
        loop {
            let def = Arc::clone(queue);
            let drop = move |connection: &Connection| queue::drop_expired(connection, &def, now_ms, BATCH);
            let dropped = store.db.write(operation.as_str(), drop).await?;
            tracing::warn!(queue = queue.name, dropped, "Messages were dropped: they are past the queue's retention.");
            if dropped < BATCH {
                break;
            }
        }
    }
    let log = Arc::clone(&store.log);
    store.db.write("rollover of shards", move |connection| log.roll_old(connection)).await?;
    let older_than_ms = now_ms - millis(store.log.options.stream_retention);
    while store.db.write("trim of changes", move |connection| log::trim_old(connection, older_than_ms)).await? {}
    Ok(())
}

/// Removes some expired items of a table; returns how many, and the number of the last change.
fn expire(connection: &Connection, table: &TableDef, log: &Log, now_secs: i64) -> Result<(usize, Option<i64>)> {
    let mut rows = connection.prepare_cached(
        "SELECT pk, sk FROM items
         WHERE table_id = ?1 AND ttl IS NOT NULL AND ttl BETWEEN ?2 AND ?3 ORDER BY ttl LIMIT ?4",
    )?;
    let rows = rows.query_map((table.id, now_secs - EXPIRED_AT_MOST_SECS, now_secs, BATCH), |row| {
        Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?))
    })?;
    let rows: Vec<_> = rows.collect::<rusqlite::Result<_>>()?;
    let mut newest = None;
    for (partition, sort) in &rows {
        let Some(stored) = items::find(connection, table, partition, sort)? else { continue };
        let key = items::key_of(&table.keys, &stored.item)?;
        let place = ("expiry", &key, sort.as_str());
        newest = items::replace(connection, table, log, place, Some(&stored), None, true)?.or(newest);
    }
    Ok((rows.len(), newest))
}

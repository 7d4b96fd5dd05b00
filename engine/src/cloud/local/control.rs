//! What AWS does to a stream by itself, on demand: rollover, splits, trimming, a new stream. And what people can't do to a
//! queue on AWS: looking without a trace.

use std::sync::Arc;

use async_trait::async_trait;
use rusqlite::Connection;

use super::{
    LocalCloud, declared,
    definition::TableDef,
    items::invalid,
    log::{self, Log},
    queue::{self, PeekedMessage},
    stream,
};
use crate::cloud::{
    CloudError, ErrorKind, Result,
    change_stream::{SequenceNumber, ShardId},
    conformance::StreamControl,
};

/// What to trim of a table's stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trim {
    /// The changes before this one, and the shards that ended before it.
    Before(SequenceNumber),
    /// The closed shards with all their changes.
    ClosedShards,
}

impl LocalCloud {
    /// Closes each open shard of the table and continues it with a child.
    pub async fn roll_shards(&self, table: &str) -> Result<()> {
        self.change_log("rollover of shards", table, |connection, table, log| {
            let now_ms = log.now_ms();
            log::open_shards(connection, table.id)?.iter().try_for_each(|shard| log::roll(connection, shard, now_ms))
        })
        .await
    }

    /// Closes an open shard and continues it with two children.
    pub async fn split_shard(&self, table: &str, shard: &ShardId) -> Result<()> {
        let shard = shard.clone();
        self.change_log("split of a shard", table, move |connection, table, log| {
            match log::open_shard_named(connection, table.id, &shard.0)? {
                Some(shard) => log::split(connection, &shard, log.now_ms()),
                None => Err(CloudError::new(
                    ErrorKind::NotFound,
                    format!("split of {shard} of table {}", table.name),
                    "there is no such open shard",
                )),
            }
        })
        .await
    }

    /// Trims the table's streams as if time had passed.
    pub async fn trim(&self, table: &str, what: Trim) -> Result<()> {
        self.change_log("trim of changes", table, move |connection, table, _| match &what {
            Trim::ClosedShards => log::trim_closed(connection, table.id),
            Trim::Before(sequence) => match stream::number_of(sequence) {
                Some(seq) => log::trim_before(connection, Some(table.id), seq),
                None => Err(invalid(
                    &format!("trim of table {}", table.name),
                    format!("`{sequence}` is no sequence number of this cloud"),
                )),
            },
        })
        .await
    }

    /// Ends the table's stream: its shards close without children, and later writes leave no changes.
    pub async fn disable_stream(&self, table: &str) -> Result<()> {
        self.change_log("disabling of a stream", table, |connection, table, log| log.disable(connection, table.id))
            .await
    }

    /// Gives the table a new stream, with an ARN of its own; an older one is ended first.
    pub async fn enable_stream(&self, table: &str) -> Result<()> {
        self.change_log("enabling of a stream", table, |connection, table, log| {
            if !table.stream {
                return Err(invalid(
                    &format!("enabling of a stream of table {}", table.name),
                    "it is declared without one",
                ));
            }
            log.disable(connection, table.id)?;
            log.enable(connection, table)
        })
        .await
    }

    async fn change_log<F>(&self, operation: &'static str, table: &str, change: F) -> Result<()>
    where
        F: FnOnce(&Connection, &TableDef, &Log) -> Result<()> + Send + 'static,
    {
        let def = Arc::clone(declared("table", &self.tables, table)?);
        let (log, signals) = (Arc::clone(&self.store.log), Arc::clone(&self.store.signals));
        let job = move |connection: &Connection| {
            change(connection, &def, &log)?;
            log::newest(connection)
        };
        self.store
            .db
            .write_then(format!("{operation} of table {table}"), job, move |seq| signals.changed(Some(*seq)))
            .await?;
        Ok(())
    }

    /// The oldest messages of a queue, at most `limit`. Looking changes nothing.
    pub async fn peek(&self, queue: &str, limit: usize) -> Result<Vec<PeekedMessage>> {
        let queue_id = declared("queue", &self.queues, queue)?.id;
        self.store
            .db
            .read(format!("look into queue {queue}"), move |connection| queue::peek(connection, queue_id, limit))
            .await
    }
}

#[async_trait]
impl StreamControl for LocalCloud {
    async fn roll_shards(&self, table: &str) -> Result<()> {
        self.roll_shards(table).await
    }

    async fn split_shard(&self, table: &str, shard: &ShardId) -> Result<()> {
        self.split_shard(table, shard).await
    }

    async fn trim_before(&self, table: &str, sequence: &SequenceNumber) -> Result<()> {
        self.trim(table, Trim::Before(sequence.clone())).await
    }

    async fn renew_stream(&self, table: &str) -> Result<()> {
        self.enable_stream(table).await
    }
}

//! The log of changes and the shards that are views of it: appending, rolling over, splitting, trimming.
//!
//! A change belongs to the shard that was open for its partition key's hash when it was made, so the changes of one
//! item lie in one line of shards, parent before child. Closing a shard takes a number of the log for itself: a
//! parent's end is always before its child's start, even if nothing was written.

use std::time::Duration;

use chrono::{SecondsFormat, TimeZone, Utc};
use md5::{Digest, Md5};
use rusqlite::{Connection, OptionalExtension};

use super::{LocalOptions, definition::TableDef};
use crate::cloud::Result;

/// The hashes of partition keys: what a table's first shards share among them.
const HASHES: i64 = 1 << 32;

/// How changes are logged.
#[derive(Debug)]
pub struct Log {
    pub options: LocalOptions,
    pub account: String,
}

/// A change to log; its images are the stored texts.
pub struct NewChange<'a> {
    pub partition: &'a str,
    pub old: Option<&'a str>,
    pub new: Option<&'a str>,
    pub size_bytes: usize,
    pub by_ttl: bool,
}

/// An open shard.
pub struct OpenShard {
    id: i64,
    stream_id: i64,
    table_id: i64,
    name: String,
    low: i64,
    high: i64,
    opened_ms: i64,
}

impl Log {
    /// The time now, in milliseconds since the epoch.
    pub fn now_ms(&self) -> i64 {
        self.options.clock.now().timestamp_millis()
    }

    /// Logs a change in its shard, which rolls over first if it is due. Nothing where the stream is disabled.
    pub fn append(&self, connection: &Connection, table: &TableDef, change: &NewChange) -> Result<Option<i64>> {
        let now_ms = self.now_ms();
        let hash = hash_of(change.partition);
        let mut shard = open_shard(connection, table.id, hash)?;
        if let Some(due) = &shard
            && self.is_due(connection, due, now_ms)?
        {
            roll(connection, due, now_ms)?;
            shard = open_shard(connection, table.id, hash)?;
        }
        let Some(shard) = shard else { return Ok(None) };
        connection
            .prepare_cached(
                "INSERT INTO changes (shard_id, old, new, created_secs, size_bytes, by_ttl)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            )?
            .execute((shard.id, change.old, change.new, now_ms.div_euclid(1000), change.size_bytes, change.by_ttl))?;
        Ok(Some(connection.last_insert_rowid()))
    }

    fn is_due(&self, connection: &Connection, shard: &OpenShard, now_ms: i64) -> Result<bool> {
        if now_ms - shard.opened_ms >= millis(self.options.shard_age) {
            return Ok(true);
        }
        let Some(limit) = self.options.shard_records else { return Ok(false) };
        let records: u64 = connection
            .prepare_cached("SELECT count(*) FROM changes WHERE shard_id = ?1")?
            .query_row([shard.id], |row| row.get(0))?;
        Ok(records >= limit)
    }

    /// Rolls over the shards of all tables that are old enough, though nothing is written to them.
    pub fn roll_old(&self, connection: &Connection) -> Result<()> {
        let now_ms = self.now_ms();
        let opened_before = now_ms - millis(self.options.shard_age);
        let shards = select(connection, "end_seq IS NULL AND opened_ms <= ?1", [opened_before])?;
        shards.iter().try_for_each(|shard| roll(connection, shard, now_ms))
    }

    /// Whether the table has a stream that takes changes.
    pub fn is_enabled(&self, connection: &Connection, table_id: i64) -> Result<bool> {
        let sql = "SELECT EXISTS (SELECT 1 FROM streams WHERE table_id = ?1 AND disabled_ms IS NULL)";
        Ok(connection.query_row(sql, [table_id], |row| row.get(0))?)
    }

    /// Gives the table a new stream.
    pub fn enable(&self, connection: &Connection, table: &TableDef) -> Result<()> {
        let mut now_ms = self.now_ms();
        // The label of a stream is its time: a second one of the same millisecond gets the next.
        let arn = loop {
            let time = Utc.timestamp_millis_opt(now_ms).single().unwrap_or_else(|| self.options.clock.now());
            let label = time.to_rfc3339_opts(SecondsFormat::Millis, true);
            let label = label.trim_end_matches('Z');
            let arn = format!("arn:aws:dynamodb:local:{}:table/{}/stream/{label}", self.account, table.name);
            let sql = "INSERT OR IGNORE INTO streams (table_id, arn) VALUES (?1, ?2)";
            if connection.execute(sql, (table.id, &arn))? == 1 {
                break arn;
            }
            now_ms += 1;
        };
        tracing::debug!(table = table.name, arn, "A stream begins.");
        let stream_id = connection.last_insert_rowid();
        let count = i64::from(self.options.shards.max(1));
        let start = take_number(connection)?;
        for no in 0..count {
            let shard = OpenShard {
                id: 0,
                stream_id,
                table_id: table.id,
                name: String::new(),
                low: no * HASHES / count,
                high: (no + 1) * HASHES / count - 1,
                opened_ms: now_ms,
            };
            open(connection, &shard, None, start)?;
        }
        Ok(())
    }

    /// Ends the table's stream: its shards close without children.
    pub fn disable(&self, connection: &Connection, table_id: i64) -> Result<()> {
        let now_ms = self.now_ms();
        for shard in open_shards(connection, table_id)? {
            close(connection, &shard, now_ms)?;
        }
        let sql = "UPDATE streams SET disabled_ms = ?2 WHERE table_id = ?1 AND disabled_ms IS NULL";
        connection.execute(sql, (table_id, now_ms))?;
        Ok(())
    }
}

fn hash_of(partition: &str) -> i64 {
    let digest = Md5::digest(partition.as_bytes());
    i64::from(u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]]))
}

pub(super) fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX / 2)
}

fn select(connection: &Connection, which: &str, parameters: impl rusqlite::Params) -> Result<Vec<OpenShard>> {
    let sql = format!(
        "SELECT id, stream_id, table_id, name, hash_low, hash_high, opened_ms FROM shards WHERE {which} ORDER BY id"
    );
    let mut statement = connection.prepare_cached(&sql)?;
    let rows = statement.query_map(parameters, |row| {
        Ok(OpenShard {
            id: row.get(0)?,
            stream_id: row.get(1)?,
            table_id: row.get(2)?,
            name: row.get(3)?,
            low: row.get(4)?,
            high: row.get(5)?,
            opened_ms: row.get(6)?,
        })
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

fn open_shard(connection: &Connection, table_id: i64, hash: i64) -> Result<Option<OpenShard>> {
    let which = "table_id = ?1 AND end_seq IS NULL AND hash_low <= ?2 AND hash_high >= ?2";
    Ok(select(connection, which, (table_id, hash))?.pop())
}

/// The open shards of a table.
pub fn open_shards(connection: &Connection, table_id: i64) -> Result<Vec<OpenShard>> {
    select(connection, "table_id = ?1 AND end_seq IS NULL", [table_id])
}

/// The open shard of that name.
pub fn open_shard_named(connection: &Connection, table_id: i64, name: &str) -> Result<Option<OpenShard>> {
    Ok(select(connection, "table_id = ?1 AND end_seq IS NULL AND name = ?2", (table_id, name))?.pop())
}

fn take_number(connection: &Connection) -> Result<i64> {
    let sql = "UPDATE sqlite_sequence SET seq = seq + 1 WHERE name = 'changes' RETURNING seq";
    Ok(connection.prepare_cached(sql)?.query_row([], |row| row.get(0))?)
}

/// The newest number of the log.
pub fn newest(connection: &Connection) -> Result<i64> {
    let sql = "SELECT seq FROM sqlite_sequence WHERE name = 'changes'";
    Ok(connection.prepare_cached(sql)?.query_row([], |row| row.get(0)).optional()?.unwrap_or(0))
}

/// Closes a shard and continues it with one child.
pub fn roll(connection: &Connection, shard: &OpenShard, now_ms: i64) -> Result<()> {
    let end = close(connection, shard, now_ms)?;
    open(connection, &OpenShard { opened_ms: now_ms, name: String::new(), ..*shard }, Some(&shard.name), end + 1)
}

/// Closes a shard and continues it with two children, each with half of its hashes. One that has a single hash rolls
/// over instead.
pub fn split(connection: &Connection, shard: &OpenShard, now_ms: i64) -> Result<()> {
    if shard.low == shard.high {
        return roll(connection, shard, now_ms);
    }
    let end = close(connection, shard, now_ms)?;
    let middle = shard.low + (shard.high - shard.low) / 2;
    for (low, high) in [(shard.low, middle), (middle + 1, shard.high)] {
        let child = OpenShard { low, high, opened_ms: now_ms, name: String::new(), ..*shard };
        open(connection, &child, Some(&shard.name), end + 1)?;
    }
    Ok(())
}

fn close(connection: &Connection, shard: &OpenShard, now_ms: i64) -> Result<i64> {
    let end = take_number(connection)?;
    connection
        .prepare_cached("UPDATE shards SET end_seq = ?2, closed_ms = ?3 WHERE id = ?1")?
        .execute((shard.id, end, now_ms))?;
    Ok(end)
}

fn open(connection: &Connection, shard: &OpenShard, parent: Option<&str>, start: i64) -> Result<()> {
    let mut statement = connection.prepare_cached(
        "INSERT INTO shards (stream_id, table_id, name, parent, hash_low, hash_high, start_seq, opened_ms)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
    )?;
    // Its number, spread over 32 bits, makes the name unique among the shards of one millisecond.
    let next: u32 = connection.query_row("SELECT coalesce(max(id), 0) + 1 FROM shards", [], |row| row.get(0))?;
    let name = format!("shardId-{:020}-{:08x}", shard.opened_ms, (next ^ 0x5bd1_e995).wrapping_mul(0x9e37_79b1));
    statement.execute((
        shard.stream_id,
        shard.table_id,
        name,
        parent,
        shard.low,
        shard.high,
        start,
        shard.opened_ms,
    ))?;
    Ok(())
}

/// Trims the changes before `seq` of one table (of all, if none is named), and the shards that ended before it.
pub fn trim_before(connection: &Connection, table_id: Option<i64>, seq: i64) -> Result<()> {
    connection.execute(
        "UPDATE shards SET trimmed_seq = newest FROM (
             SELECT shard_id, max(seq) AS newest FROM changes WHERE seq < ?1 GROUP BY shard_id
         ) WHERE id = shard_id AND (?2 IS NULL OR table_id = ?2)",
        (seq, table_id),
    )?;
    connection.execute(
        "DELETE FROM changes WHERE seq < ?1
         AND (?2 IS NULL OR shard_id IN (SELECT id FROM shards WHERE table_id = ?2))",
        (seq, table_id),
    )?;
    connection.execute("DELETE FROM shards WHERE end_seq < ?1 AND (?2 IS NULL OR table_id = ?2)", (seq, table_id))?;
    Ok(())
}

/// Trims the closed shards of a table with all their changes.
pub fn trim_closed(connection: &Connection, table_id: i64) -> Result<()> {
    connection.execute(
        "DELETE FROM changes WHERE shard_id IN (SELECT id FROM shards WHERE table_id = ?1 AND end_seq IS NOT NULL)",
        [table_id],
    )?;
    connection.execute("DELETE FROM shards WHERE table_id = ?1 AND end_seq IS NOT NULL", [table_id])?;
    Ok(())
}

/// Trims some of what is older than the stream keeps; whether there may be more.
pub fn trim_old(connection: &Connection, older_than_ms: i64) -> Result<bool> {
    const CHANGES: i64 = 1000;
    let (seen, newest): (i64, Option<i64>) = connection.query_row(
        "SELECT count(*), max(CASE WHEN created_secs < ?1 THEN seq END)
         FROM (SELECT seq, created_secs FROM changes ORDER BY seq LIMIT ?2)",
        (older_than_ms.div_euclid(1000), CHANGES),
        |row| Ok((row.get(0)?, row.get(1)?)),
    )?;
    if let Some(newest) = newest {
        trim_before(connection, None, newest + 1)?;
        if seen == CHANGES {
            return Ok(true);
        }
    }
    connection.execute(
        "DELETE FROM shards WHERE closed_ms < ?1 AND NOT EXISTS (SELECT 1 FROM changes WHERE shard_id = shards.id)",
        [older_than_ms],
    )?;
    connection.execute(
        "DELETE FROM streams WHERE disabled_ms < ?1 AND NOT EXISTS (SELECT 1 FROM shards WHERE stream_id = streams.id)",
        [older_than_ms],
    )?;
    Ok(false)
}

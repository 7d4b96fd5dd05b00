//! Change streams: listings of shards and pages of the log. Iterators are tokens that say all there is to know.

use std::sync::Arc;

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, Row};
use tokio::sync::watch;

use super::{
    Store,
    definition::TableDef,
    items::{self, invalid},
    log,
};
use crate::cloud::{
    ChangeStream, CloudError, ErrorKind, Result,
    change_stream::{
        Change, ChangeKind, DescribeRequest, IteratorStart, RecordPage, SequenceNumber, Shard, ShardId, ShardIterator,
        StreamDescription,
    },
    limits,
};

/// The number before the first sequence number. The numbers pass from 21 to 22 digits after a thousand changes, as
/// AWS's do some day: who compares them as text learns it early.
const SEQUENCE_BASE: u128 = 999_999_999_999_999_999_000;

/// The streams of a table of the local cloud.
pub(super) struct LocalStream {
    pub store: Arc<Store>,
    pub def: Arc<TableDef>,
}

#[async_trait]
impl ChangeStream for LocalStream {
    fn table(&self) -> &str {
        &self.def.name
    }

    async fn streams(&self) -> Result<Vec<String>> {
        let table_id = self.def.id;
        self.store
            .db
            .read(format!("ListStreams of table {}", self.def.name), move |connection| {
                let mut statement =
                    connection.prepare_cached("SELECT arn FROM streams WHERE table_id = ?1 ORDER BY id")?;
                let arns = statement.query_map([table_id], |row| row.get(0))?;
                Ok(arns.collect::<rusqlite::Result<_>>()?)
            })
            .await
    }

    async fn describe(&self, arn: &str, request: DescribeRequest) -> Result<StreamDescription> {
        let (table_id, arn) = (self.def.id, arn.to_owned());
        self.store
            .db
            .read(format!("DescribeStream of {arn}"), move |connection| describe(connection, table_id, &arn, &request))
            .await
    }

    async fn iterator(&self, arn: &str, shard: &ShardId, start: &IteratorStart) -> Result<ShardIterator> {
        let (table_id, arn, shard, start) = (self.def.id, arn.to_owned(), shard.clone(), start.clone());
        let issued_ms = self.store.now_ms();
        self.store
            .db
            .read(format!("GetShardIterator of {shard} of {arn}"), move |connection| {
                let after = place(connection, table_id, &arn, &shard, &start)?;
                Ok(Token { arn, shard, after, issued_ms }.encode())
            })
            .await
    }

    async fn records(&self, iterator: &ShardIterator, limit: usize) -> Result<RecordPage> {
        let token = Token::decode(iterator)?;
        let operation = token.operation();
        let now_ms = self.store.now_ms();
        if now_ms - token.issued_ms > limits::ITERATOR_SECS as i64 * 1000 {
            let message = format!("the iterator is older than {} s", limits::ITERATOR_SECS);
            return Err(CloudError::new(ErrorKind::ExpiredIterator, operation, message));
        }
        if limit == 0 || limit > limits::RECORDS_PER_PAGE {
            let message = format!("asks for {limit} records: ask for 1 to {}", limits::RECORDS_PER_PAGE);
            return Err(invalid(&operation, message));
        }
        let def = Arc::clone(&self.def);
        self.store.db.read(operation, move |connection| records(connection, &def, token, limit, now_ms)).await
    }

    fn news(&self) -> Option<watch::Receiver<u64>> {
        Some(self.store.signals.changed.subscribe())
    }
}

fn describe(connection: &Connection, table_id: i64, arn: &str, request: &DescribeRequest) -> Result<StreamDescription> {
    let (stream_id, enabled) = find_stream(connection, table_id, &format!("DescribeStream of {arn}"), arn)?;
    let mut statement = connection.prepare_cached(
        "SELECT name, parent, start_seq, end_seq FROM shards
         WHERE stream_id = ?1 AND name > ?2 AND (?3 IS NULL OR parent = ?3) ORDER BY name LIMIT ?4",
    )?;
    let after = request.after.as_ref().map_or("", |shard| &shard.0);
    let children_of = request.children_of.as_ref().map(|shard| &shard.0);
    let rows = statement.query_map((stream_id, after, children_of, limits::SHARDS_PER_PAGE + 1), |row| {
        Ok(Shard {
            id: ShardId(row.get(0)?),
            parent: row.get::<_, Option<String>>(1)?.map(ShardId),
            start: sequence(row.get(2)?),
            end: row.get::<_, Option<i64>>(3)?.map(sequence),
        })
    })?;
    let mut shards: Vec<Shard> = rows.collect::<rusqlite::Result<_>>()?;
    let more = shards.len() > limits::SHARDS_PER_PAGE;
    shards.truncate(limits::SHARDS_PER_PAGE);
    let last_evaluated = if more { shards.last().map(|shard| shard.id.clone()) } else { None };
    Ok(StreamDescription { enabled, shards, last_evaluated })
}

fn find_stream(connection: &Connection, table_id: i64, operation: &str, arn: &str) -> Result<(i64, bool)> {
    let sql = "SELECT id, disabled_ms IS NULL FROM streams WHERE table_id = ?1 AND arn = ?2";
    let found = connection.prepare_cached(sql)?.query_row((table_id, arn), |row| Ok((row.get(0)?, row.get(1)?)));
    found.optional()?.ok_or_else(|| CloudError::new(ErrorKind::NotFound, operation, "there is no such stream"))
}

/// A shard as far as reading it goes.
struct Bounds {
    id: i64,
    start: i64,
    end: Option<i64>,
    trimmed: i64,
}

fn find_shard(connection: &Connection, table_id: i64, operation: &str, arn: &str, shard: &ShardId) -> Result<Bounds> {
    let (stream_id, _) = find_stream(connection, table_id, operation, arn)?;
    let sql = "SELECT id, start_seq, end_seq, trimmed_seq FROM shards WHERE stream_id = ?1 AND name = ?2";
    let bounds = |row: &Row| Ok(Bounds { id: row.get(0)?, start: row.get(1)?, end: row.get(2)?, trimmed: row.get(3)? });
    let found = connection.prepare_cached(sql)?.query_row((stream_id, &shard.0), bounds).optional()?;
    found.ok_or_else(|| {
        CloudError::new(ErrorKind::NotFound, operation, "there is no such shard, or it was trimmed away")
    })
}

/// The place after which an iterator reads; none for one that starts at the oldest record kept.
fn place(
    connection: &Connection,
    table_id: i64,
    arn: &str,
    shard: &ShardId,
    start: &IteratorStart,
) -> Result<Option<i64>> {
    let operation = format!("GetShardIterator of {shard} of {arn}");
    let bounds = find_shard(connection, table_id, &operation, arn, shard)?;
    let newest = log::newest(connection)?;
    let given = |sequence: &SequenceNumber| {
        number_of(sequence)
            .filter(|seq| (bounds.start..=bounds.end.unwrap_or(newest)).contains(seq))
            .ok_or_else(|| invalid(&operation, format!("`{sequence}` is no sequence number of this shard")))
    };
    let after = match start {
        IteratorStart::TrimHorizon => return Ok(None),
        IteratorStart::Latest => newest,
        IteratorStart::At(sequence) => given(sequence)? - 1,
        IteratorStart::After(sequence) => given(sequence)?,
    };
    check_kept(&operation, &bounds, after)?;
    Ok(Some(after))
}

fn check_kept(operation: &str, bounds: &Bounds, after: i64) -> Result<()> {
    if after >= bounds.trimmed {
        return Ok(());
    }
    let message = format!("the records from {} to {} were trimmed", sequence(after + 1), sequence(bounds.trimmed));
    Err(CloudError::new(ErrorKind::TrimmedData, operation, message))
}

fn records(connection: &Connection, def: &TableDef, token: Token, limit: usize, now_ms: i64) -> Result<RecordPage> {
    let operation = token.operation();
    let bounds = find_shard(connection, def.id, &operation, &token.arn, &token.shard)?;
    if let Some(after) = token.after {
        check_kept(&operation, &bounds, after)?;
    }
    let mut statement = connection.prepare_cached(
        "SELECT seq, old, new, created_secs, size_bytes, by_ttl FROM changes
         WHERE shard_id = ?1 AND seq > ?2 ORDER BY seq LIMIT ?3",
    )?;
    let mut rows = statement.query((bounds.id, token.after.unwrap_or(0), limit))?;
    let mut page = RecordPage::default();
    let (mut after, mut size_bytes, mut full) = (token.after, 0, false);
    while let Some(row) = rows.next()? {
        let (seq, change) = change_of(def, row)?;
        size_bytes += change.size_bytes;
        if size_bytes > limits::RECORD_PAGE_BYTES as u64 && !page.changes.is_empty() {
            full = true;
            break;
        }
        after = Some(seq);
        page.changes.push(Arc::new(change));
        full = page.changes.len() == limit;
    }
    // The last page of a closed shard holds records and no next iterator.
    if full || bounds.end.is_none() {
        page.next = Some(Token { after, issued_ms: now_ms, ..token }.encode());
    }
    Ok(page)
}

fn change_of(def: &TableDef, row: &Row) -> Result<(i64, Change)> {
    let seq = row.get(0)?;
    let image = |column| -> Result<_> {
        let text = row.get_ref(column)?.as_str_or_null().map_err(rusqlite::Error::from)?;
        text.map(items::parse).transpose()
    };
    let (old, new) = (image(1)?, image(2)?);
    let kind = match (&old, &new) {
        (None, _) => ChangeKind::Insert,
        (Some(_), Some(_)) => ChangeKind::Modify,
        (Some(_), None) => ChangeKind::Remove,
    };
    let key = items::key_of(&def.keys, new.as_ref().or(old.as_ref()).unwrap_or(&Default::default()))?;
    let change = Change {
        kind,
        key,
        old,
        new,
        sequence: sequence(seq),
        created_secs: row.get(3)?,
        size_bytes: row.get(4)?,
        by_ttl: row.get(5)?,
    };
    Ok((seq, change))
}

/// The sequence number of a number of the log.
pub(super) fn sequence(seq: i64) -> SequenceNumber {
    SequenceNumber((SEQUENCE_BASE + u128::from(seq.unsigned_abs())).to_string())
}

/// The number of the log that a sequence number stands for.
pub(super) fn number_of(sequence: &SequenceNumber) -> Option<i64> {
    i64::try_from(sequence.0.parse::<u128>().ok()?.checked_sub(SEQUENCE_BASE)?).ok()
}

/// What an iterator says.
struct Token {
    arn: String,
    shard: ShardId,
    /// It reads what comes after this number; none: from the oldest record that is kept when it is used.
    after: Option<i64>,
    issued_ms: i64,
}

impl Token {
    fn encode(self) -> ShardIterator {
        let after = self.after.map_or("horizon".to_owned(), |after| after.to_string());
        ShardIterator(format!("{}|{}|{after}|{}", self.arn, self.shard, self.issued_ms))
    }

    fn decode(iterator: &ShardIterator) -> Result<Self> {
        let mut parts = iterator.0.split('|');
        let token = (|| {
            let (arn, shard) = (parts.next()?.to_owned(), ShardId(parts.next()?.to_owned()));
            let after = match parts.next()? {
                "horizon" => None,
                after => Some(after.parse().ok()?),
            };
            Some(Self { arn, shard, after, issued_ms: parts.next()?.parse().ok()? })
        })();
        match (token, parts.next()) {
            (Some(token), None) => Ok(token),
            _ => Err(invalid("GetRecords", format!("`{}` is no iterator of this stream", iterator.0))),
        }
    }

    fn operation(&self) -> String {
        format!("GetRecords of {} of {}", self.shard, self.arn)
    }
}

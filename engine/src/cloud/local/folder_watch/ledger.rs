//! The ledger: what has landed, by key.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use rusqlite::{OptionalExtension, Row, params};

use crate::cloud::{
    CloudError, ErrorKind, Result,
    local::{bucket::Stamp, db::Db},
};

/// What is known of an object that has landed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Landed {
    /// The stamp of its file when it was last looked at.
    pub stamp: Stamp,
    /// Its etag.
    pub etag: String,
    /// The sequencer of its notification.
    pub sequencer: String,
}

/// Remembers what has landed of one bucket, for as long as the file exists.
#[async_trait]
pub trait Ledger: Send + Sync {
    /// What landed under a key.
    async fn get(&self, key: &str) -> Result<Option<Landed>>;

    /// What landed under each of these keys, in their order: one read for all.
    async fn get_many(&self, keys: &[Arc<str>]) -> Result<Vec<Option<Landed>>>;

    /// Records what landed; durable once answered.
    async fn record(&self, key: &str, landed: &Landed) -> Result<()>;

    /// Forgets a key whose file is gone.
    async fn forget(&self, key: &str) -> Result<()>;

    /// Up to `limit` keys that come after `after`, in order: to find those whose files are gone.
    async fn keys(&self, after: &str, limit: usize) -> Result<Vec<String>>;
}

/// A ledger in memory.
#[derive(Debug, Default)]
pub struct MemoryLedger(Mutex<BTreeMap<String, Landed>>);

impl MemoryLedger {
    fn entries(&self) -> MutexGuard<'_, BTreeMap<String, Landed>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Ledger for MemoryLedger {
    async fn get(&self, key: &str) -> Result<Option<Landed>> {
        Ok(self.entries().get(key).cloned())
    }

    async fn get_many(&self, keys: &[Arc<str>]) -> Result<Vec<Option<Landed>>> {
        let entries = self.entries();
        Ok(keys.iter().map(|key| entries.get(&**key).cloned()).collect())
    }

    async fn record(&self, key: &str, landed: &Landed) -> Result<()> {
        self.entries().insert(key.to_owned(), landed.clone());
        Ok(())
    }

    async fn forget(&self, key: &str) -> Result<()> {
        self.entries().remove(key);
        Ok(())
    }

    async fn keys(&self, after: &str, limit: usize) -> Result<Vec<String>> {
        let range = (std::ops::Bound::Excluded(after.to_owned()), std::ops::Bound::Unbounded);
        Ok(self.entries().range(range).take(limit).map(|(key, _)| key.clone()).collect())
    }
}

/// What a read of the ledger is called.
const LOOK: &str = "look into the ledger";

/// A ledger in the local cloud's database.
#[derive(Clone)]
pub struct SqliteLedger {
    db: Db,
    bucket: String,
}

impl SqliteLedger {
    /// Its table; harmless to run again.
    pub const SCHEMA: &str = "
        CREATE TABLE IF NOT EXISTS landed (
            bucket TEXT NOT NULL,
            key TEXT NOT NULL,
            stamp TEXT NOT NULL,
            etag TEXT NOT NULL,
            sequencer TEXT NOT NULL,
            PRIMARY KEY (bucket, key)
        ) WITHOUT ROWID;";

    /// The ledger of a bucket, in a database that was opened with [`SCHEMA`](Self::SCHEMA).
    pub fn new(db: Db, bucket: impl Into<String>) -> Self {
        Self { db, bucket: bucket.into() }
    }
}

#[async_trait]
impl Ledger for SqliteLedger {
    async fn get(&self, key: &str) -> Result<Option<Landed>> {
        Ok(self.get_many(&[key.into()]).await?.pop().flatten())
    }

    async fn get_many(&self, keys: &[Arc<str>]) -> Result<Vec<Option<Landed>>> {
        let (bucket, keys) = (self.bucket.clone(), keys.to_vec());
        let columns = |row: &Row<'_>| Ok((row.get::<_, String>(0)?, row.get(1)?, row.get(2)?));
        let found = self.db.read(LOOK, move |connection| {
            let mut select = connection
                .prepare_cached("SELECT stamp, etag, sequencer FROM landed WHERE bucket = ?1 AND key = ?2")?;
            let mut find = |key: &Arc<str>| select.query_row(params![bucket, &**key], columns).optional();
            Ok(keys.iter().map(&mut find).collect::<rusqlite::Result<Vec<_>>>()?)
        });
        let landed = |(stamp, etag, sequencer): (String, String, String)| {
            let stamp =
                stamp.parse().map_err(|message: String| CloudError::new(ErrorKind::Unavailable, LOOK, message))?;
            Ok(Landed { stamp, etag, sequencer })
        };
        found.await?.into_iter().map(|found| found.map(landed).transpose()).collect()
    }

    async fn record(&self, key: &str, landed: &Landed) -> Result<()> {
        let (bucket, key, landed) = (self.bucket.clone(), key.to_owned(), landed.clone());
        let write = self.db.write("record in the ledger", move |connection| {
            let mut insert = connection.prepare_cached("INSERT OR REPLACE INTO landed VALUES (?1, ?2, ?3, ?4, ?5)")?;
            Ok(insert.execute(params![bucket, key, landed.stamp.to_string(), landed.etag, landed.sequencer])?)
        });
        write.await.map(|_| ())
    }

    async fn forget(&self, key: &str) -> Result<()> {
        let (bucket, key) = (self.bucket.clone(), key.to_owned());
        let write = self.db.write("removal from the ledger", move |connection| {
            let mut delete = connection.prepare_cached("DELETE FROM landed WHERE bucket = ?1 AND key = ?2")?;
            Ok(delete.execute(params![bucket, key])?)
        });
        write.await.map(|_| ())
    }

    async fn keys(&self, after: &str, limit: usize) -> Result<Vec<String>> {
        let (bucket, after) = (self.bucket.clone(), after.to_owned());
        self.db
            .read("listing of the ledger", move |connection| {
                let mut select = connection
                    .prepare_cached("SELECT key FROM landed WHERE bucket = ?1 AND key > ?2 ORDER BY key LIMIT ?3")?;
                let limit = i64::try_from(limit).unwrap_or(i64::MAX);
                let keys = select.query_map(params![bucket, after, limit], |row| row.get(0))?;
                Ok(keys.collect::<rusqlite::Result<_>>()?)
            })
            .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn ledgers_remember_until_told_to_forget() {
        let dir = tempfile::tempdir().unwrap();
        let db = Db::open(&dir.path().join("db"), |c| Ok(c.execute_batch(SqliteLedger::SCHEMA)?)).unwrap().0;
        SqliteLedger::new(db.clone(), "other").record("a", &landed(9)).await.unwrap();
        let ledgers: [Box<dyn Ledger>; 2] = [Box::new(SqliteLedger::new(db, "bucket")), Box::<MemoryLedger>::default()];
        for ledger in ledgers {
            assert_eq!(ledger.get("a").await.unwrap(), None);
            for (key, inode) in [("b", 1), ("a/x", 2), ("a", 3), ("b", 4)] {
                ledger.record(key, &landed(inode)).await.unwrap();
            }
            assert_eq!(ledger.get("b").await.unwrap(), Some(landed(4)));
            let many = ledger.get_many(&["a".into(), "none".into(), "b".into()]).await.unwrap();
            assert_eq!(many, [Some(landed(3)), None, Some(landed(4))]);
            assert_eq!(ledger.keys("", 2).await.unwrap(), ["a", "a/x"]);
            assert_eq!(ledger.keys("a/x", 2).await.unwrap(), ["b"]);
            ledger.forget("a").await.unwrap();
            ledger.forget("a").await.unwrap();
            assert_eq!(ledger.get("a").await.unwrap(), None);
        }
    }

    fn landed(inode: u64) -> Landed {
        let stamp = Stamp { inode, mtime_ns: -1, size_bytes: 7 };
        Landed { stamp, etag: "e".to_owned(), sequencer: format!("{inode:018X}") }
    }
}

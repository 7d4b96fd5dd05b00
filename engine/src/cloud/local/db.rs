//! The one SQLite file: a writer thread that commits in groups, and a few connections that read.
//!
//! SQLite has one writer at a time and a commit costs a sync, so all writes go through one thread: it takes what is
//! waiting, runs each write in a savepoint of one transaction, commits once, and only then answers. A thousand writers
//! share one sync. Reads run beside it (WAL) on connections of their own.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, mpsc as std_mpsc},
    time::Duration,
};

use rusqlite::{Connection, OpenFlags, TransactionBehavior};
use tokio::sync::{Semaphore, oneshot};

use crate::cloud::{CloudError, ErrorKind, Result};

/// At most so many writes share a commit: bounds what a reader sees appear at once, and the writer's memory.
const GROUP: usize = 512;

/// At most so many reads at once: more would only wait for the same cores.
const READERS: usize = 8;

/// Statements that each connection keeps prepared.
const STATEMENTS: usize = 128;

/// A write, given its connection, or why the transaction of its group could not begin.
type Job = Box<dyn FnOnce(Result<&Connection, &str>) -> Done + Send>;

/// What a job leaves: called with the outcome of the commit, it answers the caller.
type Done = Box<dyn FnOnce(Result<(), String>) + Send>;

/// A handle on the database. Cheap to clone; the writer thread ends with the last one.
#[derive(Clone)]
pub struct Db {
    path: Arc<PathBuf>,
    jobs: Option<std_mpsc::SyncSender<Job>>,
    readers: Arc<Mutex<Vec<Connection>>>,
    turns: Arc<Semaphore>,
}

impl Db {
    /// Opens the file, makes it if need be, and runs `setup` (which must be harmless to run again) in a transaction.
    pub fn open<T>(path: &Path, setup: impl FnOnce(&Connection) -> Result<T>) -> Result<(Self, T)> {
        let mut connection = Connection::open(path).map_err(|error| sqlite("open", error))?;
        connection
            .execute_batch(
                "PRAGMA busy_timeout = 10000;
                 PRAGMA journal_mode = WAL;
                 PRAGMA synchronous = FULL;
                 PRAGMA temp_store = MEMORY;
                 PRAGMA wal_autocheckpoint = 4000;",
            )
            .map_err(|error| sqlite("open", error))?;
        connection.set_prepared_statement_cache_capacity(STATEMENTS);
        // Whoever owned the folder before may still be writing its last group: that is waited for.
        let transaction = connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(|error| sqlite("open", error))?;
        let made = setup(&transaction).map_err(|error| named("open", error))?;
        transaction.commit().map_err(|error| sqlite("open", error))?;
        let (jobs, queue) = std_mpsc::sync_channel::<Job>(4 * GROUP);
        std::thread::Builder::new()
            .name("local-cloud-writer".to_owned())
            .spawn(move || write_in_groups(&connection, &queue))
            .map_err(|error| CloudError::new(ErrorKind::Unavailable, "start of the local cloud", error.to_string()))?;
        Ok((Self::new(path, Some(jobs)), made))
    }

    /// Opens an existing file for reading only, beside the process that owns it.
    pub fn open_read_only(path: &Path) -> Result<Self> {
        let db = Self::new(path, None);
        let reader = db.connect()?;
        db.give_back(reader);
        Ok(db)
    }

    fn new(path: &Path, jobs: Option<std_mpsc::SyncSender<Job>>) -> Self {
        let turns = Arc::new(Semaphore::new(READERS));
        Self { path: Arc::new(path.to_owned()), jobs, readers: Arc::default(), turns }
    }

    /// Fails where this process only reads.
    pub fn check_writable(&self, operation: &str) -> Result<&std_mpsc::SyncSender<Job>> {
        let message = "this process only reads the local cloud: another one owns it";
        self.jobs.as_ref().ok_or_else(|| CloudError::new(ErrorKind::Denied, operation, message))
    }

    /// Runs a write and answers once it is durable. If it returns an error, or the commit fails, nothing of it is left.
    pub async fn write<T, F>(&self, operation: impl Into<Arc<str>>, write: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T> + Send + 'static,
    {
        self.write_then(operation, write, |_| {}).await
    }

    /// As [`write`](Self::write), and calls `then` once it is durable, even if the caller went away: for wake-ups,
    /// which must not be lost with the one who caused them. It runs on the writer's thread and must be quick.
    pub async fn write_then<T, F, A>(&self, operation: impl Into<Arc<str>>, write: F, then: A) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T> + Send + 'static,
        A: FnOnce(&T) + Send + 'static,
    {
        let operation = operation.into();
        let jobs = self.check_writable(&operation)?.clone();
        let (answer, answered) = oneshot::channel();
        let name = Arc::clone(&operation);
        let job: Job = Box::new(move |connection| {
            let result = match connection {
                Ok(connection) => in_savepoint(connection, &name, write),
                Err(message) => Err(closed(&name, message)),
            };
            Box::new(move |committed| {
                let result = match committed {
                    Ok(()) => result,
                    Err(message) => Err(closed(&name, &message)),
                };
                if let Ok(answer) = &result {
                    then(answer);
                }
                // A caller that went away needs no answer: the write stands, as on any cloud.
                drop(answer.send(result));
            })
        });
        // A full queue blocks the thread that sends: hand it to one that may block.
        match jobs.try_send(job) {
            Ok(()) => {}
            Err(std_mpsc::TrySendError::Full(job)) => {
                tokio::task::spawn_blocking(move || jobs.send(job))
                    .await
                    .map_err(|error| closed(&operation, &error.to_string()))?
                    .map_err(|_| closed(&operation, "the writer has ended"))?;
            }
            Err(std_mpsc::TrySendError::Disconnected(_)) => return Err(closed(&operation, "the writer has ended")),
        }
        answered.await.map_err(|_| closed(&operation, "the writer has ended"))?
    }

    /// Runs a read on a connection of its own. It sees every write that was answered before it began.
    pub async fn read<T, F>(&self, operation: impl Into<Arc<str>>, read: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T> + Send + 'static,
    {
        let operation = operation.into();
        let name = Arc::clone(&operation);
        let turn = Arc::clone(&self.turns).acquire_owned().await.map_err(|_| closed(&operation, "it is closed"))?;
        let db = self.clone();
        tokio::task::spawn_blocking(move || {
            let _turn = turn;
            let idle = db.readers.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let connection = match idle {
                Some(connection) => connection,
                None => db.connect()?,
            };
            // One snapshot for all that this read looks at; there is nothing to commit.
            let snapshot = connection.unchecked_transaction().map_err(|error| sqlite(&name, error))?;
            let result = read(&snapshot).map_err(|error| named(&name, error));
            drop(snapshot);
            db.give_back(connection);
            result
        })
        .await
        .map_err(|error| closed(&operation, &error.to_string()))?
    }

    fn connect(&self) -> Result<Connection> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection =
            Connection::open_with_flags(&*self.path, flags).map_err(|error| sqlite("open for reading", error))?;
        connection.busy_timeout(Duration::from_secs(10)).map_err(|error| sqlite("open for reading", error))?;
        connection.set_prepared_statement_cache_capacity(STATEMENTS);
        Ok(connection)
    }

    fn give_back(&self, connection: Connection) {
        self.readers.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
    }
}

fn write_in_groups(connection: &Connection, queue: &std_mpsc::Receiver<Job>) {
    while let Ok(first) = queue.recv() {
        let begun = connection.execute_batch("BEGIN IMMEDIATE").map_err(|error| error.to_string());
        let mut waiting = Vec::new();
        let mut job = Some(first);
        while let Some(run) = job {
            waiting.push(run(begun.as_ref().map(|()| connection).map_err(String::as_str)));
            job = if waiting.len() < GROUP { queue.try_recv().ok() } else { None };
        }
        let committed = begun.and_then(|()| {
            connection.execute_batch("COMMIT").map_err(|error| {
                // The commit's own error is the one to report; a failed rollback only means that none was open.
                if let Err(rollback) = connection.execute_batch("ROLLBACK") {
                    tracing::debug!(%rollback, "Nothing to roll back.");
                }
                error.to_string()
            })
        });
        for done in waiting {
            done(committed.clone());
        }
    }
}

fn in_savepoint<T>(
    connection: &Connection,
    operation: &str,
    write: impl FnOnce(&Connection) -> Result<T>,
) -> Result<T> {
    let sql = |text: &str| connection.execute_batch(text).map_err(|error| sqlite(operation, error));
    sql("SAVEPOINT job")?;
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| write(connection)))
        .unwrap_or_else(|_| Err(closed(operation, "the write panicked")));
    if result.is_err() {
        sql("ROLLBACK TO job")?;
    }
    sql("RELEASE job")?;
    result.map_err(|error| named(operation, error))
}

/// SQL in jobs fails with `?`; the job's operation is filled in where the job ends.
impl From<rusqlite::Error> for CloudError {
    fn from(error: rusqlite::Error) -> Self {
        Self::new(ErrorKind::Unavailable, "", error.to_string()).with_source(error)
    }
}

fn named(operation: &str, mut error: CloudError) -> CloudError {
    if error.operation.is_empty() {
        error.operation = format!("{operation} in the local cloud");
    }
    error
}

fn sqlite(operation: &str, error: rusqlite::Error) -> CloudError {
    named(operation, error.into())
}

fn closed(operation: &str, message: &str) -> CloudError {
    CloudError::new(ErrorKind::Unavailable, operation, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(path: &Path) -> Db {
        Db::open(path, |c| Ok(c.execute_batch("CREATE TABLE IF NOT EXISTS t (x INTEGER PRIMARY KEY)")?)).unwrap().0
    }

    fn count(connection: &Connection) -> Result<i64> {
        Ok(connection.query_row("SELECT count(*) FROM t", [], |row| row.get(0))?)
    }

    #[tokio::test]
    async fn a_failed_write_leaves_nothing_and_its_neighbours_stand() {
        let dir = tempfile::tempdir().unwrap();
        let db = open(&dir.path().join("db"));
        let insert = |x: i64, fail: bool| {
            db.write("insert", move |connection| {
                connection.execute("INSERT INTO t VALUES (?1)", [x])?;
                if fail { Err(closed("insert", "on purpose")) } else { Ok(()) }
            })
        };
        let results = futures::future::join_all((0..100).map(|x| insert(x, x % 3 == 0))).await;
        assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 66);
        assert_eq!(db.read("count", count).await.unwrap(), 66);
    }

    #[tokio::test]
    async fn what_follows_a_write_happens_though_the_writer_went_away() {
        let dir = tempfile::tempdir().unwrap();
        let db = open(&dir.path().join("db"));
        let (told, heard) = std_mpsc::channel();
        let mut write = Box::pin(db.write_then(
            "insert",
            |c| Ok(c.execute("INSERT INTO t VALUES (1)", [])?),
            move |rows| told.send(*rows).unwrap(),
        ));
        assert!(futures::poll!(&mut write).is_pending());
        drop(write);
        assert_eq!(heard.recv_timeout(Duration::from_secs(10)), Ok(1));
    }

    #[tokio::test]
    async fn a_reader_of_another_process_reads_and_never_writes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        let owner = open(&path);
        let reader = Db::open_read_only(&path).unwrap();
        owner.write("insert", |c| Ok(c.execute("INSERT INTO t VALUES (1)", [])?)).await.unwrap();
        assert_eq!(reader.read("count", count).await.unwrap(), 1);
        assert_eq!(reader.write("insert", |_| Ok(())).await.unwrap_err().kind, ErrorKind::Denied);
    }
}

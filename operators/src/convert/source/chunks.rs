//! A file's bytes in order, fetched ahead in large chunks while earlier ones are worked on.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::sync::Arc;

use bytes::Bytes;
use datafusion::common::runtime::SpawnedTask;
use datafusion::error::DataFusionError;
use datafusion::physical_plan::metrics::Count;
use object_store::path::Path;
use object_store::{GetOptions, GetRange, GetResultPayload, ObjectStore};

use crate::convert::FailureReason;
use crate::convert::buffers::BufferPool;

/// The size of a chunk.
const CHUNK_BYTES: u64 = 4 << 20;

/// How many chunks are fetched at once.
const CHUNKS_AHEAD: usize = 3;

/// What may be on its way, or fetched and not used yet.
pub(crate) const BYTES_AHEAD: u64 = CHUNKS_AHEAD as u64 * CHUNK_BYTES;

/// What is fetched past the end of a range along with it: mostly enough for its last line.
const PAST_END_BYTES: u64 = 64 << 10;

/// Why no more bytes come.
#[derive(Debug)]
pub(super) enum ReadFault {
    /// The file is to blame, and fails alone.
    File(FailureReason, String),
    /// The store is to blame: the pass ends here.
    Store(DataFusionError),
}

/// The object that is read, and what it must still be.
#[derive(Debug, Clone)]
pub(super) struct Object {
    pub(super) store: Arc<dyn ObjectStore>,
    pub(super) path: Path,
    pub(super) size_bytes: u64,
    pub(super) etag: Option<String>,
    pub(super) version: Option<String>,
    pub(super) buffers: BufferPool,
}

impl Object {
    async fn get(self, range: Option<std::ops::Range<u64>>) -> Result<Bytes, ReadFault> {
        let options = GetOptions {
            if_match: self.etag.clone(),
            version: self.version.clone(),
            head: range.is_none(),
            // What is read at once is asked for whole: a store may know the checksum of the whole, and never of a range.
            range: range.clone().filter(|range| *range != (0..self.size_bytes)).map(GetRange::Bounded),
            ..GetOptions::default()
        };
        let result = self.store.get_opts(&self.path, options).await.map_err(|error| self.fault(error))?;
        if result.meta.size != self.size_bytes {
            let message = format!("{} holds {} bytes, not {}", self.path, result.meta.size, self.size_bytes);
            return Err(ReadFault::File(FailureReason::Changed, message));
        }
        let Some(range) = range else { return Ok(Bytes::new()) };
        let bytes = match result.payload {
            GetResultPayload::File(file, _) => {
                let (at, length) = (range.start, (range.end - range.start) as usize);
                let read = SpawnedTask::spawn_blocking(move || read(file, at, length, &self.buffers));
                let read = read
                    .join()
                    .await
                    .map_err(|error| ReadFault::Store(DataFusionError::ExecutionJoin(Box::new(error))))?;
                return read.map_err(|error| {
                    let message = format!("{}: {error}", self.path);
                    ReadFault::Store(DataFusionError::IoError(std::io::Error::new(error.kind(), message)))
                });
            }
            GetResultPayload::Stream(_) => result.bytes().await.map_err(|error| self.fault(error))?,
        };
        if bytes.len() as u64 != range.end - range.start {
            let message = format!("{} gave {} bytes for {range:?}", self.path, bytes.len());
            return Err(ReadFault::Store(DataFusionError::IoError(std::io::Error::other(message))));
        }
        Ok(bytes)
    }

    fn fault(&self, error: object_store::Error) -> ReadFault {
        use object_store::Error as E;
        match error {
            E::NotFound { .. } | E::InvalidPath { .. } => ReadFault::File(FailureReason::Missing, error.to_string()),
            E::Precondition { .. } | E::NotModified { .. } => {
                ReadFault::File(FailureReason::Changed, error.to_string())
            }
            E::PermissionDenied { .. }
            | E::Unauthenticated { .. }
            | E::NotSupported { .. }
            | E::NotImplemented { .. } => {
                let refused = penstock_engine::cloud::CloudError::from(error);
                ReadFault::Store(DataFusionError::External(Box::new(refused)))
            }
            error => {
                let message = format!("{}: {error}", self.path);
                ReadFault::Store(DataFusionError::IoError(std::io::Error::other(message)))
            }
        }
    }
}

/// Reads `length` bytes from `at` on: a file of this machine is read into memory that was used before.
fn read(mut file: File, at: u64, length: usize, buffers: &BufferPool) -> std::io::Result<Bytes> {
    let mut buffer = buffers.take(length);
    file.seek(SeekFrom::Start(at))?;
    file.read_exact(&mut buffer[..length])?;
    Ok(buffer.into_bytes(length))
}

/// Reads an object from some byte on.
#[derive(Debug)]
pub(super) struct ChunkReader {
    object: Object,
    /// What is fetched next begins here.
    at: u64,
    /// Up to here chunks are fetched ahead; past it one at a time, on demand.
    ahead_to: u64,
    fetching: VecDeque<SpawnedTask<Result<Bytes, ReadFault>>>,
    /// The size of the next chunk on demand.
    demand_bytes: u64,
    bytes_read: Count,
    /// Whether the object has been seen to be as it must be.
    seen: bool,
}

impl ChunkReader {
    /// Reads from `start` on, knowing that `end` and a little more will be wanted.
    pub(super) fn new(object: Object, start: u64, end: u64, bytes_read: Count) -> Self {
        let ahead_to = (end + PAST_END_BYTES).min(object.size_bytes);
        Self {
            object,
            at: start,
            ahead_to,
            fetching: VecDeque::new(),
            demand_bytes: PAST_END_BYTES,
            bytes_read,
            seen: false,
        }
    }

    /// Begins to fetch ahead.
    pub(super) fn fetch_ahead(&mut self) {
        while self.fetching.len() < CHUNKS_AHEAD && self.at < self.ahead_to {
            // The last chunk takes up what would be a small one after it.
            let rest = self.ahead_to - self.at;
            self.fetch(if rest <= CHUNK_BYTES + CHUNK_BYTES / 4 { rest } else { CHUNK_BYTES });
        }
    }

    /// The next chunk; none at the object's end.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, ReadFault> {
        self.fetch_ahead();
        if self.fetching.is_empty() && self.at < self.object.size_bytes {
            self.demand_bytes = (self.demand_bytes * 4).min(CHUNK_BYTES);
            self.fetch(self.demand_bytes.min(self.object.size_bytes - self.at));
        }
        let Some(task) = self.fetching.pop_front() else {
            // An empty file is asked for too, lest one that is gone passes for empty.
            if !self.seen {
                self.seen = true;
                self.object.clone().get(None).await?;
            }
            return Ok(None);
        };
        let bytes =
            task.join().await.map_err(|error| ReadFault::Store(DataFusionError::ExecutionJoin(Box::new(error))))??;
        self.seen = true;
        self.bytes_read.add(bytes.len());
        Ok(Some(bytes))
    }

    fn fetch(&mut self, bytes: u64) {
        let range = self.at..self.at + bytes;
        self.at = range.end;
        self.fetching.push_back(SpawnedTask::spawn(self.object.clone().get(Some(range))));
    }
}

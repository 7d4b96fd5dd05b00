//! A file's bytes in order, fetched ahead in large chunks while earlier ones are worked on.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use datafusion::common::runtime::SpawnedTask;
use datafusion::error::DataFusionError;
use datafusion::physical_plan::metrics::Count;
use futures::{Stream, StreamExt, stream};
use object_store::path::Path;
use object_store::{GetOptions, GetRange, GetResultPayload, ObjectStore};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use crate::convert::FailureReason;
use crate::convert::buffers::BufferPool;

/// The size of a chunk: large enough to be worth a request. One of a file of this machine is smaller, so that it is still in
/// a cache when it is scanned.
const CHUNK_BYTES: u64 = 4 << 20;
const FILE_CHUNK_BYTES: u64 = 1 << 20;

/// How many chunks are fetched at once.
const CHUNKS_AHEAD: usize = 3;

/// What may be on its way, or fetched and not used yet.
pub(crate) const BYTES_AHEAD: u64 = CHUNKS_AHEAD as u64 * CHUNK_BYTES;

/// That of files of this machine: they are read so quickly that more of it would only be out of the cache when its turn comes.
const FILE_BYTES_AHEAD: u64 = CHUNKS_AHEAD as u64 * FILE_CHUNK_BYTES;

/// What is fetched past the end of a range along with it: mostly enough for its last line.
const PAST_END_BYTES: u64 = 64 << 10;

/// A file that is no larger is fetched whole, in one bundle with those after it.
const SMALL_FILE_BYTES: u64 = 256 << 10;

/// What a bundle holds at most.
const BUNDLE_FILES: usize = 256;
const BUNDLE_BYTES: u64 = 2 << 20;

/// How many files of a bundle are asked for at once.
pub(super) const FILES_AT_ONCE: usize = 16;

/// Why no more bytes come.
#[derive(Debug)]
pub(super) enum ReadFault {
    /// The file is to blame, and fails alone.
    File(FailureReason, String),
    /// The store is to blame: the pass ends here.
    Store(DataFusionError),
}

/// The object that is read, and what it must still be.
#[derive(Debug)]
pub(super) struct Object {
    pub(super) store: Arc<dyn ObjectStore>,
    pub(super) path: Path,
    pub(super) size_bytes: u64,
    pub(super) etag: Option<String>,
    pub(super) version: Option<String>,
    pub(super) buffers: BufferPool,
    pub(super) nature: Nature,
}

/// Whether a store hands out files of this machine; nothing before it has answered once.
pub(super) type Nature = Arc<OnceLock<bool>>;

/// What may be ahead, of a store of this nature.
pub(super) fn bytes_ahead(nature: &Nature) -> u64 {
    if nature.get() == Some(&true) { FILE_BYTES_AHEAD } else { BYTES_AHEAD }
}

/// What a store answers: bytes, or a file of this machine to read them from.
enum Opened {
    Bytes(Bytes),
    File(File),
}

impl Object {
    async fn get(self: Arc<Self>, range: Option<Range<u64>>) -> Result<Bytes, ReadFault> {
        match self.open(range.clone()).await? {
            Opened::Bytes(bytes) => Ok(bytes),
            Opened::File(file) => {
                let (at, length) = range.map_or((0, 0), |range| (range.start, (range.end - range.start) as usize));
                let buffers = self.buffers.clone();
                let read = SpawnedTask::spawn_blocking(move || read(file, at, length, &buffers)).join().await;
                read.map_err(lost)?.map_err(|error| self.unreadable(&error))
            }
        }
    }

    /// Asks for a range, or only whether the object is as it must be.
    async fn open(&self, range: Option<Range<u64>>) -> Result<Opened, ReadFault> {
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
        self.nature.get_or_init(|| matches!(result.payload, GetResultPayload::File(..)));
        let Some(range) = range else { return Ok(Opened::Bytes(Bytes::new())) };
        let bytes = match result.payload {
            GetResultPayload::File(file, _) => return Ok(Opened::File(file)),
            GetResultPayload::Stream(_) => result.bytes().await.map_err(|error| self.fault(error))?,
        };
        if bytes.len() as u64 != range.end - range.start {
            let message = format!("{} gave {} bytes for {range:?}", self.path, bytes.len());
            return Err(ReadFault::Store(DataFusionError::IoError(std::io::Error::other(message))));
        }
        Ok(Opened::Bytes(bytes))
    }

    fn unreadable(&self, error: &std::io::Error) -> ReadFault {
        let message = format!("{}: {error}", self.path);
        ReadFault::Store(DataFusionError::IoError(std::io::Error::new(error.kind(), message)))
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

fn lost(error: tokio::task::JoinError) -> ReadFault {
    ReadFault::Store(DataFusionError::ExecutionJoin(Box::new(error)))
}

/// Reads `length` bytes from `at` on: a file of this machine is read into memory that was used before.
fn read(mut file: File, at: u64, length: usize, buffers: &BufferPool) -> std::io::Result<Bytes> {
    let mut buffer = buffers.take(length);
    fill(&mut file, at, &mut buffer[..length])?;
    Ok(buffer.into_bytes(length))
}

/// Reads from a place of its own: the store may have read the file before it handed it out, e.g. to tell its etag.
fn fill(file: &mut File, at: u64, buffer: &mut [u8]) -> std::io::Result<()> {
    file.seek(SeekFrom::Start(at))?;
    file.read_exact(buffer)
}

/// A small file on its way, whole.
type Delivery = oneshot::Sender<Result<Bytes, ReadFault>>;
type Delivered = oneshot::Receiver<Result<Bytes, ReadFault>>;

/// Small files that follow each other. One task fetches them: a task and a thread for each would cost more than to scan it.
#[derive(Debug, Default)]
pub(super) struct Bundle {
    files: Vec<(Arc<Object>, Delivery)>,
    bytes: u64,
}

impl Bundle {
    /// Whether a file of this size may join a bundle.
    pub(super) fn suits(size_bytes: u64) -> bool {
        (1..=SMALL_FILE_BYTES).contains(&size_bytes)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    pub(super) fn is_full(&self) -> bool {
        self.files.len() >= BUNDLE_FILES || self.bytes >= BUNDLE_BYTES
    }

    /// Adds a file, whole; gives its reader.
    pub(super) fn add(&mut self, object: Arc<Object>, bytes_read: Count) -> ChunkReader {
        let (deliver, delivered) = oneshot::channel();
        self.bytes += object.size_bytes;
        self.files.push((object.clone(), deliver));
        ChunkReader::bundled(object, delivered, bytes_read)
    }

    /// Begins to fetch the files, beside the caller. A store of files of this machine is asked on a thread that no runtime
    /// knows: there it does its work at once, where else it would hand each request to a thread and back.
    pub(super) fn begin(self, tasks: &mut JoinSet<()>) {
        if self.files.first().is_none_or(|(first, _)| first.nature.get() != Some(&true)) {
            tasks.spawn(self.fetch());
            return;
        }
        let thread = std::thread::Builder::new().name("small-files".to_owned());
        if let Err(error) = thread.spawn(move || futures::executor::block_on(self.fetch())) {
            // Whoever waits for one of the files sees that it won't come.
            tracing::warn!(%error, "there is no thread to read small files on");
        }
    }

    /// Fetches the files, and delivers them in their order.
    async fn fetch(self) {
        let opening = stream::iter(self.files).map(|(object, deliver)| async move {
            let opened = object.open(Some(0..object.size_bytes)).await;
            (object, deliver, opened)
        });
        match Handle::try_current() {
            Ok(_) => deliver_all(opening.buffered(FILES_AT_ONCE)).await,
            // Here nothing waits for anything, so one after the other is as quick.
            Err(_) => deliver_all(opening.then(|opened| opened)).await,
        }
    }
}

/// Reads and delivers what has been opened, as many at a time as are ready.
async fn deliver_all(opened: impl Stream<Item = (Arc<Object>, Delivery, Result<Opened, ReadFault>)>) {
    let mut opened = std::pin::pin!(opened.ready_chunks(FILES_AT_ONCE));
    while let Some(some) = opened.next().await {
        let mut files = Vec::with_capacity(some.len());
        for (object, deliver, opened) in some {
            match opened {
                Ok(Opened::File(file)) => files.push((object, deliver, file)),
                Ok(Opened::Bytes(bytes)) => hand_over(deliver, Ok(bytes)),
                Err(fault) => hand_over(deliver, Err(fault)),
            }
        }
        if files.iter().all(|(_, deliver, _)| deliver.is_closed()) && !files.is_empty() {
            return;
        }
        match Handle::try_current() {
            Ok(runtime) => {
                if let Err(error) = runtime.spawn_blocking(move || read_all(files)).await {
                    tracing::warn!(%error, "small files were not read");
                }
            }
            Err(_) => read_all(files),
        }
    }
}

/// Reads files one after the other into one buffer.
fn read_all(files: Vec<(Arc<Object>, Delivery, File)>) {
    let Some((first, ..)) = files.first() else { return };
    let length = files.iter().map(|(object, ..)| object.size_bytes as usize).sum();
    let (mut buffer, mut at) = (first.buffers.take(length), 0);
    let mut read = Vec::with_capacity(files.len());
    for (object, deliver, mut file) in files {
        let place = at..at + object.size_bytes as usize;
        at = place.end;
        read.push((
            deliver,
            fill(&mut file, 0, &mut buffer[place.clone()]).map_err(|error| object.unreadable(&error)),
            place,
        ));
    }
    let bytes = buffer.into_bytes(length);
    for (deliver, read, place) in read {
        hand_over(deliver, read.map(|()| bytes.slice(place)));
    }
}

fn hand_over(deliver: Delivery, fetched: Result<Bytes, ReadFault>) {
    if deliver.send(fetched).is_err() {
        tracing::trace!("a file was fetched that nobody wants any more");
    }
}

/// Bytes on their way.
#[derive(Debug)]
enum Fetch {
    Alone(SpawnedTask<Result<Bytes, ReadFault>>),
    Bundled(Delivered),
}

impl Fetch {
    async fn arrive(self) -> Result<Bytes, ReadFault> {
        match self {
            Self::Alone(task) => task.join().await.map_err(lost)?,
            Self::Bundled(delivered) => delivered.await.unwrap_or_else(|_| {
                let given_up = std::io::Error::other("it was given up before it was read");
                Err(ReadFault::Store(DataFusionError::IoError(given_up)))
            }),
        }
    }
}

/// Reads an object from some byte on.
#[derive(Debug)]
pub(super) struct ChunkReader {
    object: Arc<Object>,
    /// What is fetched next begins here.
    at: u64,
    /// Up to here chunks are fetched ahead; past it one at a time, on demand.
    ahead_to: u64,
    fetching: VecDeque<Fetch>,
    /// The bytes of what is being fetched.
    fetching_bytes: u64,
    /// The size of the next chunk on demand.
    demand_bytes: u64,
    bytes_read: Count,
    /// Whether the object has been seen to be as it must be.
    seen: bool,
}

impl ChunkReader {
    /// Reads from `start` on, knowing that `end` and a little more will be wanted.
    pub(super) fn new(object: Arc<Object>, start: u64, end: u64, bytes_read: Count) -> Self {
        let ahead_to = (end + PAST_END_BYTES).min(object.size_bytes);
        Self {
            object,
            at: start,
            ahead_to,
            fetching: VecDeque::new(),
            fetching_bytes: 0,
            demand_bytes: PAST_END_BYTES,
            bytes_read,
            seen: false,
        }
    }

    /// The reader of a file that a bundle brings.
    fn bundled(object: Arc<Object>, delivered: Delivered, bytes_read: Count) -> Self {
        let end = object.size_bytes;
        Self {
            at: end,
            ahead_to: end,
            fetching: VecDeque::from([Fetch::Bundled(delivered)]),
            fetching_bytes: end,
            ..Self::new(object, end, end, bytes_read)
        }
    }

    /// Begins to fetch ahead, while that is no more than `room`; gives what is on its way then.
    pub(super) fn fetch_ahead(&mut self, room: u64) -> u64 {
        while self.fetching.len() < CHUNKS_AHEAD && self.at < self.ahead_to {
            let hands_out_files = self.object.nature.get() != Some(&false);
            let chunk = if hands_out_files { FILE_CHUNK_BYTES } else { CHUNK_BYTES };
            // The last chunk takes up what would be a small one after it.
            let rest = self.ahead_to - self.at;
            let next = if rest <= chunk + chunk / 4 { rest } else { chunk };
            if self.fetching_bytes + next > room {
                break;
            }
            self.fetch(next);
        }
        self.fetching_bytes
    }

    /// What is still on its way, if that is the last of it: room for another object's first chunks.
    pub(super) fn last_bytes(&self) -> Option<u64> {
        (self.at >= self.ahead_to).then_some(self.fetching_bytes)
    }

    /// The next chunk; none at the object's end.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, ReadFault> {
        self.fetch_ahead(u64::MAX);
        if self.fetching.is_empty() && self.at < self.object.size_bytes {
            self.demand_bytes = (self.demand_bytes * 4).min(CHUNK_BYTES);
            self.fetch(self.demand_bytes.min(self.object.size_bytes - self.at));
        }
        let Some(fetch) = self.fetching.pop_front() else {
            // An empty file is asked for too, lest one that is gone passes for empty.
            if !self.seen {
                self.seen = true;
                self.object.clone().get(None).await?;
            }
            return Ok(None);
        };
        let bytes = fetch.arrive().await?;
        self.fetching_bytes = self.fetching_bytes.saturating_sub(bytes.len() as u64);
        self.seen = true;
        self.bytes_read.add(bytes.len());
        Ok(Some(bytes))
    }

    fn fetch(&mut self, bytes: u64) {
        let range = self.at..self.at + bytes;
        self.at = range.end;
        self.fetching_bytes += bytes;
        self.fetching.push_back(Fetch::Alone(SpawnedTask::spawn(self.object.clone().get(Some(range)))));
    }
}

//! Opens one byte range of a file as a stream of batches.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::common::{Result, internal_datafusion_err};
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{FileOpenFuture, FileOpener};
use datafusion::physical_plan::metrics::Count;
use futures::{StreamExt, stream};
use object_store::ObjectStore;
use tokio::task::JoinSet;

use super::ScanFile;
use super::chunks::{Bundle, ChunkReader, FILES_AT_ONCE, Nature, Object, ReadFault, bytes_ahead};
use super::inflate::{Encoding, InflateReader};
use crate::convert::buffers::BufferPool;
use crate::convert::cast::LineScanner;
use crate::convert::scanner::lines::{LineCutter, Piece};
use crate::convert::scanner::{ScanOptions, Scanner};

/// How much is read at least, and at most, to guess a dataset's first columns. It costs some milliseconds; a column that
/// shows up later costs a second pass.
const PROBE_BYTES: u64 = 4 << 20;
const PROBE_MOST_BYTES: u64 = 64 << 20;

/// A smaller chunk is scanned at once: files that small end, and a few dozen of them end a batch.
const YIELD_BYTES: usize = 64 << 10;

/// Small files that are read for it, one after the other.
pub(super) const PROBE_FILES: usize = 16;

pub(super) struct NdjsonOpener {
    pub(super) options: Arc<ScanOptions>,
    pub(super) schema: SchemaRef,
    pub(super) batch_rows: usize,
    pub(super) upcoming: Arc<Mutex<Upcoming>>,
    /// A scanner that has ended a range, for the next one. It may hold rows and notes, if another range follows.
    pub(super) scanner: Arc<Mutex<Option<Box<Scanner>>>>,
}

/// The files that an opener will be asked for, in order. While one is scanned the small ones after it are fetched, and
/// when all of it is on its way, the beginning of the next.
pub(super) struct Upcoming {
    supplies: Supplies,
    files: VecDeque<Next>,
    /// Readers of the first of them, with the bytes that each has on its way, and their sum.
    readers: VecDeque<(ChunkReader, u64)>,
    bytes_ahead: u64,
    /// The tasks that fetch bundles of small files.
    bundles: JoinSet<()>,
    /// Whether the files have been asked for in this order so far.
    in_order: bool,
}

/// What all reading of a partition's files needs.
pub(super) struct Supplies {
    pub(super) store: Arc<dyn ObjectStore>,
    pub(super) bytes_read: Count,
    pub(super) buffers: BufferPool,
    pub(super) nature: Nature,
}

impl Supplies {
    fn object(&self, file: &PartitionedFile) -> Arc<Object> {
        let meta = &file.object_meta;
        Arc::new(Object {
            store: self.store.clone(),
            path: meta.location.clone(),
            size_bytes: meta.size,
            etag: meta.e_tag.clone(),
            version: meta.version.clone(),
            buffers: self.buffers.clone(),
            nature: self.nature.clone(),
        })
    }

    fn next(&self, file: &PartitionedFile) -> Next {
        Next { object: self.object(file), range: file.range.as_ref().map(|_| file.range()) }
    }
}

/// A file, or a range of one, that will be asked for.
struct Next {
    object: Arc<Object>,
    range: Option<(u64, u64)>,
}

impl Next {
    fn is(&self, file: &PartitionedFile) -> bool {
        self.object.path == *file.path() && self.range == file.range.as_ref().map(|_| file.range())
    }

    fn bytes(&self) -> u64 {
        self.range.map_or(self.object.size_bytes, |(start, end)| end - start)
    }

    fn reader(&self, bytes_read: Count) -> ChunkReader {
        let (start, end) = self.range.unwrap_or((0, self.object.size_bytes));
        ChunkReader::new(self.object.clone(), start.saturating_sub(1), end, bytes_read)
    }
}

impl Upcoming {
    pub(super) fn new(supplies: Supplies, files: &[PartitionedFile]) -> Self {
        Self {
            files: files.iter().map(|file| supplies.next(file)).collect(),
            supplies,
            readers: VecDeque::new(),
            bytes_ahead: 0,
            bundles: JoinSet::new(),
            in_order: true,
        }
    }

    /// The reader of the file that is opened now, and whether another file is sure to follow.
    fn reader(&mut self, file: &PartitionedFile) -> (ChunkReader, bool) {
        let expected = self.files.pop_front().filter(|next| self.in_order && next.is(file));
        let Some(now) = expected else {
            self.in_order = false;
            self.readers.clear();
            self.bundles.abort_all();
            return (self.supplies.next(file).reader(self.supplies.bytes_read.clone()), false);
        };
        let reader = match self.readers.pop_front() {
            Some((reader, bytes)) => {
                self.bytes_ahead -= bytes;
                reader
            }
            None => now.reader(self.supplies.bytes_read.clone()),
        };
        self.fetch_ahead(now.bytes());
        (reader, !self.files.is_empty())
    }

    /// Begins to fetch what comes next, as far as there is room beside what is on its way now.
    fn fetch_ahead(&mut self, bytes_now: u64) {
        let room = bytes_ahead(&self.supplies.nature);
        // Half of it is used up before more is fetched, so that bundles are worth their task.
        if !self.in_order || bytes_now + self.bytes_ahead > room / 2 {
            return;
        }
        while self.bundles.try_join_next().is_some() {}
        let mut bundle = Bundle::default();
        while let Some(next) = self.files.get(self.readers.len()) {
            let (bytes, left) = (next.bytes(), room.saturating_sub(bytes_now + self.bytes_ahead));
            // How to ask for many is known when the first have been answered.
            let many = self.supplies.nature.get().is_none() && self.readers.len() >= FILES_AT_ONCE;
            let bytes_read = self.supplies.bytes_read.clone();
            let (reader, begun) = if next.range.is_none() && Bundle::suits(bytes) {
                if many || bytes > left {
                    break;
                }
                (bundle.add(next.object.clone(), bytes_read), bytes)
            } else {
                let mut reader = next.reader(bytes_read);
                let begun = if many { 0 } else { reader.fetch_ahead(left) };
                if begun == 0 && bytes > 0 {
                    break;
                }
                (reader, begun)
            };
            self.bytes_ahead += begun;
            self.readers.push_back((reader, begun));
            if bundle.is_full() {
                std::mem::take(&mut bundle).begin(&mut self.bundles);
            }
        }
        if !bundle.is_empty() {
            bundle.begin(&mut self.bundles);
        }
    }
}

impl FileOpener for NdjsonOpener {
    fn open(&self, file: PartitionedFile) -> Result<FileOpenFuture> {
        let scan_file = file
            .extension::<ScanFile>()
            .ok_or_else(|| internal_datafusion_err!("{} came without its ScanFile", file.path()))?;
        let options = &self.options;
        let (start, end) = file.range();
        let range = match (scan_file.encoding, &file.range) {
            (Encoding::Plain, _) => Some(start..end),
            (_, None) => None,
            (_, Some(_)) => return Err(internal_datafusion_err!("{} is compressed and can't be cut", file.path())),
        };
        let (chunks, more_to_come) = self.upcoming.lock().unwrap_or_else(PoisonError::into_inner).reader(&file);
        let kept = self.scanner.lock().unwrap_or_else(PoisonError::into_inner).take();
        let etag = file.object_meta.e_tag.as_deref();
        let scanner = LineScanner::begin(
            kept,
            options.clone(),
            self.schema.clone(),
            self.batch_rows,
            (scan_file.index, &scan_file.uri, etag),
        )?;
        let scan = RangeScan {
            bytes: Reader::new(chunks, scan_file.encoding),
            cutter: LineCutter::new(range, options.max_line_bytes, options.max_reject_bytes),
            scanner,
            keep: self.scanner.clone(),
            upcoming: self.upcoming.clone(),
            more_to_come,
            pieces: VecDeque::new(),
            state: State::Begun,
        };
        let batches = stream::try_unfold(scan, |mut scan| async move {
            match scan.next().await? {
                Some(batch) => Ok(Some((batch, scan))),
                None => {
                    scan.end();
                    Ok(None)
                }
            }
        });
        Ok(Box::pin(async move { Ok(batches.boxed()) }))
    }
}

/// A range while it is scanned.
struct RangeScan {
    bytes: Reader,
    cutter: LineCutter,
    scanner: LineScanner,
    keep: Arc<Mutex<Option<Box<Scanner>>>>,
    upcoming: Arc<Mutex<Upcoming>>,
    /// Whether another range follows, whose rows may join the batch.
    more_to_come: bool,
    pieces: VecDeque<Piece>,
    state: State,
}

enum Reader {
    Plain(ChunkReader),
    Compressed(InflateReader),
}

impl Reader {
    fn new(chunks: ChunkReader, encoding: Encoding) -> Self {
        match encoding {
            Encoding::Plain => Self::Plain(chunks),
            encoding => Self::Compressed(InflateReader::new(chunks, encoding)),
        }
    }

    async fn next(&mut self) -> Result<Option<Bytes>, ReadFault> {
        match self {
            Self::Plain(chunks) => chunks.next().await,
            Self::Compressed(inflated) => inflated.next().await,
        }
    }
}

impl Reader {
    /// See [`ChunkReader::last_bytes`]; what is inflated is fetched elsewhere.
    fn last_bytes(&self) -> Option<u64> {
        match self {
            Self::Plain(chunks) => chunks.last_bytes(),
            Self::Compressed(_) => None,
        }
    }
}

#[derive(PartialEq)]
enum State {
    Begun,
    Reading,
    Ended,
}

impl RangeScan {
    async fn next(&mut self) -> Result<Option<RecordBatch>> {
        loop {
            while let Some(piece) = self.pieces.front_mut() {
                if !self.scanner.scan(piece) {
                    return self.scanner.take_batch();
                }
                self.pieces.pop_front();
            }
            if self.scanner.batch_is_full() {
                return self.scanner.take_batch();
            }
            if self.state == State::Ended {
                // A batch for each small file would cost more than its rows.
                return if self.more_to_come && self.scanner.can_go_on() {
                    Ok(None)
                } else {
                    self.scanner.take_batch()
                };
            }
            let failure = match self.read().await {
                Ok(true) => continue,
                Ok(false) => {
                    self.pieces.extend(self.cutter.finish());
                    None
                }
                Err(ReadFault::File(reason, message)) => Some((reason, message)),
                Err(ReadFault::Store(error)) => return Err(error),
            };
            while let Some(mut piece) = self.pieces.pop_front() {
                // The last line alone can't fill a batch that wasn't full.
                self.scanner.scan(&mut piece);
            }
            self.scanner.end(failure);
            self.state = State::Ended;
        }
    }

    /// The range has ended: its scanner goes on with the next one.
    fn end(self) {
        if let Some(scanner) = self.scanner.into_kept() {
            *self.keep.lock().unwrap_or_else(PoisonError::into_inner) = Some(scanner);
        }
    }

    /// Cuts the next chunk; false at the range's end.
    async fn read(&mut self) -> Result<bool, ReadFault> {
        // Even an empty range asks for its file once.
        if self.state == State::Reading && self.cutter.is_done() {
            return Ok(false);
        }
        self.state = State::Reading;
        let Some(chunk) = self.bytes.next().await? else { return Ok(false) };
        if let Some(last_bytes) = self.bytes.last_bytes() {
            self.upcoming.lock().unwrap_or_else(PoisonError::into_inner).fetch_ahead(last_bytes);
        }
        if chunk.len() >= YIELD_BYTES {
            // Lines that are only checked fill no batch, so nobody else yields.
            tokio::task::yield_now().await;
        }
        self.pieces.extend(self.cutter.push(chunk).into_iter().flatten());
        Ok(true)
    }
}

/// Reads the first lines of files for the names that they show.
pub(super) struct Probe {
    scanner: Scanner,
    seen_bytes: u64,
    /// How many names there are, and what had been seen when the last one appeared.
    names: usize,
    last_news: u64,
}

impl Probe {
    pub(super) fn new(options: Arc<ScanOptions>) -> Self {
        let schema = options.schema();
        Self { scanner: Scanner::new(options, schema, 1), seen_bytes: 0, names: 0, last_news: 0 }
    }

    /// Whether enough has been seen: some of it, and as much again since the last new name.
    fn is_done(&self) -> bool {
        self.seen_bytes >= PROBE_BYTES.max(self.last_news * 2) || self.seen_bytes >= PROBE_MOST_BYTES
    }

    /// Reads the next file; false if nothing more need be read. A file that can't be read shows nothing: the pass will say
    /// why.
    pub(super) async fn read(&mut self, object: Arc<Object>, encoding: Encoding) -> bool {
        let (max_line_bytes, end) = (self.scanner.max_line_bytes(), object.size_bytes.min(PROBE_BYTES));
        let chunks = ChunkReader::new(object, 0, end, Count::new());
        let mut bytes = Reader::new(chunks, encoding);
        let mut cutter = LineCutter::new(None, max_line_bytes, 0);
        let (mut ended, begin) = (false, self.seen_bytes);
        while !ended && !self.is_done() {
            let pieces = match bytes.next().await {
                Ok(Some(chunk)) => {
                    self.seen_bytes += chunk.len() as u64;
                    cutter.push(chunk)
                }
                Ok(None) => {
                    ended = true;
                    [cutter.finish(), None]
                }
                Err(_) => return true,
            };
            for mut piece in pieces.into_iter().flatten() {
                while !self.scanner.scan(&mut piece) {
                    self.scanner.drop_batch();
                }
            }
            let (names, offset) = self.scanner.last_unknown();
            if names > self.names {
                (self.names, self.last_news) = (names, begin + offset);
            }
        }
        !self.is_done()
    }

    /// The names, in order of first sight.
    pub(super) fn into_names(self) -> Vec<String> {
        self.scanner.into_unknown()
    }
}

//! Etags of content: the same bytes have the same etag, whenever and however they were put there.
//!
//! An etag is the xxh3-128 of the content, 32 hex digits. It is computed when somebody asks for it and remembered with
//! the file's stamp, so that a file that stands still is read once. (The etag of `object_store`'s own file store is the
//! inode and the time: it changes with a `touch`, and may stay when a file is rewritten in place.)

use std::{
    collections::HashMap,
    fmt, fs,
    hash::{DefaultHasher, Hash, Hasher},
    io::{self, Read, Seek, SeekFrom},
    path::Path,
    str::FromStr,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use object_store::{Error, Result};
use serde::{Deserialize, Serialize};
use twox_hash::xxhash3_128;

use super::failure::{AtPath, STORE};

/// The kernel stamps files by its tick (at most 10 ms), so a file changed twice within one may keep its stamp. A stamp is
/// believed when the last change is longer ago than this.
pub(in crate::cloud::local) const TICK: Duration = Duration::from_millis(20);

/// What shows that a file was changed, without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Stamp {
    /// Which file of the file system.
    pub inode: u64,
    /// When its content was last written, in nanoseconds since the epoch.
    pub mtime_ns: i64,
    /// Its size.
    pub size_bytes: u64,
}

impl Stamp {
    /// The stamp of a file.
    pub fn of(metadata: &fs::Metadata) -> Self {
        let mtime = metadata.modified().ok().and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok());
        let mtime_ns = mtime.map_or(0, |since| i64::try_from(since.as_nanos()).unwrap_or(i64::MAX));
        Self { inode: inode(metadata), mtime_ns, size_bytes: metadata.len() }
    }
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}-{:x}-{:x}", self.inode, self.mtime_ns, self.size_bytes)
    }
}

impl FromStr for Stamp {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts: Vec<_> = text.split('-').map(|part| u64::from_str_radix(part, 16)).collect();
        match parts[..] {
            [Ok(inode), Ok(mtime), Ok(size_bytes)] => Ok(Self { inode, mtime_ns: mtime.cast_signed(), size_bytes }),
            _ => Err(format!("`{text}` is not the stamp of a file")),
        }
    }
}

#[cfg(unix)]
fn inode(metadata: &fs::Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::ino(metadata)
}

#[cfg(not(unix))]
fn inode(_: &fs::Metadata) -> u64 {
    0
}

/// When anything of the file last changed. Nobody can set this time, unlike the mtime.
#[cfg(unix)]
fn changed_at(metadata: &fs::Metadata) -> Option<SystemTime> {
    use std::os::unix::fs::MetadataExt;
    let secs = u64::try_from(metadata.ctime()).ok()?;
    let nanos = u64::try_from(metadata.ctime_nsec()).ok()?;
    Some(SystemTime::UNIX_EPOCH + Duration::from_secs(secs) + Duration::from_nanos(nanos))
}

#[cfg(not(unix))]
fn changed_at(metadata: &fs::Metadata) -> Option<SystemTime> {
    metadata.modified().ok()
}

/// Remembers etags by key and stamp. An implementation may forget whatever it likes.
pub trait EtagCache: Send + Sync + fmt::Debug {
    /// The etag of the file that had this stamp.
    fn get(&self, key: &str, stamp: &Stamp) -> Option<String>;

    /// The file with this stamp has this etag.
    fn put(&self, key: &str, stamp: &Stamp, etag: &str);
}

/// Remembers the etags used last, in memory.
#[derive(Debug, Default)]
pub struct RecentEtags(Mutex<Generations>);

/// Two maps bound the memory without a list of uses: when the young one is full it becomes the old one.
#[derive(Debug, Default)]
struct Generations {
    young: HashMap<String, (Stamp, String)>,
    old: HashMap<String, (Stamp, String)>,
}

/// Etags in one generation: about 10 MB with usual keys.
const GENERATION: usize = 32 * 1024;

impl EtagCache for RecentEtags {
    fn get(&self, key: &str, stamp: &Stamp) -> Option<String> {
        let mut generations = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = generations.young.get(key) {
            return (found.0 == *stamp).then(|| found.1.clone());
        }
        let found = generations.old.remove(key)?;
        let etag = (found.0 == *stamp).then(|| found.1.clone())?;
        generations.insert(key, found);
        Some(etag)
    }

    fn put(&self, key: &str, stamp: &Stamp, etag: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(key, (*stamp, etag.to_owned()));
    }
}

impl Generations {
    fn insert(&mut self, key: &str, value: (Stamp, String)) {
        if self.young.len() >= GENERATION {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key.to_owned(), value);
    }
}

/// Locks by name, a bounded number of them: two names may share one.
pub(super) struct Locks([Mutex<()>; 64]);

/// Held while a key's file is put in place.
pub(super) static PLACING: Locks = Locks([const { Mutex::new(()) }; 64]);

/// Held while a file is hashed, so that ten readers of a file read it once.
static HASHING: Locks = Locks([const { Mutex::new(()) }; 64]);

impl Locks {
    /// Waits for the lock of this path.
    pub(super) fn lock(&self, path: &Path) -> MutexGuard<'_, ()> {
        let mut hasher = DefaultHasher::new();
        path.hash(&mut hasher);
        let index = usize::try_from(hasher.finish() % 64).unwrap_or(0);
        self.0[index].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The etag of an open file, from the cache or from its content. A file that is being written has none yet.
pub(super) fn etag_of(cache: &dyn EtagCache, key: &str, file: &fs::File, path: &Path) -> Result<(Stamp, String)> {
    let look = || file.metadata().at("look", path);
    let cached = |stamp: &Stamp| cache.get(key, stamp);
    let before = Stamp::of(&look()?);
    if let Some(etag) = cached(&before) {
        return Ok((before, etag));
    }
    let hashing = HASHING.lock(path);
    for _ in 0..3 {
        let metadata = look()?;
        let stamp = Stamp::of(&metadata);
        if let Some(etag) = cached(&stamp) {
            return Ok((stamp, etag));
        }
        let old_enough = changed_at(&metadata)
            .is_some_and(|changed| SystemTime::now().duration_since(changed).is_ok_and(|age| age > TICK));
        let etag = hash(file, u64::MAX).at("read", path)?;
        if Stamp::of(&look()?) == stamp {
            if old_enough {
                cache.put(key, &stamp, &etag);
            }
            return Ok((stamp, etag));
        }
    }
    drop(hashing);
    Err(Error::Generic { store: STORE, source: format!("{} is being written: try again later", path.display()).into() })
}

/// The etag of a file's first `limit` bytes. Leaves the file's position anywhere.
pub(super) fn hash(mut file: &fs::File, limit: u64) -> io::Result<String> {
    file.seek(SeekFrom::Start(0))?;
    let mut hasher = xxhash3_128::Hasher::new();
    copy_into(&mut hasher, file, limit)?;
    Ok(text(hasher.finish_128()))
}

/// The etags of consecutive sections of a file, and the etag of all of them together.
pub(super) fn hash_sections(mut file: &fs::File, sections: &[u64]) -> io::Result<(Vec<String>, String)> {
    file.seek(SeekFrom::Start(0))?;
    let mut whole = xxhash3_128::Hasher::new();
    let mut etags = Vec::with_capacity(sections.len());
    for size_bytes in sections {
        let mut section = xxhash3_128::Hasher::new();
        copy_into(&mut Both(&mut whole, &mut section), file, *size_bytes)?;
        etags.push(text(section.finish_128()));
    }
    Ok((etags, text(whole.finish_128())))
}

/// The etag of bytes in memory, given in pieces.
pub(super) fn hash_bytes<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> String {
    let mut hasher = xxhash3_128::Hasher::new();
    pieces.into_iter().for_each(|piece| hasher.write(piece));
    text(hasher.finish_128())
}

trait Sink {
    fn take(&mut self, bytes: &[u8]);
}

impl Sink for xxhash3_128::Hasher {
    fn take(&mut self, bytes: &[u8]) {
        self.write(bytes);
    }
}

struct Both<'a>(&'a mut xxhash3_128::Hasher, &'a mut xxhash3_128::Hasher);

impl Sink for Both<'_> {
    fn take(&mut self, bytes: &[u8]) {
        self.0.write(bytes);
        self.1.write(bytes);
    }
}

fn copy_into(sink: &mut impl Sink, file: &fs::File, limit: u64) -> io::Result<()> {
    let mut rest = file.take(limit);
    let mut buffer = vec![0; 256 * 1024];
    loop {
        match rest.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(read) => sink.take(&buffer[..read]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn text(hash: u128) -> String {
    format!("{hash:032x}")
}

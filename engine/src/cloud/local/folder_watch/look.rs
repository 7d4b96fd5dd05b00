//! One look at one key: what is there, and what that means.

use std::{fs, io::ErrorKind, path::Path, sync::Arc, time::SystemTime};

use object_store::Error;
use tokio::time::Instant;

use super::{
    Watched, events,
    eyes::CLOSES_ARE_TOLD,
    ledger::Landed,
    names::is_ignored,
    pending::{Look, Reason},
};
use crate::cloud::{CloudError, ErrorKind as CloudErrorKind, Result, local::bucket::Stamp};

/// What a look found.
#[derive(Debug)]
pub(super) enum Looked {
    /// Nothing to do.
    Done,
    /// A folder: what is in it is to be found.
    Folder,
    /// A file that may still be written: look again, with this sighting.
    Later(Stamp, Instant),
    /// New content.
    Land(Landing),
}

/// An object to announce.
#[derive(Debug, Clone)]
pub(super) struct Landing {
    pub(super) key: Arc<str>,
    pub(super) stamp: Stamp,
    pub(super) etag: String,
    /// The sequencer of the version before, which its own must exceed.
    pub(super) before: Option<String>,
}

/// Keys of the ledger that are checked at once.
const LEDGER_PAGE: usize = 500;

impl Watched {
    /// Looks at a key. Nothing changes but the ledger, where it was wrong about a file.
    pub(super) async fn look(&self, look: &Look) -> Result<Looked> {
        let key = &look.key;
        let path = self.bucket.root().join(&**key);
        let found = match blocking(move || fs::symlink_metadata(path)).await? {
            Ok(found) => found,
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                self.forget_if_gone(key.to_string()).await?;
                // A folder takes what was in it along, without an event for each.
                self.forget_gone(&format!("{key}/")).await?;
                return Ok(Looked::Done);
            }
            Err(error) => return Err(failed("look", &error)),
        };
        if found.is_dir() {
            return Ok(Looked::Folder);
        }
        if !key.starts_with(&self.prefix) || is_ignored(key) {
            return Ok(Looked::Done);
        }
        if !found.is_file() {
            events::no_object(self.bucket.name(), &self.bucket.root().join(&**key));
            return Ok(Looked::Done);
        }
        let stamp = Stamp::of(&found);
        let known = self.ledger.get(key).await?;
        if let Some(known) = known.as_ref().filter(|known| known.stamp == stamp) {
            self.bucket.etags().put(key, &stamp, &known.etag);
            return Ok(Looked::Done);
        }
        if look.reason == Reason::Made && CLOSES_ARE_TOLD && !has_other_names(&found) {
            return Ok(Looked::Done);
        }
        if look.reason != Reason::Whole
            && let Some(since) = self.not_still(&found, &stamp, look)
        {
            return Ok(Looked::Later(stamp, since));
        }
        let (bucket, owned) = (self.bucket.clone(), key.clone());
        let (stamp, etag) = match blocking(move || bucket.stamp_and_etag(&owned)).await? {
            Ok(read) => read,
            Err(Error::NotFound { .. }) => return Ok(Looked::Done),
            Err(error) => return Err(error.into()),
        };
        if let Some(known) = known.as_ref().filter(|known| known.etag == etag) {
            self.ledger.record(key, &Landed { stamp, ..known.clone() }).await?;
            events::unchanged(self.bucket.name(), key);
            return Ok(Looked::Done);
        }
        Ok(Looked::Land(Landing { key: key.clone(), stamp, etag, before: known.map(|known| known.sequencer) }))
    }

    /// Since when the file has looked like this, unless that is long enough.
    fn not_still(&self, found: &fs::Metadata, stamp: &Stamp, look: &Look) -> Option<Instant> {
        let age = found.modified().ok().and_then(|modified| SystemTime::now().duration_since(modified).ok());
        if age.is_some_and(|age| age >= self.pace.still) {
            return None;
        }
        let since = match look.sighting {
            Some((seen, since)) if seen == *stamp => since,
            _ => Instant::now(),
        };
        (since.elapsed() < self.pace.still).then_some(since)
    }

    /// Forgets every key of the ledger, below a prefix, whose file is gone.
    pub(super) async fn forget_gone(&self, prefix: &str) -> Result<()> {
        let mut after = prefix.to_owned();
        loop {
            let mut page = self.ledger.keys(&after, LEDGER_PAGE).await?;
            page.retain(|key| key.starts_with(prefix));
            let Some(last) = page.last().cloned() else { return Ok(()) };
            let root = self.bucket.root().to_owned();
            let gone = blocking(move || page.into_iter().filter(|key| is_gone(&root.join(key))).collect::<Vec<_>>());
            for key in gone.await? {
                self.forget_if_gone(key).await?;
            }
            after = last;
        }
    }

    async fn forget_if_gone(&self, key: String) -> Result<()> {
        let path = self.bucket.root().join(&key);
        if blocking(move || is_gone(&path)).await? && self.ledger.get(&key).await?.is_some() {
            self.ledger.forget(&key).await?;
            events::gone(self.bucket.name(), &key);
        }
        Ok(())
    }
}

fn is_gone(path: &Path) -> bool {
    matches!(fs::symlink_metadata(path), Err(error) if error.kind() == ErrorKind::NotFound)
}

/// Whether a file has a name elsewhere: then it was linked here whole, and no close will be told.
#[cfg(unix)]
fn has_other_names(found: &fs::Metadata) -> bool {
    std::os::unix::fs::MetadataExt::nlink(found) > 1
}

#[cfg(not(unix))]
fn has_other_names(_: &fs::Metadata) -> bool {
    false
}

/// Runs what blocks where it may.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|error| failed("look", &error))
}

pub(super) fn failed(operation: &str, error: &dyn std::fmt::Display) -> CloudError {
    CloudError::new(CloudErrorKind::Unavailable, operation, error.to_string())
}

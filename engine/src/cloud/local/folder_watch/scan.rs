//! Scans: a thread walks the folder and watches each folder it enters. Of the files that it finds, those that the ledger
//! doesn't know as they are get passed on, no faster than they are looked at. What it knows is dropped page by page: most
//! files of a folder have landed long ago, and none that lands now may wait for a look at each of them.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use tokio::{sync::mpsc, task::spawn_blocking, time::Instant};

use super::{
    Watched, events,
    eyes::Eyes,
    ledger::Landed,
    look::failed,
    names::{can_hold, is_ignored},
};
use crate::cloud::{
    Result,
    local::bucket::{Stamp, Walk},
};

/// Files that a scan may be ahead of the looks.
const AHEAD: usize = 256;
/// Files that are compared with the ledger at once.
const PAGE: usize = 500;

/// Files as a walk finds them.
type Page = Vec<(Arc<str>, Stamp)>;

/// A scan that is under way.
#[derive(Debug)]
pub(super) struct Scan {
    /// The keys it finds; ends with the scan.
    pub(super) found: mpsc::Receiver<Arc<str>>,
    /// When it began.
    pub(super) began: Instant,
    /// Whether it is one of those that take the place of events: it says nothing about settling.
    pub(super) is_poll: bool,
    failed: Arc<AtomicBool>,
}

impl Scan {
    /// Starts a scan of the folder with this key (empty for the root). A scan of the root also clears the ledger of keys
    /// whose files are gone.
    pub(super) fn start(watched: Arc<Watched>, eyes: Arc<Eyes>, folder: String, is_poll: bool) -> Self {
        let (send, found) = mpsc::channel(AHEAD);
        let failed = Arc::new(AtomicBool::new(false));
        let failing = failed.clone();
        tokio::spawn(async move {
            let root = watched.bucket.root().to_owned();
            match watched.scan(eyes, folder, &send).await {
                Ok(complete) => failing.store(!complete, Ordering::Release),
                Err(error) => {
                    failing.store(true, Ordering::Release);
                    events::failed(watched.bucket.name(), "scan", &root, &error, watched.pace.poll);
                }
            }
            // Only now is the scan over for who reads it.
            drop(send);
        });
        Self { found, began: Instant::now(), is_poll, failed }
    }

    /// Whether something of the folder couldn't be read. Known once nothing more is found.
    pub(super) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }
}

impl Watched {
    /// Passes on what a folder holds and the ledger doesn't know. Whether all of it could be read.
    async fn scan(self: &Arc<Self>, eyes: Arc<Eyes>, folder: String, unknown: &mpsc::Sender<Arc<str>>) -> Result<bool> {
        let is_whole = folder.is_empty();
        let (pages, mut found) = mpsc::channel(1);
        let walked = Arc::clone(self);
        let walk = spawn_blocking(move || walked.walk(&eyes, &folder, &pages));
        while let Some(page) = found.recv().await {
            for key in self.unknown(page).await? {
                if unknown.send(key).await.is_err() {
                    return Ok(false);
                }
            }
        }
        let complete = walk.await.map_err(|error| failed("scan", &error))?;
        if is_whole && self.bucket.root().is_dir() {
            self.forget_gone("").await?;
        }
        Ok(complete)
    }

    /// Those of a page that aren't as the ledger knows them.
    pub(super) async fn unknown(&self, page: Page) -> Result<Vec<Arc<str>>> {
        let (keys, stamps): (Vec<_>, Vec<_>) = page.into_iter().unzip();
        let known = self.ledger.get_many(&keys).await?;
        let is_known = |((key, stamp), landed): &((Arc<str>, Stamp), Option<Landed>)| match landed {
            Some(landed) if landed.stamp == *stamp => {
                self.bucket.etags().put(key, stamp, &landed.etag);
                true
            }
            _ => false,
        };
        let files = keys.into_iter().zip(stamps).zip(known);
        Ok(files.filter(|file| !is_known(file)).map(|((key, _), _)| key).collect())
    }

    /// Whether all of it could be read.
    fn walk(&self, eyes: &Eyes, folder: &str, pages: &mpsc::Sender<Page>) -> bool {
        let name = self.bucket.name();
        let root = self.bucket.root();
        let again = |error: &object_store::Error| {
            events::failed(name, "scan", &root.join(folder), error, self.pace.poll);
        };
        // Watched before it is listed: what comes in between is seen twice, not never.
        let enter = |path: &std::path::Path, key: &str| {
            let enter = can_hold(key, &self.prefix);
            if enter {
                eyes.watch(path);
            }
            enter
        };
        let walk = match Walk::new(root, &root.join(folder), enter) {
            Ok(walk) => walk,
            Err(error) => {
                again(&error);
                return false;
            }
        };
        let mut complete = true;
        let mut page = Page::new();
        for file in walk {
            match file {
                Ok(file) if !file.key.starts_with(&self.prefix) || is_ignored(&file.key) => {}
                Ok(file) => {
                    page.push((file.key.into(), Stamp::of(&file.metadata)));
                    if page.len() == PAGE && pages.blocking_send(std::mem::take(&mut page)).is_err() {
                        return false;
                    }
                }
                Err(error) => {
                    complete = false;
                    again(&error);
                }
            }
        }
        (page.is_empty() || pages.blocking_send(page).is_ok()) && complete
    }
}

//! Scans: a thread walks the folder, watches each folder it enters, and passes on the files it finds, no faster than they
//! are looked at.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use tokio::{sync::mpsc, time::Instant};

use super::{
    Watched, events,
    eyes::Eyes,
    look::blocking,
    names::{can_hold, is_ignored},
};
use crate::cloud::local::bucket::Walk;

/// Files that a scan may be ahead of the looks.
const AHEAD: usize = 256;

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
            let is_whole = folder.is_empty();
            let (walked, keys) = (watched.clone(), send.clone());
            let root = watched.bucket.root().to_owned();
            let walk = blocking(move || walked.walk(&eyes, &folder, &keys)).await;
            let cleared = match walk {
                Ok(complete) => {
                    failing.store(!complete, Ordering::Release);
                    if is_whole && root.is_dir() { watched.forget_gone("").await } else { Ok(()) }
                }
                Err(error) => Err(error),
            };
            if let Err(error) = cleared {
                failing.store(true, Ordering::Release);
                events::failed(watched.bucket.name(), "scan", &root, &error, watched.pace.poll);
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
    /// Whether all of it could be read.
    fn walk(&self, eyes: &Eyes, folder: &str, found: &mpsc::Sender<Arc<str>>) -> bool {
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
        for file in walk {
            match file {
                Ok(file) if !file.key.starts_with(&self.prefix) || is_ignored(&file.key) => {}
                Ok(file) => {
                    if found.blocking_send(file.key.into()).is_err() {
                        return false;
                    }
                }
                Err(error) => {
                    complete = false;
                    again(&error);
                }
            }
        }
        complete
    }
}

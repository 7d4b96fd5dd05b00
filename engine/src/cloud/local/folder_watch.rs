//! Watching a bucket's folder: each object that appears whole is announced to a queue, as S3 announces it.
//!
//! A file is whole when it was closed after writing or renamed in. Where the system doesn't tell that (files found by a
//! scan, file systems and platforms without such events), it is whole when size and time have stood still for 2 s. A scan
//! at start finds what came while nobody watched, and one more whenever events were lost.
//!
//! A ledger says what has landed, so that the same content under the same key lands once, across restarts too; changed
//! content lands again as a new version, with a newer sequencer. The notification is sent first and recorded after: a
//! crash between the two sends it twice, which every reader of such a queue expects. An entry leaves the ledger only when
//! its file is gone.
//!
//! The watch never ends by itself: what fails is logged with its path, counted, and tried again.
//!
//! ```text
//!   events ─┐                                        ┌─ known, unchanged ─► nothing
//!           ├─► pending (by due time) ─► look (stat, ├─ not still yet ────► pending
//!   scan ───┘        few at once          ledger,    ├─ a folder ─────────► scan it
//!                                         hash)      └─ new content ──────► queue, then ledger
//! ```

mod events;
mod eyes;
mod ledger;
mod look;
mod names;
mod notification;
mod pending;
mod run;
mod scan;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use tokio::{sync::watch, task::JoinHandle};
use tokio_util::sync::CancellationToken;

pub use self::ledger::{Landed, Ledger, MemoryLedger, SqliteLedger};
pub(super) use self::names::is_ignored;
use self::{eyes::Eyes, notification::Sequencer, run::Run};
use super::bucket::{FolderBucket, TICK};
use crate::{cloud::Queue, time::Clock};

/// A watch on the folder of a bucket.
pub struct Watch;

impl Watch {
    /// Starts a watch: objects of `bucket` whose keys begin with `prefix` are announced to `queue`. It ends when
    /// `cancellation` does, or by [`WatchHandle::stop`].
    pub fn start(
        bucket: FolderBucket,
        prefix: &str,
        queue: Arc<dyn Queue>,
        ledger: Arc<dyn Ledger>,
        clock: Clock,
        cancellation: &CancellationToken,
    ) -> WatchHandle {
        let watched = Watched { bucket, prefix: prefix.to_owned(), queue, ledger, clock, pace: Pace::default() };
        watched.start(true, cancellation)
    }
}

/// A running watch.
#[derive(Debug)]
pub struct WatchHandle {
    settled: watch::Receiver<bool>,
    cancellation: CancellationToken,
    task: JoinHandle<()>,
}

impl WatchHandle {
    /// Whether all that was seen has been announced: the scan at start is over and nothing is pending. Files that can't
    /// be read don't count once they were tried three times; they are tried on.
    pub fn is_settled(&self) -> bool {
        *self.settled.borrow()
    }

    /// Waits until [`is_settled`](Self::is_settled), or until the watch has ended.
    pub async fn settled(&self) {
        let mut settled = self.settled.clone();
        if settled.wait_for(|settled| *settled).await.is_err() {
            tracing::debug!("The watch ended before it was settled.");
        }
    }

    /// Stops it: what is being announced is finished, what is pending is found by the next start.
    pub async fn stop(self) {
        self.cancellation.cancel();
        if let Err(error) = self.task.await {
            tracing::error!(%error, "The folder watch didn't stop properly.");
        }
    }
}

/// What is watched, and with what.
#[derive(Clone)]
struct Watched {
    bucket: FolderBucket,
    prefix: String,
    queue: Arc<dyn Queue>,
    ledger: Arc<dyn Ledger>,
    clock: Clock,
    pace: Pace,
}

/// How long things take.
#[derive(Debug, Clone, Copy)]
struct Pace {
    /// After an event: lets events about one file fall together, and its stamp grow older than the kernel's tick.
    event: Duration,
    /// So long must a file stand still that nobody says is whole.
    still: Duration,
    /// From one scan to the next where there are no events; longer if a scan takes long.
    poll: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self { event: TICK + TICK / 2, still: Duration::from_secs(2), poll: Duration::from_secs(2) }
    }
}

impl Watched {
    fn start(self, with_events: bool, cancellation: &CancellationToken) -> WatchHandle {
        let cancellation = cancellation.child_token();
        let (settle, settled) = watch::channel(false);
        let (eyes, signs) = Eyes::open(self.bucket.root(), with_events);
        let run = Run::new(Arc::new(self), eyes, signs, Sequencer::default(), settle);
        let task = tokio::spawn(run.until(cancellation.clone()));
        WatchHandle { settled, cancellation, task }
    }
}

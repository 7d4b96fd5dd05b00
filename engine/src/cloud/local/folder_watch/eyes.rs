//! The system's file events, as signs that a key is worth a look.
//!
//! Folders are watched one by one, each before it is listed: a recursive watch would miss what is put into a new folder
//! before the watch on it exists.

use std::{
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use notify::{
    Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher,
    event::{AccessKind, AccessMode, CreateKind, ModifyKind, RenameMode},
};
use tokio::sync::{Notify, mpsc};

use super::events;

/// Whether the system tells when a file was closed after writing.
pub(super) const CLOSES_ARE_TOLD: bool = cfg!(any(target_os = "linux", target_os = "android"));

/// Signs that may wait; beyond, they are dropped and the folder is scanned instead.
const WAITING: usize = 16 * 1024;

/// A key that is worth a look, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Sign {
    /// A file was closed after writing, a file or folder was renamed in, a folder was made, or something is gone: what
    /// is there now counts.
    Settled(String),
    /// A file was made; somebody may be writing it.
    Made(String),
    /// A file was changed; somebody may be writing it.
    Changed(String),
}

/// What sees the events.
pub(super) struct Eyes {
    watcher: Option<Mutex<RecommendedWatcher>>,
    lost: Arc<Notify>,
    blind: AtomicBool,
}

impl Eyes {
    /// Opens them; they see nothing before a folder is watched. Without events, or where that fails, they are blind.
    pub(super) fn open(root: &Path, with_events: bool) -> (Arc<Self>, mpsc::Receiver<Sign>) {
        let (signs, waiting) = mpsc::channel(WAITING);
        let lost = Arc::new(Notify::new());
        let (base, overflow) = (root.to_owned(), lost.clone());
        let on_event = move |event: notify::Result<Event>| {
            let told = match event {
                Ok(event) => signs_of(&event, &base),
                Err(error) => {
                    tracing::debug!(%error, "The system's file events report an error.");
                    None
                }
            };
            let sent = told.is_some_and(|told| told.into_iter().all(|sign| signs.try_send(sign).is_ok()));
            if !sent {
                overflow.notify_one();
            }
        };
        let watcher = with_events.then(|| notify::recommended_watcher(on_event)).and_then(|opened| match opened {
            Ok(watcher) => Some(Mutex::new(watcher)),
            Err(error) => {
                events::polling(root, &error);
                None
            }
        });
        let blind = AtomicBool::new(watcher.is_none());
        (Arc::new(Self { watcher, lost, blind }), waiting)
    }

    /// Watches one folder, not those below it.
    pub(super) fn watch(&self, folder: &Path) {
        let Some(watcher) = &self.watcher else { return };
        let watched = watcher.lock().unwrap_or_else(PoisonError::into_inner).watch(folder, RecursiveMode::NonRecursive);
        if let Err(error) = watched
            && folder.exists()
            && !self.blind.swap(true, Ordering::AcqRel)
        {
            events::polling(folder, &error);
        }
    }

    /// Whether something may go unseen: the folder must be scanned again and again.
    pub(super) fn are_blind(&self) -> bool {
        self.blind.load(Ordering::Acquire)
    }

    /// Waits until events were lost; tells each loss once, those before the call too.
    pub(super) async fn lost(&self) {
        self.lost.notified().await;
    }
}

/// The signs in an event; none if it says that events were lost.
fn signs_of(event: &Event, root: &Path) -> Option<Vec<Sign>> {
    if event.need_rescan() {
        return None;
    }
    let sign: fn(String) -> Sign = match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write))
        | EventKind::Modify(ModifyKind::Name(RenameMode::To | RenameMode::From | RenameMode::Both))
        | EventKind::Create(CreateKind::Folder)
        | EventKind::Remove(_) => Sign::Settled,
        EventKind::Create(_) if CLOSES_ARE_TOLD => Sign::Made,
        EventKind::Create(_) | EventKind::Modify(ModifyKind::Name(_)) => Sign::Changed,
        EventKind::Modify(_) | EventKind::Any if !CLOSES_ARE_TOLD => Sign::Changed,
        _ => return Some(Vec::new()),
    };
    let keys = event.paths.iter().filter_map(|path| path.strip_prefix(root).ok()?.to_str());
    Some(keys.filter(|key| !key.is_empty()).map(|key| sign(key.to_owned())).collect())
}

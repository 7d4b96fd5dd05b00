//! Who owns a local cloud's folder: one process at a time, by a lock that the system gives back when it dies.

use std::{
    fs::{File, OpenOptions, TryLockError},
    path::Path,
};

use serde::{Deserialize, Serialize};

use crate::{
    cloud::{CloudError, ErrorKind, Result},
    time::{Clock, format_time},
};

/// The process that owns a local cloud's folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// Its process id.
    pub pid: u32,
    /// When it took the folder.
    pub started_at: String,
}

/// The lock on a folder, held until it is dropped.
#[derive(Debug)]
pub(super) struct Lock {
    file: File,
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing the file isn't enough: a child that another thread has just forked has it open too, until it runs its
        // own program. If it can't be given back, the end of the process does it.
        if let Err(error) = self.file.unlock() {
            tracing::warn!(%error, "The lock of a local cloud's folder couldn't be given back.");
        }
    }
}

impl Lock {
    /// Takes the lock on `dir`, or tells who has it.
    pub fn take(dir: &Path, clock: &Clock) -> Result<Self> {
        let operation = format!("lock of {}", dir.display());
        let failed = |error: std::io::Error| {
            CloudError::new(ErrorKind::Unavailable, &*operation, error.to_string()).with_source(error)
        };
        let path = dir.join("owner.lock");
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::Error(error)) => return Err(failed(error)),
            Err(TryLockError::WouldBlock) => {
                let by = match read_owner(dir) {
                    Some(Owner { pid, started_at }) => format!("process {pid} (since {started_at})"),
                    None => "another process".to_owned(),
                };
                let message = format!("{by} owns this folder: stop it first, or use another folder");
                return Err(CloudError::new(ErrorKind::Denied, operation, message));
            }
        }
        let owner = Owner { pid: std::process::id(), started_at: format_time(clock.now()) };
        let text = serde_json::to_vec(&owner).map_err(|error| failed(error.into()))?;
        std::fs::write(dir.join("owner.json"), text).map_err(failed)?;
        Ok(Self { file })
    }
}

/// The process that took `dir` last, if it can be told. It may be gone since.
pub fn read_owner(dir: &Path) -> Option<Owner> {
    let text = std::fs::read(dir.join("owner.json")).ok()?;
    serde_json::from_slice(&text).ok()
}

/// The process that owns `dir` now. Asking takes the lock for a moment: not for a folder that somebody may be about to own.
pub fn owner_now(dir: &Path) -> Option<Owner> {
    let file = OpenOptions::new().write(true).open(dir.join("owner.lock")).ok()?;
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => read_owner(dir),
        Ok(()) | Err(TryLockError::Error(_)) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_that_is_dropped_is_free_although_a_forked_child_still_has_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let lock = Lock::take(dir.path(), &Clock::system()).unwrap();
        // What a child has between its fork and its own program: the same open file.
        let childs = lock.file.try_clone().unwrap();
        assert!(Lock::take(dir.path(), &Clock::system()).is_err());
        drop(lock);
        Lock::take(dir.path(), &Clock::system()).unwrap();
        drop(childs);
    }
}

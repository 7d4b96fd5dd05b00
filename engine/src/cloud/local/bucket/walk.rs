//! Walking a bucket's folder: one file at a time, in no order, in memory that grows with depth only.

use std::{
    fs::{self, ReadDir},
    io::ErrorKind,
    path::{Path, PathBuf},
};

use object_store::{Error, Result};

use super::{
    events::NameSkipped,
    failure::{AtPath, failed},
    folder::HIDDEN,
};

/// A file that was found.
#[derive(Debug)]
pub(in crate::cloud::local) struct Found {
    /// Its key.
    pub(in crate::cloud::local) key: String,
    /// What the file system says of it.
    pub(in crate::cloud::local) metadata: fs::Metadata,
}

/// Walks the files below a folder. What can't be an object is left out: links, pipes, names that aren't plain UTF-8.
pub(in crate::cloud::local) struct Walk<F> {
    root: PathBuf,
    /// The folders that are open, one in the other.
    open: Vec<(PathBuf, ReadDir)>,
    enter: F,
}

impl<F: FnMut(&Path, &str) -> bool> Walk<F> {
    /// A walk below `start`, a folder at or below the canonical `root`. Each folder is shown to `enter`, with its key,
    /// before it is opened, and only entered if that says so.
    pub(in crate::cloud::local) fn new(root: &Path, start: &Path, enter: F) -> Result<Self> {
        let mut walk = Self { root: root.to_owned(), open: Vec::new(), enter };
        walk.open_folder(start.to_owned())?;
        Ok(walk)
    }

    fn open_folder(&mut self, path: PathBuf) -> Result<()> {
        let key = match self.key(&path) {
            Some(key) if key != HIDDEN && (self.enter)(&path, &key) => key,
            _ => return Ok(()),
        };
        match fs::read_dir(&path) {
            Ok(entries) => self.open.push((path, entries)),
            // Removed since it was seen.
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                tracing::debug!(key, "A folder is gone.");
            }
            Err(error) => return Err(failed("listing", &path, error)),
        }
        Ok(())
    }

    /// The key of a path below the root; the root's own is empty.
    fn key(&self, path: &Path) -> Option<String> {
        let key = path.strip_prefix(&self.root).ok().and_then(Path::to_str);
        let key = key.filter(|key| !key.chars().any(char::is_control));
        if key.is_none() {
            NameSkipped { path }.emit();
        }
        key.map(str::to_owned)
    }

    fn look(&mut self, entry: &fs::DirEntry) -> Result<Option<Found>> {
        let path = entry.path();
        let kind = entry.file_type().at("look", &path)?;
        if kind.is_dir() {
            self.open_folder(path)?;
            return Ok(None);
        }
        if !kind.is_file() {
            tracing::debug!(path = %path.display(), "Not a plain file: no object.");
            return Ok(None);
        }
        let Some(key) = self.key(&path) else { return Ok(None) };
        let metadata = entry.metadata().at("look", &path)?;
        Ok(Some(Found { key, metadata }))
    }
}

impl<F: FnMut(&Path, &str) -> bool> Iterator for Walk<F> {
    type Item = Result<Found>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let (path, entries) = self.open.last_mut()?;
            let Some(entry) = entries.next() else {
                self.open.pop();
                continue;
            };
            let found = match entry.at("listing", path) {
                Ok(entry) => self.look(&entry),
                Err(error) => {
                    // The rest of this folder can't be read; what is beside it can.
                    self.open.pop();
                    Err(error)
                }
            };
            match found {
                Ok(None) | Err(Error::NotFound { .. }) => {}
                Ok(Some(found)) => return Some(Ok(found)),
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

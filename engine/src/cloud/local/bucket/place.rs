//! Putting whole files in place: durable, atomic, and with their metadata.

use std::{
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
};

use object_store::{Error, Result};

use super::{
    FolderBucket,
    etag::{self, PLACING, Stamp, etag_of},
    failure::{AtPath, failed, precondition},
    folder::{Folder, create_folders, sync_folder},
    sidecar::{Described, Sidecar, discard},
};
use crate::cloud::stage::{Metadata, ObjectHead};

/// What may stand under the key before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Before {
    /// Anything.
    Any,
    /// Nothing.
    Nothing,
    /// An object with this etag.
    Etag(String),
}

impl Folder {
    /// A path for a temporary file, used by nobody else.
    pub(super) fn new_temporary(&self) -> PathBuf {
        self.staging().join(new_id())
    }
}

/// An id that no other upload or temporary file has.
pub(super) fn new_id() -> String {
    format!("{:032x}", rand::random::<u128>())
}

impl FolderBucket {
    /// Puts a file in place that was written and synced below the hidden folder. On failure it stays where it is.
    pub(super) fn place(
        &self,
        staged: &Path,
        key: &str,
        etag: &str,
        metadata: &Metadata,
        before: &Before,
    ) -> Result<()> {
        let path = self.folder().path(key)?;
        let placing = PLACING.lock(&path);
        let placed = self.place_locked(staged, key, etag, metadata, before);
        drop(placing);
        placed
    }

    /// The same, by a caller that holds the lock of the key's path.
    pub(super) fn place_locked(
        &self,
        staged: &Path,
        key: &str,
        etag: &str,
        metadata: &Metadata,
        before: &Before,
    ) -> Result<()> {
        let folder = self.folder();
        let path = folder.path(key)?;
        let present = match fs::symlink_metadata(&path) {
            Ok(found) if found.is_dir() => return Err(failed("write", &path, ErrorKind::IsADirectory.into())),
            Ok(found) => Some(Stamp::of(&found)),
            Err(_) => None,
        };
        match before {
            Before::Any => {}
            Before::Nothing if present.is_none() => {}
            Before::Nothing => return Err(failed("creation", &path, ErrorKind::AlreadyExists.into())),
            Before::Etag(expected) => match self.find(key)? {
                Some(found) if found.etag == *expected => {}
                Some(found) => return Err(precondition(key, format!("its etag is {}, not {expected}", found.etag))),
                None => return Err(precondition(key, format!("it is gone; expected etag {expected}"))),
            },
        }
        let stamp = Stamp::of(&fs::metadata(staged).at("look", staged)?);
        if !metadata.is_empty() || folder.sidecar(key).exists() {
            let described = Described { stamp, etag: etag.to_owned(), metadata: metadata.clone() };
            Sidecar::announce(folder, key, described, present.as_ref())?;
        }
        let parent = path.parent().unwrap_or(&folder.root);
        create_folders(parent)?;
        if *before == Before::Nothing {
            // A link, not a rename: it fails if somebody else was faster.
            fs::hard_link(staged, &path).at("creation", &path)?;
            discard(staged);
            // A folder watch sees a link as a creation only; closing the file after writing tells it that it is whole.
            drop(fs::File::options().append(true).open(&path).at("opening", &path)?);
        } else {
            fs::rename(staged, &path).at("renaming", &path)?;
        }
        sync_folder(parent)?;
        self.etags().put(key, &stamp, etag);
        Ok(())
    }

    /// What stands under `key`, if anything.
    pub(super) fn find(&self, key: &str) -> Result<Option<ObjectHead>> {
        let (file, _, path) = match self.folder().open_object(key) {
            Err(Error::NotFound { .. }) => return Ok(None),
            opened => opened?,
        };
        let sidecar = Sidecar::load(self.folder(), key)?;
        let found = file.metadata().at("look", &path)?;
        let by_stamp = sidecar.as_ref().and_then(|sidecar| sidecar.by_stamp(&Stamp::of(&found)));
        let (size_bytes, etag, metadata) = match by_stamp {
            Some(described) => (described.stamp.size_bytes, described.etag.clone(), described.metadata.clone()),
            None => {
                let (stamp, etag) = etag_of(self.etags(), key, &file, &path)?;
                let described = sidecar.as_ref().and_then(|sidecar| sidecar.by_etag(&etag));
                let metadata = described.map(|described| described.metadata.clone()).unwrap_or_default();
                (stamp.size_bytes, etag, metadata)
            }
        };
        let last_modified = found.modified().at("look", &path)?.into();
        Ok(Some(ObjectHead { size_bytes, etag, version: None, last_modified, metadata }))
    }

    /// Copies an object of `source` to `key`, if its etag is (still) this one.
    pub(super) fn copy_object(
        &self,
        source: &Folder,
        source_key: &str,
        expected: Option<&str>,
        key: &str,
        metadata: &Metadata,
        before: &Before,
    ) -> Result<()> {
        let (mut file, _, source_path) = source.open_object(source_key)?;
        let staged = self.folder().new_temporary();
        let copied = (|| {
            let mut copy = fs::File::options().read(true).write(true).create_new(true).open(&staged)?;
            std::io::copy(&mut file, &mut copy)?;
            copy.sync_all()?;
            // The copy's own content, not the source's: that may change while it is read.
            etag::hash(&copy, u64::MAX)
        })();
        let placed = copied.map_err(|error| failed("copy", &source_path, error)).and_then(|etag| match expected {
            Some(expected) if expected != etag => {
                Err(precondition(source_key, format!("its etag is {etag}, not {expected}")))
            }
            _ => self.place(&staged, key, &etag, metadata, before),
        });
        if placed.is_err() {
            discard(&staged);
        }
        placed
    }

    /// Removes an object and its metadata; one that is gone is no error, as on S3.
    pub(super) fn remove(&self, key: &str) -> Result<()> {
        let path = self.folder().path(key)?;
        let placing = PLACING.lock(&path);
        match fs::symlink_metadata(&path) {
            Ok(found) if found.is_file() => fs::remove_file(&path).at("removal", &path)?,
            _ => return Ok(()),
        }
        sync_folder(path.parent().unwrap_or(&self.folder().root))?;
        Sidecar::remove(self.folder(), key)?;
        drop(placing);
        Ok(())
    }
}

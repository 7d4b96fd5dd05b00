//! Metadata of objects: a small JSON file per key, hidden beside them.
//!
//! A sidecar is written before its object is put in place, so it must say which content it is about: it holds what is to
//! come and what still is, each under the stamp and the etag of its file. Whoever reads picks the one that fits the file
//! that is there. A file that a person puts over an object fits neither, and has no metadata.

use std::{
    fs,
    io::{ErrorKind, Write},
    path::Path,
};

use object_store::{Error, Result};
use serde::{Deserialize, Serialize};

use super::{
    etag::Stamp,
    failure::{AtPath, STORE, failed},
    folder::{Folder, create_folders, sync_folder},
};
use crate::cloud::stage::Metadata;

/// A key's sidecar.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Sidecar {
    /// The key, for people: the file's name is a hash.
    key: String,
    /// The newest first; at most two.
    versions: Vec<Described>,
}

/// The metadata of one content.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Described {
    /// The stamp of its file.
    pub(super) stamp: Stamp,
    /// Its etag.
    pub(super) etag: String,
    /// Its metadata.
    pub(super) metadata: Metadata,
}

impl Sidecar {
    /// The sidecar of a key, if it has one.
    pub(super) fn load(folder: &Folder, key: &str) -> Result<Option<Self>> {
        let path = folder.sidecar(key);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed("read", &path, error)),
        };
        let sidecar: Self = from_json(&text, &path)?;
        Ok((sidecar.key == key).then_some(sidecar))
    }

    /// Announces `next`, beside what is there now.
    pub(super) fn announce(folder: &Folder, key: &str, next: Described, present: Option<&Stamp>) -> Result<()> {
        let before = Self::load(folder, key)?.map(|sidecar| sidecar.versions).unwrap_or_default();
        let kept = before.iter().find(|version| Some(&version.stamp) == present).or(before.first());
        let versions = std::iter::once(next).chain(kept.cloned()).collect();
        let path = folder.sidecar(key);
        write_json(folder, &path, &Self { key: key.to_owned(), versions })
    }

    /// What it says of the file with this stamp.
    pub(super) fn by_stamp(&self, stamp: &Stamp) -> Option<&Described> {
        self.versions.iter().find(|version| version.stamp == *stamp)
    }

    /// What it says of the content with this etag.
    pub(super) fn by_etag(&self, etag: &str) -> Option<&Described> {
        self.versions.iter().find(|version| version.etag == etag)
    }

    /// Forgets a key's metadata.
    pub(super) fn remove(folder: &Folder, key: &str) -> Result<()> {
        let path = folder.sidecar(key);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(failed("removal", &path, error)),
            _ => Ok(()),
        }
    }
}

/// Reads a JSON file of ours.
pub(super) fn from_json<T: for<'a> Deserialize<'a>>(text: &[u8], path: &Path) -> Result<T> {
    serde_json::from_slice(text).map_err(|error| Error::Generic {
        store: STORE,
        source: format!("{} is damaged: {error}: remove it, and only what it describes is lost", path.display()).into(),
    })
}

/// Writes a JSON file of ours, whole or not at all, and durably.
pub(super) fn write_json(folder: &Folder, path: &Path, value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_vec(value).map_err(|error| Error::Generic { store: STORE, source: error.into() })?;
    let staged = folder.new_temporary();
    write_synced(&staged, [&text[..]])?;
    if let Some(parent) = path.parent() {
        create_folders(parent)?;
        fs::rename(&staged, path).at("renaming", path)?;
        sync_folder(parent)?;
    }
    Ok(())
}

/// Writes a new file and syncs it. On failure nothing is left.
pub(super) fn write_synced<'a>(path: &Path, pieces: impl IntoIterator<Item = &'a [u8]>) -> Result<()> {
    let written = fs::File::create_new(path).and_then(|mut file| {
        pieces.into_iter().try_for_each(|piece| file.write_all(piece))?;
        file.sync_all()
    });
    written.map_err(|error| {
        discard(path);
        failed("write", path, error)
    })
}

/// Removes a temporary file after a failure, which is the error to report.
pub(super) fn discard(path: &Path) {
    if let Err(error) = fs::remove_file(path)
        && error.kind() != ErrorKind::NotFound
    {
        tracing::debug!(path = %path.display(), %error, "A temporary file stays until it is stale.");
    }
}

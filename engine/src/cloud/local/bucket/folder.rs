//! Where things lie in a bucket's folder, and which keys may become paths.
//!
//! `{root}/a/b.json` is the object `a/b.json`. Everything that isn't an object lies below `{root}/.penstock/`: staged
//! outputs and temporary files in `staging/`, metadata in `metadata/`. No key leads in there, and none leads out of the
//! root: not by `..`, and not by a symbolic link.

use std::{
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use object_store::Result;
use twox_hash::XxHash3_128;

use super::failure::{AtPath, failed, missing, refused};
use crate::cloud::limits::OBJECT_KEY_BYTES;

/// The hidden folder below the root.
pub(super) const HIDDEN: &str = ".penstock";

/// What was staged longer ago than this is given up at open, as by a lifecycle rule on S3.
const STALE: Duration = Duration::from_secs(7 * 24 * 3600);

/// Bytes of one name between slashes, on all usual file systems.
const NAME_BYTES: usize = 255;

/// A bucket's folder.
#[derive(Debug)]
pub(super) struct Folder {
    /// Its canonical path.
    pub(super) root: PathBuf,
    /// The bucket's name.
    pub(super) bucket: String,
}

impl Folder {
    /// Opens the folder and makes it if need be.
    pub(super) fn open(root: &Path, bucket: &str) -> Result<Self> {
        fs::create_dir_all(root).at("creation", root)?;
        let root = root.canonicalize().at("opening", root)?;
        let folder = Self { root, bucket: bucket.to_owned() };
        for hidden in [folder.staging(), folder.metadata()] {
            create_folders(&hidden)?;
        }
        Ok(folder)
    }

    /// Where outputs are staged and temporary files written.
    pub(super) fn staging(&self) -> PathBuf {
        self.root.join(HIDDEN).join("staging")
    }

    fn metadata(&self) -> PathBuf {
        self.root.join(HIDDEN).join("metadata")
    }

    /// Where the metadata of the object under `key` lies: by a hash, for a key may be longer than any file name.
    pub(super) fn sidecar(&self, key: &str) -> PathBuf {
        let hash = format!("{:032x}", XxHash3_128::oneshot(key.as_bytes()));
        self.metadata().join(&hash[..2]).join(format!("{hash}.json"))
    }

    /// The path of a key, whether or not a file is there.
    pub(super) fn path(&self, key: &str) -> Result<PathBuf> {
        check_key(key)?;
        let mut path = self.root.clone();
        for name in key.split('/') {
            path.push(name);
            match fs::symlink_metadata(&path) {
                Ok(found) if found.file_type().is_symlink() => {
                    return Err(refused(format!(
                        "{} is a symbolic link, and a bucket ends at its folder: put the file itself there",
                        path.display()
                    )));
                }
                Ok(_) => {}
                // Nothing below it exists either.
                Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => break,
                Err(error) => return Err(failed("look", &path, error)),
            }
        }
        Ok(self.root.join(key))
    }

    /// Checks that an object could be put under a key: no folder stands there, and no file where a folder is needed.
    pub(super) fn check_place(&self, key: &str) -> Result<()> {
        let path = self.path(key)?;
        if path.is_dir() {
            return Err(failed("write", &path, ErrorKind::IsADirectory.into()));
        }
        let below_root = path.ancestors().skip(1).take_while(|folder| *folder != self.root);
        match below_root.into_iter().find(|folder| folder.exists() && !folder.is_dir()) {
            Some(file) => Err(failed("creation", file, ErrorKind::NotADirectory.into())),
            None => Ok(()),
        }
    }

    /// The file of a key, opened for reading.
    pub(super) fn open_object(&self, key: &str) -> Result<(fs::File, fs::Metadata, PathBuf)> {
        let path = self.path(key)?;
        // Looked at before it is opened: opening a named pipe would wait for its writer.
        let is_file = match fs::symlink_metadata(&path) {
            Ok(found) => found.is_file(),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => false,
            Err(error) => return Err(failed("look", &path, error)),
        };
        if !is_file {
            return Err(missing(key, &path));
        }
        let file = fs::File::open(&path).at("opening", &path)?;
        let metadata = file.metadata().at("look", &path)?;
        Ok((file, metadata, path))
    }

    /// The folder of another bucket of the same cloud: a sibling of this one.
    pub(super) fn sibling(&self, bucket: &str) -> Result<Self> {
        if bucket == self.bucket {
            return Ok(Self { root: self.root.clone(), bucket: self.bucket.clone() });
        }
        if bucket.is_empty() || bucket.starts_with('.') || bucket.contains(['/', '\\', '\0']) {
            return Err(refused(format!("`{bucket}` is no bucket's name")));
        }
        let parent = self.root.parent().ok_or_else(|| refused(format!("{} has no siblings", self.root.display())))?;
        let root = parent.join(bucket);
        Ok(Self { root: root.canonicalize().at("opening", &root)?, bucket: bucket.to_owned() })
    }

    /// Removes what was staged too long ago; returns how many there were.
    pub(super) fn remove_stale(&self, now: SystemTime) -> Result<usize> {
        let staging = self.staging();
        let mut removed = 0;
        for entry in fs::read_dir(&staging).at("listing", &staging)? {
            let entry = entry.at("listing", &staging)?;
            let path = entry.path();
            let staged_at = entry.metadata().and_then(|metadata| metadata.modified()).at("look", &path)?;
            if now.duration_since(staged_at).is_ok_and(|age| age > STALE) {
                if path.is_dir() {
                    fs::remove_dir_all(&path).at("removal", &path)?;
                } else {
                    fs::remove_file(&path).at("removal", &path)?;
                }
                removed += 1;
            }
        }
        Ok(removed)
    }
}

/// Whether a key can name a file here.
fn check_key(key: &str) -> Result<()> {
    let wrong = |why: &str| Err(refused(format!("the key `{key}` can't name a file: {why}")));
    if key.is_empty() || key.len() > OBJECT_KEY_BYTES {
        return wrong(&format!("it must have 1 to {OBJECT_KEY_BYTES} bytes"));
    }
    if key.chars().any(char::is_control) {
        return wrong("it holds a control character");
    }
    for name in key.split('/') {
        match name {
            "" => return wrong("it begins or ends with a slash, or has two in a row"),
            "." | ".." => return wrong("`.` and `..` would lead elsewhere"),
            name if name.len() > NAME_BYTES => {
                return wrong(&format!("a name between slashes is longer than {NAME_BYTES} bytes"));
            }
            _ => {}
        }
    }
    if key.split('/').next() == Some(HIDDEN) {
        return wrong(&format!("`{HIDDEN}` is reserved"));
    }
    Ok(())
}

/// Makes a folder and those above it, each durable in the one above.
pub(super) fn create_folders(path: &Path) -> Result<()> {
    let missing: Vec<&Path> = path.ancestors().take_while(|folder| !folder.is_dir()).collect();
    for folder in missing.into_iter().rev() {
        match fs::create_dir(folder) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::AlreadyExists && folder.is_dir() => continue,
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                return Err(failed("creation", folder, ErrorKind::NotADirectory.into()));
            }
            Err(error) => return Err(failed("creation", folder, error)),
        }
        if let Some(parent) = folder.parent() {
            sync_folder(parent)?;
        }
    }
    Ok(())
}

/// Makes the names in a folder durable. Only Unix lets a folder be synced, and only there is it needed.
pub(super) fn sync_folder(path: &Path) -> Result<()> {
    if cfg!(unix) {
        fs::File::open(path).and_then(|folder| folder.sync_all()).at("sync", path)?;
    }
    Ok(())
}

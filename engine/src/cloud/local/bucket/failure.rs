//! What went wrong with a file, as the store's error: with the path, and with what to do where that is known.

use std::{
    io,
    path::{Path, PathBuf},
};

use object_store::{Error, Result};

/// The name under which the store reports errors of its own.
pub(super) const STORE: &str = "folder bucket";

#[derive(Debug, thiserror::Error)]
#[error("{action} of {}: {source}{advice}", path.display())]
struct FileFailure {
    action: &'static str,
    path: PathBuf,
    source: io::Error,
    advice: &'static str,
}

/// `action` (a noun: `write`, `sync`) on the file at `path` failed.
pub(super) fn failed(action: &'static str, path: &Path, error: io::Error) -> Error {
    let kind = error.kind();
    let advice = match kind {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ": free some space; the work goes on by itself",
        io::ErrorKind::PermissionDenied => ": give this user the right to read and write it",
        io::ErrorKind::ReadOnlyFilesystem => ": mount it for writing",
        io::ErrorKind::NotADirectory | io::ErrorKind::IsADirectory | io::ErrorKind::DirectoryNotEmpty => {
            ": in a folder, one key can't be the beginning of another: choose another key"
        }
        io::ErrorKind::InvalidFilename => ": choose a shorter key",
        io::ErrorKind::CrossesDevices => ": a bucket's folder must lie on one file system",
        _ => "",
    };
    let shown = path.display().to_string();
    let source = Box::new(FileFailure { action, path: path.to_owned(), source: error, advice });
    match kind {
        io::ErrorKind::NotFound => Error::NotFound { path: shown, source },
        io::ErrorKind::AlreadyExists => Error::AlreadyExists { path: shown, source },
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            Error::PermissionDenied { path: shown, source }
        }
        io::ErrorKind::NotADirectory
        | io::ErrorKind::IsADirectory
        | io::ErrorKind::DirectoryNotEmpty
        | io::ErrorKind::InvalidFilename
        | io::ErrorKind::CrossesDevices => Error::NotSupported { source },
        _ => Error::Generic { store: STORE, source },
    }
}

/// A request that can't be right, whoever sends it.
pub(super) fn refused(message: String) -> Error {
    Error::NotSupported { source: message.into() }
}

/// An object that isn't there.
pub(super) fn missing(key: &str, path: &Path) -> Error {
    Error::NotFound { path: key.to_owned(), source: format!("no file {}", path.display()).into() }
}

/// A precondition that didn't hold.
pub(super) fn precondition(key: &str, message: String) -> Error {
    Error::Precondition { path: key.to_owned(), source: message.into() }
}

/// Gives an input or output error the path that it is about.
pub(super) trait AtPath<T> {
    /// `action` on the file at `path`.
    fn at(self, action: &'static str, path: &Path) -> Result<T>;
}

impl<T> AtPath<T> for io::Result<T> {
    fn at(self, action: &'static str, path: &Path) -> Result<T> {
        self.map_err(|error| failed(action, path, error))
    }
}

//! A stage for one output file on a plain disk: a hidden file beside it, renamed when it is whole.

use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use bytes::Bytes;
use penstock_engine::cloud::stage::{Completion, CopySource, Metadata, ObjectHead, Part, TOKEN, Upload};
use penstock_engine::cloud::{CloudError, ErrorKind, Result, Stage};

use super::sink::{part_bytes, part_offset};

/// Stages a single output. Its key is the output's file name.
#[derive(Debug)]
pub(super) struct FileStage {
    output: PathBuf,
}

impl FileStage {
    pub(super) fn new(output: PathBuf) -> Self {
        Self { output }
    }

    /// The hidden file of an attempt.
    fn hidden(&self, token: &str) -> PathBuf {
        let name = self.output.file_name().unwrap_or_default().to_string_lossy();
        self.output.with_file_name(format!(".{name}.{token}.partial"))
    }
}

#[async_trait]
impl Stage for FileStage {
    async fn begin(&self, key: &str, metadata: &Metadata) -> Result<Upload> {
        let token = metadata.get(TOKEN).cloned().unwrap_or_default();
        let hidden = self.hidden(&token);
        on_disk("create", hidden.clone(), |path| std::fs::File::create_new(path).map(drop)).await?;
        Ok(Upload { key: key.to_owned(), id: token.clone(), token })
    }

    async fn put_part(&self, upload: &Upload, number: u32, bytes: Bytes) -> Result<Part> {
        let size_bytes = bytes.len() as u64;
        if bytes.len() > part_bytes(number) {
            return Err(CloudError::new(ErrorKind::Invalid, "write a part", "it is larger than its place"));
        }
        on_disk("write", self.hidden(&upload.id), move |path| {
            let mut file = std::fs::OpenOptions::new().write(true).open(path)?;
            file.seek(SeekFrom::Start(part_offset(number)))?;
            file.write_all(&bytes)
        })
        .await?;
        Ok(Part { number, etag: number.to_string(), size_bytes })
    }

    async fn complete(&self, upload: &Upload, _: &[Part]) -> Result<Completion> {
        let output = self.output.clone();
        let hidden = self.hidden(&upload.id);
        let renamed = on_disk("rename", hidden, move |hidden| std::fs::rename(hidden, output)).await;
        match renamed {
            Ok(()) => Ok(Completion::Visible { etag: upload.id.clone() }),
            Err(error) if error.kind == ErrorKind::NotFound => Ok(Completion::Lost),
            Err(error) => Err(error),
        }
    }

    async fn abort(&self, upload: &Upload) -> Result<()> {
        match on_disk("remove", self.hidden(&upload.id), |path| std::fs::remove_file(path)).await {
            Err(error) if error.kind != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    async fn head(&self, _: &str) -> Result<Option<ObjectHead>> {
        Err(unsupported("head"))
    }

    async fn copy_from(&self, _: &CopySource, _: &str, _: &Metadata) -> Result<()> {
        Err(unsupported("copy"))
    }
}

fn unsupported(what: &str) -> CloudError {
    CloudError::new(ErrorKind::Invalid, what, "a plain file has no such thing")
}

/// Runs `work` where it may block.
async fn on_disk(
    what: &'static str,
    path: PathBuf,
    work: impl FnOnce(&Path) -> io::Result<()> + Send + 'static,
) -> Result<()> {
    let operation = format!("{what} {}", path.display());
    let error = match tokio::task::spawn_blocking(move || work(&path)).await {
        Ok(Ok(())) => return Ok(()),
        Ok(Err(error)) => error,
        Err(stopped) => io::Error::other(stopped),
    };
    let kind = match error.kind() {
        io::ErrorKind::NotFound => ErrorKind::NotFound,
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => ErrorKind::Denied,
        io::ErrorKind::StorageFull => ErrorKind::Invalid,
        _ => ErrorKind::Unavailable,
    };
    Err(CloudError::new(kind, operation, error.to_string()).with_source(error))
}

//! Multipart writes of `object_store`: a temporary file that is filled as parts come, and put in place at the end.

use std::{
    fs,
    io::{Seek, SeekFrom, Write},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use futures::FutureExt;
use object_store::{MultipartUpload, PutPayload, PutResult, Result, UploadPart};

use super::{
    FolderBucket,
    etag::hash,
    failure::{AtPath, refused},
    place::Before,
    sidecar::discard,
};
use crate::cloud::stage::Metadata;

/// One multipart write. Dropped without being completed, it leaves nothing.
#[derive(Debug)]
pub(super) struct FileUpload {
    bucket: FolderBucket,
    key: String,
    metadata: Metadata,
    /// Gone once completed or aborted.
    staged: Option<PathBuf>,
    file: Arc<Mutex<fs::File>>,
    offset: u64,
}

impl FileUpload {
    /// Begins one; does blocking work.
    pub(super) fn begin(bucket: FolderBucket, key: String, metadata: Metadata) -> Result<Self> {
        bucket.folder().path(&key)?;
        let staged = bucket.folder().new_temporary();
        let file = fs::File::options().read(true).write(true).create_new(true).open(&staged).at("creation", &staged)?;
        Ok(Self { bucket, key, metadata, staged: Some(staged), file: Arc::new(Mutex::new(file)), offset: 0 })
    }
}

#[async_trait]
impl MultipartUpload for FileUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        // Its place is fixed by the order of the calls, whatever the order in which they are carried out.
        let offset = self.offset;
        self.offset += data.content_length() as u64;
        let (file, staged) = (self.file.clone(), self.staged.clone());
        let bucket = self.bucket.clone();
        async move {
            bucket
                .blocking(move |_| {
                    let staged = staged.ok_or_else(|| refused("this upload has ended".to_owned()))?;
                    let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
                    file.seek(SeekFrom::Start(offset)).at("write", &staged)?;
                    data.iter().try_for_each(|piece| file.write_all(piece)).at("write", &staged)
                })
                .await
        }
        .boxed()
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let staged = self.staged.take().ok_or_else(|| refused("this upload has ended".to_owned()))?;
        let (file, key, metadata) = (self.file.clone(), self.key.clone(), self.metadata.clone());
        let total_bytes = self.offset;
        self.bucket
            .blocking(move |bucket| {
                let file = file.lock().unwrap_or_else(PoisonError::into_inner);
                let hashed = file.sync_all().and_then(|()| file.metadata()).at("sync", &staged).and_then(|found| {
                    if found.len() == total_bytes {
                        hash(&file, u64::MAX).at("read", &staged)
                    } else {
                        Err(refused(format!("`{key}` has parts that were not written: the upload can't be completed")))
                    }
                });
                let placed = hashed.and_then(|etag| {
                    bucket.place(&staged, &key, &etag, &metadata, &Before::Any)?;
                    Ok(PutResult { e_tag: Some(etag), version: None })
                });
                if placed.is_err() {
                    discard(&staged);
                }
                placed
            })
            .await
    }

    async fn abort(&mut self) -> Result<()> {
        let staged = self.staged.take().ok_or_else(|| refused("this upload has ended".to_owned()))?;
        self.bucket.blocking(move |_| fs::remove_file(&staged).at("removal", &staged)).await
    }
}

impl Drop for FileUpload {
    fn drop(&mut self) {
        if let Some(staged) = self.staged.take() {
            discard(&staged);
        }
    }
}

//! The rejects object: one JSON line per rejected line, with its place and reason.
//!
//! It is uploaded while a pass goes on, and appears only when the pass turns out to be the last one.

use bytes::Bytes;
use object_store::path::Path;
use object_store::{MultipartUpload, ObjectStoreExt, PutPayload};
use penstock_engine::cloud::{Bucket, CloudError};
use serde::Serialize;
use tokio_util::task::TaskTracker;

use super::note::{Raw, Reject};
use super::{ConvertError, InputFile, RejectsObject};

/// What is gathered before it is sent.
const PART_BYTES: usize = 8 << 20;

/// Writes rejects. Dropped before it is finished, it leaves nothing.
pub(super) struct RejectsWriter {
    bucket: Bucket,
    key: String,
    lines: Vec<u8>,
    upload: Option<Box<dyn MultipartUpload>>,
    aborts: TaskTracker,
    count: u64,
}

#[derive(Serialize)]
struct Line<'a> {
    file: &'a str,
    file_key: &'a str,
    line: u64,
    offset: u64,
    reason: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    raw: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    raw_base64: Option<&'a str>,
    length: u64,
}

#[derive(Serialize)]
struct More<'a> {
    file: &'a str,
    file_key: &'a str,
    reason: &'a str,
    more_rejects: u64,
}

impl RejectsWriter {
    pub(super) fn new(bucket: &Bucket, key: &str, aborts: &TaskTracker) -> Self {
        Self {
            bucket: bucket.clone(),
            key: key.to_owned(),
            lines: Vec::new(),
            upload: None,
            aborts: aborts.clone(),
            count: 0,
        }
    }

    /// Adds a reject, which stands in line `line` of its file.
    pub(super) async fn add(&mut self, file: &InputFile, line: u64, reject: &Reject) -> Result<(), ConvertError> {
        let (raw, raw_base64) = match &reject.raw {
            Raw::Text(text) => (Some(text.as_str()), None),
            Raw::Base64(text) => (None, Some(text.as_str())),
        };
        self.count += 1;
        self.write(&Line {
            file: &file.uri,
            file_key: &file.file_key,
            line,
            offset: reject.offset,
            reason: &reject.reason,
            raw,
            raw_base64,
            length: reject.length,
        })
        .await
    }

    /// Says how many more rejects a file had.
    pub(super) async fn add_count(&mut self, file: &InputFile, more_rejects: u64) -> Result<(), ConvertError> {
        let reason = "past max_rejects_per_file";
        self.write(&More { file: &file.uri, file_key: &file.file_key, reason, more_rejects }).await
    }

    async fn write(&mut self, line: &impl Serialize) -> Result<(), ConvertError> {
        serde_json::to_writer(&mut self.lines, line).map_err(|error| ConvertError::Invalid(error.to_string()))?;
        self.lines.push(b'\n');
        if self.lines.len() < PART_BYTES {
            return Ok(());
        }
        let path = self.path()?;
        let upload = match &mut self.upload {
            Some(upload) => upload,
            none => {
                let upload = self.bucket.store.put_multipart(&path).await;
                none.insert(upload.map_err(|error| failed("begin", &self.key, error))?)
            }
        };
        let part = PutPayload::from(Bytes::from(std::mem::take(&mut self.lines)));
        upload.put_part(part).await.map_err(|error| failed("write", &self.key, error))
    }

    /// Makes the object visible; nothing if there was no reject.
    pub(super) async fn finish(mut self) -> Result<Option<RejectsObject>, ConvertError> {
        if self.count == 0 {
            return Ok(None);
        }
        let (path, last) = (self.path()?, PutPayload::from(Bytes::from(std::mem::take(&mut self.lines))));
        let result = match &mut self.upload {
            Some(upload) => {
                upload.put_part(last).await.map_err(|error| failed("write", &self.key, error))?;
                upload.complete().await
            }
            None => self.bucket.store.put(&path, last).await,
        };
        let result = result.map_err(|error| failed("complete", &self.key, error))?;
        self.upload = None;
        Ok(Some(RejectsObject {
            key: std::mem::take(&mut self.key),
            etag: result.e_tag.map(unquoted),
            count: self.count,
        }))
    }

    fn path(&self) -> Result<Path, ConvertError> {
        Path::parse(&self.key).map_err(|error| ConvertError::Invalid(format!("the rejects key: {error}")))
    }
}

impl Drop for RejectsWriter {
    fn drop(&mut self) {
        let Some(mut upload) = self.upload.take() else { return };
        let key = std::mem::take(&mut self.key);
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        self.aborts.spawn_on(
            async move {
                if let Err(error) = upload.abort().await {
                    tracing::warn!(key, %error, "an upload of rejects is left to the bucket's lifecycle rule");
                }
            },
            &runtime,
        );
    }
}

fn failed(what: &str, key: &str, error: object_store::Error) -> ConvertError {
    ConvertError::from_cloud(format!("{what} the rejects object {key}"), &CloudError::from(error))
}

fn unquoted(etag: String) -> String {
    etag.trim_matches('"').to_owned()
}

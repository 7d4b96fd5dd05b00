//! [`Stage`] on S3: multipart uploads, whose ids can be recorded and completed by any process later.

use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_s3::{
    Client,
    operation::head_object::HeadObjectOutput,
    primitives::ByteStream,
    types::{CompletedMultipartUpload, CompletedPart, MetadataDirective},
};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::{
    error::{Target, causes, is_damaged},
    events::ObjectDamaged,
    verified::TRIES,
};
use crate::cloud::{
    CloudError, ErrorKind, Result, Stage, limits,
    stage::{Completion, CopySource, Metadata, ObjectHead, Part, TOKEN, Upload},
};

/// A bucket of S3.
pub(super) struct AwsStage {
    pub client: Client,
    pub bucket: Target,
    /// Objects larger than this are copied by parts. AWS's limit is 5 GB.
    pub copy_whole_bytes: u64,
    /// The size of such a part.
    pub copy_part_bytes: u64,
}

const GET: &str = "s3:GetObject";
const PUT: &str = "s3:PutObject";
const ABORT: &str = "s3:AbortMultipartUpload";

/// What may stand in the header that names a copy's source.
const SOURCE: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/');

#[async_trait]
impl Stage for AwsStage {
    async fn begin(&self, key: &str, metadata: &Metadata) -> Result<Upload> {
        let object = self.object(key);
        let request = self
            .client
            .create_multipart_upload()
            .bucket(&self.bucket.name)
            .key(key)
            .set_metadata(Some(metadata.clone().into_iter().collect()));
        let answer = object.ask(PUT, request.send()).await?;
        let Some(id) = answer.upload_id else {
            return Err(CloudError::new(ErrorKind::Unavailable, object.operation(PUT), "the answer has no upload id"));
        };
        Ok(Upload { key: key.to_owned(), id, token: metadata.get(TOKEN).cloned().unwrap_or_default() })
    }

    async fn put_part(&self, upload: &Upload, number: u32, bytes: Bytes) -> Result<Part> {
        let object = self.object(&upload.key);
        if number == 0 || number > limits::PARTS_PER_UPLOAD {
            return Err(self.invalid(&object, format!("part {number}: they go from 1 to {}", limits::PARTS_PER_UPLOAD)));
        }
        let size_bytes = bytes.len() as u64;
        let request = || {
            self.client
                .upload_part()
                .bucket(&self.bucket.name)
                .key(&upload.key)
                .upload_id(&upload.id)
                .part_number(i32::try_from(number).unwrap_or(i32::MAX))
                .body(ByteStream::from(bytes.clone()))
        };
        let mut tries = 0;
        let answer = loop {
            tries += 1;
            let sent = request().send().await;
            match &sent {
                // S3 compared it with its checksum, and kept nothing.
                Err(error) if tries < TRIES && is_damaged(error) => {
                    ObjectDamaged { object: &object.name, action: PUT, tries, error: &causes(error) }.emit();
                }
                _ => break object.ask(PUT, std::future::ready(sent)).await?,
            }
        };
        Ok(Part { number, etag: etag_of(answer.e_tag), size_bytes })
    }

    async fn complete(&self, upload: &Upload, parts: &[Part]) -> Result<Completion> {
        let object = self.object(&upload.key);
        if parts.is_empty() {
            return Err(self.invalid(&object, "an output has at least one part; it may be empty".to_owned()));
        }
        if let Some(small) =
            parts[..parts.len() - 1].iter().find(|part| part.size_bytes < limits::PART_MIN_BYTES as u64)
        {
            let (number, size, least) = (small.number, small.size_bytes, limits::PART_MIN_BYTES);
            return Err(self.invalid(&object, format!("part {number} has {size} bytes: all but the last need {least}")));
        }
        let completed = parts.iter().map(|part| {
            let number = i32::try_from(part.number).unwrap_or(i32::MAX);
            CompletedPart::builder().part_number(number).e_tag(format!("\"{}\"", part.etag)).build()
        });
        let completed = CompletedMultipartUpload::builder().set_parts(Some(completed.collect())).build();
        let request = self
            .client
            .complete_multipart_upload()
            .bucket(&self.bucket.name)
            .key(&upload.key)
            .upload_id(&upload.id)
            .multipart_upload(completed);
        match object.ask(PUT, request.send()).await {
            Ok(_) => {}
            // Completed before, or dropped.
            Err(error) if error.kind == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        // S3 also answers success to the completion of an upload whose object has been replaced since: what counts is
        // whose object is there.
        Ok(match self.head(&upload.key).await? {
            Some(head) if head.metadata.get(TOKEN).map_or("", String::as_str) == upload.token => {
                Completion::Visible { etag: head.etag }
            }
            _ => Completion::Lost,
        })
    }

    async fn abort(&self, upload: &Upload) -> Result<()> {
        let request =
            self.client.abort_multipart_upload().bucket(&self.bucket.name).key(&upload.key).upload_id(&upload.id);
        match self.object(&upload.key).ask(ABORT, request.send()).await {
            Ok(_) => Ok(()),
            Err(error) if error.kind == ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn head(&self, key: &str) -> Result<Option<ObjectHead>> {
        let request = self.client.head_object().bucket(&self.bucket.name).key(key);
        match self.object(key).ask(GET, request.send()).await {
            Ok(answer) => Ok(Some(head_of(answer))),
            Err(error) if error.kind == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn copy_from(&self, source: &CopySource, key: &str, metadata: &Metadata) -> Result<()> {
        let size_bytes = self.size_of(source).await?;
        if size_bytes > self.copy_whole_bytes {
            return self.copy_by_parts(source, size_bytes, key, metadata).await;
        }
        let request = self
            .client
            .copy_object()
            .bucket(&self.bucket.name)
            .key(key)
            .copy_source(place_of(source))
            .copy_source_if_match(format!("\"{}\"", source.etag))
            .metadata_directive(MetadataDirective::Replace)
            .set_metadata(Some(metadata.clone().into_iter().collect()));
        self.copy(source, key).ask(PUT, request.send()).await.map(drop)
    }
}

impl AwsStage {
    fn object(&self, key: &str) -> Target {
        let (bucket, arn) = (&self.bucket.name, &self.bucket.arn);
        Target { noun: "object", name: format!("s3://{bucket}/{key}"), arn: format!("{arn}/{key}") }
    }

    fn copy(&self, source: &CopySource, key: &str) -> Target {
        let mut target = self.object(key);
        target.name = format!("s3://{}/{} to {}", source.bucket, source.key, target.name);
        target
    }

    fn invalid(&self, object: &Target, message: String) -> CloudError {
        CloudError::new(ErrorKind::Invalid, object.operation(PUT), message)
    }

    /// The size of what is to be copied, if it still is what was meant.
    async fn size_of(&self, source: &CopySource) -> Result<u64> {
        let target = Target {
            noun: "object",
            name: format!("s3://{}/{}", source.bucket, source.key),
            arn: format!("arn:aws:s3:::{}/{}", source.bucket, source.key),
        };
        let request = self
            .client
            .head_object()
            .bucket(&source.bucket)
            .key(&source.key)
            .set_version_id(source.version.clone())
            .if_match(format!("\"{}\"", source.etag));
        let answer = target.ask(GET, request.send()).await?;
        Ok(u64::try_from(answer.content_length.unwrap_or_default()).unwrap_or_default())
    }

    async fn copy_by_parts(&self, source: &CopySource, size_bytes: u64, key: &str, metadata: &Metadata) -> Result<()> {
        let upload = self.begin(key, metadata).await?;
        match self.copy_parts(source, size_bytes, &upload).await {
            Ok(()) => Ok(()),
            Err(error) => {
                if let Err(left) = self.abort(&upload).await {
                    tracing::warn!(key, error = %left, "Parts of a copy were left to the bucket's lifecycle.");
                }
                Err(error)
            }
        }
    }

    async fn copy_parts(&self, source: &CopySource, size_bytes: u64, upload: &Upload) -> Result<()> {
        let target = self.copy(source, &upload.key);
        // At most 10,000 parts.
        let part_bytes = self.copy_part_bytes.max(size_bytes.div_ceil(u64::from(limits::PARTS_PER_UPLOAD)));
        let mut parts = Vec::new();
        for (at, start) in (0..size_bytes).step_by(usize::try_from(part_bytes).unwrap_or(usize::MAX)).enumerate() {
            let end = (start + part_bytes).min(size_bytes) - 1;
            let number = i32::try_from(at + 1).unwrap_or(i32::MAX);
            let request = self
                .client
                .upload_part_copy()
                .bucket(&self.bucket.name)
                .key(&upload.key)
                .upload_id(&upload.id)
                .part_number(number)
                .copy_source(place_of(source))
                .copy_source_if_match(format!("\"{}\"", source.etag))
                .copy_source_range(format!("bytes={start}-{end}"));
            let answer = target.ask(PUT, request.send()).await?;
            let etag = answer.copy_part_result.and_then(|result| result.e_tag);
            parts.push(CompletedPart::builder().part_number(number).set_e_tag(etag).build());
        }
        let request = self
            .client
            .complete_multipart_upload()
            .bucket(&self.bucket.name)
            .key(&upload.key)
            .upload_id(&upload.id)
            .multipart_upload(CompletedMultipartUpload::builder().set_parts(Some(parts)).build());
        target.ask(PUT, request.send()).await.map(drop)
    }
}

fn etag_of(etag: Option<String>) -> String {
    etag.unwrap_or_default().trim_matches('"').to_owned()
}

/// The source of a copy, as its header wants it.
fn place_of(source: &CopySource) -> String {
    let place = format!("{}/{}", source.bucket, source.key);
    let place = utf8_percent_encode(&place, SOURCE).to_string();
    match &source.version {
        Some(version) => format!("{place}?versionId={version}"),
        None => place,
    }
}

fn head_of(answer: HeadObjectOutput) -> ObjectHead {
    let modified =
        answer.last_modified.map(|at| Duration::new(u64::try_from(at.secs()).unwrap_or(0), at.subsec_nanos()));
    ObjectHead {
        size_bytes: u64::try_from(answer.content_length.unwrap_or_default()).unwrap_or_default(),
        etag: etag_of(answer.e_tag),
        version: answer.version_id.filter(|version| version != "null"),
        last_modified: modified.map_or_else(Utc::now, |since| DateTime::<Utc>::from(std::time::UNIX_EPOCH + since)),
        metadata: answer.metadata.unwrap_or_default().into_iter().collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_source_of_a_copy_is_encoded_and_keeps_its_slashes() {
        let mut source =
            CopySource { bucket: "b".into(), key: "in/a b+c%é/?.ndjson".into(), etag: "e".into(), version: None };
        assert_eq!(place_of(&source), "b/in/a%20b%2Bc%25%C3%A9/%3F.ndjson");
        source.version = Some("v1".into());
        assert!(place_of(&source).ends_with(".ndjson?versionId=v1"));
    }
}

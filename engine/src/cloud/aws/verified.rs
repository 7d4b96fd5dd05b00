//! Plain objects whose bytes are compared with the checksum that S3 keeps of them.
//!
//! S3 tells the checksum of an object with the whole of it, and never with a range. So an object that is read whole is read
//! by the SDK, which compares, and what was damaged on the way is asked for again; ranges of larger ones are as whole as
//! TLS keeps them. What is written bears its SHA-256, which S3 compares before it keeps the object.

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use aws_sdk_s3::{
    Client,
    operation::get_object::{GetObjectOutput, builders::GetObjectFluentBuilder},
    primitives::{ByteStream, DateTime},
};
use chrono::Utc;
use futures::{
    StreamExt,
    stream::{self, BoxStream},
};
use object_store::{
    Attribute, Attributes, CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload,
    ObjectMeta, ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, path::Path,
};

use super::{
    error::{Target, causes, damaged_words},
    events::ObjectDamaged,
};
use crate::cloud::{CloudError, ErrorKind};

/// Objects up to this size are held whole, so that a damaged one is never seen by anybody. Of larger ones the reader is
/// told at their end.
const HELD_BYTES: u64 = 8 << 20;

/// How often an object that comes or goes damaged is moved, all in all.
pub(super) const TRIES: u32 = 4;

/// The action of a read.
const GET: &str = "s3:GetObject";

/// A bucket.
pub(super) struct VerifiedStore {
    pub inner: Arc<dyn ObjectStore>,
    pub client: Client,
    pub bucket: Target,
}

impl fmt::Debug for VerifiedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "verified {:?}", self.inner)
    }
}

impl fmt::Display for VerifiedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "verified {}", self.inner)
    }
}

impl VerifiedStore {
    async fn get_whole(&self, location: &Path, options: &GetOptions) -> Result<GetResult> {
        let key = location.as_ref();
        let target = Target {
            noun: "object",
            name: format!("s3://{}/{key}", self.bucket.name),
            arn: format!("{}/{key}", self.bucket.arn),
        };
        let mut tries = 0;
        loop {
            tries += 1;
            let asked = target.ask(GET, self.request(key, options).send()).await;
            let mut answer = asked.map_err(|error| of_store(location, error))?;
            let body = std::mem::replace(&mut answer.body, ByteStream::from_static(b""));
            let (meta, attributes) = described(location, &answer);
            let range = 0..meta.size;
            let result = |payload| GetResult { payload, meta: meta.clone(), range, attributes };
            if meta.size > HELD_BYTES {
                return Ok(result(GetResultPayload::Stream(stream_of(body, location))));
            }
            match body.collect().await {
                Ok(whole) => {
                    let bytes = whole.into_bytes();
                    return Ok(result(GetResultPayload::Stream(stream::iter([Ok(bytes)]).boxed())));
                }
                Err(error) => {
                    let error = causes(&error);
                    ObjectDamaged { object: &target.name, action: GET, tries, error: &error }.emit();
                    if tries == TRIES {
                        return Err(broken(location, error));
                    }
                }
            }
        }
    }

    fn request(&self, key: &str, options: &GetOptions) -> GetObjectFluentBuilder {
        let time = |at: chrono::DateTime<Utc>| DateTime::from_secs(at.timestamp());
        self.client
            .get_object()
            .bucket(&self.bucket.name)
            .key(key)
            .set_version_id(options.version.clone())
            .set_if_match(options.if_match.clone())
            .set_if_none_match(options.if_none_match.clone())
            .set_if_modified_since(options.if_modified_since.map(time))
            .set_if_unmodified_since(options.if_unmodified_since.map(time))
    }
}

#[async_trait]
impl ObjectStore for VerifiedStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let mut tries = 0;
        loop {
            tries += 1;
            match self.inner.put_opts(location, payload.clone(), options.clone()).await {
                // S3 compared, and kept nothing.
                Err(error) if tries < TRIES && damaged_words(&error.to_string()) => {
                    let target =
                        Target { name: format!("s3://{}/{location}", self.bucket.name), ..self.bucket.clone() };
                    ObjectDamaged { object: &target.name, action: "s3:PutObject", tries, error: &error.to_string() }
                        .emit();
                }
                done => return done,
            }
        }
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        match options.range.is_none() && !options.head {
            true => self.get_whole(location, &options).await,
            false => self.inner.get_opts(location, options).await,
        }
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

fn described(location: &Path, answer: &GetObjectOutput) -> (ObjectMeta, Attributes) {
    let modified = answer.last_modified.and_then(|at| chrono::DateTime::from_timestamp(at.secs(), at.subsec_nanos()));
    let meta = ObjectMeta {
        location: location.clone(),
        last_modified: modified.unwrap_or(chrono::DateTime::UNIX_EPOCH),
        size: u64::try_from(answer.content_length.unwrap_or_default()).unwrap_or_default(),
        e_tag: answer.e_tag.clone(),
        version: answer.version_id.clone(),
    };
    let mut attributes = Attributes::new();
    if let Some(content_type) = &answer.content_type {
        attributes.insert(Attribute::ContentType, content_type.clone().into());
    }
    for (name, value) in answer.metadata.iter().flatten() {
        attributes.insert(Attribute::Metadata(name.clone().into()), value.clone().into());
    }
    (meta, attributes)
}

fn stream_of(body: ByteStream, location: &Path) -> BoxStream<'static, Result<bytes::Bytes>> {
    let location = location.clone();
    stream::unfold(Some(body), move |body| {
        let location = location.clone();
        async move {
            let mut body = body?;
            match body.next().await? {
                Ok(bytes) => Some((Ok(bytes), Some(body))),
                Err(error) => Some((Err(broken(&location, causes(&error))), None)),
            }
        }
    })
    .boxed()
}

fn broken(location: &Path, error: String) -> Error {
    Error::Generic { store: "S3", source: format!("{location} came damaged: {error}").into() }
}

fn of_store(location: &Path, error: CloudError) -> Error {
    let (path, kind) = (location.to_string(), error.kind);
    let source = Box::new(error);
    match kind {
        ErrorKind::NotFound => Error::NotFound { path, source },
        ErrorKind::PreconditionFailed => Error::Precondition { path, source },
        ErrorKind::Denied => Error::PermissionDenied { path, source },
        _ => Error::Generic { store: "S3", source },
    }
}

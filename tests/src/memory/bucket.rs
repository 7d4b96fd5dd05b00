//! Buckets in memory: plain objects, and outputs that are staged first.

use std::{collections::BTreeMap, fmt, sync::Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures::{StreamExt, stream::BoxStream};
use object_store::{
    Attributes, CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, path::Path,
};
use penstock_engine::{
    cloud::{
        CloudError, ErrorKind, Result, Stage,
        stage::{Completion, CopySource, Metadata, ObjectHead, Part, TOKEN, Upload},
    },
    time::Clock,
};
use sha2::{Digest, Sha256};

use super::lock;

/// A bucket.
pub struct MemoryBucket {
    name: String,
    clock: Clock,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Object>,
    staged: BTreeMap<String, Staged>,
    next: u64,
}

/// An object.
#[derive(Debug, Clone)]
pub struct Object {
    /// Its content.
    pub content: Bytes,
    /// Its etag: of its content.
    pub etag: String,
    /// Its user metadata.
    pub metadata: Metadata,
    /// When it was written.
    pub last_modified: DateTime<Utc>,
}

struct Staged {
    key: String,
    metadata: Metadata,
    parts: BTreeMap<u32, Bytes>,
}

impl MemoryBucket {
    pub(super) fn new(name: String, clock: Clock) -> Self {
        Self { name, clock, state: Mutex::default() }
    }

    /// Its full name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// All objects that readers see.
    pub fn objects(&self) -> BTreeMap<String, Object> {
        lock(&self.state).objects.clone()
    }

    /// Writes an object; its etag.
    pub fn write(&self, key: &str, content: impl Into<Bytes>, metadata: Metadata) -> String {
        let content = content.into();
        let etag = etag(&content);
        let object = Object { content, etag: etag.clone(), metadata, last_modified: self.clock.now() };
        lock(&self.state).objects.insert(key.to_owned(), object);
        etag
    }

    /// Deletes an object.
    pub fn remove(&self, key: &str) {
        lock(&self.state).objects.remove(key);
    }

    /// Loses every staged output; how many there were.
    pub fn lose_staged(&self) -> usize {
        std::mem::take(&mut lock(&self.state).staged).len()
    }

    /// How many outputs are staged.
    pub fn staged(&self) -> usize {
        lock(&self.state).staged.len()
    }

    fn error(&self, kind: ErrorKind, what: &str, message: &str) -> CloudError {
        CloudError::new(kind, format!("{what} in {}", self.name), message)
    }
}

fn etag(content: &[u8]) -> String {
    Sha256::digest(content)[..8].iter().map(|byte| format!("{byte:02x}")).collect()
}

fn not_found(key: &str) -> Error {
    Error::NotFound { path: key.to_owned(), source: "it isn't there".into() }
}

impl fmt::Debug for MemoryBucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl fmt::Display for MemoryBucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

fn meta(key: &str, object: &Object) -> ObjectMeta {
    ObjectMeta {
        location: Path::from(key),
        last_modified: object.last_modified,
        size: object.content.len() as u64,
        e_tag: Some(object.etag.clone()),
        version: None,
    }
}

#[async_trait]
impl ObjectStore for MemoryBucket {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> object_store::Result<PutResult> {
        let key = location.as_ref();
        if options.mode == PutMode::Create && lock(&self.state).objects.contains_key(key) {
            return Err(Error::AlreadyExists { path: key.to_owned(), source: "it is there".into() });
        }
        let etag = self.write(key, Bytes::from(payload), Metadata::new());
        Ok(PutResult { e_tag: Some(etag), version: None })
    }

    async fn put_multipart_opts(
        &self,
        _location: &Path,
        _options: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        Err(Error::NotSupported { source: "the memory cloud takes whole objects".into() })
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> object_store::Result<GetResult> {
        let key = location.as_ref();
        let object = lock(&self.state).objects.get(key).cloned().ok_or_else(|| not_found(key))?;
        let meta = meta(key, &object);
        options.check_preconditions(&meta)?;
        let size = object.content.len() as u64;
        let range = match &options.range {
            Some(range) => {
                range.as_range(size).map_err(|error| Error::Generic { store: "memory", source: error.into() })?
            }
            None => 0..size,
        };
        let content = object.content.slice(range.start as usize..range.end as usize);
        let payload = GetResultPayload::Stream(futures::stream::once(async move { Ok(content) }).boxed());
        Ok(GetResult { payload, meta, range, attributes: Attributes::default() })
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, object_store::Result<Path>>,
    ) -> BoxStream<'static, object_store::Result<Path>> {
        // The stream outlives the borrow: deletions are carried out as it is made, which nobody in a simulation minds.
        let deleted: Vec<_> = futures::executor::block_on(locations.collect::<Vec<_>>());
        for location in deleted.iter().flatten() {
            self.remove(location.as_ref());
        }
        futures::stream::iter(deleted).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        let prefix = prefix.map(|prefix| format!("{prefix}/")).unwrap_or_default();
        let objects = self.objects();
        let found: Vec<_> = objects
            .iter()
            .filter(|(key, _)| key.starts_with(&prefix))
            .map(|(key, object)| Ok(meta(key, object)))
            .collect();
        futures::stream::iter(found).boxed()
    }

    async fn list_with_delimiter(&self, _prefix: Option<&Path>) -> object_store::Result<ListResult> {
        Err(Error::NotSupported { source: "nobody lists folders".into() })
    }

    async fn copy_opts(&self, from: &Path, to: &Path, _options: CopyOptions) -> object_store::Result<()> {
        let object = lock(&self.state).objects.get(from.as_ref()).cloned().ok_or_else(|| not_found(from.as_ref()))?;
        self.write(to.as_ref(), object.content, object.metadata);
        Ok(())
    }
}

#[async_trait]
impl Stage for MemoryBucket {
    async fn begin(&self, key: &str, metadata: &Metadata) -> Result<Upload> {
        let mut state = lock(&self.state);
        state.next += 1;
        let id = format!("{:x}", state.next);
        let staged = Staged { key: key.to_owned(), metadata: metadata.clone(), parts: BTreeMap::new() };
        state.staged.insert(id.clone(), staged);
        Ok(Upload { key: key.to_owned(), id, token: metadata.get(TOKEN).cloned().unwrap_or_default() })
    }

    async fn put_part(&self, upload: &Upload, number: u32, bytes: Bytes) -> Result<Part> {
        let part = Part { number, etag: etag(&bytes), size_bytes: bytes.len() as u64 };
        let mut state = lock(&self.state);
        let Some(staged) = state.staged.get_mut(&upload.id) else {
            return Err(self.error(ErrorKind::NotFound, "put_part", "no such upload"));
        };
        staged.parts.insert(number, bytes);
        Ok(part)
    }

    async fn complete(&self, upload: &Upload, parts: &[Part]) -> Result<Completion> {
        let staged = lock(&self.state).staged.remove(&upload.id);
        if let Some(staged) = staged {
            assert_eq!(staged.key, upload.key);
            let content: Vec<u8> =
                parts.iter().flat_map(|part| staged.parts.get(&part.number).cloned().unwrap_or_default()).collect();
            let etag = self.write(&staged.key, content, staged.metadata);
            return Ok(Completion::Visible { etag });
        }
        Ok(match self.head(&upload.key).await? {
            Some(head) if head.metadata.get(TOKEN) == Some(&upload.token) => Completion::Visible { etag: head.etag },
            _ => Completion::Lost,
        })
    }

    async fn abort(&self, upload: &Upload) -> Result<()> {
        lock(&self.state).staged.remove(&upload.id);
        Ok(())
    }

    async fn head(&self, key: &str) -> Result<Option<ObjectHead>> {
        let object = lock(&self.state).objects.get(key).cloned();
        Ok(object.map(|object| ObjectHead {
            size_bytes: object.content.len() as u64,
            etag: object.etag,
            version: None,
            last_modified: object.last_modified,
            metadata: object.metadata,
        }))
    }

    async fn copy_from(&self, source: &CopySource, key: &str, metadata: &Metadata) -> Result<()> {
        // Only the pipeline's own input is ever copied, and in a simulation it may as well be an empty object.
        let content = format!("copy of s3://{}/{} ({})", source.bucket, source.key, source.etag);
        self.write(key, content, metadata.clone());
        Ok(())
    }
}

//! Buckets as folders: an object is a file, its key the path below the folder, and people may put files there by hand.
//!
//! What S3 promises, this promises: an object appears whole or not at all and is durable once a write is answered;
//! create-if-absent lets one writer win; an etag is of the content, so that a copy or a `touch` keeps it; a staged output
//! is invisible until it is completed, by whomever. Reads give the file itself: nothing is copied or held in memory.
//!
//! What a folder can't do is refused with a reason: keys that are no path, `a` beside `a/b`, names above 255 bytes.

mod etag;
mod events;
mod failure;
mod folder;
mod place;
mod put_multipart;
mod sidecar;
mod staged;
#[cfg(test)]
mod tests;
mod walk;

use std::{fmt, path::Path as FilePath, sync::Arc, time::SystemTime};

use async_trait::async_trait;
use futures::{StreamExt, stream::BoxStream};
use object_store::{
    Attribute, Attributes, CopyMode, CopyOptions, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload,
    ObjectMeta, ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, path::Path,
};
use tokio::{runtime::Handle, sync::mpsc};

pub(super) use etag::TICK;
pub use etag::{EtagCache, RecentEtags, Stamp};
pub(super) use walk::{Found, Walk};

use self::{
    failure::refused,
    folder::Folder,
    place::Before,
    put_multipart::FileUpload,
    sidecar::{discard, write_synced},
};
use super::folder_watch::is_ignored;
use crate::cloud::{Bucket, CloudError, stage::Metadata};

/// A bucket in a folder. Cheap to clone.
#[derive(Debug, Clone)]
pub struct FolderBucket(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    folder: Folder,
    etags: Arc<dyn EtagCache>,
}

impl FolderBucket {
    /// Opens the bucket `name` in the folder `root`, which is made if need be. Its siblings are the other buckets of the
    /// same cloud, each in a folder of its own name.
    pub fn open(root: &FilePath, name: &str) -> crate::cloud::Result<Bucket> {
        Ok(Self::at(root, name, Arc::<RecentEtags>::default())?.into())
    }

    /// The same with a cache of etags of the caller's, and as the folder that it is: for a watch on it.
    pub fn at(root: &FilePath, name: &str, etags: Arc<dyn EtagCache>) -> crate::cloud::Result<Self> {
        let opened = Folder::open(root, name).and_then(|folder| Ok((folder.remove_stale(SystemTime::now())?, folder)));
        let (removed, folder) = opened.map_err(|error| {
            let mut error = CloudError::from(error);
            error.operation = format!("opening of bucket {name}");
            error
        })?;
        if removed > 0 {
            tracing::info!(bucket = name, removed, "Outputs staged more than 7 days ago were given up.");
        }
        Ok(Self(Arc::new(Shared { folder, etags })))
    }

    /// The bucket's name.
    pub fn name(&self) -> &str {
        &self.folder().bucket
    }

    /// Its folder's canonical path.
    pub fn root(&self) -> &FilePath {
        &self.folder().root
    }

    /// The etags that it remembers.
    pub fn etags(&self) -> &dyn EtagCache {
        &*self.0.etags
    }

    /// The stamp and the etag of an object that is there; reads the file unless the etag is remembered. Blocks.
    pub(super) fn stamp_and_etag(&self, key: &str) -> Result<(Stamp, String)> {
        let (file, _, path) = self.folder().open_object(key)?;
        etag::etag_of(self.etags(), key, &file, &path)
    }

    fn folder(&self) -> &Folder {
        &self.0.folder
    }

    async fn blocking<T: Send + 'static>(&self, work: impl FnOnce(&Self) -> Result<T> + Send + 'static) -> Result<T> {
        // A thread that no runtime knows may block: like `object_store`'s own file store.
        let Ok(runtime) = Handle::try_current() else { return work(self) };
        let bucket = self.clone();
        runtime.spawn_blocking(move || work(&bucket)).await?
    }

    fn read(&self, location: Path, mut options: GetOptions) -> Result<GetResult> {
        let key = location.as_ref();
        if options.version.is_some() {
            return Err(refused(format!("a folder keeps no versions: read `{key}` without one")));
        }
        let (file, found, path) = self.folder().open_object(key)?;
        for etag in [&mut options.if_match, &mut options.if_none_match].into_iter().flatten() {
            *etag = etag.replace('"', "");
        }
        let compares = |etag: &Option<String>| etag.as_ref().is_some_and(|etag| etag != "*");
        let (size, e_tag) = if compares(&options.if_match) || compares(&options.if_none_match) {
            let (stamp, etag) = etag::etag_of(self.etags(), key, &file, &path)?;
            (stamp.size_bytes, Some(etag))
        } else {
            (found.len(), self.etags().get(key, &Stamp::of(&found)))
        };
        let meta = object_meta(location, &found, size, e_tag);
        options.check_preconditions(&meta)?;
        let range = match &options.range {
            Some(range) => range
                .as_range(size)
                .map_err(|error| refused(format!("`{}` has {size} bytes: {error}", meta.location)))?,
            None => 0..size,
        };
        Ok(GetResult { payload: GetResultPayload::File(file, path), attributes: Attributes::default(), range, meta })
    }

    fn write(&self, key: &str, payload: &PutPayload, options: PutOptions) -> Result<PutResult> {
        self.folder().path(key)?;
        let before = match options.mode {
            PutMode::Overwrite => Before::Any,
            PutMode::Create => Before::Nothing,
            PutMode::Update(version) => Before::Etag(version.e_tag.unwrap_or_default().replace('"', "")),
        };
        let pieces = || payload.iter().map(|piece| &piece[..]);
        let staged = self.folder().new_temporary();
        write_synced(&staged, pieces())?;
        let etag = etag::hash_bytes(pieces());
        match self.place(&staged, key, &etag, &metadata_of(&options.attributes), &before) {
            Ok(()) => Ok(PutResult { e_tag: Some(etag), version: None }),
            Err(error) => {
                discard(&staged);
                Err(error)
            }
        }
    }

    /// The objects below a prefix, as they are found. Hidden and unfinished files are none yet: a listing knows no more
    /// than the folder's watch announces.
    fn walk(&self, prefix: &Path) -> Result<impl Iterator<Item = Result<Found>> + use<>> {
        let start = if prefix.is_root() { self.folder().root.clone() } else { self.folder().path(prefix.as_ref())? };
        let walk = Walk::new(&self.folder().root, &start, |_, _| true)?;
        Ok(walk.filter(|found| found.as_ref().map_or(true, |found| !is_ignored(&found.key))))
    }
}

impl From<FolderBucket> for Bucket {
    fn from(bucket: FolderBucket) -> Self {
        let bucket = Arc::new(bucket);
        Self { name: bucket.name().to_owned(), store: bucket.clone(), stage: bucket }
    }
}

impl fmt::Display for FolderBucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bucket {} in {}", self.name(), self.root().display())
    }
}

#[async_trait]
impl ObjectStore for FolderBucket {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let location = location.clone();
        self.blocking(move |bucket| bucket.write(location.as_ref(), &payload, options)).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let key = location.to_string();
        let upload = self
            .blocking(move |bucket| FileUpload::begin(bucket.clone(), key, metadata_of(&options.attributes)))
            .await?;
        Ok(Box::new(upload))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let location = location.clone();
        self.blocking(move |bucket| bucket.read(location, options)).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let bucket = self.clone();
        locations
            .map(move |location| {
                let bucket = bucket.clone();
                async move {
                    let location = location?;
                    bucket
                        .blocking(move |bucket| {
                            bucket.remove(location.as_ref())?;
                            Ok(location)
                        })
                        .await
                }
            })
            .buffered(10)
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let prefix = prefix.cloned().unwrap_or_default();
        let bucket = self.clone();
        // A thread walks ahead of the reader, by no more than the channel holds.
        let (found, listed) = mpsc::channel(1024);
        let walking = async move {
            bucket
                .blocking(move |bucket| {
                    for object in bucket.walk(&prefix)? {
                        if found.blocking_send(object.and_then(|object| listed_meta(&object))).is_err() {
                            break;
                        }
                    }
                    Ok(())
                })
                .await
        };
        let objects = futures::stream::unfold(listed, |mut listed| async { listed.recv().await.map(|o| (o, listed)) });
        // The walk is started by the first poll; its own failure comes last.
        let failure = futures::stream::once(walking).filter_map(async |walked| walked.err().map(Err));
        futures::stream::select(objects, failure).boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let prefix = prefix.cloned().unwrap_or_default();
        self.blocking(move |bucket| {
            let root = &bucket.folder().root;
            let start = if prefix.is_root() { root.clone() } else { bucket.folder().path(prefix.as_ref())? };
            let mut common_prefixes = Vec::new();
            let objects = Walk::new(root, &start, |path, key| {
                if path != start && !key.is_empty() {
                    common_prefixes.push(key.to_owned());
                }
                path == start
            })?
            .filter(|found| found.as_ref().map_or(true, |found| !is_ignored(&found.key)))
            .map(|found| found.and_then(|found| listed_meta(&found)))
            .collect::<Result<_>>()?;
            let common_prefixes = common_prefixes.into_iter().map(Path::parse).collect::<Result<_, _>>()?;
            Ok(ListResult { common_prefixes, objects })
        })
        .await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let (from, to) = (from.clone(), to.clone());
        let before = match options.mode {
            CopyMode::Overwrite => Before::Any,
            CopyMode::Create => Before::Nothing,
        };
        self.blocking(move |bucket| {
            let metadata = bucket.find(from.as_ref())?.map(|found| found.metadata).unwrap_or_default();
            bucket.copy_object(bucket.folder(), from.as_ref(), None, to.as_ref(), &metadata, &before)
        })
        .await
    }
}

fn listed_meta(found: &Found) -> Result<ObjectMeta> {
    // A listing tells no etags: it would have to read every file.
    Ok(object_meta(Path::parse(&found.key)?, &found.metadata, found.metadata.len(), None))
}

fn object_meta(location: Path, found: &std::fs::Metadata, size: u64, e_tag: Option<String>) -> ObjectMeta {
    let last_modified = found.modified().unwrap_or(SystemTime::UNIX_EPOCH).into();
    ObjectMeta { location, last_modified, size, e_tag, version: None }
}

/// The user metadata among the attributes. The others (content type and the like) say nothing of a file.
fn metadata_of(attributes: &Attributes) -> Metadata {
    attributes
        .iter()
        .filter_map(|(attribute, value)| match attribute {
            Attribute::Metadata(name) => Some((name.to_lowercase(), value.as_ref().to_owned())),
            _ => None,
        })
        .collect()
}

//! The object store's side of a tap.

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use futures::{StreamExt, stream::BoxStream};
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, UploadPart, path::Path,
};

use super::{Request, Tap};
use crate::cloud::CloudError;

/// An object store that is tapped.
pub(super) struct TappedStore {
    pub(super) inner: Arc<dyn ObjectStore>,
    pub(super) tap: Tap,
}

impl fmt::Debug for TappedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tapped {:?}", self.inner)
    }
}

impl fmt::Display for TappedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tapped {}", self.inner)
    }
}

/// Carries a store's own error through a tap.
enum Through {
    Store(Error),
    Refused(CloudError),
}

impl From<CloudError> for Through {
    fn from(error: CloudError) -> Self {
        Self::Refused(error)
    }
}

impl From<Through> for Error {
    fn from(error: Through) -> Self {
        match error {
            Through::Store(error) => error,
            Through::Refused(error) => Self::Generic { store: "tap", source: Box::new(error) },
        }
    }
}

impl Tap {
    async fn store<T>(&self, request: Request<'_>, made: impl Future<Output = Result<T>>) -> Result<T> {
        Ok(self.through(request, async { made.await.map_err(Through::Store) }).await?)
    }
}

#[async_trait]
impl ObjectStore for TappedStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let request =
            Request::PutObject { key: location.as_ref(), create: !matches!(options.mode, PutMode::Overwrite) };
        self.tap.store(request, self.inner.put_opts(location, payload, options)).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let inner = self.inner.put_multipart_opts(location, options).await?;
        Ok(Box::new(TappedUpload { inner, tap: self.tap.clone(), key: location.to_string() }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.tap.store(Request::GetObject(location.as_ref()), self.inner.get_opts(location, options)).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let (inner, tap) = (Arc::clone(&self.inner), self.tap.clone());
        let delete = move |location: Result<Path>| {
            let (inner, tap) = (Arc::clone(&inner), tap.clone());
            async move {
                let location = location?;
                let one = futures::stream::iter([Ok(location.clone())]).boxed();
                let deleted = async {
                    let mut deleted = inner.delete_stream(one);
                    deleted.next().await.unwrap_or_else(|| Ok(location.clone()))
                };
                tap.store(Request::DeleteObject(location.as_ref()), deleted).await
            }
        };
        locations.then(delete).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (tap, listing) = (self.tap.clone(), self.inner.list(prefix));
        let prefix = prefix.map(ToString::to_string).unwrap_or_default();
        let begun = async move { tap.store(Request::List(&prefix), async { Ok(()) }).await };
        let begun = futures::stream::once(begun).filter_map(async |begun| begun.err().map(Err));
        begun.chain(listing).boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let text = prefix.map(ToString::to_string).unwrap_or_default();
        self.tap.store(Request::List(&text), self.inner.list_with_delimiter(prefix)).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.tap.store(Request::Copy(to.as_ref()), self.inner.copy_opts(from, to, options)).await
    }
}

/// A multipart write: an effect only once it is completed.
#[derive(Debug)]
struct TappedUpload {
    inner: Box<dyn MultipartUpload>,
    tap: Tap,
    key: String,
}

impl fmt::Debug for Tap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tap of {} on {}", self.caller, self.resource)
    }
}

#[async_trait]
impl MultipartUpload for TappedUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        self.inner.put_part(data)
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let request = Request::PutObject { key: &self.key, create: false };
        self.tap.store(request, self.inner.complete()).await
    }

    async fn abort(&mut self) -> Result<()> {
        self.inner.abort().await
    }
}

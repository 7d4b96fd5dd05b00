//! A staged upload that is aborted unless somebody takes it over.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use datafusion::common::runtime::SpawnedTask;
use datafusion::common::{Result, internal_datafusion_err};
use datafusion::error::DataFusionError;
use penstock_engine::cloud::stage::{Metadata, Part, TOKEN, Upload};
use penstock_engine::cloud::{Bucket, Stage};
use tokio_util::task::TaskTracker;

use crate::convert::error::plan_error;

/// How many parts of an upload are on their way at once.
const PARTS_ON_THE_WAY: usize = 2;

/// The size of an upload's part: larger later on, so that 10,000 parts hold what an object may.
pub(crate) fn part_bytes(number: u32) -> usize {
    (8 << 20) << ((number.saturating_sub(1)) / 1000).min(6)
}

/// Where a part begins, if all before it have their full size.
pub(crate) fn part_offset(number: u32) -> u64 {
    (1..number).map(|number| part_bytes(number) as u64).sum()
}

/// What a process gives a plan to write with: found in the session, never in a node.
#[derive(Default)]
pub(crate) struct Outlets {
    /// The buckets that can be written to, by name.
    pub(crate) buckets: HashMap<String, Bucket>,
    /// The aborts of uploads that nobody took over.
    pub(crate) aborts: TaskTracker,
}

impl Outlets {
    fn stage(&self, bucket: &str) -> Result<Arc<dyn Stage>> {
        let bucket = self.buckets.get(bucket);
        bucket.map(|bucket| bucket.stage.clone()).ok_or_else(|| internal_datafusion_err!("no such bucket here"))
    }
}

/// An upload that is aborted when this is dropped.
pub(crate) struct UploadGuard {
    stage: Arc<dyn Stage>,
    upload: Option<Upload>,
    aborts: TaskTracker,
}

impl UploadGuard {
    /// Guards an upload that exists.
    pub(crate) fn new(outlets: &Outlets, bucket: &str, upload: Upload) -> Result<Self> {
        Ok(Self { stage: outlets.stage(bucket)?, upload: Some(upload), aborts: outlets.aborts.clone() })
    }

    /// From now on the upload is somebody else's.
    pub(crate) fn release(mut self) -> Option<Upload> {
        self.upload.take()
    }

    fn upload(&self) -> Result<&Upload> {
        self.upload.as_ref().ok_or_else(|| internal_datafusion_err!("the upload was released"))
    }
}

impl Drop for UploadGuard {
    fn drop(&mut self) {
        let Some(upload) = self.upload.take() else { return };
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            tracing::warn!(
                key = upload.key,
                "an upload is left to the bucket's lifecycle rule: no runtime to abort it on"
            );
            return;
        };
        let stage = self.stage.clone();
        self.aborts.spawn_on(
            async move {
                if let Err(error) = stage.abort(&upload).await {
                    tracing::warn!(key = upload.key, %error, "an upload is left to the bucket's lifecycle rule");
                }
            },
            &runtime,
        );
    }
}

/// An upload while it is written.
pub(super) struct PartUpload {
    guard: UploadGuard,
    on_the_way: VecDeque<SpawnedTask<Result<Part>>>,
    parts: Vec<Part>,
    next_number: u32,
    pub(super) size_bytes: u64,
}

impl PartUpload {
    /// Begins an output under `key`.
    pub(super) async fn begin(outlets: &Arc<Outlets>, bucket: &str, key: &str, token: &str) -> Result<Self> {
        let stage = outlets.stage(bucket)?;
        let aborts = outlets.aborts.clone();
        let metadata = Metadata::from([(TOKEN.to_owned(), token.to_owned())]);
        let key = key.to_owned();
        // In a task of its own, which goes on when this future is dropped: else an upload could begin that nobody knows.
        let begun = outlets.aborts.spawn(async move {
            let upload = stage.begin(&key, &metadata).await.map_err(plan_error)?;
            Ok::<_, DataFusionError>(UploadGuard { stage, upload: Some(upload), aborts })
        });
        let guard = begun.await.map_err(|error| DataFusionError::ExecutionJoin(Box::new(error)))??;
        Ok(Self { guard, on_the_way: VecDeque::new(), parts: Vec::new(), next_number: 1, size_bytes: 0 })
    }

    /// Sends the next part on its way: of [`part_bytes`], unless it is the last.
    pub(super) async fn put(&mut self, bytes: Bytes) -> Result<()> {
        while self.on_the_way.len() >= PARTS_ON_THE_WAY {
            self.arrive().await?;
        }
        self.size_bytes += bytes.len() as u64;
        let (stage, upload, number) = (self.guard.stage.clone(), self.guard.upload()?.clone(), self.next_number);
        self.next_number += 1;
        self.on_the_way.push_back(SpawnedTask::spawn(async move {
            stage.put_part(&upload, number, bytes).await.map_err(plan_error)
        }));
        Ok(())
    }

    async fn arrive(&mut self) -> Result<()> {
        if let Some(task) = self.on_the_way.pop_front() {
            self.parts.push(task.join().await.map_err(|error| DataFusionError::ExecutionJoin(Box::new(error)))??);
        }
        Ok(())
    }

    /// Waits until all parts have arrived.
    pub(super) async fn finish(mut self) -> Result<(UploadGuard, Upload, Vec<Part>)> {
        while !self.on_the_way.is_empty() {
            self.arrive().await?;
        }
        let upload = self.guard.upload()?.clone();
        Ok((self.guard, upload, self.parts))
    }
}

//! A weak stage: its requests are throttled, fail, or take effect without an answer.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use super::{Dice, Weakness};
use crate::cloud::{
    Result, Stage,
    stage::{Completion, CopySource, Metadata, ObjectHead, Part, Upload},
};

/// A stage made weak.
pub struct WeakStage {
    inner: Arc<dyn Stage>,
    dice: Dice,
}

impl WeakStage {
    /// Makes `inner` as weak as this.
    pub fn new(inner: Arc<dyn Stage>, weakness: Weakness, seed: u64) -> Self {
        Self { inner, dice: Dice::new(weakness, seed) }
    }
}

#[async_trait]
impl Stage for WeakStage {
    async fn begin(&self, key: &str, metadata: &Metadata) -> Result<Upload> {
        self.dice.through(&format!("begin of {key}"), self.inner.begin(key, metadata)).await
    }

    async fn put_part(&self, upload: &Upload, number: u32, bytes: Bytes) -> Result<Part> {
        let operation = format!("put_part {number} of {}", upload.key);
        self.dice.through(&operation, self.inner.put_part(upload, number, bytes)).await
    }

    async fn complete(&self, upload: &Upload, parts: &[Part]) -> Result<Completion> {
        self.dice.through(&format!("complete of {}", upload.key), self.inner.complete(upload, parts)).await
    }

    async fn abort(&self, upload: &Upload) -> Result<()> {
        self.dice.through(&format!("abort of {}", upload.key), self.inner.abort(upload)).await
    }

    async fn head(&self, key: &str) -> Result<Option<ObjectHead>> {
        self.dice.through(&format!("head of {key}"), self.inner.head(key)).await
    }

    async fn copy_from(&self, source: &CopySource, key: &str, metadata: &Metadata) -> Result<()> {
        self.dice.through(&format!("copy_from to {key}"), self.inner.copy_from(source, key, metadata)).await
    }
}

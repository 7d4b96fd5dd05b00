//! What `object_store` can't say of a bucket: outputs that are staged first and completed later, copies with metadata,
//! and HEAD with metadata.
//!
//! A staged output is invisible until it is completed. Its id can be recorded, so that any process can complete it later,
//! and each carries the token of the attempt that made it, so that one can tell whose object stands in its place.

use std::collections::BTreeMap;

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::Result;

/// Metadata of an object: lower-case names to text.
pub type Metadata = BTreeMap<String, String>;

/// The metadata name under which an upload carries its attempt's token.
pub const TOKEN: &str = "penstock-token";

/// Staged outputs, copies and HEAD of one bucket. Keys are plain, without a leading slash.
#[async_trait]
pub trait Stage: Send + Sync {
    /// Begins an output under `key`. Nothing is visible yet.
    async fn begin(&self, key: &str, metadata: &Metadata) -> Result<Upload>;

    /// Stages part `number` (from 1 on) of an output; all but the last hold at least 5 MiB. Putting a part again
    /// replaces it.
    async fn put_part(&self, upload: &Upload, number: u32, bytes: Bytes) -> Result<Part>;

    /// Makes the output visible, whole. Completing again is harmless: what counts is whose object is there.
    async fn complete(&self, upload: &Upload, parts: &[Part]) -> Result<Completion>;

    /// Drops a staged output. Dropping one that is gone is no error; one that was completed stays.
    async fn abort(&self, upload: &Upload) -> Result<()>;

    /// What stands under `key`, if anything.
    async fn head(&self, key: &str) -> Result<Option<ObjectHead>>;

    /// Copies an object of this cloud (same etag only) to `key` in this bucket, with new metadata. Copying again is
    /// harmless.
    async fn copy_from(&self, source: &CopySource, key: &str, metadata: &Metadata) -> Result<()>;
}

/// A staged output: enough to complete or abort it from any process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upload {
    /// Where it will be visible.
    pub key: String,
    /// The provider's id of the upload.
    pub id: String,
    /// The attempt's token, from the metadata that it was begun with.
    pub token: String,
}

/// A staged part of an output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// From 1 on.
    pub number: u32,
    /// The provider's tag for it.
    pub etag: String,
    /// Its size.
    pub size_bytes: u64,
}

/// What completing an output found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Completion {
    /// It is visible: by this call, or by an earlier one of the same upload.
    Visible {
        /// The object's etag.
        etag: String,
    },
    /// The upload is gone, and no object shows its token: the staged bytes are lost.
    Lost,
}

/// An object's particulars.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectHead {
    /// Its size.
    pub size_bytes: u64,
    /// Its etag, without quotes.
    pub etag: String,
    /// Its version, where the bucket keeps versions.
    pub version: Option<String>,
    /// When it was last written.
    pub last_modified: DateTime<Utc>,
    /// Its user metadata.
    pub metadata: Metadata,
}

/// What to copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopySource {
    /// The full name of its bucket.
    pub bucket: String,
    /// Its key.
    pub key: String,
    /// Copy only while it has this etag.
    pub etag: String,
    /// Its version, where the bucket keeps versions.
    pub version: Option<String>,
}

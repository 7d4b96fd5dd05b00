//! A new object, as a notification or a listing tells of it.

use serde::{Deserialize, Serialize};

/// A new object version. The record shape `object`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectEvent {
    /// The bucket's full name.
    pub bucket: String,
    /// The key, decoded.
    pub key: String,
    /// Its size.
    pub size_bytes: u64,
    /// Its etag, without quotes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub etag: Option<String>,
    /// Orders the events of one key. Only a notification has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sequencer: Option<String>,
    /// Its version, where the bucket keeps versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version_id: Option<String>,
    /// When it happened, in milliseconds since the epoch.
    pub event_ms: i64,
    /// Why it can't be used, once that is decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl ObjectEvent {
    /// The name of the record shape.
    pub const SHAPE: &'static str = "object";

    /// The object's URI.
    pub fn uri(&self) -> String {
        format!("s3://{}/{}", self.bucket, self.key)
    }
}

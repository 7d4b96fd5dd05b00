//! The events of a pipeline. Fields are only ever added.

use serde::{Deserialize, Serialize};

use super::manifest::ManifestItem;

/// The source of every event.
pub const SOURCE: &str = "etl.pipeline";
/// A manifest waits for a worker.
pub const MANIFEST_READY: &str = "ManifestReady";
/// A manifest was given up.
pub const MANIFEST_FAILED: &str = "ManifestFailed";
/// A manifest was converted without some of its files.
pub const FILES_FAILED: &str = "FilesFailed";

/// The detail of ManifestReady: the previous system's five fields, and ours.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ManifestReady {
    /// The URI of the manifest's JSON object.
    pub manifest_path: String,
    /// The date of its files.
    pub date_prefix: String,
    /// How many files it has.
    pub file_count: u64,
    /// The sort key of its item.
    pub file_key: String,
    /// When the event was made.
    pub timestamp: String,
    /// Its id.
    #[serde(default)]
    pub manifest_id: String,
    /// The stored bytes of its files.
    #[serde(default)]
    pub total_bytes: u64,
    /// The version of this shape.
    #[serde(default)]
    pub schema_version: u32,
}

impl ManifestReady {
    /// The event for a committed manifest.
    pub fn of(manifest: &ManifestItem, timestamp: String) -> Self {
        Self {
            manifest_path: manifest.manifest_path.clone(),
            date_prefix: manifest.date_prefix.clone(),
            file_count: manifest.file_count,
            file_key: manifest.file_key.clone(),
            timestamp,
            manifest_id: manifest.id().to_owned(),
            total_bytes: manifest.total_bytes,
            schema_version: super::SCHEMA_VERSION,
        }
    }
}

/// The detail of ManifestFailed and FilesFailed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ManifestFailed {
    /// The URI of the manifest's JSON object.
    pub manifest_path: String,
    /// The date of its files.
    pub date_prefix: String,
    /// The sort key of its item.
    pub file_key: String,
    /// Its id.
    pub manifest_id: String,
    /// How many files it has.
    pub file_count: u64,
    /// How many of them failed.
    pub failed_files: u64,
    /// Attempts to convert it.
    pub attempts: u32,
    /// The real error.
    pub error: String,
    /// When the event was made.
    pub timestamp: String,
    /// The version of this shape.
    pub schema_version: u32,
}

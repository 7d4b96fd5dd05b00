//! The data model: items of the tracking table, their states, and the objects and events around them.
//!
//! Names of attributes, states, keys and events are those of the previous system where it had them, so that its readers
//! see no change. Nothing here does I/O.

mod event;
mod file;
mod manifest;
mod object;
mod report;

use penstock_engine::cloud::{AttributeValue, Item};

pub use event::{FILES_FAILED, MANIFEST_FAILED, MANIFEST_READY, ManifestFailed, ManifestReady, SOURCE};
pub use file::{FileItem, FileState, SHARDS, date_of_key, file_key_of, foreign_file_key, shard_of, versioned_key};
pub use manifest::{
    Candidate, Commit, FlushReason, MANIFEST_KEY_PREFIX, ManifestFile, ManifestItem, ManifestJson, ManifestState,
    id_of_key, new_manifest_id,
};
pub use object::ObjectEvent;
pub use report::{AttemptReport, FileResult, REJECTS_PREFIX, REPORTS_PREFIX};

/// Names of attributes that more than one operator writes or tests.
pub mod attribute {
    /// Partition key: the date, YYYY-MM-DD.
    pub const DATE_PREFIX: &str = "date_prefix";
    /// Sort key: the file's key below its date, or `MANIFEST#…`.
    pub const FILE_KEY: &str = "file_key";
    /// The state, for files with their shard: `pending#3`.
    pub const STATUS: &str = "status";
    /// The manifest that a file belongs to, an S3 URI.
    pub const MANIFEST_PATH: &str = "manifest_path";
    /// The lease token of whoever works on a manifest.
    pub const TOKEN: &str = "token";
    /// Seconds since the epoch after which the item may vanish.
    pub const TTL: &str = "ttl";
    /// When the item last changed.
    pub const UPDATED_AT: &str = "updated_at";
    /// Since when a file is pending.
    pub const PENDING_SINCE: &str = "pending_since";
    /// When a file was last claimed. It stays when the claim is given back: from the first claim on, another version of the
    /// object has an item of its own.
    pub const CLAIMED_AT: &str = "claimed_at";
    /// The version of the item's shape.
    pub const SCHEMA_VERSION: &str = "schema_version";
}

/// The version of every item, event and JSON document that this release writes.
pub const SCHEMA_VERSION: u32 = 1;

/// The index by status and date.
pub const STATUS_INDEX: &str = "status-index";

/// An item that can't be read as what its key says it is.
#[derive(Debug, thiserror::Error)]
#[error("item {date_prefix}/{file_key} can't be read as a {what}: {source}")]
pub struct ItemError {
    date_prefix: String,
    file_key: String,
    what: &'static str,
    source: serde_dynamo::Error,
}

/// Reads an item as `T`.
pub fn read_item<T: serde::de::DeserializeOwned>(what: &'static str, item: &Item) -> Result<T, ItemError> {
    serde_dynamo::from_item(item.clone()).map_err(|source| ItemError {
        date_prefix: text(item, attribute::DATE_PREFIX).unwrap_or_default().to_owned(),
        file_key: text(item, attribute::FILE_KEY).unwrap_or_default().to_owned(),
        what,
        source,
    })
}

/// A string attribute of an item.
pub fn text<'a>(item: &'a Item, attribute: &str) -> Option<&'a str> {
    match item.get(attribute) {
        Some(AttributeValue::S(text)) => Some(text),
        _ => None,
    }
}

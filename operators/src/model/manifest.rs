//! The item and the JSON object of a manifest: a batch of files of one date.

use std::fmt;

use chrono::{DateTime, Utc};
use penstock_engine::cloud::{stage::Upload, table::Key};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{SCHEMA_VERSION, file::FileItem};

/// How the sort key of a manifest's item begins.
pub const MANIFEST_KEY_PREFIX: &str = "MANIFEST#";

/// Where a manifest stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ManifestState {
    /// Its files are being claimed.
    Assembling,
    /// It is committed and waits for a worker.
    Pending,
    /// A worker converts it.
    Processing,
    /// Its output is visible, whole.
    Completed,
    /// It was given up; its files failed.
    Failed,
    /// It was never committed; it has no files.
    Abandoned,
}

impl ManifestState {
    /// All states.
    pub const ALL: [Self; 6] =
        [Self::Assembling, Self::Pending, Self::Processing, Self::Completed, Self::Failed, Self::Abandoned];

    /// Its word in `status`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Assembling => "assembling",
            Self::Pending => "pending",
            Self::Processing => "processing",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Abandoned => "abandoned",
        }
    }

    /// Reads a status.
    pub fn parse(status: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == status)
    }
}

impl fmt::Display for ManifestState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Which threshold closed a manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FlushReason {
    /// Enough files.
    Files,
    /// Enough stored bytes.
    Bytes,
    /// The oldest has waited long enough.
    Age,
    /// The list of candidates would outgrow its item.
    ItemSize,
    /// A person asked for it.
    Manual,
}

impl FlushReason {
    /// Its word in items, events, metrics and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Files => "files",
            Self::Bytes => "bytes",
            Self::Age => "age",
            Self::ItemSize => "item_size",
            Self::Manual => "manual",
        }
    }
}

/// The item of a manifest, as read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ManifestItem {
    /// The date of its files.
    pub date_prefix: String,
    /// `MANIFEST#` and the name of its JSON object.
    pub file_key: String,
    /// Its state.
    pub status: ManifestState,
    /// The version of its shape; the previous system's items have none, and are left alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema_version: Option<u32>,
    /// The URI of its JSON object.
    pub manifest_path: String,
    /// The etag of its JSON object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub json_etag: Option<String>,
    /// How many files it has, once committed.
    #[serde(default)]
    pub file_count: u64,
    /// Their stored bytes.
    #[serde(default)]
    pub total_bytes: u64,
    /// Which threshold closed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flush_reason: Option<FlushReason>,
    /// The lease token of whoever works, or last worked, on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// How many attempts to convert it have begun.
    #[serde(default)]
    pub attempt: u32,
    /// How many of them a stopping worker handed back.
    #[serde(default)]
    pub handed_back: u32,
    /// How often completing its recorded commit was put off.
    #[serde(default)]
    pub completions: u32,
    /// Not to be tried again before then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_at: Option<DateTime<Utc>>,
    /// The files that may be claimed for it: while assembling only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub candidates: Option<Vec<Candidate>>,
    /// The recorded outputs of the attempt that won.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<Commit>,
    /// When it was made.
    pub created_at: String,
    /// When it last changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub updated_at: Option<String>,
    /// When ManifestReady was accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub announced_at: Option<String>,
    /// When its failure, or that of its files, was accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alerted_at: Option<String>,
    /// When its files had followed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settled_at: Option<String>,
    /// URIs of its Parquet objects.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outputs: Option<Vec<String>>,
    /// Rows in them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<u64>,
    /// Rejected lines.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rejected_rows: Option<u64>,
    /// Rows of records that Spark would have called corrupt (cast `spark`), if there are any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub corrupt_rows: Option<u64>,
    /// How many of its files failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed_files: Option<u64>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_message: Option<String>,
}

impl ManifestItem {
    /// Its key in the table.
    pub fn key(&self) -> Key {
        Key::new(&self.date_prefix, &self.file_key)
    }

    /// Its id: the name of its JSON object, without the ending.
    pub fn id(&self) -> &str {
        id_of_key(&self.file_key)
    }

    /// Whether it failed with its outputs recorded. Readers may see some of them, or yet come to: whoever was completing
    /// them may still be at it. So rows of its files may be there twice if these are converted again.
    pub fn has_lost_commit(&self) -> bool {
        self.status == ManifestState::Failed && self.commit.is_some()
    }

    /// Whether this release may touch it.
    pub fn is_ours(&self) -> bool {
        self.schema_version.is_some()
    }
}

/// The id of the manifest under a sort key.
pub fn id_of_key(file_key: &str) -> &str {
    let name = file_key.strip_prefix(MANIFEST_KEY_PREFIX).unwrap_or(file_key);
    name.strip_suffix(".json").unwrap_or(name)
}

/// A file that may be claimed for a manifest, as the fold's view knew it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Candidate {
    /// The file's key.
    pub file_key: String,
    /// Its etag then.
    pub etag: Option<String>,
    /// Since when it was pending then.
    pub pending_since: Option<String>,
}

/// The outputs of the attempt that won, recorded before they are completed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Commit {
    /// The attempt's token.
    pub token: String,
    /// Its staged uploads. The tags of their parts stand in the report.
    pub uploads: Vec<Upload>,
    /// The key of its report in the manifest bucket.
    pub report_key: String,
    /// The report's etag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report_etag: Option<String>,
    /// The key of its rejects in the quarantine bucket, if there are any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rejects_key: Option<String>,
    /// The rejects' etag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rejects_etag: Option<String>,
    /// Rows.
    pub rows: u64,
    /// Rejected lines.
    pub rejected_rows: u64,
    /// Rows of records that Spark would have called corrupt (cast `spark`), if there are any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub corrupt_rows: Option<u64>,
    /// Files that failed.
    pub failed_files: u64,
    /// Why the first of them failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_failure: Option<String>,
    /// How often staged bytes of it were lost and staged again.
    #[serde(default)]
    pub staged_again: u32,
}

/// The JSON object of a manifest: created once, and from then on the membership.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ManifestJson {
    /// What the previous system's readers look for.
    #[serde(rename = "fileLocations")]
    pub file_locations: Value,
    /// The version of its shape.
    pub schema_version: u32,
    /// Its id.
    pub manifest_id: String,
    /// The date of its files.
    pub date_prefix: String,
    /// When its assembly began: also the `_processing_timestamp` of its rows, so that a second attempt writes the same.
    pub created_at: DateTime<Utc>,
    /// Its files, in the order of their rows.
    pub files: Vec<ManifestFile>,
}

/// A file of a manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestFile {
    /// The object's URI.
    pub uri: String,
    /// Its size.
    pub size_bytes: u64,
    /// The etag that was claimed.
    pub etag: Option<String>,
    /// The version that was claimed, where the bucket keeps versions.
    pub version_id: Option<String>,
    /// The key of its item.
    pub file_key: String,
}

impl ManifestJson {
    /// The membership of manifest `manifest_id`: these claimed files.
    pub fn new(manifest_id: &str, date_prefix: &str, created_at: DateTime<Utc>, files: &[FileItem]) -> Self {
        let uris: Vec<&str> = files.iter().map(|file| file.file_path.as_str()).collect();
        let member = |file: &FileItem| ManifestFile {
            uri: file.file_path.clone(),
            size_bytes: file.size_bytes,
            etag: file.etag.clone(),
            version_id: file.version_id.clone(),
            file_key: file.file_key.clone(),
        };
        Self {
            file_locations: json!([{ "URIPrefixes": uris }]),
            schema_version: SCHEMA_VERSION,
            manifest_id: manifest_id.to_owned(),
            date_prefix: date_prefix.to_owned(),
            created_at,
            files: files.iter().map(member).collect(),
        }
    }

    /// The stored bytes of its files.
    pub fn total_bytes(&self) -> u64 {
        self.files.iter().map(|file| file.size_bytes).sum()
    }
}

/// The id of a new manifest. `random` keeps names apart that are made in the same second.
pub fn new_manifest_id(batch: u32, now: DateTime<Utc>, random: u32) -> String {
    format!("batch-{:04}-{}-{:06x}", batch % 10_000, now.format("%Y%m%d-%H%M%S"), random & 0xff_ffff)
}

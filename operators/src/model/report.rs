//! The report of an attempt: what became of each file, and how to complete each output. Created once, one line of JSON.

use penstock_engine::cloud::stage::{Part, Upload};
use serde::{Deserialize, Serialize};

/// The report of the attempt that a commit names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AttemptReport {
    /// The version of its shape.
    pub schema_version: u32,
    /// The manifest's id.
    pub manifest_id: String,
    /// The date of its files.
    pub date_prefix: String,
    /// The attempt's token.
    pub token: String,
    /// Which attempt it is, from 1 on.
    pub attempt: u32,
    /// When it began.
    pub started_at: String,
    /// When it ended.
    pub ended_at: String,
    /// Passes over the files that it took.
    pub passes: u32,
    /// Rows.
    pub rows: u64,
    /// Rejected lines.
    pub rejected_rows: u64,
    /// Keys that came twice in one object; the last counted.
    pub duplicate_keys: u64,
    /// The staged outputs.
    pub parts: Vec<ReportedPart>,
    /// What became of each file of the manifest.
    pub files: Vec<FileResult>,
}

/// A staged output, with what completing it takes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReportedPart {
    /// The upload.
    pub upload: Upload,
    /// The tags of its parts.
    pub parts: Vec<Part>,
    /// Its rows.
    pub rows: u64,
    /// Its size.
    pub size_bytes: u64,
}

/// What became of a file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FileResult {
    /// The key of its item.
    pub file_key: String,
    /// Rows that it gave.
    #[serde(default)]
    pub rows: u64,
    /// Its rejected lines.
    #[serde(default)]
    pub rejected_rows: u64,
    /// Why it failed: a word (`missing`, `changed`, …).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
    /// Why it failed: the words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

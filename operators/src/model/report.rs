//! The report of an attempt: what became of each file, and how to complete each output. Created once, one line of JSON.

use serde::{Deserialize, Serialize};

use crate::convert::{FileOutcome, StagedPart};

/// How the keys of reports begin.
pub const REPORTS_PREFIX: &str = "logs/convert/";
/// How the keys of rejected lines begin.
pub const REJECTS_PREFIX: &str = "rejects/";

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
    /// Rows of records that Spark would have called corrupt (cast `spark`).
    #[serde(default)]
    pub corrupt_rows: u64,
    /// The staged outputs, with what completing them takes.
    pub parts: Vec<StagedPart>,
    /// What became of each file of the manifest.
    pub files: Vec<FileResult>,
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

impl From<FileOutcome> for FileResult {
    fn from(outcome: FileOutcome) -> Self {
        match outcome {
            FileOutcome::Converted { file_key, rows, rejected_rows } => {
                Self { file_key, rows, rejected_rows, failure: None, message: None }
            }
            FileOutcome::Failed { file_key, reason, message } => Self {
                file_key,
                rows: 0,
                rejected_rows: 0,
                failure: Some(reason.as_str().to_owned()),
                message: Some(message),
            },
        }
    }
}

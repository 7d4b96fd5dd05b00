//! Whether a day adds up: inputs, items, manifests, their JSON, reports, Parquet and rejects.
//!
//! `gather` reads one date's partition, page by page, and what its manifests name; nothing of other dates is read.
//! `check` compares, and is pure.

mod check;
mod gather;
mod parquet;

use serde::Serialize;

pub use check::check;
pub use gather::verify;

/// What a day came to.
#[derive(Debug, Default, Serialize)]
pub struct Verdict {
    /// The date.
    pub date: String,
    /// Objects below the date's folder in the input bucket.
    pub inputs: u64,
    /// Files by state.
    pub files: std::collections::BTreeMap<&'static str, u64>,
    /// Manifests by state.
    pub manifests: std::collections::BTreeMap<&'static str, u64>,
    /// Rows by the completed manifests.
    pub rows: u64,
    /// Rows by the footers of the Parquet.
    pub parquet_rows: u64,
    /// Parquet objects.
    pub parquet_files: u64,
    /// Rejected lines by the completed manifests.
    pub rejected_rows: u64,
    /// Of them, those that are kept.
    pub kept_rejects: u64,
    /// Items of the previous system, which are not looked at.
    pub foreign: u64,
    /// Objects and files that can't be checked: they are older than what is finished keeps its items.
    pub expired: u64,
    /// What is wrong.
    pub off: Vec<Off>,
    /// What isn't finished yet; no fault.
    pub unfinished: Vec<String>,
}

/// Something that doesn't add up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Off {
    /// A word for the kind of it.
    pub kind: &'static str,
    /// The file, manifest or object.
    pub what: String,
    /// What is wrong with it.
    pub why: String,
}

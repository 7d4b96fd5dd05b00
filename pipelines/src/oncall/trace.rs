//! The whole story of a file or a manifest: what is known of it, in order, and what comes next and why it waits.
//!
//! `gather` fetches facts by key, never by scanning; `next` says what they mean, and is pure.

mod gather;
mod next;
mod tell;

use chrono::{DateTime, Utc};
use penstock_engine::cloud::queue::QueueDepth;
use penstock_operators::model::{AttemptReport, FileItem, FileResult, ManifestItem, ManifestJson};
use serde::Serialize;
use serde_json::Value;

use super::Layout;

pub use gather::{Options, trace};
pub use next::{Next, next_of_file, next_of_manifest};
pub use tell::tell;

/// What is known of one file, or of one manifest.
#[derive(Debug, Serialize)]
pub struct Story {
    /// What was asked for.
    pub asked: String,
    /// Each version of the file, the first one first; empty for a manifest.
    pub files: Vec<FileStory>,
    /// The manifest, if one was asked for.
    pub manifest: Option<ManifestStory>,
    /// Messages in queues of dead letters: one of them may be about this.
    pub dead_letters: Vec<(String, u64)>,
}

/// What is known of a file.
#[derive(Debug, Serialize)]
pub struct FileStory {
    /// Its item.
    pub item: FileItem,
    /// Its object.
    pub object: Object,
    /// Its copy in quarantine, if it has one.
    pub quarantined_as: Option<String>,
    /// The manifest that it is in.
    pub manifest: Option<ManifestStory>,
    /// What the attempts report of it.
    pub results: Vec<(String, FileResult)>,
    /// Some of its rejected lines.
    pub rejects: Vec<Value>,
    /// Its changes, as far as the stream keeps them; only if asked for.
    pub history: Vec<Step>,
    /// What comes next.
    pub next: Next,
}

/// What became of an object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Object {
    /// It is there, as the item tells.
    There {
        /// When it was last written.
        last_modified: DateTime<Utc>,
    },
    /// Another version is there.
    Replaced {
        /// Its etag.
        etag: String,
        /// When it was written.
        last_modified: DateTime<Utc>,
    },
    /// It is gone.
    Gone,
    /// It is in another bucket than the pipeline's input.
    Elsewhere,
}

/// What is known of a manifest.
#[derive(Debug, Serialize)]
pub struct ManifestStory {
    /// Its item.
    pub item: ManifestItem,
    /// Whether its JSON object is there, and how many files it lists.
    pub listed: Option<usize>,
    /// That object.
    #[serde(skip)]
    pub membership: Option<ManifestJson>,
    /// Every attempt that left a report, the first one first.
    pub attempts: Vec<Attempt>,
    /// Its outputs, and how many bytes each has; `None` where it isn't there.
    pub outputs: Vec<(String, Option<u64>)>,
    /// Who works on it.
    pub holder: Option<String>,
    /// Its files by state, as far as they were looked at.
    pub members: Vec<(String, String)>,
    /// Its changes, as far as the stream keeps them; only if asked for.
    pub history: Vec<Step>,
    /// What comes next.
    pub next: Next,
}

/// An attempt to convert a manifest.
#[derive(Debug, Serialize)]
pub struct Attempt {
    /// Its report.
    pub report_key: String,
    /// Whether it is the one that counts.
    pub won: bool,
    /// What it says.
    #[serde(flatten)]
    pub report: AttemptReport,
}

/// A change of an item.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Step {
    /// When, to the second.
    pub at: DateTime<Utc>,
    /// Insert, modify or remove.
    pub kind: String,
    /// The status after it.
    pub status: Option<String>,
    /// The attributes that it changed.
    pub changed: Vec<String>,
}

/// Depths of queues that matter to a story.
pub type Depths = std::collections::BTreeMap<String, QueueDepth>;

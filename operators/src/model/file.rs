//! The item of a file: one landed object version, and where it stands.

use std::fmt;

use chrono::NaiveDate;
use md5::{Digest, Md5};
use penstock_engine::cloud::{limits::SORT_KEY_BYTES, table::Key};
use serde::{Deserialize, Serialize};
use sha2::Sha256;

use super::manifest::MANIFEST_KEY_PREFIX;

/// Number of shards of a file's status, which spread the index over as many partitions.
pub const SHARDS: u8 = 10;

/// Prefixes of sort keys that are not files.
const RESERVED: [&str; 3] = [MANIFEST_KEY_PREFIX, "LOCK#", "~"];

/// Room for `@{etag}` behind a file key.
const SUFFIX_BYTES: usize = 100;

/// Where a file stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FileState {
    /// Waits for a manifest.
    Pending,
    /// In a manifest.
    Manifested,
    /// Its lines are rows or rejects of a completed manifest.
    Completed,
    /// It could not be converted, for the reason in its item.
    Failed,
    /// It can't be used, for the reason in its item.
    Quarantined,
}

impl FileState {
    /// All states.
    pub const ALL: [Self; 5] = [Self::Pending, Self::Manifested, Self::Completed, Self::Failed, Self::Quarantined];

    /// Its word in `status`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Manifested => "manifested",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Quarantined => "quarantined",
        }
    }

    /// The status of a file of `shard` in this state: `pending#3`.
    pub fn status(self, shard: u8) -> String {
        format!("{}#{shard}", self.as_str())
    }

    /// Reads a status, sharded or, as the previous system once wrote it, not.
    pub fn parse(status: &str) -> Option<Self> {
        let word = status.split_once('#').map_or(status, |(word, _)| word);
        Self::ALL.into_iter().find(|state| state.as_str() == word)
    }

    /// Whether nothing happens to the file any more by itself.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Quarantined)
    }
}

impl fmt::Display for FileState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The item of a file, as read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FileItem {
    /// The date that it belongs to.
    pub date_prefix: String,
    /// Its key below the date.
    pub file_key: String,
    /// Its state and shard.
    pub status: String,
    /// The object's URI.
    pub file_path: String,
    /// The object's size.
    #[serde(default)]
    pub size_bytes: u64,
    /// The object's etag; the previous system kept none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub etag: Option<String>,
    /// The newest sequencer that was heeded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sequencer: Option<String>,
    /// The object's version, where its bucket keeps versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version_id: Option<String>,
    /// Its shard: MD5 of the file key, modulo [`SHARDS`].
    #[serde(default)]
    pub shard_id: u8,
    /// When it was first seen.
    #[serde(default)]
    pub created_at: String,
    /// Since when it is pending.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending_since: Option<String>,
    /// When the item last changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub updated_at: Option<String>,
    /// When it was last claimed for a manifest, even if the claim was given back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claimed_at: Option<String>,
    /// The manifest that it is in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest_path: Option<String>,
    /// Rows that it gave.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<u64>,
    /// Lines that were rejected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rejected_rows: Option<u64>,
    /// Why it failed or was quarantined, in short.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_message: Option<String>,
}

impl FileItem {
    /// Its state; `None` for a status that this release doesn't know.
    pub fn state(&self) -> Option<FileState> {
        FileState::parse(&self.status)
    }

    /// Its key in the table.
    pub fn key(&self) -> Key {
        Key::new(&self.date_prefix, &self.file_key)
    }

    /// The key of the manifest that it is in.
    pub fn manifest_key(&self) -> Option<Key> {
        let name = self.manifest_path.as_deref()?.rsplit('/').next()?;
        Some(Key::new(&self.date_prefix, format!("{MANIFEST_KEY_PREFIX}{name}")))
    }

    /// Whether a key is that of a file: below a date, and no manifest's. The schema and the previous system's locks stand
    /// below other partition keys.
    pub fn is_file_key(key: &Key) -> bool {
        NaiveDate::parse_from_str(&key.partition, "%Y-%m-%d").is_ok() && !key.sort.starts_with(MANIFEST_KEY_PREFIX)
    }
}

/// The shard of a file: MD5 of its key as a big integer, modulo [`SHARDS`].
pub fn shard_of(file_key: &str) -> u8 {
    Md5::digest(file_key.as_bytes())
        .iter()
        .fold(0_u32, |rest, byte| (rest * 256 + u32::from(*byte)) % u32::from(SHARDS)) as u8
}

/// The first real calendar date, YYYY-MM-DD, in an object's key, and where it begins.
pub fn date_of_key(key: &str) -> Option<(usize, &str)> {
    let is_date = |text: &str| {
        let shape = text.bytes().enumerate().all(|(at, byte)| match at {
            4 | 7 => byte == b'-',
            _ => byte.is_ascii_digit(),
        });
        shape && NaiveDate::parse_from_str(text, "%Y-%m-%d").is_ok()
    };
    (0..key.len().saturating_sub(9))
        .find_map(|start| key.get(start..start + 10).filter(|text| is_date(text)).map(|text| (start, text)))
}

/// The file key of an object: what stands below its date folder, else below the input prefix. With `full`, its whole
/// key: for when the short one belongs to another object.
pub fn file_key_of(key: &str, input_prefix: &str, full: bool) -> String {
    let below_prefix = key.strip_prefix(input_prefix).unwrap_or(key);
    let below_date = date_of_key(key).and_then(|(start, date)| {
        let is_folder_start = start == 0 || key.as_bytes()[start - 1] == b'/';
        key[start + date.len()..].strip_prefix('/').filter(|rest| is_folder_start && !rest.is_empty())
    });
    let short = if full { key } else { below_date.unwrap_or(below_prefix) };
    let too_long = short.len() + SUFFIX_BYTES > SORT_KEY_BYTES;
    if too_long || short.is_empty() || RESERVED.iter().any(|prefix| short.starts_with(prefix)) {
        format!("~{}", hex(&Sha256::digest(key.as_bytes())))
    } else {
        short.to_owned()
    }
}

/// The file key of an object of another bucket: no object of the pipeline's own bucket has it.
pub fn foreign_file_key(uri: &str) -> String {
    format!("~{}", hex(&Sha256::digest(uri.as_bytes())))
}

/// The key of a later version of a file that has left `pending`.
pub fn versioned_key(file_key: &str, etag: &str) -> String {
    format!("{file_key}@{etag}")
}

fn hex(bytes: &[u8]) -> String {
    use fmt::Write;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // Writing to a String can't fail.
        if write!(text, "{byte:02x}").is_err() {
            text.clear();
        }
        text
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_date_is_the_first_real_one() {
        assert_eq!(date_of_key("landing/ndjson/2026-02-01/a.ndjson"), Some((15, "2026-02-01")));
        assert_eq!(date_of_key("landing/2026-13-01/2026-02-03-a.ndjson"), Some((19, "2026-02-03")));
        assert_eq!(date_of_key("x2026-02-30y"), None);
        assert_eq!(date_of_key("é2026-02-28"), Some((2, "2026-02-28")));
        assert_eq!(date_of_key("2026-2-1"), None);
    }

    #[test]
    fn file_keys_tell_nested_folders_apart() {
        let key = |key: &str| file_key_of(key, "landing/ndjson/", false);
        assert_eq!(key("landing/ndjson/2026-02-01/a.ndjson"), "a.ndjson");
        assert_eq!(key("landing/ndjson/2026-02-01/eu/a.ndjson"), "eu/a.ndjson");
        assert_eq!(key("landing/ndjson/2026-02-01-a.ndjson"), "2026-02-01-a.ndjson");
        assert_eq!(key("landing/ndjson/a.ndjson"), "a.ndjson");
        assert_eq!(
            file_key_of("landing/ndjson/2026-02-01/a.ndjson", "landing/ndjson/", true),
            "landing/ndjson/2026-02-01/a.ndjson"
        );
    }

    #[test]
    fn keys_in_a_reserved_namespace_or_too_long_are_hashed() {
        assert!(file_key_of("p/2026-02-01/MANIFEST#x", "p/", false).starts_with('~'));
        assert!(file_key_of("p/2026-02-01/LOCK#x", "p/", false).starts_with('~'));
        assert_eq!(file_key_of(&format!("p/{}", "k".repeat(1000)), "p/", false).len(), 65);
    }

    #[test]
    fn other_items_of_the_table_are_no_files() {
        let is_file = |partition: &str, sort: &str| FileItem::is_file_key(&Key::new(partition, sort));
        assert!(is_file("2026-02-01", "a.ndjson") && is_file("2026-02-01", "columns"));
        assert!(!is_file("2026-02-01", "MANIFEST#batch-0001.json"));
        assert!(!is_file("SCHEMA", "columns") && !is_file("LOCK#2026-02-01", "LOCK"));
    }

    #[test]
    fn shards_are_those_of_the_previous_system() {
        // int(md5(key).hexdigest(), 16) % 10, as Python says it.
        assert_eq!(["a.ndjson", "data-001.ndjson", "data-002.ndjson"].map(shard_of), [4, 1, 8]);
    }

    proptest! {
        #[test]
        fn a_status_reads_back(index in 0_usize..5, shard in 0_u8..SHARDS) {
            let state = FileState::ALL[index];
            prop_assert_eq!(FileState::parse(&state.status(shard)), Some(state));
        }

        #[test]
        fn a_file_key_always_fits_and_is_never_reserved(key in "\\PC{1,400}") {
            let file_key = file_key_of(&key, "landing/", false);
            prop_assert!(!file_key.is_empty() && file_key.len() + SUFFIX_BYTES <= SORT_KEY_BYTES);
            prop_assert!(FileItem::is_file_key(&Key::new("2026-02-01", file_key)));
        }
    }
}

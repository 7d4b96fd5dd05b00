//! Landing files of this machine: copies them into the folder of the input bucket, where the watch finds them.
//!
//! On one machine a copy appears whole or not at all: it is made in the bucket's hidden folder and renamed into place;
//! elsewhere the file is uploaded. A file keeps what stands below the pattern's first wildcard. If that says no date, the
//! nearest folder above that is named by one does; if none is, the file belongs to the day on which it was last modified. So
//! landing the same files again lands nothing new.

use std::{
    fs,
    path::{Component, Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, bail};
use chrono::{DateTime, Utc};
use object_store::buffered::BufWriter;
use penstock_engine::cloud::Bucket;
use penstock_operators::model::date_of_key;
use tokio::io::AsyncWriteExt;

use crate::loader::Pipeline;

/// The folder of a bucket's folder in which nothing is an object.
const STAGING: &str = ".penstock/staging";

/// A file to land, and its key in the input bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Landing {
    /// The file on this machine.
    pub file: PathBuf,
    /// Its key.
    pub key: String,
    /// Its size.
    pub size_bytes: u64,
}

/// The files that a pattern names, with their keys below `prefix`. A folder stands for all that is in it.
pub fn find(pattern: &str, prefix: &str) -> anyhow::Result<Vec<Landing>> {
    let pattern = if Path::new(pattern).is_dir() {
        format!("{}/**/*", pattern.trim_end_matches('/'))
    } else {
        pattern.to_owned()
    };
    let base = fixed_base(&pattern);
    let mut found = Vec::new();
    for path in glob::glob(&pattern).with_context(|| format!("`{pattern}` is no pattern of files"))? {
        let path = path.context("a folder can't be read")?;
        if path.is_file() {
            found.push(landing(&path, &base, prefix)?);
        }
    }
    if found.is_empty() {
        bail!("no file matches `{pattern}`");
    }
    Ok(found)
}

fn landing(path: &Path, base: &Path, prefix: &str) -> anyhow::Result<Landing> {
    let metadata = path.metadata().with_context(|| format!("{} can't be read", path.display()))?;
    let below = path.strip_prefix(base).unwrap_or(path);
    let names = below.components().filter_map(|part| match part {
        Component::Normal(name) => Some(name.to_str()),
        _ => None,
    });
    let names: Option<Vec<&str>> = names.collect();
    let Some(names) = names else { bail!("{} has a name that is not UTF-8", path.display()) };
    let below = names.join("/");
    let key = if date_of_key(&below).is_some() {
        format!("{prefix}{below}")
    } else if let Some(dated) = below_dated_folder(base, &below) {
        format!("{prefix}{dated}")
    } else {
        let modified: DateTime<Utc> = metadata.modified().context("no time of modification")?.into();
        format!("{prefix}{}/{below}", modified.format("%Y-%m-%d"))
    };
    Ok(Landing { file: path.to_owned(), key, size_bytes: metadata.len() })
}

/// What stands below `base`, from the nearest of its folders on whose whole name is a date; `None` if there is none.
fn below_dated_folder(base: &Path, below: &str) -> Option<String> {
    let folders: Vec<&str> = base.components().map(|part| part.as_os_str().to_str()).collect::<Option<_>>()?;
    let is_date = |folder: &&str| folder.len() == "YYYY-MM-DD".len() && date_of_key(folder).is_some();
    let nearest = folders.iter().rposition(is_date)?;
    Some([&folders[nearest..], &[below]].concat().join("/"))
}

/// The folders of a pattern before its first wildcard.
fn fixed_base(pattern: &str) -> PathBuf {
    let parts: Vec<Component> = Path::new(pattern).components().collect();
    let is_wild = |part: &Component| part.as_os_str().to_string_lossy().contains(['*', '?', '[']);
    let fixed = parts.iter().position(is_wild).unwrap_or(parts.len().saturating_sub(1));
    parts[..fixed].iter().collect()
}

/// The folder of a bucket of the local cloud in `dir`.
pub fn bucket_dir(dir: &Path, pipeline: &Pipeline, bucket: &str) -> PathBuf {
    dir.join("s3").join(pipeline.naming.bucket(bucket))
}

/// Copies a file into the folder of the input bucket.
pub fn land(landing: &Landing, bucket_dir: &Path) -> anyhow::Result<()> {
    let target = bucket_dir.join(&landing.key);
    let Some(folder) = target.parent() else {
        bail!("{} has no place in a bucket", landing.key);
    };
    // What a killed copy leaves there is removed with whatever else was staged and never finished.
    let staging = bucket_dir.join(STAGING);
    for folder in [folder, &staging] {
        fs::create_dir_all(folder).with_context(|| format!("{} can't be made", folder.display()))?;
    }
    let copy = staging.join(format!("{:032x}", rand::random::<u128>()));
    fs::copy(&landing.file, &copy).with_context(|| format!("{} can't be copied", landing.file.display()))?;
    fs::rename(&copy, &target).with_context(|| format!("{} can't be made", target.display()))
}

/// Uploads a file to a bucket, in parts if it is large: it appears whole or not at all.
pub async fn upload(landing: &Landing, bucket: &Bucket) -> anyhow::Result<()> {
    let failed = || format!("{} can't be uploaded to s3://{}/{}", landing.file.display(), bucket.name, landing.key);
    let key = object_store::path::Path::parse(&landing.key).with_context(failed)?;
    let mut file = tokio::fs::File::open(&landing.file).await.with_context(failed)?;
    let mut writer = BufWriter::new(Arc::clone(&bucket.store), key);
    // Without the shutdown nothing appears: an upload that failed half-way leaves no object.
    tokio::io::copy(&mut file, &mut writer).await.with_context(failed)?;
    writer.shutdown().await.with_context(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_keep_what_stands_below_the_pattern_and_get_a_date_if_they_have_none() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a/2026-02-01/x.ndjson", "a/y.ndjson", "b.csv"] {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, "{}\n").unwrap();
        }
        let pattern = format!("{}/**/*.ndjson", dir.path().display());
        let mut keys: Vec<String> = find(&pattern, "in/").unwrap().into_iter().map(|landing| landing.key).collect();
        keys.sort();
        let modified: DateTime<Utc> = dir.path().join("a/y.ndjson").metadata().unwrap().modified().unwrap().into();
        let day = modified.format("%Y-%m-%d");
        assert_eq!(keys, [format!("in/{day}/a/y.ndjson"), "in/a/2026-02-01/x.ndjson".to_owned()]);
        assert_eq!(find(&dir.path().display().to_string(), "in/").unwrap().len(), 3);
        assert!(
            find(&format!("{}/*.parquet", dir.path().display()), "in/")
                .unwrap_err()
                .to_string()
                .starts_with("no file matches")
        );
    }

    #[test]
    fn a_file_or_a_pattern_below_a_dated_folder_keeps_its_date() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["2025-01-01/2026-02-01/eu/x.ndjson", "2026-02-30/y.ndjson", "of-2026-02-01/z.ndjson"] {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, "{}\n").unwrap();
        }
        let key = |pattern: &str| {
            let found = find(&dir.path().join(pattern).display().to_string(), "in/").unwrap();
            assert_eq!(found.len(), 1, "{pattern}");
            found[0].key.clone()
        };
        for pattern in ["2025-01-01/2026-02-01/eu/x.ndjson", "2025-01-01/2026-02-01/eu", "2025-01-01/2026-02-01/eu/*"] {
            assert_eq!(key(pattern), "in/2026-02-01/eu/x.ndjson", "{pattern}");
        }
        assert_eq!(key("2025-01-01/2026-02-01"), "in/2026-02-01/eu/x.ndjson");
        let modified: DateTime<Utc> =
            dir.path().join("2026-02-30/y.ndjson").metadata().unwrap().modified().unwrap().into();
        let day = modified.format("%Y-%m-%d");
        assert_eq!(key("2026-02-30/y.ndjson"), format!("in/{day}/y.ndjson"), "it is no date of the calendar");
        assert_eq!(key("of-2026-02-01/z.ndjson"), format!("in/{day}/z.ndjson"), "it is no date alone");
    }

    #[test]
    fn a_landed_file_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("f");
        fs::write(&file, "{}\n").unwrap();
        let landing = Landing { file, key: "in/2026-02-01/f.ndjson".to_owned(), size_bytes: 3 };
        land(&landing, &dir.path().join("bucket")).unwrap();
        assert_eq!(fs::read(dir.path().join("bucket/in/2026-02-01/f.ndjson")).unwrap(), b"{}\n");
        assert_eq!(
            fs::read_dir(dir.path().join("bucket/in/2026-02-01")).unwrap().count(),
            1,
            "the copy was left behind"
        );
        assert_eq!(fs::read_dir(dir.path().join("bucket").join(STAGING)).unwrap().count(), 0);
    }
}

//! Converts files of this machine into one Parquet file: no table, no bucket, no account.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use chrono::Utc;
use object_store::ObjectStore;
use object_store::local::LocalFileSystem;
use penstock_engine::cloud::stage::Completion;
use penstock_engine::cloud::{Bucket, Stage};
use tokio_util::sync::CancellationToken;

use super::columns::MemoryCatalog;
use super::file_stage::FileStage;
use super::{Buckets, Conversion, ConvertError, ConvertOptions, Converted, InputFile, OutputName, Progress, convert};

/// Converts `files`, as [`look_at`] found them (`.gz` and `.zst` by their names' ends), into `output`, which appears when it
/// is whole, in place of what stood there. Rejects go into `{output}.rejects.ndjson`; without one, there is no such file
/// afterwards. Without a row nothing is written to `output`.
pub async fn convert_files(
    files: Vec<InputFile>,
    output: &Path,
    options: &ConvertOptions,
    progress: &Progress,
    cancel: &CancellationToken,
) -> Result<Converted, ConvertError> {
    let output = std::path::absolute(output).map_err(|error| invalid(output, error))?;
    let (Some(folder), Some(name)) = (output.parent(), output.file_name().and_then(|name| name.to_str())) else {
        return Err(invalid(&output, "not the path of a file"));
    };
    let stage: Arc<dyn Stage> = Arc::new(FileStage::new(output.clone()));
    let beside: Arc<dyn ObjectStore> =
        Arc::new(LocalFileSystem::new_with_prefix(folder).map_err(|error| invalid(folder, error))?);
    let input = Bucket { name: "files".to_owned(), store: Arc::new(LocalFileSystem::new()), stage: stage.clone() };
    let beside = Bucket { name: "output".to_owned(), store: beside, stage };
    let now = Utc::now();
    let conversion = Conversion {
        manifest_id: name.to_owned(),
        pipeline: None,
        created_at: now,
        files,
        output: OutputName::Single(name.to_owned()),
        rejects_key: Some(format!("{name}.rejects.ndjson")),
        token: format!("{}-{}", std::process::id(), now.timestamp_micros()),
    };
    let catalog = MemoryCatalog::default();
    let buckets = Buckets { input, output: beside.clone(), rejects: Some(beside) };
    let converted = convert(&conversion, &buckets, &catalog, options, progress, cancel).await?;
    for part in &converted.parts {
        match buckets.output.stage.complete(&part.upload, &part.parts).await {
            Ok(Completion::Visible { .. }) => {}
            Ok(Completion::Lost) => return Err(invalid(&output, "its hidden file was removed")),
            Err(error) => return Err(ConvertError::from_cloud("complete the output", &error)),
        }
    }
    if converted.rejects.is_none() {
        // What an earlier conversion left there says nothing of this one.
        match fs::remove_file(folder.join(format!("{name}.rejects.ndjson"))) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(invalid(&output, error)),
            _ => {}
        }
    }
    Ok(converted)
}

/// What is known of files of this machine before they are read; none for what is there and is no file. There may be very
/// many, and each costs a few system calls, so all cores look. It blocks.
pub fn look_at(paths: &[PathBuf]) -> Result<Vec<Option<InputFile>>, ConvertError> {
    let share = paths.len().div_ceil(std::thread::available_parallelism().map_or(1, |cores| cores.get())).max(1);
    let look = |paths: &[PathBuf]| {
        let mut places = Places::default();
        paths.iter().map(|path| look_at_one(path, &mut places)).collect::<Result<Vec<_>, _>>()
    };
    std::thread::scope(|scope| {
        let looking: Vec<_> = paths.chunks(share).map(|paths| scope.spawn(move || look(paths))).collect();
        let mut all = Vec::with_capacity(paths.len());
        for share in looking {
            all.extend(share.join().map_err(|_| ConvertError::Invalid("a look at the files panicked".to_owned()))??);
        }
        Ok(all)
    })
}

/// Where files really are: a store's keys have no `..` and follow no links. Files mostly come folder by folder, and to
/// resolve a path takes a system call for each of its parts.
#[derive(Default)]
struct Places {
    /// The folder that was asked for last, and what it really is.
    folder: Option<(PathBuf, PathBuf)>,
}

impl Places {
    /// Where `path` really is, if that is a file, and what is known of it.
    fn find(&mut self, path: &Path) -> io::Result<Option<(PathBuf, Metadata)>> {
        let found = fs::symlink_metadata(path)?;
        if found.is_symlink() {
            let place = fs::canonicalize(path)?;
            let found = fs::metadata(&place)?;
            return Ok(found.is_file().then_some((place, found)));
        }
        if !found.is_file() {
            return Ok(None);
        }
        let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
            return Ok(Some((fs::canonicalize(path)?, found)));
        };
        let known = self.folder.take().filter(|(last, _)| last == folder);
        let (_, place) = self.folder.insert(match known {
            Some(known) => known,
            None => {
                let here = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
                (folder.to_owned(), fs::canonicalize(here)?)
            }
        });
        let mut path = PathBuf::with_capacity(place.as_os_str().len() + 1 + name.len());
        path.extend([place.as_os_str(), name]);
        Ok(Some((path, found)))
    }
}

fn look_at_one(named: &Path, places: &mut Places) -> Result<Option<InputFile>, ConvertError> {
    let Some((path, found)) = places.find(named).map_err(|error| invalid(named, error))? else { return Ok(None) };
    let path = path.to_str().ok_or_else(|| invalid(named, "its name is not UTF-8"))?;
    if is_unfinished(path) {
        return Err(invalid(named, "a name that ends in # and digits is one of an unfinished upload; rename it"));
    }
    Ok(Some(InputFile {
        uri: ["file://", path].concat(),
        key: object_store::path::Path::parse(path).map_err(|error| invalid(named, error))?.into(),
        size_bytes: found.len(),
        etag: Some(etag(&found)),
        version: None,
        file_key: named.display().to_string(),
    }))
}

/// Whether the store would take it for an upload of its own that isn't whole yet.
fn is_unfinished(path: &str) -> bool {
    let end = path.rsplit_once('#').map(|(_, end)| end);
    end.is_some_and(|end| !end.is_empty() && end.bytes().all(|byte| byte.is_ascii_digit()))
}

/// The etag that the store will tell. To ask it would open each file once more.
fn etag(file: &Metadata) -> String {
    let modified = file.modified().ok().and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok());
    format!("{:x}-{:x}-{:x}", file.ino(), modified.unwrap_or_default().as_micros(), file.len())
}

fn invalid(path: &Path, why: impl std::fmt::Display) -> ConvertError {
    ConvertError::Invalid(format!("{}: {why}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use object_store::ObjectStoreExt;

    use super::*;
    use crate::convert::testing::{data, rows};

    fn names(folder: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(folder).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    async fn run(files: &[PathBuf], output: &Path, cancel: &CancellationToken) -> Result<Converted, ConvertError> {
        let files = look_at(files)?.into_iter().flatten().collect();
        convert_files(files, output, &ConvertOptions::default(), &Progress::default(), cancel).await
    }

    #[tokio::test]
    async fn files_become_one_file() {
        let folder = tempfile::tempdir().unwrap();
        let (plain, zipped) = (folder.path().join("a #1 ä%20.ndjson"), folder.path().join("b.ndjson.gz"));
        std::fs::write(&plain, "{\"a\":1}\nno\n{\"a\":2}\n").unwrap();
        let mut gz =
            flate2::write::GzEncoder::new(std::fs::File::create(&zipped).unwrap(), flate2::Compression::fast());
        gz.write_all(b"{\"b\":3}").unwrap();
        gz.finish().unwrap();
        let output = folder.path().join("out.parquet");
        std::fs::write(&output, "what stood there").unwrap();
        let converted = run(&[plain.clone(), zipped], &output, &CancellationToken::new()).await.unwrap();
        assert_eq!((converted.rows, converted.rejected_rows), (3, 1));
        let expected = ["a #1 ä%20.ndjson", "b.ndjson.gz", "out.parquet", "out.parquet.rejects.ndjson"];
        assert_eq!(names(folder.path()), expected);
        let rows = rows(&std::fs::read(&output).unwrap().into());
        assert_eq!(
            rows.iter().map(|row| data(row).into_values().collect::<String>()).collect::<Vec<_>>(),
            ["1", "2", "3"]
        );
        assert_eq!(rows[0]["_source_file"], format!("file://{}", plain.display()));
    }

    #[tokio::test]
    async fn files_are_known_by_where_they_really_are_and_by_the_etag_that_the_store_tells() {
        let folder = tempfile::tempdir().unwrap();
        let real = folder.path().canonicalize().unwrap();
        let (file, link) = (folder.path().join("a.ndjson"), folder.path().join("link"));
        std::fs::write(&file, "{}").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        std::os::unix::fs::symlink(folder.path(), folder.path().join("down")).unwrap();
        let below = folder.path().join("down/a.ndjson");
        let found =
            look_at(&[file.clone(), folder.path().to_owned(), link, below, folder.path().join("down")]).unwrap();
        assert!(found[1].is_none() && found[4].is_none(), "a folder passed for a file");
        for at in [0, 2, 3] {
            let file = found[at].as_ref().unwrap();
            assert_eq!(file.uri, format!("file://{}/a.ndjson", real.display()));
            assert_eq!(Path::new("/").join(&file.key), real.join("a.ndjson"));
            let told = LocalFileSystem::new().head(&file.key.as_str().into()).await.unwrap();
            assert_eq!((file.size_bytes, &file.etag), (told.size, &told.e_tag));
        }
        let unfinished = folder.path().join("part#1");
        std::fs::write(&unfinished, "{}").unwrap();
        for (wrong, why) in [(folder.path().join("gone"), "gone"), (unfinished, "rename it")] {
            let error = look_at(&[file.clone(), wrong]).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }

    #[tokio::test]
    async fn rejects_of_an_earlier_conversion_do_not_stay() {
        let folder = tempfile::tempdir().unwrap();
        let (file, output) = (folder.path().join("a.ndjson"), folder.path().join("out.parquet"));
        for (line, left) in [("no\n", true), ("", false)] {
            std::fs::write(&file, format!("{{\"a\":1}}\n{{\"a\":2}}\n{line}")).unwrap();
            run(std::slice::from_ref(&file), &output, &CancellationToken::new()).await.unwrap();
            assert_eq!(folder.path().join("out.parquet.rejects.ndjson").exists(), left);
        }
    }

    #[tokio::test]
    async fn nothing_is_left_where_nothing_came_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let (file, output) = (folder.path().join("a.ndjson"), folder.path().join("out.parquet"));
        std::fs::write(&file, "\n\n").unwrap();
        let converted = run(std::slice::from_ref(&file), &output, &CancellationToken::new()).await.unwrap();
        assert_eq!((converted.rows, converted.parts.len()), (0, 0));
        let cancelled = CancellationToken::new();
        cancelled.cancel();
        assert!(matches!(run(&[file], &output, &cancelled).await, Err(ConvertError::Cancelled)));
        let missing = run(&[folder.path().join("missing")], &output, &CancellationToken::new()).await;
        assert!(!missing.unwrap_err().is_transient());
        assert_eq!(names(folder.path()), ["a.ndjson"]);
    }
}

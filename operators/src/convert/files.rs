//! Converts files of this machine into one Parquet file: no table, no bucket, no account.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use chrono::Utc;
use object_store::local::LocalFileSystem;
use object_store::{ObjectStore, ObjectStoreExt};
use penstock_engine::cloud::stage::Completion;
use penstock_engine::cloud::{Bucket, CloudError, Stage};
use tokio_util::sync::CancellationToken;

use super::columns::MemoryCatalog;
use super::file_stage::FileStage;
use super::{Buckets, Conversion, ConvertError, ConvertOptions, Converted, InputFile, OutputName, Progress, convert};

/// Converts `files` (`.gz` and `.zst` by their names' ends) into `output`, which appears when it is whole, in place of
/// what stood there. Rejects go into `{output}.rejects.ndjson`, if there are any. Without a row there is no output.
pub async fn convert_files(
    files: &[PathBuf],
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
    let everywhere: Arc<dyn ObjectStore> = Arc::new(LocalFileSystem::new());
    let beside: Arc<dyn ObjectStore> =
        Arc::new(LocalFileSystem::new_with_prefix(folder).map_err(|error| invalid(folder, error))?);
    let input = Bucket { name: "files".to_owned(), store: everywhere.clone(), stage: stage.clone() };
    let beside = Bucket { name: "output".to_owned(), store: beside, stage };
    let now = Utc::now();
    let mut conversion = Conversion {
        manifest_id: name.to_owned(),
        pipeline: None,
        created_at: now,
        files: Vec::new(),
        output: OutputName::Single(name.to_owned()),
        rejects_key: Some(format!("{name}.rejects.ndjson")),
        token: format!("{}-{}", std::process::id(), now.timestamp_micros()),
    };
    conversion.files = input_files(files, &everywhere).await?;
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
    Ok(converted)
}

/// What is known of the files before they are read. There may be very many, and each costs a few system calls, so all cores
/// look; on plain threads, where the store does its work at once and not by way of a pool.
async fn input_files(files: &[PathBuf], store: &Arc<dyn ObjectStore>) -> Result<Vec<InputFile>, ConvertError> {
    let (files, store) = (files.to_vec(), store.clone());
    let looked = tokio::task::spawn_blocking(move || {
        let share = files.len().div_ceil(std::thread::available_parallelism().map_or(1, |cores| cores.get())).max(1);
        std::thread::scope(|scope| {
            let looking: Vec<_> = files
                .chunks(share)
                .map(|files| {
                    let store = store.as_ref();
                    scope.spawn(move || {
                        let mut places = Places::default();
                        let look = |file: &PathBuf| futures::executor::block_on(input_file(file, &mut places, store));
                        files.iter().map(look).collect::<Result<Vec<_>, _>>()
                    })
                })
                .collect();
            let mut all = Vec::with_capacity(files.len());
            for share in looking {
                all.extend(
                    share.join().map_err(|_| ConvertError::Invalid("a look at the files panicked".to_owned()))??,
                );
            }
            Ok(all)
        })
    });
    looked.await.map_err(|error| ConvertError::Invalid(format!("the files could not be looked at: {error}")))?
}

/// Where files really are: a store's keys have no `..` and follow no links. Files mostly come folder by folder, and to
/// resolve a path takes a system call for each of its parts.
#[derive(Default)]
struct Places {
    /// The folder that was asked for last, and what it really is.
    folder: Option<(PathBuf, PathBuf)>,
}

impl Places {
    fn find(&mut self, file: &Path) -> std::io::Result<PathBuf> {
        let (Some(folder), Some(name)) = (file.parent(), file.file_name()) else { return std::fs::canonicalize(file) };
        if std::fs::symlink_metadata(file)?.is_symlink() {
            return std::fs::canonicalize(file);
        }
        let known = self.folder.take().filter(|(last, _)| last == folder);
        let (_, place) = self.folder.insert(match known {
            Some(known) => known,
            None => {
                let here = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
                (folder.to_owned(), std::fs::canonicalize(here)?)
            }
        });
        Ok(place.join(name))
    }
}

async fn input_file(file: &Path, places: &mut Places, store: &dyn ObjectStore) -> Result<InputFile, ConvertError> {
    let path = places.find(file).map_err(|error| invalid(file, error))?;
    let key = object_store::path::Path::from_absolute_path(&path).map_err(|error| invalid(file, error))?;
    let meta = store
        .head(&key)
        .await
        .map_err(|error| ConvertError::from_cloud(format!("read {}", file.display()), &CloudError::from(error)))?;
    Ok(InputFile {
        uri: format!("file://{}", path.display()),
        key: key.to_string(),
        size_bytes: meta.size,
        etag: meta.e_tag,
        version: None,
        file_key: file.display().to_string(),
    })
}

fn invalid(path: &Path, why: impl std::fmt::Display) -> ConvertError {
    ConvertError::Invalid(format!("{}: {why}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::convert::testing::{data, rows};

    fn names(folder: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(folder).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    async fn run(files: &[PathBuf], output: &Path, cancel: &CancellationToken) -> Result<Converted, ConvertError> {
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

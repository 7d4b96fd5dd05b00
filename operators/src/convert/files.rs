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
use super::{Conversion, ConvertError, ConvertOptions, Converted, InputFile, OutputName, Progress, convert};

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
        created_at: now,
        files: Vec::with_capacity(files.len()),
        output: OutputName::Single(name.to_owned()),
        rejects_key: Some(format!("{name}.rejects.ndjson")),
        token: format!("{}-{}", std::process::id(), now.timestamp_micros()),
    };
    for file in files {
        conversion.files.push(input_file(file, everywhere.as_ref()).await?);
    }
    let catalog = MemoryCatalog::default();
    let converted = convert(&conversion, &input, &beside, Some(&beside), &catalog, options, progress, cancel).await?;
    for part in &converted.parts {
        match beside.stage.complete(&part.upload, &part.parts).await {
            Ok(Completion::Visible { .. }) => {}
            Ok(Completion::Lost) => return Err(invalid(&output, "its hidden file was removed")),
            Err(error) => return Err(ConvertError::from_cloud("complete the output", &error)),
        }
    }
    Ok(converted)
}

async fn input_file(file: &Path, store: &dyn ObjectStore) -> Result<InputFile, ConvertError> {
    let path = std::path::absolute(file).map_err(|error| invalid(file, error))?;
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

//! A converter that keeps the promises of the real one without its cost: an output is a text with an id and a file a line.
//!
//! Its input is made by [`Lines`](super::ledger::Lines): `ok ID` is a row, `bad ID` a reject; a file that begins with
//! `FAIL` can't be converted, one that begins with `POISON` takes its whole manifest with it.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use object_store::{GetOptions, ObjectStore, ObjectStoreExt, path::Path};
use penstock_engine::cloud::{
    CloudError,
    stage::{Metadata, TOKEN},
};
use penstock_operators::convert::{
    Buckets, ColumnCatalog, Conversion, ConvertError, ConvertOptions, Converted, Converter, FailureReason, FileOutcome,
    Progress, RejectsObject, StagedPart,
};
use tokio_util::sync::CancellationToken;

/// Rows of a part, so that there are several.
const PART_ROWS: usize = 12;

/// The converter.
pub struct LineConverter;

#[async_trait]
impl Converter for LineConverter {
    async fn convert(
        &self,
        conversion: &Conversion,
        buckets: &Buckets,
        catalog: &dyn ColumnCatalog,
        _options: &ConvertOptions,
        _progress: &Progress,
        cancel: &CancellationToken,
    ) -> Result<Converted, ConvertError> {
        let mut staged = Vec::new();
        let result = tokio::select! {
            biased;
            result = run(conversion, buckets, catalog, &mut staged) => result,
            () = cancel.cancelled() => Err(ConvertError::Cancelled),
        };
        if result.is_err() {
            for part in &staged {
                // What isn't aborted is left to the bucket's lifecycle.
                buckets.output.stage.abort(&part.upload).await.ok();
            }
        }
        result
    }
}

async fn run(
    conversion: &Conversion,
    buckets: &Buckets,
    catalog: &dyn ColumnCatalog,
    staged: &mut Vec<StagedPart>,
) -> Result<Converted, ConvertError> {
    let (mut files, mut rows, mut rejects) = (Vec::new(), Vec::new(), Vec::new());
    for file in &conversion.files {
        let fail = |reason, message: &str| FileOutcome::Failed {
            file_key: file.file_key.clone(),
            reason,
            message: message.to_owned(),
        };
        let options = GetOptions { if_match: file.etag.clone(), ..GetOptions::default() };
        let content = match buckets.input.store.get_opts(&Path::from(file.key.as_str()), options).await {
            Ok(found) => found.bytes().await.map_err(|error| unavailable(&error.into()))?,
            Err(object_store::Error::NotFound { .. }) => {
                files.push(fail(FailureReason::Missing, "it is gone"));
                continue;
            }
            Err(object_store::Error::Precondition { .. }) => {
                files.push(fail(FailureReason::Changed, "it has another etag"));
                continue;
            }
            Err(error) => return Err(unavailable(&error.into())),
        };
        let text = String::from_utf8_lossy(&content).into_owned();
        if text.starts_with("POISON") {
            return Err(ConvertError::Refused { what: file.uri.clone(), message: "poisoned".to_owned() });
        }
        if text.starts_with("FAIL") {
            files.push(fail(FailureReason::Undecodable, "it says so itself"));
            continue;
        }
        let (mut good, mut bad) = (0, 0);
        for line in text.lines() {
            match line.split_once(' ') {
                Some(("ok", id)) => {
                    good += 1;
                    rows.push(format!("{id}\t{}\n", file.file_key));
                }
                _ => {
                    bad += 1;
                    rejects.push(format!("{line}\t{}\n", file.file_key));
                }
            }
        }
        files.push(FileOutcome::Converted { file_key: file.file_key.clone(), rows: good, rejected_rows: bad });
    }
    // New columns come with some files only.
    let column = format!("c{}", conversion.files.len());
    if !catalog.known().await?.contains(&column) {
        catalog.grow(&[column]).await?;
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    for (number, chunk) in rows.chunks(PART_ROWS).enumerate() {
        let metadata = Metadata::from([(TOKEN.to_owned(), conversion.token.clone())]);
        let upload =
            buckets.output.stage.begin(&conversion.output.key(number), &metadata).await.map_err(|e| unavailable(&e))?;
        staged.push(StagedPart { upload: upload.clone(), parts: Vec::new(), rows: chunk.len() as u64, size_bytes: 0 });
        let bytes = Bytes::from(chunk.concat());
        let size_bytes = bytes.len() as u64;
        let part = buckets.output.stage.put_part(&upload, 1, bytes).await.map_err(|error| unavailable(&error))?;
        if let Some(last) = staged.last_mut() {
            (last.parts, last.size_bytes) = (vec![part], size_bytes);
        }
    }
    let mut written = None;
    if let (Some(key), Some(bucket), false) = (&conversion.rejects_key, &buckets.rejects, rejects.is_empty()) {
        let put = bucket.store.put(&Path::from(key.as_str()), rejects.concat().into()).await;
        let etag = put.map_err(|error| unavailable(&error.into()))?.e_tag;
        written = Some(RejectsObject { key: key.clone(), etag, count: rejects.len() as u64 });
    }
    Ok(Converted {
        parts: staged.clone(),
        columns: Vec::new(),
        files,
        rows: rows.len() as u64,
        rejected_rows: rejects.len() as u64,
        duplicate_keys: 0,
        corrupt_rows: 0,
        rejects: written,
        passes: 1,
        column_reruns: 0,
    })
}

fn unavailable(error: &CloudError) -> ConvertError {
    ConvertError::Unavailable { what: error.operation.clone(), message: error.message.clone() }
}

//! What tests convert from and into: buckets in memory, and a look at what was staged.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};

use arrow::array::{Array, AsArray, RecordBatch};
use async_trait::async_trait;
use bytes::Bytes;
use chrono::DateTime;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt,
    PutMultipartOptions, PutOptions, PutPayload, PutResult,
};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use penstock_engine::cloud::stage::{Completion, CopySource, Metadata, ObjectHead, Part, TOKEN, Upload};
use penstock_engine::cloud::{Bucket, CloudError, ErrorKind, Result, Stage};
use tokio_util::sync::CancellationToken;

use super::scanner::ScanOptions;
use super::*;

/// A stage in memory that remembers everything.
#[derive(Debug, Default)]
pub(super) struct MemoryStage {
    pub(super) open: Mutex<BTreeMap<String, BTreeMap<u32, Bytes>>>,
    pub(super) begun: Mutex<Vec<Upload>>,
    pub(super) aborted: Mutex<Vec<Upload>>,
    /// Every part from this number on is refused.
    pub(super) refuse_part: Mutex<Option<(u32, ErrorKind)>>,
}

#[async_trait]
impl Stage for MemoryStage {
    async fn begin(&self, key: &str, metadata: &Metadata) -> Result<Upload> {
        let mut begun = self.begun.lock().unwrap();
        let upload = Upload { key: key.to_owned(), id: begun.len().to_string(), token: metadata[TOKEN].clone() };
        begun.push(upload.clone());
        self.open.lock().unwrap().insert(upload.id.clone(), BTreeMap::new());
        Ok(upload)
    }

    async fn put_part(&self, upload: &Upload, number: u32, bytes: Bytes) -> Result<Part> {
        tokio::task::yield_now().await;
        if let Some((from, kind)) = *self.refuse_part.lock().unwrap()
            && number >= from
        {
            return Err(CloudError::new(kind, "put_part", "refused by the test"));
        }
        let part = Part { number, etag: number.to_string(), size_bytes: bytes.len() as u64 };
        let mut open = self.open.lock().unwrap();
        let parts = open.get_mut(&upload.id);
        parts.ok_or_else(|| CloudError::new(ErrorKind::NotFound, "put_part", "aborted"))?.insert(number, bytes);
        Ok(part)
    }

    async fn complete(&self, _: &Upload, _: &[Part]) -> Result<Completion> {
        panic!("a conversion completes nothing")
    }

    async fn abort(&self, upload: &Upload) -> Result<()> {
        self.open.lock().unwrap().remove(&upload.id);
        self.aborted.lock().unwrap().push(upload.clone());
        Ok(())
    }

    async fn head(&self, _: &str) -> Result<Option<ObjectHead>> {
        Ok(None)
    }

    async fn copy_from(&self, _: &CopySource, _: &str, _: &Metadata) -> Result<()> {
        panic!("a conversion copies nothing")
    }
}

/// What is done before an object is read.
type BeforeGet = dyn Fn(&Path) -> BoxFuture<'static, object_store::Result<()>> + Send + Sync;

/// A store that does something before an object is read.
pub(super) struct HookedStore {
    store: Arc<dyn ObjectStore>,
    before_get: Box<BeforeGet>,
}

impl HookedStore {
    pub(super) fn new(
        store: Arc<dyn ObjectStore>,
        before_get: impl Fn(&Path) -> BoxFuture<'static, object_store::Result<()>> + Send + Sync + 'static,
    ) -> Self {
        Self { store, before_get: Box::new(before_get) }
    }
}

impl fmt::Debug for HookedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HookedStore")
    }
}

impl fmt::Display for HookedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("hooked")
    }
}

#[async_trait]
impl ObjectStore for HookedStore {
    async fn get_opts(&self, location: &Path, options: GetOptions) -> object_store::Result<GetResult> {
        (self.before_get)(location).await?;
        self.store.get_opts(location, options).await
    }

    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> object_store::Result<PutResult> {
        self.store.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        self.store.put_multipart_opts(location, options).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, object_store::Result<Path>>,
    ) -> BoxStream<'static, object_store::Result<Path>> {
        self.store.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        self.store.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> object_store::Result<ListResult> {
        self.store.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> object_store::Result<()> {
        self.store.copy_opts(from, to, options).await
    }
}

/// A bucket in memory, with its stage.
pub(super) struct World {
    pub(super) bucket: Bucket,
    pub(super) stage: Arc<MemoryStage>,
    pub(super) conversion: Conversion,
    pub(super) options: ConvertOptions,
    pub(super) catalog: MemoryCatalog,
    pub(super) cancel: CancellationToken,
    pub(super) progress: Progress,
}

impl World {
    pub(super) async fn new(files: &[(&str, &[u8])]) -> Self {
        let stage = Arc::new(MemoryStage::default());
        let bucket = Bucket { name: "test".to_owned(), store: Arc::new(InMemory::new()), stage: stage.clone() };
        let conversion = Conversion {
            manifest_id: "batch-0001".to_owned(),
            pipeline: Some("land".to_owned()),
            created_at: DateTime::UNIX_EPOCH,
            files: Vec::new(),
            output: OutputName::Parts("out/batch-0001".to_owned()),
            rejects_key: Some("rejects.ndjson".to_owned()),
            token: "token-1".to_owned(),
        };
        let mut world = Self {
            bucket,
            stage,
            conversion,
            options: ConvertOptions { target_partitions: Some(2), ..ConvertOptions::default() },
            catalog: MemoryCatalog::default(),
            cancel: CancellationToken::new(),
            progress: Progress::default(),
        };
        for (key, bytes) in files {
            world.add(key, bytes).await;
        }
        world
    }

    pub(super) async fn add(&mut self, key: &str, bytes: &[u8]) {
        let put = self.bucket.store.put(&Path::from(key), Bytes::copy_from_slice(bytes).into()).await.unwrap();
        self.conversion.files.push(InputFile {
            uri: format!("s3://test/{key}"),
            key: key.to_owned(),
            size_bytes: bytes.len() as u64,
            etag: put.e_tag,
            version: None,
            file_key: key.to_owned(),
        });
    }

    /// One bucket for all.
    pub(super) fn buckets(&self) -> Buckets {
        Buckets { input: self.bucket.clone(), output: self.bucket.clone(), rejects: Some(self.bucket.clone()) }
    }

    pub(super) async fn convert(&self) -> Result<Converted, ConvertError> {
        let World { conversion, catalog, options, progress, cancel, .. } = self;
        convert(conversion, &self.buckets(), catalog, options, progress, cancel).await
    }

    /// Converts, checks that exactly the uploads of the result are left, and reads them.
    pub(super) async fn converted(&self) -> (Converted, Vec<Row>) {
        let converted = self.convert().await.unwrap();
        self.settle(converted.parts.len()).await;
        let left: Vec<_> = self.stage.open.lock().unwrap().keys().cloned().collect();
        let mut kept: Vec<_> = converted.parts.iter().map(|part| part.upload.id.clone()).collect();
        kept.sort();
        assert_eq!(left, kept);
        let rows = converted.parts.iter().flat_map(|part| rows(&self.staged(part))).collect::<Vec<_>>();
        assert_eq!(rows.len() as u64, converted.rows);
        (converted, rows)
    }

    /// Waits until aborts on their way have left no more than `uploads`.
    pub(super) async fn settle(&self, uploads: usize) {
        for _ in 0..1000 {
            if self.stage.open.lock().unwrap().len() <= uploads {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    }

    /// The bytes of a staged part.
    pub(super) fn staged(&self, part: &StagedPart) -> Bytes {
        let open = self.stage.open.lock().unwrap();
        let parts = &open[&part.upload.id];
        assert_eq!(
            part.parts.iter().map(|part| part.number).collect::<Vec<_>>(),
            parts.keys().copied().collect::<Vec<_>>()
        );
        assert_eq!(part.upload.token, self.conversion.token);
        let bytes: Vec<u8> = parts.values().flatten().copied().collect();
        assert_eq!(bytes.len() as u64, part.size_bytes);
        bytes.into()
    }

    /// The rejects object's lines.
    pub(super) async fn rejects(&self) -> Vec<serde_json::Value> {
        let object = self.bucket.store.get(&Path::from("rejects.ndjson")).await.unwrap().bytes().await.unwrap();
        object
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
            .map(|line| serde_json::from_slice(line).unwrap())
            .collect()
    }
}

/// A row: its columns that aren't null.
pub(super) type Row = BTreeMap<String, String>;

/// The rows of a Parquet file.
pub(super) fn rows(file: &Bytes) -> Vec<Row> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(file.clone()).unwrap().build().unwrap();
    reader.flat_map(|batch| batch_rows(&batch.unwrap())).collect()
}

/// The rows of a batch of text.
pub(super) fn batch_rows(batch: &RecordBatch) -> Vec<Row> {
    let schema = batch.schema();
    let columns: Vec<_> = schema.fields().iter().zip(batch.columns()).collect();
    let cell = |row| {
        columns
            .iter()
            .filter(move |(_, column)| column.is_valid(row))
            .map(move |(field, column)| (field.name().clone(), column.as_string::<i32>().value(row).to_owned()))
    };
    (0..batch.num_rows()).map(|row| cell(row).collect()).collect()
}

/// The data columns of a row.
pub(super) fn data(row: &Row) -> Row {
    row.iter()
        .filter(|(name, _)| name.as_str() == REST || !RESERVED_NAMES.contains(&name.as_str()))
        .map(|(a, b)| (a.clone(), b.clone()))
        .collect()
}

/// Options of a scan with these columns, and small batches.
pub(super) fn scan_options(columns: &[&str]) -> ScanOptions {
    ScanOptions {
        cast: Cast::Lossless,
        column_case: ColumnCase::Preserve,
        columns: columns.iter().map(|name| (*name).to_owned()).collect(),
        room: 0,
        max_line_bytes: 1 << 20,
        max_depth: 128,
        max_rejects: 1000,
        max_reject_bytes: 1000,
        batch_bytes: 100,
        spark_schema: None,
    }
}
